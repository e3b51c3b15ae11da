"""The repair: a picture without a code becomes one that scans, hue stays, what is right already is left alone."""

import colorsys

import cv2
import numpy as np
import PIL.Image
import pytest

from mix.appflow.artqr import scan, stress
from mix.appflow.artqr.draw import Layout, picture
from mix.appflow.artqr.eyes import shares, weakest
from mix.appflow.artqr.matrix import make
from mix.appflow.artqr.refine import refine, wish_of
from mix.appflow.artqr.repair import Look, repaired
from mix.appflow.artqr.request import ArtQRRequest
from mix.appflow.artqr.tone import array, image, luma, to_luma

LINK = "https://example.com/a"


def scene(side: int = 480) -> PIL.Image.Image:
    """A sun over hills, with some texture."""
    y, x = np.mgrid[:side, :side] / side
    rgb = np.stack([0.4 + 0.3 * y, 0.6 - 0.2 * y, 0.9 - 0.5 * y], axis=2)
    rgb[y > 0.6 + 0.1 * np.sin(8 * x)] = (0.1, 0.35, 0.15)
    rgb[np.hypot(x - 0.6, y - 0.3) < 0.15] = (0.95, 0.8, 0.2)
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (side, side, 3)), (0, 0), 2)
    return image(rgb + 0.1 * noise)


def run(work):
    reports = []
    while True:
        try:
            reports.append(next(work))
        except StopIteration as done:
            return done.value, reports


def test_luminance_is_met_and_hue_stays():
    rgb = np.array([[[0.8, 0.3, 0.1], [0.2, 0.5, 0.7]]], np.float32)
    for target in (0.1, 0.3, 0.6):
        made = to_luma(rgb, np.full((1, 2), target, np.float32))
        assert luma(made) == pytest.approx(target, abs=1e-5)
        for old, new in zip(rgb[0], made[0], strict=True):
            assert colorsys.rgb_to_hsv(*new)[0] == pytest.approx(colorsys.rgb_to_hsv(*old)[0], abs=1e-3)


def test_a_picture_becomes_a_code_that_every_reader_reads():
    request = ArtQRRequest(text=LINK, picture=scene(), size=480)
    result, reports = run(refine(scene(), request))
    assert result.report.ok, result.report.failures()
    assert result.rounds == len(reports) <= request.rounds
    assert result.report.modules is not None
    assert result.report.modules.spare > 0.5
    assert result.report.rate() > 0.9
    assert not scan.scan(scene(), LINK, ()).ok


def test_a_perfect_code_is_hardly_changed():
    code = make(LINK, "M", 3)
    layout = Layout.fit((464, 464), code.n, 2)
    plain = array(picture(code, layout))
    made = repaired(plain, code, layout, Look(shape="square"))
    assert np.abs(luma(made) - luma(plain)).mean() < 0.03


def test_a_broken_code_is_mended():
    code = make(LINK, "L", 3)
    layout = Layout.fit((464, 464), code.n, 2)
    broken = array(picture(code, layout))
    broken[200:330, 120:330] = 0.45
    assert not scan.scan(image(broken), LINK, ()).ok
    assert scan.scan(image(repaired(broken, code, layout, Look())), LINK, ()).ok


def test_more_strength_means_more_code_and_less_picture():
    changes = []
    for strength in (0.0, 0.5, 1.0):
        request = ArtQRRequest(text=LINK, picture=scene(), size=400, strength=strength)
        layout = request.layout(400)
        rgb = array(scene(400))
        changes.append(np.abs(luma(repaired(rgb, request.code(), layout, request.look)) - luma(rgb)).mean())
    assert changes == sorted(changes)
    assert Look().stronger().margin > Look().margin


def test_eyes_see_what_opencv_sees():
    code = make(LINK, "M", 3)
    layout = Layout.fit((464, 464), code.n, 2)
    light = luma(array(picture(code, layout)))
    for scale in (0.25, 0.5, 1.0):
        assert ((shares(light, layout, scale) < 0) == code.modules).all()
    assert weakest(light, layout, np.where(code.modules, -1, 1)).min() > 0


def test_wishes_leave_stars_in_the_dark():
    layout = Layout.fit((330, 330), 33, 0)
    light = np.full((330, 330), 0.9, np.float32)
    light[:, :200] = 0.05
    wish = wish_of(light, layout, 0.0)
    assert 0.65 < wish.dark[:, :16].mean() < 0.8
    assert not wish.dark[:, 25:].any()


def test_distortions_are_repeatable_and_keep_the_type():
    pixels = np.asarray(scene(200))
    for name, distort in stress.STRESS.items():
        made = distort(pixels)
        assert made.dtype == np.uint8, name
        assert made.shape[2] == 3, name
        assert (made == distort(pixels)).all(), name


@pytest.mark.parametrize(("size", "sides"), [(0, {1.0, 15 / 16, 17 / 16}), (480, {1.0})])
def test_a_code_that_is_not_read_is_tried_at_other_sizes(monkeypatch, size, sides):
    """Some pictures are not read by OpenCV at one size and are at others; a size that was asked for is kept."""
    request, seen = ArtQRRequest(text=LINK, picture=scene(), rounds=8, size=size), []

    def blind(made, text, names=None):
        seen.append(made.width)
        return scan.ScanReport({"reader": {stress.PLAIN: False}})

    monkeypatch.setattr(scan, "scan", blind)
    run(refine(scene(), request))
    assert {round(side / request.side * 16) / 16 for side in seen} == sides
