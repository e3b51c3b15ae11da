"""What a half-written word in a prompt may become: LoRAs, embeddings, wildcards, and tags from the user's lists.

Lists are CSV files in DATA/tags as tag-completion extensions of the WebUI use them: name, kind, how often it is used,
and other names between quotes; more than the name is optional.
"""

import csv
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.catalog import Model
    from app.studio import Studio

SHORTEST = 2  # letters before anything is offered
MOST_TAGS = 400_000
ESCAPED = str.maketrans({"(": r"\(", ")": r"\)", "[": r"\[", "]": r"\]"})


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """`insert` takes the place of the word; `comma`: a comma may follow; `note` says more."""

    text: str
    insert: str
    kind: str
    note: str = ""
    comma: bool = True


@dataclass(frozen=True)
class Tag:
    """A tag in small letters with spaces, how often it is used, and its other names."""

    name: str
    count: int
    others: tuple[str, ...] = ()


class Completion:
    """Finds suggestions; lists of tags are read when they are first needed and again when they change."""

    def __init__(self, studio: "Studio") -> None:
        self.studio = studio
        self._tags: list[Tag] = []
        self._stamp: tuple[Any, ...] = ()
        self._lock = threading.Lock()

    def find(self, word: str, limit: int = 12) -> list[Suggestion]:
        """What fits, the likeliest first: names that begin so before names that hold it, common tags before rare."""
        plain = word.strip().lower()
        if plain.startswith("<"):
            found = self._loras(plain.removeprefix("<lora:").removeprefix("<"))
        elif plain.startswith("__"):
            found = self._wildcards(plain[2:])
        elif len(plain) < SHORTEST:
            return []
        else:
            found = self._plain(plain)
        return [one for _, one in zip(range(limit), found, strict=False)]

    def _loras(self, part: str) -> Iterator[Suggestion]:
        for model in _fitting(self.studio.catalog.list("lora"), part):
            weight = model.info.get("preferred weight") or 1
            words = str(model.info.get("activation text") or "")
            tag = f"<lora:{model.name}:{weight:g}>"
            told = f"{words} {tag}" if words else tag
            yield Suggestion(text=model.name, insert=told, kind="LoRA", note=words, comma=False)

    def _wildcards(self, part: str) -> Iterator[Suggestion]:
        names = self.studio.wildcards.names()
        for name in sorted((n for n in names if part in n.lower()), key=lambda n: not n.lower().startswith(part)):
            yield Suggestion(text=f"__{name}__", insert=f"__{name}__", kind="Wildcard", comma=False)

    def _plain(self, part: str) -> Iterator[Suggestion]:
        for model in _fitting(self.studio.catalog.list("embedding"), part):
            yield Suggestion(text=model.name, insert=model.name, kind="Embedding")
        tags = self.tags()
        said = part.replace("_", " ")
        yield from (_of_tag(tag, "") for tag in tags if tag.name.startswith(said))
        yield from (_of_tag(tag, o) for tag in tags for o in tag.others if o.startswith(said) and said not in tag.name)
        yield from self._loras(part)
        yield from (_of_tag(tag, "") for tag in tags if said in tag.name and not tag.name.startswith(said))

    def tags(self) -> list[Tag]:
        """All tags of all lists, common ones first."""
        folder = self.studio.settings.data / "tags"
        files = sorted(folder.glob("*.csv")) if folder.is_dir() else []
        stamp = tuple((file, file.stat().st_mtime_ns) for file in files)
        with self._lock:
            if stamp != self._stamp:
                read = {tag.name: tag for file in files for tag in _read(file)}
                self._tags = sorted(read.values(), key=lambda tag: -tag.count)[:MOST_TAGS]
                self._stamp = stamp
            return self._tags


def _of_tag(tag: Tag, other: str) -> Suggestion:
    note = f"{other} → {tag.count:,}" if other else f"{tag.count:,}" if tag.count else ""
    return Suggestion(text=tag.name, insert=tag.name.translate(ESCAPED), kind="Tag", note=note)


def _fitting(models: "list[Model]", part: str) -> "list[Model]":
    found = [model for model in models if not model.problem and part in _names(model)]
    return sorted(found, key=lambda model: not _names(model).startswith(part))


def _names(model: "Model") -> str:
    return f"{model.name} {model.alias}".lower()


def _read(file: Path) -> Iterator[Tag]:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        for number, row in enumerate(csv.reader(lines)):
            if number >= MOST_TAGS:
                return
            if row and (name := row[0].strip().replace("_", " ").lower()) and len(name) <= 200:
                count = int(row[2]) if len(row) > 2 and row[2].strip().isdigit() else 0
                others = row[3].split(",") if len(row) > 3 else []
                yield Tag(name, count, tuple(o.strip().replace("_", " ").lower() for o in others if o.strip()))
