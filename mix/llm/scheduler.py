"""Which texts go on in the next step, and who gives way when the blocks of the cache run out.

Texts are served in the order they came. Each step every text that is being continued gets its next token; what is left
of the step's budget goes to prompts, oldest first, in chunks. A text that needs a block when there is none takes those
of the youngest one, which is computed again later. The oldest text therefore always goes on, and since no text is
taken that does not fit alone, all of them end.

Prompts are cut, and continued from what is known of them, only at multiples of `grain` tokens.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mix.llm.blocks import FIRST, BlockPool, Digest, digest_of


@dataclass(eq=False)
class Text:
    """A prompt and what has been added to it; keys and values of the first `computed` tokens lie in `blocks`."""

    number: int  # in order of arrival
    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    reused: int | None = None  # tokens that were known when it began; None: it waits still
    digests: list[Digest] = field(default_factory=list)
    cancelled: bool = False

    @property
    def left(self) -> int:
        """Tokens that are not computed yet."""
        return len(self.tokens) - self.computed

    def name_blocks(self, size: int) -> None:
        """Extend `digests` to all full blocks."""
        for start in range(len(self.digests) * size, len(self.tokens) - size + 1, size):
            before = self.digests[-1] if self.digests else FIRST
            self.digests.append(digest_of(before, self.tokens[start : start + size]))


T = TypeVar("T", bound=Text)


@dataclass(frozen=True)
class Work(Generic[T]):
    """Compute the next `count` tokens of a text."""

    text: T
    count: int

    @property
    def complete(self) -> bool:
        """Whether the next token can be chosen after this."""
        return self.count == self.text.left


class Scheduler(Generic[T]):
    """Texts that wait and texts that are being computed, over one pool of blocks."""

    def __init__(self, pool: BlockPool, max_running: int, prefill_chunk: int, grain: int = 1) -> None:
        self.pool, self.max_running, self.prefill_chunk = pool, max_running, prefill_chunk
        self.grain = grain if grain <= prefill_chunk else 1
        self._even = math.lcm(self.grain, pool.size) // pool.size  # blocks that hold whole grains
        self.waiting: deque[T] = deque()
        self.running: list[T] = []
        self.preemptions = 0
        self._under_way: set[Digest] = set()  # blocks of prompts that somebody is computing

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, text: T) -> None:
        """A new text; it must fit the pool when it is alone."""
        text.name_blocks(self.pool.size)
        self.waiting.append(text)

    def plan(self) -> list[Work[T]]:
        """The work of one step, single tokens first; never empty while a text is there."""
        works: list[Work[T]] = []
        budget, short = self.prefill_chunk, False
        for text in list(self.running):
            count = self._chunk(text, budget)
            if not count or text not in self.running:
                continue
            if not self._grow(text, text.computed + count):
                short = True
                continue
            budget -= count if text.left > 1 else 0
            works.append(Work(text, count))
        while not short and budget >= self.grain and self.waiting and len(self.running) < self.max_running:
            text = self._admit()
            if text is None:
                break
            count = self._chunk(text, budget)
            budget -= count
            works.append(Work(text, count))
        return sorted(works, key=lambda work: work.count > 1)

    def _chunk(self, text: T, budget: int) -> int:
        """How many tokens of a text to compute: all that are left, or whole grains within the budget."""
        count = min(text.left, budget)
        if text.left == 1 or count == text.left:
            return text.left
        count -= count % self.grain
        return text.left if count == text.left - 1 else count  # a single one would be computed as a continuation

    def done(self, work: Work[T]) -> None:
        """The tokens are computed; full blocks can be shared from now on."""
        text, size = work.text, self.pool.size
        before = text.computed // size
        text.computed += work.count
        text.name_blocks(size)
        for i in range(before, text.computed // size):
            self.pool.name(text.blocks[i], text.digests[i])
            self._under_way.discard(text.digests[i])

    def remove(self, text: T) -> None:
        """A text that is complete or not wanted any more."""
        if text in self.running:
            self.running.remove(text)
            self._let_go(text)
        else:
            self.waiting.remove(text)

    # --- blocks ---

    def _grow(self, text: T, tokens: int) -> bool:
        """Blocks for that many tokens; False when the text itself had to give way."""
        while len(text.blocks) < self.pool.blocks_for(tokens):
            block = self.pool.take()
            if block is not None:
                text.blocks.append(block)
                continue
            youngest = self.running.pop()
            self._let_go(youngest)
            youngest.computed = 0
            self.waiting.appendleft(youngest)
            self.preemptions += 1
            if youngest is text:
                return False
        return True

    def _let_go(self, text: T) -> None:
        self.pool.release(text.blocks)
        self._under_way.difference_update(text.digests[text.computed // self.pool.size :])
        text.blocks = []

    def _admit(self) -> T | None:
        """Start the text that waits longest, with blocks for all of it; None when these are not there yet.

        A text whose beginning is just being computed for another one waits for that.
        """
        text, size = self.waiting[0], self.pool.size
        # Two tokens at least are computed: the last for its scores, another so that it is no continuation.
        wanted = text.digests[: max(len(text.tokens) - 2, 0) // size]
        found = self.pool.match(wanted)
        if uneven := len(found) % self._even:
            self.pool.release(found[-uneven:])
            del found[-uneven:]
        after = wanted[len(found) : len(found) + self._even]
        short = self.pool.blocks_for(len(text.tokens)) - len(found) > self.pool.available
        if short or any(digest in self._under_way for digest in after):
            self.pool.release(found)
            return None
        self.waiting.popleft()
        self.running.append(text)
        text.blocks, text.computed = list(found), len(found) * size
        text.reused = text.computed if text.reused is None else text.reused
        self._under_way.update(wanted[len(found) :])
        self._grow(text, len(text.tokens))
        return text
