"""Folders of pictures: where captions come from, what is refused and how that is told; sizes, cuts and order."""

import json
import math

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppdiffusers.training.dataset import counts, named, scan
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.pictures import Order, bucket_of, buckets, cut, fitted, open_rgb, to_array, to_image
from tests.ppdiffusers.training.conftest import picture


def test_a_list_counts_more_than_a_file_beside_and_that_more_than_the_name(tmp_path):
    for name in ("a red_fox-02", "b", "c"):
        picture((200, 0, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.txt").write_text("from the\nfile beside\n")
    (tmp_path / "c.txt").write_text("not this")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "c.png", "text": "from the list"}) + "\n")
    found = scan(tmp_path, trigger="mystyle")
    assert [example.caption for example in found.examples] == [
        "mystyle, a red fox",
        "mystyle, from the file beside",
        "mystyle, from the list",
    ]
    assert not found.problems


@pytest.mark.parametrize(
    ("stem", "caption"), [("red_fox-02", "red fox"), ("IMG.0001", "IMG"), ("7", "7"), ("a b (3)", "a b")]
)
def test_names_are_words(stem, caption):
    assert named(stem) == caption


def test_every_file_that_is_left_out_is_told_in_a_sentence(tmp_path):
    picture((0, 200, 0)).save(tmp_path / "good.png")
    picture((0, 200, 0), (20, 20)).save(tmp_path / "small.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "captions.jsonl").write_text('{"file": "gone.png", "caption": "x"}\n{"file": 1}\nnot json\n')
    found = scan(tmp_path)
    assert [example.path.name for example in found.examples] == ["good.png"]
    told = "\n".join(found.problems)
    for part in ("small.png is too small (20x20", "broken.jpg can't be read", "cut.png can't be read"):
        assert part in told
    for part in (
        "gone.png is listed but is not there",
        "line 2 of captions.jsonl needs",
        "line 3 of captions.jsonl is",
    ):
        assert part in told


def test_a_folder_with_nothing_says_so(tmp_path):
    with pytest.raises(ValueError, match="no picture to train on"):
        scan(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        scan(tmp_path / "nowhere")


def test_turned_and_transparent_pictures_are_seen_as_shown(tmp_path):
    turned = PIL.Image.new("RGB", (100, 70), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    PIL.Image.new("RGBA", (80, 80), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    sizes = {example.path.name: example.size for example in scan(tmp_path).examples}
    assert sizes["turned.jpg"] == (70, 100) == open_rgb(tmp_path / "turned.jpg").size
    assert np.asarray(open_rgb(tmp_path / "clear.png")).min() == 255


def test_tags_are_counted(dataset):
    assert dict(counts(dataset)) == {
        "a red square": 1,
        "a green square": 1,
        "a blue square": 1,
        "flat": 1,
        "a white square": 1,
    }


@given(resolution=st.integers(1, 20).map(lambda n: 64 * n))
def test_buckets_have_about_one_area_and_fit_the_network(resolution):
    found = buckets(resolution)
    assert (resolution, resolution) in found
    assert all((height, width) in found for width, height in found)
    for width, height in found:
        assert width % 64 == height % 64 == 0
        assert width * height <= resolution**2
        assert 0.5 <= width / height <= 2


def test_a_picture_goes_to_the_bucket_of_its_shape():
    among = buckets(512)
    assert bucket_of((1000, 1000), among) == (512, 512)
    wide, high = bucket_of((1600, 900), among), bucket_of((900, 1600), among)
    assert wide == high[::-1]
    assert abs(math.log(wide[0] / wide[1]) - math.log(16 / 9)) < 0.15


@given(
    size=st.tuples(st.integers(16, 900), st.integers(16, 900)),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_cut_lies_inside_what_was_scaled(size, where):
    (width, height), (left, top) = cut(size, (128, 64), where)
    assert width >= 128
    assert height >= 64
    assert 0 <= left <= width - 128
    assert 0 <= top <= height - 64


def test_pictures_survive_the_way_to_numbers_and_back(folder):
    image = fitted(folder / "0.png", (64, 64))
    assert np.array_equal(np.asarray(to_image(to_array(image))), np.asarray(image))


@given(groups=st.lists(st.integers(0, 3), min_size=1, max_size=20), batch=st.integers(1, 5), seed=st.integers(0, 9))
def test_every_epoch_has_each_example_once_in_batches_of_one_size(groups, batch, seed):
    sizes = [(64 * (g + 1), 64) for g in groups]
    order = Order(sizes, batch, Draws(seed))
    for epoch in range(2):
        batches = [order(epoch * order.per_epoch + i) for i in range(order.per_epoch)]
        assert sorted(i for one in batches for i in one) == list(range(len(sizes)))
        assert all(len({sizes[i] for i in one}) == 1 and len(one) <= batch for one in batches)
    assert Order(sizes, batch, Draws(seed))(order.per_epoch) == order(order.per_epoch)
