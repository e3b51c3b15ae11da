"""Optimiser steps over many tensors at once."""

from paddle import Tensor

from kernels import reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, table

table("adamw_step", Kernel("reference", reference.adamw_step, accept))


def adamw_step(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    *, step: int, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0,
) -> None:  # fmt: skip
    """AdamW in place on every tensor of the four lists; `step` counts from 1; moments are float32."""
    if not params:
        return
    call = Call("adamw_step", device_of(params[0]), dtype_of(params[0]))
    choose(call).run(
        params, grads, exp_avgs, exp_avg_sqs, step=step, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
    )  # fmt: skip
