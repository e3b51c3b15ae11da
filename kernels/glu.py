"""Gated and plain activations."""

import paddle.nn.functional as F
from paddle import Tensor

from kernels import build, reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, no, table

build.register(build.Extension("elementwise", kernels=("elementwise.cc",)))


def _refuse(call: Call) -> str | None:
    return no(
        (call.device != "cpu", "needs the CPU"),
        (call.dtype not in ("float32", "bfloat16"), f"no {call.dtype}"),
        (call.grad, "no backward"),
    ) or build.why_not("elementwise")


def _silu_native(x: Tensor) -> Tensor:
    return build.run("mix_silu", x)


table("geglu", Kernel("reference", reference.geglu, accept))
table("swiglu", Kernel("reference", reference.swiglu, accept))
table("silu", Kernel("native", _silu_native, _refuse), Kernel("reference", F.silu, accept))
table("gelu", Kernel("reference", F.gelu, accept))


def _run(op: str, x: Tensor, *more: Tensor | None) -> Tensor:
    call = Call(op, device_of(x), dtype_of(x), needs_grad(x, *more), tuple(x.shape), (len(more),))
    return choose(call).run(x, *more)


def geglu(x: Tensor) -> Tensor:
    """(..., 2D) -> (..., D): first half times GELU of the second (diffusers' order)."""
    return _run("geglu", x)


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """silu(gate) * up; a single (..., 2D) argument holds gate then up."""
    return _run("swiglu", gate) if up is None else _run("swiglu", gate, up)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return _run("silu", x)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), exact (erf)."""
    return _run("gelu", x)
