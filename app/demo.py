"""A tiny random model, so that every page can be tried, shown and tested in seconds without a download."""

from pathlib import Path
from typing import Any

NAME = "tiny-random"


def add_tiny(data: Path) -> str:
    """Put the model, with a ControlNet and a LoRA that fit it, below a data folder; gives its name."""
    models = data / "models"
    folder = models / "Stable-diffusion" / NAME
    if not (folder / "model_index.json").exists():
        _write(folder, models)
    return NAME


def _write(folder: Path, models: Path) -> None:
    import paddle

    from ppdiffusers.models import config
    from ppdiffusers.models.clip import CLIPTextModel
    from ppdiffusers.models.controlnet import ControlNetModel
    from ppdiffusers.models.unet import UNet2DConditionModel
    from ppdiffusers.models.vae import AutoencoderKL
    from ppdiffusers.pipelines.save import save_diffusers
    from ppdiffusers.weights.load import LoadedParts

    preset = config.TINY_SD15
    unet, vae = UNet2DConditionModel(preset.unet), AutoencoderKL(preset.vae)
    assert preset.text_encoder is not None
    text = CLIPTextModel(preset.text_encoder)
    for number, model in enumerate((unet, vae, text)):
        _fill(model, number)
    parts = LoadedParts(
        family="sd15",
        unet=unet,
        vae=vae,
        text_encoders=[text],
        tokenizers=[None],
        scheduler_config={},
        prediction_type="eps",
        source=folder,
    )
    net = ControlNetModel.from_unet(unet)
    for layer in net.controlnet_down_blocks:
        layer.weight.set_value(paddle.full(layer.weight.shape, 0.02))
    net.save_pretrained(models / "ControlNet" / f"{NAME}-control")
    save_diffusers(parts, folder)


def _fill(model: Any, number: int) -> None:
    """Random weights of a usual size, the same every time; norms and biases stay as they are."""
    import numpy as np
    import paddle

    random = np.random.default_rng(number)
    for value in model.parameters():
        if value.ndim > 1:
            fan = int(np.prod(value.shape[1:])) if value.ndim == 4 else int(value.shape[0])
            made = random.standard_normal(value.shape, dtype=np.float32) / np.float32(fan**0.5)
            value.set_value(paddle.to_tensor(made))
