"""Blending two photos as a job: the model is loaded, the blends are made and kept with their balance."""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from app.requests_blend import WITHOUT, BlendParams
from app.services import seed_of, service

if TYPE_CHECKING:
    from app.studio import Studio
    from ppdiffusers.pipelines.bundle import Bundle

SAME = ("balance", "method", "shape", "mask", "strength", "selective", "texture", "softness", "align", "focus", "match")
SIZES = ("size", "width", "height", "sampler", "schedule")


@service("blend")
def blend(studio: "Studio", params: BlendParams) -> Iterator[Any]:
    """One blend, or a strip of them."""
    from mix.appflow.blend.run import Blend, Blended

    bundle = yield from _bundle(studio, params)
    request = yield from to_request(studio, params, bundle)
    made = Blend(bundle, studio.runtime.library())
    started: Any = made.strip(request, params.strip) if params.strip else made.stream(request)
    with closing(started) as events:
        for event in events:
            if not isinstance(event, Blended):
                yield event
                continue
            told = {"balance": event.balance, "like_a": event.like_a, "like_b": event.like_b, "method": params.method}
            yield studio.keep(
                event.image, event.infotext, event.seed, index=event.index, save=params.save, extra={"blend": told}
            )


def _bundle(studio: "Studio", params: BlendParams) -> Iterator[Any]:
    """The checkpoint; None where none is asked for, or where there is none and the method can do without."""
    from ppdiffusers.pipelines.event import Note

    if params.model == WITHOUT or params.method == "dissolve":
        return None
    try:
        studio.runtime.choose(params.model)
    except (KeyError, ValueError):
        if params.model or params.method == "latent":
            raise
        yield Note("there is no model here; the photos are blended without painting anything anew", warning=True)
        return None
    return (yield from studio.runtime.bundle(params.model))


def to_request(studio: "Studio", params: BlendParams, bundle: "Bundle | None") -> Iterator[Any]:
    """The library's request; a generator because a ControlNet may have to be loaded."""
    from mix.appflow.blend.request import BlendRequest, Guide

    guides: tuple[Guide, ...] = ()
    if params.control and bundle is not None:
        net = yield from studio.runtime.controlnet(params.control)
        reads: Any = params.control_reads
        guides = (Guide(model=net, reads=reads, weight=params.control_weight, name=params.control),)
    prompt, negative = studio.with_styles(params.styles, params.prompt, params.negative_prompt)
    seed = seed_of(params.seed)
    (prompt,), (negative,) = studio.wildcards.both(prompt, negative, seed)
    advice = studio.runtime.recommended("" if params.model == WITHOUT else params.model)
    return BlendRequest(
        a=params.image_a,
        b=params.image_b,
        prompt=prompt,
        negative=negative,
        steps=params.steps or advice["steps"],
        cfg=advice["cfg_scale"] if params.cfg_scale is None else params.cfg_scale,
        seed=seed,
        guides=guides,
        preview_every=studio.settings.preview_every,
        **{name: getattr(params, name) for name in (*SAME, *SIZES)},
    )
