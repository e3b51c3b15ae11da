"""PyTorch eager through diffusers: float32 as it comes, bfloat16 channels-last (its fastest form on a CPU)."""

import sys

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from measure import report

folder, dtype, runs, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
kind = torch.bfloat16 if dtype == "bf16" else torch.float32
unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet", torch_dtype=kind).eval()
if dtype == "bf16":
    unet = unet.to(memory_format=torch.channels_last)
inputs = {name: torch.from_numpy(value).to(kind) for name, value in np.load(f"{folder}/inputs.npz").items()}
if dtype == "bf16":
    inputs["sample"] = inputs["sample"].to(memory_format=torch.channels_last)
added = {"text_embeds": inputs["pooled"], "time_ids": inputs["time_ids"]} if "pooled" in inputs else None


@torch.inference_mode()
def step() -> np.ndarray:
    """One denoising step."""
    return unet(inputs["sample"], 500, inputs["text"], added_cond_kwargs=added).sample.float().numpy()


report(step, runs)
