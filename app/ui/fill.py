"""From what a picture says about itself to the fields of the Create form: WebUI's infotext and ComfyUI's graph."""

import json
from collections.abc import Mapping
from typing import Any

import PIL.Image

from ppdiffusers.pipelines.infotext import Infotext, extract, parse
from ppdiffusers.sampling.menu import split

WHAT = ("all", "remix", "prompt", "seed")  # everything, all but the seed, the words alone, the seed alone
_LIMIT = 2_000_000  # characters of a ComfyUI graph that are read
_COMFY_SAMPLERS = {"uni_pc_bh2": "UniPC", "dpm_2_ancestral": "DPM2 a", "euler_ancestral": "Euler a"}
_COMFY_SCHEDULES = {
    "normal": "Automatic",
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "ddim_uniform": "DDIM",
    "beta": "Beta",
}


def settings_of(image: PIL.Image.Image) -> str:
    """The settings inside a picture as an infotext; "" when there are none."""
    if told := extract(image):
        return told
    graph = image.info.get("prompt")
    return comfy(graph) if isinstance(graph, str) else ""


def fields_of(text: str) -> dict[str, Any]:
    """Infotext -> values of the Create form; only what the text says and what makes sense."""
    told = parse(text)
    values = told.values
    fields: dict[str, Any] = {"prompt": told.prompt, "negative_prompt": told.negative_prompt}
    if told.size:
        fields["width"], fields["height"] = told.size
    if "Sampler" in values:
        fields |= _sampler(values)
    for key, field, kind in (
        ("Steps", "steps", int),
        ("CFG scale", "cfg_scale", float),
        ("Seed", "seed", int),
        ("Clip skip", "clip_skip", int),
        ("Model", "model", str),
        ("Mask blur", "mask_blur", float),
        ("Masked content", "masked_content", str),
        ("Variation seed strength", "variation_strength", float),
        ("Variation seed", "variation_seed", int),
    ):
        if key in values and (value := _as(kind, values[key])) is not None:
            fields[field] = value
    return fields | _second_pass(values)


_QR = (
    ("QR strength", "strength", float),
    ("QR error correction", "error_correction", str),
    ("QR version", "version", int),
    ("QR mask", "mask_pattern", int),
    ("QR shape", "shape", str),
    ("QR quiet zone", "quiet", float),
    ("QR scale", "scale", float),
    ("QR guidance", "guidance", float),
    ("Steps", "steps", int),
    ("CFG scale", "cfg_scale", float),
    ("Seed", "seed", int),
    ("Model", "model", str),
)


def qr_fields_of(text: str) -> dict[str, Any]:
    """Infotext of an art QR code -> values of the Art QR form; empty for any other picture's."""
    told = parse(text)
    values = told.values
    if "QR text" not in values:
        return {}
    says = values["QR text"]
    content = "link" if says.lower().startswith(("http://", "https://")) else "text"
    fields: dict[str, Any] = {"content": content, "text": says, "follow": values.get("QR follows picture") != "no"}
    fields |= {"prompt": told.prompt, "negative_prompt": told.negative_prompt}
    if told.size:
        fields["size"] = told.size[0]
    for key, field, kind in _QR:
        if key in values and (value := _as(kind, values[key])) is not None:
            fields[field] = value
    places = [_as(float, part) for part in values.get("QR place", "").split()]
    if len(places) == 2:
        fields |= {"place_x": places[0], "place_y": places[1]}
    return fields


def _sampler(values: Mapping[str, str]) -> dict[str, Any]:
    try:
        sampler, ending = split(values["Sampler"])
    except ValueError:
        return {}
    told = values.get("Schedule type", "Automatic")
    return {"sampler": sampler, "schedule": ending if told == "Automatic" else told}


def _second_pass(values: Mapping[str, str]) -> dict[str, Any]:
    strength = _as(float, values.get("Denoising strength", ""))
    scale = _as(float, values.get("Hires upscale", ""))
    if scale is None:
        return {} if strength is None else {"strength": strength}
    fields: dict[str, Any] = {"hires": True, "hires_scale": scale}
    if strength is not None:
        fields["hires_strength"] = strength
    if (steps := _as(int, values.get("Hires steps", ""))) is not None:
        fields["hires_steps"] = steps
    return fields | ({"hires_upscaler": values["Hires upscaler"]} if "Hires upscaler" in values else {})


