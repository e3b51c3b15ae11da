"""Cosines and sines of rotary positions, with the ways to stretch them to longer texts."""

import math
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from mix.llm.config import LinearScaling, Llama3Scaling, Rope, YarnScaling

FIRST_ROWS = 512


def frequencies(rope: Rope) -> tuple[np.ndarray, float]:
    """((dim/2,) float32 turns in radians a token, the factor on cosines and sines)."""
    plain = (1.0 / np.float32(rope.theta) ** (np.arange(0, rope.dim, 2).astype(np.float32) / rope.dim)).astype(
        "float32"
    )
    match rope.scaling:
        case LinearScaling(factor):
            return plain / np.float32(factor), 1.0
        case Llama3Scaling() as s:
            return _llama3(plain, s), 1.0
        case YarnScaling() as s:
            return _yarn(plain, rope, s), _temperature(s)
        case None:
            return plain, 1.0


def _llama3(plain: np.ndarray, s: Llama3Scaling) -> np.ndarray:
    wave = 2 * np.pi / plain
    blend = (s.original_max_position_embeddings / wave - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return ((1 - blend) * plain / s.factor + blend * plain).astype(np.float32)


def _yarn(plain: np.ndarray, rope: Rope, s: YarnScaling) -> np.ndarray:
    def dimension(rotations: float) -> float:
        length = s.original_max_position_embeddings / (rotations * 2 * math.pi)
        return rope.dim * math.log(length) / (2 * math.log(rope.theta))

    low, high = dimension(s.beta_fast), dimension(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    ramp = np.clip((np.arange(rope.dim // 2, dtype=np.float32) - low) / max(high - low, 1e-3), 0.0, 1.0)
    return (plain / s.factor * ramp + plain * (1 - ramp)).astype(np.float32)


def _temperature(s: YarnScaling) -> float:
    if s.attention_factor is not None:
        return s.attention_factor

    def scale(by: float) -> float:
        return 0.1 * by * math.log(s.factor) + 1.0 if s.factor > 1 else 1.0

    return scale(s.mscale) / scale(s.mscale_all_dim) if s.mscale and s.mscale_all_dim else scale(1.0)


class Angles:
    """A table of cosines and sines that grows with the longest position asked for."""

    def __init__(self, rope: Rope) -> None:
        self.frequencies, self.factor = frequencies(rope)
        self.tables: tuple[Any, Any] | None = None
        self.rows = 0

    def at(self, positions: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, L, dim/2) float32 for positions (B, L), all of them below `longest`."""
        if longest > self.rows or self.tables is None:
            self._grow(max(longest, 2 * self.rows, FIRST_ROWS))
        cos, sin = self.tables  # type: ignore[misc]
        return F.embedding(positions, cos), F.embedding(positions, sin)

    def _grow(self, rows: int) -> None:
        turned = np.outer(np.arange(rows, dtype=np.float32), self.frequencies)
        self.tables = tuple(paddle.to_tensor(f(turned) * np.float32(self.factor)) for f in (np.cos, np.sin))  # type: ignore
        self.rows = rows
