"""Models from the disk: linked or copied into their folder, pickles turned into safetensors on the way.

A link here is a hard link: the file has two names and takes no more room, and stays when the first name is deleted.
Between disks, where that cannot be, it is a copy.
"""

import os
import shutil
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from app.models.check import CHUNK, KINDS, kind_of
from app.models.fetch import Event, check_room
from app.models.sidecars import base_of, sidecars_of
from ppdiffusers.pipelines.event import Note, Progress

GENERIC = ("model", "pytorch_model", "diffusion_pytorch_model", "pytorch_lora_weights", "adapter_model")
MOST_FILES = 2000


def take(source: Path, target: Path, copy: bool = False) -> Generator[Event, None, None]:
    """Link or copy one file or folder to a free place, whole or not at all."""
    part = target.with_name(f".{target.name}.part")
    _remove(part)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.is_dir():
            yield from _take_folder(source, part, copy)
        else:
            yield from _take_file(source, part, copy)
        os.rename(part, target)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def needed_files(folder: Path) -> list[Path]:
    """The files of a model folder that we take, relative to it: weights, configs, tokenizers; no programs, no links."""
    found: list[Path] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_symlink() and not path.resolve().is_file():
            continue
        hidden = any(p.startswith(".") for p in relative.parts)
        if path.is_file() and path.suffix.lower() in KINDS and not hidden and not _needless(path):
            found.append(relative)
    if len(found) > MOST_FILES:
        raise ValueError(f"{folder} has more than {MOST_FILES:,} files; give the folder of one model")
    return found


def _needless(path: Path) -> bool:
    """A pickle that nobody reads: beside safetensors, or of a kind that model folders do not use."""
    if kind_of(path.name) != "pickle":
        return False
    return path.suffix.lower() != ".bin" or any(path.parent.glob("*.safetensors"))


def _take_folder(source: Path, part: Path, copy: bool) -> Generator[Event, None, None]:
    for relative in needed_files(source):
        (part / relative).parent.mkdir(parents=True, exist_ok=True)
        yield from _take_file(source / relative, part / relative, copy)


def _take_file(source: Path, target: Path, copy: bool) -> Generator[Event, None, None]:
    source = source.resolve(strict=True)
    if not copy:
        with suppress(OSError):
            os.link(source, target)
            return
    size, done = source.stat().st_size, 0
    check_room(target.parent, source.name, size)
    with source.open("rb") as reading, target.open("wb") as writing:
        while block := reading.read(CHUNK):
            writing.write(block)
            done += len(block)
            yield Progress(done, size, f"copying {source.name}")
        writing.flush()
        os.fsync(writing.fileno())


def take_sidecars(source: Path, target: Path) -> None:
    """Copy what lies beside a model, under the model's new name."""
    for file in sidecars_of(source):
        ending = file.name[len(base_of(source)) :]
        beside = target.with_name(base_of(target) + ending)
        if not beside.exists() and file.stat().st_size <= 64_000_000:
            shutil.copyfile(file, beside)


# --- pickles ---


def convert(source: Path, target: Path) -> Generator[Event, None, Path]:
    """A PyTorch checkpoint (a file, or a folder with shards) as one safetensors file, bit by bit the same numbers.

    It is read by a closed list of names: nothing in it is run. ValueError when it wants more than that.
    """
    from ppdiffusers.weights.file import open_tensors
    from ppdiffusers.weights.write import Entry, write_tensors

    yield Note(f"reading {source.name} by a closed list of names and writing {target.name}")
    with open_tensors(source) as file:
        keys = _keys([*file.shapes])
        if not keys:
            raise ValueError(f"{source.name} has no tensors in it")
        entries = {
            new: Entry(file.dtypes[key], file.shapes[key], lambda key=key: file.array(key))  # type: ignore[misc]
            for key, new in keys.items()
        }
        plain = {key: value for key, value in file.metadata.items() if key in ("name", "step", "global_step")}
        write_tensors(target, {new: entries[new] for new in keys.values()}, plain)
    return target


def _keys(keys: list[str]) -> dict[str, str]:
    """Key -> key in the new file; the WebUI's words get the name that they have in its own safetensors files."""
    words = [key for key in keys if key.startswith("string_to_param.")]
    return {words[0]: "emb_params"} if len(words) == 1 else {key: key for key in keys}


def convert_folder(folder: Path) -> Generator[Event, None, None]:
    """Every `.bin` set of weights in a model folder as safetensors, in its place."""
    for place in sorted({path.parent for path in folder.rglob("*.bin")}):
        pickles = [path for path in place.iterdir() if path.suffix == ".bin"]
        if not any(path.suffix == ".safetensors" for path in place.iterdir()):
            stem = "diffusion_pytorch_model" if any("diffusion" in p.name for p in pickles) else "model"
            yield from convert(place, place / f"{stem}.safetensors")
        for path in (*pickles, *place.glob("*.bin.index*.json")):
            path.unlink()


def is_pickle(path: Path) -> bool:
    """Whether a file, or the weights of any network in a folder, are pickles."""
    if path.is_dir():
        return any(kind_of(file.name) == "pickle" for file in needed_files(path))
    return kind_of(path.name) == "pickle"


def refuse_pickle(path: Path) -> ValueError:
    """The sentence for pickles that were not allowed."""
    return ValueError(
        f"{path.name} is a pickle, a format that can run programs; get it as .safetensors, or allow it (--allow-pickle)"
        ": it is then read by a closed list of names and kept as .safetensors"
    )
