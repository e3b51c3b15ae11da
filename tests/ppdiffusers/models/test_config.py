"""Configs: what diffusers writes is read, what we write is read back, and what we cannot do is refused by name."""

from dataclasses import replace

import pytest

from ppdiffusers.models import config
from ppdiffusers.models.config import CLIPTextConfig, ControlNetConfig, UNetConfig, VAEConfig

PRESETS = [name for name in vars(config) if name.isupper() and isinstance(getattr(config, name), config.Preset)]


def parts(preset):
    return [c for c in (*vars(preset).values(), preset.controlnet) if c is not None]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back_from_its_own_json(name):
    for part in parts(getattr(config, name)):
        assert type(part).from_dict(part.to_dict()) == part


def test_the_presets_are_the_published_families():
    assert {"SD15", "SD21", "SDXL", "SDXL_REFINER"} <= set(PRESETS)
    assert {f"TINY_{name}" for name in ("SD15", "SD21", "SDXL", "SDXL_REFINER")} <= set(PRESETS)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (UNetConfig, "resnet_time_scale_shift", "scale_shift"),
        (UNetConfig, "class_embed_type", "projection"),
        (UNetConfig, "encoder_hid_dim_type", "text_proj"),
        (UNetConfig, "addition_embed_type", "image"),
        (UNetConfig, "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        (UNetConfig, "down_block_types", ["SimpleCrossAttnDownBlock2D"] * 4),
        (UNetConfig, "cross_attention_dim", [768, 768, 1024, 1024]),
        (UNetConfig, "wings", 2),
        (UNetConfig, "attention_head_dim", [8, 8]),
        (UNetConfig, "norm_num_groups", 33),
        (ControlNetConfig, "controlnet_conditioning_channel_order", "gbr"),
        (VAEConfig, "up_block_types", ["AttnUpDecoderBlock2D"] * 4),
        (VAEConfig, "latents_mean", [0.0] * 4),
        (CLIPTextConfig, "hidden_act", "relu"),
        (CLIPTextConfig, "model_type", "t5"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(kind, key, value):
    with pytest.raises(ValueError, match=rf"{'down block' if key == 'down_block_types' else key}|width|model"):
        kind.from_dict(kind().to_dict() | {key: value})


def test_book_keeping_is_ignored_and_lists_become_tuples():
    read = UNetConfig.from_dict({"_diffusers_version": "0.30", "block_out_channels": [32, 64, 64, 64], "dropout": 0.0})
    assert read.block_out_channels == (32, 64, 64, 64)


def test_a_config_is_a_value():
    assert hash(config.SDXL.unet) == hash(replace(config.SDXL.unet))
    assert config.SDXL.unet.heads == (5, 10, 20)


def test_depths_of_transformers_follow_the_blocks():
    assert config.SD15.unet.down_transformers == ((1, 1), (1, 1), (1, 1), (0, 0))
    assert config.SDXL.unet.up_transformers == ((10,) * 3, (2,) * 3, (0,) * 3)
    assert config.SDXL.unet.mid_transformer == 10
