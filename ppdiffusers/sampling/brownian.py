"""Noise for stochastic solvers that belongs to an interval of sigma, not to the order of drawing.

A Brownian path is drawn by halving (Levy's construction, as a virtual Brownian tree: Li et al. 2020, "Scalable
gradients for stochastic differential equations"): every node of the dyadic tree has its own seed, so any increment can
be had in any order, and twice the steps see the same path. Seeds, rounding and order of operations are those of
torchsde's BrownianTree, which k-diffusion and the WebUI use: the same seed gives the same noise as there.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ppdiffusers.sampling.generators import CpuGenerator, CudaGenerator, Floats32

DIGITS = 6  # times are rounded to this many decimals, which ends the halving
KEPT = 64  # nodes remembered: neighbouring intervals share one end and most of the way to it
POOL = 24  # words in numpy's SeedSequence pool


class BrownianPath:
    """A Brownian path of arrays over [start, end], fixed by its seed.

    Args:
        seed: any integer; negative ones count as their 64-bit two's complement.
        generator: what draws normal numbers for a node (CpuGenerator or CudaGenerator).
    """

    def __init__(
        self,
        seed: int,
        start: float,
        end: float,
        shape: tuple[int, ...],
        generator: Callable[[int], CpuGenerator | CudaGenerator],
    ) -> None:
        self._entropy = seed & 0xFFFFFFFFFFFFFFFF
        self._shape, self._generator = shape, generator
        self._start, self._end = round(start, DIGITS), round(end, DIGITS)
        self._normal = lru_cache(maxsize=KEPT)(self._draw)
        self._whole = self._normal(()) * np.float32(math.sqrt(end - start))

    def __call__(self, a: float, b: float) -> Floats32:
        """The increment of the path from time `a` to `b`, of variance |b - a|; times are clamped to the interval."""
        a, b = (round(min(max(t, self._start), self._end), DIGITS) for t in (a, b))
        if a == b:
            return np.zeros(self._shape, np.float32)
        if a > b:
            return -self(b, a)
        return self._increment(a, b, self._start, self._end, self._whole, (0, 0))

    def _increment(
        self, a: float, b: float, start: float, end: float, whole: Floats32, node: tuple[int, int]
    ) -> Floats32:
        """What of [a, b] lies in the node over [start, end], whose own increment is `whole`; node is (index, depth)."""
        if a >= end or b <= start:
            return np.zeros(self._shape, np.float32)
        if a <= start and end <= b:
            return whole
        middle, length = round(0.5 * (start + end), DIGITS), 1 / (end - start)
        left = np.float32(middle - start) * whole * np.float32(length)
        left = left + np.float32(math.sqrt((middle - start) * (end - middle) * length)) * self._normal(node)
        index, depth = node
        parts = []
        if a < middle:
            parts.append(self._increment(a, b, start, middle, left, (2 * index, depth + 1)))
        if b > middle:
            parts.append(self._increment(a, b, middle, end, whole - left, (2 * index + 1, depth + 1)))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _draw(self, node: tuple[int, ...]) -> Floats32:
        seeds = np.random.SeedSequence(self._entropy, spawn_key=node, pool_size=POOL)
        return self._generator(int(seeds.generate_state(1)[0])).normal(self._shape)
