"""`TensorFile`: every checkpoint format behind one face, with a cheap header and tensors read one at a time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from paddle import Tensor

from ppdiffusers.weights.dtype import DTYPES, empty, to_tensor
from ppdiffusers.weights.header import Stored, read_header
from ppdiffusers.weights.unpickle import read_pickle

PICKLES = (".ckpt", ".bin", ".pt", ".pth")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "pytorch_lora_weights")


class TensorFile:
    """A checkpoint that was opened and found sound; tensors are read on demand, straight to their place in memory.

    `path` is a .safetensors, .ckpt, .bin or .pt file, an index of shards (`*.index.json`), or a folder with one.
    `variant` picks `*.fp16.safetensors` and the like in a folder. ValueError for a file that is not what it claims.
    """

    def __init__(self, path: str | Path, variant: str | None = None) -> None:
        path = Path(path)
        self.path = find_weights(path, variant) if path.is_dir() else path
        if not self.path.is_file():
            raise ValueError(f"there is no file {self.path}")
        self.stored, self.metadata = _open(self.path)
        self.shapes: dict[str, tuple[int, ...]] = {key: s.shape for key, s in self.stored.items()}
        self.dtypes: dict[str, str] = {key: s.dtype for key, s in self.stored.items()}
        self._files: dict[Path, BinaryIO] = {}

    def array(self, key: str) -> np.ndarray:
        """One tensor as numpy; BF16 as uint16 and 8-bit floats as uint8 bit patterns (`dtypes[key]` says which)."""
        stored = self.stored[key]
        storage = DTYPES[stored.dtype].storage
        if stored.strides is None:
            array = empty(stored.shape, storage)
            self._fill(stored, stored.start, array)
            return array
        if not all(stored.shape):
            return empty(stored.shape, storage)
        span = sum((n - 1) * stride for n, stride in zip(stored.shape, stored.strides, strict=True)) + 1
        flat = empty((span,), storage)
        self._fill(stored, stored.start, flat)
        steps = tuple(stride * flat.itemsize for stride in stored.strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, stored.shape, steps))

    def read(self, key: str) -> Tensor:
        """One tensor as Paddle's, in the file's dtype (8-bit floats as float32)."""
        return to_tensor(self.array(key), self.dtypes[key])

    def close(self) -> None:
        """Give the file handles back; reading opens them again."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def _fill(self, stored: Stored, start: int, array: np.ndarray) -> None:
        if stored.path not in self._files:
            self._files[stored.path] = stored.path.open("rb", buffering=0)
        if array.nbytes:
            flat: Any = array.reshape(-1).view(np.uint8)
            read_exactly(self._files[stored.path], start, memoryview(flat))


def open_tensors(path: str | Path, variant: str | None = None) -> TensorFile:
    """`TensorFile(path, variant)`, to be used in a `with` statement."""
    return TensorFile(path, variant)


def find_weights(folder: Path, variant: str | None = None) -> Path:
    """The weights (or the index of their shards) in a diffusers or transformers component folder; safetensors first.

    Without a variant the plain file is preferred; a folder that has only `*.fp16.safetensors` is read all the same.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    for middle in _variants(folder, variant):
        for ending in (".safetensors", ".bin"):
            for stem in STEMS:
                for name in (
                    f"{stem}{ending}.index{middle}.json",
                    f"{stem}{middle}{ending}.index.json",
                    f"{stem}{middle}{ending}",
                ):
                    if (folder / name).is_file():
                        return folder / name
    wanted = f" of variant {variant!r}" if variant else ""
    raise ValueError(f"{folder} has no weights{wanted}: looked for {' or '.join(STEMS[:3])} with .safetensors or .bin")


def _variants(folder: Path, variant: str | None) -> list[str]:
    if variant:
        return [f".{variant}"]
    found = {name for path in folder.iterdir() for name in ("fp16", "bf16", "non_ema") if f".{name}." in path.name}
    return ["", *(f".{name}" for name in sorted(found))]


def _open(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    if path.name.endswith(".json"):
        return _open_shards(path)
    if path.suffix.lower() in PICKLES:
        return read_pickle(path)
    return read_header(path)


def _open_shards(index: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """All shards of an index as one file; each key must be where the index says."""
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{index.name} lists {len(shards)} shards, {len(missing)} are missing, first {missing[0]}; download them"
        )
    found: dict[str, Stored] = {}
    for shard in shards:
        stored, _ = _open(index.parent / shard)
        wanted = [key for key, where in weight_map.items() if where == shard]
        absent = [key for key in wanted if key not in stored]
        if absent:
            raise ValueError(f"{shard} lacks {len(absent)} tensors that {index.name} promises, first {absent[0]!r}")
        found |= {key: stored[key] for key in wanted}
    return found, {}


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index.name} has no weight_map; it is not an index of shards")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or name.endswith(".json"):
            raise ValueError(f"{index.name} names the shard {name!r}; shards are files beside their index")
    return weight_map


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; a ValueError names the file when it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object; download it again")
    return content


def read_exactly(file: BinaryIO, start: int, buffer: memoryview) -> None:
    """Fill the buffer from byte `start` of an open file. Not mapped: mapped pages would count as memory used twice."""
    file.seek(start)
    done = 0
    while done < len(buffer):
        got = file.readinto(buffer[done:])  # type: ignore[attr-defined]
        if not got:
            raise ValueError(
                f"{Path(file.name).name} ended at byte {start + done:,}, {len(buffer) - done:,} bytes too early; "
                "it is truncated or was changed while it was read"
            )
        done += got


@contextmanager
def opened(source: "str | Path | TensorFile") -> Iterator[TensorFile]:
    """A TensorFile from a path, closed afterwards; one that is already open is left open."""
    if isinstance(source, TensorFile):
        yield source
        return
    with TensorFile(source) as file:
        yield file
