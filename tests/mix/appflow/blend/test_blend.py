"""The laws of a blend: exact ends, likeness that only rises or only falls, symmetry, the same from the same photo."""

import itertools

import numpy as np
import PIL.Image
import pytest

from mix.appflow.blend import METHODS, Blend, BlendRequest
from mix.appflow.blend.run import strength_at
from mix.appflow.similarity import likeness
from ppdiffusers.pipelines.event import Image, Note, Preview, Progress
from ppdiffusers.pipelines.infotext import parse

WAYS = [("latent", "subject"), ("structure+look", "subject"), ("dissolve", "subject")]
WAYS += [("composite", shape) for shape in ("subject", "shadows", "left-right", "radial")]
QUIET = {"strength": 0.0, "size": 160}


def pictures(blend, request, at=5):
    return [event.image for event in blend.strip(request, at) if isinstance(event, Image)]


def away(one, other) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def ask(photos, **values) -> BlendRequest:
    return BlendRequest(a=photos[0], b=photos[1], **{**QUIET, **values})


@pytest.mark.parametrize(("method", "shape"), WAYS)
def test_the_ends_are_the_photos(photos, bundle, method, shape):
    request = ask(photos, method=method, shape=shape)
    first, last = pictures(Blend(bundle), request, (0.0, 1.0))
    for got, photo in ((first, photos[0]), (last, photos[1])):
        assert np.abs(np.asarray(got, int) - np.asarray(photo, int)).max() <= 1


@pytest.mark.parametrize(("method", "shape"), WAYS)
def test_likeness_to_each_photo_moves_one_way(photos, bundle, method, shape):
    strip = pictures(Blend(bundle), ask(photos, method=method, shape=shape))
    to_a, to_b = ([likeness(picture, photo) for picture in strip] for photo in photos)
    assert all(x > y for x, y in itertools.pairwise(to_a)), to_a
    assert all(x < y for x, y in itertools.pairwise(to_b)), to_b


def test_the_ends_are_the_photos_also_where_the_model_paints(photos, bundle):
    request = ask(photos, strength=1.0, steps=2)
    first, last = pictures(Blend(bundle), request, (0.0, 1.0))
    assert away(first, photos[0]) < 0.5
    assert away(last, photos[1]) < 0.5


@pytest.mark.parametrize("method", ["latent", "dissolve"])
@pytest.mark.parametrize("balance", [0.25, 0.5])
def test_swapping_the_photos_is_turning_the_balance(photos, bundle, method, balance):
    one = Blend(bundle)(ask(photos, method=method, balance=balance))
    other = Blend(bundle)(ask(photos[::-1], method=method, balance=1 - balance))
    assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 2


@pytest.mark.parametrize(
    ("method", "shape"), [("latent", "subject"), ("composite", "subject"), ("composite", "radial")]
)
def test_a_photo_with_itself_is_the_photo(photos, bundle, method, shape):
    same = Blend(bundle)(ask((photos[0], photos[0]), method=method, shape=shape))
    assert np.abs(np.asarray(same, int) - np.asarray(photos[0], int)).max() <= 1


def test_the_prompt_and_the_seed_change_what_is_painted(photos, bundle):
    base = ask(photos, strength=0.6, steps=3, prompt="a red fox", seed=1)
    first = Blend(bundle)(base)
    assert away(first, Blend(bundle)(base)) == 0
    assert away(first, Blend(bundle)(ask(photos, strength=0.6, steps=3, prompt="blue glass", seed=1))) > 0
    assert away(first, Blend(bundle)(ask(photos, strength=0.6, steps=3, prompt="a red fox", seed=2))) > 0


def test_strength_peaks_in_the_middle_and_is_nothing_at_the_ends(photos):
    strengths = [strength_at(ask(photos, strength=0.4, balance=t)) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert strengths == [0, pytest.approx(0.3), pytest.approx(0.4), pytest.approx(0.3), 0]


def test_a_composite_is_painted_anew_at_its_seam_only(photos, bundle):
    still = Blend(bundle)(ask(photos, method="composite", shape="left-right"))
    painted = Blend(bundle)(ask(photos, method="composite", shape="left-right", strength=1.0, steps=2))
    change = np.abs(np.asarray(still, int) - np.asarray(painted, int)).max(axis=2)
    assert change[:, :8].max() == 0
    assert change[:, -8:].max() == 0
    assert change.max() > 0


def test_progress_reaches_its_end_and_says_what_comes(photos, bundle):
    events = list(Blend(bundle).strip(ask(photos, strength=0.5, steps=3), 3))
    progress = [event for event in events if isinstance(event, Progress)]
    assert [p.step for p in progress] == list(range(1, progress[-1].of + 1))
    assert [event.index for event in events if isinstance(event, Image)] == [0, 1, 2]
    assert any(isinstance(event, Preview) for event in events)


def test_closing_stops_the_work(photos, bundle):
    work = Blend(bundle).strip(ask(photos, strength=0.9, steps=50), 5)
    for event in work:
        if isinstance(event, Progress) and event.note == "denoising":
            break
    work.close()
    assert next(work, None) is None


def test_without_a_model_pixels_are_blended_and_prompts_are_told_to_be_useless(photos):
    events = list(Blend().stream(ask(photos, method="composite", strength=0.4, prompt="a fox")))
    assert any(isinstance(event, Note) and event.warning and "prompt" in event.text for event in events)
    assert isinstance(events[-1], Image)
    with pytest.raises(ValueError, match="needs a model"):
        Blend()(ask(photos, method="latent"))


@pytest.mark.parametrize("method", METHODS)
def test_the_settings_are_in_the_picture(photos, bundle, method):
    events = list(Blend(bundle).stream(ask(photos, method=method, balance=0.25, prompt="sea, and flowers")))
    told = parse(events[-1].infotext)
    assert told.prompt == "sea, and flowers"
    assert told.values["Blend"] == method
    assert told.values["Balance"] == "0.25"
    assert told.size == events[-1].image.size


def test_a_mask_says_where_the_second_photo_is(photos):
    mask = PIL.Image.new("L", (160, 128), 0)
    mask.paste(255, (80, 0, 160, 128))
    half = Blend()(ask(photos, method="composite", shape="mask", mask=mask, softness=0.0))
    left, right = (np.asarray(photo, float) for photo in photos)
    got = np.asarray(half, float)
    assert np.abs(got[:, :40] - left[:, :40]).mean() < 12  # colours near the seam run into each other
    assert np.abs(got[:, -40:] - right[:, -40:]).mean() < 12
    with pytest.raises(ValueError, match="all black or all white"):
        Blend()(ask(photos, method="composite", shape="mask", mask=PIL.Image.new("L", (160, 128), 0)))
