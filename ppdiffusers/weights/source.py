"""Where a model is: a file, a folder, or the name of one that comes with MixStudio. Nothing here uses a network.

"embedded" is the model that makes pictures with nothing downloaded; "embedded/mini-clip" another one of the same store.
"""

import re
from dataclasses import dataclass
from pathlib import Path

EMBEDDED, FIRST = "embedded", "mini-diffusion"
STORE = Path(__file__).parents[2] / "assets" / "models"
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelSource:
    """What was asked for: a path or a name, and for a name the revision after "@" ("" is the newest)."""

    place: str
    revision: str = ""

    @classmethod
    def parse(cls, text: "str | Path | ModelSource") -> "ModelSource":
        """Paths are taken as they are; "owner/name@revision" is split."""
        if isinstance(text, ModelSource):
            return text
        place, at, revision = str(text).partition("@")
        if isinstance(text, Path) or not at or Path(text).exists() or not _HUB.fullmatch(place):
            return cls(str(text))
        return cls(place, revision)

    @property
    def embedded(self) -> str | None:
        """The name within the store, or None for anything that is not embedded."""
        head, _, name = self.place.replace("\\", "/").partition("/")
        return (name.strip("/") or FIRST) if head == EMBEDDED else None


@dataclass(frozen=True)
class ModelStore:
    """A folder of models, one folder or file each."""

    root: Path

    def names(self) -> tuple[str, ...]:
        """What is in it, the model that "embedded" means first."""
        if not self.root.is_dir():
            return ()
        found = [p.name for p in self.root.iterdir() if _whole(p) or p.suffix == ".safetensors"]
        return tuple(sorted(found, key=lambda name: (name != FIRST, name)))

    def find(self, name: str) -> Path:
        """The path of a model, its suffix may be left out. Raises ValueError with what there is instead."""
        for path in (self.root / name, self.root / f"{name}.safetensors"):
            if path.exists() and path.resolve().is_relative_to(self.root.resolve()):
                return path
        names = self.names()
        if not names:
            raise ValueError(
                f"this installation came without its embedded models (nothing in {self.root}); get the complete "
                "package or clone, or give a checkpoint of your own"
            )
        raise ValueError(f"no embedded model is called {name!r}; there are {', '.join(names)}")


def _whole(folder: Path) -> bool:
    """Whether a folder is a model, not one of models."""
    return any((folder / name).is_file() for name in ("model_index.json", "config.json"))


def locate(source: str | Path | ModelSource, store: ModelStore | None = None) -> Path:
    """The file or folder that `source` means. Raises ValueError, with what to do, where there is none.

    A file or folder of that name comes first, so that a folder called "embedded" in the working directory is found.
    """
    asked = ModelSource.parse(source)
    path = Path(asked.place).expanduser()
    if not asked.revision and path.exists():
        return path
    if (name := asked.embedded) is not None and not isinstance(source, Path):
        return (store or ModelStore(STORE)).find(name)
    if isinstance(source, str) and _HUB.fullmatch(asked.place) and not path.suffix:
        raise ValueError(
            f"there is no folder {asked.place}, and models are not downloaded by themselves; get it with "
            f"`python launch.py models add {source}` and give the path, or use {EMBEDDED!r}"
        )
    raise ValueError(f"there is no file or folder {asked.place}")
