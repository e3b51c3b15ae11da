"""The WebUI's HTTP interface, so that clients made for it work unchanged. Jobs go into the same line as everybody's."""

import asyncio
import time
from typing import Any

import PIL.Image
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from app.jobs import Job, Status
from app.pictures import MAX_PIXELS, decode
from app.preprocess import preprocess
from app.rest.events import data_uri
from app.rest.sdapi_convert import MODULES, answer, encoded, to_params
from app.rest.sdapi_models import (
    ExtraBatchBody,
    ExtrasBody,
    ExtraSingleBody,
    GenerateBody,
    ImageBody,
    Img2ImgBody,
    Txt2ImgBody,
)
from app.rest.sdapi_options import Options, checkpoint_json, lora_json
from app.studio import Studio
from ppdiffusers.pipelines.event import Preview
from ppdiffusers.pipelines.infotext import extract, parse
from ppdiffusers.sampling.menu import AUTOMATIC, SAMPLERS
from ppdiffusers.sampling.schedules import SCHEDULES

LATENT_MODES = ("Latent", "Latent (bicubic)", "Latent (nearest)")
UPSCALERS = {
    "None": None,
    "Lanczos": PIL.Image.Resampling.LANCZOS,
    "Bicubic": PIL.Image.Resampling.BICUBIC,
    "Nearest": PIL.Image.Resampling.NEAREST,
}
LOOK_EVERY = 0.5  # seconds between looks whether the client is still there
TAGS: list[Any] = ["WebUI-compatible"]


def router(studio: Studio) -> APIRouter:
    """All routes below /sdapi/v1 and /controlnet."""
    routes, nets = APIRouter(prefix="/sdapi/v1", tags=TAGS), APIRouter(prefix="/controlnet", tags=TAGS)
    options = Options(studio)
    _add_making(routes, studio, options)
    _add_running(routes, studio)
    _add_options(routes, options)
    _add_extras(routes)
    _add_menus(routes)
    _add_models(routes, studio)
    _add_places(routes, studio)
    _add_empty_lists(routes)
    _add_controlnet(nets, studio)
    both = APIRouter()
    both.include_router(routes)
    both.include_router(nets)
    return both


def _add_making(routes: APIRouter, studio: Studio, options: Options) -> None:
    async def make(body: GenerateBody, request: Request) -> dict[str, Any]:
        params = await run_in_threadpool(to_params, studio, body, options.with_overrides(body.override_settings))
        job = await run_in_threadpool(studio.submit, params, "sdapi")
        await _until_done(studio, job, request, keep=body.save_images)
        if job.status is Status.FAILED:
            raise ValueError(f"{job.error}{'; ' + job.hint if job.hint else ''}")
        return await run_in_threadpool(answer, studio, job, params, body)

    @routes.post("/txt2img")
    async def txt2img(body: Txt2ImgBody, request: Request) -> dict[str, Any]:
        """Pictures from text."""
        return await make(body, request)

    @routes.post("/img2img")
    async def img2img(body: Img2ImgBody, request: Request) -> dict[str, Any]:
        """Pictures from a picture; with a mask, inpainting."""
        return await make(body, request)


async def _until_done(studio: Studio, job: Job, request: Request, keep: bool) -> None:
    """Wait for the end; a job whose client has gone is cancelled, unless its pictures are kept anyway."""

    async def ended() -> None:
        async for _ in job.afollow():
            pass

    waiting = asyncio.ensure_future(ended())
    try:
        while not (await asyncio.wait({waiting}, timeout=LOOK_EVERY))[0]:
            if not keep and await request.is_disconnected():
                studio.cancel(job)
    finally:
        waiting.cancel()


def _add_running(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/progress")
    def progress(skip_current_image: bool = False) -> dict[str, Any]:
        """How far the running job is, with its latest preview."""
        job = studio.worker.current
        waiting = len(studio.worker.waiting())
        return {
            "progress": job.done / job.of if job and job.of else 0.0,
            "eta_relative": (job.remaining or 0.0) if job else 0.0,
            "state": _state(job, waiting),
            "current_image": None if skip_current_image else _preview(job),
            "textinfo": f"{waiting} waiting" if waiting else None,
        }

    @routes.post("/interrupt")
    def interrupt() -> dict[str, Any]:
        """End the running job; what it has finished is given back."""
        if (job := studio.worker.current) is not None:
            studio.cancel(job)
        return {}

    @routes.post("/skip")
    def skip() -> dict[str, Any]:
        """Leave the running job's present picture."""
        if (job := studio.worker.current) is not None:
            job.skip()
        return {}

    @routes.post("/unload-checkpoint")
    def unload() -> dict[str, Any]:
        """Let go of the loaded models."""
        if studio.worker.current is None:
            studio.runtime.relieve()
        return {}

    @routes.post("/reload-checkpoint")
    def reload() -> dict[str, Any]:
        """Nothing to do: a checkpoint is loaded when a job needs it."""
        return {}


def _state(job: Job | None, waiting: int) -> dict[str, Any]:
    """The running job in the WebUI's words."""
    return {
        "skipped": False,
        "interrupted": bool(job and job.cancelled),
        "stopping_generation": False,
        "job": job.id if job else "",
        "job_count": waiting + (job is not None),
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created)) if job else "0",
        "job_no": 0,
        "sampling_step": job.done if job else 0,
        "sampling_steps": job.of if job else 0,
    }


