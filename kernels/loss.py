"""Losses.

Call.options: linear_cross_entropy (weight's dtype, rows of scores, whether the weight is a table (V, C)).
"""

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from kernels import build, dnn, reference
from kernels.choose import Call, Kernel, choose, device_of, dtype_of, needs_grad, no, table
from kernels.native import COVERS, plain, refusal

build.register(build.Extension("loss", kernels=("loss.cc",)))

MOST_SCORES = 48 * 2**20  # scores held at once by linear_cross_entropy: 1,000 tokens of a vocabulary of 49,152


def _cross_entropy_native(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    try:
        return build.run("mix_cross_entropy", logits, labels.astype("int64"), ignore_index)[0]
    except OSError as error:  # the type of PD_THROW; its text says which label is out of range
        raise ValueError(f"cross_entropy: {str(error).splitlines()[0]}") from None


table(
    "cross_entropy",
    Kernel("native", _cross_entropy_native, refusal("loss"), COVERS),
    plain(reference.cross_entropy),
)


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Mean cross entropy of logits (..., V) and integer labels (...) over those that are not ignore_index; float32."""
    if list(logits.shape[:-1]) != list(labels.shape):
        raise ValueError(f"cross_entropy: logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit")
    flat, labels = logits.reshape([-1, logits.shape[-1]]), labels.reshape([-1])
    call = Call("cross_entropy", device_of(flat), dtype_of(flat), needs_grad(flat), tuple(flat.shape))
    return choose(call).run(flat, labels, ignore_index)


class _Chunked(PyLayer):
    """Scores of some rows at a time; their gradients are made at once, so that no scores have to be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, turned: bool, ignored: int) -> Tensor:
        ctx.wants = (not x.stop_gradient, not weight.stop_gradient)
        kept = max(int((labels != ignored).sum()), 1)
        rows = max(MOST_SCORES // weight.shape[0 if turned else 1], 64)
        total, dx, dw = 0.0, list[Tensor](), None
        for i in range(0, x.shape[0], rows):
            part = x[i : i + rows]
            scores = _by_transposed(part, weight) if turned else _product(part, weight)
            total += float(build.run("mix_cross_entropy_consume", scores, labels[i : i + rows], ignored, 1.0 / kept))
            if ctx.wants[0]:
                dx.append(_product(scores, weight) if turned else _by_transposed(scores, weight))
            if ctx.wants[1]:
                more = _transposed_by(scores, part) if turned else _transposed_by(part, scores)
                dw = more if dw is None else dw.astype("float32") + more.astype("float32")
        ctx.dx = (dx[0] if len(dx) == 1 else paddle.concat(dx)) if dx else None
        ctx.dw = None if dw is None else dw.astype(weight.dtype)
        return paddle.to_tensor(total / kept, dtype="float32", place=x.place)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        factor, grads = float(dy), (ctx.dx, ctx.dw)
        if factor != 1.0:
            grads = tuple(None if g is None else (g.astype("float32") * factor).astype(g.dtype) for g in grads)
        ctx.dx = ctx.dw = None
        return (*grads, None)


def _product(x: Tensor, w: Tensor) -> Tensor:
    return build.run("mix_dnn_linear", x, w, None, None, 0, -1)


def _by_transposed(x: Tensor, w: Tensor) -> Tensor:
    return build.run("mix_dnn_linear_dx", x, w)


def _transposed_by(x: Tensor, y: Tensor) -> Tensor:
    return build.run("mix_dnn_linear_dw", x, y)


def _chunked(x: Tensor, weight: Tensor, labels: Tensor, turned: bool, ignored: int) -> Tensor:
    try:
        return _Chunked.apply(x, weight, labels.astype("int64"), turned, ignored)
    except OSError as error:
        raise ValueError(f"linear_cross_entropy: {str(error).splitlines()[0]}") from None


def _refuse_chunked(call: Call) -> str | None:
    dtype, rows, _ = call.options
    return refusal("loss")(call) or dnn.refuse(Call("linear", call.device, call.dtype, options=(dtype, None))) or no(
        (not rows, "there are no rows"),
    )  # fmt: skip


def _whole(x: Tensor, weight: Tensor, labels: Tensor, turned: bool, ignored: int) -> Tensor:
    wide = x if x.place.is_gpu_place() else x.astype("float32")  # Paddle's CPU build multiplies no bfloat16
    return cross_entropy(
        paddle.matmul(wide, weight.astype(wide.dtype), transpose_y=turned), labels, ignore_index=ignored
    )


table(
    "linear_cross_entropy",
    Kernel("chunked", _chunked, _refuse_chunked, COVERS),
    plain(_whole),
)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, *, turned: bool = False, ignore_index: int = -100
) -> Tensor:
    """`cross_entropy` of the scores of x (N, C) by weight (C, V), or by a table (V, C) with `turned`; float32.

    Where a gradient is wanted it is computed with the loss, some rows at a time: the scores (N, V) never exist at once.
    First derivatives only. Raises ValueError where shapes do not fit.
    """
    fits = weight.ndim == 2 and x.ndim == 2 and x.shape[1] == weight.shape[1 if turned else 0]
    if not fits or list(labels.shape) != [x.shape[0]]:
        raise ValueError(
            f"linear_cross_entropy: x {tuple(x.shape)}, weight {tuple(weight.shape)} and labels {tuple(labels.shape)} "
            "do not fit; expected (N, C), (C, V) or with turned=True (V, C), and (N,)"
        )
    options = (dtype_of(weight), x.shape[0], turned)
    call = Call("linear_cross_entropy", device_of(x), dtype_of(x), needs_grad(x, weight), tuple(x.shape), options)
    return choose(call).run(x, weight, labels, turned, ignore_index)
