"""A folder of pictures with captions, looked through once before anything is trained.

A caption comes from, in this order: metadata.jsonl or captions.jsonl in the folder (one object a line: `file_name`,
`file` or `image`, and `text`, `caption` or `prompt`), a text file beside the picture (fox.txt, fox.caption), or the
picture's name ("red_fox-02.png" is "red fox").
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LISTS = ("metadata.jsonl", "captions.jsonl")
_FILE_KEYS, _TEXT_KEYS = ("file_name", "file", "image"), ("text", "caption", "prompt")


@dataclass(frozen=True)
class Example:
    """One picture, (width, height) as it is shown, and what it shows."""

    path: Path
    caption: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Dataset:
    """What a folder holds: examples that can be trained on, and a sentence for each file that can't."""

    folder: Path
    examples: tuple[Example, ...]
    problems: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.examples)


def scan(folder: str | Path, smallest: int = 64, trigger: str = "") -> Dataset:
    """Look through a folder and its subfolders.

    smallest: least pixels of a side; trigger: words put before every caption. Raises ValueError when there is no
    picture to train on.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give one with pictures")
    examples, problems = [], []
    told, wrong = _listed(folder)
    problems += wrong
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    for path in paths:
        try:
            size = _size(path, smallest)
        except ValueError as why:
            problems.append(f"{path.relative_to(folder)} {why}; it is left out")
            continue
        caption = told.get(path.resolve())
        caption = _beside(path) if caption is None else caption
        examples.append(Example(path, ", ".join(filter(None, (trigger.strip(), caption.strip()))), size))
    problems += [f"{path.name} is listed but is not there" for path in told if not path.is_file()]
    if not examples:
        raise ValueError(
            f"{folder} has no picture to train on ({', '.join(SUFFIXES)}; sides of {smallest} pixels or more)"
            + "".join(f"; {problem}" for problem in problems[:3])
        )
    return Dataset(folder, tuple(examples), tuple(problems))


def _size(path: Path, smallest: int) -> tuple[int, int]:
    """(width, height) after turning the picture upright; the whole file is decoded, so that later nothing is broken."""
    try:
        with PIL.Image.open(path) as image:
            image.load()
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as why:
        raise ValueError(f"can't be read ({why})") from None
    if min(width, height) < smallest:
        raise ValueError(f"is too small ({width}x{height}, the least is {smallest})")
    return (height, width) if turned else (width, height)


def _listed(folder: Path) -> tuple[dict[Path, str], list[str]]:
    """{picture: caption} of the lists in the folder, and what is wrong with them."""
    told: dict[Path, str] = {}
    wrong: list[str] = []
    for name in LISTS:
        path = folder / name
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                file, caption = _record(line)
            except ValueError as why:
                wrong.append(f"line {number} of {name} {why}; it is left out")
            else:
                told.setdefault((folder / file).resolve(), caption)
    return told, wrong


def _record(line: str) -> tuple[str, str]:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as why:
        raise ValueError(f"is not JSON ({why.msg})") from None
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object")
    file = next((record[key] for key in _FILE_KEYS if isinstance(record.get(key), str)), None)
    caption = next((record[key] for key in _TEXT_KEYS if isinstance(record.get(key), str)), None)
    if file is None or caption is None:
        raise ValueError(f"needs one of {', '.join(_FILE_KEYS)} and one of {', '.join(_TEXT_KEYS)}")
    return file, caption


def _beside(path: Path) -> str:
    for suffix in (".txt", ".caption"):
        text = path.with_suffix(suffix)
        if text.is_file():
            return " ".join(text.read_text(encoding="utf-8", errors="replace").split())
    return named(path.stem)


def named(stem: str) -> str:
    """What a file's name says: words, without counters at the end."""
    words = re.sub(r"[\s_\-.]+", " ", re.sub(r"\(\d+\)", " ", stem)).split()
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    return " ".join(words)


def counts(dataset: Dataset) -> Iterator[tuple[str, int]]:
    """(tag, how often): captions split at commas, as `ss_tag_frequency` of LoRA files has it."""
    table: dict[str, int] = {}
    for example in dataset.examples:
        for tag in filter(None, (part.strip() for part in example.caption.split(","))):
            table[tag] = table.get(tag, 0) + 1
    yield from sorted(table.items(), key=lambda item: (-item[1], item[0]))
