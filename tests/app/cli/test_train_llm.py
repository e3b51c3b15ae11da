"""`train llm` from the command line: events as JSON and for people, options over a config file, errors as sentences."""

import importlib.util
import json
from pathlib import Path

import pytest

from app.cli import main

spec = importlib.util.spec_from_file_location(
    "train_cli_small", Path(__file__).parents[2] / "mix" / "train" / "small.py"
)
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)


@pytest.fixture
def place(tmp_path):
    small.write(tmp_path / "model")
    small.data(tmp_path)
    return tmp_path


def words(place, *more):
    files = ["--model", f"{place}/model", "--data", f"{place}/data.jsonl", "--out", f"{place}/out"]
    return ["train", "llm", *files, "--dtype", "float32", "--tokens", "192", *more]


def test_a_lora_is_trained_and_told_as_json(place, capsys):
    how = ["--lora", "r=2", "alpha=4", "target_modules=all-linear", "--held-out", "3", "--prompt", "red0"]
    assert main(words(place, *how, "--steps", "2", "--json")) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["step"] for e in events if e["event"] == "trainstep"] == [1, 2]
    assert [e["answers"][0][0] for e in events if e["event"] == "evaluated"] == ["red0"]
    assert (events[-1]["kind"], events[-1]["final"]) == ("result", True)
    config = json.loads((place / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 4, "all-linear")


@pytest.mark.parametrize("how", [["--prefix", "3"], ["--full", "--recompute", "--no-pack", "--batch", "2"]])
def test_people_see_a_bar_and_the_folder(place, how, capsys):
    assert main(words(place, *how, "--steps", "1")) == 0
    told = capsys.readouterr()
    assert told.out.strip() == f"{place}/out"
    assert "training: 1/1" in told.err
    assert "tokens/s" in told.err


def test_options_count_more_than_the_config_file(place, capsys):
    settings = small.config(place, steps=1, lora={"r": 2}).to_dict()
    (place / "config.json").write_text(json.dumps(settings))
    assert main(["train", "llm", "--config", f"{place}/config.json", "--steps", "2", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["of"] for e in lines if e["event"] == "trainstep"] == [2, 2]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "/nowhere"], "no folder"),
        (["--data", "/nowhere"], "no file"),
        (["--lora", "rank=3"], "lora.rank"),
        (["--lora", "r"], "NAME=VALUE"),
        (["--full", "--dtype", "int8"], "train a LoRA"),
        (["--config", "/nowhere"], "can't be read"),
    ],
)
def test_what_can_not_work_is_said_in_a_sentence(place, more, said, capsys):
    assert main(words(place, "--steps", "1", *more)) == 1
    assert said in capsys.readouterr().err


def test_what_is_missing_is_asked_for(capsys):
    assert main(["train", "llm", "--model", "x"]) == 1
    assert "--data" in capsys.readouterr().err
