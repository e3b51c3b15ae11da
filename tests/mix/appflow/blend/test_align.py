"""Photos as they come: turned, transparent, tiny, long, of different shapes, of the same thing."""

import numpy as np
import PIL.Image
import pytest

from mix.appflow.blend import BlendRequest, balances
from mix.appflow.blend.align import align, canvas_size, focus_box, to_array
from mix.appflow.blend.salience import ranks, salience
from tests.mix.appflow.blend.conftest import beach, flower


def test_the_canvas_has_the_shape_between_the_photos_whichever_comes_first():
    wide, tall = beach(300, 150), flower(150, 300)
    request = BlendRequest(a=wide, b=tall, size=256)
    assert canvas_size(request, wide.size, tall.size) == canvas_size(request, tall.size, wide.size) == (256, 256)
    assert canvas_size(BlendRequest(a=wide, b=tall, width=136, height=128), wide.size, tall.size) == (136, 128)


def test_exif_orientation_and_transparency_are_obeyed():
    photo = beach(160, 128)
    exif = photo.getexif()
    exif[0x0112] = 6  # turned by a quarter
    turned = photo.rotate(90, expand=True)
    turned.getexif().update(exif)
    clear = PIL.Image.new("RGBA", (160, 128), (0, 0, 0, 0))
    pair = align(BlendRequest(a=turned, b=clear, size=160))
    assert pair.size == (160, 128)
    assert np.abs(pair.a - to_array(photo)).max() < 0.02
    assert pair.b.min() == 1


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
def test_every_alignment_fills_the_canvas(how):
    pair = align(BlendRequest(a=beach(200, 100), b=flower(90, 240), align=how, size=192))
    assert pair.a.shape == pair.b.shape
    assert pair.b.std() > 0.05


def test_a_crop_looks_for_what_catches_the_eye():
    wide = PIL.Image.new("RGB", (600, 150), (40, 90, 60))
    wide.paste(flower(150, 150).crop((20, 0, 150, 130)), (450, 10))
    left, _, right, _ = focus_box(wide, (150, 150))
    assert left > 350
    assert right - left == 150


def test_photos_of_the_same_thing_are_laid_on_each_other():
    rng = np.random.default_rng(0)
    scene = PIL.Image.fromarray((rng.random((48, 64, 3)) * 255).astype(np.uint8)).resize((512, 384), PIL.Image.BICUBIC)
    moved = scene.rotate(7, PIL.Image.BICUBIC, translate=(12, -9))
    plain = align(BlendRequest(a=scene, b=moved, size=512))
    matched = align(BlendRequest(a=scene, b=moved, size=512, match=True))
    middle = slice(80, 300)
    before, after = (np.abs(p.a[middle, middle] - p.b[middle, middle]).mean() for p in (plain, matched))
    assert after < 0.3 * before
    other = align(BlendRequest(a=scene, b=flower(512, 384), size=512, match=True))
    assert "not matched" in other.notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": PIL.Image.new("RGB", (4, 4))}, "too small"),
        ({"a": PIL.Image.new("RGB", (2000, 20))}, "strip"),
        ({"balance": 1.5}, "balance must be between"),
        ({"strength": float("nan")}, "strength must be between"),
        ({"method": "magic"}, "known: latent"),
        ({"width": 256}, "both width and height"),
        ({"width": 250, "height": 256}, "try 248"),
        ({"size": 9000}, "size must be between"),
        ({"method": "composite", "shape": "mask"}, "needs the mask"),
    ],
)
def test_what_cannot_be_is_said(values, message):
    with pytest.raises(ValueError, match=message):
        BlendRequest(**{"a": beach(), "b": flower(), **values})


def test_a_strip_is_even_and_bounded():
    assert balances(5) == (0, 0.25, 0.5, 0.75, 1)
    with pytest.raises(ValueError, match="2 to 21"):
        balances(1)


def test_salience_finds_the_flower_and_flat_pictures_have_none():
    map_ = salience(to_array(flower()))
    assert map_[40:70, 80:110].mean() > map_[100:, :40].mean() + 0.3
    assert np.ptp(ranks(np.zeros((8, 8)))) == 0
