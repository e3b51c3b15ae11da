"""Whole checkpoints: what is saved in either form loads again bit for bit, and what is wrong ends in one sentence."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.pipelines.save import save_diffusers
from ppdiffusers.weights.ema import flatten
from ppdiffusers.weights.file import open_tensors
from ppdiffusers.weights.load import iter_load, load, load_part
from ppdiffusers.weights.save import named, save_controlnet_ldm, save_ldm
from tests.ppdiffusers.weights.conftest import FAMILIES, bits, checkpoint, randomise, same, same_parts


def test_both_forms_load_again_bit_for_bit(tmp_path, parts):
    save_ldm(parts, tmp_path / "one.safetensors")
    save_diffusers(parts, tmp_path / "many")
    for source in (tmp_path / "one.safetensors", tmp_path / "many"):
        again = load(source)
        assert (again.family, again.prediction_type) == (parts.family, parts.prediction_type)
        assert same_parts(parts, again)
    # and from there into the other form
    save_ldm(load(tmp_path / "many"), tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_survives_both_ways(tmp_path, dtype):
    parts = checkpoint("sd15", dtype)
    save_ldm(parts, tmp_path / "one.safetensors")
    assert set(open_tensors(tmp_path / "one.safetensors").dtypes.values()) == {"F16" if dtype == "float16" else "BF16"}
    assert same_parts(parts, load(tmp_path / "one.safetensors", dtype))
    save_diffusers(load(tmp_path / "one.safetensors", "float32"), tmp_path / "many", dtype)
    assert same_parts(parts, load(tmp_path / "many", dtype))


def test_progress_counts_every_tensor(tmp_path, sd15):
    save_ldm(sd15, tmp_path / "one.safetensors")
    events = list(iter_load(tmp_path / "one.safetensors"))
    total = sum(len(bits(model)) for model in named(sd15).values())
    assert [(done, of) for done, of, _ in events] == [(i + 1, total) for i in range(total)]
    assert events[0][2].startswith("unet.")


def test_tokenizers_and_scheduler_of_a_folder(tmp_path, parts):
    save_diffusers(parts, tmp_path / "many")
    again = load(tmp_path / "many")
    assert len(again.tokenizers) == len(again.text_encoders)
    assert all(path is not None and (path / "vocab.json").is_file() for path in again.tokenizers)
    assert again.scheduler_config["beta_schedule"] == "scaled_linear"
    save_diffusers(again, tmp_path / "copy")
    for path in (tmp_path / "many").rglob("*.json"):
        assert (tmp_path / "copy" / path.relative_to(tmp_path / "many")).read_bytes() == path.read_bytes()


def edited(tmp_path, sd15, change):
    save_ldm(sd15, tmp_path / "whole.safetensors")
    tensors = load_file(tmp_path / "whole.safetensors")
    metadata = open_tensors(tmp_path / "whole.safetensors").metadata
    change(tensors)
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    return tmp_path / "x.safetensors"


UNET = "model.diffusion_model."


def test_averaged_weights(tmp_path, sd15):
    def add(tensors):
        for key in [key for key in tensors if key.startswith(UNET)]:
            tensors[flatten(key)] = tensors[key] + 1
        tensors["model_ema.decay"] = np.float32([0.5])

    path = edited(tmp_path, sd15, add)
    assert same_parts(sd15, load(path))
    assert load(path).ignored["averages (EMA), not asked for"] > 100
    averaged = load(path, use_ema=True)
    ours, theirs = bits(sd15.unet), bits(averaged.unet)
    assert all(np.array_equal(ours[key] + 1, theirs[key]) for key in ours)
    assert same(sd15.vae, averaged.vae)


def test_averaged_weights_alone(tmp_path, sd15):
    def move(tensors):
        for key in [key for key in tensors if key.startswith(UNET)]:
            tensors[flatten(key)] = tensors.pop(key)

    assert same_parts(sd15, load(edited(tmp_path, sd15, move)))


def test_harmless_keys_are_counted(tmp_path, sd15):
    extra = {
        "alphas_cumprod": np.zeros(3, np.float32),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(77)[None],
    }
    assert load(edited(tmp_path, sd15, lambda t: t.update(extra))).ignored == {
        "schedule": 1,
        "positions, they only count": 1,
    }


def test_unknown_keys_are_refused_unless_allowed(tmp_path, sd15):
    path = edited(tmp_path, sd15, lambda t: t.update({"model.diffusion_model.wings.weight": np.zeros(1)}))
    with pytest.raises(ValueError, match=r"1 keys belong to no part of this model, first model.*wings"):
        load(path)
    assert same_parts(sd15, load(path, allow_unknown=True))


def test_missing_keys_are_named_before_anything_is_read(tmp_path, sd15):
    key = "first_stage_model.decoder.norm_out.bias"
    path = edited(tmp_path, sd15, lambda t: t.pop(key))
    with pytest.raises(ValueError, match=f"1 parameters are missing, first {key}"):
        next(iter_load(path))


def test_bad_numbers_are_named(tmp_path, sd15):
    key = "first_stage_model.decoder.norm_out.bias"
    path = edited(tmp_path, sd15, lambda t: t.update({key: np.full_like(t[key], np.nan)}))
    with pytest.raises(ValueError, match=f"{key}.*NaN"):
        load(path)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("first_stage_model.", "without vae"),
        ("cond_stage_model.", "without text_encoder"),
        (UNET, "not a whole checkpoint"),
    ],
)
def test_missing_parts_are_named(tmp_path, sd15, prefix, message):
    def drop(tensors):
        for key in [key for key in tensors if key.startswith(prefix)]:
            del tensors[key]

    with pytest.raises(ValueError, match=message):
        load(edited(tmp_path, sd15, drop))


def test_what_it_predicts_can_be_said(tmp_path, sd15):
    path = tmp_path / "one.safetensors"
    save_ldm(sd15, path)
    assert load(path, prediction_type="v_prediction").prediction_type == "v"
    path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert load(path).prediction_type == "v"
    with pytest.raises(ValueError, match="prediction type 'w' is not supported"):
        load(path, prediction_type="w")


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_single_parts(tmp_path, sd15, name):
    save_ldm(sd15, tmp_path / "one.safetensors")
    save_diffusers(sd15, tmp_path / "many")
    model = named(sd15)[name]
    file = tmp_path / "many" / name / f"{model.WEIGHTS_NAME}.safetensors"
    sources = [tmp_path / "one.safetensors", tmp_path / "many", tmp_path / "many" / name]
    for source in [*sources, file] if name == "vae" else sources:
        assert same(model, load_part(source, name))
    with pytest.raises(ValueError, match="has no controlnet: it is a checkpoint"):
        load_part(tmp_path / "one.safetensors", "controlnet")


def test_a_vae_takes_the_scale_of_the_family_it_is_for(tmp_path):
    parts = checkpoint("sdxl-base")
    parts.vae.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    assert load_part(file, "vae").config.scaling_factor == 0.18215
    assert load_part(file, "vae", family="sdxl-base").config.scaling_factor == 0.13025


@pytest.mark.parametrize("family", ["sd15", "sdxl-base"])
def test_controlnets_in_both_forms(tmp_path, family):
    net = ControlNetModel(FAMILIES[family][0].controlnet)
    randomise(net, family)
    save_controlnet_ldm(net, tmp_path / "control.safetensors")
    net.save_pretrained(tmp_path / "folder")
    for source in (tmp_path / "control.safetensors", tmp_path / "folder"):
        again = load_part(source, "controlnet")
        assert same(net, again)
        assert again.config == net.config


# --- folders ----------------------------------------------------------------------------------------------------------


def folder(tmp_path, sd15):
    save_diffusers(sd15, tmp_path / "many")
    return tmp_path / "many"


def test_a_folder_that_is_no_pipeline(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        load(tmp_path)
    with pytest.raises(ValueError, match="there is no file or folder"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "gone", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json"]
)
def test_a_folder_with_a_file_missing(tmp_path, sd15, gone):
    path = folder(tmp_path, sd15)
    (path / gone).unlink()
    with pytest.raises(ValueError, match=gone.partition("/")[0]):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ("[]", "not a JSON object"), ('{"_class_name": "FluxPipeline"}', "is a FluxPipeline")],
)
def test_a_folder_with_junk_for_an_index(tmp_path, sd15, content, message):
    path = folder(tmp_path, sd15)
    (path / "model_index.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_a_config_that_does_not_fit_its_weights(tmp_path, sd15):
    path = folder(tmp_path, sd15)
    config = json.loads((path / "unet" / "config.json").read_text())
    (path / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 16}))
    with pytest.raises(ValueError, match=r"unet/diffusion_pytorch_model\.safetensors does not fit.*wrong shape"):
        load(path)


def test_files_are_given_back_when_loading_is_stopped(tmp_path, sd15):
    path = folder(tmp_path, sd15)
    work = iter_load(path)
    next(work)
    work.close()
    shutil.rmtree(path)
    assert not path.exists()
