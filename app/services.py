"""From what was asked to a stream of events: one function a kind of job, found by the params' `kind`.

A service runs on the worker's thread. It yields what the layers below yield (notes, progress, previews) and `Saved` for
each finished picture. Whoever adds a feature adds a params class and a function with `@service`.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import PIL.Image

from app.preprocess import preprocess
from app.requests import GenerateParams, Params
from app.store import Entry

if TYPE_CHECKING:
    from app.studio import Studio
    from ppdiffusers.pipelines.bundle import Bundle
    from ppdiffusers.pipelines.request import Mask, Request, Sampling

Service = Callable[["Studio", Any], Iterator[Any]]
# kind -> where its service is defined; imported when the first job of the kind is submitted.
PLACES = {
    "generate": "app.services",
    "enlarge": "app.services_enlarge",
    "qr": "app.services_qr",
    "blend": "app.services_blend",
    "grid": "app.services_grid",
    "download": "app.services_download",
}
# kind -> its params class.
PARAMS = {
    "generate": "app.requests:GenerateParams",
    "enlarge": "app.requests_enlarge:EnlargeParams",
    "qr": "app.requests_qr:QrParams",
    "blend": "app.requests_blend:BlendParams",
    "grid": "app.requests_grid:GridParams",
    "download": "app.requests_download:DownloadParams",
}
NETWORK = frozenset({"download"})  # these do not need the device and run beside its jobs
_services: dict[str, Service] = {}


@dataclass(frozen=True, eq=False)
class Saved:
    """A finished picture: its entry in the gallery, or the picture itself where it was not to be kept."""

    entry: Entry | None
    image: PIL.Image.Image | None
    infotext: str
    seed: int
    index: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)  # what the service knows about it besides

    def picture(self) -> PIL.Image.Image:
        """The picture, wherever it is."""
        if self.image is not None:
            return self.image
        assert self.entry is not None
        with PIL.Image.open(self.entry.path) as image:
            image.load()
            return image


def service(kind: str) -> Callable[[Service], Service]:
    """Register the function that does jobs of a kind."""

    def register(function: Service) -> Service:
        _services[kind] = function
        return function

    return register


def service_of(kind: str) -> Service:
    """The function for a kind. Raises ValueError for one that there is not."""
    if kind not in _services and kind in PLACES and find_spec(PLACES[kind]) is not None:
        import_module(PLACES[kind])
    if kind not in _services:
        raise ValueError(f"there is no kind of job called {kind!r}; there are {', '.join(PLACES)}")
    return _services[kind]


def kinds() -> dict[str, type[Params]]:
    """Every kind of job that can be submitted, with its params class."""
    found: dict[str, type[Params]] = {}
    for kind, place in PARAMS.items():
        module, _, name = place.partition(":")
        if find_spec(module) is not None and find_spec(PLACES[kind]) is not None:
            found[kind] = getattr(import_module(module), name)
    return found


def run(studio: "Studio", params: Params) -> Iterator[Any]:
    """Do a job here and now, on the calling thread; the worker calls it, and so does the command line."""
    yield from service_of(params.kind)(studio, params)


@service("generate")
def generate(studio: "Studio", params: GenerateParams) -> Iterator[Any]:
    """Pictures from text, or from a picture and text, batch by batch; a skipped batch is left out."""
    from ppdiffusers.pipelines.event import Note, Progress
    from ppdiffusers.pipelines.run import run as generate_events

    bundle = yield from studio.runtime.bundle(params.model, params.vae)
    request = yield from to_request(studio, params, bundle)
    batches = [
        range(i, min(i + request.batch_size, request.count)) for i in range(0, request.count, request.batch_size)
    ]
    for number, batch in enumerate(batches):
        part = _part(request, batch)
        started: Any = generate_events(bundle, part, studio.runtime.library())
        with closing(started) as events:
            for event in events:
                if studio.skipped():
                    yield Note(f"batch {number + 1} of {len(batches)} was skipped")
                    break
                if isinstance(event, Progress):
                    event = replace(event, step=event.step + number * event.of, of=event.of * len(batches))
                yield keep_image(studio, event, batch[0], params.save)


def keep_image(studio: "Studio", event: Any, first: int = 0, save: bool = True, **extra: Any) -> Any:
    """An event of the pipelines; a finished picture is put into the gallery."""
    from ppdiffusers.pipelines.event import Image

    if not isinstance(event, Image):
        return event
    return studio.keep(event.image, event.infotext, event.seed, index=first + event.index, save=save, extra=extra)


def seed_of(asked: int) -> int:
    """The seed that was asked for, or a new one for -1."""
    return secrets.randbelow(2**32) if asked < 0 else asked


def _part(request: "Request", batch: range) -> "Request":
    """The request for some of its pictures."""
    seeds, negatives = request.picture_seeds(), request.picture_negatives()
    return replace(
        request,
        prompts=tuple(request.prompts[i] for i in batch),
        negative_prompts=tuple(negatives[i] for i in batch),
        seeds=tuple(seeds[i] for i in batch),
        noise=replace(request.noise, variation_seed=request.noise.variation_seed + batch[0]),
    )


def to_request(studio: "Studio", params: GenerateParams, bundle: "Bundle") -> Iterator[Any]:
    """The pipelines' request; a generator because ControlNets and a refiner may have to be loaded."""
    from ppdiffusers.pipelines.request import Request

    controls = []
    for unit in params.controls:
        controls.append((yield from _control(studio, params, unit)))
    refine = yield from _refine(studio, params)
    prompt, negative = studio.with_styles(params.styles, params.prompt, params.negative_prompt)
    advice = studio.runtime.recommended(params.model)
    side = int(bundle.unet.config.sample_size or 64) * bundle.factor
    fixed = _values(studio, params, advice)
    prompts, negatives = studio.wildcards.both(prompt, negative, fixed["seeds"][0], params.count)
    return Request(
        prompts=prompts,
        negative_prompts=negatives,
        width=params.width or advice.get("width") or side,
        height=params.height or advice.get("height") or side,
        controls=tuple(controls),
        refine=refine,
        **fixed,
    )


