"""Where a model goes on disk: folder by kind, a name that no system objects to, and the way in and out.

Downloads grow in `models/.incoming`, which no catalogue shows, and move when they are whole; what is removed goes to
`models/.trash`. Both are on the same disk as the models, so that moving is a rename.
"""

import os
import re
import shutil
import time
from pathlib import Path

from app.catalog import FOLDERS
from app.models.sidecars import sidecars_of
from app.settings import Settings

INCOMING, TRASH = ".incoming", ".trash"
LONGEST_NAME = 150  # characters; file systems take 255 bytes, and sidecars add endings
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def folder_for(settings: Settings, kind: str) -> Path:
    """The folder of new models of a kind. ValueError for a kind that we keep nowhere."""
    if kind not in FOLDERS:
        raise ValueError(f"MixStudio has no place for a {kind}; it keeps {', '.join(FOLDERS)}")
    return settings.models / FOLDERS[kind][0]


def incoming(settings: Settings, key: str) -> Path:
    """The folder in which a download grows; the key makes it the same one next time."""
    return settings.models / INCOMING / key


def safe_name(name: str, instead: str = "model") -> str:
    """A file name from a stranger as one plain name: no folders, no hidden file, nothing that a system reserves."""
    name = re.split(r"[/\\]", name)[-1]
    name = re.sub(r'[<>:"|?*\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]', "_", name).strip(" .")
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, dot + ending) if dot and len(ending) <= 15 else (name, "")
    stem = stem.strip(" .")[: LONGEST_NAME - len(ending)].strip(" .")
    while len((stem + ending).encode()) > 200:
        stem = stem[:-1]
    if not stem or RESERVED.fullmatch(stem.partition(".")[0]):
        stem = f"{instead}-{stem}".strip("-")
    return stem + ending


def free_name(folder: Path, name: str, tag: str = "") -> Path:
    """A place in the folder that is free: `x.safetensors`, else `x-TAG.safetensors`, else `x-2.safetensors`."""
    stem, ending = os.path.splitext(name) if Path(name).suffix in _ENDINGS else (name, "")
    tries = [name, *([f"{stem}-{tag}{ending}"] if tag else []), *(f"{stem}-{i}{ending}" for i in range(2, 1000))]
    return next(path for n in tries if not (path := folder / n).exists() and not path.is_symlink())


_ENDINGS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


def move(source: Path, target: Path) -> Path:
    """Move a file or folder to a free place; within one disk that is one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise ValueError(f"{target.name} is there already in {target.parent}; remove it or choose another name")
    try:
        os.rename(source, target)
    except OSError:  # another disk: copied beside its place, then renamed
        part = target.with_name(f".{target.name}.part")
        shutil.move(source, part)
        os.rename(part, target)
    return target


def to_trash(settings: Settings, path: Path) -> Path:
    """Move a model and the files beside it to the trash; where it is then. ValueError for one outside our folders."""
    root = Path(os.path.abspath(settings.models))  # links are moved as they are, `..` is not believed
    if root not in Path(os.path.abspath(path)).parents:
        raise ValueError(f"{path} is not in {root}; MixStudio only removes models from its own folder")
    bin_ = settings.models / TRASH / time.strftime("%Y-%m-%d")
    place = free_name(bin_, f"{path.parent.name}-{path.name}")
    for file in sidecars_of(path):
        move(file, free_name(bin_, f"{path.parent.name}-{file.name}"))
    return move(path, place)
