"""Normalisations; statistics in float32.

Call.options: group_norm (groups, act); the others none.
"""

import functools

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from kernels import build, reference
from kernels.choose import Call, Kernel, choose, device_of, dtype_of, needs_grad, table
from kernels.native import COVERS, GPU_COVERS, gpu_refusal, plain, refusal

build.register(build.Extension("norm", kernels=("group_norm.cc", "row_norm.cc")))
_refuse = refusal("norm")


@functools.cache
def _nothing() -> Tensor:
    return paddle.empty([0], dtype="float32")


def _given(t: Tensor | None) -> Tensor:
    """The tensor, or one without elements, which the native ops take for "left out"."""
    return _nothing() if t is None else t


def _group_norm_native(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, act: str | None, shift: Tensor | None
) -> Tensor:
    return build.run("mix_group_norm", x, weight, bias, _given(shift), groups, eps, act == "silu")[0]


def _group_norm_paddle(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, act: str | None, shift: Tensor | None
) -> Tensor:
    batch, channels = x.shape[0], x.shape[-1]
    h = x.reshape([batch, -1, 1, channels])
    if shift is not None:
        h = h + shift.reshape([batch, 1, 1, channels])
    h = F.group_norm(h, groups, epsilon=eps, weight=weight, bias=bias, data_format="NHWC")
    return reference.activate(h, act).reshape(x.shape)


def _layer_norm_native(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return build.run("mix_row_norm", x, _given(weight), _given(bias), eps, True)[0]


def _layer_norm_paddle(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return F.layer_norm(x, [x.shape[-1]], weight, bias, eps)


def _rms_norm_native(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return build.run("mix_row_norm", x, weight, _given(None), eps, False)[0]


def _rms_norm_paddle(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, [x.shape[-1]], weight.astype(x.dtype), eps)[0]


table(
    "group_norm",
    Kernel("native", _group_norm_native, _refuse, COVERS),
    Kernel("paddle_gpu", _group_norm_paddle, gpu_refusal, GPU_COVERS),
    plain(reference.group_norm),
)
table(
    "layer_norm",
    Kernel("native", _layer_norm_native, _refuse, COVERS),
    Kernel("paddle_gpu", _layer_norm_paddle, gpu_refusal, GPU_COVERS),
    plain(reference.layer_norm),
)
table(
    "rms_norm",
    Kernel("native", _rms_norm_native, _refuse, COVERS),
    Kernel("paddle_gpu", _rms_norm_paddle, gpu_refusal, GPU_COVERS),
    plain(reference.rms_norm),
)


def _check(op: str, x: Tensor, *weights: Tensor | None) -> None:
    for weight in weights:
        if weight is not None and list(weight.shape) != [x.shape[-1]]:
            raise ValueError(f"{op}: {x.shape[-1]} channels need weights of that length, got {tuple(weight.shape)}")


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
    """Group normalisation (Wu and He 2018) of channels-last x (B, ..., C).

    shift (B, C), a time embedding, is added before; act (None or "silu") comes after.
    """
    if x.shape[-1] % groups:
        raise ValueError(f"group_norm: {x.shape[-1]} channels do not divide into {groups} groups")
    if act not in (None, "silu"):
        raise ValueError(f"group_norm fuses no activation or 'silu', not {act!r}")
    if shift is not None and list(shift.shape) != [x.shape[0], x.shape[-1]]:
        raise ValueError(f"group_norm: shift must be (B, C) = {(x.shape[0], x.shape[-1])}, got {tuple(shift.shape)}")
    _check("group_norm", x, weight, bias)
    grad = needs_grad(x, weight, bias, shift)
    call = Call("group_norm", device_of(x), dtype_of(x), grad, tuple(x.shape), (groups, act))
    return choose(call).run(x, weight, bias, groups, eps, act, shift)


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, *, groups: int = 32, eps: float = 1e-5, shift: Tensor | None = None
) -> Tensor:
    """`group_norm` followed by SiLU."""
    return group_norm(x, weight, bias, groups=groups, eps=eps, act="silu", shift=shift)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float = 1e-5) -> Tensor:
    """Layer normalisation (Ba et al. 2016) over the last axis of x (..., C)."""
    _check("layer_norm", x, weight, bias)
    call = Call("layer_norm", device_of(x), dtype_of(x), needs_grad(x, weight, bias), tuple(x.shape))
    return choose(call).run(x, weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-6) -> Tensor:
    """x / rms(x) * weight over the last axis of x (..., C) (Zhang and Sennrich 2019)."""
    _check("rms_norm", x, weight)
    call = Call("rms_norm", device_of(x), dtype_of(x), needs_grad(x, weight), tuple(x.shape))
    return choose(call).run(x, weight, eps)
