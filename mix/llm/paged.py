"""Keys and values in blocks, so that texts of all lengths share one memory, and the forward call over them.

N blocks of S tokens, G key/value heads, D numbers a head; T tokens of a step, B texts, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import paddle
from paddle import Tensor

import kernels
from mix.llm.cache import CacheLayout, write_rows
from mix.llm.context import Heads, bias_of, text_attention


@dataclass(frozen=True)
class Span:
    """The next `count` tokens of a text that has `past` ones in the cache; `blocks` have room for all of them."""

    blocks: Sequence[int]
    past: int
    count: int

    @property
    def after(self) -> int:
        return self.past + self.count


class PagedCache:
    """`keys[i]` and `values[i]` (N, S, G, D) of layer i."""

    def __init__(self, layout: CacheLayout, blocks: int, size: int) -> None:
        self.layout, self.blocks, self.size = layout, blocks, size
        shape = [blocks, size, layout.kv_heads, layout.head_dim]
        self.keys, self.values = (
            [paddle.zeros(shape, dtype=cast(Any, layout.dtype)) for _ in range(layout.layers)] for _ in range(2)
        )

    def step(self, spans: Sequence[Span]) -> "PagedStep":
        """The context of a forward call that adds the spans' tokens. Spans of one token come first.

        Token ids are (B, 1) when every span has one token, else one pack (1, T), text after text.
        """
        return PagedStep(self, spans)


class PagedStep:
    """One forward call over a `PagedCache`: a `Context` without a gradient.

    Texts that add one token (`ones` of them) are one batch for decode attention, the others one pack of prompts.
    """

    def __init__(self, cache: PagedCache, spans: Sequence[Span]) -> None:
        counts = np.asarray([span.count for span in spans])
        self.ones = int((counts == 1).sum())
        if not len(spans) or counts.min() < 1 or (counts[: self.ones] != 1).any():
            raise ValueError(f"a step adds at least one token a text, single ones first; got {counts.tolist()}")
        self.cache, self.spans, self.counts = cache, spans, counts
        self.single = self.ones == len(spans)
        self.longest = max(span.after for span in spans)
        at = np.concatenate([np.arange(span.past, span.after) for span in spans])
        self.positions = paddle.to_tensor(at.reshape([-1, 1] if self.single else [1, -1]))
        self._slots = paddle.to_tensor(np.concatenate([self._places(span, span.past) for span in spans]))
        if self.ones:
            self._prepare_ones(spans[: self.ones])
        if not self.single:
            self._prepare_pack(spans[self.ones :])

    @property
    def pages(self) -> kernels.Pages | None:
        """The blocks are pages; None for a step with a prompt in it."""
        if not self.single:
            return None
        return kernels.Pages(self.cache.keys, self.cache.values, self._lengths, self._table)

    def _places(self, span: Span, start: int = 0) -> np.ndarray:
        """Where the tokens from `start` on lie, counted in tokens from the cache's beginning."""
        at, size = np.arange(start, span.after), self.cache.size
        return np.asarray(span.blocks)[at // size] * size + at % size

    def _prepare_ones(self, spans: Sequence[Span]) -> None:
        self._most = max(span.after for span in spans)
        table = np.zeros([len(spans), -(-self._most // self.cache.size)], np.int32)
        for row, span in zip(table, spans, strict=True):
            used = -(-span.after // self.cache.size)
            row[:used] = span.blocks[:used]
        self._table = paddle.to_tensor(table)
        self._lengths = paddle.to_tensor(np.asarray([span.after for span in spans], np.int32))

    def _prepare_pack(self, spans: Sequence[Span]) -> None:
        """Boundaries of the queries and of the keys, and where the keys lie if not all of them are new."""
        self._ends = [0, *np.cumsum([span.count for span in spans]).tolist()]
        self._key_ends = [0, *np.cumsum([span.after for span in spans]).tolist()]
        self._cu_q = paddle.to_tensor(self._ends, dtype="int32")
        fresh = self._ends == self._key_ends
        self._cu_k = self._cu_q if fresh else paddle.to_tensor(self._key_ends, dtype="int32")
        self._keys_at = None if fresh else paddle.to_tensor(np.concatenate([self._places(span) for span in spans]))
        self._most_keys = max(span.after for span in spans)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        write_rows(keys, self._slots, k)
        write_rows(values, self._slots, v)
        if self.single:
            return self._attend_ones(q, keys, values, heads)
        n = self.ones
        pack = self._attend_pack(*self._sides(q, k, v, keys, values), heads)
        if not n:
            return pack
        shape = [n, 1, q.shape[2], q.shape[3]]
        ones = self._attend_ones(q[:, :n].reshape(shape), keys, values, heads).reshape([1, n, *shape[2:]])
        return paddle.concat([ones, pack], axis=1)

    def _attend_ones(self, q: Tensor, keys: Tensor, values: Tensor, heads: Heads) -> Tensor:
        """q (B, 1, H, D), each over its own text."""
        if heads.plain(self._most):
            table = self._table
            return kernels.attention_decode(q, keys, values, self._lengths, scale=heads.scale, block_table=table)
        (rows, width), size = self._table.shape, self.cache.size
        at = paddle.arange(width * size).unsqueeze(0)
        bias = bias_of(heads, (self._lengths - 1).astype("int64").unsqueeze(1), at)
        places = (
            self._table.astype("int64").unsqueeze(-1) * self.cache.size + paddle.arange(self.cache.size)
        ).flatten()
        shape = [rows, -1, *keys.shape[2:]]
        k, v = (gather_rows(side, places).reshape(shape) for side in (keys, values))
        return kernels.attention(q, k, v, mask=bias, scale=heads.scale)

    def _sides(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the pack, (1, tokens, heads, D)."""
        if self._keys_at is not None:
            k, v = (gather_rows(side, self._keys_at).unsqueeze(0) for side in (keys, values))
        elif self.ones:
            k, v = (t[:, self.ones :] for t in (k, v))
        return (q[:, self.ones :] if self.ones else q), k, v

    def _attend_pack(self, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        if heads.plain(self._most_keys):
            q, k, v = (t.squeeze(0) for t in (q, k, v))
            out = kernels.attention_varlen(q, k, v, self._cu_q, self._cu_k, causal=True, scale=heads.scale)
            return out.unsqueeze(0)
        spans = zip(self._ends[:-1], self._ends[1:], self._key_ends[:-1], self._key_ends[1:], strict=True)
        parts = [text_attention(q[:, a:b], k[:, c:d], v[:, c:d], heads) for a, b, c, d in spans]
        return paddle.concat(parts, axis=1)


def gather_rows(side: Tensor, places: Tensor) -> Tensor:
    """The tokens (T, G, D) at `places` (T,) of `side` (N, S, G, D)."""
    width = side.shape[2] * side.shape[3]
    flat = side.reshape([-1, width])
    if side.dtype == paddle.bfloat16:  # Paddle's CPU build gathers float32 17 times faster than bfloat16
        found = paddle.index_select(flat.view("int32"), places).view("bfloat16")
    else:
        found = paddle.index_select(flat, places)
    return found.reshape([-1, *side.shape[2:]])
