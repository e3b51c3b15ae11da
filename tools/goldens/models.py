"""Tiny random models of every family, run by diffusers and transformers: goldens for tests/ppdiffusers/models.

Run with an interpreter that has torch, diffusers and transformers, from a folder outside this repository:
    python <repository>/tools/goldens/models.py [name ...]
Each family gives tests/goldens/models_<name>.npz: the library's own config and the names and shapes of its parameters
(JSON), inputs `in_*` and outputs `out_*`. Weights are computed from their names, see random_weights.py.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from random_weights import random_direction, random_weight
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

GOLDENS = Path(__file__).parents[2] / "tests" / "goldens"
Arrays = dict[str, np.ndarray]

SD = {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8, "cross_attention_dim": 24, "attention_head_dim": 2}
SD2 = SD | {"attention_head_dim": (1, 2, 4, 4), "use_linear_projection": True, "upcast_attention": True}
XL = {
    "block_out_channels": (16, 32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (1, 2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
}
XL_UP = {"up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}
REFINER = XL | {
    "block_out_channels": (16, 32, 48, 48),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 2,
    "attention_head_dim": (1, 2, 3, 3),
    "projection_class_embeddings_input_dim": 20 + 5 * 8,
}
DISTILLED = XL | {
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, (2, 2), (1, 3)),
    "reverse_transformer_layers_per_block": ((1, 2, 3), (2, 1, 1), 1),
    "mid_block_type": "UNetMidBlock2D",
}


def tensor(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random_direction(name, shape).astype(np.float32))


def prepare(model: torch.nn.Module, rename: Callable[[str], str] = str) -> tuple[torch.nn.Module, list[Any]]:
    """Give every parameter its weight; returns the names as files spell them, with shapes."""
    state = {k: torch.from_numpy(random_weight(rename(k), v.shape)) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval(), [[rename(k), list(v.shape)] for k, v in state.items()]


def save(name: str, config: dict[str, Any], keys: list[Any], arrays: dict[str, torch.Tensor | np.ndarray]) -> None:
    text = {"config": np.array(json.dumps(config, default=str)), "keys": np.array(json.dumps(keys))}
    values = {k: v.detach().numpy() if isinstance(v, torch.Tensor) else v for k, v in arrays.items()}
    path = GOLDENS / f"models_{name}.npz"
    np.savez_compressed(path, **text, **values)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB, {len(keys)} parameters")


def conditions(config: dict[str, Any], batch: int) -> dict[str, torch.Tensor]:
    """The inputs that all UNets and ControlNets share; sides that the network cannot halve evenly."""
    made = {
        "sample": tensor("sample", batch, config.get("in_channels", 4), 10, 9),
        "timestep": torch.tensor([981.0, 7.5][:batch]),
        "text": tensor("text", batch, 7, config["cross_attention_dim"]),
    }
    if "addition_embed_type" in config:
        ids = (config["projection_class_embeddings_input_dim"] - 20) // 8
        made["text_embeds"] = tensor("text_embeds", batch, 20)
        made["time_ids"] = torch.tensor([[1024.0, 768.0, 16.0, 0.0, 1024.0, 768.0][:ids]] * batch)
    return made


def added(made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    return {k: made[k] for k in ("text_embeds", "time_ids")} if "time_ids" in made else None


def given(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"in_{k}": v for k, v in arrays.items()}


def unet(name: str, config: dict[str, Any]) -> None:
    model, keys = prepare(UNet2DConditionModel(sample_size=8, **config))
    made = conditions(config, batch=2)
    if "time_cond_proj_dim" in config:
        made["guidance"] = tensor("guidance", 2, config["time_cond_proj_dim"])
    with torch.no_grad():
        out = model(
            made["sample"],
            made["timestep"],
            made["text"],
            timestep_cond=made.get("guidance"),
            added_cond_kwargs=added(made),
        ).sample
    save(name, dict(model.config), keys, given(made) | {"out_sample": out})


def controlnet(name: str, config: dict[str, Any], unet_config: dict[str, Any]) -> None:
    """Also what the UNet makes of the residuals."""
    model, keys = prepare(ControlNetModel(**config))
    made = conditions(config, batch=1) | {"picture": tensor("picture", 1, 3, 80, 72)}
    arguments = (made["sample"], made["timestep"], made["text"], made["picture"])
    paint, unet_keys = prepare(UNet2DConditionModel(**unet_config))
    with torch.no_grad():
        down, mid = model(*arguments, conditioning_scale=0.7, added_cond_kwargs=added(made), return_dict=False)
        soft, _ = model(
            *arguments, conditioning_scale=1.0, guess_mode=True, added_cond_kwargs=added(made), return_dict=False
        )
        out = paint(
            *arguments[:3],
            added_cond_kwargs=added(made),
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample
    outs = {f"out_down_{i}": x for i, x in enumerate(down)} | {"out_mid": mid, "out_soft": soft[0], "out_sample": out}
    config = {"controlnet": dict(model.config), "unet": dict(paint.config)}
    save(name, config, [keys, unet_keys], given(made) | outs)


def unet_gradients() -> None:
    """Gradients of one squared error: for each parameter its norm and its product with a fixed direction."""
    config = XL | XL_UP
    model, keys = prepare(UNet2DConditionModel(**config))
    made = conditions(config, batch=2)
    sample = made["sample"].requires_grad_()
    out = model(sample, made["timestep"], made["text"], added_cond_kwargs=added(made)).sample
    loss = (out - tensor("target", *out.shape)).square().mean()
    loss.backward()
    grads = {k: p.grad.numpy().astype(np.float64) for k, p in model.named_parameters()}
    shadow = [[np.linalg.norm(g), (g * random_direction(k, g.shape)).sum()] for k, g in grads.items()]
    names = np.array(json.dumps(list(grads)))
    outs = {"out_loss": loss, "out_sample_grad": sample.grad, "out_shadow": np.array(shadow), "out_names": names}
    save("unet_gradients", dict(model.config), keys, given(made) | outs)


def vae(name: str, **config: Any) -> None:
    base = {
        "block_out_channels": (8, 16, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "sample_size": 64,
    }
    model, keys = prepare(AutoencoderKL(**(base | config)))
    latent = model.config.latent_channels
    made = {"picture": tensor("picture", 1, 3, 88, 72), "latent": tensor("latent", 1, latent, 13, 9)}
    with torch.no_grad():
        outs = {"moments": model.encode(made["picture"]).latent_dist.parameters}
        outs["picture"] = model.decode(made["latent"]).sample
        model.enable_tiling()
        outs["tiled_moments"] = model.encode(made["picture"]).latent_dist.parameters
        outs["tiled_picture"] = model.decode(made["latent"]).sample
    save(name, dict(model.config), keys, given(made) | {f"out_{k}": v for k, v in outs.items()})


def clip(name: str, kind: type, **config: Any) -> None:
    """The first prompt's end token is followed by padding with the end token, as with ViT-L."""
    full = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3} | config
    full |= {"num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": 97, "projection_dim": 20}
    made = CLIPTextConfig(**full)
    built = kind(made)
    prefix = "text_model."
    model, keys = prepare(built, lambda k: k if k.startswith((prefix, "text_projection")) else prefix + k)
    ids = torch.tensor([[97, 5, 6, 98] + [98] * 8, [97, *range(10, 20), 98]])
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
    outs = {f"out_hidden_{i}": h for i, h in enumerate(out.hidden_states)} | {"out_last": out.last_hidden_state}
    pooled = (
        {"out_embeds": out.text_embeds} if kind is CLIPTextModelWithProjection else {"out_pooled": out.pooler_output}
    )
    save(name, made.to_dict(), keys, {"in_ids": ids} | outs | pooled)


