"""What a diffusion model is taught: pictures mixed with noise at a random step, and how much each step counts.

B pictures, C channels, Y X latent height and width.
"""

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor

from ppdiffusers.sampling import ModelSchedule
from ppdiffusers.sampling.denoise import PREDICTIONS
from ppdiffusers.training.draws import Draws


@dataclass(frozen=True, eq=False)
class Mixed:
    """A batch as the network sees it, and what it should answer."""

    noisy: Tensor  # (B, C, Y, X)
    times: Tensor  # (B,) float32
    target: Tensor  # (B, C, Y, X)
    weights: Tensor  # (B,)


@dataclass(frozen=True)
class Objective:
    """x_t = sqrt(a) x0 + sqrt(1 - a) noise; the target is the noise (eps), v = sqrt(a) noise - sqrt(1 - a) x0, or x0.

    min_snr: gamma of Hang et al. 2023, which keeps easy steps from counting too much (5 is usual, 0 is off).
    offset_noise: deviation of one more draw a channel, so that a model learns whole pictures' brightness (0.05 is
    usual, 0 is off). noise_bias: how often noisy steps are drawn: as the density t^(bias - 1), so 1 is evenly and 2 in
    proportion to the step; where objects and layout are still to be learnt, that is where it happens.
    """

    schedule: ModelSchedule
    prediction: str = "eps"
    min_snr: float = 5.0
    offset_noise: float = 0.0
    noise_bias: float = 1.0

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"a network predicts one of {', '.join(PREDICTIONS)}, not {self.prediction!r}")
        if self.min_snr < 0 or self.offset_noise < 0:
            raise ValueError("min-SNR gamma and offset noise can't be negative; 0 switches them off")
        if not 0.1 <= self.noise_bias <= 10:
            raise ValueError(f"the bias to noisy steps must be between 0.1 and 10 (1 is none), got {self.noise_bias}")

    def mix(self, x0: Tensor, draws: Draws, number: int) -> Mixed:
        """Noise for batch `number`."""
        batch, channels = x0.shape[:2]
        steps = self.times(draws.generator("times", number), batch)
        noise = draws.normal(x0.shape, "noise", number)
        if self.offset_noise:
            noise = noise + draws.normal((batch, channels, 1, 1), "offset", number) * self.offset_noise
        bar = 1.0 / (1.0 + self.schedule.table[steps] ** 2)
        signal, rest = (_column(np.sqrt(part)) for part in (bar, 1.0 - bar))
        noisy = signal * x0 + rest * noise
        times = paddle.to_tensor(steps.astype(np.float32))
        kind = PREDICTIONS[self.prediction]
        target = {"eps": lambda: noise, "v": lambda: signal * noise - rest * x0, "x0": lambda: x0}[kind]()
        return Mixed(noisy, times, target, paddle.to_tensor(self.weights(steps).astype(np.float32)))

    def times(self, chance: np.random.Generator, count: int) -> np.ndarray:
        """Training steps drawn for `count` pictures."""
        if self.noise_bias == 1:
            return chance.integers(0, self.schedule.steps, count)
        return (chance.random(count) ** (1 / self.noise_bias) * self.schedule.steps).astype(np.int64)

    def weights(self, steps: np.ndarray) -> np.ndarray:
        """How much each training step counts."""
        if not self.min_snr:
            return np.ones(len(steps))
        snr = self.schedule.table[steps] ** -2.0
        kept = np.minimum(snr, self.min_snr)
        return kept / {"eps": snr, "v": snr + 1.0, "x0": np.ones_like(snr)}[PREDICTIONS[self.prediction]]


def _column(values: np.ndarray) -> Tensor:
    return paddle.to_tensor(values.astype(np.float32)).reshape([-1, 1, 1, 1])


def weighted_error(answer: Tensor, mixed: Mixed) -> Tensor:
    """The batch's mean squared error, each picture times its weight; float32."""
    error = (answer.astype("float32") - mixed.target).square().mean(axis=[1, 2, 3])
    return (error * mixed.weights).mean()
