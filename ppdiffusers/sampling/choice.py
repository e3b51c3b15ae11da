"""A sampler with everything it needs to run: what names in menus and scheduler configs are resolved to."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paddle import Tensor

from ppdiffusers.sampling.model_schedule import ModelSchedule
from ppdiffusers.sampling.noise import Noise
from ppdiffusers.sampling.samplers import Denoise, Sampler, Step
from ppdiffusers.sampling.schedules import Range, discard_penultimate, make

Schedule = Callable[[ModelSchedule, int], list[float]]


@dataclass(frozen=True)
class Named:
    """A schedule of `schedules.SCHEDULES`, possibly over other ends."""

    name: str
    span: Range | None = None
    discard_penultimate: bool = False

    def __call__(self, model: ModelSchedule, steps: int) -> list[float]:
        if not self.discard_penultimate or steps == model.steps:
            return make(self.name, model, steps, self.span)
        make(self.name, model, steps, self.span)  # so that a wrong number of steps is named as it was asked for
        return discard_penultimate(make(self.name, model, steps + 1, self.span))


@dataclass(frozen=True)
class Choice:
    """A sampler, its schedule and its options.

    Args:
        name: what to show, "DPM++ 2M" or a scheduler's class name.
        run: the generator function.
        schedule: gives `steps + 1` noise levels for a model.
        options: keyword arguments for `run`.
        calls_per_step: denoise calls a step makes (the last may make fewer), for progress estimates.
        start: how unit noise becomes the first latents: "sigma" multiplies by sigma (k-diffusion), "vp" by sqrt(1 +
            sigma^2), which is unit noise in the model's own scale (DDIM and the schedulers that work in it).
        quantize: for `Denoiser.quantize`; None as k-diffusion and the WebUI do.
    """

    name: str
    run: Sampler
    schedule: Schedule
    options: Mapping[str, Any] = field(default_factory=dict)
    calls_per_step: int = 1
    start: str = "sigma"
    quantize: str | None = None

    @property
    def accepts(self) -> frozenset[str]:
        """The options this sampler has: "eta", "s_noise", "churn", "order", ..."""
        parameters = inspect.signature(self.run).parameters.values()
        return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def with_options(self, **options: Any) -> "Choice":
        """The same choice with some options changed; ValueError for one that the sampler does not have."""
        unknown = sorted(set(options) - self.accepts)
        if unknown:
            has = ", ".join(sorted(self.accepts)) or "none"
            raise ValueError(f"{self.name} has no option {', '.join(unknown)}; it has {has}")
        return replace(self, options={**self.options, **options})

    def sigmas(self, model: ModelSchedule, steps: int) -> list[float]:
        """The noise levels of a run; see also `schedules.start_at` for image-to-image."""
        return self.schedule(model, steps)

    def begin(self, noise: Tensor, sigma: float, image: Tensor | None = None) -> Tensor:
        """The first latents from unit noise (B, C, Y, X): pure noise, or `image` latents noised to level sigma."""
        if image is not None:
            return image + noise * sigma
        return noise * (sigma if self.start == "sigma" else math.sqrt(1 + sigma**2))

    def sample(self, denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
        """Run the sampler; the last step's x, through `end`, is the result."""
        return self.run(denoise, x, sigmas, noise, **self.options)

    def end(self, x: Tensor, sigma: float) -> Tensor:
        """The result from the last x: for schedules that stop above 0, in the scale in which diffusers leaves it."""
        return x / math.sqrt(1 + sigma**2) if sigma and self.start == "vp" else x
