"""Art QR as a job: the model is loaded, codes are made, checked and kept with their scan reports."""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from app.requests_qr import WITHOUT, QrParams
from app.services import seed_of, service

if TYPE_CHECKING:
    from app.studio import Studio
    from mix.appflow.artqr.flow import CodePicture

SAME = ("strength", "version", "follow", "shape", "quiet", "scale", "size", "candidates", "schedule", "clip_skip")


@service("qr")
def qr(studio: "Studio", params: QrParams) -> Iterator[Any]:
    """One code, or several candidates; a code that does not scan is kept too, with its reasons, and said so."""
    from mix.appflow.artqr.flow import ArtQR, CodePicture
    from ppdiffusers.pipelines.event import Note

    bundle = yield from _bundle(studio, params)
    request = yield from to_request(studio, params)
    started: Any = ArtQR(bundle, studio.runtime.library()).stream(request)
    with closing(started) as events:
        for event in events:
            if not isinstance(event, CodePicture):
                yield event
                continue
            if not event.ok:
                yield Note(f"this code does not scan with every reader: {'; '.join(event.reasons)}", warning=True)
            yield studio.keep(
                event.image,
                event.infotext,
                event.seed,
                index=event.index,
                save=params.save,
                extra={"qr": told(event, request.text)},
            )


def told(event: "CodePicture", text: str) -> dict[str, Any]:
    """What is known about a finished code, as plain values: for the gallery, HTTP and `--json`."""
    report = event.report
    assert report is not None
    return {
        "text": text,
        "ok": event.ok,
        "reasons": list(event.reasons),
        "readers": {name: dict(row) for name, row in report.read.items()},
        "rate": round(report.rate(), 4),
        "margin": round(report.margin, 4),
        "spare": round(report.modules.spare, 4) if report.modules else None,
        "wrong": dict(report.modules.wrong) if report.modules else {},
        "rounds": event.rounds,
        "similarity": round(event.similarity, 4),
        "score": round(event.score, 4),
        "version": event.version,
        "mask_pattern": event.mask,
    }


def _bundle(studio: "Studio", params: QrParams) -> Iterator[Any]:
    """The checkpoint; None where none is wanted, or where there is none and a picture is given."""
    from ppdiffusers.pipelines.event import Note

    if params.model == WITHOUT:
        return None
    try:
        studio.runtime.choose(params.model)
    except (KeyError, ValueError):
        if params.model or params.picture is None:
            raise
        yield Note("there is no model here; the code goes into the picture as it is", warning=True)
        return None
    return (yield from studio.runtime.bundle(params.model))


def to_request(studio: "Studio", params: QrParams) -> Iterator[Any]:
    """The library's request; a generator because ControlNets may have to be loaded."""
    from mix.appflow.artqr.request import ArtQRRequest, CodeControl, Steering

    controls: list[Any] = []
    for unit in params.controls:
        net = yield from studio.runtime.controlnet(unit.model)
        controls.append(CodeControl(model=net, weight=unit.weight, start=unit.start, end=unit.end, name=unit.model))
    prompt, negative = studio.with_styles(params.styles, params.prompt, params.negative_prompt)
    seed = seed_of(params.seed)
    (prompt,), (negative,) = studio.wildcards.both(prompt, negative, seed)
    advice = studio.runtime.recommended("" if params.model == WITHOUT else params.model)
    return ArtQRRequest(
        text=params.said(),
        prompt=prompt,
        negative_prompt=negative,
        picture=params.picture,
        level=params.error_correction,
        mask=None if params.mask_pattern < 0 else params.mask_pattern,
        place=(params.place_x, params.place_y),
        seed=seed,
        steps=params.steps or advice["steps"],
        cfg=advice["cfg_scale"] if params.cfg_scale is None else params.cfg_scale,
        sampler=params.sampler or advice["sampler"],
        controls=tuple(controls),
        steering=Steering(
            rate=params.guidance,
            start=params.guidance_start,
            end=params.guidance_end,
            redraw=advice.get("redraw", Steering.redraw) if params.redraw is None else params.redraw,
        ),
        rounds=params.rounds,
        preview_every=studio.settings.preview_every,
        **{name: getattr(params, name) for name in SAME},
    )
