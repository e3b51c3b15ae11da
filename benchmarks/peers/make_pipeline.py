"""Stable Diffusion 1.5 at full size with random weights, as a diffusers folder (its tokenizer is ours)."""

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

folder = Path(sys.argv[1])
torch.manual_seed(0)
UNet2DConditionModel(cross_attention_dim=768, sample_size=64).save_pretrained(folder / "unet")
AutoencoderKL(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
    sample_size=512,
).save_pretrained(folder / "vae")
text = CLIPTextConfig(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    vocab_size=49408,
    projection_dim=768,
)
CLIPTextModel(text).save_pretrained(folder / "text_encoder")
DPMSolverMultistepScheduler(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, use_karras_sigmas=True
).save_pretrained(folder / "scheduler")
words = Path(__file__).parents[2] / "assets" / "tokenizers" / "clip" / "merges.txt"
(folder / "tokenizer").mkdir()
shutil.copy(words, folder / "tokenizer" / "merges.txt")
parts = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
}
(folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts}))
