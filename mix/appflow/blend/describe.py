"""The settings of a blend as text in its picture, in the words and form of an infotext."""

import hashlib

import PIL.Image

from mix.appflow.blend.request import BlendRequest
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.describe import version
from ppdiffusers.pipelines.infotext import Infotext

Photos = tuple[PIL.Image.Image, PIL.Image.Image]


def infotext(request: BlendRequest, bundle: Bundle | None, image: PIL.Image.Image, photos: Photos) -> str:
    """Prompt, negative prompt and one line of parameters. The photos are told by a hash of what of them is used."""
    values: dict[str, object] = {
        "Blend": request.method,
        "Balance": f"{request.balance:g}",
        "Size": f"{image.width}x{image.height}",
        "Alignment": request.align + (", matched" if request.match else ""),
    }
    if request.method == "composite":
        values |= {"Seam": request.shape, "Softness": f"{request.softness:g}"}
    elif request.method == "structure+look":
        values["Texture"] = f"{request.texture:g}"
    if request.method in ("latent", "structure+look"):
        values["Selective"] = f"{request.selective:g}"
    if bundle is not None and request.method != "dissolve":
        values |= {
            "Steps": request.steps,
            "Sampler": request.sampler,
            "Schedule type": request.schedule,
            "CFG scale": f"{request.cfg:g}",
            "Seed": request.seed,
            "Denoising strength": f"{request.strength:g}",
        }
        if bundle.digest:
            values["Model hash"] = bundle.digest
        values["Model"] = bundle.name
    for i, guide in enumerate(request.guides):
        values[f"ControlNet {i}"] = f"Model: {guide.name}, Reads: {guide.reads}, Weight: {guide.weight:g}"
    values |= {f"Photo {name}": _digest(photo.tobytes()) for name, photo in zip("AB", photos, strict=True)}
    values["Version"] = f"MixStudio {version()}"
    return str(Infotext(request.prompt, request.negative, {key: str(value) for key, value in values.items()}))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:10]
