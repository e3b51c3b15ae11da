"""Diffusion on PaddlePaddle: models, samplers, prompts, LoRA and pipelines under diffusers' names."""
