"""Pictures and latents of whole pipelines against diffusers, from the same noise and encoded texts."""

import json
from pathlib import Path

import numpy as np
import paddle
import PIL.Image
import pytest

from ppdiffusers.pipelines.pipeline import (
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from ppdiffusers.sampling import ModelSchedule
from tests.ppdiffusers.models.conftest import fill
from tests.ppdiffusers.pipelines.conftest import tiny
from tools.goldens.random_weights import random_direction

GOLDEN = np.load(Path(__file__).parents[2] / "goldens" / "pipelines.npz")


def tensor(name, *shape):
    return paddle.to_tensor(random_direction(name, shape).astype(np.float32))


def pipeline(case, family, scheduler):
    import dataclasses

    config = json.loads(str(GOLDEN[scheduler]))
    bundle = dataclasses.replace(tiny(family), schedule=ModelSchedule.from_config(config), scheduler_config=config)
    if case == "sd15_control":
        from ppdiffusers.models.controlnet import ControlNetModel

        return StableDiffusionControlNetPipeline(bundle, fill(ControlNetModel.from_unet(bundle.unet)))
    return (StableDiffusionXLPipeline if family == "sdxl-base" else StableDiffusionPipeline)(bundle)


def control_picture():
    values = (np.clip(random_direction("control", (3, 64, 64)).astype(np.float32), -1, 1) + 1) / 2
    return PIL.Image.fromarray(np.round(values * 255).astype(np.uint8).transpose(1, 2, 0))


CASES = {
    "sd15_ddim": ("sd15", "ddim", {}),
    "sd15_euler": ("sd15", "euler", {}),
    "sd15_dpm_rescale": ("sd15", "dpm", {"guidance_rescale": 0.7}),
    "sd15_unguided": ("sd15", "ddim", {"guidance_scale": 1.0}),
    "sd21_ddim_v": ("sd21", "ddim_v", {}),
    "sd15_control": (
        "sd15",
        "euler",
        {"controlnet_conditioning_scale": 0.7, "control_guidance_start": 0.2, "control_guidance_end": 0.8},
    ),
    "sdxl_euler": ("sdxl-base", "euler", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_diffusers_pictures(case):
    family, scheduler, options = CASES[case]
    pipe = pipeline(case, family, scheduler)
    width = pipe.bundle.unet.config.cross_attention_dim
    given = {
        "prompt_embeds": tensor("prompt", 2, 77, width),
        "negative_prompt_embeds": tensor("negative", 2, 77, width),
    }
    if family == "sdxl-base":
        given |= {
            "pooled_prompt_embeds": tensor("pooled", 2, 64),
            "negative_pooled_prompt_embeds": tensor("blank", 2, 64),
        }
    if case == "sd15_control":
        given["image"] = control_picture()
    shared = {
        "num_inference_steps": 8,
        "guidance_scale": 6.0,
        "latents": tensor("latents", 2, 4, 8, 8),
        "height": 64,
        "width": 64,
    }
    call = shared | given | options
    call.setdefault("prompt", None)
    latents = pipe(**call, output_type="latent").images.numpy()
    wanted = GOLDEN[f"{case}/latents"]
    assert np.linalg.norm(latents - wanted) / np.linalg.norm(wanted) < 1e-3
    images = pipe(**call, output_type="np").images
    assert np.abs(images * 255 - GOLDEN[f"{case}/images"]).max() < 1.5
