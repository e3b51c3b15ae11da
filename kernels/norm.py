"""Normalisations; statistics in float32."""

from paddle import Tensor

from kernels import reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, table

table("group_norm", Kernel("reference", reference.group_norm, accept))
table("layer_norm", Kernel("reference", reference.layer_norm, accept))
table("rms_norm", Kernel("reference", reference.rms_norm, accept))


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    groups: int = 32,
    eps: float = 1e-5,
    act: str | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Group normalisation (Wu and He 2018) of channels-last x (B, ..., C); shift (B, C) is added before, act (None or "silu") comes after."""
    if x.shape[-1] % groups:
        raise ValueError(f"group_norm: {x.shape[-1]} channels do not divide into {groups} groups")
    call = Call("group_norm", device_of(x), dtype_of(x), needs_grad(x, weight, bias, shift), tuple(x.shape), (groups, act))
    return choose(call).run(x, weight, bias, groups, eps, act, shift)


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, *, groups: int = 32, eps: float = 1e-5, shift: Tensor | None = None
) -> Tensor:
    """`group_norm` followed by SiLU."""
    return group_norm(x, weight, bias, groups=groups, eps=eps, act="silu", shift=shift)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float = 1e-5) -> Tensor:
    """Layer normalisation (Ba et al. 2016) over the last axis of x (..., C)."""
    call = Call("layer_norm", device_of(x), dtype_of(x), needs_grad(x, weight, bias), tuple(x.shape))
    return choose(call).run(x, weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-6) -> Tensor:
    """x / rms(x) * weight over the last axis of x (..., C)."""
    call = Call("rms_norm", device_of(x), dtype_of(x), needs_grad(x, weight), tuple(x.shape))
    return choose(call).run(x, weight, eps)
