"""The header of a safetensors file, checked to the last byte before anything is read.

The file is: length of the header (8 bytes, little endian), header (JSON: name -> dtype, shape, data_offsets), data.
Format: https://huggingface.co/docs/safetensors. Downloads end in the wrong file often enough (an HTML login page, half
a file) that every way a header can be wrong has its own sentence.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ppdiffusers.weights.dtype import DTYPES

LARGEST_HEADER = 100_000_000
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"PK\x03\x04", "a zip archive (a .ckpt or .pt file that was renamed?)"),
    (b"\x80\x02", "a pickle (a .ckpt or .pt file that was renamed?)"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to; run `git lfs pull`"),
    (b"GGUF", "a GGUF file"),
    (b"<", "an HTML or XML page; the download was refused, perhaps for want of a login"),
    (b'{"', "a JSON text, perhaps the error message of a server"),
)


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies: in which file, from which byte; `strides` in elements, None when it is contiguous."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].size


def looks_like(head: bytes) -> str | None:
    """What a file that begins with these bytes really is, when that can be told."""
    text = head.lstrip()
    return next((what for magic, what in MAGIC if text.startswith(magic)), None)


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """(tensors, metadata) of a safetensors file; a ValueError that says what is wrong with it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(32)
        length = int.from_bytes(head[:8], "little")
        _check_length(path, head, length, size)
        file.seek(8)
        text = file.read(length)
    entries = _parse(path, text)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError(f"{path.name}: __metadata__ is not an object of strings; the file is damaged")
    room = size - 8 - length
    spans = {name: _span(path, name, entry) for name, entry in entries.items()}
    _check_layout(path, {name: (a, b) for name, (_, _, a, b) in spans.items()}, room)
    start = 8 + length
    stored = {name: Stored(path, dtype, shape, start + a) for name, (dtype, shape, a, _) in spans.items()}
    return stored, {str(k): str(v) for k, v in metadata.items()}


def _check_length(path: Path, head: bytes, length: int, size: int) -> None:
    if not size:
        raise ValueError(f"{path.name} is empty (0 bytes); download it again")
    what = looks_like(head)
    if what and (length > LARGEST_HEADER or length + 8 > size):
        raise ValueError(f"{path.name} is not a safetensors file: it looks like {what}")
    if size < 10:
        raise ValueError(f"{path.name} is not a safetensors file: it has {size} bytes; download it again")
    if length > LARGEST_HEADER:
        raise ValueError(
            f"{path.name} is not a safetensors file: its first 8 bytes give a header of {length:,} bytes, "
            f"at most {LARGEST_HEADER:,} are accepted"
        )
    if length + 8 > size:
        raise ValueError(
            f"{path.name} is truncated: its header alone has {length:,} bytes, the file {size:,}; download it again"
        )


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            double = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{path.name}: the header has {double!r} twice; the file is damaged or forged")
        return found

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a safetensors file: its header is not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{path.name} is not a safetensors file: its header is not a JSON object")
    return entries


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _span(path: Path, name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, first byte, end) of one header entry, each checked for itself."""

    def wrong(why: str) -> ValueError:
        return ValueError(f"{path.name}: tensor {name!r} {why}; the file is damaged or forged")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise wrong("has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{path.name}: tensor {name!r} has dtype {dtype!r}; accepted are {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > 32 or not all(_whole(n) for n in shape):
        raise wrong(f"has the shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_whole(n) for n in offsets):
        raise wrong(f"has the data_offsets {offsets!r}, not two numbers from 0 up")
    first, end = offsets
    needed = prod(shape) * DTYPES[dtype].size
    if end - first != needed:
        raise wrong(f"needs {needed:,} bytes ({dtype} {shape}), its data_offsets give {end - first:,}")
    return dtype, tuple(shape), first, end


def _check_layout(path: Path, spans: Mapping[str, tuple[int, int]], room: int) -> None:
    """The tensors must fill the data exactly: no overlap, no hole, nothing missing and nothing behind the last one."""
    at, before = 0, ""
    for name, (first, end) in sorted(spans.items(), key=lambda item: item[1]):
        if first < at:
            raise ValueError(f"{path.name}: tensors {before!r} and {name!r} overlap; the file is damaged or forged")
        if first > at:
            raise ValueError(f"{path.name}: {first - at:,} unused bytes before tensor {name!r}; the file is damaged")
        at, before = end, name
    if at > room:
        raise ValueError(
            f"{path.name} is truncated: {room:,} of {at:,} bytes of tensors are there ({at - room:,} missing); "
            "download it again"
        )
    if at < room:
        raise ValueError(f"{path.name}: {room - at:,} bytes follow the last tensor; the file is damaged")
