"""linear and conv2d: weights in Paddle's order, optionally packed once, with bias, activation and residual fused."""

from paddle import Tensor

from kernels import reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, table
from kernels.packed import Packed

_ACTS = (None, "silu", "gelu", "gelu_tanh", "quick_gelu", "geglu")


def _plain(weight: Tensor | Packed) -> Tensor:
    return weight.unpack() if isinstance(weight, Packed) else weight


def _linear_reference(x: Tensor, weight: Tensor | Packed, bias: Tensor | None, act: str | None, residual: Tensor | None) -> Tensor:
    return reference.linear(x, _plain(weight), bias, act, residual)


def _conv2d_reference(
    x: Tensor,
    weight: Tensor | Packed,
    bias: Tensor | None,
    stride: int,
    padding: tuple[int, int, int, int],
    act: str | None,
    residual: Tensor | None,
) -> Tensor:
    return reference.conv2d(x, _plain(weight), bias, stride, padding, act, residual)


table("linear", Kernel("reference", _linear_reference, accept))
table("conv2d", Kernel("reference", _conv2d_reference, accept))


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
    act is None, "silu", "gelu", "gelu_tanh", "quick_gelu" or "geglu"; geglu halves out: first half times GELU of the second.
    """
    if act not in _ACTS:
        raise ValueError(f"unknown activation {act!r}; known: {', '.join(map(str, _ACTS))}")
    if x.shape[-1] != weight.shape[0]:
        raise ValueError(f"linear: the input's last axis is {x.shape[-1]}, the weight is {tuple(weight.shape)} (in, out)")
    plain = None if isinstance(weight, Packed) else weight
    grad = needs_grad(x, plain, bias, residual)
    call = Call("linear", device_of(x), dtype_of(x), grad, tuple(x.shape), (weight.shape[1], act, plain is None))
    return choose(call).run(x, weight, bias, act, residual)


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

    x (B, Y, X, in), weight (out, in, kh, kw) or a `Packed` one, padding one number or (top, bottom, left, right), act None or "silu".
    """
    if act not in (None, "silu"):
        raise ValueError(f"conv2d fuses no activation or 'silu', not {act!r}")
    if x.ndim != 4 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"conv2d: input {tuple(x.shape)} (B, Y, X, C) does not fit weight {tuple(weight.shape)} (out, in, kh, kw)")
    pads = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
    plain = None if isinstance(weight, Packed) else weight
    grad = needs_grad(x, plain, bias, residual)
    options = (tuple(weight.shape), stride, pads, act, plain is None)
    call = Call("conv2d", device_of(x), dtype_of(x), grad, tuple(x.shape), options)
    return choose(call).run(x, weight, bias, stride, pads, act, residual)


def pack_linear(weight: Tensor) -> Packed:
    """A linear weight (in, out) in the fastest kernel's layout."""
    return Packed("linear", tuple(weight.shape), dtype_of(weight), weight)


def pack_conv2d(weight: Tensor) -> Packed:
    """A convolution weight (out, in, kh, kw) in the fastest kernel's layout."""
    return Packed("conv2d", tuple(weight.shape), dtype_of(weight), weight)
