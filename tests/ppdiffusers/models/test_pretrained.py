"""Folders: what is saved loads again, bit for bit, and what does not fit is named."""

import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from ppdiffusers.models.clip import CLIPTextModel, CLIPTextModelWithProjection
from ppdiffusers.models.config import TINY_SD15, TINY_SDXL
from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.models.layers import pack
from ppdiffusers.models.unet import UNet2DConditionModel
from ppdiffusers.models.vae import AutoencoderKL
from tests.ppdiffusers.models.conftest import fill, torch_shapes

MODELS = {
    "unet": (UNet2DConditionModel, TINY_SD15.unet),
    "controlnet": (ControlNetModel, TINY_SD15.controlnet),
    "vae": (AutoencoderKL, TINY_SD15.vae),
    "text": (CLIPTextModel, TINY_SD15.text_encoder),
    "text_2": (CLIPTextModelWithProjection, TINY_SDXL.text_encoder_2),
}


def same_bits(one, two):
    ours, theirs = one.state_dict(), two.state_dict()
    return list(ours) == list(theirs) and all(np.array_equal(ours[k].numpy(), theirs[k].numpy()) for k in ours)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_loaded(tmp_path, name):
    kind, config = MODELS[name]
    model = fill(kind.from_config(config))
    model.save_pretrained(tmp_path / "part")
    again = kind.from_pretrained(tmp_path, subfolder="part")
    assert again.config == config
    assert same_bits(model, again)
    assert all(not p.stop_gradient for p in again.parameters())


def test_the_file_has_torchs_layout(tmp_path):
    model = fill(CLIPTextModelWithProjection(TINY_SDXL.text_encoder_2))
    model.save_pretrained(tmp_path)
    file = load_file(tmp_path / "model.safetensors")
    assert {k: v.shape for k, v in file.items()} == {k: tuple(s) for k, s in torch_shapes(model).items()}
    assert np.array_equal(file["text_projection.weight"].T, model.text_projection.weight.numpy())
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["CLIPTextModelWithProjection"]


def test_dtype_casts_on_the_way(tmp_path):
    model = fill(UNet2DConditionModel(TINY_SD15.unet))
    model.save_pretrained(tmp_path)
    half = UNet2DConditionModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {paddle.bfloat16}
    half.save_pretrained(tmp_path / "half", variant="fp16")
    again = UNet2DConditionModel.from_pretrained(tmp_path / "half", dtype="bfloat16", variant="fp16")
    assert same_bits(half, again)


def test_a_packed_model_is_saved_as_it_was(tmp_path):
    model = fill(AutoencoderKL(TINY_SD15.vae))
    model.save_pretrained(tmp_path / "plain")
    pack(model)
    model.save_pretrained(tmp_path / "packed")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "packed" / name).read_bytes()


def test_old_attention_names_of_the_vae_are_read(tmp_path):
    model = fill(AutoencoderKL(TINY_SD15.vae))
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for key, value in load_file(path).items():
        for ours, theirs in old.items():
            key = key.replace(ours, theirs)
        renamed[key] = value
    save_file(renamed, path)
    assert any(".proj_attn." in key for key in renamed)
    assert same_bits(model, AutoencoderKL.from_pretrained(tmp_path))


def test_position_ids_and_a_missing_prefix_are_read(tmp_path):
    model = fill(CLIPTextModel(TINY_SD15.text_encoder))
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    bare = {key.removeprefix("text_model."): value for key, value in load_file(path).items()}
    save_file(bare | {"embeddings.position_ids": np.arange(77)[None]}, path)
    assert same_bits(model, CLIPTextModel.from_pretrained(tmp_path))


@pytest.mark.parametrize("change", ["are missing", "belong to no part", "have the wrong shape"])
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, change):
    model = fill(AutoencoderKL(TINY_SD15.vae))
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    file = load_file(path)
    value = file.pop("quant_conv.bias")
    if change == "belong to no part":
        file |= {"quant_conv.bias": value, "quant_conv.wings": value}
    if change == "have the wrong shape":
        file["quant_conv.bias"] = value[:3]
    save_file(file, path)
    with pytest.raises(ValueError, match=f"{change}.*quant_conv"):
        AutoencoderKL.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder"):
        AutoencoderKL.from_pretrained(tmp_path / "nothing")