FAMILIES: dict[str, Callable[[], None]] = {
    "unet_sd15": lambda: unet("unet_sd15", SD),
    "unet_sd21": lambda: unet("unet_sd21", SD2),
    "unet_sdxl": lambda: unet("unet_sdxl", XL | XL_UP),
    "unet_refiner": lambda: unet("unet_refiner", REFINER),
    "unet_inpaint": lambda: unet("unet_inpaint", SD | {"in_channels": 9}),
    "unet_lcm": lambda: unet("unet_lcm", SD | {"time_cond_proj_dim": 12}),
    "unet_distilled": lambda: unet("unet_distilled", DISTILLED),
    "unet_gradients": unet_gradients,
    "controlnet_sd15": lambda: controlnet("controlnet_sd15", SD, SD),
    "controlnet_sdxl": lambda: controlnet("controlnet_sdxl", XL, XL | XL_UP),
    "controlnet_pooled": lambda: controlnet(
        "controlnet_pooled", SD | {"global_pool_conditions": True, "controlnet_conditioning_channel_order": "bgr"}, SD
    ),
    "vae": lambda: vae("vae"),
    "vae_plain": lambda: vae(
        "vae_plain", use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False, latent_channels=6
    ),
    "clip_l": lambda: clip("clip_l", CLIPTextModel, hidden_act="quick_gelu", eos_token_id=98),
    "clip_g": lambda: clip("clip_g", CLIPTextModelWithProjection, hidden_act="gelu", eos_token_id=2),
}


if __name__ == "__main__":
    torch.manual_seed(0)
    for family in sys.argv[1:] or FAMILIES:
        FAMILIES[family]()
