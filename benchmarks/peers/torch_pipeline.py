"""diffusers' StableDiffusionPipeline on PyTorch eager: float32, or bfloat16 with channels-last models."""

import json
import sys
import time

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from measure import peak_mb
from transformers import CLIPTextModel

folder, dtype, steps, size, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
torch.set_num_threads(threads)
kind = torch.bfloat16 if dtype == "bf16" else torch.float32
unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet", torch_dtype=kind)
vae = AutoencoderKL.from_pretrained(f"{folder}/vae", torch_dtype=kind)
text = CLIPTextModel.from_pretrained(f"{folder}/text_encoder", dtype=kind)
if dtype == "bf16":
    unet, vae = (m.to(memory_format=torch.channels_last) for m in (unet, vae))
scheduler = DPMSolverMultistepScheduler.from_pretrained(f"{folder}/scheduler")
pipe = StableDiffusionPipeline(vae, None, None, unet, scheduler, None, None, requires_safety_checker=False)
pipe.set_progress_bar_config(disable=True)
ids = torch.full((2, 77), 49407)


def picture(count: int) -> float:
    """Seconds for one picture: two texts encoded, `count` guided steps, decoding."""
    begin = time.perf_counter()
    with torch.inference_mode():
        told = text(ids).last_hidden_state
        pipe(
            prompt_embeds=told[:1], negative_prompt_embeds=told[1:], num_inference_steps=count, height=size, width=size
        )
    return time.perf_counter() - begin


def decoding() -> float:
    """Seconds for decoding alone."""
    z = torch.zeros(1, 4, size // 8, size // 8, dtype=kind)
    begin = time.perf_counter()
    with torch.inference_mode():
        vae.decode(z)
    return time.perf_counter() - begin


picture(1)
seconds, decode = picture(steps), decoding()
told = {"seconds": seconds, "step": (seconds - decode) / steps, "decode": decode, "peak_mb": peak_mb()}
sys.stdout.write(json.dumps(told) + "\n")
