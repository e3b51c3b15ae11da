"""GGUF files: metadata, and tensors as numbers or as the quantised blocks they are stored in.

Layout: "GGUF", version, counts; metadata pairs; tensor table; data, aligned. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every count and offset is checked against the file's size
before it is believed.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mix.llm.gguf_blocks import BLOCKS, Blocks, dequantise
from mix.llm.gguf_names import Place, config_of, places_of

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_ENTRIES = 1_000_000  # metadata pairs or tensors; real files have some hundreds
MOST_AXES = 4
STRING, ARRAY = 8, 9
SCALARS: Mapping[int, str] = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f"},
    **{7: "<?", 10: "<Q", 11: "<q", 12: "<d"},
}


@dataclass(frozen=True)
class Stored:
    """One tensor of the file: shape as numpy has it (rows first), block format, and its bytes."""

    shape: tuple[int, ...]
    blocks: Blocks
    start: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) // self.blocks.numbers * self.blocks.bytes


class Reader:
    """Numbers and strings from the head of a file, never beyond its end."""

    def __init__(self, name: str, data: np.ndarray) -> None:
        self.name, self.data, self.at = name, data, 0

    def wrong(self, why: str) -> ValueError:
        return ValueError(f"{self.name} is not a sound GGUF file: {why}; download it again")

    def take(self, count: int, what: str) -> bytes:
        if count > self.data.size - self.at:
            raise self.wrong(f"it is truncated, {what} at byte {self.at:,} needs {count:,} bytes")
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def scalar(self, kind: int, what: str) -> Any:
        form = SCALARS[kind]
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def number(self, what: str, most: int) -> int:
        """An unsigned 64-bit count."""
        value = self.scalar(10, what)
        if value > most:
            raise self.wrong(f"{what} is {value:,}, at most {most:,} are possible")
        return value

    def string(self, what: str) -> str:
        raw = self.take(self.number(f"the length of {what}", self.data.size), what)
        return raw.decode("utf-8", errors="replace")

    def value(self, kind: int, what: str) -> Any:
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            return self.array(what)
        if kind not in SCALARS:
            raise self.wrong(f"{what} has the unknown type {kind}")
        return self.scalar(kind, what)

    def array(self, what: str) -> list[Any]:
        kind = self.scalar(4, what)
        count = self.number(f"the number of entries of {what}", self.data.size)
        if kind == STRING:
            return [self.string(what) for _ in range(count)]
        if kind not in SCALARS:
            raise self.wrong(f"{what} is a list of the unsupported type {kind}")
        form = np.dtype(SCALARS[kind].replace("B", "u1").replace("?", "?"))
        return np.frombuffer(self.take(count * form.itemsize, what), form).tolist()


class GGUF:
    """An open GGUF file. `metadata` {key: value}, `stored` {name in the file: Stored}.

    As a checkpoint it speaks Hugging Face's names and layouts: `shapes`, `dtypes` and `array(name)` give float32
    numbers, `blocks(name)` gives rows of quantised blocks as they are stored, for kernels that compute with them.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"there is no file {self.path}")
        if self.path.stat().st_size < 24:
            raise ValueError(f"{self.path.name} is not a GGUF file: it has {self.path.stat().st_size} bytes")
        self.data = np.memmap(self.path, np.uint8, mode="r")
        reader = Reader(self.path.name, self.data)
        tensors, pairs = self._head(reader)
        self.metadata = _pairs(reader, pairs)
        self.stored = _table(reader, tensors, self.metadata.get("general.alignment", 32))
        self._places: dict[str, Place] | None = None

    def _head(self, reader: Reader) -> tuple[int, int]:
        magic = reader.take(4, "the magic")
        if magic != MAGIC:
            raise ValueError(f"{self.path.name} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
        version = reader.scalar(4, "the version")
        if version not in VERSIONS:
            raise ValueError(
                f"{self.path.name} is GGUF version {version}, supported are {' and '.join(map(str, VERSIONS))} (little "
                "endian); convert it with a current llama.cpp"
            )
        return reader.number("the number of tensors", MOST_ENTRIES), reader.number("the metadata", MOST_ENTRIES)

    # --- as a checkpoint ---

    @property
    def places(self) -> dict[str, Place]:
        """Hugging Face's name -> where it is in this file; ValueError for an architecture that is not supported."""
        if self._places is None:
            self._places = places_of(self.metadata, {k: s.shape for k, s in self.stored.items()}, self.path.name)
        return self._places

    def config(self) -> dict[str, Any]:
        """The config.json that the metadata amounts to."""
        rope = self.number_rows("rope_freqs.weight") if "rope_freqs.weight" in self.stored else None
        return config_of(self.metadata, set(self.stored), rope, self.path.name)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            name: self.stored[p.key].shape[::-1] if p.turned else self.stored[p.key].shape
            for name, p in self.places.items()
        }

    @property
    def quantised(self) -> bool:
        """Whether any tensor is stored as blocks that share a scale."""
        return any(stored.blocks.numbers > 1 for stored in self.stored.values())

    @property
    def dtypes(self) -> dict[str, str]:
        return dict.fromkeys(self.places, "F32")

    def array(self, key: str) -> np.ndarray:
        """The tensor under Hugging Face's name, float32."""
        place = self.places[key]
        rows = self.number_rows(place.key)
        rows = rows if place.rows is None else rows[place.rows]
        return np.ascontiguousarray(rows.T) if place.turned else rows

    def blocks(self, key: str) -> tuple[Blocks, np.ndarray]:
        """(format, (rows, blocks a row, bytes a block) uint8) of a matrix (out, in) under Hugging Face's name.

        The rows are in Hugging Face's order; without a copy where that is the file's.
        """
        place = self.places[key]
        stored, raw = self.stored[place.key], self.raw(place.key)
        raw = raw.reshape([prod(stored.shape[:-1]), -1, stored.blocks.bytes])
        return stored.blocks, raw if place.rows is None else raw[place.rows]

    # --- as it is ---

    def raw(self, name: str) -> np.ndarray:
        """The bytes of a tensor under the file's own name, mapped."""
        stored = self.stored[name]
        return self.data[stored.start : stored.start + stored.nbytes]

    def number_rows(self, name: str) -> np.ndarray:
        """A tensor under the file's own name, float32."""
        stored = self.stored[name]
        return dequantise(stored.blocks, self.raw(name)).reshape(stored.shape)


