"""Where a run's random numbers come from: one stream per image, so that image i of a batch is the image it is alone.

B batch, C channels, Y X latent height and width; a shape without B is one image's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import paddle
from paddle import Tensor

from ppdiffusers.sampling.brownian import BrownianPath
from ppdiffusers.sampling.generators import GENERATORS, Floats32

Increments = Callable[[float, float], Tensor]


class Noise(Protocol):
    """What samplers ask for: unit normal noise of the latents' shape (B, C, Y, X)."""

    def next(self) -> Tensor:
        """The next draw of every image's stream."""
        ...

    def brownian(self, low: float, high: float) -> Increments:
        """A function of two sigmas in [low, high] giving the noise that belongs to the interval between them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How the first noise of each image differs from that of its seed.

    Args:
        seeds: a second seed per image (WebUI "variation seed"); None for no variation.
        strength: 0 is the first seed's noise, 1 the second's, between them along the sphere.
        resize_from: (Y, X) of latents whose composition is to be kept at the new size (WebUI "resize seed from"); None
            for off.
    """

    seeds: tuple[int, ...] | None = None
    strength: float = 0.0
    resize_from: tuple[int, int] | None = None


class NoiseSource:
    """Noise for a batch of images, each with its own seed.

    The first draw is the starting noise; further draws (ancestral samplers) go on with the same streams, as in the
    WebUI.

    Args:
        seeds: one per image; any integers, 64 bits of them count ("cpu" uses the low 32, as torch does).
        shape: (C, Y, X) of one image's latents.
        rng: "cpu" draws what torch draws on a CPU, "gpu" what it draws on a CUDA device (WebUI's default), neither
            needs torch.
        variation: changes the first noise.
        eta_seed_delta: added to each seed for the noise after the first (WebUI "eta noise seed delta"); 0 continues the
            stream.
        interval: lowest and highest sigma of the Brownian path; None takes those of the run. The WebUI uses the whole
            schedule's also when image-to-image runs only its tail.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: tuple[int, int, int],
        rng: str = "cpu",
        *,
        variation: Variation | None = None,
        eta_seed_delta: int = 0,
        interval: tuple[float, float] | None = None,
    ) -> None:
        if rng not in GENERATORS:
            raise ValueError(f"no random generator is called {rng!r}; there are {', '.join(map(repr, GENERATORS))}")
        if not seeds:
            raise ValueError("noise needs one seed per image, none was given")
        self._variation = variation or Variation()
        if self._variation.seeds is not None and len(self._variation.seeds) != len(seeds):
            raise ValueError(f"{len(seeds)} images need as many variation seeds, not {len(self._variation.seeds)}")
        self.seeds, self.shape = tuple(seeds), tuple(shape)
        self._generator = GENERATORS[rng]
        self._delta, self._interval = eta_seed_delta, interval
        self._streams = [self._generator(seed) for seed in self.seeds]

    def first(self) -> Tensor:
        """The starting noise (B, C, Y, X); starts the streams anew, so it is the same however often it is asked for."""
        self._streams = [self._generator(seed) for seed in self.seeds]
        images = [self._first_of(i) for i in range(len(self.seeds))]
        if self._delta:
            self._streams = [self._generator(seed + self._delta) for seed in self.seeds]
        return paddle.to_tensor(np.stack(images))

    def next(self) -> Tensor:
        return paddle.to_tensor(np.stack([stream.normal(self.shape) for stream in self._streams]))

    def brownian(self, low: float, high: float) -> Increments:
        low, high = (float(np.float32(end)) for end in self._interval or (low, high))
        paths = [BrownianPath(seed, low, high, self.shape, self._generator) for seed in self.seeds]
        return partial(_increments, paths)

    def _first_of(self, i: int) -> Floats32:
        """The starting noise (C, Y, X) of image i; leaves its stream where the WebUI leaves it."""
        old, seed, stream = self._variation, self.seeds[i], self._streams[i]
        small = self.shape if old.resize_from is None else (self.shape[0], *old.resize_from)
        noise = stream.normal(self.shape) if small == self.shape else self._generator(seed).normal(small)
        if old.seeds is not None and old.strength:
            noise = slerp(old.strength, noise, self._generator(old.seeds[i]).normal(small))
        return noise if small == self.shape else paste_centre(noise, stream.normal(self.shape))


def _increments(paths: list[BrownianPath], sigma: float, after: float) -> Tensor:
    """Unit normal noise (B, C, Y, X) of the interval, the way k-diffusion turns path increments into noise."""
    a, b = (float(np.float32(end)) for end in (sigma, after))  # schedules are fp32 there; the path rounds to 6 decimals
    scale = np.float32(abs(b - a) ** -0.5)
    return paddle.to_tensor(np.stack([path(a, b) for path in paths]) * scale)


def slerp(amount: float, low: Floats32, high: Floats32) -> Floats32:
    """From `low` to `high` along the sphere, per channel and column (norms over axis 1), as WebUI's variations do."""
    unit_low, unit_high = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (low, high))
    dot = np.sum(unit_low * unit_high, axis=1)
    if dot.mean() > 0.9995:  # nearly the same direction: the sine below would vanish
        return low * np.float32(1 - amount) + high * np.float32(amount)
    omega = np.arccos(np.clip(dot, -1, 1))
    weights = (np.sin(part * omega) / np.sin(omega) for part in (1 - amount, amount))
    near, far = (weight[:, None].astype(np.float32) for weight in weights)
    return near * low + far * high


def paste_centre(patch: Floats32, canvas: Floats32) -> Floats32:
    """`canvas` (C, Y, X) with `patch` over its centre; what of the patch is larger is cut off evenly."""
    out, here, there = canvas.copy(), [slice(None)], [slice(None)]
    for size, room in zip(patch.shape[1:], canvas.shape[1:], strict=True):
        shift = (room - size) // 2
        span = min(size, size + 2 * shift)
        here.append(slice(max(shift, 0), max(shift, 0) + span))
        there.append(slice(max(-shift, 0), max(-shift, 0) + span))
    out[tuple(here)] = patch[tuple(there)]
    return out
