"""Codes as modules: the same as the library's, still valid when they follow a picture, and read by all readers."""

import numpy as np
import pytest
import qrcode

from mix.appflow.artqr import matrix, scan
from mix.appflow.artqr.adapt import Wish, adapted, agreement
from mix.appflow.artqr.draw import SHAPES, Layout, control, picture
from mix.appflow.artqr.matrix import KINDS, make

LINK = "https://example.com/menu"


@pytest.mark.parametrize("version", [1, 2, 6, 7, 14, 27, 40])
@pytest.mark.parametrize("level", "LMQH")
def test_modules_are_those_of_the_library(version, level):
    mask = (version + ord(level)) % 8
    theirs = qrcode.QRCode(version=version, error_correction=matrix.LEVELS[level], mask_pattern=mask, border=0)
    theirs.add_data("hello")
    theirs.make(fit=False)
    assert (make("hello", level, version, mask).modules == np.array(theirs.modules, bool)).all()


def test_every_module_has_a_use_and_every_bit_a_place():
    code = make(LINK, "Q", 7)
    assert len(code.grid.places) == (code.grid.kinds == KINDS.index("data")).sum()
    assert sum(len(b.data) + len(b.check) for b in code.blocks) == len(code.codewords)
    assert code.modules[:7, :7].sum() == 33  # a finder pattern has 33 dark modules


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make("x", "Z"), "error correction"),
        (lambda: make("x" * 100, "H", 2), "too small"),
        (lambda: make("x", mask=9), "0 to 7"),
        (lambda: make("x" * 3000), "too long"),
    ],
)
def test_impossible_codes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


TEXTS = [LINK, "https://例え.jp/頁?検索=はい", "Straße, café", "WIFI:T:WPA;S:a;P:b\\;c;;", "0123456789012345"]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_written_is_what_readers_read(text):
    code = make(text, version=4)
    report = scan.scan(picture(code, Layout.fit((410, 410), code.n, 4)), text, ())
    assert report.ok, report.failures()


@pytest.mark.parametrize("version", [4, 9])
def test_a_code_that_follows_a_picture_still_says_the_same(version):
    code = make(LINK, "M", version)
    rows, columns = np.indices(code.modules.shape)
    away = np.hypot(rows - code.n / 2, columns - code.n / 2) - code.n / 3
    wish = Wish(away < 0, np.abs(away) + 0.1)
    plain, best = adapted(code, wish, padding=False), adapted(code, wish)
    assert agreement(code, wish) - 1e-9 <= agreement(plain, wish) < agreement(best, wish)
    assert agreement(best, wish) > 0.7
    data = [c for block in code.blocks for c in block.data]
    rewritten = matrix.written([best.codewords[i] for i in data], version, "M")
    assert rewritten == best.codewords  # Reed-Solomon still holds
    assert scan.scan(picture(best, Layout.fit((560, 560), code.n, 4)), LINK, ()).ok


@pytest.mark.parametrize("text", TEXTS)
def test_free_padding_is_read_over_in_every_script(text):
    code = make(text, "M", 5)
    rng = np.random.default_rng(1)
    best = adapted(code, Wish(rng.random((code.n, code.n)) < 0.4, rng.random((code.n, code.n))))
    read = scan.scan(picture(best, Layout.fit((450, 450), code.n, 4)), text, ()).read
    assert all(read[name]["1x"] for name in read if name != "OpenCV"), read  # that one's detector has its days


def test_shapes_and_the_control_picture():
    code = make(LINK, "M", 3)
    layout = Layout.fit((400, 300), code.n, 2, scale=0.9, place=(1, 0.5))
    assert layout.left + code.n * layout.module == pytest.approx(400 - 2 * layout.module)
    for shape in SHAPES:
        shown = np.asarray(control(code, layout, shape))[..., 0]
        assert shown[0, 0] == 128  # as you like, beyond the quiet zone
        sampled = layout.sample(shown.astype(np.float32) / 255, 0.1) < 0.5
        assert (sampled == code.modules).all()
    with pytest.raises(ValueError, match="shorter side"):
        Layout.fit((100, 100), 21, scale=0.1)


def test_wrong_modules_are_counted_against_the_budget():
    code = make(LINK, "M", 3)
    dark = code.modules.copy()
    assert scan.judge(dark, code).spare == 1
    row, column = code.grid.places[0]
    dark[row, column] ^= True
    dark[0, 0] ^= True
    found = scan.judge(dark, code)
    assert (found.wrong["data"], found.wrong["finder"]) == (1, 1)
    assert found.spare == pytest.approx(1 - 1 / code.blocks[0].corrects)
