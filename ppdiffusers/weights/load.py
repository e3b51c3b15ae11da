"""From a diffusers folder or a single file to models: detected, planned and checked as a whole, then streamed.

Nothing is half-loaded: all parts are planned before the first byte of a tensor is read, and what fails later is never
returned. Loading is a generator that yields (tensors done, of, name).
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppdiffusers.models.clip import CLIPTextModel, CLIPTextModelWithProjection
from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.models.pretrained import Pretrained
from ppdiffusers.models.unet import UNet2DConditionModel
from ppdiffusers.models.vae import AutoencoderKL
from ppdiffusers.weights.detect import Detected, Part, detect, family_of, prediction_word, vae_for
from ppdiffusers.weights.file import TensorFile, open_tensors, read_json
from ppdiffusers.weights.names import spell_below
from ppdiffusers.weights.plan import Plan, Shapes, drain, iter_plan, make_plan, refuse_unknown
from ppdiffusers.weights.source import locate

MODELS: dict[str, type[Pretrained]] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "controlnet": ControlNetModel,
}
TEXTS = ("text_encoder", "text_encoder_2")
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
# What single files hold of a text encoder beyond what Stable Diffusion reads of it.
UNUSED_TEXT: tuple[tuple[str, str], ...] = (
    (
        r"cond_stage_model\.model\.(text_projection|transformer\.resblocks\.23\..*)",
        "what SD 2 leaves out of its text encoder",
    ),
    (
        r"(cond_stage_model|conditioner\.embedders\.0)\.transformer\.text_projection(\.weight)?",
        "projection, not asked for",
    ),
)


@dataclass(frozen=True)
class LoadedParts:
    """A whole checkpoint. `text_encoders` and `tokenizers` (folders; None: the built-in CLIP one) go in pairs.

    prediction_type is eps, v or x0; scheduler_config is the folder's or empty; ignored counts the keys of the file that
    nobody needs, by reason.
    """

    family: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: list[CLIPTextModel]
    tokenizers: list[Path | None]
    scheduler_config: Mapping[str, Any]
    prediction_type: str
    source: Path
    ignored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class How:
    """How to load: dtype of all weights, variant of a folder's files, averaged weights or not, what the network
    predicts if detection is wrong, and whether keys that belong to no part may be dropped.
    """

    dtype: str = "float32"
    variant: str | None = None
    use_ema: bool = False
    prediction_type: str | None = None
    allow_unknown: bool = False


Loading = Generator[tuple[int, int, str], None, "LoadedParts"]


class Renamed:
    """A file some of whose tensors answer to another name too."""

    def __init__(self, file: TensorFile, aliases: Mapping[str, str]) -> None:
        self.file, self.aliases = file, aliases
        self.shapes: Shapes = file.shapes | {name: file.shapes[key] for name, key in aliases.items()}
        self.dtypes: Mapping[str, str] = file.dtypes | {name: file.dtypes[key] for name, key in aliases.items()}

    def array(self, key: str) -> np.ndarray:
        return self.file.array(self.aliases.get(key, key))


@dataclass(frozen=True)
class Task:
    """A model without weights, the file they are in, and the plan that fits."""

    name: str
    model: Pretrained
    file: TensorFile | Renamed
    plan: Plan


def iter_load(source: str | Path, dtype: str = "float32", **options: Any) -> Loading:
    """Load a checkpoint, yielding (tensors done, of, name) and returning its parts; `options` are the fields of `How`.

    Raises ValueError, before or instead of returning anything, for a file or folder that is not a complete, sound
    checkpoint of a supported family.
    """
    source, how = locate(source), How(dtype=dtype, **options)
    return _from_folder(source, how) if source.is_dir() else _from_file(source, how)


def load(source: str | Path, dtype: str = "float32", **options: Any) -> LoadedParts:
    """`iter_load` without the news."""
    return drain(iter_load(source, dtype, **options))


def load_part(source: str | Path, name: str, dtype: str = "float32", family: str | None = None) -> Any:
    """One network ("unet", "vae", "text_encoder", "text_encoder_2", "controlnet") from its folder, a pipeline's folder,
    or a single file that holds it. `family` tells a lone VAE's latent scale.
    """
    source = locate(source)
    if source.is_dir():
        place = source if (source / "config.json").is_file() else source / name
        return MODELS[name].from_pretrained(place, dtype=dtype)
    with open_tensors(source) as file:
        found = detect(file.shapes, file.metadata, source.name)
        if name not in found.parts:
            what = ", ".join(found.parts) or found.kind
            raise ValueError(f"{source.name} has no {name}: it is a {found.kind} ({found.family}) with {what}")
        task = _task(found.parts[name], Renamed(file, found.aliases), source.name)
        if len(found.parts) == 1:
            refuse_unknown(file.shapes, [task.plan], source.name, MODELS[name].HARMLESS)
        drain(_run([task], dtype))
        if name == "vae" and family is not None:
            task.model.config = vae_for(task.model.config, family)
    return task.model.eval()


def _task(part: Part, file: TensorFile | Renamed, source: str) -> Task:
    kind = MODELS[part.name]
    model = kind.empty(part.config)
    return Task(part.name, model, file, make_plan(model, part.spell or spell_below(""), file.shapes, source))


def _run(tasks: Sequence[Task], dtype: str) -> Generator[tuple[int, int, str], None, None]:
    total, before = sum(len(task.plan) for task in tasks), 0
    for task in tasks:
        for done, _, name in iter_plan(task.plan, task.file, task.model, dtype):
            yield before + done, total, f"{task.name}.{name}"
        before += len(task.plan)
        task.model.eval()


# --- single files -----------------------------------------------------------------------------------------------------


def _from_file(source: Path, how: How) -> Loading:
    with open_tensors(source) as file:
        found = detect(file.shapes, file.metadata, source.name, how.use_ema)
        _check_whole(found, source)
        view = Renamed(file, found.aliases)
        tasks = [_task(part, view, source.name) for part in found.parts.values()]
        ignored = _leftovers(file, [task.plan for task in tasks], how)
        yield from _run(tasks, how.dtype)
    models: dict[str, Any] = {task.name: task.model for task in tasks}
    texts = [models[name] for name in TEXTS if name in models]
    prediction = (
        prediction_word(how.prediction_type) if how.prediction_type else _beside(source) or found.prediction_type
    )
    return LoadedParts(
        found.family or "", models["unet"], models["vae"], texts, [None] * len(texts), {}, prediction, source, ignored
    )


def _leftovers(file: TensorFile, plans: Sequence[Plan], how: How) -> dict[str, int]:
    try:
        return refuse_unknown(file.shapes, plans, file.path.name, UNUSED_TEXT)
    except ValueError:
        if how.allow_unknown:
            return refuse_unknown(file.shapes, plans, file.path.name, (*UNUSED_TEXT, (r".*", "unknown")))
        raise


def _check_whole(found: Detected, source: Path) -> None:
    if "unet" not in found.parts:
        raise ValueError(f"{source.name} is a {found.kind} ({found.family or 'any family'}), not a whole checkpoint")
    texts = {"sdxl-refiner": ("text_encoder_2",)}.get(found.family or "", TEXTS[: 1 + found.family.startswith("sdxl")])  # type: ignore[union-attr]
    missing = [name for name in ("vae", *texts) if name not in found.parts]
    if missing:
        raise ValueError(
            f"{source.name} is a {found.family} checkpoint without {' and '.join(missing)}; get a full one, "
            "or put the parts into a diffusers folder"
        )


def _beside(source: Path) -> str | None:
    """What the original code's config beside the file says about the prediction: `parameterization: "v"`."""
    config = source.with_suffix(".yaml")
    if not config.is_file():
        return None
    lines = (line.strip() for line in config.read_text(encoding="utf-8", errors="replace").splitlines())
    said = next((line.partition(":")[2].strip(" \"'") for line in lines if line.startswith("parameterization:")), "eps")
    return prediction_word(said)


