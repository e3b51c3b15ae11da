"""Art QR codes as one job: paint, lead the picture towards the code, repair, check, rank.

The steps for each candidate: a picture of the prompt; the code of the same text that agrees best with it; the picture
painted again at a larger size while a guide nudges the modules; a repair of what readers still see wrong; the report.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

import PIL.Image

from mix.appflow.artqr.describe import infotext
from mix.appflow.artqr.draw import control
from mix.appflow.artqr.guide import CodeGuide, ScanLoss, plain_decoder, wanted
from mix.appflow.artqr.matrix import Code
from mix.appflow.artqr.payload import advice
from mix.appflow.artqr.rank import reasons, similarity
from mix.appflow.artqr.refine import Refined, fitted, refine
from mix.appflow.artqr.repair import border
from mix.appflow.artqr.request import ArtQRRequest
from mix.appflow.artqr.scan import ScanReport
from mix.appflow.artqr.tone import array, enlarge, image, luma
from ppdiffusers.models.vae import AutoencoderKL
from ppdiffusers.pipelines import pixels
from ppdiffusers.pipelines.adapters import Library
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.event import Event, Image, Latents, Note, Preview, Progress
from ppdiffusers.pipelines.request import Control, Init, Request, Sampling
from ppdiffusers.pipelines.run import Meter, run

LEAST = 0.03  # a denoising strength below which nothing is painted again


@dataclass(frozen=True)
class CodePicture(Image):
    """A finished code: the picture, and what is known about it."""

    ok: bool = False
    report: ScanReport | None = None
    rounds: int = 0
    similarity: float = 0.0  # to the picture that the same seed gives without a code, 0 to 1
    reference: PIL.Image.Image | None = None  # that picture
    version: int = 0
    mask: int = 0
    reasons: tuple[str, ...] = ()  # why it failed, and what to do
    score: float = 0.0  # look and margin together, what candidates are ranked by


@dataclass(eq=False)
class ArtQR:
    """Makes art QR codes with one loaded checkpoint, or without any on pictures that are given.

    `library` has what `<lora:name:1>` in a prompt means.
    """

    bundle: Bundle | None = None
    library: Library | None = None
    _vae: AutoencoderKL | None = field(default=None, repr=False)

    def __call__(self, request: ArtQRRequest) -> list[CodePicture]:
        """The finished candidates, the best first."""
        return ranked([event for event in self.stream(request) if isinstance(event, CodePicture)])

    def stream(self, request: ArtQRRequest) -> Iterator[Event]:
        """Events, with a `CodePicture` for each candidate as it gets ready. Raises ValueError before any work."""
        if self.bundle is None and request.picture is None:
            raise ValueError("without a model the code needs a picture to go into")
        code = request.code()
        if hint := advice(request.text):
            yield Note(hint, warning=True)
        meter = Meter(request.candidates * _units(self.bundle, request))
        for index in range(request.candidates):
            one = replace(request, seed=(request.seed + index) % 2**32)
            yield from self._candidate(one, code, index, meter)

    def _candidate(self, request: ArtQRRequest, code: Code, index: int, meter: Meter) -> Iterator[Event]:
        reference, told = yield from self._paint(request, code, meter)
        layout = request.layout(reference.width)
        chosen = fitted(code, luma(array(reference)), layout, request, set())
        led = yield from self._lead(request, chosen, reference, meter)
        refined = yield from self._repair(request, led, meter)
        look = similarity(refined.image, reference)
        report = refined.report
        ok = report.ok
        score = (1 if ok else 0) + 0.5 * look + 0.5 * report.margin
        yield CodePicture(
            refined.image,
            index,
            request.seed,
            infotext(request, told, refined.code, refined.image),
            ok=ok,
            report=report,
            rounds=refined.rounds,
            similarity=look,
            reference=reference,
            version=refined.code.version,
            mask=refined.code.mask,
            reasons=() if ok else reasons(request, report),
            score=score,
        )

    def _paint(self, request: ArtQRRequest, code: Code, meter: Meter) -> Generator[Event, None, tuple]:
        """The picture without a code, at the model's own size, and its infotext."""
        if request.picture is not None:
            given = pixels.fit(pixels.load_image(request.picture), (request.side, request.side))
            return given, ""
        assert self.bundle is not None
        yield Note("painting the picture")
        asked = self._request(request, self._native, controls=self._controls(request, code, self._native))
        for event in run(self.bundle, asked, self.library):
            if isinstance(event, Image):
                return event.image, event.infotext
            yield meter.tick("painting") if isinstance(event, Progress) else event
        raise AssertionError("a run ends with its picture")

    def _lead(
        self, request: ArtQRRequest, code: Code, reference: PIL.Image.Image, meter: Meter
    ) -> Generator[Event, None, PIL.Image.Image]:
        """The picture painted again, larger, with the guide; the reference itself where nothing shall be led."""
        if not _leads(self.bundle, request):
            return reference
        assert self.bundle is not None
        side = request.work_side(self._native, max(64, self.bundle.factor))
        rgb = enlarge(array(reference), (side, side))
        layout = request.layout(side)
        self._vae = self._vae or plain_decoder(self.bundle)
        edge = border(luma(rgb), layout, 0.6)
        loss = ScanLoss(wanted(code, edge, 0.5 * request.look.margin), layout)
        steering = request.steering
        guide = CodeGuide(
            self._vae,
            loss,
            rate=request.rate,
            start=steering.start,
            end=steering.end,
            colours=pixels.to_tensor([image(rgb)]),
            hold=steering.hold,
        )
        yield Note(f"leading the picture towards the code, at {side} x {side}")
        asked = replace(
            self._request(request, side, controls=self._controls(request, code, side)),
            init=Init(image=image(rgb), strength=steering.redraw),
            guide=guide if request.rate > 0 else None,
            output="latent",
        )
        for event in run(self.bundle, asked, self.library):
            if isinstance(event, Latents):
                latents = event.latents
                for _ in range(steering.polish if request.rate > 0 else 0):
                    latents = guide.nudged(latents, latents)
                return pixels.to_images(self.bundle.decode(latents))[0]
            yield meter.tick("leading") if isinstance(event, Progress) else event
        raise AssertionError("a run ends with its latents")

    def _repair(self, request: ArtQRRequest, picture: PIL.Image.Image, meter: Meter) -> Generator[Event, None, Refined]:
        work = refine(picture, request)
        while True:
            try:
                report = next(work)
            except StopIteration as done:
                return done.value
            yield meter.tick("checking")
            yield Note(_heard(report))

    @property
    def _native(self) -> int:
        assert self.bundle is not None
        return int(self.bundle.unet.config.sample_size or 64) * self.bundle.factor

    def _request(self, request: ArtQRRequest, side: int, controls: tuple[Control, ...]) -> Request:
        return Request(
            prompts=(request.prompt,),
            negative_prompts=(request.negative_prompt,),
            seeds=(request.seed,),
            width=side,
            height=side,
            sampling=Sampling(
                sampler=request.sampler, schedule=request.schedule, steps=request.steps, cfg_scale=request.cfg
            ),
            clip_skip=request.clip_skip,
            controls=controls,
            preview_every=request.preview_every,
        )

    def _controls(self, request: ArtQRRequest, code: Code, side: int) -> tuple[Control, ...]:
        shown = control(code, request.layout(side), request.shape)
        return tuple(
            Control(model=net.model, image=shown, weight=net.weight, start=net.start, end=net.end, name=net.name)
            for net in request.controls
        )


def ranked(found: list[CodePicture]) -> list[CodePicture]:
    """Scanning ones first, then by look and margin."""
    return sorted(found, key=lambda one: -one.score)


def _leads(bundle: Bundle | None, request: ArtQRRequest) -> bool:
    return bundle is not None and request.steering.redraw > LEAST and (request.rate > 0 or bool(request.controls))


def _units(bundle: Bundle | None, request: ArtQRRequest) -> int:
    """Steps of work for one candidate, an upper bound: the repair may end early."""
    painted = 0 if request.picture is not None else request.steps + 2
    led = round(request.steps * request.steering.redraw) + 2 if _leads(bundle, request) else 0
    return painted + led + request.rounds


def _heard(report: ScanReport) -> str:
    lost = report.failures()
    return "every reader reads it" if not lost else f"not yet: {'; '.join(lost)}"


__all__ = ["ArtQR", "ArtQRRequest", "CodePicture", "Event", "Preview", "ranked"]
