"""`generate` as a person calls it: any format of file, settings inside the picture, one clear error a mistake."""

import errno
import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file, save_file

from app.cli import main
from ppdiffusers.models.layers import Linear
from ppdiffusers.pipelines.infotext import extract, parse
from ppdiffusers.pipelines.save import save_diffusers
from ppdiffusers.weights.load import LoadedParts
from ppdiffusers.weights.save import save_ldm
from tests.ppdiffusers.pipelines.conftest import tiny


def parts(family):
    bundle = tiny(family)
    encoders = [e.model for e in bundle.text.encoders]
    return LoadedParts(family, bundle.unet, bundle.vae, encoders, [None] * len(encoders), {}, "eps", Path(family))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny checkpoint as a folder and as a single file, and an SDXL one."""
    folder = tmp_path_factory.mktemp("models")
    save_diffusers(parts("sd15"), folder / "sd15")
    save_ldm(parts("sd15"), folder / "sd15.safetensors")
    save_ldm(parts("sdxl-base"), folder / "xl.safetensors")
    return folder


@pytest.fixture
def generate(models, tmp_path, capsys, monkeypatch):
    """Run the command; gives (exit code, standard output, standard error)."""
    monkeypatch.setattr("app.cli.generate.hash_cache", lambda: models / "hashes.json")

    def run(*words, model="sd15.safetensors", out="out.png"):
        sized = () if "--width" in words else ("--width", "64", "--height", "64")
        fixed = ("--model", str(models / model), "--steps", "2", "--seed", "5", "--dtype", "float32", *sized)
        code = main(["generate", *fixed, "--out", str(tmp_path / out), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int16)


@pytest.mark.parametrize("model", ["sd15", "sd15.safetensors", "xl.safetensors"])
def test_a_checkpoint_in_any_form_makes_a_picture_that_tells_its_settings(generate, tmp_path, model):
    code, out, _ = generate("--prompt", "a (red:1.2) fox", "--negative-prompt", "blurry", model=model)
    assert (code, out.strip()) == (0, str(tmp_path / "out.png"))
    told = parse(extract(tmp_path / "out.png"))
    assert (told.prompt, told.negative_prompt) == ("a (red:1.2) fox", "blurry")
    assert {"Steps": "2", "Seed": "5", "Size": "64x64", "Model": Path(model).stem}.items() <= told.values.items()


def test_folder_and_single_file_give_the_same_picture(generate, tmp_path):
    for model, out in (("sd15", "a.png"), ("sd15.safetensors", "b.png")):
        assert generate("--prompt", "a fox", model=model, out=out)[0] == 0
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()


@pytest.mark.parametrize("kind", [".jpg", ".webp"])
def test_other_formats_carry_the_settings_too(generate, tmp_path, kind):
    assert generate("--prompt", "ein Fuchs, 狐狸", out=f"out{kind}")[0] == 0
    assert parse(extract(tmp_path / f"out{kind}")).prompt == "ein Fuchs, 狐狸"


def test_settings_come_back_out_of_a_picture(generate, tmp_path):
    assert generate("--prompt", "a fox", "--sampler", "Euler a", "--cfg-scale", "4", out="a.png")[0] == 0
    assert generate("--from-picture", str(tmp_path / "a.png"), out="b.png")[0] == 0
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()


def test_what_the_user_says_comes_before_a_pictures_settings(generate, tmp_path):
    assert generate("--prompt", "a fox", "--cfg-scale", "4", "--rng", "gpu", out="a.png")[0] == 0
    assert generate("--from-picture", str(tmp_path / "a.png"), "--cfg-scale", "5", out="b.png")[0] == 0
    told = parse(extract(tmp_path / "b.png"))
    assert (told.prompt, told.values["CFG scale"], told.values["Seed"]) == ("a fox", "5", "5")
    assert "RNG" not in told.values


def test_the_model_is_told_by_its_hash(generate, models, tmp_path):
    assert generate("--prompt", "a fox")[0] == 0
    digest = hashlib.sha256((models / "sd15.safetensors").read_bytes()).hexdigest()
    assert parse(extract(tmp_path / "out.png")).values["Model hash"] == digest[:10]


def test_a_wrong_option_is_told_before_the_model_is_read(generate):
    code, _, err = generate("--prompt", "x", "--sampler", "Oiler", model="nowhere.safetensors")
    assert code == 1
    assert "no sampler is called 'Oiler'" in err


def test_several_pictures_are_numbered_and_json_is_one_event_a_line(generate):
    code, out, err = generate("--prompt", "a fox", "--count", "3", "--batch-size", "2", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    images = [e for e in events if e["event"] == "image"]
    assert (code, err) == (0, "")
    assert [(Path(e["path"]).name, e["seed"]) for e in images] == [("out-1.png", 5), ("out-2.png", 6), ("out-3.png", 7)]
    assert [e["step"] for e in events if e["event"] == "progress"][-1] == next(e["of"] for e in events if "of" in e)


def test_a_picture_to_start_from_a_mask_and_a_second_pass(generate, tmp_path):
    PIL.Image.effect_noise((80, 48), 60).convert("RGB").save(tmp_path / "init.png")
    mask = PIL.Image.new("L", (80, 48))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "mask.png")
    init = ("--init", str(tmp_path / "init.png"))
    assert generate("--prompt", "x", *init, "--hires", "1.5")[0] == 0
    assert pixels(tmp_path / "out.png").shape == (96, 96, 3)
    masked = (*init, "--mask", str(tmp_path / "mask.png"), "--only-masked", "--mask-blur", "0", "--padding", "4")
    assert generate("--prompt", "x", *masked)[0] == 0
    changed = (pixels(tmp_path / "out.png") != pixels(tmp_path / "init.png")).any(axis=-1)
    assert changed.any()
    assert not changed[:, 40:].any()


def lora(path, width=32):
    tensors = {}
    for name, layer in tiny("sd15").unet.named_sublayers():
        if isinstance(layer, Linear) and "attn2.to_k" in name:
            key = "lora_unet_" + name.replace(".", "_")
            tensors[f"{key}.lora_down.weight"] = np.ones((2, width), np.float32)
            tensors[f"{key}.lora_up.weight"] = np.ones((layer.weight.shape[1], 2), np.float32)
    save_file(tensors, path)
    return path


def test_loras_by_option_and_by_tag(generate, tmp_path):
    file = lora(tmp_path / "style.safetensors")
    code, _, err = generate("--prompt", "a fox", "--lora", f"{file}:0.7", out="a.png")
    assert code == 0
    assert "style: LoRA for a model with cross attention 32, rank 2" in err
    assert generate("--prompt", "a fox <lora:style:0.7>", "--lora-folder", str(tmp_path), out="b.png")[0] == 0
    assert np.abs(pixels(tmp_path / "a.png") - pixels(tmp_path / "b.png")).max() <= 1
    code, _, err = generate("--prompt", "a fox <lora:nowhere:1>")
    assert code == 0
    assert "LoRA 'nowhere' was not found" in err


# --- hostile input ---


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/mixstudio-was-here",)


def wrong_files(folder, models):
    """Files that are no checkpoints, each with the sentence that tells why."""
    whole = (models / "sd15.safetensors").read_bytes()
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html>login required</html>")
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    PIL.Image.new("RGB", (8, 8)).save(folder / "picture.png")
    (folder / "picture.png").rename(folder / "picture.safetensors")
    with zipfile.ZipFile(folder / "evil.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": Evil()}))
    tensors = load_file(models / "sd15.safetensors")
    key = "model.diffusion_model.out.2.bias"
    save_file(tensors | {key: np.full_like(tensors[key], np.nan)}, folder / "nan.safetensors")
    save_file({k: v for k, v in tensors.items() if k != key}, folder / "missing.safetensors")
    save_file({"some.weight": np.ones((3, 3), np.float32)}, folder / "stranger.safetensors")


@pytest.mark.parametrize(("name", "sentence"), [
    ("page.safetensors", "page.safetensors"),
    ("cut.safetensors", "cut.safetensors"),
    ("empty.safetensors", "empty.safetensors"),
    ("picture.safetensors", "picture.safetensors"),
    ("evil.ckpt", "system"),
    ("nan.safetensors", "NaN"),
    ("missing.safetensors", "missing"),
    ("stranger.safetensors", "stranger.safetensors"),
    ("nowhere.safetensors", "no file or folder"),
])  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_refused_with_one_sentence(models, generate, tmp_path, name, sentence):
    wrong_files(tmp_path, models)
    code, out, err = generate("--prompt", "x", model=str(tmp_path / name))
    said = err.strip().splitlines()[-1]
    assert (code, out) == (1, "")
    assert sentence in said
    assert "Traceback" not in err
    assert not Path("/tmp/mixstudio-was-here").exists()
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(("words", "sentence"), [
    (("--width", "65", "--height", "64"), "width must be a multiple of 8"),
    (("--width", "-64", "--height", "64"), "width must be a multiple of 8"),
    (("--steps", "0"), "steps must be between 1"),
    (("--sampler", "Oiler"), "Euler"),
    (("--init", "nowhere.png"), "no picture nowhere.png"),
    (("--from-picture", "plain.png"), "no generation settings"),
    (("--mask", "plain.png"), "needs the picture"),
    (("--control", "sd15,plain.png,heavy"), "must be numbers"),
    (("--lora", "xl-lora.safetensors"), "is a LoRA for SD 1.5"),
    (("--clip-skip", "0"), "clip skip"),
])  # fmt: skip
def test_a_wrong_option_is_refused_with_one_sentence(generate, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    PIL.Image.new("RGB", (64, 64)).save("plain.png")
    lora(tmp_path / "xl-lora.safetensors", width=768)
    code, out, err = generate("--prompt", "x", *words)
    assert (code, out) == (1, "")
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("out", "sentence"), [("out.gif", "no picture format"), ("nowhere/out.png", "does not exist")])
def test_a_place_that_cannot_be_written_is_told_before_the_work(generate, out, sentence):
    code, _, err = generate("--prompt", "x", out=out)
    assert code == 1
    assert sentence in err


def test_a_full_disk_leaves_nothing_half_written(generate, tmp_path, monkeypatch):
    (tmp_path / "out.png").write_bytes(b"the old picture")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = generate("--prompt", "x")
    assert code == 1
    assert "No space left on device; nothing was left behind" in err
    assert (tmp_path / "out.png").read_bytes() == b"the old picture"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize("prompt", ["", "word " * 3000, "((((]", "[[a:b:nan]|", "\u202e\x00"])
def test_any_text_is_a_prompt(generate, prompt):
    assert generate("--prompt", prompt, "--steps", "1")[0] == 0


def test_choices_in_a_prompt(generate, tmp_path):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "colour.txt").write_text("red\ngreen\n")
    words = ("--prompt", "a __colour__ {fox|owl}", "--wildcards", str(tmp_path / "cards"), "--count", "4", "--json")
    code, out, _ = generate(*words)
    assert code == 0
    told = [json.loads(line)["infotext"].splitlines()[0] for line in out.splitlines() if '"image"' in line]
    assert len(told) == 4
    assert set(told) <= {f"a {colour} {animal}" for colour in ("red", "green") for animal in ("fox", "owl")}
    assert generate("--prompt", "a __nothing__")[0] == 1
