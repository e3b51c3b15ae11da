"""linear and conv2d by oneDNN on the CPU: packed or plain weights, bias, activation and residual fused, with gradients.

The library is the one that Paddle's wheel carries (dygraph itself doesn't use it); csrc/ops_dnn.cc has the ops. Shapes:
(..., in) by (in, out), and (B, Y, X, in) by (out, in, kh, kw). A gradient goes through a PyLayer, first derivatives
only; then an activation is an op of its own, because its input has to be kept anyway.
"""

import functools
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from kernels import build, glu
from kernels.choose import Call, dtype_of, needs_grad, no
from kernels.packed import Packed

build.register(build.Extension("dnn", kernels=("few_rows.cc",), onednn=True))

Weight = Tensor | Packed
Pads = tuple[int, int, int, int]

_ACTS = {None: 0, "silu": 1, "gelu": 2, "gelu_tanh": 3, "quick_gelu": 4, "geglu": 5}  # enum Act in csrc/dnn.h


@functools.cache
def _avx512() -> bool:
    flags = build.cpu_flags()
    return "avx512bw" in flags or not flags


def refuse(call: Call) -> str | None:
    """Why oneDNN can't do this linear or conv2d, or None; Call.options are described in kernels/linear.py."""
    dtype, layout = call.options[0], call.options[1]
    return no(
        (call.device != "cpu", "needs the CPU"),
        (call.dtype not in ("float32", "bfloat16"), f"no {call.dtype}"),
        (dtype != call.dtype, f"the weight is {dtype}, the input {call.dtype}"),
        (call.dtype == "bfloat16" and not _avx512(), "bfloat16 needs a CPU with AVX-512"),
        (layout not in (None, "onednn"), f"the weight is packed as {layout!r}"),
    ) or build.why_not("dnn")


def pack(kind: str, weight: Tensor) -> Packed | None:
    """The weight in oneDNN's layout for typical inputs, or None where oneDNN would not be used anyway."""
    dtype = dtype_of(weight)
    device = "cpu" if weight.place.is_cpu_place() else "gpu"
    if weight.size == 0 or refuse(Call(kind, device, dtype, options=(dtype, None))) is not None:
        return None
    blob, about = build.run("mix_dnn_pack", weight.detach())
    layout, halves = about.tolist()
    return Packed(kind, tuple(weight.shape), dtype, (blob, layout), "onednn", bool(halves))


def _parts(weight: Weight) -> tuple[Tensor, int]:
    return weight.held if isinstance(weight, Packed) else (weight, -1)


def _dense(weight: Weight) -> Tensor:
    return weight.unpack() if isinstance(weight, Packed) else weight


def activate(x: Tensor, act: str | None) -> Tensor:
    """x after `act`, by the fastest kernel of that op."""
    match act:
        case "silu":
            return glu.silu(x)
        case "gelu":
            return glu.gelu(x)
        case "gelu_tanh":
            return glu.gelu_tanh(x)
        case "quick_gelu":
            return glu.quick_gelu(x)
        case "geglu":
            return glu.geglu(x)
        case _:
            return x


def _finish(y: Tensor, act: str | None, residual: Tensor | None) -> Tensor:
    y = activate(y, act)
    if residual is None:
        return y
    if y.dtype == paddle.bfloat16:  # Paddle's CPU build can't add these
        return (y.astype("float32") + residual.astype("float32")).astype("bfloat16")
    return y + residual


