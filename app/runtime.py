"""The models in memory: loaded when a job needs them, kept while they fit, dropped least recently used first.

The one place with mutable state about models. Only the worker that owns the device calls the loading methods.
"""

import os
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog import Catalog, Model, json_object
from app.settings import Settings
from kernels.memory import release_freed_memory

if TYPE_CHECKING:
    from ppdiffusers.models.controlnet import ControlNetModel
    from ppdiffusers.pipelines.adapters import Library
    from ppdiffusers.pipelines.bundle import Bundle
    from ppdiffusers.pipelines.event import Note, Progress

Loading = Generator["Progress | Note", None, Any]
DEFAULTS: dict[str, Any] = {"sampler": "DPM++ 2M", "steps": 20, "cfg_scale": 7.0}
OPTIONAL = ("width", "height", "schedule", "redraw")  # redraw: of the guided pass of an art QR code, 0 to 1
RECOMMENDED = "mixstudio.json"  # in a model's folder: what its makers advise


@dataclass(frozen=True, kw_only=True)
class About:
    """A sentence about a model, and prompts that it draws well."""

    note: str = ""
    examples: tuple[str, ...] = ()


class Runtime:
    """Loaded checkpoints and ControlNets within a budget of memory."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self.settings, self.catalog = settings, catalog
        self.last: str = ""  # the checkpoint used last, as the WebUI's "current checkpoint"
        self._loaded: OrderedDict[tuple[Any, ...], tuple[int, Any]] = OrderedDict()

    @property
    def budget(self) -> int:
        """Bytes that loaded models may take."""
        return int(self.settings.memory_gb * 2**30) or _memory() // 2

    @property
    def used(self) -> int:
        """Bytes of what is loaded, by the size of the files."""
        return sum(size for size, _ in self._loaded.values())

    def choose(self, name: str = "") -> Model:
        """The checkpoint that a name means; "" is the one of the settings. Raises KeyError or ValueError."""
        model = self.catalog.find("checkpoint", name) if name else self.catalog.default("checkpoint")
        if model.problem:
            raise ValueError(f"{model.name} cannot be used: {model.problem}")
        return model

    def bundle(self, name: str = "", vae: str = "") -> Generator["Progress | Note", None, "Bundle"]:
        """The checkpoint, with another VAE where one is named; its value is the bundle."""
        from ppdiffusers.pipelines.event import Note
        from ppdiffusers.pipelines.load import iter_bundle, with_vae

        model = self.choose(name)
        other = self.catalog.find("vae", vae) if vae not in ("", "None", "Automatic") else None
        files = self._embeddings(model.family)
        key = ("checkpoint", *_identity(model), *(_identity(other) if other else ()), self.settings.dtype, tuple(files))
        if (found := self._get(key)) is None:
            size = model.size + (other.size if other else 0)
            self._make_room(size)
            found = yield from iter_bundle(model.path, self.settings.model_dtype)
            found = replace(found, name=model.name)
            if other is not None:
                found = with_vae(found, other.path)
            if files:
                found, notices = found.with_embeddings(files)
                for notice in notices:
                    yield Note(notice, warning=True)
            found = replace(found, digest=self._digest(model))
            self._put(key, size, found)
        self.last = model.name
        return found

    def controlnet(self, name: str) -> Generator["Progress | Note", None, "ControlNetModel"]:
        """A ControlNet by name."""
        from ppdiffusers.pipelines.event import Progress
        from ppdiffusers.pipelines.load import load_controlnet

        model = self.catalog.find("controlnet", name)
        key = ("controlnet", *_identity(model), self.settings.dtype)
        if (found := self._get(key)) is None:
            self._make_room(model.size)
            yield Progress(0, 1, f"loading {model.name}")
            found = load_controlnet(model.path, self.settings.model_dtype)
            yield Progress(1, 1, f"loading {model.name}")
            self._put(key, model.size, found)
        return found

    def library(self) -> "Library":
        """What `<lora:name:1>` tags mean here."""
        from ppdiffusers.pipelines.adapters import Library

        return Library(find=self._lora)

    def _lora(self, name: str) -> Path | None:
        with suppress(KeyError):
            return self.catalog.find("lora", name).path
        return None

    def recommended(self, name: str = "") -> dict[str, Any]:
        """Sampler, steps, CFG scale and perhaps size that the model's makers advise, else the usual ones."""
        path = self._told_at(name)
        told = advice(path) if path is not None else {}
        return {**DEFAULTS, **{key: told[key] for key in (*DEFAULTS, *OPTIONAL) if key in told}}

    def about(self, name: str = "") -> About:
        """What a model's makers say about it, for people who choose it; nothing for most models."""
        path = self._told_at(name)
        told = json_object(path) if path is not None else {}
        examples = told.get("examples", [])
        return About(
            note=str(told.get("note", ""))[:500],
            examples=tuple(str(one)[:500] for one in examples[:50]) if isinstance(examples, list) else (),
        )

    def _told_at(self, name: str) -> Path | None:
        """Where a model's makers would say something about it; None for a single file and for no model."""
        with suppress(KeyError, ValueError):
            model = self.choose(name)
            return model.path / RECOMMENDED if model.path.is_dir() else None
        return None

    def _embeddings(self, family: str) -> list[str]:
        """Files of textual inversions made for a family."""
        base = family.split("-")[0]
        fitting = (m for m in self.catalog.list("embedding") if not m.problem and m.family.split("-")[0] in (base, ""))
        return [str(model.path) for model in fitting]

    def _digest(self, model: Model) -> str:
        with suppress(OSError):
            return self.catalog.hash(model)
        return ""

    def _get(self, key: tuple[Any, ...]) -> Any:
        if key not in self._loaded:
            return None
        self._loaded.move_to_end(key)
        return self._loaded[key][1]

    def _put(self, key: tuple[Any, ...], size: int, value: Any) -> None:
        self._loaded[key] = (size, value)

    def _make_room(self, size: int) -> None:
        dropped = False
        while self._loaded and self.used + size > self.budget:
            self._loaded.popitem(last=False)
            dropped = True
        if dropped:
            release_freed_memory()

    def relieve(self) -> None:
        """Let go of everything loaded: memory ran out, or the user asks for it."""
        self._loaded.clear()
        release_freed_memory()

    def loaded(self) -> list[str]:
        """Names of what is in memory."""
        return [str(key[1]) for key in self._loaded]


def _identity(model: Model) -> tuple[Any, ...]:
    return (str(model.path), model.size, model.changed)


def advice(path: Path) -> Mapping[str, Any]:
    """What a model's makers advise in its mixstudio.json; empty where there is none."""
    told = json_object(path)
    recommended = told.get("recommended", told)
    return recommended if isinstance(recommended, dict) else {}


def _memory() -> int:
    """This machine's memory in bytes; 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
