"""PyTorch's pickled checkpoints (.ckpt, .bin, .pt) as headers, without torch and without running anything in them.

A pickle is a program that may import and call whatever it names. This reader knows a closed list of names; every other
one ends in an error. The tensors themselves are not loaded: what comes out is where each lies in the file. Both layouts
of `torch.save` are read: the zip archive (`data.pkl` beside one stored member per storage) and the older plain stream
(three small pickles, the object, then all storages behind each other).
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ppdiffusers.weights.dtype import DTYPES
from ppdiffusers.weights.header import Stored, looks_like

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LARGEST_PICKLE = 200_000_000
NOT_WEIGHTS = ("optimizer_states", "optimizer", "lr_schedulers", "callbacks")
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}
TORCH_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


class Inert:
    """Stands for an object of a training script that we neither have nor need; it takes any state and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class Parameters(Inert):
    """`torch.nn.ParameterDict`, in which old textual inversions keep their vectors."""

    def entries(self) -> dict[str, object]:
        state = self.state if isinstance(self.state, dict) else {}
        held = state.get("_parameters", {})
        return dict(held) if isinstance(held, dict) else {}


@dataclass(frozen=True)
class Storage:
    """One storage of the archive: its name there, dtype and length in elements."""

    key: str
    dtype: str
    length: int


@dataclass(frozen=True)
class StorageType:
    dtype: str


@dataclass(frozen=True)
class View:
    """One tensor: a window of a storage, offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _view(storage: object, offset: object, shape: object, strides: object, dtype: str | None = None) -> View:
    numbers = [offset, *shape, *strides] if isinstance(shape, tuple) and isinstance(strides, tuple) else [None]
    whole = all(isinstance(n, int) and n >= 0 for n in numbers)
    if not isinstance(storage, Storage) or not whole or len(shape) != len(strides):  # type: ignore[arg-type]
        raise pickle.UnpicklingError("a tensor without a storage, shape and strides")
    return View(storage, dtype or storage.dtype, offset, shape, strides)  # type: ignore[arg-type]


def _rebuild_tensor(storage: object, offset: object, shape: object, strides: object) -> View:
    return _view(storage, offset, shape, strides)


def _rebuild_tensor_v2(storage: object, offset: object, shape: object, strides: object, *_: object) -> View:
    return _view(storage, offset, shape, strides)


def _rebuild_tensor_v3(storage: object, offset: object, shape: object, strides: object, *rest: object) -> View:
    dtype = rest[2] if len(rest) > 2 else None
    return _view(storage, offset, shape, strides, dtype.dtype if isinstance(dtype, StorageType) else None)


def _rebuild_parameter(data: object, *_: object) -> object:
    return data


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    """`_codecs.encode`, by which protocol 2 spells bytes; other codecs could decompress a bomb, so only this one."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"_codecs.encode with the codec {encoding!r}")
    return text.encode("latin1")


def _numpy_names() -> dict[str, Any]:
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    inert = {f"{module}.{name}": Inert for module in modules for name in ("scalar", "_reconstruct")}
    return inert | {"numpy.dtype": Inert, "numpy.ndarray": Inert}


ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": Inert,
    "_codecs.encode": _latin1,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.nn.parameter.Parameter": Inert,
    "torch.nn.modules.container.ParameterDict": Parameters,
    "torch.Size": tuple,
    "torch.device": Inert,
    "torch.storage.UntypedStorage": StorageType("U8"),
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": Inert,
    "pytorch_lightning.utilities.cloud_io.AttributeDict": Inert,
    **{f"builtins.{kind.__name__}": kind for kind in (dict, list, set, frozenset, tuple, int, float, bool, str)},
    **{f"__builtin__.{kind.__name__}": kind for kind in (dict, list, set, frozenset, tuple, int, float, bool)},
    **{f"torch.{name}": StorageType(dtype) for name, dtype in (STORAGES | TORCH_DTYPES).items()},
    **{f"torch.cuda.{name}": StorageType(dtype) for name, dtype in STORAGES.items()},
    **_numpy_names(),
}


# A damaged pickle may fail in any operation of the machine: a name of the wrong type, a stack too short, no memory.
BROKEN = (
    *(pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError, MemoryError),
    *(OverflowError, RecursionError, UnicodeError, zipfile.BadZipFile, OSError),
)


class ForbiddenImport(ValueError):
    """The pickle names something outside the closed list."""


