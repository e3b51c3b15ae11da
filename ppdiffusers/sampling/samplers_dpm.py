"""Samplers that call the network several times within a step: DPM-Solver++ 2S and SDE, singlestep, DPM-Solver fast and
adaptive.

lambda = -log sigma; a data-prediction step with a fixed x0 estimate is `euler_to`, whatever its size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import paddle
from paddle import Tensor

from ppdiffusers.sampling.noise import Noise
from ppdiffusers.sampling.samplers import Denoise, Step, ancestral, check_sigmas, euler, euler_to
from ppdiffusers.sampling.samplers_multistep import positive_end


def dpmpp_2s_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1, r = 1/2) with part of the noise renewed each step."""
    check_sigmas(sigmas)
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        down, up = ancestral(sigma, after, eta)
        x0 = estimate = denoise(x, sigma)
        if down:
            middle = math.sqrt(sigma * down)
            estimate = denoise(euler_to(x, x0, sigma, middle), middle)
        x = euler_to(x, estimate, sigma, down)
        if up:
            x = x + noise.next() * (s_noise * up)
        yield Step(i, sigma, x, x0)


def dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> Iterator[Step]:
    """Stochastic DPM-Solver++(2S), its noise from a Brownian path in sigma; `r` places the second call."""
    check_sigmas(sigmas)
    draw = noise.brownian(positive_end(sigmas), sigmas[0])

    def move(x: Tensor, estimate: Tensor, sigma: float, after: float) -> Tensor:
        down, up = ancestral(sigma, after, eta)
        x = euler_to(x, estimate, sigma, down)
        return x + draw(sigma, after) * (s_noise * up) if up else x

    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if after:
            middle = sigma ** (1 - r) * after**r
            later = denoise(move(x, x0, sigma, middle), middle)
            x = move(x, x0 * (1 - 0.5 / r) + later * (0.5 / r), sigma, after)
        else:
            x = x0
        yield Step(i, sigma, x, x0)


def dpmpp_singlestep(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    order: int = 2,
    solver: str = "midpoint",
    lower_order_final: bool = True,
) -> Iterator[Step]:
    """DPM-Solver++ singlestep (Lu et al. 2022b) whose inner points are levels of the schedule: one call per level.

    Blocks of `order` levels; the last block is shorter where the count does not divide, and for sigmas that end in 0 or
    with `lower_order_final` the last step is of order 1.
    """
    check_sigmas(sigmas)
    orders = block_orders(len(sigmas) - 1, order, lower_order_final or not sigmas[-1])
    start, seen = x, []
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if orders[i] == 1:
            start, seen = x, []
        seen.append(x0)
        x = x0 if not after else singlestep(start, seen, sigmas[i - len(seen) + 1 : i + 2], solver)
        yield Step(i, sigma, x, x0)


def block_orders(steps: int, order: int, short_end: bool) -> list[int]:
    """The order reached at every level: 1, 2, (3,) again and again; `short_end` makes the last level's 1."""
    if order not in (1, 2, 3):
        raise ValueError(f"DPM-Solver++ singlestep has orders 1, 2 and 3, not {order}")
    orders = [1 + i % order for i in range(steps)]
    if short_end and orders[-1] > 1 and (order == 2 or orders[-1] == 3):
        orders[-1] = 1
    return orders


def singlestep(x: Tensor, seen: Sequence[Tensor], sigmas: Sequence[float], solver: str) -> Tensor:
    """x at sigmas[-1] from x at sigmas[0], with x0 estimates at all levels before the last."""
    if len(seen) == 1:
        return euler_to(x, seen[0], sigmas[0], sigmas[1])
    levels = [-math.log(s) for s in sigmas]
    h = levels[-1] - levels[0]
    phi1 = -math.expm1(-h)
    phi2 = 1 - phi1 / h
    ahead = euler_to(x, seen[0], sigmas[0], sigmas[-1])
    rates = [(seen[k] - seen[0]) * (h / (levels[k] - levels[0])) for k in range(1, len(seen))]
    if len(seen) == 2:
        return ahead + rates[0] * (phi1 / 2 if solver == "midpoint" else phi2)
    if solver == "midpoint":
        return ahead + rates[1] * phi2
    r1, r0 = ((levels[k] - levels[0]) / h for k in (1, 2))
    slope = (rates[0] * r0 - rates[1] * r1) / (r0 - r1)
    curve = (rates[1] - rates[0]) * (2 / (r0 - r1))
    return ahead + slope * phi2 - curve * (phi2 / h - 0.5)


