"""What models are on disk: found in the WebUI's and ComfyUI's folders, told apart by their headers, looked up by name.

Only headers are read, and what they said is remembered per file, size and time, so that a thousand LoRAs cost a second
once. A file that cannot be read stays in the list with a sentence why: people look for it there.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from app.cache import hash_cache
from app.settings import ROOT, Settings
from ppdiffusers.pipelines.describe import file_hash, remembered_hash
from ppdiffusers.weights.detect import detect
from ppdiffusers.weights.file import open_tensors
from ppdiffusers.weights.write import write_text

EMBEDDED = ROOT / "assets" / "models"
# Folder names of the WebUI, of ComfyUI and of our own `models/`, for each kind; the first is where we put new ones.
FOLDERS: dict[str, tuple[str, ...]] = {
    "checkpoint": ("Stable-diffusion", "checkpoints", "diffusers", "diffusion_models"),
    "lora": ("Lora", "loras", "LyCORIS"),
    "vae": ("VAE", "vae"),
    "controlnet": ("ControlNet", "controlnet"),
    "embedding": ("embeddings",),
    "upscaler": ("ESRGAN", "upscale_models"),
    "llm": ("LLM", "llm"),
}
KINDS = tuple(FOLDERS)
ADAPTER = "adapter_config.json"
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
PREVIEWS = (".preview.png", ".png", ".preview.jpg", ".jpg", ".jpeg", ".webp", ".preview.webp")
_FOUND_KINDS = {"textual_inversion": "embedding", "unet": "checkpoint", "text_encoder": "checkpoint"}


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model on disk. `family` is detection's word or ""; `problem` says why it cannot be used."""

    kind: str
    name: str
    path: Path
    size: int
    changed: float
    family: str = ""
    alias: str = ""  # the name that its trainer gave it
    problem: str = ""
    embedded: bool = False
    preview: Path | None = None
    info: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def digest(self) -> str:
        """The short hash where it is known already; see `Catalog.hash`."""
        return remembered_hash(self.path, hash_cache()) or "" if self.path.is_file() else ""

    @property
    def title(self) -> str:
        """Name and short hash, as the WebUI shows checkpoints."""
        return f"{self.name} [{self.digest}]" if self.digest else self.name


class Catalog:
    """All models below the settings' folders."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._memory_path = settings.data / "models" / ".catalog.json"
        self._memory: dict[str, dict[str, str]] = self._remembered()
        self._models: list[Model] = []
        self._scanned = False

    def _remembered(self) -> dict[str, dict[str, str]]:
        try:
            found = json.loads(self._memory_path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    def folder(self, kind: str) -> Path:
        """Where new models of a kind belong."""
        return self.settings.models / FOLDERS[kind][0]

    def refresh(self, settings: Settings | None = None) -> list[Model]:
        """Look at the disk again."""
        with self._lock:
            self.settings = settings or self.settings
            before = len(self._memory)
            found = {model.path: model for model in self._scan()}  # a folder may be named twice
            self._models = sorted(found.values(), key=lambda m: (not m.embedded, m.name.lower()))
            self._scanned = True
            if len(self._memory) != before and self._memory_path.parent.is_dir():
                with suppress(ValueError):  # a read-only folder: headers are read again next time
                    write_text(self._memory_path, json.dumps(self._memory))
            return list(self._models)

    def list(self, kind: str = "") -> list[Model]:
        """The models of a kind, or all; embedded ones first, then by name."""
        if not self._scanned:
            self.refresh()
        return [model for model in self._models if kind in ("", model.kind)]

    def find(self, kind: str, name: str) -> Model:
        """By name, "name [hash]", hash, the trainer's name, or a path. Raises KeyError with what there is."""
        models = self.list(kind)
        bare = name.rpartition(" [")[0] if name.endswith("]") else name
        wanted = Path(bare).stem if Path(bare).suffix.lower() in SUFFIXES else bare
        tests = (
            lambda m: m.name == wanted or m.path.as_posix() == name,
            lambda m: m.alias == wanted or Path(m.name).name == wanted,
            lambda m: m.name.lower() == wanted.lower(),
            lambda m: bool(m.digest) and (m.digest in name if name.endswith("]") else m.digest == name.lower()),
        )
        for test in tests:
            if found := next(filter(test, models), None):
                return found
        there = ", ".join(model.name for model in models[:12]) or "none yet"
        raise KeyError(f"there is no {kind} {name!r}; there are: {there}{', ...' if len(models) > 12 else ''}")

    def default(self, kind: str = "checkpoint") -> Model:
        """The checkpoint to use where none is named. Raises KeyError that says how to get one."""
        if self.settings.model:
            with suppress(KeyError):
                return self.find(kind, self.settings.model)
        usable = [model for model in self.list(kind) if not model.problem]
        if not usable:
            raise KeyError(f"there is no {kind} yet: put a file into {self.folder(kind)}, or get one with `models add`")
        return usable[0]

    def hash(self, model: Model) -> str:
        """The short hash (Civitai's AutoV2); reads the whole file the first time. "" for folders."""
        return file_hash(model.path, hash_cache()) if model.path.is_file() else ""

    def _scan(self) -> Iterator[Model]:
        for root, embedded in ((EMBEDDED, True), (self.settings.models, False)):
            yield from self._root(root, embedded)
        if (beside := self.settings.data / "embeddings").is_dir():
            yield from self._walk(beside, "embedding", False)
        for given in self.settings.model_folders:
            root = Path(given).expanduser()
            yield from self._root(root / "models" if (root / "models").is_dir() else root, False)
            if (root / "embeddings").is_dir() and (root / "models").is_dir():
                yield from self._walk(root / "embeddings", "embedding", False)

    def _root(self, root: Path, embedded: bool) -> Iterator[Model]:
        """The known folders below a root; a root without any is one folder of whatever lies in it."""
        if not root.is_dir():
            return
        known = [(root / name, kind) for kind, names in FOLDERS.items() for name in names if (root / name).is_dir()]
        for folder, kind in known:
            yield from self._walk(folder, kind, embedded)
        if not known or embedded:
            yield from self._walk(root, "", embedded, skip={folder for folder, _ in known})

    def _walk(
        self, folder: Path, kind: str, embedded: bool, skip: frozenset[Path] | set[Path] = frozenset()
    ) -> Iterator[Model]:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path in skip:
                continue
            if path.is_dir():
                told = _folder_kind(path)
                if told:
                    yield self._model(path, kind if kind in ("vae", "controlnet", "llm") else told, folder, embedded)
                else:
                    yield from self._walk_below(path, kind, folder, embedded)
            elif path.suffix.lower() in SUFFIXES:
                yield self._model(path, kind, folder, embedded)

    def _walk_below(self, path: Path, kind: str, top: Path, embedded: bool) -> Iterator[Model]:
        within, models = path.relative_to(top).as_posix(), [*self._walk(path, kind, embedded)]
        if kind == "llm" and len(models) == 1 and models[0].path.suffix == ".gguf":  # a folder for one file, its name
            models, within = [replace(models[0], name=within.rpartition("/")[2])], within.rpartition("/")[0]
        for model in models:
            yield replace(model, name=f"{within}/{model.name}" if within else model.name)

    def _model(self, path: Path, kind: str, top: Path, embedded: bool) -> Model:
        from app.models.sidecars import preview_of, read_info

        stat = path.stat()
        size = stat.st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        key = f"{path.resolve()}|{size}|{stat.st_mtime_ns}"
        if key not in self._memory:
            self._memory[key] = _look(path)
        told = self._memory[key]
        return Model(
            kind=kind or told.get("kind", "checkpoint"),
            name=path.stem if path.is_file() else path.name,
            path=path,
            size=size,
            changed=stat.st_mtime,
            family=told.get("family", ""),
            alias=told.get("alias", ""),
            problem=told.get("problem", ""),
            embedded=embedded,
            preview=preview_of(path),
            info=read_info(path),
        )


