"""Checkpoints written as diffusers folders, which diffusers and transformers load, and as original single files.

A single file is the loading plan read backwards: the same names, each op undone, stacked rows put together again.
Without a change of dtype every bit survives both ways.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from ppdiffusers.models.pretrained import Pretrained
from ppdiffusers.weights.detect import CONFIGS_KEY
from ppdiffusers.weights.entries import entries_of
from ppdiffusers.weights.load import TEXTS, TOKENIZERS, LoadedParts
from ppdiffusers.weights.names import (
    controlnet_ldm_names,
    spell_below,
    spell_by,
    spell_open_clip,
    spell_vae_ldm,
    unet_ldm_names,
    vae_ldm_names,
)
from ppdiffusers.weights.plan import Spell
from ppdiffusers.weights.write import Entry, write_tensors, write_text

EPSILON_WORDS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# The padding of a text encoder depends on its kind, which its activation tells: {file name: text}.
TokenizerFiles = Callable[[str], Mapping[str, str]]
CLIP_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json")


# --- diffusers folders ------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def save_diffusers(
    parts: LoadedParts,
    folder: str | Path,
    dtype: str | None = None,
    variant: str | None = None,
    tokenizer_files: TokenizerFiles | None = None,
) -> None:
    """A pipeline folder that diffusers' `from_pretrained` loads.

    `tokenizer_files` makes the files of the built-in tokenizer, for text encoders that came without one;
    `pipelines.save` has it. The model_index.json goes first when the folder is written over and comes last, so that a
    folder with an index is complete and of one model. A failure takes a new folder away again. ValueError for a full
    disk, bad numbers, or a tokenizer that is nowhere.
    """
    if tokenizer_files is None and None in parts.tokenizers:
        raise ValueError("this checkpoint came without tokenizers; save it with ppdiffusers.pipelines.save")
    folder = Path(folder)
    new = not folder.exists()
    (folder / "model_index.json").unlink(missing_ok=True)
    try:
        _save_parts(parts, folder, dtype, variant)
        _save_rest(parts, folder, tokenizer_files)
    except BaseException:
        if new:
            rmtree(folder, ignore_errors=True)
        raise


def _save_parts(parts: LoadedParts, folder: Path, dtype: str | None, variant: str | None) -> None:
    for name, model in named(parts).items():
        model.save_pretrained(folder / name, variant, dtype)


def _save_rest(parts: LoadedParts, folder: Path, tokenizer_files: TokenizerFiles | None) -> None:
    models = named(parts)
    for name, source in zip((n for n in TEXTS if n in models), parts.tokenizers, strict=True):
        place = folder / TOKENIZERS[name]
        if source is not None:
            _copy_tokenizer(source, place)
        elif tokenizer_files is not None:
            for file, text in tokenizer_files(models[name].config.hidden_act).items():
                write_text(place / file, text)
    scheduler = dict(parts.scheduler_config) or scheduler_config(parts.prediction_type, parts.family.startswith("sdxl"))
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "model_index.json", _index(parts, models, scheduler["_class_name"]))


def named(parts: LoadedParts) -> dict[str, Pretrained]:
    """The networks under the names they have in a folder."""
    texts = TEXTS[1:] if parts.family == "sdxl-refiner" else TEXTS
    return {"unet": parts.unet, "vae": parts.vae, **dict(zip(texts, parts.text_encoders, strict=False))}


def scheduler_config(prediction: str, xl: bool) -> dict[str, Any]:
    """The scheduler that the family's own folders name."""
    kind = "EulerDiscreteScheduler" if xl else "PNDMScheduler"
    only = {"timestep_spacing": "leading"} if xl else {"skip_prk_steps": True, "set_alpha_to_one": False}
    words = {"prediction_type": EPSILON_WORDS[prediction], "steps_offset": 1}
    return {"_class_name": kind, "_diffusers_version": "0.30.0"} | BETAS | only | words


