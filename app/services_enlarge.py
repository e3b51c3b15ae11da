"""Enlarging a finished picture: resized, and where it is wished gone over by the model at the new size."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import PIL.Image

from app.requests import GenerateParams
from app.requests_enlarge import MAX_SIDE, EnlargeParams
from app.services import generate, service
from ppdiffusers.pipelines.infotext import Infotext, extract, parse

if TYPE_CHECKING:
    from app.studio import Studio

METHODS = {
    "Lanczos": PIL.Image.Resampling.LANCZOS,
    "Bicubic": PIL.Image.Resampling.BICUBIC,
    "Nearest": PIL.Image.Resampling.NEAREST,
}


@service("enlarge")
def enlarge(studio: "Studio", params: EnlargeParams) -> Iterator[Any]:
    """Raises ValueError where the result would be too large."""
    text = params.infotext or extract(params.image) or ""
    larger = _resize(params.image, params.scale, params.method)
    if params.strength == 0:
        seed = max(params.seed, 0)
        yield studio.keep(larger, text, seed, extra={"enlarged": params.scale})
        return
    yield from generate(studio, _second_pass(studio, params, parse(text), larger))


def _resize(image: PIL.Image.Image, scale: float, method: str) -> PIL.Image.Image:
    """The picture at the new size, sides multiples of 8."""
    wide, high = (max(64, round(side * scale / 8) * 8) for side in image.size)
    if max(wide, high) > MAX_SIDE:
        raise ValueError(f"{wide} x {high} is larger than {MAX_SIDE} a side; choose a smaller scale")
    return image.convert("RGB").resize((wide, high), METHODS[method])


def _second_pass(studio: "Studio", params: EnlargeParams, told: Infotext, larger: PIL.Image.Image) -> GenerateParams:
    """Image-to-image at the new size with what made the picture, as far as it says and it still exists here."""
    values = told.values
    model = params.model or values.get("Model", "")
    known = {one.name for one in studio.catalog.list("checkpoint")}
    return GenerateParams(
        prompt=params.prompt or told.prompt,
        negative_prompt=params.negative_prompt or told.negative_prompt,
        model=model if model in known else params.model,
        sampler=values.get("Sampler"),
        schedule=values.get("Schedule type", "Automatic"),
        steps=params.steps or _number(values.get("Steps"), int),
        cfg_scale=_number(values.get("CFG scale"), float),
        seed=params.seed if params.seed >= 0 else _number(values.get("Seed"), int) or 0,
        width=larger.width,
        height=larger.height,
        init_image=larger,
        strength=params.strength,
        clip_skip=_number(values.get("Clip skip"), int) or 1,
    )


def _number(text: str | None, kind: type[Any]) -> Any:
    try:
        return None if text is None else kind(text)
    except ValueError:
        return None