def _as(kind: Any, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None


def choose(fields: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The part of the fields that was asked for, see WHAT."""
    if what == "prompt":
        return {key: fields[key] for key in ("prompt", "negative_prompt") if key in fields}
    if what == "seed":
        return {key: fields[key] for key in ("seed",) if key in fields}
    if what == "remix":
        return {key: value for key, value in fields.items() if key not in ("seed", "variation_seed")} | {"seed": -1}
    return dict(fields)


def comfy(graph: str) -> str:
    """ComfyUI's graph (the PNG chunk `prompt`) -> an infotext; "" when no sampler node is in it."""
    if len(graph) > _LIMIT:
        return ""
    try:
        nodes = json.loads(graph)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(nodes, dict):
        return ""
    for node in nodes.values():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if isinstance(inputs, dict) and {"positive", "negative", "steps"} <= set(inputs):
            return str(_comfy_sampler(nodes, inputs))
    return ""


def _comfy_sampler(nodes: Mapping[str, Any], inputs: Mapping[str, Any]) -> Infotext:
    sampler = str(inputs.get("sampler_name", "euler"))
    values: dict[str, str] = {
        "Steps": str(_plain(nodes, inputs.get("steps"), 20)),
        "Sampler": _COMFY_SAMPLERS.get(sampler, _webui_name(sampler)),
        "Schedule type": _COMFY_SCHEDULES.get(str(inputs.get("scheduler")), "Automatic"),
        "CFG scale": f"{float(_plain(nodes, inputs.get('cfg'), 7.0)):g}",
        "Seed": str(_plain(nodes, inputs.get("seed", inputs.get("noise_seed")), 0)),
    }
    latent = _node(nodes, inputs.get("latent_image"))
    if isinstance(latent.get("width"), int) and isinstance(latent.get("height"), int):
        values["Size"] = f"{latent['width']}x{latent['height']}"
    if (model := _find(nodes, inputs.get("model"), "ckpt_name")) is not None:
        values["Model"] = str(model).replace("\\", "/").rpartition("/")[2].rpartition(".")[0] or str(model)
    loras = "".join(_comfy_loras(nodes, inputs.get("model")))
    prompt, negative = (str(_find(nodes, inputs.get(side), "text") or "") for side in ("positive", "negative"))
    return Infotext(prompt + loras, negative, values)


def _webui_name(sampler: str) -> str:
    try:
        return split(sampler)[0]
    except ValueError:
        return "Euler"


def _node(nodes: Mapping[str, Any], link: Any) -> Mapping[str, Any]:
    """The inputs of the node that a link ["4", 0] leads to."""
    node = nodes.get(str(link[0])) if isinstance(link, list) and link else None
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _plain(nodes: Mapping[str, Any], value: Any, default: float) -> float | int:
    """A number, or the number in the node that the input is linked to."""
    if isinstance(value, list):
        value = next((v for v in _node(nodes, value).values() if isinstance(v, int | float)), default)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default


def _find(nodes: Mapping[str, Any], link: Any, key: str) -> Any:
    """The first plain value of `key` up the links from here, nearest first; a graph that bites its tail ends too."""
    waiting, seen = [link], set[str]()
    while waiting:
        here = waiting.pop(0)
        name = str(here[0]) if isinstance(here, list) and here else ""
        if name in seen:
            continue
        seen.add(name)
        inputs = _node(nodes, here)
        value = inputs.get(key)
        if value is not None and not isinstance(value, list):
            return value
        waiting += [value] if isinstance(value, list) else [v for v in inputs.values() if isinstance(v, list)]
    return None


def _comfy_loras(nodes: Mapping[str, Any], link: Any) -> list[str]:
    tags: list[str] = []
    for _ in range(20):
        inputs = _node(nodes, link)
        if not inputs:
            break
        if isinstance(inputs.get("lora_name"), str):
            name = inputs["lora_name"].replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
            tags.append(f" <lora:{name}:{_plain(nodes, inputs.get('strength_model'), 1.0):g}>")
        link = inputs.get("model")
    return tags
