"""What a model was trained on: one noise level per training step, and the map between noise level and step.

The forward process is `x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise` with `a_t` the cumulated product of `1 - beta`. All of
`ppdiffusers.sampling` works in sigma space instead: `x = x_t / sqrt(a_t) = x0 + sigma noise`, `sigma = sqrt((1 - a_t) /
a_t)` (Karras et al. 2022, "Elucidating the design space", appendix C.3), where solvers know nothing of betas.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_ALPHA_BAR = (
    2.0**-24
)  # what zero terminal SNR is replaced by, because sigma = infinity is not a number one can step from


@dataclass(frozen=True)
class ModelSchedule:
    """Noise levels of the training steps.

    Args:
        sigmas: one noise level per training step, ascending; SD 1.x, 2.x and SDXL have 1000 from 0.0292 to 14.6146.
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        if (
            len(self.sigmas) < 2
            or self.sigmas[0] <= 0
            or any(a >= b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        ):
            raise ValueError("a model schedule needs at least two noise levels, positive and ascending")

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Floats, *, zero_terminal_snr: bool = False) -> "ModelSchedule":
        """The schedule of a list of betas, one per training step, each in (0, 1)."""
        alpha_bar: Floats = np.cumprod(1.0 - np.asarray(betas, dtype=np.float64), dtype=np.float64)
        if zero_terminal_snr:
            alpha_bar = rescale_zero_terminal_snr(alpha_bar)
        return cls(tuple(float(s) for s in np.sqrt((1 - alpha_bar) / alpha_bar)))

    @classmethod
    def make(
        cls,
        shape: str = "scaled_linear",
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        steps: int = 1000,
        *,
        zero_terminal_snr: bool = False,
    ) -> "ModelSchedule":
        """The schedule of a named beta curve; the defaults are those of Stable Diffusion 1.x, 2.x and XL.

        Args:
            shape: "scaled_linear" (linear in sqrt(beta)), "linear", or "squaredcos_cap_v2" (Nichol & Dhariwal 2021).
            zero_terminal_snr: rescale so that the last step is pure noise (Lin et al. 2023, algorithm 1).
        """
        return cls.from_betas(beta_curve(shape, beta_start, beta_end, steps), zero_terminal_snr=zero_terminal_snr)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ModelSchedule":
        """The schedule that a diffusers scheduler_config.json describes."""
        zero_snr = bool(config.get("rescale_betas_zero_snr", False))
        trained = config.get("trained_betas")
        if trained is not None:
            return cls.from_betas(trained, zero_terminal_snr=zero_snr)
        return cls.make(
            config.get("beta_schedule", "linear"),
            float(config.get("beta_start", 0.0001)),
            float(config.get("beta_end", 0.02)),
            int(config.get("num_train_timesteps", 1000)),
            zero_terminal_snr=zero_snr,
        )

    @property
    def steps(self) -> int:
        return len(self.sigmas)

    @property
    def sigma_min(self) -> float:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> float:
        return self.sigmas[-1]

    @cached_property
    def table(self) -> Floats:
        return np.asarray(self.sigmas)

    @cached_property
    def logs(self) -> Floats:
        return np.log(self.table)

    def sigma(self, t: float) -> float:
        """The noise level at training step `t`, interpolated in log sigma between two steps and clamped outside."""
        return math.exp(np.interp(t, np.arange(self.steps), self.logs))

    def t(self, sigma: float) -> float:
        """The training step whose noise level is `sigma`; between two steps a fraction, outside the table its end."""
        return float(np.interp(math.log(sigma), self.logs, np.arange(self.steps)))


def beta_curve(shape: str, start: float, end: float, steps: int) -> Floats:
    """Betas of a named curve, one per training step."""
    if shape == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, steps) ** 2
    if shape == "linear":
        return np.linspace(start, end, steps)
    if shape == "squaredcos_cap_v2":
        bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    raise ValueError(f"no beta curve is called {shape!r}; there are 'scaled_linear', 'linear' and 'squaredcos_cap_v2'")


def rescale_zero_terminal_snr(alpha_bar: Floats) -> Floats:
    """Shift and stretch sqrt(alpha_bar) so that the first value stays and the last is (almost) zero.

    Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed", algorithm 1; the last value is
    LEAST_ALPHA_BAR.
    """
    root = np.sqrt(alpha_bar)
    scaled = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    scaled[-1] = LEAST_ALPHA_BAR
    return scaled
