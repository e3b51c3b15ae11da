"""Keys and values of texts that are being continued: one row a text, filled from the left, written in place.

Texts of different lengths need no padding: a step of several tokens a row is computed as one pack, a step of one token
a row as one batch. R rows, M room, G key/value heads, D numbers a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import paddle
from paddle import Tensor

import kernels
from mix.llm.context import Heads, bias_of, text_attention

FIRST_ROOM = 64


@dataclass(frozen=True)
class CacheLayout:
    """What a model keeps of each token: in every layer a key and a value of (kv_heads, head_dim)."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str

    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * (4 if self.dtype == "float32" else 2)


class KVCache:
    """`keys[i]` and `values[i]` (R, M, G, D) of layer i; of row r the first `lengths[r]` tokens count."""

    def __init__(self, layout: CacheLayout, rows: int, room: int = FIRST_ROOM) -> None:
        self.layout, self.rows, self.room = layout, rows, max(room, 1)
        self.lengths = np.zeros(rows, np.int64)
        self.keys = [self._empty() for _ in range(layout.layers)]
        self.values = [self._empty() for _ in range(layout.layers)]

    def _empty(self) -> Tensor:
        shape = [self.rows, self.room, self.layout.kv_heads, self.layout.head_dim]
        return paddle.zeros(shape, dtype=cast(Any, self.layout.dtype))

    def reserve(self, room: int) -> None:
        """Make room for that many tokens a row; doubles, so that growing costs little."""
        if room <= self.room:
            return
        self.room = max(room, 2 * self.room)
        used = int(self.lengths.max())
        for side in (self.keys, self.values):
            for i, old in enumerate(side):
                side[i] = self._empty()
                if used:
                    side[i][:, :used] = old[:, :used]

    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of row `rows[i]`: beam search."""
        if list(rows) == list(range(self.rows)):
            return
        index = paddle.to_tensor(np.asarray(rows, np.int64))
        self.keys = [paddle.index_select(t, index) for t in self.keys]
        self.values = [paddle.index_select(t, index) for t in self.values]
        self.lengths, self.rows = self.lengths[np.asarray(rows, np.int64)], len(rows)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget what lies beyond `lengths[r]` tokens of each row."""
        self.lengths = np.minimum(self.lengths, np.asarray(lengths, np.int64))

    def take(self, row: int, length: int) -> list[tuple[Tensor, Tensor]]:
        """A copy of the first `length` keys and values of a row, each (1, length, G, D), layer by layer."""
        pairs = zip(self.keys, self.values, strict=True)
        return [tuple(t[row : row + 1, :length].clone() for t in pair) for pair in pairs]  # type: ignore[misc]

    def put(self, row: int, kept: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Begin a row with keys and values as `take` gave them."""
        length = kept[0][0].shape[1]
        self.reserve(length)
        for i, (k, v) in enumerate(kept):
            self.keys[i][row : row + 1, :length] = k
            self.values[i][row : row + 1, :length] = v
        self.lengths[row] = length

    def step(self, counts: Sequence[int], rows: Sequence[int] | None = None) -> "Step":
        """The context of a forward call that adds `counts[i]` tokens to row `rows[i]` (all rows when None).

        Token ids are (B, 1) when every count is 1, else all texts in one pack (1, T). Call `commit()` after the
        forward call.
        """
        return Step(self, np.asarray(counts, np.int64), np.arange(self.rows) if rows is None else np.asarray(rows))


class Step:
    """One forward call over a `KVCache`: a `Context` without a gradient."""

    def __init__(self, cache: KVCache, counts: np.ndarray, rows: np.ndarray) -> None:
        if len(counts) != len(rows) or not len(rows) or counts.min() < 1 or rows.max() >= cache.rows:
            raise ValueError(f"a step of {counts.tolist()} tokens does not fit rows {rows.tolist()} of {cache.rows}")
        self.cache, self.rows, self.counts = cache, rows, counts
        self.past = cache.lengths[rows]
        self.after = self.past + counts
        self.longest = int(self.after.max())
        cache.reserve(self.longest)
        self.single = bool((counts == 1).all())
        if self.single:
            at = self.past
        else:
            at = np.concatenate([np.arange(p, a) for p, a in zip(self.past, self.after, strict=True)])
        self._at = at
        self.positions = paddle.to_tensor(at.reshape([-1, 1] if self.single else [1, -1]))
        self._lengths = paddle.to_tensor(self.after.astype(np.int32))
        everyone = len(rows) == cache.rows and bool((rows == np.arange(cache.rows)).all())
        self._table = None if everyone else paddle.to_tensor(rows[:, None].astype(np.int32))

    # What only layers that are called one by one ask for.

    @cached_property
    def _slots(self) -> Tensor:
        return paddle.to_tensor(np.repeat(self.rows * self.cache.room, self.counts) + self._at)

    @cached_property
    def _ends(self) -> list[int]:
        return [0, *np.cumsum(self.counts).tolist()]

    @cached_property
    def _cu_q(self) -> Tensor:
        return paddle.to_tensor(self._ends, dtype="int32")

    @cached_property
    def _cu_k(self) -> Tensor:
        return paddle.to_tensor(np.concatenate([[0], np.cumsum(self.after)]), dtype="int32")

    @property
    def pages(self) -> kernels.Pages | None:
        """A row is a page of its own; None for a step of several tokens a row."""
        if not self.single:
            return None
        return kernels.Pages(self.cache.keys, self.cache.values, self._lengths, self._table)

    def commit(self) -> None:
        """The tokens count from now on."""
        self.cache.lengths[self.rows] = self.after

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        write_rows(keys, self._slots, k)
        write_rows(values, self._slots, v)
        if self.single:
            return self._one_each(q, keys, values, heads)
        if not self.past.any():
            return self._pack(q, k, v, heads)
        return self._pack(q, self._gather(keys), self._gather(values), heads)

    def _one_each(self, q: Tensor, keys: Tensor, values: Tensor, heads: Heads) -> Tensor:
        if heads.plain(self.longest):
            table = self._table
            return kernels.attention_decode(q, keys, values, self._lengths, scale=heads.scale, block_table=table)
        if self._table is not None:
            index = self._table.flatten()
            keys, values = paddle.index_select(keys, index), paddle.index_select(values, index)
        at = paddle.arange(self.longest).unsqueeze(0)
        bias = bias_of(heads, self.positions, at)
        k, v = keys[:, : self.longest].contiguous(), values[:, : self.longest].contiguous()
        return kernels.attention(q, k, v, mask=bias, scale=heads.scale)

    def _gather(self, side: Tensor) -> Tensor:
        """All keys of this step's rows, one text after the other: (1, S, G, D)."""
        parts = [side[int(r) : int(r) + 1, : int(n)] for r, n in zip(self.rows, self.after, strict=True)]
        return parts[0].contiguous() if len(parts) == 1 else paddle.concat(parts, axis=1)

    def _pack(self, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        if heads.plain(self.longest):
            q, k, v = (t.squeeze(0) for t in (q, k, v))
            out = kernels.attention_varlen(q, k, v, self._cu_q, self._cu_k, causal=True, scale=heads.scale)
            return out.unsqueeze(0)
        ends_k = self._cu_k.tolist() if k.shape[1] != q.shape[1] else self._ends
        spans = zip(self._ends[:-1], self._ends[1:], ends_k[:-1], ends_k[1:], strict=True)
        parts = [text_attention(q[:, a:b], k[:, c:d], v[:, c:d], heads) for a, b, c, d in spans]
        return paddle.concat(parts, axis=1)


def write_rows(side: Tensor, slots: Tensor, new: Tensor) -> None:
    """Put the tokens of `new` (B, L, G, D) at places `slots` (B L,) of `side` (R, M, G, D), in place."""
    width = new.shape[2] * new.shape[3]
    flat, rows = side.reshape([-1, width]), new.astype(side.dtype).reshape([-1, width])
    if side.dtype == paddle.bfloat16:  # Paddle's CPU build scatters no bfloat16; two of them are as wide as an int32
        flat, rows = flat.view("int32"), rows.view("int32")
    paddle.scatter_(flat, slots, rows)
