"""Gated and plain activations.

Call.options: (number of further arguments,).
"""

from paddle import Tensor

from kernels import build, reference
from kernels.choose import Call, Kernel, choose, device_of, dtype_of, needs_grad, table
from kernels.native import COVERS, GPU_COVERS, gpu_refusal, plain, refusal

build.register(build.Extension("elementwise", kernels=("elementwise.cc",)))

SILU, GELU, GELU_TANH, QUICK_GELU = range(4)  # mix::Act
_refuse = refusal("elementwise")


def _act(kind: int) -> Kernel:
    return Kernel("native", lambda x: build.run("mix_act", x, kind), _refuse, COVERS)


def _geglu_native(x: Tensor) -> Tensor:
    return build.run("mix_glu", x, GELU, False)


def _swiglu_native(gate: Tensor, up: Tensor | None = None) -> Tensor:
    return build.run("mix_glu", gate, SILU, True) if up is None else build.run("mix_glu_pair", gate, up, SILU)


def _swiglu_paddle(gate: Tensor, up: Tensor | None = None) -> Tensor:
    from paddle.incubate.nn.functional import swiglu as fused

    return fused(gate, up)


table("geglu", Kernel("native", _geglu_native, _refuse, COVERS), plain(reference.geglu))
table(
    "swiglu",
    Kernel("native", _swiglu_native, _refuse, COVERS),
    Kernel("paddle_gpu", _swiglu_paddle, gpu_refusal, GPU_COVERS),
    plain(reference.swiglu),
)
table("silu", _act(SILU), plain(reference.silu))
table("gelu", _act(GELU), plain(reference.gelu))
table("gelu_tanh", _act(GELU_TANH), plain(reference.gelu_tanh))
table("quick_gelu", _act(QUICK_GELU), plain(reference.quick_gelu))


def _run(op: str, x: Tensor, *more: Tensor | None) -> Tensor:
    call = Call(op, device_of(x), dtype_of(x), needs_grad(x, *more), tuple(x.shape), (len(more),))
    return choose(call).run(x, *more)


def _check_halves(op: str, x: Tensor) -> None:
    if x.shape[-1] % 2:
        raise ValueError(f"{op}: the last axis holds two halves, so it must be even; got {tuple(x.shape)}")


def geglu(x: Tensor) -> Tensor:
    """(..., 2D) -> (..., D): first half times GELU of the second (diffusers' order)."""
    _check_halves("geglu", x)
    return _run("geglu", x)


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """silu(gate) * up; a single (..., 2D) argument holds gate then up."""
    if up is None:
        _check_halves("swiglu", gate)
        return _run("swiglu", gate)
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(
            f"swiglu: gate {tuple(gate.shape)} {gate.dtype} and up {tuple(up.shape)} {up.dtype} must be alike"
        )
    return _run("swiglu", gate, up)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return _run("silu", x)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), exact (erf)."""
    return _run("gelu", x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by the tanh formula (Hendrycks and Gimpel 2016), as GPT-2 and PaliGemma use it."""
    return _run("gelu_tanh", x)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), OpenAI CLIP's activation."""
    return _run("quick_gelu", x)