# --- folders ----------------------------------------------------------------------------------------------------------


def _from_folder(source: Path, how: How) -> Loading:
    names = list(_folder_parts(source))
    files = {name: open_tensors(source / name, how.variant) for name in names}
    try:
        parts = {name: _folder_part(source, name) for name in names}
        tasks = [_task(part, files[name], f"{name}/{files[name].path.name}") for name, part in parts.items()]
        for task in tasks:
            more = MODELS[task.name].HARMLESS
            refuse_unknown(task.file.shapes, [task.plan], f"{task.name}/{files[task.name].path.name}", more)
        yield from _run(tasks, how.dtype)
    finally:
        for file in files.values():
            file.close()
    models: dict[str, Any] = {task.name: task.model for task in tasks}
    texts = [name for name in TEXTS if name in names]
    scheduler = _scheduler(source)
    said = how.prediction_type or scheduler.get("prediction_type", "epsilon")
    return LoadedParts(
        family_of(parts) or "",
        models["unet"],
        models["vae"],
        [models[name] for name in texts],
        [_tokenizer(source, name) for name in texts],
        scheduler,
        prediction_word(said),
        source,
    )


def _folder_parts(source: Path) -> Iterator[str]:
    """The networks that a pipeline folder names in model_index.json; ValueError when one that is needed is missing."""
    if not (source / "model_index.json").is_file():
        raise ValueError(
            f"{source} is no diffusers pipeline: it has no model_index.json. Give such a folder or a single file"
        )
    index = read_json(source / "model_index.json")
    kind = str(index.get("_class_name"))
    if not kind.startswith(("StableDiffusion", "LatentConsistencyModel")) or kind.startswith("StableDiffusion3"):
        raise ValueError(
            f"{source.name} is a {kind}; supported are the StableDiffusion and StableDiffusionXL pipelines"
        )
    names = ["unet", "vae", *(name for name in TEXTS if index.get(name, [None])[0])]
    missing = [name for name in names if not (source / name / "config.json").is_file()]
    if missing or not any(name in TEXTS for name in names):
        raise ValueError(f"{source.name} is not complete: {', '.join(missing) or 'a text encoder'} is missing")
    yield from names


def _folder_part(source: Path, name: str) -> Part:
    return Part(name, MODELS[name].CONFIG.from_dict(read_json(source / name / "config.json")))


def _scheduler(source: Path) -> dict[str, Any]:
    path = source / "scheduler" / "scheduler_config.json"
    return read_json(path) if path.is_file() else {}


def _tokenizer(source: Path, name: str) -> Path | None:
    folder = source / TOKENIZERS[name]
    return folder if (folder / "vocab.json").is_file() or (folder / "tokenizer.json").is_file() else None
