"""A UNet of full size with random weights and inputs, written as a diffusers folder: the same for every engine."""

import sys

import numpy as np
import torch
from diffusers import UNet2DConditionModel

SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
SD15 = {"cross_attention_dim": 768, "sample_size": 64}

folder, family, size, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config = SDXL if family == "sdxl" else SD15
torch.manual_seed(0)
UNet2DConditionModel(**config).save_pretrained(f"{folder}/unet", max_shard_size="20GB")
draw = np.random.default_rng(0)
inputs = {
    "sample": draw.standard_normal((batch, 4, size, size)).astype(np.float32),
    "text": draw.standard_normal((batch, 77, config["cross_attention_dim"])).astype(np.float32),
}
if family == "sdxl":
    inputs["pooled"] = draw.standard_normal((batch, 1280)).astype(np.float32)
    inputs["time_ids"] = np.tile(np.array([[1024, 1024, 0, 0, 1024, 1024]], np.float32), (batch, 1))
np.savez(f"{folder}/inputs.npz", **inputs)