class Reader(pickle.Unpickler):
    """Python's own unpickler, with imports answered from `ALLOWED` and storages noted instead of loaded."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file, encoding="latin1")
        self.name = name
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ALLOWED:
            raise ForbiddenImport(
                f"{self.name} wants to import {module}.{name}, which no weights need and which could run any program; "
                "nothing was loaded. Get the model as .safetensors, or do not trust this file"
            )
        return ALLOWED[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], StorageType):
            raise pickle.UnpicklingError("a reference that is not a storage")
        _, kind, key, _, length = pid[:5]
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage that is a view of another one (torch 0.3 and older)")
        if not isinstance(key, str) or not isinstance(length, int) or length < 0:
            raise pickle.UnpicklingError("a storage without a name and a length")
        return self.storages.setdefault(key, Storage(key, kind.dtype, length))


def _unpickle(file: BinaryIO, path: Path) -> tuple[Any, dict[str, Storage]]:
    reader = Reader(file, path.name)
    try:
        return reader.load(), reader.storages
    except ForbiddenImport:
        raise
    # A damaged pickle may fail in any operation of the machine: a name of the wrong type, a stack too short, no memory.
    except BROKEN as error:
        raise ValueError(f"{path.name} is damaged or not a PyTorch checkpoint ({error}); download it again") from None


def read_pickle(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """(tensors, the file's plain numbers and texts) of a PyTorch checkpoint; ValueError if damaged or hostile."""
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        if head.startswith(b"PK\x03\x04"):
            content, starts = _read_zip(file, path)
        elif head.startswith(b"\x80"):
            content, starts = _read_stream(file, path)
        else:
            what = looks_like(head) if head else "an empty file"
            raise ValueError(f"{path.name} is not a PyTorch checkpoint" + (f": it looks like {what}" if what else ""))
    size = path.stat().st_size
    views, plain = flatten(content)
    return {key: _stored(path, key, view, starts, size) for key, view in views.items()}, plain


def _read_zip(file: BinaryIO, path: Path) -> tuple[Any, Callable[[str], int]]:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path.name} is truncated or damaged ({error}); download it again") from None
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{path.name} is a zip archive without the data.pkl of a PyTorch checkpoint")
    root = pickles[0].removesuffix("data.pkl")
    size = members[pickles[0]].file_size
    if size > LARGEST_PICKLE:
        raise ValueError(f"{path.name}: its data.pkl has {size:,} bytes, at most {LARGEST_PICKLE:,} are accepted")
    if f"{root}byteorder" in members and archive.read(f"{root}byteorder").strip() != b"little":
        raise ValueError(f"{path.name} was saved on a big-endian machine; convert it to .safetensors")
    with archive.open(pickles[0]) as pickled:
        content, storages = _unpickle(pickled, path)  # type: ignore[arg-type]
    return content, {key: _member_start(file, path, members, root, s) for key, s in storages.items()}.__getitem__


def _member_start(file: BinaryIO, path: Path, members: dict[str, zipfile.ZipInfo], root: str, storage: Storage) -> int:
    """The byte at which a storage begins; torch never compresses them, so they are read in place."""
    info = members.get(f"{root}data/{storage.key}")
    if info is None:
        raise ValueError(f"{path.name} lacks the data of storage {storage.key!r}; it is damaged, download it again")
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{path.name} was compressed after it was saved; unpack and save it again, or get it as .safetensors"
        )
    if info.file_size < storage.length * DTYPES[storage.dtype].size:
        raise ValueError(f"{path.name}: storage {storage.key!r} is shorter than its tensors need; the file is damaged")
    file.seek(info.header_offset)
    local = file.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise ValueError(f"{path.name} is damaged: no zip entry where storage {storage.key!r} should be")
    name_length, extra_length = struct.unpack("<HH", local[26:30])
    return info.header_offset + 30 + name_length + extra_length


def _read_stream(file: BinaryIO, path: Path) -> tuple[Any, Callable[[str], int]]:
    magic, _ = _unpickle(file, path)
    if magic != LEGACY_MAGIC:
        raise ValueError(f"{path.name} is a pickle but not a PyTorch checkpoint; get the model as .safetensors")
    version, _ = _unpickle(file, path)
    machine, _ = _unpickle(file, path)
    if version != 1001 or (isinstance(machine, dict) and not machine.get("little_endian", True)):
        raise ValueError(
            f"{path.name} has PyTorch's old layout in a version or byte order we do not read; get it as .safetensors"
        )
    content, storages = _unpickle(file, path)
    order, _ = _unpickle(file, path)
    if not isinstance(order, list) or not all(isinstance(key, str) for key in order) or set(order) != set(storages):
        raise ValueError(f"{path.name} is damaged: its list of storages does not fit its tensors")
    starts: dict[str, int] = {}
    at = file.tell()
    for key in order:
        file.seek(at)
        count = file.read(8)
        if len(count) < 8 or int.from_bytes(count, "little") != storages[key].length:
            raise ValueError(f"{path.name} is truncated or damaged at storage {key!r}; download it again")
        starts[key] = at + 8
        at += 8 + storages[key].length * DTYPES[storages[key].dtype].size
    return content, starts.__getitem__


def _stored(path: Path, key: str, view: View, starts: Callable[[str], int], size: int) -> Stored:
    item = DTYPES[view.dtype].size
    last = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True)) if prod(view.shape) else -1
    room = view.storage.length * DTYPES[view.storage.dtype].size
    start = starts(view.storage.key) + view.offset * item
    if (view.offset + last + 1) * item > room:
        raise ValueError(f"{path.name}: tensor {key!r} reaches beyond its storage; the file is damaged or forged")
    if start + (last + 1) * item > size:
        raise ValueError(f"{path.name} is truncated: the data of tensor {key!r} is missing; download it again")
    return Stored(path, view.dtype, view.shape, start, None if _contiguous(view.shape, view.strides) else view.strides)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    dense = [prod(shape[i + 1 :]) for i in range(len(shape))]
    return all(n <= 1 or stride == want for n, stride, want in zip(shape, strides, dense, strict=True))


def flatten(content: Any) -> tuple[dict[str, View], dict[str, str]]:
    """The tensors of nested dictionaries under dotted names, and the plain values beside them as text.

    A training checkpoint keeps its weights under "state_dict"; then only those count. An optimiser's state is left out.
    """
    views: dict[str, View] = {}
    plain: dict[str, str] = {}
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        plain = {str(k): str(v) for k, v in content.items() if isinstance(v, str | int | float)}
        content = content["state_dict"]
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, Parameters):
            value = value.entries()
        if isinstance(value, View):
            views[name or "tensor"] = value
        elif isinstance(value, str | int | float):
            plain[name] = str(value)
        elif isinstance(value, dict) and depth < 8:
            inner = [(str(k), v) for k, v in value.items() if isinstance(k, str | int) and k not in NOT_WEIGHTS]
            waiting += [(f"{name}.{k}" if name else k, v, depth + 1) for k, v in inner]
    return views, plain