def _preview(job: Job | None) -> str | None:
    events = list(job.events) if job else []
    preview = next((event for event in reversed(events) if isinstance(event, Preview)), None)
    return data_uri(preview.images[0]).partition(",")[2] if preview else None


def _add_options(routes: APIRouter, options: Options) -> None:
    @routes.get("/options")
    def get() -> dict[str, Any]:
        """The options that are known here."""
        return options.all()

    @routes.post("/options")
    def set_options(values: dict[str, Any]) -> dict[str, Any]:
        """Set options; the ones that mean nothing here are let pass."""
        options.set(values)
        return {}


def _add_extras(routes: APIRouter) -> None:
    @routes.post("/extra-single-image")
    def single(body: ExtraSingleBody) -> dict[str, Any]:
        """Enlarge one picture."""
        return {"html_info": "", "image": encoded(_enlarged(body.image, body))}

    @routes.post("/extra-batch-images")
    def batch(body: ExtraBatchBody) -> dict[str, Any]:
        """Enlarge several pictures."""
        return {"html_info": "", "images": [encoded(_enlarged(one.data, body)) for one in body.imageList]}

    @routes.post("/png-info")
    def png_info(body: ImageBody) -> dict[str, Any]:
        """The settings inside a picture; empty where there are none."""
        text = extract(body.image) or ""
        told = parse(text)
        parameters = {"Prompt": told.prompt, "Negative prompt": told.negative_prompt, **told.values} if text else {}
        items = {key: value for key, value in body.image.info.items() if isinstance(value, str)}
        return {"info": text, "items": items, "parameters": parameters}


