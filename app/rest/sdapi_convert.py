"""Between the WebUI's words and ours: bodies to params, finished jobs to its answers."""

import io
import json
import time
from base64 import b64encode
from typing import Any

import PIL.Image

from app.jobs import Job
from app.pictures import decode
from app.requests import GenerateParams
from app.rest.sdapi_models import GenerateBody, Img2ImgBody, Txt2ImgBody, UnitBody
from app.services import Saved
from app.studio import Studio, results
from ppdiffusers.pipelines.infotext import embed_options, parse

CONTENT = ("fill", "original", "latent noise", "latent nothing")  # by inpainting_fill
FITS = {0: "stretch", 1: "crop", 2: "pad", 3: "stretch"}  # by resize_mode; 3 enlarges the latent
UNIT_FITS = {
    "just resize": "stretch",
    "crop and resize": "crop",
    "resize and fill": "pad",
    "envelope (outer fit)": "pad",
    "scale to fit (inner fit)": "crop",
    **{str(number): fit for number, fit in FITS.items()},
}
MODES = {
    "balanced": "balanced",
    "my prompt is more important": "prompt",
    "controlnet is more important": "control",
    "0": "balanced",
    "1": "prompt",
    "2": "control",
}
MODULES = {  # the extension's preprocessors that need no model, in our words
    "none": "none",
    "": "none",
    "canny": "canny",
    "luminance": "luminance",
    "invert": "invert",
    "invert (from white bg & black line)": "invert",
    "tile_resample": "blur",
    "blur": "blur",
    "blur_gaussian": "blur",
}
HIRES_UPSCALERS = {
    "Latent (antialiased)": "Latent",
    "Latent (bicubic antialiased)": "Latent (bicubic)",
    "Latent (nearest-exact)": "Latent (nearest)",
    "None": "Lanczos",
}


def to_params(studio: Studio, body: GenerateBody, options: dict[str, Any]) -> GenerateParams:
    """Our params for a body, with the options that hold for it. Raises ValueError for what cannot be done."""
    _refuse(body)
    values: dict[str, Any] = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "styles": body.styles or [],
        "model": str(options.get("sd_model_checkpoint") or ""),
        "vae": str(options.get("sd_vae") or ""),
        "sampler": body.sampler_name or body.sampler_index or "Euler a",
        "schedule": body.scheduler or "Automatic",
        "steps": body.steps,
        "cfg_scale": body.cfg_scale,
        "width": body.width // 8 * 8,
        "height": body.height // 8 * 8,
        "seed": body.seed,
        "variation_seed": body.subseed,
        "variation_strength": body.subseed_strength,
        "count": body.batch_size * body.n_iter,
        "batch_size": body.batch_size,
        "eta": body.eta,
        "s_churn": body.s_churn or 0,
        "s_tmin": body.s_tmin or 0,
        "s_tmax": body.s_tmax or None,
        "s_noise": 1 if body.s_noise is None else body.s_noise,
        "clip_skip": options.get("CLIP_stop_at_last_layers") or 1,
        "eta_seed_delta": options.get("eta_noise_seed_delta") or 0,
        "save": body.save_images,
    }
    if source := options.get("randn_source"):
        values["rng"] = "cpu" if str(source).lower() == "cpu" else "gpu"
    if options.get("emphasis"):
        values["emphasis"] = options["emphasis"]
    if body.refiner_checkpoint and body.refiner_checkpoint != "None":
        values |= {"refiner": body.refiner_checkpoint, "switch_at": body.refiner_switch_at or 0.8}
    values |= _hires(body) if isinstance(body, Txt2ImgBody) else {}
    values |= _init(body) if isinstance(body, Img2ImgBody) else {}
    values["controls"] = _units(body)
    return studio.parse(GenerateParams, values)


def _refuse(body: GenerateBody) -> None:
    """What the WebUI would do and we cannot is said, not left out in silence."""
    if body.tiling:
        raise ValueError("tiling is not supported; send it as false")
    if body.restore_faces:
        raise ValueError("restore_faces needs a face restoration model, which this studio does not have")
    if body.script_name:
        raise ValueError(f"there is no script {body.script_name!r}; scripts are not supported over this interface")


def _hires(body: Txt2ImgBody) -> dict[str, Any]:
    if not body.enable_hr:
        return {}
    upscaler = body.hr_upscaler or "Latent"
    wide, high = body.hr_resize_x, body.hr_resize_y  # one alone keeps the proportions
    wide = wide or high * body.width // body.height
    high = high or wide * body.height // body.width
    hires = {
        "scale": body.hr_scale,
        "width": wide // 8 * 8,
        "height": high // 8 * 8,
        "steps": body.hr_second_pass_steps,
        "strength": 0.7 if body.denoising_strength is None else body.denoising_strength,
        "upscaler": HIRES_UPSCALERS.get(upscaler, upscaler),
        "sampler": _unless(body.hr_sampler_name, "Use same sampler"),
        "schedule": _unless(body.hr_scheduler, "Use same scheduler"),
        "prompt": body.hr_prompt,
        "negative_prompt": body.hr_negative_prompt,
    }
    return {"hires": hires}


