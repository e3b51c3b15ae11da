"""The code itself: which module is dark, what each module is for, and where every bit of the message lies.

ISO/IEC 18004, model 2. The `qrcode` package gives capacities, segments, error correction and the fixed patterns; where
bits lie and which modules are what is worked out here, because the picture may later choose bits that nobody reads (see
`adapt`). Text that is not ASCII is announced as UTF-8 (ECI 26): without it ZBar guesses, and guesses wrong for Latin
letters with accents.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import qrcode
from qrcode import base, constants, util

LEVELS = {
    "L": constants.ERROR_CORRECT_L,
    "M": constants.ERROR_CORRECT_M,
    "Q": constants.ERROR_CORRECT_Q,
    "H": constants.ERROR_CORRECT_H,
}
RECOVERS = {"L": 0.07, "M": 0.15, "Q": 0.25, "H": 0.30}  # the part of the codewords that may be wrong
DATA, FINDER, TIMING, ALIGNMENT, FORMAT, VERSION = range(6)  # what a module is for
KINDS = ("data", "finder", "timing", "alignment", "format", "version")
_ECI, _UTF8 = 7, 26


@dataclass(frozen=True, eq=False)
class Grid:
    """What all codes of a version have in common. n modules a side."""

    version: int
    kinds: np.ndarray  # (n, n) uint8
    places: np.ndarray  # (bits, 2) int: row and column of each bit of the codewords, in the order they are written

    @property
    def n(self) -> int:
        """Modules a side."""
        return len(self.kinds)


@dataclass(frozen=True)
class Block:
    """One Reed-Solomon block: which of the written codewords are its data and its correction, in order."""

    data: tuple[int, ...]
    check: tuple[int, ...]

    @property
    def corrects(self) -> int:
        """Codewords of this block that may be wrong."""
        return len(self.check) // 2


@dataclass(frozen=True, eq=False)
class Code:
    """A text as modules."""

    text: str
    level: str
    mask: int
    grid: Grid
    modules: np.ndarray  # (n, n) bool, True = dark
    codewords: bytes  # as written: blocks interleaved, not masked
    message_bits: int  # data bits that a reader needs, terminator included; the rest is padding

    @property
    def n(self) -> int:
        """Modules a side."""
        return self.grid.n

    @property
    def version(self) -> int:
        """1 to 40."""
        return self.grid.version

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The Reed-Solomon blocks."""
        return blocks(self.version, self.level)

    def with_codewords(self, codewords: bytes, mask: int) -> "Code":
        """The code with other written codewords and another mask pattern."""
        modules = _fixed(self.version, self.level, mask).copy()
        rows, columns = self.grid.places.T
        modules[rows, columns] = bits_of(codewords, len(rows)) ^ masked(mask, rows, columns)
        return replace(self, mask=mask, modules=modules, codewords=codewords)


def make(text: str, level: str = "M", version: int = 0, mask: int | None = None) -> Code:
    """A code for the text. version 0 takes the smallest that fits; mask None the one that the standard prefers.

    Raises ValueError where the text does not fit, with what would.
    """
    if level not in LEVELS:
        raise ValueError(f"error correction is one of {', '.join(LEVELS)}, not {level!r}")
    if mask is not None and not 0 <= mask <= 7:
        raise ValueError(f"mask patterns are numbered 0 to 7, got {mask}")
    if not 0 <= version <= 40:
        raise ValueError(f"versions are numbered 1 to 40, got {version}; 0 takes the smallest that fits")
    segments = _segments(text)
    least = smallest(text, level)
    if version and version < least:
        raise ValueError(
            f"version {version} is too small for this text at level {level}: use {least} or more, a lower level, or a "
            "shorter text"
        )
    chosen = version or least
    data, used = _data(segments, chosen, level, eci=not text.isascii())
    code = Code(text, level, 0, grid(chosen), np.zeros((0, 0), bool), written(data, chosen, level), used)
    if mask is not None:
        return code.with_codewords(code.codewords, mask)
    tries = [code.with_codewords(code.codewords, m) for m in range(8)]
    return min(tries, key=lambda one: util.lost_point(one.modules.tolist()))


def smallest(text: str, level: str) -> int:
    """The smallest version that holds the text. Raises ValueError where none does."""
    segments = _segments(text)
    for version in range(1, 41):
        if _bits(segments, version, not text.isascii()) <= 8 * sum(len(b.data) for b in blocks(version, level)):
            return version
    raise ValueError(f"the text is too long for a code at level {level}: shorten it, or use a lower level")


def _segments(text: str) -> list[util.QRData]:
    """Digits and capitals are packed tighter than bytes where enough of them follow each other."""
    return list(util.optimal_data_chunks(text.encode("utf-8"), minimum=12))


def _bits(segments: Sequence[util.QRData], version: int, eci: bool) -> int:
    buffer = _message(segments, version, eci)
    return len(buffer)


