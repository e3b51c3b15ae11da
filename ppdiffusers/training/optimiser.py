"""AdamW over named parameters of any dtype, gradient accumulation and clipping, and averaged weights.

Parameters that are not float32 have a float32 master here: what the optimiser moves is the master, what the model sees
is its rounding. So small steps are not lost in bfloat16.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import paddle
from paddle import Tensor

import kernels


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """Betas, decay (on matrices and convolutions only) and the gradient norm above which gradients are scaled down."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0  # 0: off

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"betas must be in [0, 1), got {self.beta1} and {self.beta2}")
        if self.clip < 0 or self.weight_decay < 0:
            raise ValueError("gradient clipping and weight decay can't be negative; 0 switches them off")


class AdamW:
    """The optimiser's side of a model. `factors` multiply the rate of the parameters whose names begin so."""

    def __init__(
        self, parameters: Mapping[str, Tensor], config: AdamWConfig, factors: Mapping[str, float] | None = None
    ) -> None:
        if not parameters:
            raise ValueError("there is nothing to train: no parameter was chosen")
        self.config, self.parameters = config, dict(parameters)
        with paddle.no_grad():
            self.masters = {n: p if p.dtype == paddle.float32 else p.astype("float32") for n, p in parameters.items()}
            self.means = {name: paddle.zeros(p.shape, "float32") for name, p in parameters.items()}
            self.squares = {name: paddle.zeros(p.shape, "float32") for name, p in parameters.items()}
        self._grads: dict[str, Tensor] = {}
        self._groups = _groups(self.parameters, factors or {})

    def gather(self, share: float) -> None:
        """Take the gradients that a backward pass has left, times `share`, and clear them."""
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            grad = parameter.grad.detach().astype("float32") * share
            self._grads[name] = grad if name not in self._grads else self._grads[name] + grad
            parameter.clear_gradient(False)

    @paddle.no_grad()
    def step(self, number: int, rate: float) -> float:
        """Step `number` (from 1) with what was gathered; gives the gradient's norm. Where that is not finite nothing
        moves.
        """
        grads, self._grads = self._grads, {}
        if not grads:
            raise ValueError("no parameter has a gradient; the loss does not depend on what is trained")
        norm = float(paddle.stack([(g * g).sum() for g in grads.values()]).sum().sqrt())
        if not math.isfinite(norm):
            return norm
        if self.config.clip and norm > self.config.clip:
            grads = {name: g * (self.config.clip / norm) for name, g in grads.items()}
        for (factor, decay), names in self._groups.items():
            self._move([n for n in names if n in grads], grads, number, rate * factor, decay)
        return norm

    def _move(self, names: list[str], grads: Mapping[str, Tensor], number: int, rate: float, decay: bool) -> None:
        c = self.config
        lists = [[table[n] for n in names] for table in (self.masters, grads, self.means, self.squares)]
        weight_decay = c.weight_decay if decay else 0.0
        kernels.adamw_step(
            *lists, step=number, lr=rate, beta1=c.beta1, beta2=c.beta2, eps=c.eps, weight_decay=weight_decay
        )
        self._round(names)

    def _round(self, names: list[str]) -> None:
        for name in names:
            parameter = self.parameters[name]
            if parameter.dtype != paddle.float32:
                parameter.set_value(self.masters[name].astype(parameter.dtype))

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        tables = {"master": self.masters, "mean": self.means, "square": self.squares}
        return {f"{kind}.{name}": tensor for kind, table in tables.items() for name, tensor in table.items()}

    @paddle.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state. Raises ValueError where it belongs to other parameters."""
        for key, tensor in self.state().items():
            if key not in state or state[key].shape != tensor.shape:
                raise ValueError(f"the saved state does not fit: {key} is missing or of another shape")
            tensor.set_value(state[key])
        self._round(list(self.parameters))


def _groups(parameters: Mapping[str, Tensor], factors: Mapping[str, float]) -> dict[tuple[float, bool], list[str]]:
    """Parameters by (factor of their rate, whether they decay)."""
    groups: dict[tuple[float, bool], list[str]] = {}
    for name, parameter in parameters.items():
        factor = next((factor for start, factor in factors.items() if name.startswith(start)), 1.0)
        groups.setdefault((factor, parameter.ndim > 1), []).append(name)
    return groups


class Average:
    """Exponentially averaged weights; the decay grows from 0.1 to its value, so that a short run is averaged too."""

    def __init__(self, optimiser: AdamW, decay: float) -> None:
        self.optimiser, self.decay = optimiser, decay
        with paddle.no_grad():
            self.values = {name: master.clone().detach() for name, master in optimiser.masters.items()}

    @paddle.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 1)."""
        pull = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        for name, value in self.values.items():
            value.set_value(value + (self.optimiser.masters[name].detach() - value) * pull)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The model with its averaged weights, for samples and results; then its own again, bit for bit."""
        parameters = self.optimiser.parameters
        own = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        try:
            self._set(self.values)
            yield
        finally:
            self._set(own)

    @paddle.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.optimiser.parameters.items():
            parameter.set_value(values[name].astype(parameter.dtype))

    def state(self) -> dict[str, Tensor]:
        return {f"average.{name}": value for name, value in self.values.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.set_value(state[f"average.{name}"])
