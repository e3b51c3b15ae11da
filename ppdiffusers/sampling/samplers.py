"""Samplers as generators: `f(denoise, x, sigmas, noise, **options)` yields a Step per step; the last step's x is the
result.

Everything is in sigma space, x = x0 + sigma noise (see model_schedule.py), because there a solver is only its own
formula: `denoise(x, sigma)` estimates x0, `(x - x0) / sigma` is dx/dsigma of the probability flow (Karras et al. 2022,
    equation 1 with
s = 1, sigma = t). Solvers published in alpha/sigma ("VP") form are the same formulas divided by alpha: DDIM is Euler's
method.

x is fp32 (B, C, Y, X) at noise level sigmas[0]; sigmas descend and usually end in 0; coefficients are Python floats.
Closing a generator stops the run, nothing needs undoing.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from paddle import Tensor

from ppdiffusers.sampling.noise import Noise

Denoise = Callable[[Tensor, float], Tensor]
Sampler = Callable[..., "Iterator[Step]"]


@dataclass(frozen=True)
class Step:
    """A step that began at noise level `sigma`, took the picture for `x0` (for previews), and left latents `x`."""

    index: int
    sigma: float
    x: Tensor
    x0: Tensor


@dataclass(frozen=True)
class Churn:
    """Noise added before each step of a deterministic sampler (Karras et al. 2022, algorithm 2).

    Args:
        amount: S_churn, spread over all steps; 0 adds none.
        low, high: S_tmin and S_tmax, the noise levels between which it is added.
        noise: S_noise, the standard deviation of what is added.
    """

    amount: float = 0.0
    low: float = 0.0
    high: float = math.inf
    noise: float = 1.0

    def raised(self, sigma: float, steps: int) -> float:
        """The noise level to which a step that begins at `sigma` is raised."""
        gamma = min(self.amount / steps, math.sqrt(2) - 1) if self.low <= sigma <= self.high else 0.0
        return sigma * (1 + gamma)

    def apply(self, x: Tensor, sigma: float, raised: float, noise: Noise) -> Tensor:
        """x at noise level `raised`."""
        if raised == sigma:
            return x
        return x + noise.next() * (self.noise * math.sqrt(raised**2 - sigma**2))


def check_sigmas(sigmas: Sequence[float]) -> None:
    """Raise ValueError unless these are noise levels one can run down."""
    if len(sigmas) < 2:
        raise ValueError(f"a run needs at least one step, that is two noise levels, not {len(sigmas)}")
    if sigmas[-1] < 0 or any(a <= b for a, b in pairwise(sigmas)):
        raise ValueError("noise levels must descend strictly and not go below 0")


def ancestral(sigma: float, after: float, eta: float) -> tuple[float, float]:
    """Split a step down to `after` into a deterministic step to `down` and fresh noise `up`, down^2 + up^2 = after^2.

    eta 1 gives the noise of the reverse Markov chain of Ho et al. (2020), 0 none; Song et al. (2021, equation 16) have
    the same formula in alphas.
    """
    up = min(after, eta * math.sqrt(after**2 * (sigma**2 - after**2) / sigma**2))
    return math.sqrt(after**2 - up**2), up


def euler_to(x: Tensor, x0: Tensor, sigma: float, after: float) -> Tensor:
    """One Euler step of the probability flow: also the exact solution if x0 stays as it is."""
    ratio = after / sigma
    return x * ratio + x0 * (1 - ratio)


def euler(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, churn: Churn | None = None
) -> Iterator[Step]:
    """Euler's method (Karras et al. 2022, algorithm 2 without the correction); DDIM with eta 0 is this."""
    check_sigmas(sigmas)
    churn = churn or Churn()
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        raised = churn.raised(sigma, len(sigmas) - 1)
        x = churn.apply(x, sigma, raised, noise)
        x0 = denoise(x, raised)
        x = euler_to(x, x0, raised, after)
        yield Step(i, sigma, x, x0)


def euler_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """Euler steps that renew part of the noise: DDIM with `eta` (Song et al. 2021), DDPM (Ho et al. 2020) for 1."""
    check_sigmas(sigmas)
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        down, up = ancestral(sigma, after, eta)
        x = euler_to(x, x0, sigma, down)
        if up:
            x = x + noise.next() * (s_noise * up)
        yield Step(i, sigma, x, x0)


def heun(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, churn: Churn | None = None
) -> Iterator[Step]:
    """Heun's second-order method (Karras et al. 2022, algorithm 2); Euler where the step ends at 0."""
    check_sigmas(sigmas)
    churn = churn or Churn()
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        raised = churn.raised(sigma, len(sigmas) - 1)
        x = churn.apply(x, sigma, raised, noise)
        x, x0 = heun_step(denoise, x, raised, after)
        yield Step(i, sigma, x, x0)