def _values(studio: "Studio", params: GenerateParams, advice: dict[str, Any]) -> dict[str, Any]:
    """The parts of a request that need no model."""
    from ppdiffusers.pipelines.request import Hires, Init, Noise

    seed, variation = seed_of(params.seed), seed_of(params.variation_seed)
    noise = Noise(
        rng=params.rng or studio.settings.rng,  # type: ignore[arg-type]
        variation_seed=variation,
        variation_strength=params.variation_strength,
        eta_seed_delta=params.eta_seed_delta,
    )
    init = None
    if params.init_image is not None:
        init = Init(image=params.init_image, strength=params.strength, fit=params.fit)
    return {
        "seeds": (seed,),
        "sampling": _sampling(params, advice),
        "noise": noise,
        "init": init,
        "mask": _mask(params),
        "hires": Hires(**params.hires.model_dump()) if params.hires is not None else None,
        "clip_skip": params.clip_skip,
        "emphasis": params.emphasis,
        "batch_size": params.batch_size,
        "preview_every": studio.settings.preview_every,
    }


def _sampling(params: GenerateParams, advice: dict[str, Any]) -> "Sampling":
    """What the params leave open is as the model's makers advise."""
    from ppdiffusers.pipelines.request import Sampling

    return Sampling(
        sampler=params.sampler or advice["sampler"],
        schedule=advice.get("schedule", params.schedule) if params.sampler is None else params.schedule,
        steps=params.steps or advice["steps"],
        cfg_scale=advice["cfg_scale"] if params.cfg_scale is None else params.cfg_scale,
        cfg_rescale=params.cfg_rescale,
        eta=params.eta,
        s_churn=params.s_churn,
        s_tmin=params.s_tmin,
        s_noise=params.s_noise,
        **({} if params.s_tmax is None else {"s_tmax": params.s_tmax}),
    )


def _mask(params: GenerateParams) -> "Mask | None":
    from ppdiffusers.pipelines.request import Mask

    if params.mask is None:
        return None
    return Mask(
        image=params.mask,
        blur=params.mask_blur,
        content=params.masked_content,
        only_masked=params.only_masked,
        padding=params.padding,
        invert=params.invert_mask,
    )


def _control(studio: "Studio", params: GenerateParams, unit: Any) -> Iterator[Any]:
    from ppdiffusers.pipelines.request import Control

    net = yield from studio.runtime.controlnet(unit.model)
    picture: Any = unit.image if unit.image is not None else params.init_image  # one is there, see GenerateParams
    hint = preprocess(unit.preprocessor, picture, unit.low, unit.high)
    same = ("weight", "start", "end", "fit", "mode")
    return Control(model=net, image=hint, name=unit.model, **{name: getattr(unit, name) for name in same})


def _refine(studio: "Studio", params: GenerateParams) -> Iterator[Any]:
    from ppdiffusers.pipelines.request import Refine

    if params.refiner in ("", "None"):
        return None
    bundle = yield from studio.runtime.bundle(params.refiner)
    return Refine(bundle=bundle, switch_at=params.switch_at)
