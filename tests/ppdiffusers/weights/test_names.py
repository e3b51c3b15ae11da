"""Names computed from our models are the names that original checkpoints have, and nothing else."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from ppdiffusers.models.clip import CLIPTextModel, CLIPTextModelWithProjection
from ppdiffusers.models.config import BIG_G, SD15, SD21, SDXL, SDXL_REFINER, VAE_SD, VIT_H
from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.models.unet import UNet2DConditionModel
from ppdiffusers.models.vae import AutoencoderKL
from ppdiffusers.weights.ema import flatten, unflatten
from ppdiffusers.weights.names import (
    controlnet_ldm_names,
    spell_by,
    spell_open_clip,
    spell_vae_ldm,
    unet_ldm_names,
    vae_ldm_names,
)
from ppdiffusers.weights.plan import Rows, make_plan

HEADERS = Path(__file__).parents[2] / "headers"
UNET, VAE = "model.diffusion_model.", "first_stage_model."


def header(name: str) -> dict[str, tuple[str, list[int], list[str]]]:
    """{original key: (dtype, shape, our parameters in it as part/name)} of a real file, without its tensors."""
    return json.loads(gzip.decompress((HEADERS / f"{name}.json.gz").read_bytes()))


def expected(name: str, part: str) -> dict[str, tuple[str, int]]:
    """{our parameter: (original key, its place there)}."""
    found = {}
    for key, (_, _, ours) in header(name).items():
        for place, one in enumerate(ours):
            if one.startswith(f"{part}/"):
                found[one.removeprefix(f"{part}/")] = (key, place)
    return found


def planned(plan: Mapping) -> dict[str, tuple[str, int]]:
    rows = {n: next((op.index for op in take.ops if isinstance(op, Rows)), 0) for n, take in plan.items()}
    return {name: (take.key, rows[name]) for name, take in plan.items()}


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, (_, shape, _) in header(name).items()}


@pytest.mark.parametrize(
    ("name", "preset"), [("sd15", SD15), ("sd21", SD21), ("sdxl", SDXL), ("refiner", SDXL_REFINER)]
)
def test_unet_names_and_shapes_of_every_family(name, preset):
    spell = spell_by(unet_ldm_names(preset.unet).under(UNET))
    plan = make_plan(UNet2DConditionModel.empty(preset.unet), spell, shapes(name))
    assert planned(plan) == expected(name, "unet")
    assert {t.key for t in plan.values()} == {key for key in header(name) if key.startswith(UNET)}


@pytest.mark.parametrize(("name", "preset"), [("sd15", SD15), ("sd21", SD21), ("sdxl", SDXL)])
def test_controlnet_names(name, preset):
    spell = spell_by(controlnet_ldm_names(preset.controlnet).under("control_model."))
    plan = make_plan(ControlNetModel.empty(preset.controlnet), spell, shapes(f"controlnet_{name}"))
    assert planned(plan) == expected(f"controlnet_{name}", "controlnet")


def test_vae_names():
    plan = make_plan(AutoencoderKL.empty(VAE_SD), spell_vae_ldm(vae_ldm_names(VAE_SD).under(VAE)), shapes("sd15"))
    assert planned(plan) == expected("sd15", "vae")


def test_text_names():
    spell = spell_open_clip(32, "conditioner.embedders.1.model.")
    plan = make_plan(CLIPTextModelWithProjection.empty(BIG_G), spell, shapes("sdxl"))
    assert planned(plan) == expected("sdxl", "text_encoder_2")
    plan = make_plan(CLIPTextModel.empty(VIT_H), spell_open_clip(23, "cond_stage_model.model."), shapes("sd21"))
    wanted = expected("sd21", "text_encoder")
    assert planned(plan) == {k: v for k, v in wanted.items() if k in plan}
    assert {k.split(".")[3] for k in wanted.keys() - plan.keys()} <= {"23", "weight"}  # layer 24 is not used


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "refiner"])
def test_the_names_of_averages_can_be_taken_back(name):
    keys = [key for key in header(name) if key.startswith(UNET)]
    assert len({flatten(key) for key in keys}) == len(keys)
    assert [unflatten(flatten(key)) for key in keys] == keys


def test_counters_of_averages_are_no_weights():
    assert unflatten("model_ema.decay") is None
    assert unflatten("model_ema.diffusion_modelsomething_else0weight") is None


def test_an_unknown_module_is_a_key_error():
    with pytest.raises(KeyError, match="no original name is known"):
        unet_ldm_names(SD15.unet)["adapter.conv"]
    assert "adapter.conv" not in unet_ldm_names(SD15.unet)
    assert "down_blocks.0.resnets.0.conv1" in unet_ldm_names(SD15.unet)