def _enlarged(image: PIL.Image.Image, body: ExtrasBody) -> PIL.Image.Image:
    if body.gfpgan_visibility or body.codeformer_visibility:
        raise ValueError("face restoration needs models that this studio does not have; send its visibility as 0")
    for name in (body.upscaler_1, body.upscaler_2):
        if name not in UPSCALERS:
            raise ValueError(f"there is no upscaler {name!r}; there are {', '.join(UPSCALERS)}")
    size = tuple(max(1, round(side * body.upscaling_resize)) for side in image.size)
    if body.resize_mode == 1:
        size = (body.upscaling_resize_w, body.upscaling_resize_h)
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{size[0]} x {size[1]} is more than {MAX_PIXELS // 10**6} megapixels")
    image = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
    box = _crop_box(image.size, size) if body.resize_mode == 1 and body.upscaling_crop else None
    first = _resized(image, body.upscaler_1, size, box)
    if body.upscaler_2 == "None" or not body.extras_upscaler_2_visibility:
        return first
    return PIL.Image.blend(first, _resized(image, body.upscaler_2, size, box), body.extras_upscaler_2_visibility)


def _resized(image: PIL.Image.Image, name: str, size: tuple[int, ...], box: Any) -> PIL.Image.Image:
    method = UPSCALERS[name]
    return image if method is None else image.resize((size[0], size[1]), method, box)


def _crop_box(size: tuple[int, int], wanted: tuple[int, ...]) -> tuple[float, float, float, float]:
    """The middle of a picture in the wanted proportions."""
    scale = min(size[0] / wanted[0], size[1] / wanted[1])
    wide, high = wanted[0] * scale, wanted[1] * scale
    left, top = (size[0] - wide) / 2, (size[1] - high) / 2
    return left, top, left + wide, top + high


def _add_menus(routes: APIRouter) -> None:
    @routes.get("/samplers")
    def samplers() -> list[dict[str, Any]]:
        """The samplers by name."""
        return [
            {"name": name, "aliases": list(entry.aliases), "options": {"scheduler": entry.schedule.lower()}}
            for name, entry in SAMPLERS.items()
        ]

    @routes.get("/schedulers")
    def schedulers() -> list[dict[str, Any]]:
        """The schedule types by name."""
        names = (AUTOMATIC, *SCHEDULES)
        return [
            {
                "name": n.lower().replace(" ", "_"),
                "label": n,
                "aliases": None,
                "default_rho": -1,
                "need_inner_model": False,
            }
            for n in names
        ]

    @routes.get("/upscalers")
    def upscalers() -> list[dict[str, Any]]:
        """How extras can enlarge."""
        rest = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
        return [{"name": name, **rest} for name in UPSCALERS]

    @routes.get("/latent-upscale-modes")
    def latent_modes() -> list[dict[str, Any]]:
        """How the second pass can enlarge latents."""
        return [{"name": name} for name in LATENT_MODES]


def _add_models(routes: APIRouter, studio: Studio) -> None:
    catalog = studio.catalog

    @routes.get("/sd-models")
    def checkpoints() -> list[dict[str, Any]]:
        """The checkpoints."""
        return [checkpoint_json(model) for model in catalog.list("checkpoint") if not model.problem]

    @routes.get("/sd-vae")
    def vaes() -> list[dict[str, Any]]:
        """VAEs besides the checkpoints' own."""
        return [{"model_name": model.name, "filename": str(model.path)} for model in catalog.list("vae")]

    @routes.get("/loras")
    def loras() -> list[dict[str, Any]]:
        """The LoRAs."""
        return [lora_json(model) for model in catalog.list("lora")]

    @routes.get("/embeddings")
    def embeddings() -> dict[str, Any]:
        """The textual inversions."""
        one = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": 0, "vectors": 0}
        return {"loaded": {model.name: one for model in catalog.list("embedding")}, "skipped": {}}


def _add_places(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/prompt-styles")
    def styles() -> list[dict[str, Any]]:
        """The styles."""
        return [vars(style) for style in studio.styles()]

    @routes.post("/refresh-checkpoints")
    @routes.post("/refresh-vae", name="refresh_vae")
    @routes.post("/refresh-loras", name="refresh_loras")
    @routes.post("/refresh-embeddings", name="refresh_embeddings")
    def refresh() -> dict[str, Any]:
        """Look at the disk again."""
        studio.catalog.refresh()
        return {}

    @routes.get("/memory")
    def memory() -> dict[str, Any]:
        """What loaded models take, in bytes."""
        runtime = studio.runtime
        ram = {"free": max(runtime.budget - runtime.used, 0), "used": runtime.used, "total": runtime.budget}
        return {"ram": ram, "cuda": {"error": "unavailable"}}

    @routes.get("/cmd-flags")
    def flags() -> dict[str, Any]:
        """Where things are, in the WebUI's words."""
        return {"data_dir": str(studio.settings.data), "models_dir": str(studio.settings.models), "api": True}


def _add_empty_lists(routes: APIRouter) -> None:
    """What the WebUI has and this studio has none of."""
    for name in ("hypernetworks", "face-restorers", "realesrgan-models", "extensions", "artists", "artist-categories"):
        routes.get(f"/{name}", name=name.replace("-", "_"))(_nothing)

    @routes.get("/scripts")
    def scripts() -> dict[str, list[str]]:
        """What alwayson_scripts may name."""
        return {"txt2img": ["controlnet"], "img2img": ["controlnet"]}

    @routes.get("/script-info")
    def script_info() -> list[dict[str, Any]]:
        """The arguments of the scripts."""
        return [
            {"name": "controlnet", "is_alwayson": True, "is_img2img": is_img2img, "args": []}
            for is_img2img in (False, True)
        ]


def _nothing() -> list[Any]:
    """There is none here."""
    return []


def _add_controlnet(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/version")
    def version() -> dict[str, int]:
        """The version of the extension's interface that is followed."""
        return {"version": 3}

    @routes.get("/model_list")
    def model_list() -> dict[str, list[str]]:
        """The ControlNets."""
        return {"model_list": [model.title for model in studio.catalog.list("controlnet") if not model.problem]}

    @routes.get("/module_list")
    def module_list() -> dict[str, list[str]]:
        """The preprocessors that need no model."""
        return {"module_list": [name for name in MODULES if name]}

    @routes.post("/detect")
    async def detect(request: Request) -> dict[str, Any]:
        """Pictures as a preprocessor makes them."""
        body = await request.json()
        name = MODULES.get(str(body.get("controlnet_module", "none")).lower())
        if name is None:
            raise ValueError(f"there is no preprocessor {body['controlnet_module']!r}")
        low, high = body.get("controlnet_threshold_a"), body.get("controlnet_threshold_b")
        pictures = [decode(one) for one in body.get("controlnet_input_images") or body.get("controlnet_images") or []]
        bounds = (low, high) if name == "canny" else (None, None)
        made = await run_in_threadpool(lambda: [encoded(preprocess(name, one, *bounds)) for one in pictures])
        return {"images": made, "info": "Success"}
