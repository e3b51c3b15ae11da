"""What tables of ops have in common: how the C++ and Paddle's CUDA kernels refuse, and the plain row at the end."""

from collections.abc import Callable

from kernels import build
from kernels.choose import Call, Kernel, Run, accept, no

DTYPES = ("float32", "bfloat16")
COVERS = "CPU; float32, bfloat16; gradients"
GPU_COVERS = "GPU; float32, bfloat16, float16; gradients"


def refusal(extension: str) -> Callable[[Call], str | None]:
    """A `refuse` for kernels of `extension`, which take float32 and bfloat16 on the CPU, with or without a gradient."""

    def refuse(call: Call) -> str | None:
        return no(
            (call.device != "cpu", "needs the CPU"),
            (call.dtype not in DTYPES, f"no {call.dtype}"),
        ) or build.why_not(extension)

    return refuse


def gpu_refusal(call: Call) -> str | None:
    """A `refuse` for Paddle's fused CUDA kernels."""
    return no((call.device != "gpu", "needs a GPU"), (call.dtype not in (*DTYPES, "float16"), f"no {call.dtype}"))


def plain(run: Run) -> Kernel:
    """The last row of a table: an op of reference.py."""
    return Kernel("reference", run, accept, "everything, in plain Paddle")
