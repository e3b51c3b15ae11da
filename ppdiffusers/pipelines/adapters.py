"""The adapters that a prompt's tags name: found, fitted, and applied for the steps for which the tags say so."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from paddle import nn

from ppdiffusers.patch import Use, patched
from ppdiffusers.pipelines.event import Note
from ppdiffusers.prompt.network import Network
from ppdiffusers.weights.file import open_tensors
from ppdiffusers.weights.lora import LoraPatch, plan_lora, read_lora

FindLora = Callable[[str], Path | None]
SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")


def nowhere(name: str) -> Path | None:
    """A library without adapters."""
    return None


@dataclass(frozen=True, eq=False)
class Library:
    """Adapters at hand: `find(name)` gives the file of a `<lora:name:1>` tag, `always` is on in every picture."""

    find: FindLora = nowhere
    always: tuple[Use, ...] = ()

    @classmethod
    def of_folders(cls, *folders: str | Path) -> "Library":
        """Files by name, or by the name their trainer gave them, below these folders."""
        return cls(partial(_in_folders, tuple(Path(folder) for folder in folders)))


def _in_folders(folders: tuple[Path, ...], name: str) -> Path | None:
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES]
    if exact := next((path for path in files if path.stem == name), None):
        return exact
    return next((path for path in files if path.suffix == ".safetensors" and _alias(path) == name), None)


def _alias(path: Path) -> str | None:
    try:
        with open_tensors(path) as file:
            return file.metadata.get("ss_output_name")
    except ValueError:  # a broken file in the folder has no alias; asking for it by name tells what is wrong
        return None


class Adapters:
    """The models with a prompt's adapters on them, as a context; every weight is restored on the way out.

    A tag that changes its weight over the steps makes the models change with it, see `at`.
    """

    def __init__(
        self, models: Mapping[str, nn.Layer], tags: Sequence[tuple[Network, LoraPatch]], always: Sequence[Use] = ()
    ) -> None:
        self.models, self.tags, self.always = models, tuple(tags), tuple(always)
        self._applied: tuple[float, ...] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Adapters":
        self.at(0, 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def at(self, step: int, steps: int) -> None:
        """Bring the models to what holds at this step; nothing happens while the weights stay as they are."""
        weights = tuple(tag.unet_weight(step, steps) for tag, _ in self.tags)
        if not (self.tags or self.always) or weights == self._applied:
            return
        self._stack.close()
        tagged = (
            Use(patch, weight, tag.te_weight, tag.blocks)
            for (tag, patch), weight in zip(self.tags, weights, strict=True)
        )
        uses = [*self.always, *tagged]
        self._stack.enter_context(patched(self.models, uses))
        self._applied = weights


def find(
    tags: Sequence[Network], models: Mapping[str, nn.Layer], find_lora: FindLora
) -> tuple[list[tuple[Network, LoraPatch]], list[Note]]:
    """The tags with their fitted files, and a note each: the file's verdict, or a warning why the tag has no effect."""
    found, notes = [], []
    for tag in tags:
        if tag.kind == "hypernet":
            notes.append(Note(f"<hypernet:{tag.name}> is not supported and has no effect", warning=True))
            continue
        for word in tag.ignored:
            notes.append(Note(f"<{tag.kind}:{tag.name}>: {word} is not understood and has no effect", warning=True))
        path = find_lora(tag.name)
        if path is None:
            notes.append(Note(f"LoRA {tag.name!r} was not found; <{tag.kind}:{tag.name}> has no effect", warning=True))
            continue
        patch = plan_lora(read_lora(path), models)
        found.append((tag, patch))
        notes.append(Note(patch.verdict, warning=bool(patch.unused)))
    return found, notes
