"""CLIP's picture tower: configs, folders, and the same answers as transformers."""

import subprocess

import numpy as np
import paddle
import PIL.Image
import pytest

from ppdiffusers.models.clip import CLIPTextConfig
from ppdiffusers.models.clip_vision import CLIPConfig, CLIPModel, CLIPVisionConfig, normalised

TEXT = CLIPTextConfig(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=64,
    projection_dim=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    bos_token_id=98,
    eos_token_id=99,
)
VISION = CLIPVisionConfig(
    hidden_size=48,
    intermediate_size=64,
    projection_dim=16,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=32,
    patch_size=8,
)
CONFIG = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)


def inputs():
    draws = np.random.default_rng(0)
    ids = draws.integers(0, 98, (3, 12))
    ids[:, 7] = 99
    return ids, draws.standard_normal((3, 3, 32, 32)).astype("float32")


def test_a_config_survives_its_own_json():
    assert CLIPConfig.from_dict(CONFIG.to_dict()) == CONFIG


@pytest.mark.parametrize(
    ("change", "told"),
    [({"patch_size": 7}, "whole patches"), ({"hidden_act": "relu"}, "hidden_act='relu'")],
)
def test_unsupported_towers_are_refused_by_name(change, told):
    with pytest.raises(ValueError, match=told):
        CLIPVisionConfig.from_dict(VISION.to_dict() | change)
    with pytest.raises(ValueError, match="not of a whole CLIP"):
        CLIPConfig.from_dict(TEXT.to_dict())


def test_a_folder_gives_the_model_back_bit_for_bit(tmp_path):
    model = CLIPModel(CONFIG)
    model.save_pretrained(tmp_path)
    again = CLIPModel.from_pretrained(tmp_path)
    ids, pixels = (paddle.to_tensor(value) for value in inputs())
    one, other = model(ids, pixels), again(ids, pixels)
    assert np.array_equal(one.logits_per_image.numpy(), other.logits_per_image.numpy())
    assert np.array_equal(one.logits_per_image.numpy(), one.logits_per_text.numpy().T)
    names = set(model.state_dict())
    assert {"vision_model.pre_layrnorm.weight", "vision_model.embeddings.class_embedding", "logit_scale"} <= names
    assert not [name for name in names if name.startswith("_") or "tower" in name]


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match="32x32"):
        CLIPModel(CONFIG).get_image_features(paddle.zeros([1, 3, 64, 64]))


def test_a_picture_is_cut_to_its_middle():
    image = PIL.Image.new("RGB", (100, 50), "black")
    image.paste("white", (25, 0, 75, 50))
    seen = normalised(image, 32)
    assert seen.shape == (3, 32, 32)
    assert seen[:, :, 4:28].min() > 1.9  # (1 - mean) / deviation


REFERENCE = """
import sys
import numpy as np
import torch
from transformers import CLIPModel
folder, data = sys.argv[1:]
model, info = CLIPModel.from_pretrained(folder, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
z = np.load(data)
with torch.no_grad():
    out = model(input_ids=torch.tensor(z["ids"]), pixel_values=torch.tensor(z["pixels"]))
np.savez(data, logits=out.logits_per_image.numpy(), image=out.image_embeds.numpy(), text=out.text_embeds.numpy())
"""


@pytest.mark.parity
def test_transformers_loads_the_folder_and_says_the_same(tmp_path, reference_python):
    model, (ids, pixels) = CLIPModel(CONFIG), inputs()
    model.save_pretrained(tmp_path)
    data = tmp_path / "data.npz"
    np.savez(data, ids=ids, pixels=pixels)
    subprocess.run([reference_python, "-c", REFERENCE, str(tmp_path), str(data)], check=True, cwd=tmp_path)
    theirs, ours = np.load(data), model(paddle.to_tensor(ids), paddle.to_tensor(pixels))
    np.testing.assert_allclose(ours.logits_per_image.numpy(), theirs["logits"], atol=2e-5)
    np.testing.assert_allclose(ours.image_embeds.numpy(), theirs["image"], atol=2e-6)
    np.testing.assert_allclose(ours.text_embeds.numpy(), theirs["text"], atol=2e-6)
