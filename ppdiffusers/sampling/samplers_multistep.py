"""Samplers that reuse what earlier steps saw, so that order costs no calls: LMS, PLMS, DEIS, DPM-Solver++ multistep,
UniPC.

In the notation of the papers lambda = -log sigma, h is a step in lambda, and phi_k are the exponential integrators'
functions.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from paddle import Tensor

from ppdiffusers.sampling.noise import Noise
from ppdiffusers.sampling.samplers import Denoise, Step, check_sigmas, euler_to


def weighted(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_k weights[k] tensors[k]."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor * weight
    return total


def lms(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, order: int = 4) -> Iterator[Step]:
    """Linear multistep: the Lagrange polynomial of the slopes in sigma, integrated (Adams-Bashforth, uneven steps)."""
    check_sigmas(sigmas)
    slopes: list[Tensor] = []
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        slopes = [(x - x0) / sigma, *slopes[: order - 1]]
        x = x + weighted(slopes, adams_weights(sigmas[i - len(slopes) + 1 : i + 1][::-1], after))
        yield Step(i, sigma, x, x0)


def adams_weights(nodes: Sequence[float], end: float) -> list[float]:
    """Integrals from nodes[0] to `end` of the Lagrange polynomials of `nodes`."""
    weights = []
    for j, node in enumerate(nodes):
        roots = [other for k, other in enumerate(nodes) if k != j]
        scale = math.prod(node - other for other in roots)
        area = np.polyint(np.poly(roots)) if roots else np.array([1.0, 0.0])
        weights.append(float(np.polyval(area, end) - np.polyval(area, nodes[0])) / scale)
    return weights


ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, order: int = 4, prediction: str = "eps"
) -> Iterator[Step]:
    """Pseudo linear multistep (Liu et al. 2022, PNDM without Runge-Kutta): DDIM steps with Adams-Bashforth noise
    estimates.

    The first step takes two calls (its estimate is the mean of both ends'), the others one.

    Args:
        prediction: what is extrapolated, "eps" as published, or "v" as diffusers does for networks that predict v.
    """
    check_sigmas(sigmas)
    estimates: list[Tensor] = []
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        estimates = [estimate(x, x0, sigma, prediction), *estimates[: order - 1]]
        mean = weighted(estimates, ADAMS_BASHFORTH[len(estimates) - 1])
        if i == 0 and after:
            ahead = euler_to(x, x0, sigma, after)
            mean = (estimates[0] + estimate(ahead, denoise(ahead, after), after, prediction)) / 2
        x = euler_to(x, from_estimate(x, mean, sigma, prediction), sigma, after)
        yield Step(i, sigma, x, x0)


def estimate(x: Tensor, x0: Tensor, sigma: float, prediction: str) -> Tensor:
    """The network output (eps or v) that stands for x0."""
    eps = (x - x0) / sigma
    return eps if prediction == "eps" else (eps - x0 * sigma) / math.sqrt(1 + sigma**2)


def from_estimate(x: Tensor, value: Tensor, sigma: float, prediction: str) -> Tensor:
    """The x0 that a network output (eps or v) stands for."""
    if prediction == "eps":
        return x - value * sigma
    return x / (1 + sigma**2) - value * (sigma / math.sqrt(1 + sigma**2))


def deis(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    order: int = 3,
    lower_order_below: int = 0,
) -> Iterator[Step]:
    """Exponential integrator with polynomials in log sigma (Zhang & Chen 2022, "log-rho" tAB-DEIS); Euler down to 0."""
    check_sigmas(sigmas)
    slopes: list[Tensor] = []
    steps = len(sigmas) - 1
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        slopes = [(x - x0) / sigma, *slopes[: order - 1]]
        now = min(len(slopes), steps - i) if steps < lower_order_below else len(slopes)
        now = now if after else 1
        x = x + weighted(slopes[:now], log_weights(sigmas[i - now + 1 : i + 1][::-1], after))
        yield Step(i, sigma, x, x0)


def log_weights(nodes: Sequence[float], end: float) -> list[float]:
    """Integrals over sigma from nodes[0] to `end` of the Lagrange polynomials of log `nodes`.

    With u = log sigma the integral of u^n e^u is e^u times the polynomial sum_k (-1)^k n!/(n-k)! u^(n-k).
    """
    if len(nodes) == 1:
        return [end - nodes[0]]
    logs = [math.log(node / nodes[0]) for node in nodes]  # relative to the start: smaller numbers, less cancellation
    weights = []
    for j, log in enumerate(logs):
        roots = [other for k, other in enumerate(logs) if k != j]
        poly = np.poly1d(np.poly(roots) / math.prod(log - other for other in roots))
        area, sign = np.poly1d([0.0]), 1
        for k in range(len(nodes)):
            area, sign = area + sign * poly.deriv(k), -sign
        weights.append(float(end * area(math.log(end / nodes[0])) - nodes[0] * area(0.0)))
    return weights


@dataclass(frozen=True)
class Ending:
    """How a multistep solver lowers its order at the end, as diffusers' configs have it.

    Args:
        lower_below: runs of fewer steps use at most as many estimates as steps are left (diffusers: 15).
        euler: take the last step with one estimate.
    """

    lower_below: int = 0
    euler: bool = False

    def order(self, step: int, steps: int) -> int:
        """The most estimates that step `step` of `steps` may use."""
        left = steps - step
        return left if steps < self.lower_below or (self.euler and left == 1) else steps


def dpmpp_multistep(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    order: int = 2,
    solver: str = "midpoint",
    eta: float = 0.0,
    s_noise: float = 1.0,
    ending: Ending | None = None,
    brownian: bool = True,
) -> Iterator[Step]:
    """DPM-Solver++ multistep (Lu et al. 2022b, algorithm 2), deterministic for eta 0, else its SDE form.

    order 2 is "DPM++ 2M" (eta 0) and "2M SDE", order 3 "3M SDE". With eta the exponential runs over (1 + eta) h, and
    noise of variance after^2 (1 - exp(-2 eta h)) is added.

    Args:
        solver: how order 2 weights the difference, "midpoint" or "heun" (phi_2 instead of phi_1 / 2).
        ending: how the last steps lower their order; None does not, unless they end in 0.
        brownian: draw noise from a Brownian path over sigma instead of from the stream.
    """
    check_sigmas(sigmas)
    if solver not in ("midpoint", "heun"):
        raise ValueError(f"DPM-Solver++ of order 2 has the solvers 'midpoint' and 'heun', not {solver!r}")
    if order not in (1, 2, 3):
        raise ValueError(f"DPM-Solver++ multistep has orders 1, 2 and 3, not {order}")
    draw = noise.brownian(positive_end(sigmas), sigmas[0]) if eta and brownian else None
    seen: list[Tensor] = []
    steps, ending = len(sigmas) - 1, ending or Ending()
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        seen = [x0, *seen[: order - 1]]
        if not after:
            x = x0
        else:
            now = min(len(seen), ending.order(i, steps))
            levels = [-math.log(s) for s in sigmas[i - now + 1 : i + 2][::-1]]  # lambda: the next one first
            h = levels[0] - levels[1]
            own, weights = dpmpp_weights(levels, h * (1 + eta), solver)
            x = x * (after / sigma * math.exp(-eta * h)) + weighted(seen[:now], weights) * own
            if eta:
                fresh = draw(sigma, after) if draw else noise.next()
                x = x + fresh * (s_noise * after * math.sqrt(-math.expm1(-2 * eta * h)))
        yield Step(i, sigma, x, x0)


def positive_end(sigmas: Sequence[float]) -> float:
    """The lowest noise level above 0."""
    return sigmas[-1] or sigmas[-2]


def dpmpp_weights(levels: Sequence[float], width: float, solver: str) -> tuple[float, list[float]]:
    """Weights of the estimates, newest first, and the factor phi_1 = 1 - exp(-width) they share.

    Args:
        levels: lambda of the end of the step, of its start, and of the starts before it: as many estimates as levels
            less one.
        width: (1 + eta) h.
    """
    phi1 = -math.expm1(-width)
    h = levels[0] - levels[1]
    if len(levels) == 2:
        return phi1, [1.0]
    phi2 = 1 - phi1 / width
    r0 = (levels[1] - levels[2]) / h
    if len(levels) == 3:
        lead = (phi2 / phi1 if solver == "heun" else 0.5) / r0
        return phi1, [1 + lead, -lead]
    # D1 = d0 + (d0 - d1) r0 / (r0 + r1) and D2 = (d0 - d1) / (r0 + r1), of d_k = (seen_k - seen_k+1) / r_k, enter as
    # phi2 D1 - phi3 D2
    phi3 = phi2 / width - 0.5
    r1 = (levels[2] - levels[3]) / h
    shared = (phi2 * r0 - phi3) / (r0 + r1)
    d0, d1 = (phi2 + shared) / r0 / phi1, -shared / r1 / phi1
    return phi1, [1 + d0, d1 - d0, -d1]


def unipc(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    order: int = 3,
    variant: str = "bh1",
    lower_order_final: bool = True,
    uncorrected: Sequence[int] = (),
) -> Iterator[Step]:
    """UniPC in data prediction (Zhao et al. 2023, algorithms 5 to 8): each call also corrects the step that led to it.

    Args:
        variant: "bh1" (B(h) = h) or "bh2" (B(h) = e^h - 1).
        lower_order_final: use at most as many estimates as steps are left.
        uncorrected: indices of steps whose result is not corrected.
    """
    check_sigmas(sigmas)
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"UniPC has the variants 'bh1' and 'bh2', not {variant!r}")
    steps, seen, start, now = len(sigmas) - 1, [], x, 0
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if i and i - 1 not in uncorrected:
            levels = [-math.log(s) for s in sigmas[i - now : i + 1][::-1]]
            x = unipc_step(start, [x0, *seen[:now]], levels, variant)
        seen = [x0, *seen[: order - 1]]
        start, now = x, len(seen)
        if lower_order_final:
            now = min(now, steps - i)
        if not after:
            x = x0
        else:
            levels = [-math.log(s) for s in sigmas[i - now + 1 : i + 2][::-1]]
            x = unipc_step(x, [None, *seen[:now]], levels, variant)
        yield Step(i, sigma, x, x0)


def unipc_step(x: Tensor, seen: Sequence[Tensor | None], levels: Sequence[float], variant: str) -> Tensor:
    """x at lambda levels[0] from x at levels[1].

    Args:
        seen: the estimates at `levels`, newest first; seen[0] is None for the predictor, which does not have it yet.
    """
    h = levels[0] - levels[1]
    base = seen[1]
    assert base is not None
    x = x * math.exp(-h) - base * math.expm1(-h)
    places = [*levels[2:], levels[0]]
    others = [(at, value) for at, value in zip(places, [*seen[2:], seen[0]], strict=True) if value is not None]
    scales = [(at - levels[1]) / h for at, _ in others]
    for (_, value), scale, weight in zip(others, scales, unipc_weights(scales, h, variant), strict=True):
        x = x - (value - base) * (weight / scale)
    return x


def unipc_weights(scales: Sequence[float], h: float, variant: str) -> list[float]:
    """B(h) rho_k of the linear system of Zhao et al. (2023, theorem 3.1), h -> -h for data prediction.

    B(h) cancels as soon as there is a system to solve; it matters only in the published shortcut for a single unknown.
    """
    width = -h
    factor = width if variant == "bh1" else math.expm1(width)
    phi, right = math.expm1(width) / width - 1, []
    for j in range(1, len(scales) + 1):
        right.append(phi * math.factorial(j))
        phi = phi / width - 1 / math.factorial(j + 1)
    if len(scales) == 1:
        return [0.5 * factor]  # exact as h -> 0, which keeps the order
    system = np.vander(scales, increasing=True).T
    return [float(w) for w in np.linalg.solve(system, right)]
