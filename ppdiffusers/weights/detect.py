"""What a checkpoint file is, told from its header alone: kind, family, the config of each part and how it spells names.

A file may hold any of the parts; which ones is found by asking for one telling key under each prefix in use. Whether a
model predicts eps or v shows in no shape, see `prediction_type` for the order of clues and pass it explicitly when they
are wrong.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ppdiffusers.models.config import VAE_XL, CLIPTextConfig, ControlNetConfig, JsonConfig, UNetConfig, VAEConfig
from ppdiffusers.weights import ema
from ppdiffusers.weights.adapters import adapter_kind, inversion_family, lora_family
from ppdiffusers.weights.infer import (
    Shapes,
    clip_config,
    controlnet_config,
    open_clip_config,
    unet_config,
    vae_config,
)
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

CONFIGS_KEY = "mixstudio.configs"  # in the metadata of single files that we wrote: what shapes do not show
PREDICTIONS = ("eps", "v", "x0")


@dataclass(frozen=True)
class Part:
    """One network in a file: its name as in a diffusers folder, config, and spelling (None: the model's own)."""

    name: str
    config: JsonConfig
    spell: Spell | None = None


@dataclass(frozen=True)
class Detected:
    """A file, known by its header.

    kind: checkpoint, unet, vae, text_encoder, controlnet, lora or textual_inversion. family: sd15, sd15-inpaint,
    sd15-pix2pix, sd2, sd2-inpaint, sdxl-base, sdxl-inpaint, sdxl-refiner, and controlnet-sd15 and so on; None where the
    file does not tell. algorithm: of a LoRA. aliases: keys under which the file hides tensors that are asked for by
    another name (averaged weights).
    """

    kind: str
    family: str | None
    parts: Mapping[str, Part] = field(default_factory=dict)
    prediction_type: str = "eps"
    algorithm: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a part may lie: the prefix, a key that must be below it, and whether names are the original code's."""

    prefix: str
    key: str
    ldm: bool


UNETS = (
    *(Place(prefix, "input_blocks.0.0.weight", True) for prefix in ("model.diffusion_model.", "diffusion_model.", "")),
    *(Place(prefix, "up_blocks.0.resnets.0.conv1.weight", False) for prefix in ("unet.", "")),
)
VAES = (
    *(Place(prefix, "decoder.mid.block_1.conv1.weight", True) for prefix in ("first_stage_model.", "vae.", "")),
    *(Place(prefix, "decoder.mid_block.resnets.0.conv1.weight", False) for prefix in ("vae.", "")),
)
CONTROLNETS = (
    *(Place(prefix, "input_hint_block.0.weight", True) for prefix in ("control_model.", "")),
    Place("", "controlnet_cond_embedding.conv_in.weight", False),
)
CLIPS = tuple(
    Place(prefix + inner, "embeddings.token_embedding.weight", False)
    for prefix in ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.", "text_encoder.", "")
    for inner in ("text_model.", "")
)
OPEN_CLIPS = tuple(
    Place(prefix, "token_embedding.weight", True)
    for prefix in ("cond_stage_model.model.", "conditioner.embedders.0.model.", "conditioner.embedders.1.model.")
)
# Files that people try, with a key that gives them away.
STRANGERS: tuple[tuple[str, str], ...] = (
    (r"(.*\.)?double_blocks\.0\..*", "FLUX"),
    (r"(.*\.)?joint_blocks\.0\..*", "Stable Diffusion 3"),
    (r".*motion_modules\..*", "an AnimateDiff motion module"),
    (r"(image_proj|ip_adapter)\..*", "an IP-Adapter"),
    (r"(.*\.)?lora_controlnet", "a Control-LoRA; get the full ControlNet"),
    (r"(model\.)?layers\.0\.self_attn\.q_proj\..*", "a language model"),
    (r"conv_first\.weight|model\.0\.weight|params_ema\..*", "an upscaler"),
    (r"(.*\.)?adapter\.body\..*|(.*\.)?body\.0\.block1\..*", "a T2I-Adapter"),
    (r".*(down_1|effnet_mapper|clip_txt_mapper).*", "Stable Cascade"),
    (r"(.*\.)?shared\.weight|encoder\.block\.0\.layer\..*", "a T5 text encoder"),
)


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes under a prefix, without it."""
    return {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}


def find(shapes: Shapes, places: tuple[Place, ...]) -> Place | None:
    return next((place for place in places if place.prefix + place.key in shapes), None)


def with_averages(shapes: Shapes, use_ema: bool) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """(shapes as asked for, aliases): averages in place of the UNet's weights if asked for or if there are no others.

    Raises ValueError when they are asked for and the file has none.
    """
    aliases = ema.averages([*shapes])
    if use_ema and not aliases:
        raise ValueError("this file has no averaged (EMA) weights; load it without use_ema")
    if not use_ema and any(key.startswith(ema.WHERE) for key in shapes):
        return dict(shapes), {}
    return {**shapes, **{dotted: shapes[key] for dotted, key in aliases.items()}}, aliases


def detect(
    shapes: Shapes, metadata: Mapping[str, str] | None = None, name: str = "", use_ema: bool = False
) -> Detected:
    """What the header `shapes` belongs to; `metadata` and the file's `name` give clues that shapes do not.

    Raises ValueError, saying what was looked for, when it is nothing we know or a variant that is not supported.
    """
    metadata = metadata or {}
    shapes, aliases = with_averages(shapes, use_ema)
    if algorithm := adapter_kind(shapes):
        return Detected("lora", lora_family(shapes), algorithm=algorithm)
    if family := inversion_family(shapes):
        return Detected("textual_inversion", family)
    try:
        if place := find(shapes, CONTROLNETS):
            return _controlnet(below(shapes, place.prefix), place, metadata)
        parts = _parts(shapes, metadata)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{name or 'the file'} is not complete: {error} is missing or has a wrong shape") from None
    if not parts:
        raise ValueError(_stranger(shapes, name))
    family = family_of(parts)
    prediction = prediction_type(family, shapes, metadata, name)
    kind = "checkpoint" if len(parts) > 1 else next(iter(parts)).removesuffix("_2")
    return Detected(kind, family, _fitted(parts, family, prediction, name), prediction, aliases=aliases)


def _controlnet(shapes: Shapes, place: Place, metadata: Mapping[str, str]) -> Detected:
    config = _recorded(metadata, "controlnet", ControlNetConfig) or controlnet_config(shapes, place.ldm)
    names = controlnet_ldm_names(config) if place.ldm else None
    spell = spell_by(names.under(place.prefix)) if names else spell_below(place.prefix)
    base = "sdxl" if config.addition_embed_type else "sd2" if config.use_linear_projection else "sd15"
    return Detected("controlnet", f"controlnet-{base}", {"controlnet": Part("controlnet", config, spell)})


def _parts(shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Part]:
    found: dict[str, Part] = {}
    if place := find(shapes, UNETS):
        unet = _recorded(metadata, "unet", UNetConfig) or unet_config(below(shapes, place.prefix), place.ldm)
        spell = spell_by(unet_ldm_names(unet).under(place.prefix)) if place.ldm else spell_below(place.prefix)
        found["unet"] = Part("unet", unet, spell)
    if place := find(shapes, VAES):
        vae = _recorded(metadata, "vae", VAEConfig) or vae_config(below(shapes, place.prefix), place.ldm)
        spell = spell_vae_ldm(vae_ldm_names(vae).under(place.prefix)) if place.ldm else spell_below(place.prefix)
        found["vae"] = Part("vae", vae, spell)
    return found | _texts(shapes, metadata)


def _texts(shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Part]:
    found: dict[str, Part] = {}
    if place := find(shapes, CLIPS):
        prefix = place.prefix.removesuffix("text_model.")
        config = _recorded(metadata, "text_encoder", CLIPTextConfig) or clip_config(below(shapes, prefix))
        found["text_encoder"] = Part("text_encoder", config, spell_below(prefix))
    for place in OPEN_CLIPS:
        if place.prefix + place.key not in shapes:
            continue
        part = "text_encoder" if place.prefix.startswith("cond_stage_model") else "text_encoder_2"
        recorded = _recorded(metadata, part, CLIPTextConfig)
        config = recorded or open_clip_config(below(shapes, place.prefix), projected=part == "text_encoder_2")
        found[part] = Part(part, config, spell_open_clip(config.num_hidden_layers, place.prefix))
    return found


def _recorded(metadata: Mapping[str, str], part: str, kind: type[Any]) -> Any:
    """The config that we wrote into the file when we saved it, or None."""
    try:
        recorded = json.loads(metadata.get(CONFIGS_KEY, "{}"))
        return kind.from_dict(recorded[part]) if part in recorded else None
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"the configs in the file's metadata cannot be read ({error})") from None


def family_of(parts: Mapping[str, Part]) -> str | None:
    """The family that these parts make up; None when only a VAE is there, which several families share."""
    if "unet" not in parts:
        return None
    unet: Any = parts["unet"].config
    base = _base(parts, unet)
    kinds = {4: "", 9: "-inpaint", 8: "-pix2pix"}
    if unet.in_channels not in kinds or (base == "sdxl-refiner" and unet.in_channels != 4):
        raise ValueError(
            f"this {base} UNet reads {unet.in_channels} channels; supported are 4 (pictures from text), "
            "9 (inpainting) and 8 (InstructPix2Pix)"
        )
    kind = kinds[unet.in_channels]
    return base.removesuffix("-base") + kind if kind else base


def _base(parts: Mapping[str, Part], unet: UNetConfig) -> str:
    if unet.addition_embed_type is None:
        return "sd2" if unet.use_linear_projection else "sd15"
    if ("text_encoder" in parts and "text_encoder_2" not in parts) or unet.cross_attention_dim == 1024:
        raise ValueError(
            "this is a Stable Diffusion 2 unCLIP model: it reads picture embeddings, which is not supported"
        )
    alone = "text_encoder_2" in parts and "text_encoder" not in parts
    bare = "text_encoder_2" not in parts and unet.cross_attention_dim == 1280
    return "sdxl-refiner" if alone or bare else "sdxl-base"


def _fitted(parts: dict[str, Part], family: str | None, prediction: str, name: str) -> dict[str, Part]:
    """The parts with what the family adds to their configs: latent scale, usual picture size."""
    fitted = dict(parts)
    size = 128 if (family or "").startswith("sdxl") else 96 if (family, prediction) == ("sd2", "v") else 64
    if "unet" in fitted and fitted["unet"].config.sample_size is None:  # type: ignore[attr-defined]
        fitted["unet"] = replace(fitted["unet"], config=replace(fitted["unet"].config, sample_size=size))  # type: ignore[type-var]
    if "vae" in fitted:
        fitted["vae"] = replace(fitted["vae"], config=vae_for(fitted["vae"].config, family, name))  # type: ignore[arg-type]
    return fitted


def vae_for(config: VAEConfig, family: str | None, name: str = "") -> VAEConfig:
    """The VAE's config with its family's latent scale. A lone VAE is Stable Diffusion 1's unless its name says XL."""
    xl = family.startswith("sdxl") if family else bool(re.search(r"xl", name, re.IGNORECASE))
    if not xl or config.scaling_factor != VAEConfig().scaling_factor:
        return config
    return replace(config, scaling_factor=VAE_XL.scaling_factor, sample_size=VAE_XL.sample_size)


_SAID = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v", "v-prediction": "v", "sample": "x0", "x0": "x0"}


def prediction_word(said: str) -> str:
    """diffusers' and other words for what a network predicts -> eps, v or x0."""
    if said not in _SAID:
        raise ValueError(f"prediction type {said!r} is not supported; it must be one of {', '.join(_SAID)}")
    return _SAID[said]


def prediction_type(family: str | None, shapes: Shapes, metadata: Mapping[str, str], name: str) -> str:
    """eps or v, by the first clue there is.

    1. The file says so: metadata of ours or of the ModelSpec standard, a tensor called `v_pred`. 2. Its name
    does (vpred, 768-v, 512-base). 3. Stable Diffusion 2 was trained to predict v at 768 pixels and eps at 512; its 512
    base stopped at step 875,000; inpainting ones predict eps; without a clue v is assumed. All others predict eps.
    """
    for key in ("mixstudio.prediction_type", "modelspec.prediction_type", "modelspec.predict_key"):
        if key in metadata:
            return prediction_word(metadata[key])
    if "edm_mean" in shapes or "edm_vpred.sigma_max" in shapes:
        raise ValueError("this model was trained in the EDM formulation (as Playground 2.5), which is not supported")
    if "v_pred" in shapes or re.search(r"v[-_ ]?pred|768-v", name, re.IGNORECASE):
        return "v"
    if family != "sd2" or metadata.get("global_step") == "875000" or re.search(r"512|base|turbo", name, re.IGNORECASE):
        return "eps"
    return "v"


def _stranger(shapes: Shapes, name: str) -> str:
    """The error for a file that is nothing we know."""
    what = next((what for pattern, what in STRANGERS if any(re.fullmatch(pattern, key) for key in shapes)), None)
    looks = f" It looks like {what}." if what else ""
    has = ", ".join([*shapes][:3]) or "nothing"
    return (
        f"{name or 'this file'} is no model of a known family.{looks} Looked for a Stable Diffusion 1, 2 or XL UNet, "
        f"VAE or text encoder under LDM or diffusers names, a ControlNet, a LoRA or a textual inversion. It has {has}"
    )
