"""Weights that torch and Paddle can both make from a parameter's name, so that goldens need not carry them.

numpy's RandomState is frozen by its own promise: the same seed gives the same numbers in every version.
"""

import zlib
from collections.abc import Sequence

import numpy as np


def random_weight(key: str, shape: Sequence[int]) -> np.ndarray:
    """The parameter `key` in torch's layout, float32: matrices keep the scale of their input, norms are near 1."""
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if len(shape) > 1:
        table = key.endswith(("token_embedding.weight", "position_embedding.weight"))
        spread = 0.05 if table else np.prod(shape[1:]) ** -0.5
        return (noise * spread).astype(np.float32)
    return ((1.0 if key.endswith("weight") else 0.0) + 0.1 * noise).astype(np.float32)


def random_direction(key: str, shape: Sequence[int]) -> np.ndarray:
    """A fixed random tensor of the parameter's shape, to compare a gradient by one number."""
    return np.random.RandomState(zlib.crc32(f"direction {key}".encode())).standard_normal(tuple(shape))