class _Linear(PyLayer):
    """x w + b with gradients of what needs one; `weight` may be Packed, which takes none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        ctx.weight, ctx.wants = weight, _wants(x, weight, bias, residual)
        ctx.save_for_backward(x if ctx.wants[1] else None)
        blob, layout = _parts(weight)
        return build.run("mix_dnn_linear", x, blob, bias, residual, 0, layout)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        dx = build.run("mix_dnn_linear_dx", dy, _dense(ctx.weight)) if ctx.wants[0] else None
        dw = build.run("mix_dnn_linear_dw", ctx.saved_tensor()[0], dy) if ctx.wants[1] else None
        db = build.run("mix_dnn_db", dy) if ctx.wants[2] else None
        return _gradients(ctx, dy, dx, dw, db)


class _Conv2d(PyLayer):
    """Channels-last convolution with gradients of what needs one; `window` is (stride, top, bottom, left, right)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Weight, bias: Tensor | None, residual: Tensor | None, window: list[int]
    ) -> Tensor:
        ctx.weight, ctx.wants, ctx.window, ctx.shape = weight, _wants(x, weight, bias, residual), window, x.shape
        ctx.save_for_backward(x if ctx.wants[1] else None)
        return _conv2d(x, weight, bias, window, None, residual)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        pointwise = _pointwise(ctx.weight, ctx.window)
        dx = dw = None
        if ctx.wants[0]:
            weight = _dense(ctx.weight)
            if pointwise:
                dx = build.run("mix_dnn_linear", dy, weight.reshape(weight.shape[:2]), None, None, 0, -1)
            else:
                dx = build.run("mix_dnn_conv2d_dx", dy, weight, ctx.shape, ctx.window)
        if ctx.wants[1]:
            x = ctx.saved_tensor()[0]
            if pointwise:
                dw = build.run("mix_dnn_linear_dw", dy, x).reshape(ctx.weight.shape)
            else:
                dw = build.run("mix_dnn_conv2d_dw", x, dy, ctx.weight.shape, ctx.window)
        db = build.run("mix_dnn_db", dy) if ctx.wants[2] else None
        return _gradients(ctx, dy, dx, dw, db)


def _wants(x: Tensor, weight: Weight, bias: Tensor | None, residual: Tensor | None) -> tuple[bool | None, ...]:
    """Whether x, the weight, the bias and the residual take a gradient; None for what is no tensor here."""
    inputs = (x, None if isinstance(weight, Packed) else weight, bias, residual)
    return tuple(None if t is None else not t.stop_gradient for t in inputs)


def _gradients(
    ctx: Any, dy: Tensor, dx: Tensor | None, dw: Tensor | None, db: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients as PyLayer counts them: one for each tensor among the inputs, the residual's is dy itself."""
    every = (dx, dw, db, dy if ctx.wants[3] else None)
    return tuple(g for g, wants in zip(every, ctx.wants, strict=True) if wants is not None)


def linear(x: Tensor, weight: Weight, bias: Tensor | None, act: str | None, residual: Tensor | None) -> Tensor:
    """act(x w + b) + residual; see kernels.linear."""
    plain = None if isinstance(weight, Packed) else weight
    if needs_grad(x, plain, bias, residual):
        inside = residual if act is None else None
        return _finish(_Linear.apply(x, weight, bias, inside), act, None if act is None else residual)
    if act == "geglu" and isinstance(weight, Packed) and not weight.halves:
        blob, layout = weight.held
        return _finish(build.run("mix_dnn_linear", x, blob, bias, None, 0, layout), act, residual)
    blob, layout = _parts(weight)
    return build.run("mix_dnn_linear", x, blob, bias, residual, _ACTS[act], layout)


def _pointwise(weight: Weight, window: list[int]) -> bool:
    return weight.shape[2] == weight.shape[3] == 1 and window == [1, 0, 0, 0, 0]


def _conv2d(
    x: Tensor, weight: Weight, bias: Tensor | None, window: list[int], act: str | None, residual: Tensor | None
) -> Tensor:
    if _pointwise(weight, window):
        blob, layout = _parts(weight)
        return build.run("mix_dnn_pointwise", x, blob, bias, residual, _ACTS[act], layout)
    if weight.shape[2] == weight.shape[3] == 1:  # packed 1x1 weights are laid out as matrices
        weight = _dense(weight)
    blob, layout = _parts(weight)
    if isinstance(weight, Packed) and x.size:
        added = residual is not None
        blob, layout = weight.fitted(
            (*x.shape, *window, act, added),
            lambda now: build.run("mix_dnn_conv2d_wants", x, bias, window, _ACTS[act], added, now).item(),
        )
    return build.run("mix_dnn_conv2d", x, blob, bias, residual, window, _ACTS[act], layout)


def conv2d(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None,
    stride: int,
    padding: Pads,
    act: str | None,
    residual: Tensor | None,
) -> Tensor:
    """act(conv(x, w) + b) + residual, channels last; see kernels.conv2d."""
    window = [stride, *padding]
    plain = None if isinstance(weight, Packed) else weight
    if needs_grad(x, plain, bias, residual):
        inside = residual if act is None else None
        return _finish(_Conv2d.apply(x, weight, bias, inside, window), act, None if act is None else residual)
    return _conv2d(x, weight, bias, window, act, residual)
