"""Prompts that begin alike are computed once: a store of keys and values by the tokens they came from."""

from collections import OrderedDict
from collections.abc import Sequence

from paddle import Tensor

from mix.llm.cache import KVCache

Kept = list[tuple[Tensor, Tensor]]


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts have in common from their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class PrefixCache:
    """Computed prompts of one model, the least recently used forgotten beyond `most_bytes`."""

    def __init__(self, most_bytes: int = 256 * 2**20) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self.hits = 0  # tokens that did not have to be computed
        self._kept: OrderedDict[tuple[int, ...], Kept] = OrderedDict()

    def load(self, tokens: Sequence[int], cache: KVCache, row: int) -> int:
        """Begin `row` with the longest known beginning of `tokens`, never all of them; its length."""
        best = max(self._kept, key=lambda known: common_length(known, tokens), default=())
        length = min(common_length(best, tokens), len(tokens) - 1)
        if length < 1:
            return 0
        self._kept.move_to_end(best)
        self.hits += length
        cache.put(row, [(k[:, :length], v[:, :length]) for k, v in self._kept[best]])
        return length

    def store(self, tokens: Sequence[int], cache: KVCache, row: int) -> None:
        """Keep what `row` has computed of `tokens`."""
        tokens = tuple(tokens)[: int(cache.lengths[row])]
        size = len(tokens) * cache.layout.bytes_per_token()
        if tokens in self._kept or not tokens or size > self.most_bytes:
            return
        for known in [k for k in self._kept if k == tokens[: len(k)]]:  # the longer text says it all
            self._drop(known, cache)
        self._kept[tokens] = cache.take(row, len(tokens))
        self.bytes += size
        while self.bytes > self.most_bytes:
            self._drop(next(iter(self._kept)), cache)

    def _drop(self, known: tuple[int, ...], cache: KVCache) -> None:
        del self._kept[known]
        self.bytes -= len(known) * cache.layout.bytes_per_token()