def heun_step(denoise: Denoise, x: Tensor, sigma: float, after: float) -> tuple[Tensor, Tensor]:
    """x at `after` by Heun's method, and the x0 seen at `sigma`."""
    x0 = denoise(x, sigma)
    ahead = euler_to(x, x0, sigma, after)
    if after:
        slope = (x - x0) / sigma
        slope_ahead = (ahead - denoise(ahead, after)) / after
        ahead = x + (slope + slope_ahead) * ((after - sigma) / 2)
    return ahead, x0


def dpm2(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, churn: Churn | None = None
) -> Iterator[Step]:
    """The midpoint method in log sigma (DPM-Solver-2, Lu et al. 2022a, with the midpoint's slope); Euler down to 0."""
    check_sigmas(sigmas)
    churn = churn or Churn()
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        raised = churn.raised(sigma, len(sigmas) - 1)
        x = churn.apply(x, sigma, raised, noise)
        x, x0 = midpoint_step(denoise, x, raised, after)
        yield Step(i, sigma, x, x0)


def dpm2_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """`dpm2` with part of the noise renewed each step."""
    check_sigmas(sigmas)
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        down, up = ancestral(sigma, after, eta)
        x, x0 = midpoint_step(denoise, x, sigma, down)
        if up:
            x = x + noise.next() * (s_noise * up)
        yield Step(i, sigma, x, x0)


def midpoint_step(denoise: Denoise, x: Tensor, sigma: float, after: float) -> tuple[Tensor, Tensor]:
    """x at `after` with the slope at the geometric mean of both levels, and the x0 seen at `sigma`."""
    x0 = denoise(x, sigma)
    if not after:
        return euler_to(x, x0, sigma, after), x0
    middle = math.sqrt(sigma * after)
    half = euler_to(x, x0, sigma, middle)
    slope = (half - denoise(half, middle)) / middle
    return x + slope * (after - sigma), x0


def lcm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, s_noise: float = 1.0) -> Iterator[Step]:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1; Luo et al. 2023): jump to x0, add noise back.

    The boundary condition c_skip of latent consistency models is below 1e-5 wherever they are evaluated and is left
    out.
    """
    check_sigmas(sigmas)
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x = x0 + noise.next() * (s_noise * after) if after else x0
        yield Step(i, sigma, x, x0)


@dataclass(frozen=True)
class Restart:
    """Where and how often to go back up (Xu et al. 2023, "Restart sampling")."""

    low: float = 0.1
    high: float = 2.0
    steps: int = 9
    times: int = 1


def restart(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    again: Restart | None = None,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Heun's method that, having come down to `again.low`, adds noise up to `again.high` and comes down again.

    Without `again` it is the WebUI's choice: nothing below 20 steps, once 9 steps from 20 on, twice a quarter of them
    from 36 on; these steps are taken from the `steps` asked for, and the rest are Karras steps over the same range.
    """
    check_sigmas(sigmas)
    last = sigmas[0]
    for i, (sigma, after) in enumerate(restart_pairs(sigmas, again)):
        if sigma > last:
            x = x + noise.next() * (s_noise * math.sqrt(sigma**2 - last**2))
        x, x0 = heun_step(denoise, x, sigma, after)
        last = after
        yield Step(i, sigma, x, x0)


def restart_pairs(sigmas: Sequence[float], again: Restart | None) -> list[tuple[float, float]]:
    """The (from, to) of every step of a restart run."""
    steps = len(sigmas) - 1
    if again is None:
        if steps < 20:
            return list(pairwise(sigmas))
        again = Restart(steps=9) if steps < 36 else Restart(steps=steps // 4, times=2)
        sigmas = [*karras_steps(steps - again.steps * again.times, sigmas[-2], sigmas[0]), 0.0]
    low, high = (min(range(len(sigmas)), key=lambda k: abs(sigmas[k] - level)) for level in (again.low, again.high))
    pairs = list(pairwise(sigmas))
    if high >= low:  # the schedule is too coarse to have a way back up
        return pairs
    once = list(pairwise(karras_steps(again.steps + 1, sigmas[low], sigmas[high])))
    return pairs[:low] + once * again.times + pairs[low:]


def karras_steps(n: int, low: float, high: float) -> list[float]:
    """n noise levels from `high` to `low`, equal steps in sigma^(1/7) (Karras et al. 2022, equation 5)."""
    top, bottom = high ** (1 / 7), low ** (1 / 7)
    return [high if not i else (top + (bottom - top) * i / (n - 1)) ** 7 for i in range(n)]
