"""Who holds which block of a paged cache: counting, sharing of equal beginnings, forgetting the least recently used.

A block has room for a fixed number of tokens. A full block is known by what it holds and all that came before it, so
that texts which begin alike share their blocks. Nothing here computes: blocks are numbers.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

Digest = bytes
FIRST: Digest = b""


def digest_of(before: Digest, tokens: Sequence[int]) -> Digest:
    """The name of a full block: what it holds, after the block named `before`."""
    return hashlib.blake2b(before + np.asarray(tokens, "<i8").tobytes(), digest_size=16).digest()


class BlockPool:
    """`count` blocks of `size` tokens. A block is held by somebody, or kept for its contents, or free."""

    def __init__(self, count: int, size: int) -> None:
        if count < 1 or size < 1:
            raise ValueError(f"a cache of {count} blocks of {size} tokens holds nothing; both must be at least 1")
        self.count, self.size = count, size
        self._free = list(range(count))[::-1]
        self._holders = [0] * count
        self._names: dict[int, Digest] = {}
        self._known: dict[Digest, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # known blocks that nobody holds, oldest first

    @property
    def available(self) -> int:
        """Blocks that can be handed out now."""
        return len(self._free) + len(self._kept)

    @property
    def held(self) -> int:
        """Blocks in somebody's hands."""
        return self.count - self.available

    @property
    def kept(self) -> int:
        """Blocks that only wait for a text that begins as theirs did."""
        return len(self._kept)

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.size)

    def take(self) -> int | None:
        """A block to fill; None when all are held."""
        if self._free:
            block = self._free.pop()
        elif self._kept:
            block, _ = self._kept.popitem(last=False)
            del self._known[self._names.pop(block)]
        else:
            return None
        self._holders[block] = 1
        return block

    def match(self, digests: Sequence[Digest]) -> list[int]:
        """Blocks that hold the beginning of a text whose full blocks have these names; they are held from now on."""
        found: list[int] = []
        for digest in digests:
            block = self._known.get(digest)
            if block is None:
                break
            self._holders[block] += 1
            self._kept.pop(block, None)
            found.append(block)
        return found

    def name(self, block: int, digest: Digest) -> None:
        """The block is full; equal ones that come later can share it."""
        if digest not in self._known and block not in self._names:
            self._known[digest], self._names[block] = block, digest

    def release(self, blocks: Sequence[int]) -> None:
        """Give back the blocks of a text, given in order; its end is forgotten before its beginning."""
        for block in reversed(blocks):
            if self._holders[block] < 1:
                raise AssertionError(f"block {block} is given back more often than taken")
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._names:
                self._kept[block] = None
            else:
                self._free.append(block)

    def forget(self) -> None:
        """Drop what is kept of texts that are over."""
        for block in self._kept:
            del self._known[self._names.pop(block)]
            self._free.append(block)
        self._kept.clear()
