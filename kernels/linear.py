"""linear and conv2d: weights in Paddle's order, optionally packed once, with bias, activation and residual fused.

Call.options: (weight's dtype, layout of a packed weight or None, act); conv2d adds the weight's shape, stride, padding.
"""

from typing import Any

import paddle.nn.functional as F
from paddle import Tensor

from kernels import dnn, reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, table
from kernels.native import gpu_refusal
from kernels.packed import Packed

_ACTS = (None, "silu", "gelu", "gelu_tanh", "quick_gelu", "geglu")


def _plain(weight: Tensor | Packed) -> Tensor:
    return weight.unpack() if isinstance(weight, Packed) else weight


def _linear_gpu(
    x: Tensor, weight: Tensor | Packed, bias: Tensor | None, act: str | None, residual: Tensor | None
) -> Tensor:
    y = dnn.activate(F.linear(x, _plain(weight), bias), act)
    return y if residual is None else y + residual


def _linear_reference(
    x: Tensor, weight: Tensor | Packed, bias: Tensor | None, act: str | None, residual: Tensor | None
) -> Tensor:
    return reference.linear(x, _plain(weight), bias, act, residual)


def _conv2d_gpu(x: Tensor, weight: Tensor | Packed, bias: Tensor | None, *how: Any) -> Tensor:
    stride, padding, act, residual = how
    y = F.conv2d(x, _plain(weight), bias, stride=stride, padding=list(padding), data_format="NHWC")
    y = dnn.activate(y, act)
    return y if residual is None else y + residual


def _conv2d_reference(x: Tensor, weight: Tensor | Packed, bias: Tensor | None, *how: Any) -> Tensor:
    return reference.conv2d(x, _plain(weight), bias, *how)


table(
    "linear",
    Kernel("onednn", dnn.linear, dnn.refuse),
    Kernel("paddle_gpu", _linear_gpu, gpu_refusal),
    Kernel("reference", _linear_reference, accept),
)
table(
    "conv2d",
    Kernel("onednn", dnn.conv2d, dnn.refuse),
    Kernel("paddle_gpu", _conv2d_gpu, gpu_refusal),
    Kernel("reference", _conv2d_reference, accept),
)


def _form(weight: Tensor | Packed) -> tuple[str, str | None]:
    return (weight.dtype, weight.layout) if isinstance(weight, Packed) else (dtype_of(weight), None)


def _check_residual(op: str, residual: Tensor, shape: list[int]) -> None:
    if residual.shape != shape:
        raise ValueError(
            f"{op}: the residual is {tuple(residual.shape)}, the result that it is added to {tuple(shape)}"
        )


def linear(
    x: Tensor,
    weight: Tensor | Packed,
    bias: Tensor | None = None,
    *,
    act: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """act(x @ weight + bias) + residual.

    x (..., in), weight (in, out) or a `Packed` one, bias (out,), residual of the result's shape.
    act is None, "silu", "gelu", "gelu_tanh", "quick_gelu" or "geglu"; geglu halves out: first half times GELU of the
    second. Raises ValueError where shapes do not fit.
    """
    if act not in _ACTS:
        raise ValueError(f"unknown activation {act!r}; known: {', '.join(map(str, _ACTS))}")
    shape, (width_in, width_out) = x.shape, weight.shape
    if shape[-1] != width_in:
        raise ValueError(f"linear: the input's last axis is {shape[-1]}, the weight is {tuple(weight.shape)} (in, out)")
    if act == "geglu" and width_out % 2:
        raise ValueError(
            f"linear: geglu halves the outputs, so they must be even; the weight is {tuple(weight.shape)} (in, out)"
        )
    if bias is not None and bias.shape != [width_out]:
        raise ValueError(f"linear: a bias of shape {tuple(bias.shape)} does not fit {width_out} outputs")
    if residual is not None:
        _check_residual("linear", residual, [*shape[:-1], width_out // 2 if act == "geglu" else width_out])
    plain = None if isinstance(weight, Packed) else weight
    grad = needs_grad(x, plain, bias, residual)
    call = Call("linear", device_of(x), dtype_of(x), grad, tuple(shape), (*_form(weight), act))
    return choose(call).run(x, weight, bias, act, residual)


def _conv2d_shape(shape: list[int], weight: tuple[int, ...], stride: int, pads: tuple[int, ...]) -> list[int]:
    """(B, Y, X, out) of the result; raises ValueError where the window does not fit into the padded input."""
    height = (shape[1] + pads[0] + pads[1] - weight[2]) // stride + 1
    width = (shape[2] + pads[2] + pads[3] - weight[3]) // stride + 1
    if height < 1 or width < 1:
        raise ValueError(
            f"conv2d: a window of {weight[2]}x{weight[3]} does not fit into {shape[1]}x{shape[2]} padded by {pads}"
            " (top, bottom, left, right)"
        )
    return [shape[0], height, width, weight[0]]


def conv2d(
    x: Tensor,
    weight: Tensor | Packed,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int | tuple[int, int, int, int] = 0,
    act: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """act(conv(x, weight) + bias) + residual, channels last.

    x (B, Y, X, in), weight (out, in, kh, kw) or a `Packed` one, padding one number or (top, bottom, left, right), act
    None or "silu". Raises ValueError where shapes do not fit.
    """
    if act not in (None, "silu"):
        raise ValueError(f"conv2d fuses no activation or 'silu', not {act!r}")
    shape, window = x.shape, tuple(weight.shape)
    if len(shape) != 4 or len(window) != 4 or shape[3] != window[1]:
        raise ValueError(f"conv2d: input {tuple(shape)} (B, Y, X, C) does not fit weight {window} (out, in, kh, kw)")
    pads = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
    if stride < 1 or len(pads) != 4 or min(pads) < 0:
        raise ValueError(
            f"conv2d: stride {stride} and padding {padding}; they must be >= 1 and >= 0 (top, bottom, left, right)"
        )
    result = _conv2d_shape(shape, window, stride, pads)
    if bias is not None and bias.shape != [window[0]]:
        raise ValueError(f"conv2d: a bias of shape {tuple(bias.shape)} does not fit {window[0]} outputs")
    if residual is not None:
        _check_residual("conv2d", residual, result)
    plain = None if isinstance(weight, Packed) else weight
    grad = needs_grad(x, plain, bias, residual)
    call = Call("conv2d", device_of(x), dtype_of(x), grad, tuple(shape), (*_form(weight), act, window, stride, pads))
    return choose(call).run(x, weight, bias, stride, pads, act, residual)


def pack_linear(weight: Tensor) -> Packed:
    """A linear weight (in, out) in the fastest kernel's layout; the plain one may be freed, `.unpack()` restores it."""
    if weight.ndim != 2:
        raise ValueError(f"pack_linear packs (in, out), not {tuple(weight.shape)}")
    return dnn.pack("linear", weight) or Packed("linear", tuple(weight.shape), dtype_of(weight), (weight, -1))


def pack_conv2d(weight: Tensor) -> Packed:
    """A convolution weight (out, in, kh, kw) in the fastest kernel's layout; `.unpack()` restores the plain one."""
    if weight.ndim != 4:
        raise ValueError(f"pack_conv2d packs (out, in, kh, kw), not {tuple(weight.shape)}")
    return dnn.pack("conv2d", weight) or Packed("conv2d", tuple(weight.shape), dtype_of(weight), (weight, -1))
