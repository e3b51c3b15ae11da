"""Diffusion on PaddlePaddle: models, samplers, prompts, LoRA and pipelines under diffusers' names.

Names are imported when they are first used, so that `import ppdiffusers` costs nothing.
"""

from importlib import import_module
from typing import Any

PUBLIC = {
    "UNet2DConditionModel": "ppdiffusers.models.unet",
    "AutoencoderKL": "ppdiffusers.models.vae",
    "ControlNetModel": "ppdiffusers.models.controlnet",
    "MultiControlNet": "ppdiffusers.models.controlnet",
    "CLIPTextModel": "ppdiffusers.models.clip",
    "CLIPTextModelWithProjection": "ppdiffusers.models.clip",
    "UNetConfig": "ppdiffusers.models.config",
    "VAEConfig": "ppdiffusers.models.config",
    "CLIPTextConfig": "ppdiffusers.models.config",
    "ControlNetConfig": "ppdiffusers.models.config",
    "StableDiffusionPipeline": "ppdiffusers.pipelines.pipeline",
    "StableDiffusionImg2ImgPipeline": "ppdiffusers.pipelines.pipeline",
    "StableDiffusionInpaintPipeline": "ppdiffusers.pipelines.pipeline",
    "StableDiffusionControlNetPipeline": "ppdiffusers.pipelines.pipeline",
    "StableDiffusionXLPipeline": "ppdiffusers.pipelines.pipeline",
    "StableDiffusionXLImg2ImgPipeline": "ppdiffusers.pipelines.pipeline",
}
__all__ = sorted(PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"ppdiffusers has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