@contextmanager
def open_gguf(path: str | Path) -> Iterator[GGUF]:
    """A GGUF file that is let go at the end; arrays made from it stay valid."""
    file = GGUF(path)
    try:
        yield file
    finally:
        del file.data


def _pairs(reader: Reader, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(count):
        key = reader.string("a metadata key")
        if key in found:
            raise reader.wrong(f"the metadata has {key!r} twice")
        found[key] = reader.value(reader.scalar(4, f"the type of {key!r}"), repr(key))
    return found


def _table(reader: Reader, count: int, alignment: Any) -> dict[str, Stored]:
    """The tensor table, its offsets made absolute and checked."""
    if not isinstance(alignment, int) or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise reader.wrong(f"its alignment is {alignment!r}, not a power of two from 8 up")
    found: dict[str, Stored] = {}
    for _ in range(count):
        name = reader.string("a tensor's name")
        if name in found:
            raise reader.wrong(f"it has the tensor {name!r} twice")
        found[name] = _entry(reader, name)
    start = -(-reader.at // alignment) * alignment
    placed = {name: Stored(s.shape, s.blocks, start + s.start) for name, s in found.items()}
    for name, stored in placed.items():
        if (stored.start - start) % alignment or stored.start + stored.nbytes > reader.data.size:
            raise reader.wrong(
                f"the tensor {name!r} should lie at bytes {stored.start:,} to {stored.start + stored.nbytes:,} of "
                f"{reader.data.size:,}"
            )
    return placed


def _entry(reader: Reader, name: str) -> Stored:
    axes = reader.scalar(4, f"the axes of {name!r}")
    if not 1 <= axes <= MOST_AXES:
        raise reader.wrong(f"the tensor {name!r} has {axes} axes")
    shape = tuple(reader.number(f"a side of {name!r}", 2**40) for _ in range(axes))[::-1]
    kind, offset = reader.scalar(4, f"the type of {name!r}"), reader.number(f"the offset of {name!r}", 2**62)
    if kind not in BLOCKS:
        raise ValueError(
            f"{reader.name}: the tensor {name!r} is stored as GGML type {kind}, supported are "
            f"{', '.join(b.name for b in BLOCKS.values())}; convert the model to one of these"
        )
    blocks = BLOCKS[kind]
    if 0 in shape or prod(shape) > 2**40 or shape[-1] % blocks.numbers:
        raise reader.wrong(f"the tensor {name!r} of shape {shape} cannot be made of {blocks.name} blocks")
    return Stored(shape, blocks, offset)
