"""Tiny text encoders with CLIP's whole vocabulary; their weights are computed from their names, as in tools/goldens."""

from __future__ import annotations

import pytest

from ppdiffusers.models.clip import CLIPTextModel, CLIPTextModelWithProjection
from ppdiffusers.models.config import CLIPTextConfig
from ppdiffusers.models.layers import Linear
from ppdiffusers.prompt.encode import TextEncoders
from ppdiffusers.prompt.tokenizer import OPENCLIP_PAD, CLIPTokenizer
from tools.goldens.random_weights import random_weight


def tiny(kind: type[CLIPTextModel], width: int, act: str) -> CLIPTextModel:
    size = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width, "num_hidden_layers": 3}
    model = kind(CLIPTextConfig(**size, num_attention_heads=width // 16, hidden_act=act))
    flipped = {f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, Linear)}
    for key, value in model.state_dict().items():
        shape = list(value.shape)
        value.set_value(random_weight(key, shape[::-1]).T.copy() if key in flipped else random_weight(key, shape))
    return model.eval()


@pytest.fixture(scope="session")
def clip_l() -> CLIPTextModel:
    return tiny(CLIPTextModel, 32, "quick_gelu")


@pytest.fixture(scope="session")
def clip_g() -> CLIPTextModel:
    return tiny(CLIPTextModelWithProjection, 64, "gelu")


@pytest.fixture(scope="session")
def sd(clip_l: CLIPTextModel) -> TextEncoders:
    return TextEncoders.sd(CLIPTokenizer.clip(), clip_l)


@pytest.fixture(scope="session")
def xl(clip_l: CLIPTextModel, clip_g: CLIPTextModel) -> TextEncoders:
    return TextEncoders.sdxl(CLIPTokenizer.clip(), clip_l, CLIPTokenizer.clip(OPENCLIP_PAD), clip_g)
