"""A sampling problem with a known x0, the same as in tools/goldens/sampling.py, and noise given in advance."""

import math
from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor

from ppdiffusers.sampling import ModelSchedule

SHAPE = (2, 4, 6, 6)
WIDTH = 0.3


class GivenNoise:
    """Draw k is numpy's RandomState(1000 + k).standard_normal, whoever asks and for whichever interval."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> Tensor:
        values = np.random.RandomState(1000 + self.count).standard_normal(SHAPE)
        self.count += 1
        return paddle.to_tensor(values.astype(np.float32))

    def brownian(self, low: float, high: float) -> Callable[[float, float], Tensor]:
        return lambda sigma, after: self.next()


def mixture(x: Tensor, sigma: float) -> Tensor:
    """The posterior mean of x0 for components at +-c with standard deviation WIDTH."""
    centre = paddle.linspace(0.5, 1.5, math.prod(SHAPE[1:])).reshape([1, *SHAPE[1:]])
    variance = WIDTH**2 + sigma**2
    keep = WIDTH**2 / variance
    return x * keep + (1 - keep) * centre * paddle.tanh(centre * x / variance)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """The posterior mean of x0 for data of standard deviation WIDTH around 0."""
    return x * (WIDTH**2 / (WIDTH**2 + sigma**2))


def gaussian_solution(x: Tensor, sigma: float) -> Tensor:
    """Where the probability flow from (x, sigma) ends for `gaussian` data."""
    return x * (WIDTH / math.sqrt(WIDTH**2 + sigma**2))


def network(model: ModelSchedule, prediction: str) -> Callable[[Tensor, float, object], Tensor]:
    """`mixture` as a network that predicts eps, v or x0."""

    def run(x_in: Tensor, t: float, cond: object) -> Tensor:
        sigma = model.sigma(t)
        x = x_in * math.sqrt(1 + sigma**2)
        x0 = mixture(x, sigma)
        eps = (x - x0) / sigma
        v = (eps - x0 * sigma) / math.sqrt(1 + sigma**2)
        return {"epsilon": eps, "v_prediction": v, "sample": x0}[prediction]

    return run


def unit() -> Tensor:
    return paddle.to_tensor(np.random.RandomState(7).standard_normal(SHAPE).astype(np.float32))