def _folder_kind(path: Path) -> str:
    """What a folder is as a whole; "" for one that only holds others."""
    if (path / "model_index.json").is_file():
        return "checkpoint"
    if adapter_of(path):
        return "llm"
    config = path / "config.json"
    if not config.is_file():
        return ""
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "checkpoint"
    name = str(told.get("_class_name", ""))
    by_class = {"AutoencoderKL": "vae", "ControlNetModel": "controlnet", "UNet2DConditionModel": "checkpoint"}
    if name in by_class:
        return by_class[name]
    return "clip" if told.get("model_type") == "clip" else "llm"


def _look(path: Path) -> dict[str, str]:
    """Kind, family and alias of a file by its header, or the problem with it."""
    if path.suffix == ".gguf":
        return {"kind": "llm"}
    if path.is_dir():
        return _look_folder(path)
    try:
        with open_tensors(path) as file:
            found = detect(file.shapes, file.metadata, path.name)
            alias = str(file.metadata.get("ss_output_name") or "")
    except (ValueError, OSError) as why:
        return {"problem": str(why)}
    kind = _FOUND_KINDS.get(found.kind, found.kind)
    return {"kind": kind, "family": found.family or "", "alias": alias}


def adapter_of(path: Path) -> dict[str, Any]:
    """The adapter_config.json of a language model's adapter as PEFT saves them; empty for any other folder."""
    told = json_object(path / ADAPTER)
    return told if told.get("task_type") == "CAUSAL_LM" else {}


def json_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty where there is none, or it is broken, or no object."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _look_folder(path: Path) -> dict[str, str]:
    if adapter_of(path):
        return {"kind": "llm", "family": "adapter"}
    unet = path / "unet" / "config.json"
    if not unet.is_file():
        return {}
    try:
        config = json.loads(unet.read_text(encoding="utf-8"))
        width = int(config.get("cross_attention_dim", 0))
    except (OSError, ValueError, TypeError) as why:
        return {"problem": f"{unet} cannot be read: {why}"}
    families = {768: "sd15", 1024: "sd2", 2048: "sdxl-base", 1280: "sdxl-refiner"}
    return {"kind": "checkpoint", "family": families.get(width, "")}


def as_json(model: Model) -> dict[str, Any]:
    """A model as HTTP and `--json` tell it."""
    values = asdict(model) | {"title": model.title, "hash": model.digest}
    return values | {"path": str(model.path), "preview": str(model.preview) if model.preview else None}
