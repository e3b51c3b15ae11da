"""Optimiser steps over many tensors at once.

Call.options: (dtypes of parameters and gradients, dtypes of moments), each names in order.
"""

from paddle import Tensor, no_grad

from kernels import build, reference
from kernels.choose import Call, Kernel, choose, device_of, dtype_of, no, table
from kernels.native import DTYPES, plain, refusal

build.register(build.Extension("optim", kernels=("optim.cc",)))
_native = refusal("optim")


def _refuse(call: Call) -> str | None:
    dtypes, moments = (str(option) for option in call.options or (call.dtype, "float32"))
    return _native(call) or no(
        (any(dtype not in DTYPES for dtype in dtypes.split()), f"parameters and gradients of {dtypes}"),
        (moments != "float32", f"moments must be float32, not {moments}"),
    )


def _adamw_native(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    *, step: int, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
) -> None:  # fmt: skip
    with no_grad():
        build.run("mix_adamw", params, grads, exp_avgs, exp_avg_sqs, step, lr, beta1, beta2, eps, weight_decay)
    for tensor in (*params, *exp_avgs, *exp_avg_sqs):  # so that autograd notices when it has saved one of them
        tensor._bump_inplace_version()


table(
    "adamw_step",
    Kernel("native", _adamw_native, _refuse, "CPU; float32, bfloat16; moments float32"),
    plain(reference.adamw_step),
)


def _dtypes(*lists: list[Tensor]) -> str:
    return " ".join(sorted({dtype_of(t) for tensors in lists for t in tensors}))


def adamw_step(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    *, step: int, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0,
) -> None:  # fmt: skip
    """AdamW (Loshchilov and Hutter 2019) in place on every tensor of the four lists.

    `step` counts from 1; moments are float32, parameters and gradients may be bfloat16.
    """
    if not params:
        return
    for p, *others in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        if any(t.shape != p.shape for t in others):
            shapes = ", ".join(str(tuple(t.shape)) for t in (p, *others))
            raise ValueError(f"adamw_step: parameter, gradient and both moments must have one shape, got {shapes}")
    options = (_dtypes(params, grads), _dtypes(exp_avgs, exp_avg_sqs))
    call = Call("adamw_step", device_of(params[0]), dtype_of(params[0]), options=options)
    numbers = {"step": step, "lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
    choose(call).run(params, grads, exp_avgs, exp_avg_sqs, **numbers)
