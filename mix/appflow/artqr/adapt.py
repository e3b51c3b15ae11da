"""Let the code follow the picture as far as readers allow.

Two freedoms cost no robustness at all: the mask pattern (8 of them), and the padding. What follows the end of the
message is ignored by every reader, so its bits can be chosen; and since Reed-Solomon codes are linear, choosing P
padding bits fixes *any* P independent modules, check modules included. So the modules where the picture cares most get
the colour that the picture has there, and only the rest is left to chance.

The idea of solving for pixels is Russ Cox's ("QArt codes", 2012), who appended digits to the link instead; here the
text stays exactly what was asked for.
"""

from dataclasses import dataclass

import numpy as np

from mix.appflow.artqr.matrix import DATA, Code, bits_of, masked


@dataclass(frozen=True, eq=False)
class Wish:
    """What the picture would like: (n, n) bool, True = dark, and how much each module matters, (n, n) >= 0."""

    dark: np.ndarray
    weight: np.ndarray


def adapted(code: Code, wish: Wish, masks: tuple[int, ...] = tuple(range(8)), padding: bool = True) -> Code:
    """The code of the same text, version and level that agrees best with the wish."""
    rows, columns = code.grid.places.T
    dark, weight = wish.dark[rows, columns], wish.weight[rows, columns]
    plain = bits_of(code.codewords, len(rows))
    solver = _Solver(code, weight) if padding else None
    best, least = code, np.inf
    for mask in masks:
        wanted = dark ^ masked(mask, rows, columns)
        bits = plain if solver is None else solver.solve(wanted)
        cost = float(weight[bits != wanted].sum())
        if cost < least:
            codewords = np.packbits(bits[: 8 * len(code.codewords)]).tobytes()
            best, least = code.with_codewords(codewords, mask), cost
    return best


def agreement(code: Code, wish: Wish) -> float:
    """The weighted part of the data modules that have the wished colour, 0 to 1."""
    data = code.grid.kinds == DATA
    weight = wish.weight[data]
    return float((weight * (code.modules == wish.dark)[data]).sum() / max(weight.sum(), 1e-12))


class _Solver:
    """Per block: a basis of the code words with a zero message, reduced so that each vector alone decides one bit."""

    def __init__(self, code: Code, weight: np.ndarray) -> None:
        self._plain = bits_of(code.codewords, len(weight))
        order = np.concatenate([np.array(b.data) for b in code.blocks])  # data codewords as the message runs
        place = {int(at): i for i, at in enumerate(order)}
        self._blocks = []
        for block in code.blocks:
            at = np.array(block.data + block.check)
            bits = (at[:, None] * 8 + np.arange(8)).ravel()
            message = np.array([place[i] for i in block.data])
            free = (message[:, None] * 8 + np.arange(8)).ravel() >= code.message_bits
            if free.any():
                basis = _block_words(len(block.data), len(block.check))[np.flatnonzero(free)]
                self._blocks.append((bits, *_reduced(basis, weight[bits])))

    def solve(self, wanted: np.ndarray) -> np.ndarray:
        """Bits (bits,) bool of a valid code that agree with `wanted` at the heaviest places that can be chosen."""
        result = self._plain.copy()
        for bits, basis, pivots in self._blocks:
            flips = (wanted[bits][pivots] ^ result[bits][pivots]).astype(np.uint8)
            result[bits] ^= (flips @ basis % 2).astype(bool)
        return result


_WORDS: dict[tuple[int, int], np.ndarray] = {}


def _block_words(data: int, check: int) -> np.ndarray:
    """(8 data, 8 (data + check)) uint8: a systematic Reed-Solomon generator matrix over bits."""
    if (data, check) not in _WORDS:
        generator = _generator(check)
        rows = np.zeros((8 * data, 8 * (data + check)), np.uint8)
        rows[np.arange(8 * data), np.arange(8 * data)] = 1
        rest = generator[1:].copy()  # x^k modulo the generator, k rising from `check`
        for index in range(data - 1, -1, -1):
            for bit in range(8):
                rows[8 * index + bit, 8 * data :] = np.unpackbits(_times(rest, 0x80 >> bit))
            rest = np.append(rest[1:], 0).astype(np.uint8) ^ _times(generator[1:], int(rest[0]))
        _WORDS[data, check] = rows
    return _WORDS[data, check]


def _field() -> tuple[np.ndarray, np.ndarray]:
    """Powers of 2 in GF(256) modulo x^8 + x^4 + x^3 + x^2 + 1, and their logarithms."""
    powers, logs, value = np.zeros(510, np.uint8), np.zeros(256, int), 1
    for i in range(255):
        powers[i] = powers[i + 255] = value
        logs[value] = i
        value = (value << 1) ^ (0x11D if value & 0x80 else 0)
    return powers, logs


_POWERS, _LOGS = _field()


def _times(values: np.ndarray, factor: int) -> np.ndarray:
    """values * factor in GF(256)."""
    if factor == 0:
        return np.zeros_like(values)
    return np.where(values == 0, 0, _POWERS[_LOGS[values] + _LOGS[factor]]).astype(np.uint8)


def _generator(check: int) -> np.ndarray:
    """Coefficients of prod (x - 2^i), i < check, highest first."""
    poly = np.array([1], np.uint8)
    for i in range(check):
        poly = np.append(poly, 0).astype(np.uint8) ^ np.append(0, _times(poly, int(_POWERS[i]))).astype(np.uint8)
    return poly


def _reduced(basis: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Jordan with the heaviest bits as pivots: the basis (P, bits) and its pivots (P,)."""
    rows = np.packbits(basis, axis=1)
    count, pivots = len(rows), []
    for column in np.argsort(-weight, kind="stable"):
        at = len(pivots)
        if at == count:
            break
        has = (rows[:, column >> 3] >> (7 - (column & 7))) & 1
        found = np.flatnonzero(has[at:])
        if len(found) == 0:
            continue
        rows[[at, at + found[0]]] = rows[[at + found[0], at]]
        has = ((rows[:, column >> 3] >> (7 - (column & 7))) & 1).astype(bool)
        has[at] = False
        rows[has] ^= rows[at]
        pivots.append(int(column))
    return np.unpackbits(rows, axis=1, count=basis.shape[1])[: len(pivots)], np.array(pivots, dtype=int)
