"""Batches: texts one after the other in rows of almost equal length, or side by side with padding.

Which texts batch n holds is a function of the seed and of n alone, so a resumed run sees what it would have seen.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mix.train.examples import Example
from ppdiffusers.training.draws import Draws

WINDOW = 4096  # texts that are sorted together: more fill rows better, fewer mix better
IGNORED = -100


@dataclass(frozen=True, eq=False)
class Batch:
    """ids and labels (1, T) with the boundaries `ends` of a pack; or (B, L), padded where `mask` is 0."""

    ids: np.ndarray
    labels: np.ndarray
    ends: tuple[int, ...] | None = None
    mask: np.ndarray | None = None

    @property
    def learned(self) -> int:
        """Tokens whose prediction is learned."""
        return int((self.labels != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Tokens that belong to a text."""
        return int(self.ids.size if self.mask is None else self.mask.sum())


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Put texts into as few rows of `room` tokens as can be: the longest first, each where it leaves the least.

    (Best-fit decreasing: never more than 11/9 of the fewest possible rows, in practice within a percent.)
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for i in order:
        if lengths[i] > room:
            raise ValueError(f"a text of {lengths[i]} tokens does not fit into {room}")
        at = bisect_left(free, (lengths[i], -1))
        if at < len(free):
            left, row = free.pop(at)
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(i)
        if left > lengths[i]:
            insort(free, (left - lengths[i], row))
    return rows


def packed(examples: Sequence[Example]) -> Batch:
    """Texts one after the other; the label of a token is the token that follows it in its text."""
    labels = [_labels(e) for e in examples]
    ends = np.cumsum([0, *map(len, examples)]).tolist()
    ids = np.concatenate([e.ids for e in examples])
    return Batch(ids[None].astype(np.int64), np.concatenate(labels)[None], tuple(ends))


def padded(examples: Sequence[Example]) -> Batch:
    """Texts side by side, filled up on the right."""
    shape = (len(examples), max(map(len, examples)))
    ids, labels, mask = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64)
    for row, e in enumerate(examples):
        ids[row, : len(e)], labels[row, : len(e)], mask[row, : len(e)] = e.ids, _labels(e), 1
    return Batch(ids, labels, mask=mask)


def _labels(example: Example) -> np.ndarray:
    """(N,): the next token where it is learned; the last one has none."""
    ahead = np.full(len(example), IGNORED, np.int64)
    ahead[:-1] = np.where(example.learned[1:], example.ids[1:], IGNORED)
    return ahead


class Batches:
    """All batches of a run by their number, epoch after epoch, in an order of each epoch's own."""

    def __init__(self, examples: Sequence[Example], draws: Draws, *, pack: bool, tokens: int, batch: int) -> None:
        if not examples:
            raise ValueError("there is nothing to learn: no record has an answer within the length")
        self.examples, self.draws = examples, draws
        self.pack, self.tokens, self.batch = pack, tokens, batch
        self._plans: list[list[list[int]]] = []  # of each epoch that was asked for: examples of each batch

    def __getitem__(self, number: int) -> Batch:
        return self._made(self.members(number))

    def members(self, number: int) -> list[int]:
        """Which examples batch `number` holds."""
        epoch = 0
        while number >= len(self.epoch(epoch)):
            number -= len(self.epoch(epoch))
            epoch += 1
        return self.epoch(epoch)[number]

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one pass over the data."""
        while len(self._plans) <= epoch:
            self._plans.append(self._plan(len(self._plans)))
        return self._plans[epoch]

    def count(self, epochs: float) -> int:
        """How many batches that many passes are; at least one."""
        whole = int(epochs)
        part = round((epochs - whole) * len(self.epoch(whole))) if epochs > whole else 0
        return max(sum(len(self.epoch(i)) for i in range(whole)) + part, 1)

    def _plan(self, epoch: int) -> list[list[int]]:
        generator = self.draws.generator("order", epoch)
        order = generator.permutation(len(self.examples))
        if not self.pack:
            return [order[i : i + self.batch].tolist() for i in range(0, len(order), self.batch)]
        plan = []
        for i in range(0, len(order), WINDOW):
            window = order[i : i + WINDOW].tolist()
            rows = best_fit([len(self.examples[j]) for j in window], self.tokens)
            plan += [[window[j] for j in row] for row in rows]
        return [plan[i] for i in generator.permutation(len(plan))]

    def _made(self, members: Sequence[int]) -> Batch:
        chosen = [self.examples[i] for i in members]
        return packed(chosen) if self.pack else padded(chosen)
