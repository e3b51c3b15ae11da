"""Whole pipelines of diffusers on our tiny models: goldens for tests/ppdiffusers/pipelines/test_parity.py.

    <product python> -m tools.goldens.tiny_configs > /tmp/tiny.json
    cd elsewhere && <reference python> <repository>/tools/goldens/pipelines.py /tmp/tiny.json

Weights and inputs come from their names (random_weights.py); texts are given encoded, noise is given as latents.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from random_weights import random_direction, random_weight

GOLDENS = Path(__file__).parents[2] / "tests" / "goldens"
CONFIGS = json.loads(Path(sys.argv[1]).read_text())
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = {
    "ddim": DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    "euler": EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1),
    "dpm": DPMSolverMultistepScheduler(**NOISE, use_karras_sigmas=True),
    "ddim_v": DDIMScheduler(
        **NOISE,
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
}


def filled(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter by its name."""
    state = {k: torch.from_numpy(random_weight(k, v.shape)) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval()


def tensor(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random_direction(name, shape).astype(np.float32))


def sd(family: str, scheduler: str, **call: Any) -> dict[str, np.ndarray]:
    """Text to picture."""
    config = CONFIGS[family]
    unet, vae = (
        filled(UNet2DConditionModel.from_config(config["unet"])),
        filled(AutoencoderKL.from_config(config["vae"])),
    )
    width = config["unet"]["cross_attention_dim"]
    texts = {
        "prompt_embeds": tensor("prompt", 2, 77, width),
        "negative_prompt_embeds": tensor("negative", 2, 77, width),
    }
    shared = {
        "num_inference_steps": 8,
        "guidance_scale": 6.0,
        "output_type": "np",
        "latents": tensor("latents", 2, 4, 8, 8),
    }
    call = {"height": 64, "width": 64} | shared | call
    if "control" in call:
        net = filled(ControlNetModel.from_unet(unet))
        call |= {"image": call.pop("control"), "controlnet_conditioning_scale": 0.7}
        call |= {"control_guidance_start": 0.2, "control_guidance_end": 0.8}
        pipe = StableDiffusionControlNetPipeline(
            vae, None, None, unet, net, SCHEDULERS[scheduler], None, None, requires_safety_checker=False
        )
    elif family == "sdxl-base":
        pipe = StableDiffusionXLPipeline(
            vae, None, None, None, None, unet, SCHEDULERS[scheduler], add_watermarker=False
        )
        pooled = config["unet"]["projection_class_embeddings_input_dim"] - 6 * 256
        texts |= {
            "pooled_prompt_embeds": tensor("pooled", 2, pooled),
            "negative_pooled_prompt_embeds": tensor("blank", 2, pooled),
        }
    else:
        pipe = StableDiffusionPipeline(
            vae, None, None, unet, SCHEDULERS[scheduler], None, None, requires_safety_checker=False
        )
    pipe.set_progress_bar_config(disable=True)
    images = pipe(**texts, **call).images
    latents = pipe(**texts, **(call | {"output_type": "latent"})).images
    return {"images": (images * 255).round().astype(np.uint8), "latents": latents.numpy()}


def main() -> None:
    """All cases into one file."""
    control = (torch.from_numpy(random_direction("control", (1, 3, 64, 64)).astype(np.float32)).clamp(-1, 1) + 1) / 2
    control = (control * 255).round() / 255  # as a picture would carry it
    cases = {
        "sd15_ddim": sd("sd15", "ddim"),
        "sd15_euler": sd("sd15", "euler"),
        "sd15_dpm_rescale": sd("sd15", "dpm", guidance_rescale=0.7),
        "sd15_unguided": sd("sd15", "ddim", guidance_scale=1.0),
        "sd21_ddim_v": sd("sd21", "ddim_v"),
        "sd15_control": sd("sd15", "euler", control=control),
        "sdxl_euler": sd("sdxl-base", "euler"),
    }
    arrays = {f"{case}/{name}": value for case, found in cases.items() for name, value in found.items()}
    configs = {
        name: np.array(json.dumps({**dict(s.config), "_class_name": type(s).__name__}, default=str))
        for name, s in SCHEDULERS.items()
    }
    np.savez_compressed(GOLDENS / "pipelines.npz", **arrays, **configs)


if __name__ == "__main__":
    main()
