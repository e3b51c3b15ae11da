"""Art QR as a whole: events end in ranked candidates, failing codes say why, leaving early stops the work."""

import PIL.Image
import pytest

from mix.appflow.artqr import flow, refine
from mix.appflow.artqr.flow import ArtQR, CodePicture, ranked
from mix.appflow.artqr.request import ArtQRRequest, Steering
from ppdiffusers.pipelines.event import Progress
from ppdiffusers.pipelines.infotext import parse
from tests.mix.appflow.artqr.test_repair import scene
from tests.ppdiffusers.pipelines.conftest import tiny

LINK = "https://example.com/a"
QUICK = {"text": LINK, "steps": 2, "cfg": 1.0, "sampler": "Euler", "size": 400, "version": 2, "rounds": 4}


def test_a_model_paints_is_led_and_the_result_scans():
    events = list(ArtQR(tiny("sd15")).stream(ArtQRRequest(prompt="a cat", seed=3, **QUICK)))
    code = events[-1]
    assert isinstance(code, CodePicture)
    assert code.ok, code.report.failures()
    assert code.image.size == (400, 400)
    assert code.reference is not None
    steps = [event.step for event in events if isinstance(event, Progress)]
    assert steps == sorted(steps)
    told = parse(code.infotext)
    assert told.prompt == "a cat"
    assert told.values["QR text"] == LINK
    assert (told.values["QR version"], told.values["QR mask"]) == ("2", str(code.mask))
    assert told.values["Steps"] == "2"


def test_a_given_picture_needs_no_model():
    request = ArtQRRequest(picture=scene(), **QUICK)
    assert ArtQR()(request)[0].ok
    with pytest.raises(ValueError, match="needs a picture"):
        list(ArtQR().stream(ArtQRRequest(**QUICK)))


def test_candidates_have_their_own_seeds_and_the_best_is_first():
    values = {**QUICK, "candidates": 2, "rounds": 1, "steering": Steering(redraw=0)}
    made = ArtQR(tiny("sd15"))(ArtQRRequest(prompt="x", seed=7, **values))
    assert {code.seed for code in made} == {7, 8}
    assert made == ranked(made[::-1])


def test_a_code_that_fails_says_so(monkeypatch):
    monkeypatch.setattr(refine, "repaired", lambda rgb, *_: rgb)
    code = ArtQR()(ArtQRRequest(picture=PIL.Image.new("RGB", (400, 400), "teal"), **{**QUICK, "mask": 3}))[0]
    assert not code.ok
    assert code.report.margin == 0
    said = " ".join(code.reasons)
    assert "not read by OpenCV" in said
    assert "strength" in said
    assert "mask pattern" in said


def test_leaving_early_stops_the_work(monkeypatch):
    calls = []
    monkeypatch.setattr(flow, "refine", lambda *_: calls.append(1))
    stream = ArtQR(tiny("sd15")).stream(ArtQRRequest(prompt="x", **QUICK))
    while not isinstance(next(stream), Progress):
        pass
    stream.close()
    assert not calls


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": " "}, "nothing to say"),
        ({"strength": 1.5}, "from 0"),
        ({"size": 100}, "between 128"),
        ({"size": 128, "version": 20}, "pixels, at least 4"),
        ({"shape": "star"}, "rounded"),
        ({"candidates": 0}, "1 to 16"),
        ({"version": 1, "text": "x" * 60}, "too small"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(values, message):
    with pytest.raises(ValueError, match=message):
        list(ArtQR().stream(ArtQRRequest(**{**QUICK, "picture": scene(64), **values})))


def test_sizes_follow_the_number_of_modules():
    short, long = ArtQRRequest(text=LINK), ArtQRRequest(text="https://example.com/" + "x" * 300)
    for request in (short, long):
        assert request.layout(request.side).module >= 12
        side = request.work_side(256, 64)
        assert 256 <= side <= 512
        assert side % 64 == 0
    assert short.side < long.side