@dataclass
class Stage:
    """A DPM-Solver step in noise prediction (Lu et al. 2022a, algorithms 1 and 2) whose orders share calls."""

    denoise: Denoise
    x: Tensor
    sigma: float
    memory: dict[float, Tensor] = field(default_factory=dict)

    def eps(self, x: Tensor, sigma: float) -> Tensor:
        if sigma not in self.memory:
            self.memory[sigma] = (x - self.denoise(x, sigma)) / sigma
        return self.memory[sigma]

    @property
    def x0(self) -> Tensor:
        return self.x - self.eps(self.x, self.sigma) * self.sigma

    def first(self, after: float) -> Tensor:
        return self.x + self.eps(self.x, self.sigma) * (after - self.sigma)

    def second(self, after: float, r1: float = 0.5) -> Tensor:
        middle = self.sigma ** (1 - r1) * after**r1
        eps, later = self.eps(self.x, self.sigma), self.eps(self.first(middle), middle)
        return self.first(after) + (later - eps) * ((after - self.sigma) / (2 * r1))

    def third(self, after: float, r1: float = 1 / 3, r2: float = 2 / 3) -> Tensor:
        h = math.log(self.sigma / after)
        inner, outer = (self.sigma ** (1 - r) * after**r for r in (r1, r2))
        eps, first = self.eps(self.x, self.sigma), self.eps(self.first(inner), inner)
        ahead = self.first(outer) - (first - eps) * (outer * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1))
        second = self.eps(ahead, outer)
        return self.first(after) - (second - eps) * (after / r2 * (math.expm1(h) / h - 1))


def split_step(sigma: float, after: float, low: float, eta: float) -> tuple[float, float]:
    """`ancestral`, but never deterministic below `low`, where the solver's logarithms end."""
    if not eta:
        return after, 0.0
    down = max(low, ancestral(sigma, after, eta)[0])
    return down, math.sqrt(after**2 - down**2)


def dpm_fast(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: float = 0.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """DPM-Solver-fast (Lu et al. 2022a, appendix D.2): as many calls as `sigmas` has steps, in third-order steps.

    Only the ends of `sigmas` count; steps are equal in log sigma. If they end in 0, the last level above is left by
    Euler's method with the last estimate, without a call.
    """
    check_sigmas(sigmas)
    calls, high, low = len(sigmas) - 1, sigmas[0], positive_end(sigmas)
    orders = [3] * (calls // 3 - 1) + [2, 1] if calls % 3 == 0 else [3] * (calls // 3) + [calls % 3]
    levels = [high ** (1 - k / len(orders)) * low ** (k / len(orders)) for k in range(len(orders) + 1)]
    for i, (order, (sigma, after)) in enumerate(zip(orders, pairwise(levels), strict=True)):
        down, up = split_step(sigma, after, low, eta)
        stage = Stage(denoise, x, sigma)
        x = (stage.first, stage.second, stage.third)[order - 1](down)
        if up:
            x = x + noise.next() * (s_noise * up)
        if i == len(orders) - 1 and not sigmas[-1]:
            x = x - stage.eps(x, min(stage.memory)) * low
        yield Step(i, sigma, x, stage.x0)


@dataclass(frozen=True)
class Tolerance:
    """When the adaptive solver (DPM-Solver-12 or -23) accepts a step, and how it chooses the next."""

    relative: float = 0.05
    absolute: float = 0.0078
    first: float = 0.05
    safety: float = 0.81


def dpm_adaptive(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    order: int = 3,
    tolerance: Tolerance | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver with adaptive steps (Lu et al. 2022a, appendix C): only the ends of `sigmas` count, not their number.

    A step in lambda is accepted when solutions of `order` and `order - 1` agree; each trial costs `order` calls and is
    yielded.
    """
    check_sigmas(sigmas)
    if order not in (2, 3):
        raise ValueError(f"adaptive DPM-Solver has orders 2 and 3, not {order}")
    limit, low = tolerance or Tolerance(), positive_end(sigmas)
    if low == sigmas[0]:  # one level above 0: there is nothing to adapt
        yield from euler(denoise, x, sigmas, noise)
        return
    h = limit.first
    end, at, before, index = -math.log(low), -math.log(sigmas[0]), x, 0
    while at < end - 1e-5:
        sigma, until = math.exp(-at), min(end, at + h)
        after = math.exp(-until)
        down, up = split_step(sigma, after, low, eta)
        stage = Stage(denoise, x, sigma)
        rough = stage.first(down) if order == 2 else stage.second(down, 1 / 3)
        fine = stage.second(down) if order == 2 else stage.third(down)
        scale = paddle.clip(paddle.maximum(rough.abs(), before.abs()) * limit.relative, min=limit.absolute)
        error = float((((rough - fine) / scale) ** 2).mean().sqrt())
        factor = (1 / (1e-8 + error)) ** (1 / (1.5 if eta else order))
        factor = 1 + math.atan(factor - 1)  # a smooth limiter: no step grows more than 1 + pi/2 times
        if factor >= limit.safety:
            before, x, at = rough, fine, until
            if up:
                x = x + noise.next() * (s_noise * up)
            if at >= end - 1e-5 and not sigmas[-1]:
                x = x - stage.eps(x, min(stage.memory)) * low
        h *= factor
        yield Step(index, sigma, x, stage.x0)
        index += 1
