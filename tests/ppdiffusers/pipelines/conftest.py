"""Tiny bundles of every family with random weights: whole pipelines run on them in well under a second."""

import functools

import paddle
import pytest

from ppdiffusers.models import config
from ppdiffusers.models.clip import CLIPTextModel, CLIPTextModelWithProjection
from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.models.unet import UNet2DConditionModel
from ppdiffusers.models.vae import AutoencoderKL
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.prompt.encode import TextEncoders
from ppdiffusers.prompt.tokenizer import CLIPTokenizer
from tests.ppdiffusers.models.conftest import fill

PRESETS = {
    "sd15": config.TINY_SD15,
    "sd21": config.TINY_SD21,
    "sdxl-base": config.TINY_SDXL,
    "sdxl-refiner": config.TINY_SDXL_REFINER,
}


def text_encoders(family: str, preset: config.Preset) -> TextEncoders:
    tokenizer = CLIPTokenizer.clip()
    if family == "sdxl-base":
        models = CLIPTextModel(preset.text_encoder), CLIPTextModelWithProjection(preset.text_encoder_2)
        first, second = (fill(m) for m in models)
        return TextEncoders.sdxl(tokenizer, first, tokenizer, second)
    if family == "sdxl-refiner":
        return TextEncoders.sdxl_refiner(tokenizer, fill(CLIPTextModelWithProjection(preset.text_encoder_2)))
    return TextEncoders.sd(tokenizer, fill(CLIPTextModel(preset.text_encoder)))


@functools.cache
def tiny(family: str = "sd15", **unet: object) -> Bundle:
    """A bundle; `unet` changes its config (in_channels=9). Weights come from names, so it is the same in every test."""
    import dataclasses

    preset = PRESETS[family]
    changed = dataclasses.replace(preset.unet, **unet)
    return Bundle(
        name=f"tiny-{family}",
        family=family,
        unet=fill(UNet2DConditionModel(changed)),
        vae=fill(AutoencoderKL(preset.vae)),
        text=text_encoders(family, preset),
        prediction="v" if family == "sd21" else "eps",
    )


@pytest.fixture
def sd15() -> Bundle:
    return tiny("sd15")


@functools.cache
def control(family: str = "sd15") -> ControlNetModel:
    net = ControlNetModel.from_unet(tiny(family).unet)
    for layer in net.controlnet_down_blocks:
        layer.weight.set_value(paddle.full(layer.weight.shape, 0.02))
    return net.eval()
