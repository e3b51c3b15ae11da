"""One denoising pass: everything a request says about how to walk, as one generator of steps."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import paddle
from paddle import Tensor

from ppdiffusers.pipelines.adapters import Adapters
from ppdiffusers.pipelines.conditions import Context, GivenTexts, stack
from ppdiffusers.pipelines.network import Hint, Network
from ppdiffusers.pipelines.prepare import Start
from ppdiffusers.pipelines.request import Sampling
from ppdiffusers.prompt.plan import PromptPlan
from ppdiffusers.sampling import Churn, ModelSchedule, Noise, Step
from ppdiffusers.sampling.choice import Choice, Named
from ppdiffusers.sampling.denoise import Conds, Denoiser, Guidance, Guide, Guided, Masked, Steered
from ppdiffusers.sampling.menu import choose
from ppdiffusers.sampling.schedules import start_at


@dataclass(frozen=True, eq=False)
class Teller:
    """What the network is told at each step: a prompt plan in a context, from some step on another model's."""

    plan: PromptPlan | GivenTexts
    context: Context
    after: tuple[int, PromptPlan, Context] | None = None  # the refiner's, from this step on

    def at(self, step: int) -> Conds:
        """The conditions of a step counted from 0 over the whole schedule."""
        if self.after is not None and step >= self.after[0]:
            return self.after[2].conds(self.after[1].at(step))
        return self.context.conds(self.plan.at(step))


@dataclass(frozen=True, eq=False)
class Walk:
    """How a pass goes: the sampler and the noise levels it runs down; a single level means that nothing is run."""

    choice: Choice
    sigmas: list[float]

    @property
    def steps(self) -> int:
        """Steps that will be run."""
        return len(self.sigmas) - 1


def choice_for(sampling: Sampling, sampler: str = "", schedule: str = "", xl: bool = False) -> Choice:
    """The sampler with the options that the request sets and the sampler has; one schedule has a table for SDXL."""
    choice = choose(sampler or sampling.sampler, schedule or sampling.schedule)
    if xl and isinstance(choice.schedule, Named) and choice.schedule.name == "Align Your Steps":
        choice = replace(choice, schedule=replace(choice.schedule, name="Align Your Steps XL"))
    options: dict[str, object] = {}
    if sampling.eta is not None and "eta" in choice.accepts:
        options["eta"] = sampling.eta
    if sampling.s_noise != 1 and "s_noise" in choice.accepts:
        options["s_noise"] = sampling.s_noise
    if sampling.s_churn and "churn" in choice.accepts:
        options["churn"] = Churn(sampling.s_churn, sampling.s_tmin, sampling.s_tmax, sampling.s_noise)
    return choice.with_options(**options) if options else choice


def walk(
    choice: Choice, schedule: ModelSchedule, steps: int, strength: float | None = None, rule: str = "webui"
) -> Walk:
    """All noise levels, or for image-to-image those that the denoising strength leaves (see `start_at`)."""
    sigmas = choice.sigmas(schedule, steps)
    if strength is None:
        return Walk(choice, sigmas)
    return Walk(choice, start_at(sigmas, strength, rule) if strength > 0 else sigmas[-1:])


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass with everything it needs; `run` yields its steps and `latents` afterwards holds the result."""

    way: Walk
    teller: Teller
    denoiser: Callable[[Network], Denoiser]
    guidance: Guidance
    begin: Start
    hints: tuple[Hint, ...]
    adapters: Adapters
    guide: Guide | None = None

    def run(self, noise: Tensor, source: Noise) -> Iterator[Step]:
        """The steps; the last one's x is the result. noise (B, C, Y, X) is what the pass starts from.

        Steps count from 0 also where image-to-image skips the beginning: prompt schedules address what is run.
        """
        choice, sigmas, total = self.way.choice, self.way.sigmas, self.way.steps
        if total == 0:  # a denoising strength of 0
            return
        network = Network(self.hints)
        network.steps = total
        guided = Guided(self.denoiser(network), self.teller.at, stack, self.guidance)
        mask, known = self.begin.mask, self.begin.known
        denoise = guided if self.guide is None else Steered(guided, self.guide)
        denoise = denoise if mask is None or known is None else Masked(denoise, mask, known)
        self.adapters.at(0, total)
        steps = choice.sample(denoise, choice.begin(noise, sigmas[0], self.begin.image), sigmas, source)
        for step in _without_grad(guided.follow(steps, total)):
            done = step.index + 1
            network.step = done
            if done < total:
                yield step
                self.adapters.at(done, total)
                continue
            x = choice.end(step.x, sigmas[-1])
            yield Step(step.index, step.sigma, denoise.finish(x) if isinstance(denoise, Masked) else x, step.x0)


def _without_grad(steps: Iterator[Step]) -> Iterator[Step]:
    """The steps, computed without autograd; the caller's own grad mode is untouched between them."""
    while True:
        with paddle.no_grad():
            step = next(steps, None)
        if step is None:
            return
        yield step


def guidance_of(sampling: Sampling, scale: float = 0.0) -> Guidance:
    """Guidance as the request has it; `scale` overrides."""
    return Guidance(scale=scale or sampling.cfg_scale, rescale=sampling.cfg_rescale)


def is_finite(x: Tensor) -> bool:
    """Whether the latents are numbers; a broken model or half precision overflow gives NaN."""
    return math.isfinite(float(x.abs().max()))