def _index(parts: LoadedParts, models: Mapping[str, Pretrained], scheduler: str) -> dict[str, Any]:
    xl = parts.family.startswith("sdxl")
    task = {"inpaint": "Inpaint", "pix2pix": "InstructPix2Pix", "refiner": "Img2Img"}.get(
        parts.family.rpartition("-")[2], ""
    )
    index: dict[str, Any] = {
        "_class_name": f"StableDiffusion{'XL' if xl else ''}{task}Pipeline",
        "_diffusers_version": "0.30.0",
    }
    for name, model in models.items():
        index[name] = ["transformers" if name in TEXTS else "diffusers", type(model).__name__]
    tokenizers = {TOKENIZERS[name]: ["transformers", "CLIPTokenizer"] for name in models if name in TEXTS}
    absent = {name: [None, None] for name in (*TEXTS, *TOKENIZERS.values())} if xl else {}
    if not xl:
        absent = {name: [None, None] for name in ("safety_checker", "feature_extractor")} | {
            "requires_safety_checker": False
        }
    flags = {"force_zeros_for_empty_prompt": parts.family != "sdxl-refiner"} if xl else {}
    if parts.family == "sdxl-refiner":
        flags["requires_aesthetics_score"] = True
    return absent | index | tokenizers | {"scheduler": ["diffusers", scheduler]} | flags


def _copy_tokenizer(source: Path, folder: Path) -> None:
    if source.resolve() == folder.resolve():
        return
    for path in (source / name for name in CLIP_FILES if (source / name).is_file()):
        write_text(folder / path.name, path.read_text(encoding="utf-8"))


# --- single files -----------------------------------------------------------------------------------------------------


def save_ldm(parts: LoadedParts, path: str | Path, dtype: str | None = None) -> None:
    """One .safetensors file under the original names, as every other program reads it.

    What shapes do not show (head counts, prediction type) goes into its metadata, so that it is recognised exactly.
    """
    models = named(parts)
    entries: dict[str, Entry] = {}
    for name, model in models.items():
        entries |= entries_of(model, ldm_spelling(parts.family, name, model), dtype)
    if parts.family.startswith("sdxl") and parts.prediction_type == "v":
        entries["v_pred"] = Entry("F32", (0,), lambda: np.zeros(0, np.float32))  # the mark other programs look for
    configs = {name: model.config_dict() for name, model in models.items()}
    metadata = {
        CONFIGS_KEY: json.dumps(configs),
        "mixstudio.prediction_type": parts.prediction_type,
        "modelspec.prediction_type": {"eps": "epsilon"}.get(parts.prediction_type, parts.prediction_type),
    }
    write_tensors(Path(path), entries, metadata)


def save_controlnet_ldm(model: Pretrained, path: str | Path, dtype: str | None = None) -> None:
    """A ControlNet as one file under the original names."""
    spell = spell_by(controlnet_ldm_names(model.config).under("control_model."))
    metadata = {CONFIGS_KEY: json.dumps({"controlnet": model.config_dict()})}
    write_tensors(Path(path), entries_of(model, spell, dtype), metadata)


def ldm_spelling(family: str, name: str, model: Pretrained) -> Spell:
    """How the family's original files call the parameters of one part."""
    if name == "unet":
        return spell_by(unet_ldm_names(model.config).under("model.diffusion_model."))
    if name == "vae":
        return spell_vae_ldm(vae_ldm_names(model.config).under("first_stage_model."))
    if family.startswith("sd15"):
        return spell_below("cond_stage_model.transformer.")
    layers = model.config.num_hidden_layers
    if family.startswith("sd2"):
        return spell_open_clip(layers, "cond_stage_model.model.")
    if name == "text_encoder":
        return spell_below("conditioner.embedders.0.transformer.")
    return spell_open_clip(layers, f"conditioner.embedders.{0 if family == 'sdxl-refiner' else 1}.model.")
