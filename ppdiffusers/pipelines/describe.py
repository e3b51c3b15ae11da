"""The infotext of a finished picture: what WebUI, Civitai and we ourselves need to make it again."""

import functools
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

import PIL.Image

from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.infotext import Infotext
from ppdiffusers.pipelines.request import Request, Sampling
from ppdiffusers.prompt.network import Network
from ppdiffusers.sampling.menu import choose, split
from ppdiffusers.weights.lora import LoraPatch
from ppdiffusers.weights.write import write_text

Tags = Sequence[tuple[Network, LoraPatch]]


def infotext(
    bundle: Bundle, request: Request, prompt: str, negative: str, seed: int, image: PIL.Image.Image, tags: Tags = ()
) -> str:
    """Prompt, negative prompt and one line of parameters, in WebUI's keys and order."""
    sampling = request.sampling
    sampler, schedule = _sampler(sampling)
    values: dict[str, object] = {
        "Steps": sampling.steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": _number(sampling.cfg_scale),
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
    }
    if bundle.digest:
        values["Model hash"] = bundle.digest
    values["Model"] = bundle.name
    values |= _noise(request) | _picture(request) | _hires(request) | _more(request)
    if tags:
        values["Lora hashes"] = ", ".join(f"{patch.name}: {lora_hash(patch.path)}" for _, patch in tags)
    values["Version"] = f"MixStudio {version()}"
    return str(Infotext(prompt, negative, {k: str(v) for k, v in values.items()}))


def _sampler(sampling: Sampling) -> tuple[str, str]:
    """The sampler's and the schedule's name; a diffusers config is named by its class."""
    if not isinstance(sampling.sampler, str):
        return choose(sampling.sampler).name, sampling.schedule
    sampler, ending = split(sampling.sampler)
    return sampler, ending if sampling.schedule == "Automatic" else sampling.schedule


def _number(value: float) -> str:
    return f"{value:g}"


def _noise(request: Request) -> dict[str, object]:
    noise, sampling = request.noise, request.sampling
    values: dict[str, object] = {}
    if noise.variation_strength:
        values |= {
            "Variation seed": noise.variation_seed,
            "Variation seed strength": _number(noise.variation_strength),
        }
    if sampling.eta is not None:
        values["Eta"] = _number(sampling.eta)
    for key, value in (("Sigma churn", sampling.s_churn), ("Sigma tmin", sampling.s_tmin)):
        if value:
            values[key] = _number(value)
    if sampling.s_noise != 1:
        values["Sigma noise"] = _number(sampling.s_noise)
    if sampling.cfg_rescale:
        values["CFG Rescale"] = _number(sampling.cfg_rescale)
    if noise.eta_seed_delta:
        values["ENSD"] = noise.eta_seed_delta
    if noise.rng == "cpu":
        values["RNG"] = "CPU"
    return values


def _picture(request: Request) -> dict[str, object]:
    values: dict[str, object] = {}
    if request.init is not None:
        values["Denoising strength"] = _number(request.init.strength)
    if request.mask is not None:
        values["Mask blur"] = _number(request.mask.blur)
        values["Masked content"] = request.mask.content
        if request.mask.only_masked:
            values |= {"Inpaint area": "Only masked", "Masked area padding": request.mask.padding}
    return values


def _hires(request: Request) -> dict[str, object]:
    hires = request.hires
    if hires is None:
        return {}
    values: dict[str, object] = {"Denoising strength": _number(hires.strength)}
    if hires.width and hires.height:
        values["Hires resize"] = f"{hires.width}x{hires.height}"
    else:
        values["Hires upscale"] = _number(hires.scale)
    if hires.steps:
        values["Hires steps"] = hires.steps
    optional = {
        "Hires sampler": hires.sampler,
        "Hires schedule type": hires.schedule,
        "Hires CFG Scale": _number(hires.cfg_scale) if hires.cfg_scale else "",
        "Hires prompt": hires.prompt,
        "Hires negative prompt": hires.negative_prompt,
    }
    return values | {key: value for key, value in optional.items() if value} | {"Hires upscaler": hires.upscaler}


def _more(request: Request) -> dict[str, object]:
    values: dict[str, object] = {}
    if request.clip_skip > 1:
        values["Clip skip"] = request.clip_skip
    if request.emphasis != "Original":
        values["Emphasis"] = request.emphasis
    for i, control in enumerate(request.controls):
        words = {
            "Model": control.name,
            "Weight": _number(control.weight),
            "Guidance Start": _number(control.start),
            "Guidance End": _number(control.end),
            "Control Mode": control.mode,
        }
        values[f"ControlNet {i}"] = ", ".join(f"{key}: {value}" for key, value in words.items())
    if request.refine is not None:
        values |= {"Refiner": request.refine.bundle.name, "Refiner switch at": _number(request.refine.switch_at)}
    return values


@functools.cache
def version() -> str:
    """The product's version, also where it runs from a checkout that was not installed."""
    try:
        return metadata.version("mixstudio")
    except metadata.PackageNotFoundError:
        return "dev"


def lora_hash(path: Path) -> str:
    """The hash that WebUI and Civitai know a LoRA by: sha256 of the safetensors body, its first 12 digits."""
    stat = path.stat()
    return _lora_hash(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _lora_hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            file.seek(8 + int.from_bytes(file.read(8), "little"))
        return _sha256(file)[:12]


def remembered_hash(path: Path, cache: Path) -> str | None:
    """The short model hash where it was computed before, see `file_hash`."""
    return _remembered(cache).get(_identity(path))


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


def file_hash(path: Path, cache: Path | None = None) -> str:
    """The short model hash (Civitai's AutoV2): sha256 of the whole file, its first 10 digits; remembered in `cache`."""
    key = _identity(path)
    known = _remembered(cache)
    if key not in known:
        with path.open("rb") as file:
            known[key] = _sha256(file)[:10]
        if cache is not None:
            with suppress(ValueError):  # a full disk or a read-only home: it is computed again next time
                write_text(cache, json.dumps(known, indent=1))
    return known[key]


def _remembered(cache: Path | None) -> dict[str, str]:
    """A copy of what the cache file holds; listing a thousand models reads the file once."""
    try:
        if cache is None:
            return {}
        stat = cache.stat()
        return dict(_read_hashes(cache, stat.st_size, stat.st_mtime_ns))
    except (OSError, ValueError):
        return {}  # lost or damaged: hashes can always be computed again


@functools.lru_cache(maxsize=4)
def _read_hashes(cache: Path, size: int, changed: int) -> dict[str, str]:
    return dict(json.loads(cache.read_text()))


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
