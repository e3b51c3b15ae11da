"""Writing safetensors so that a crash or a full disk leaves either the old file or the new one, and nothing else."""

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ppdiffusers.weights.dtype import DTYPES


@dataclass(frozen=True, eq=False)
class Entry:
    """A tensor to be written: known by dtype and shape, made (bits in the storage of its dtype) when its turn comes."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].size


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write in place of `path`: it takes that name when it is complete and on the disk, or vanishes.

    An OSError (a full disk, a folder that may not be written) becomes a ValueError that says so.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else str(error)
        raise ValueError(f"{path.name} could not be saved: {why}; nothing of it was left in {path.parent}") from error


def write_text(path: Path, text: str) -> None:
    """A small text file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def write_tensors(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """A safetensors file of `entries`, made and written one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, entry in entries.items():
        start, end = end, end + entry.nbytes
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in entries.items():
            array = np.ascontiguousarray(entry.make())
            if array.nbytes != entry.nbytes or array.dtype != np.dtype(DTYPES[entry.dtype].storage):
                raise AssertionError(
                    f"{name} was announced as {entry.dtype} {entry.shape}, it is {array.dtype} {array.shape}"
                )
            file.write(array.tobytes())
