"""Run a request on a bundle: a generator of events that ends with the pictures. Closing it stops the work and restores
the models.

Pictures whose prompts name the same adapters are denoised together, up to the request's batch size; every picture is
the one that it would be alone. The steps: read the prompts, denoise, (enlarge and denoise again,) decode, put back into
the original, describe.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import paddle
from paddle import Tensor

from ppdiffusers.pipelines import describe, pixels, prepare
from ppdiffusers.pipelines.adapters import Adapters, Library, find
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.conditions import Context, GivenTexts
from ppdiffusers.pipelines.enlarge import enlarge
from ppdiffusers.pipelines.event import Event, Image, Latents, Note, Preview, Progress
from ppdiffusers.pipelines.network import Hint
from ppdiffusers.pipelines.passes import Pass, Teller, Walk, choice_for, guidance_of, is_finite, walk
from ppdiffusers.pipelines.request import Hires, Refine, Request, check_size
from ppdiffusers.prompt.encode import PromptSettings
from ppdiffusers.prompt.network import Network, extract_networks, leftover_tags
from ppdiffusers.prompt.plan import Pass as PromptPass
from ppdiffusers.prompt.plan import PromptPlan, plan
from ppdiffusers.sampling import NoiseSource, Variation
from ppdiffusers.sampling.denoise import Denoiser

LARGE = 1024 * 1024  # pixels from which the VAE works in tiles
Events = Generator[Event, None, Tensor]


@dataclass(frozen=True)
class Picture:
    """One picture of a request: its place, words and seed."""

    index: int
    prompt: str
    negative: str
    seed: int
    tags: tuple[Network, ...]
    written: str  # the prompt as given, tags and all
    written_negative: str


@dataclass
class Meter:
    """Counts work over the whole request, so that progress runs once from 0 to 1."""

    of: int
    done: int = 0

    def tick(self, note: str = "") -> Progress:
        """One more unit is done."""
        self.done = min(self.done + 1, self.of)
        return Progress(self.done, self.of, note)


@dataclass(frozen=True, eq=False)
class Job:
    """What all batches of a run share."""

    bundle: Bundle
    request: Request
    library: Library
    place: prepare.Canvas | None
    begin: prepare.Start
    first: Walk
    second: Walk | None
    size2: tuple[int, int]
    hints: tuple[tuple[Hint, ...], tuple[Hint, ...]]  # of the first and of the second pass
    meter: Meter

    def size(self, second: bool) -> tuple[int, int]:
        """(width, height) of a pass."""
        return self.size2 if second else (self.request.width, self.request.height)


def run(bundle: Bundle, request: Request, library: Library | None = None) -> Iterator[Event]:
    """Make the request's pictures; the library has what their `<lora:name:1>` tags mean.

    Raises ValueError, with a sentence, for what the model cannot do, before any work is done.
    """
    if request.sampling.cfg_scale == 1 and any(p.mode == "control" for p in request.controls):
        yield Note("a ControlNet that counts more than the prompt needs a CFG scale above 1", warning=True)
    _check(bundle, request)
    pictures = _pictures(request)
    groups = _groups(pictures, request.batch_size)
    job = _job(bundle, request, library or Library(), sum(map(len, groups)))
    yield from _leftovers(pictures)
    for batches in groups:
        yield from _group(job, batches)


def _groups(pictures: Sequence[Picture], size: int) -> list[list[list[Picture]]]:
    """Neighbours with the same adapters, each such group in batches."""
    together = [list(group) for _, group in groupby(pictures, key=lambda p: p.tags)]
    return [[group[i : i + size] for i in range(0, len(group), size)] for group in together]


def _job(bundle: Bundle, request: Request, library: Library, batches: int) -> Job:
    sampling, hires = request.sampling, request.hires
    strength = None if request.init is None else request.init.strength
    rule = "webui" if request.init is None else request.init.rule
    first = walk(choice_for(sampling, xl=bundle.time_ids > 0), bundle.schedule, sampling.steps, strength, rule)
    second, size2 = None, (0, 0)
    if hires is not None:
        size2 = hires.size(request.width, request.height, bundle.factor)
        check_size(*size2)
        choice = choice_for(sampling, hires.sampler, hires.schedule, bundle.time_ids > 0)
        second = walk(choice, bundle.schedule, hires.steps or sampling.steps, hires.strength)
    units = batches * (1 + first.steps + (second.steps if second else 0)) + request.count
    place = prepare.canvas(request)
    begin = prepare.start(bundle, request, place)
    hints = _hints(request, (request.width, request.height)), _hints(request, size2) if second else ()
    return Job(bundle, request, library, place, begin, first, second, size2, hints, Meter(units))


def _hints(request: Request, size: tuple[int, int]) -> tuple[Hint, ...]:
    return tuple(Hint.of(control, *size) for control in request.controls)


def _check(bundle: Bundle, request: Request) -> None:
    if request.batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {request.batch_size}")
    for control in request.controls:
        width, wanted = control.model.config.cross_attention_dim, bundle.unet.config.cross_attention_dim
        if width != wanted:
            raise ValueError(
                f"{control.name} reads text of width {width}, {bundle.name} has {wanted}: "
                "it was made for another model family"
            )
    if request.refine is not None and request.refine.bundle.latent_channels != bundle.latent_channels:
        raise ValueError(f"{request.refine.bundle.name} cannot refine {bundle.name}: their latents differ")


def _pictures(request: Request) -> list[Picture]:
    pictures = []
    rows = zip(request.prompts, request.picture_negatives(), request.picture_seeds(), strict=True)
    for index, (prompt, negative, seed) in enumerate(rows):
        text, tags = extract_networks(prompt)
        against, _ = extract_networks(negative)
        pictures.append(Picture(index, text, against, seed, tuple(tags), prompt, negative))
    return pictures


def _leftovers(pictures: Sequence[Picture]) -> Iterator[Note]:
    for tag in dict.fromkeys(tag for p in pictures for tag in leftover_tags(p.prompt)):
        yield Note(f"{tag} is not a tag that is understood; it is read as words", warning=True)


def _group(job: Job, batches: Sequence[Sequence[Picture]]) -> Iterator[Event]:
    """Pictures that share their adapters: these are read and applied once."""
    models = job.bundle.models
    tags, notes = find(batches[0][0].tags, models, job.library.find)
    yield from notes
    with Adapters(models, tags, job.library.always) as adapters:
        for pictures in batches:
            latents = yield from _denoise(job, pictures, adapters)
            yield from _finish(job, pictures, latents, tags)


def _denoise(job: Job, pictures: Sequence[Picture], adapters: Adapters) -> Events:
    """From the prompts to latents."""
    yield Note("reading the prompt")
    tellers = [_teller(job, pictures, second) for second in ((False, True) if job.second else (False,))]
    yield job.meter.tick("reading the prompt")
    latents = yield from _first_pass(job, pictures, tellers[0], adapters)
    if job.second is not None:
        latents = yield from _second_pass(job, pictures, latents, tellers[1], adapters)
    return latents


def _finish(job: Job, pictures: Sequence[Picture], latents: Tensor, tags: describe.Tags) -> Iterator[Event]:
    """Decode and describe."""
    bundle = job.bundle
    if not is_finite(latents):
        raise ValueError(
            f"{bundle.name} gave values that are not numbers; the weights may be damaged, or try float32 instead of "
            "half precision"
        )
    if job.request.output == "latent":
        yield Latents(latents, tuple(picture.index for picture in pictures))
        return
    for i, picture in enumerate(pictures):
        result = yield from _decode(bundle, latents[i : i + 1], job.request.tile)
        image = pixels.to_images(result)[0]
        image = image if job.place is None else job.place.finish(image)
        yield job.meter.tick("decoding")
        text = describe.infotext(
            bundle, job.request, picture.written, picture.written_negative, picture.seed, image, tags
        )
        array = pixels.to_arrays(result)[0] if job.request.output == "np" else None
        yield Image(image, picture.index, picture.seed, text, array)


def _teller(job: Job, pictures: Sequence[Picture], second: bool) -> Teller:
    """The prompts of a pass, encoded by every model that takes part in it."""
    request, bundle = job.request, job.bundle
    hires = request.hires if second else None
    during = PromptPass(request.sampling.steps, (hires.steps or request.sampling.steps) if hires else None)
    prompts = [_words(hires.prompt if hires else "", p.prompt) for p in pictures]
    negatives = [_words(hires.negative_prompt if hires else "", p.negative) for p in pictures]
    scale = (hires.cfg_scale if hires else 0.0) or request.sampling.cfg_scale
    against = negatives if scale != 1 else None
    size = job.size(second)
    own = _plan(bundle, job, pictures, prompts, against, during)
    context = _context(bundle, size, None)
    if request.refine is None:
        return Teller(own, context)
    refiner = request.refine.bundle
    theirs = plan(refiner.text, prompts, against, during, _settings(request, refiner))
    steps = (job.second if second and job.second else job.first).steps
    return Teller(
        own, context, (round(request.refine.switch_at * steps), theirs, _context(refiner, size, request.refine))
    )


def _plan(
    bundle: Bundle,
    job: Job,
    pictures: Sequence[Picture],
    prompts: list[str],
    against: list[str] | None,
    during: PromptPass,
) -> PromptPlan | GivenTexts:
    given = job.request.given
    if given is None or given.prompt_embeds is None:
        return plan(bundle.text, prompts, against, during, _settings(job.request, bundle))
    return GivenTexts.of(given, [picture.index for picture in pictures], against is not None)


def _words(instead: str, own: str) -> str:
    return extract_networks(instead)[0] if instead else own


def _settings(request: Request, bundle: Bundle) -> PromptSettings:
    zeros = bool(bundle.time_ids == 6)  # SDXL's base was trained with zeros for "no text"
    return PromptSettings(clip_skip=request.clip_skip, emphasis=request.emphasis, zero_empty_negative=zeros)


def _context(bundle: Bundle, size: tuple[int, int], refine: Refine | None) -> Context:
    width, height = size
    if bundle.time_ids == 0:
        return Context(bundle.unet)
    if bundle.time_ids == 6:
        ids = paddle.to_tensor([height, width, 0, 0, height, width], dtype="float32")
        return Context(bundle.unet, ids, ids)
    scores = (refine.aesthetic_score, refine.negative_aesthetic_score) if refine else (6.0, 2.5)
    good, bad = (paddle.to_tensor([height, width, 0, 0, score], dtype="float32") for score in scores)
    return Context(bundle.unet, good, bad)


def _noise(job: Job, pictures: Sequence[Picture], size: tuple[int, int]) -> NoiseSource:
    bundle, noise = job.bundle, job.request.noise
    shape = (bundle.latent_channels, size[1] // bundle.factor, size[0] // bundle.factor)
    variation = None
    if noise.variation_strength:
        seeds = tuple(noise.variation_seed + p.index for p in pictures)
        variation = Variation(seeds=seeds, strength=noise.variation_strength)
    seeds_of = [p.seed for p in pictures]
    return NoiseSource(seeds_of, shape, noise.rng, variation=variation, eta_seed_delta=noise.eta_seed_delta)


def _pass(job: Job, teller: Teller, begin: prepare.Start, adapters: Adapters, second: bool) -> Pass:
    bundle, request = job.bundle, job.request
    way = job.second if second and job.second else job.first
    hires_scale = request.hires.cfg_scale if second and request.hires else 0.0
    if begin.extra is not None:
        pix2pix = bundle.extra_channels == bundle.latent_channels
        teller = replace(teller, context=replace(teller.context, extra=begin.extra, pix2pix=pix2pix))
    denoiser = partial(Denoiser, model=bundle.schedule, prediction=bundle.prediction, quantize=way.choice.quantize)
    guidance = guidance_of(request.sampling, hires_scale)
    return Pass(way, teller, denoiser, guidance, begin, job.hints[second], adapters, request.guide)


def _first_pass(job: Job, pictures: Sequence[Picture], teller: Teller, adapters: Adapters) -> Events:
    source = _noise(job, pictures, job.size(False))
    noise = source.first()
    given = job.request.given
    if given is not None and given.latents is not None:
        noise = given.latents.astype("float32")[pictures[0].index : pictures[-1].index + 1]
    begin = job.begin if job.request.mask is None else job.begin.filled(job.request.mask.content, noise)
    return (yield from _walk_down(job, _pass(job, teller, begin, adapters, False), noise, source))


def _second_pass(job: Job, pictures: Sequence[Picture], latents: Tensor, teller: Teller, adapters: Adapters) -> Events:
    hires: Hires = job.request.hires  # type: ignore[assignment]
    yield Note(f"enlarging to {job.size2[0]} x {job.size2[1]}")
    larger = yield from enlarge(job.bundle, latents, job.size2, hires.upscaler, job.request.tile)
    source = _noise(job, pictures, job.size2)
    noise = source.first()
    begin = prepare.at_size(job.begin, larger)
    return (yield from _walk_down(job, _pass(job, teller, begin, adapters, True), noise, source))


def _walk_down(job: Job, walk_down: Pass, noise: Tensor, source: NoiseSource) -> Events:
    """Run a pass, saying how far it is; gives the latents."""
    every = job.request.preview_every
    latents = walk_down.begin.image
    for step in walk_down.run(noise, source):
        latents = step.x
        yield job.meter.tick("denoising")
        if every and (step.index + 1) % every == 0:
            yield Preview(job.meter.done, job.bundle.preview(step.x0))
    assert latents is not None  # no step is skipped without a picture to keep
    return latents.expand([noise.shape[0], *latents.shape[1:]])


def _decode(bundle: Bundle, latents: Tensor, tile: int) -> Events:
    """Pixels (1, 3, Y, X) of one picture's latents; large ones tile by tile."""
    area = latents.shape[2] * latents.shape[3] * bundle.factor**2
    if not tile and area <= LARGE:
        return bundle.decode(latents)
    tiles = bundle.vae.decode_tiles(bundle.unscale(latents), (tile or 512) // bundle.factor)
    while True:
        with paddle.no_grad():
            done = next(tiles)
        if done.result is not None:
            return done.result
        yield Note(f"decoding tile {done.index + 1} of {done.of}")
