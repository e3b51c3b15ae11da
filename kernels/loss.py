"""Losses."""

from paddle import Tensor

from kernels import reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, table

table("cross_entropy", Kernel("reference", reference.cross_entropy, accept))


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Mean cross entropy of logits (..., V) and integer labels (...) over the labels that are not ignore_index; float32."""
    if list(logits.shape[:-1]) != list(labels.shape):
        raise ValueError(f"cross_entropy: logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit")
    flat, labels = logits.reshape([-1, logits.shape[-1]]), labels.reshape([-1])
    call = Call("cross_entropy", device_of(flat), dtype_of(flat), needs_grad(flat), tuple(flat.shape))
    return choose(call).run(flat, labels, ignore_index)