def _message(segments: Sequence[util.QRData], version: int, eci: bool) -> util.BitBuffer:
    buffer = util.BitBuffer()
    if eci:
        buffer.put(_ECI, 4)
        buffer.put(_UTF8, 8)
    for segment in segments:
        buffer.put(segment.mode, 4)
        buffer.put(len(segment), util.length_in_bits(segment.mode, version))
        segment.write(buffer)
    return buffer


def _data(segments: Sequence[util.QRData], version: int, level: str, eci: bool) -> tuple[list[int], int]:
    """Data codewords with the standard's padding, and how many of their bits are the message."""
    buffer = _message(segments, version, eci)
    limit = 8 * sum(len(b.data) for b in blocks(version, level))
    buffer.put(0, min(4, limit - len(buffer)))
    buffer.put(0, -len(buffer) % 8)  # belongs to the message: OpenCV minds other bits here after an ECI header
    used = len(buffer)
    for i in range((limit - len(buffer)) // 8):
        buffer.put((0xEC, 0x11)[i % 2], 8)
    return list(buffer.buffer), used


@functools.cache
def blocks(version: int, level: str) -> tuple[Block, ...]:
    """The Reed-Solomon blocks of a version, by the indices of their codewords as written."""
    sizes = base.rs_blocks(version, LEVELS[level])
    data: list[list[int]] = [[] for _ in sizes]
    check: list[list[int]] = [[] for _ in sizes]
    at = 0
    for lists, counts in (
        (data, [s.data_count for s in sizes]),
        (check, [s.total_count - s.data_count for s in sizes]),
    ):
        for i in range(max(counts)):
            for one, count in zip(lists, counts, strict=True):
                if i < count:
                    one.append(at)
                    at += 1
    return tuple(Block(tuple(d), tuple(c)) for d, c in zip(data, check, strict=True))


def written(data: Sequence[int], version: int, level: str) -> bytes:
    """Data codewords -> codewords with error correction, interleaved as they are written."""
    buffer = util.BitBuffer()
    buffer.buffer, buffer.length = list(data), 8 * len(data)
    return bytes(util.create_bytes(buffer, base.rs_blocks(version, LEVELS[level])))


def bits_of(codewords: bytes, length: int) -> np.ndarray:
    """The bits (length,) bool, most significant first; zeros fill up the remainder bits."""
    bits = np.unpackbits(np.frombuffer(codewords, np.uint8)).astype(bool)
    return np.concatenate([bits, np.zeros(length - len(bits), bool)])


def masked(mask: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Where the mask pattern turns modules over."""
    r, c = rows.astype(int), columns.astype(int)
    return np.array(
        [
            (r + c) % 2 == 0,
            r % 2 == 0,
            c % 3 == 0,
            (r + c) % 3 == 0,
            (r // 2 + c // 3) % 2 == 0,
            (r * c) % 2 + (r * c) % 3 == 0,
            ((r * c) % 2 + (r * c) % 3) % 2 == 0,
            ((r + c) % 2 + (r * c) % 3) % 2 == 0,
        ][mask]
    )


@functools.cache
def _fixed(version: int, level: str, mask: int) -> np.ndarray:
    """(n, n) bool: the modules that do not depend on the text; data modules are light."""
    code = qrcode.QRCode(version=version, error_correction=LEVELS[level], mask_pattern=mask, border=0)
    code.data_cache = []
    code.makeImpl(False, mask)
    modules = np.array(code.modules, dtype=bool)
    modules[grid(version).kinds == DATA] = False
    return modules


@functools.cache
def grid(version: int) -> Grid:
    """Kinds of modules and places of bits of a version."""
    n = 17 + 4 * version
    kinds = np.full((n, n), DATA, np.uint8)
    kinds[6, :] = kinds[:, 6] = TIMING
    centres = util.pattern_position(version)
    for row in centres:
        for column in centres:
            if (row, column) not in {(6, 6), (6, n - 7), (n - 7, 6)}:
                kinds[row - 2 : row + 3, column - 2 : column + 3] = ALIGNMENT
    kinds[8, :9] = kinds[:9, 8] = kinds[8, -8:] = kinds[-8:, 8] = FORMAT
    if version >= 7:
        kinds[:6, -11:-8] = kinds[-11:-8, :6] = VERSION
    kinds[:8, :8] = kinds[:8, -8:] = kinds[-8:, :8] = FINDER
    kinds[8, 6] = kinds[6, 8] = TIMING
    return Grid(version, kinds, _zigzag(kinds))


def _zigzag(kinds: np.ndarray) -> np.ndarray:
    """Data modules in writing order: pairs of columns from the right, up and down in turn, skipping column 6."""
    n = len(kinds)
    places = []
    columns = [c for c in range(n - 1, 0, -2)]
    columns = [c if c > 6 else c - 1 for c in columns]
    for turn, right in enumerate(columns):
        rows = range(n) if turn % 2 else range(n - 1, -1, -1)
        places += [(row, column) for row in rows for column in (right, right - 1) if kinds[row, column] == DATA]
    return np.array(places)