def _unless(word: str | None, same: str) -> str:
    return "" if word in (None, same) else str(word)


def _init(body: Img2ImgBody) -> dict[str, Any]:
    values: dict[str, Any] = {
        "init_image": body.init_images[0],
        "strength": 0.75 if body.denoising_strength is None else body.denoising_strength,
        "fit": FITS[body.resize_mode],
    }
    if body.mask is None:
        return values
    return values | {
        "mask": body.mask,
        "mask_blur": body.mask_blur_x if body.mask_blur is None else body.mask_blur,
        "masked_content": CONTENT[body.inpainting_fill],
        "only_masked": body.inpaint_full_res,
        "padding": body.inpaint_full_res_padding,
        "invert_mask": bool(body.inpainting_mask_invert),
    }


def _units(body: GenerateBody) -> list[dict[str, Any]]:
    """ControlNet units of `alwayson_scripts`; any other script there that asks for something is refused by name."""
    units: list[dict[str, Any]] = []
    for name, script in body.alwayson_scripts.items():
        args = script.get("args", []) if isinstance(script, dict) else []
        if name.lower() == "controlnet":
            units += [unit for arg in args if isinstance(arg, dict) and (unit := _unit(UnitBody.model_validate(arg)))]
        elif any(arg not in (False, None, "", [], {}) for arg in args):
            raise ValueError(f"the script {name!r} is not supported; leave it out of alwayson_scripts")
    return units


def _unit(unit: UnitBody) -> dict[str, Any] | None:
    if not unit.enabled or unit.model in ("", "None"):
        return None
    module = MODULES.get(unit.module.lower())
    if module is None:
        raise ValueError(
            f"the preprocessor {unit.module!r} needs a model; there are {', '.join(m for m in MODULES if m)}"
        )
    image = unit.image or unit.input_image
    if isinstance(image, dict):  # the extension's older form: {"image": ..., "mask": ...}
        image = image.get("image")
    values: dict[str, Any] = {
        "model": unit.model,
        "image": decode(image) if isinstance(image, str) and image else None,
        "preprocessor": module,
        "weight": unit.weight,
        "start": unit.guidance_start,
        "end": unit.guidance_end,
        "fit": UNIT_FITS.get(str(unit.resize_mode).lower(), "pad"),
        "mode": MODES.get(str(unit.control_mode).lower(), "balanced"),
    }
    if module == "canny" and unit.threshold_a >= 0 and unit.threshold_b >= 0:
        values |= {"low": unit.threshold_a, "high": unit.threshold_b}
    return values


def answer(studio: Studio, job: Job, params: GenerateParams, body: GenerateBody) -> dict[str, Any]:
    """What txt2img and img2img give back: pictures as base64, the request, and `info` as JSON in a string."""
    made = sorted(results(job), key=lambda saved: saved.index)
    images = [png(saved) for saved in made] if body.send_images else []
    told = body.model_dump(mode="json")
    if isinstance(body, Img2ImgBody) and not body.include_init_images:
        told["init_images"], told["mask"] = None, None
    return {"images": images, "parameters": told, "info": json.dumps(_info(studio, job, params, made))}


def png(saved: Saved) -> str:
    """A finished picture as base64 PNG, settings inside."""
    if saved.entry is not None and saved.entry.path.suffix == ".png":
        return b64encode(saved.entry.path.read_bytes()).decode("ascii")
    return encoded(saved.picture(), saved.infotext)


def encoded(image: PIL.Image.Image, infotext: str = "") -> str:
    """A picture as base64 PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **(embed_options(infotext, "PNG") if infotext else {}))
    return b64encode(buffer.getvalue()).decode("ascii")


def _info(studio: Studio, job: Job, params: GenerateParams, made: list[Saved]) -> dict[str, Any]:
    texts = [saved.infotext for saved in made]
    first = parse(texts[0]) if texts else None
    values = first.values if first else {}
    prompt = first.prompt if first else params.prompt
    negative = first.negative_prompt if first else params.negative_prompt
    seeds = [saved.seed for saved in made]
    variation = int(values.get("Variation seed", params.variation_seed))
    size = first.size if first else None
    return {
        "prompt": prompt,
        "all_prompts": [parse(text).prompt for text in texts],
        "negative_prompt": negative,
        "all_negative_prompts": [parse(text).negative_prompt for text in texts],
        "seed": seeds[0] if seeds else params.seed,
        "all_seeds": seeds,
        "subseed": variation,
        "all_subseeds": [variation + i for i in range(len(seeds))],
        "subseed_strength": params.variation_strength,
        "width": size[0] if size else params.width,
        "height": size[1] if size else params.height,
        "sampler_name": values.get("Sampler", params.sampler),
        "cfg_scale": params.cfg_scale,
        "steps": params.steps,
        "batch_size": params.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": values.get("Model", studio.runtime.last),
        "sd_model_hash": values.get("Model hash", ""),
        "denoising_strength": params.strength if params.init_image is not None else None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": params.styles,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created)),
        "clip_skip": params.clip_skip,
        "is_using_inpainting_conditioning": params.mask is not None,
        "version": values.get("Version", ""),
        "interrupted": job.cancelled,
    }
