"""`train` from the command line: a LoRA on ten pictures, its events, its errors, and going on."""

import json

import pytest

from app.cli import main
from ppdiffusers.pipelines.save import save_diffusers
from ppdiffusers.weights.load import LoadedParts
from ppdiffusers.weights.lora import read_lora
from tests.ppdiffusers.pipelines.conftest import tiny
from tests.ppdiffusers.training.conftest import COLOURS, picture


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with ten pictures of two shapes and a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "pictures").mkdir()
    for i in range(10):
        picture(COLOURS[i % 4], [(72, 64), (128, 64)][i % 2]).save(folder / "pictures" / f"a square-{i}.png")
    (folder / "pictures" / "broken.png").write_text("no picture")
    bundle = tiny("sd15")
    encoders = [encoder.model for encoder in bundle.text.encoders]
    parts = LoadedParts("sd15", bundle.unet, bundle.vae, encoders, [None], {}, "eps", folder)
    save_diffusers(parts, folder / "model")
    return folder


def words(place, *more):
    files = ["--images", f"{place}/pictures", "--model", f"{place}/model", "--out", f"{place}/style.safetensors"]
    return ["train", "lora", *files, "--resolution", "64", "--rank", "2", "--dtype", "float32", *more]


def test_a_lora_is_trained_on_ten_pictures_and_told_as_json(place, capsys):
    assert main(words(place, "--steps", "2", "--json", "--run", f"{place}/json")) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "note"
    assert "broken.png can't be read" in events[0]["text"]
    assert kinds.count("progress") == 10 + 2  # pictures; the caption and the empty one
    assert [event["step"] for event in events if event["event"] == "trainstep"] == [1, 2]
    assert (events[-1]["kind"], events[-1]["final"]) == ("result", True)
    assert read_lora(place / "style.safetensors").metadata["ss_num_train_images"] == "10"
    log = (place / "json" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]


def test_people_see_a_bar_and_the_file(place, capsys):
    assert main(words(place, "--steps", "1")) == 0
    out = capsys.readouterr()
    assert out.out.strip() == f"{place}/style.safetensors"
    assert "training: 1/1" in out.err
    assert (place / "style.safetensors.run" / "state" / "step-000001.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--images", "/nowhere"], "there is no folder"),
        (["--model", "/nowhere"], "there is no file or folder"),
        (["--out", "style.ckpt"], "written as .safetensors"),
        (["--resolution", "100", "--bucket-step", "64"], "must be a multiple of 64"),
        (["--targets", "nothing"], "no layer's name matches"),
        (["--steps", "0"], "at least 1 step"),
    ],
)
def test_what_can_not_work_is_said_in_a_sentence(place, change, told, capsys):
    assert main(words(place, *change)) == 1
    assert told in capsys.readouterr().err
