"""What an autoencoder loses comes back; noise that a weak model leaves does not."""

import cv2
import numpy as np
import pytest

from mix.appflow.blend.bands import collapse, join, pyramid, shares, slerp_factors
from mix.appflow.blend.carry import carry, returned, settled, to_latents, to_rows, work_size
from mix.appflow.blend.look import recoloured
from mix.appflow.blend.seam import composite, cut, zone
from tests.mix.appflow.blend.conftest import beach, flower


def array(photo) -> np.ndarray:
    return np.asarray(photo, np.float32) / 255


def smooth(seed: int, side: int = 24) -> np.ndarray:
    """Latents as photos have them: neighbours alike."""
    noise = np.random.default_rng(seed).standard_normal((side, side, 4)).astype(np.float32)
    rows = cv2.GaussianBlur(noise, (0, 0), 1.2)
    return rows / rows.std()


def test_a_picture_comes_back_exactly_although_the_autoencoder_is_random(bundle):
    picture = array(beach())
    carried = carry(bundle, picture, work_size(bundle, (160, 128)))
    assert np.abs(returned(bundle, carried.latents, carried.latents, carried.residual) - picture).max() < 1e-5


def test_detail_is_dropped_where_the_picture_was_painted_over(bundle):
    picture = array(beach())
    carried = carry(bundle, picture, (64, 64))
    ended = carried.latents + 5 * to_latents(smooth(1, carried.latents.shape[2]))
    again = returned(bundle, carried.latents, ended, carried.residual)
    assert np.isfinite(again).all()
    assert np.abs(again - picture).mean() > 0.01


def test_noise_left_by_a_model_is_taken_out_and_paint_is_not():
    begun = to_latents(smooth(0))
    paint = begun + to_latents(smooth(3))
    assert settled(begun, paint) == (paint, 1.0)
    noise = np.random.default_rng(4).standard_normal((24, 24, 4)).astype(np.float32)
    ended, kept = settled(begun, paint + to_latents(noise))
    assert kept < 0.7
    before, after = (float(np.square(to_rows(x) - to_rows(paint)).mean()) for x in (paint + to_latents(noise), ended))
    assert after < 0.75 * before


@pytest.mark.parametrize("shape", [(128, 160), (97, 131), (40, 300)])
def test_bands_add_up_to_the_picture(shape):
    picture = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
    assert np.abs(collapse(pyramid(picture)) - picture).max() < 1e-5


def test_shares_rise_with_the_balance_everywhere():
    field = [np.linspace(-6, 6, 50, dtype=np.float32)[None]]
    line = np.stack([shares(balance, field)[0] for balance in (0, 0.2, 0.5, 0.8, 1)])
    assert (np.diff(line, axis=0) > 0).all()
    assert line[0].max() == 0
    assert line[-1].min() == 1


def test_details_keep_their_contrast_in_the_middle():
    left, right = slerp_factors(np.float32(0.5), 0.0)
    assert left == pytest.approx(right) == pytest.approx(0.5**0.5, abs=1e-6)
    assert slerp_factors(np.float32(0.25), 1.0) == (0.75, 0.25)
    one, other = (np.random.default_rng(i).standard_normal((64, 64, 3)).astype(np.float32) for i in (1, 2))
    half = join(one, other, shares(0.5, [np.zeros((64, 64), np.float32)]))
    assert half.std() == pytest.approx(1, abs=0.06)


def test_masks_only_grow_and_seams_are_where_they_end():
    field = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(32, 0)
    masks = np.stack([cut(field, balance, 0.2) for balance in (0, 0.25, 0.5, 0.75, 1)])
    assert (np.diff(masks, axis=0) >= 0).all()
    assert masks[0].max() == 0
    assert masks[-1].min() == 1
    assert zone(masks[0]).max() == 0
    assert zone(masks[2])[:, 28:36].min() > 0.5


def test_no_colour_jumps_at_a_seam():
    dark, light = np.full((64, 64, 3), 0.3, np.float32), np.full((64, 64, 3), 0.7, np.float32)
    mask = np.zeros((64, 64), np.float32)
    mask[:, 32:] = 1
    joined = composite(dark, light, mask)
    assert np.abs(np.diff(joined, axis=1)).max() < 0.05
    assert np.abs(composite(dark, light, mask * 0) - dark).max() < 1e-5


def test_the_colours_of_one_and_the_shapes_of_the_other():
    from mix.appflow.blend.align import to_image
    from mix.appflow.similarity import colours, edges

    dressed = to_image(recoloured(array(beach()), array(flower())))
    assert colours(dressed, flower()) > colours(beach(), flower()) + 0.2
    assert edges(dressed, beach()) > 0.5
