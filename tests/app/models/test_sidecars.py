"""Sidecars: WebUI users' files are read as they are, and nothing in them can do harm."""

import io
import json

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import save_file

from app.models.sidecars import beside, from_civitai, plain_text, preview_of, read_info, sidecars_of, write_info


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "style.v1.safetensors"
    save_file({"x": np.zeros(2, "float32")}, path, {"ss_output_name": "style", "modelspec.trigger_phrase": "in style"})
    return path


def png(size=(40, 30), kind="PNG") -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", size, "red").save(out, kind)
    return out.getvalue()


def test_without_sidecars_there_is_nothing(model):
    assert read_info(model) == {}
    assert preview_of(model) is None
    assert sidecars_of(model) == []


def test_what_the_webui_wrote_is_read(model, tmp_path):
    webui = {
        "description": "A",
        "sd version": "SD1",
        "activation text": "st",
        "preferred weight": 0.7,
        "notes": "n",
        "id": 3,
    }
    (tmp_path / "style.v1.json").write_text(json.dumps(webui))
    (tmp_path / "style.v1.preview.png").write_bytes(png())
    webui.pop("id")
    assert read_info(model) == webui
    assert preview_of(model).name == "style.v1.preview.png"


@pytest.mark.parametrize("name", ["style.v1.png", "style.v1.jpg", "style.v1.preview.webp", "style.v1.jpeg"])
def test_previews_by_all_their_names(model, tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert preview_of(model).name == name


def test_folders_have_sidecars_beside_them(tmp_path):
    folder = tmp_path / "sd.1.5"
    folder.mkdir()
    write_info(folder, description="base")
    assert read_info(folder) == {"description": "base"}
    assert (tmp_path / "sd.1.5.json").is_file()


def test_a_description_file_and_the_header_help_out(model, tmp_path):
    (tmp_path / "style.v1.txt").write_text("From a text file.\n")
    info = read_info(model, header=True)
    assert info["description"] == "From a text file."
    assert info["metadata"] == {"trainer's name": "style", "trigger words": "in style"}
    assert info["activation text"] == "in style"


EVIL = [
    "",
    "[1, 2]",
    "null",
    '"text"',
    "{",
    '{"a":' * 100_000,
    "\x00\xff",
    json.dumps({"activation text": {"a": 1}, "preferred weight": "NaN", "description": 5, "notes": None}),
    '{"preferred weight": NaN, "activation text": ["a"]}',
    '{"preferred weight": 1e999}',
    json.dumps({"model": "x", "trainedWords": "abc", "files": {"a": 1}, "modelId": "7", "id": -1, "description": 1}),
]


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize("ending", [".json", ".civitai.info"])
def test_evil_sidecars_say_nothing_and_do_nothing(model, ending, text):
    beside(model, ending).write_text(text)
    assert read_info(model) == {}


def test_long_and_odd_texts_are_cut(model):
    beside(model, ".json").write_text(
        json.dumps({"notes": "x" * 10**6, "description": "a\x1b[31mb\u202ec", "preferred weight": 1e300})
    )
    info = read_info(model)
    assert len(info["notes"]) == 20_000
    assert info["description"] == "a[31mbc"
    assert info["preferred weight"] == 10.0
    beside(model, ".json").write_text(json.dumps({"notes": "x" * 5 * 10**6}))
    assert read_info(model) == {}


def test_links_that_lead_out_are_not_followed(model, tmp_path):
    outside = tmp_path.parent / "outside.json"
    outside.write_text('{"notes": "secret"}')
    beside(model, ".json").symlink_to(outside)
    beside(model, ".preview.png").symlink_to("/etc/hostname")
    assert read_info(model) == {}
    assert preview_of(model) is None


def test_html_becomes_words():
    assert plain_text("<p>a&amp;b<br>c</p><script>x()</script><img src=x onerror=y>") == "a&b\nc"
    assert "<" not in plain_text("<p><<b>script>alert(1)<</b>/script>")
    assert plain_text("<script>never closed") == ""


def test_writing_keeps_what_others_wrote(model):
    beside(model, ".json").write_text('{"notes": "mine", "extra": 1}')
    info = write_info(model, activation_text="a, b", preferred_weight=0.5)
    assert info == {"notes": "mine", "activation text": "a, b", "preferred weight": 0.5}
    assert json.loads(beside(model, ".json").read_text())["extra"] == 1
    assert write_info(model, notes="") == {"activation text": "a, b", "preferred weight": 0.5}
    with pytest.raises(ValueError, match="nothing that is kept"):
        write_info(model, colour="red")
    with pytest.raises(ValueError, match="must be a number"):
        write_info(model, preferred_weight="0.5")


def test_a_persons_words_win_over_civitai(model):
    write_info(model, activation_text="mine")
    raw = {
        "id": 2,
        "modelId": 1,
        "trainedWords": ["theirs"],
        "baseModel": "SDXL 1.0",
        "model": {"name": "N", "type": "LORA"},
    }
    info = from_civitai(model, raw, png((2000, 1000), "JPEG"))
    assert info["activation text"] == "mine"
    assert info["sd version"] == "SDXL 1.0"
    assert info["civitai"] == {
        "model": 1,
        "version": 2,
        "name": "N",
        "type": "LORA",
        "base": "SDXL 1.0",
        "words": "theirs",
    } | {"url": "https://civitai.com/models/1?modelVersionId=2"}
    with PIL.Image.open(preview_of(model)) as image:
        assert image.size == (768, 384)
    assert {p.name for p in sidecars_of(model)} == {"style.v1.json", "style.v1.civitai.info", "style.v1.preview.png"}


@pytest.mark.parametrize("data", [b"", b"<svg onload=x>", b"\x89PNG\r\n\x1a\n", png()[:50]])
def test_previews_that_are_none_are_refused(model, data):
    with pytest.raises(ValueError, match="no sound picture"):
        write_info(model, preview=data)
    assert preview_of(model) is None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_no_preview(model):
    out = io.BytesIO()
    PIL.Image.new("1", (12_000, 12_000)).save(out, "PNG")
    with pytest.raises(ValueError, match=r"pixels|no sound picture"):
        write_info(model, preview=out.getvalue())
