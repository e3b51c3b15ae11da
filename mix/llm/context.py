"""What each query may attend to: the one seam between a block and batches, packs, caches and prefixes.

A block gives its queries, keys and values to a `Context` and gets back what was seen. B batch, L queries, M keys, T
tokens of a pack, H heads, G key/value heads, D numbers a head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import paddle
from paddle import Tensor

import kernels


@dataclass(frozen=True)
class Heads:
    """How the heads of one layer look: scale of the scores, how many keys back (None: all), ALiBi's slopes."""

    scale: float
    window: int | None = None
    slopes: tuple[float, ...] | None = None

    def plain(self, keys: int) -> bool:
        """Whether causal attention over that many keys needs no bias."""
        return self.slopes is None and (self.window is None or keys <= self.window)


class Context(Protocol):
    """What the layers of one forward call see."""

    @property
    def positions(self) -> Tensor:
        """int64 positions of the queries, of the shape of the token ids."""
        ...

    @property
    def longest(self) -> int:
        """A number above every position."""
        ...

    @property
    def pages(self) -> kernels.Pages | None:
        """Where the layers find and put keys and values when all of them are computed by one op, one row a token of
        the ids in their order; None where this cannot be said, and the layers call `attend`."""
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        """q (B, L, H, D), new keys and values (B, L, G, D) -> (B, L, H, D)."""
        ...


@lru_cache(maxsize=8)
def _slopes(slopes: tuple[float, ...]) -> Tensor:
    return paddle.to_tensor(slopes, dtype="float32").reshape([1, -1, 1, 1])


def bias_of(heads: Heads, queries: Tensor, keys: Tensor) -> Tensor:
    """Additive float32 bias (B, H or 1, L, M) for queries and keys at positions (B, L) and (B, M), causal."""
    far = queries.unsqueeze(2) - keys.unsqueeze(1)  # (B, L, M): how far back a key lies
    hidden = far < 0
    if heads.window is not None:
        hidden = hidden | (far >= heads.window)
    bias = paddle.where(hidden, -math.inf, 0.0).astype("float32").unsqueeze(1)
    return bias if heads.slopes is None else bias - _slopes(heads.slopes) * far.astype("float32").unsqueeze(1)


class Batch:
    """Texts side by side, (B, L), each seeing itself; `mask` (B, L) is 1 where a token counts, padding on either side.

    Differentiates.
    """

    pages = None

    def __init__(self, mask: Tensor | None, batch: int, length: int, positions: Tensor | None = None) -> None:
        self.mask = None if mask is None or bool((mask != 0).all()) else mask.astype("bool")
        self.length = length
        self.longest = length if positions is None else int(positions.max()) + 1
        self.positions = self._positions(batch, length) if positions is None else positions
        self._biases: dict[tuple[int | None, tuple[float, ...] | None], Tensor] = {}

    def _positions(self, batch: int, length: int) -> Tensor:
        if self.mask is None:
            return paddle.arange(length).unsqueeze(0).expand([batch, length])
        return (self.mask.astype("int64").cumsum(axis=1) - 1).clip(min=0)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        if heads.plain(self.length):
            mask = None if self.mask is None else self.mask.unsqueeze([1, 2])
            return kernels.attention(q, k, v, mask=mask, causal=True, scale=heads.scale)
        return kernels.attention(q, k, v, mask=self._bias(heads), scale=heads.scale)

    def _bias(self, heads: Heads) -> Tensor:
        key = (heads.window, heads.slopes)
        if key not in self._biases:
            at = paddle.arange(self.length).unsqueeze(0)
            bias = bias_of(heads, at, at)
            if self.mask is not None:
                bias = paddle.where(self.mask.unsqueeze([1, 2]), bias, paddle.full([], -math.inf))
            self._biases[key] = bias
        return self._biases[key]


class Pack:
    """Texts one after the other, (1, T), each seeing itself only; `ends` are the boundaries 0, n1, n1 + n2, ..., T.

    Differentiates.
    """

    pages = None

    def __init__(self, ends: Sequence[int], positions: Tensor | None = None) -> None:
        self.ends = check_ends(ends)
        self.boundaries = paddle.to_tensor(self.ends, dtype="int32")
        sizes = np.diff(self.ends)
        self.most = int(sizes.max())
        self.longest = self.most if positions is None else int(positions.max()) + 1
        if positions is None:
            positions = paddle.to_tensor(np.concatenate([np.arange(n) for n in sizes])[None])
        self.positions = positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        if heads.plain(self.most):
            q, k, v, cu = q.squeeze(0), k.squeeze(0), v.squeeze(0), self.boundaries
            return kernels.attention_varlen(q, k, v, cu, cu, causal=True, scale=heads.scale).unsqueeze(0)
        parts = [
            text_attention(q[:, a:b], k[:, a:b], v[:, a:b], heads)
            for a, b in zip(self.ends[:-1], self.ends[1:], strict=True)
        ]
        return paddle.concat(parts, axis=1)


def check_ends(ends: Sequence[int]) -> list[int]:
    """Boundaries of a pack as whole numbers; ValueError when they do not rise from 0."""
    found = [int(end) for end in ends]
    if len(found) < 2 or found[0] != 0 or any(a >= b for a, b in pairwise(found)):
        raise ValueError(f"cu_seqlens must rise from 0 to the number of tokens, such as [0, 5, 9]; got {found[:8]}")
    return found


def text_attention(q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
    """Causal attention of one text's last L queries, q (1, L, H, D), over its M keys, with window and slopes."""
    length, keys = q.shape[1], k.shape[1]
    if heads.plain(keys):
        return kernels.attention(q, k, v, causal=True, scale=heads.scale)
    at = paddle.arange(keys).unsqueeze(0)
    return kernels.attention(q, k, v, mask=bias_of(heads, at[:, keys - length :], at), scale=heads.scale)
