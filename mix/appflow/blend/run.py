"""Blend two photos: a generator of events that ends with a picture for each balance.

The photos are brought onto one canvas, a draft is made by the method, and the draft is partly painted anew by the model
so that the mix becomes one picture: most in the middle, not at all at the ends. The noise is the same for all balances,
so that a strip changes smoothly.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
from paddle import Tensor

from mix.appflow.blend.align import align, to_array, to_image
from mix.appflow.blend.carry import carry, returned, settled, work_size
from mix.appflow.blend.describe import infotext
from mix.appflow.blend.draft import Draft, drafter, outline
from mix.appflow.blend.request import BlendRequest, balances
from mix.appflow.similarity import likeness
from ppdiffusers.pipelines.adapters import Library
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.event import Event, Image, Latents, Note, Preview, Progress
from ppdiffusers.pipelines.passes import choice_for, walk
from ppdiffusers.pipelines.request import Control, Given, Init, Mask, Request, Sampling
from ppdiffusers.pipelines.run import Meter, run

HALF = 0.5  # of the fine detail that was painted: if less is kept, it is told
LEAST = 0.03  # a strength below which nothing is painted anew
SHARE = {"latent": 1.0, "structure+look": 0.7, "composite": 1.0, "dissolve": 0.0}  # of the strength that is asked for


@dataclass(frozen=True)
class Blended(Image):
    """A finished blend, its balance, and how like each photo it is, 0 to 1 (see `similarity.likeness`)."""

    balance: float = 0.5
    like_a: float = 0.0
    like_b: float = 0.0


@dataclass(frozen=True, eq=False)
class Blend:
    """Blends photos with one loaded checkpoint, or without any: then the latent method and prompts are not there.

    `library` has what `<lora:name:1>` in a prompt means.
    """

    bundle: Bundle | None = None
    library: Library | None = None

    def __call__(self, request: BlendRequest) -> PIL.Image.Image:
        """The finished blend."""
        return next(event.image for event in self.stream(request) if isinstance(event, Blended))

    def stream(self, request: BlendRequest) -> Iterator[Event]:
        """The blend at the request's balance."""
        return self.strip(request, (request.balance,))

    def strip(self, request: BlendRequest, at: int | Sequence[float] = 5) -> Iterator[Event]:
        """The blend at several balances, as one job: evenly spaced ones, or the given. Ends with a `Blended` for each,
        its index being the balance's place."""
        wanted = balances(at) if isinstance(at, int) else tuple(at)
        return self._run([request.at(balance) for balance in wanted])

    def _run(self, requests: Sequence[BlendRequest]) -> Iterator[Event]:
        first = requests[0]
        meter = Meter(2 + sum(1 + _steps(self.bundle, request) for request in requests))
        yield from _told(self.bundle, first)
        pair = align(first)
        for note in pair.notes:
            yield Note(note)
        yield meter.tick("aligning")
        draft_at = drafter(first, pair, self.bundle)
        photos = to_image(pair.a), to_image(pair.b)
        yield meter.tick("mixing")
        for index, request in enumerate(requests):
            draft = draft_at(request.balance)
            yield Preview(meter.done, (_small(draft.picture),))
            picture = yield from _painted(self, request, draft, meter)
            image = to_image(picture)
            like = tuple(round(likeness(image, photo), 3) for photo in photos)
            text = infotext(request, self.bundle, image, photos)
            yield meter.tick("finishing")
            yield Blended(image, index, request.seed, text, None, request.balance, *like)


def _told(bundle: Bundle | None, request: BlendRequest) -> Iterator[Note]:
    if bundle is None and (request.prompt or request.guides):
        yield Note("without a model nothing is painted anew: the prompt has no effect", warning=True)
    elif request.prompt and not request.strength * SHARE[request.method]:
        yield Note("nothing is painted anew at this strength: the prompt has no effect", warning=True)


def strength_at(request: BlendRequest) -> float:
    """How much is painted anew: the request's strength in the middle, down to 0 at the ends."""
    strength = request.strength * SHARE[request.method] * 4 * request.balance * (1 - request.balance)
    return strength if strength >= LEAST else 0.0


def _sampling(request: BlendRequest) -> Sampling:
    """Without words there is nothing to be guided to, and half the work is saved."""
    scale = request.cfg if request.prompt or request.negative else 1.0
    return Sampling(sampler=request.sampler, schedule=request.schedule, steps=request.steps, cfg_scale=scale)


def _steps(bundle: Bundle | None, request: BlendRequest) -> int:
    """Units of progress that painting anew takes."""
    strength = strength_at(request)
    if bundle is None or not strength:
        return 0
    choice = choice_for(_sampling(request), xl=bundle.time_ids > 0)
    return 1 + walk(choice, bundle.schedule, request.steps, strength).steps


def _painted(blend: Blend, request: BlendRequest, draft: Draft, meter: Meter) -> Generator[Event, None, np.ndarray]:
    """The draft painted anew as far as its balance and zone allow; gives the picture (Y, X, 3)."""
    bundle = blend.bundle
    if bundle is None or not _steps(bundle, request):
        return draft.picture
    size = draft.picture.shape[1], draft.picture.shape[0]
    work = work_size(bundle, size)
    latents, residual = draft.latents, draft.residual
    if latents is None or residual is None:
        carried = carry(bundle, draft.picture, work)
        latents, residual = carried.latents, carried.residual
    ended = latents
    for event in run(bundle, _to_paint(request, draft, latents, work), blend.library):
        if isinstance(event, Latents):
            ended = event.latents
        elif isinstance(event, Progress):
            yield meter.tick(event.note)
        else:
            yield event
    ended, kept = settled(latents, ended, draft.zone)
    if kept < HALF:
        yield Note("the model leaves noise at this strength; what looked like noise was taken out")
    picture = returned(bundle, latents, ended, residual, draft.base)
    if draft.zone is None:
        return picture
    return draft.picture + (picture - draft.picture) * draft.zone[..., None]


def _to_paint(request: BlendRequest, draft: Draft, latents: Tensor, work: tuple[int, int]) -> Request:
    """Image-to-image from the draft's latents, for latents."""
    small = to_image(cv2.resize(draft.picture, work, interpolation=cv2.INTER_AREA))
    mask = None
    if draft.zone is not None:
        zone = cv2.resize(draft.zone, work, interpolation=cv2.INTER_AREA)
        mask = Mask(image=to_image(np.repeat(zone[..., None], 3, axis=2)).convert("L"), blur=0)
    return Request(
        prompts=(request.prompt,),
        negative_prompts=(request.negative,),
        seeds=(request.seed,),
        width=work[0],
        height=work[1],
        sampling=_sampling(request),
        init=Init(image=small, strength=strength_at(request)),
        mask=mask,
        controls=tuple(
            Control(model=g.model, image=_hint(small, g.reads), weight=g.weight, name=g.name) for g in request.guides
        ),
        given=Given(init_latents=latents),
        output="latent",
        preview_every=request.preview_every,
    )


def _hint(small: PIL.Image.Image, reads: str) -> PIL.Image.Image:
    return PIL.Image.fromarray(outline(to_array(small), reads)).convert("RGB")


def _small(picture: np.ndarray) -> PIL.Image.Image:
    image = to_image(picture)
    image.thumbnail((384, 384))
    return image
