"""Sums and rearrangements of channels-last maps, which Paddle's CPU kernels do slowly or, in bfloat16, not at all."""

from paddle import Tensor

from kernels import build, reference
from kernels.choose import Call, Kernel, choose, device_of, dtype_of, needs_grad, no, table
from kernels.native import COVERS, plain, refusal

build.register(build.Extension("layout", kernels=("layout.cc",)))
_refuse = refusal("layout")


def _refuse_add(call: Call) -> str | None:
    return no(
        (call.grad, "no backward"),
        (call.dtype == "float32", "Paddle's own float32 sum is as fast"),
    ) or _refuse(call)


def _add_native(a: Tensor, b: Tensor) -> Tensor:
    return build.run("mix_add", a, b)


def _concat_native(a: Tensor, b: Tensor) -> Tensor:
    return build.run("mix_concat", a, b)


def _upsample_native(x: Tensor) -> Tensor:
    return build.run("mix_upsample", x)


table("add", Kernel("native", _add_native, _refuse_add, "CPU; bfloat16; no gradients"), plain(reference.add))
table(
    "concat_channels",
    Kernel("native", _concat_native, _refuse, COVERS),
    plain(reference.concat_channels),
)
table(
    "upsample_nearest2x",
    Kernel("native", _upsample_native, _refuse, COVERS),
    plain(reference.upsample_nearest2x),
)


def _check_alike(op: str, a: Tensor, b: Tensor, axes: int) -> None:
    if a.dtype != b.dtype or a.ndim != b.ndim or a.shape[:axes] != b.shape[:axes]:
        raise ValueError(f"{op}: {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype} do not fit")


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b of one shape and dtype, bfloat16 included (Paddle's CPU build has no bfloat16 sum)."""
    _check_alike("add", a, b, a.ndim)
    call = Call("add", device_of(a), dtype_of(a), needs_grad(a, b), tuple(a.shape))
    return choose(call).run(a, b)


def concat_channels(a: Tensor, b: Tensor) -> Tensor:
    """(..., C) and (..., D) -> (..., C + D), as skip connections need it."""
    _check_alike("concat_channels", a, b, a.ndim - 1)
    call = Call("concat_channels", device_of(a), dtype_of(a), needs_grad(a, b), tuple(a.shape))
    return choose(call).run(a, b)


def upsample_nearest2x(x: Tensor) -> Tensor:
    """(B, Y, X, C) -> (B, 2 Y, 2 X, C): every pixel becomes four."""
    if x.ndim != 4:
        raise ValueError(f"upsample_nearest2x takes (B, Y, X, C), got {tuple(x.shape)}")
    call = Call("upsample_nearest2x", device_of(x), dtype_of(x), needs_grad(x), tuple(x.shape))
    return choose(call).run(x)
