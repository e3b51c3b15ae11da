"""Rotary position embedding."""

from paddle import Tensor

from kernels import reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, table

table("rope", Kernel("reference", reference.rope, accept))


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotate pairs of x (B, L, H, D) by angles whose cosines and sines are (L, D/2) or (B, L, D/2).

    Pairs are (i, i + D/2), as in GPT-NeoX and Hugging Face checkpoints; interleaved means adjacent pairs (GPT-J, GLM).
    """
    if cos.shape != sin.shape or 2 * cos.shape[-1] != x.shape[-1]:
        raise ValueError(f"rope: x {tuple(x.shape)} needs cos and sin with a last axis of {x.shape[-1] // 2}, got {tuple(cos.shape)}, {tuple(sin.shape)}")
    call = Call("rope", device_of(x), dtype_of(x), needs_grad(x), tuple(x.shape), (interleaved, cos.ndim))
    return choose(call).run(x, cos, sin, interleaved)
