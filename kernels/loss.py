"""Losses."""

from paddle import Tensor

from kernels import build, reference
from kernels.choose import Call, Kernel, choose, device_of, dtype_of, needs_grad, table
from kernels.native import COVERS, plain, refusal

build.register(build.Extension("loss", kernels=("loss.cc",)))


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
