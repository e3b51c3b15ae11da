"""Which noise levels a run visits: every schedule gives `steps + 1` sigmas, strictly descending, the last one 0.

Names are those of the WebUI's "Schedule type" (table SCHEDULES). `timesteps` has the three spacings of diffusers'
configs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ppdiffusers.sampling.model_schedule import Floats, ModelSchedule


@dataclass(frozen=True)
class Range:
    """The ends of a schedule and its exponent; None means the model's own end or the schedule's own exponent."""

    low: float | None = None
    high: float | None = None
    rho: float | None = None


@dataclass(frozen=True)
class Ends:
    """A Range with nothing left open."""

    low: float
    high: float
    rho: float


def make(name: str, model: ModelSchedule, steps: int, span: Range | None = None) -> list[float]:
    """The sigmas of schedule `name` for `steps` steps.

    Args:
        name: a key of SCHEDULES.
        span: other ends or exponent than the model's and the schedule's own.

    Returns:
        `steps + 1` floats, descending, the last one 0.

    Raises:
        ValueError: no such schedule, steps < 1 or more than the model has, or ends that do not fit.
    """
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called {name!r}; there are {', '.join(SCHEDULES)}")
    rule, rho = SCHEDULES[name]
    span = span or Range()
    ends = Ends(
        model.sigma_min if span.low is None else span.low,
        model.sigma_max if span.high is None else span.high,
        rho if span.rho is None else span.rho,
    )
    check_steps(steps, model)
    if not 0 < ends.low < ends.high:
        raise ValueError(
            f"a schedule goes down from a high sigma to a low one above 0, not from {ends.high} to {ends.low}"
        )
    return [*(float(s) for s in rule(model, steps, ends)), 0.0]


def check_steps(steps: int, model: ModelSchedule) -> None:
    """Raise ValueError unless the model can be sampled in that many steps."""
    if not 1 <= steps <= model.steps:
        raise ValueError(f"steps must be from 1 to {model.steps} (the steps the model was trained with), not {steps}")


def uniform(model: ModelSchedule, n: int, ends: Ends) -> Floats:
    """Equal steps in training time, both ends included (WebUI "Uniform" and "Normal"; k-diffusion's default)."""
    return sigmas_at(model, np.linspace(model.t(ends.high), model.t(ends.low), n))


def sgm_uniform(model: ModelSchedule, n: int, ends: Ends) -> Floats:
    """Equal steps in training time, the low end replaced by 0 (Stability's generative-models)."""
    return sigmas_at(model, np.linspace(model.t(ends.high), model.t(ends.low), n + 1)[:-1])


def karras(model: ModelSchedule, n: int, ends: Ends) -> Floats:
    """Equal steps in sigma^(1/rho), rho 7 (Karras et al. 2022, equation 5)."""
    low, high = ends.low ** (1 / ends.rho), ends.high ** (1 / ends.rho)
    return np.linspace(high, low, n) ** ends.rho


def exponential(model: ModelSchedule, n: int, ends: Ends) -> Floats:
    """Equal steps in log sigma."""
    return np.exp(np.linspace(math.log(ends.high), math.log(ends.low), n))


def polyexponential(model: ModelSchedule, n: int, ends: Ends) -> Floats:
    """Steps in log sigma that follow the power `rho`; rho 1 is "exponential"."""
    low, high = math.log(ends.low), math.log(ends.high)
    return np.exp(np.linspace(1, 0, n) ** ends.rho * (high - low) + low)


def simple(model: ModelSchedule, n: int, ends: Ends) -> Floats:
    """Every (T/n)-th training step, counted from the noisiest."""
    return model.table[[-1 - int(i * model.steps / n) for i in range(n)]]


def ddim_uniform(model: ModelSchedule, n: int, ends: Ends) -> Floats:
    """Training steps 1, 1 + T//n, ..., n of them: DDIM's own (Song et al. 2021), "leading" with offset 1 in diffusers'
    words.

    WebUI goes on until T, which for n that do not divide T is more steps than were asked for; we give n.
    """
    return model.table[np.minimum(np.arange(n)[::-1] * (model.steps // n) + 1, model.steps - 1)]


def beta(model: ModelSchedule, n: int, ends: Ends) -> Floats:
    """Quantiles of a Beta(0.6, 0.6): dense at both ends (Lee et al. 2024, "Beta sampling is all you need")."""
    return ends.low + np.array([beta_quantile(p, 0.6, 0.6) for p in np.linspace(1, 0, n)]) * (ends.high - ends.low)


def kl_optimal(model: ModelSchedule, n: int, ends: Ends) -> Floats:
    """Equal steps in arctan sigma, best for Gaussian data (Sabour et al. 2024, "Align your steps", theorem 3.1)."""
    return np.tan(np.linspace(math.atan(ends.high), math.atan(ends.low), n + 1)[:-1])


ALIGNED_SD15 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
ALIGNED_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def aligned(table: tuple[float, ...]) -> Callable[[ModelSchedule, int, Ends], Floats]:
    """A published table of 11 levels (Sabour et al. 2024), interpolated in log sigma to n levels."""

    def rule(model: ModelSchedule, n: int, ends: Ends) -> Floats:
        return np.exp(np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(table)), np.log(table)))

    return rule


SCHEDULES: dict[str, tuple[Callable[[ModelSchedule, int, Ends], Floats], float]] = {
    # name: (rule, its own rho)
    "Uniform": (uniform, 0.0),
    "Karras": (karras, 7.0),
    "Exponential": (exponential, 0.0),
    "Polyexponential": (polyexponential, 1.0),
    "SGM Uniform": (sgm_uniform, 0.0),
    "KL Optimal": (kl_optimal, 0.0),
    "Align Your Steps": (aligned(ALIGNED_SD15), 0.0),
    "Align Your Steps XL": (aligned(ALIGNED_SDXL), 0.0),
    "Simple": (simple, 0.0),
    "Normal": (uniform, 0.0),
    "DDIM": (ddim_uniform, 0.0),
    "Beta": (beta, 0.0),
}


def sigmas_at(model: ModelSchedule, times: Floats) -> Floats:
    """Noise levels at (possibly fractional) training steps."""
    return np.array([model.sigma(t) for t in times])


def timesteps(spacing: str, model: ModelSchedule, n: int, *, offset: int = 0, extra: int = 0) -> Floats:
    """Training steps, noisiest first, as diffusers' `timestep_spacing` places them (Lin et al. 2023, table 2).

    Args:
        spacing: "linspace" (both ends, fractional), "leading" (multiples of T // n plus `offset`) or "trailing" (down
            from T - 1).
        extra: the multistep schedulers place n + 1 points and leave out the last one: extra = 1.
    """
    check_steps(n, model)
    if spacing == "linspace":
        times = np.linspace(model.steps - 1, 0, n + extra)
    elif spacing == "leading":
        times = np.arange(n + extra)[::-1] * float(model.steps // (n + extra)) + offset
    elif spacing == "trailing":
        return np.round(np.arange(model.steps, 0, -model.steps / n))[:n] - 1
    else:
        raise ValueError(f"no timestep spacing is called {spacing!r}; there are 'linspace', 'leading' and 'trailing'")
    return np.minimum(times[:n], model.steps - 1)


def lcm_timesteps(model: ModelSchedule, n: int, original: int = 50) -> Floats:
    """n of the `original` steps that a latent consistency model was distilled on (Luo et al. 2023), noisiest first."""
    if not 1 <= n <= original:
        raise ValueError(
            f"a latent consistency model distilled on {original} steps takes 1 to {original} of them, not {n}"
        )
    grid = np.arange(original, 0, -1) * (model.steps // original) - 1
    return grid[np.floor(np.linspace(0, original, n, endpoint=False)).astype(int)].astype(np.float64)


def start_at(sigmas: list[float], strength: float, convention: str = "webui") -> list[float]:
    """The tail of a schedule that image-to-image runs; noise of level `result[0]` is to be added to the picture.

    Args:
        sigmas: the whole schedule, `steps + 1` levels.
        strength: 0 keeps the picture, 1 runs everything.
        convention: "webui" runs int(min(strength, 0.999) * steps) + 1 steps; "diffusers" runs int(strength * steps).

    Returns:
        The levels left, at least the last one; a single level means that there is nothing to run.
    """
    steps = len(sigmas) - 1
    if not 0 <= strength <= 1:
        raise ValueError(f"denoising strength must be from 0 to 1, not {strength}")
    if convention == "webui":
        return sigmas[steps - int(min(strength, 0.999) * steps) - 1 :]
    if convention == "diffusers":
        return sigmas[max(steps - int(strength * steps), 0) :]
    raise ValueError(f"strength is counted as in 'webui' or 'diffusers', not {convention!r}")


def full_steps(steps: int, strength: float) -> int:
    """How many steps the whole schedule needs for image-to-image to run about `steps` (WebUI "exact steps")."""
    if not 0 < strength <= 1:
        raise ValueError(f"denoising strength must be above 0 and at most 1, not {strength}")
    return int(steps / min(strength, 0.999))


def discard_penultimate(sigmas: list[float]) -> list[float]:
    """Leave out the last level above 0; DPM2-like samplers take a needless step there."""
    return [*sigmas[:-2], sigmas[-1]]


@lru_cache(maxsize=1024)
def beta_quantile(p: float, a: float, b: float) -> float:
    """The x in [0, 1] with I_x(a, b) = p, by bisection (absolute error below 1e-15)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return {0.0: 0.0, 1.0: 1.0}.get(p, (low + high) / 2)


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only below this point
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    fraction = 1.0
    for m in range(
        40, 0, -1
    ):  # evaluated from the tail: 40 pairs are far beyond double precision for x below the bound
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + odd / (1 + even / fraction)
    return front / fraction
