"""Headers of original checkpoints of every family, each key with the diffusers/transformers keys it stands for.

Two sources that do not know ours must agree: the key lists grow here as the original code grows its layers (the
constructors of CompVis' `UNetModel`, `Encoder`, `Decoder`, of OpenCLIP's text tower, of lllyasviel's `ControlNet`),
and diffusers' own single-file converter must turn them into exactly the state dict of the diffusers model. All runs on
torch's meta device. Run with the reference environment, not in the root: `python <repo>/tools/goldens/ldm_headers.py`.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

OUT = Path(__file__).parents[2] / "tests" / "headers"
Header = dict[str, tuple[list[int], list[str]]]  # original key -> shape, the diffusers keys in it

DOWN, CROSS = "DownBlock2D", "CrossAttnDownBlock2D"
UNETS = {
    "sd15": {"cross_attention_dim": 768},
    "sd21": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "sdxl": {
        "block_out_channels": [320, 640, 1280],
        "down_block_types": [DOWN, CROSS, CROSS],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "refiner": {
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": [DOWN, CROSS, CROSS, DOWN],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": 4,
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    },
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TEXTS = {
    "vit_l": CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
    "vit_h": CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16),
    "big_g": CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
    ),
}


# --- the original constructors, as key lists --------------------------------------------------------------------------


def pair(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def resnet(name: str, shortcut: bool) -> list[str]:
    layers = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
    return [key for layer in layers + ["skip_connection"] * shortcut for key in pair(f"{name}.{layer}")]


def transformer(name: str, depth: int) -> list[str]:
    if not depth:
        return []
    keys = [key for layer in ("norm", "proj_in", "proj_out") for key in pair(f"{name}.{layer}")]
    for d in range(depth):
        block = f"{name}.transformer_blocks.{d}"
        keys += [f"{block}.attn{a}.to_{p}.weight" for a in (1, 2) for p in "qkv"]
        layers = ["attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"]
        keys += [key for layer in layers for key in pair(f"{block}.{layer}")]
    return keys


def encoder_half(config: dict) -> tuple[list[str], list[int], int]:
    """(keys, channels of the skip connections, depth of the last level) of the way down and the middle."""
    widths = config.get("block_out_channels", [320, 640, 1280, 1280])
    kinds = config.get("down_block_types", [CROSS, CROSS, CROSS, DOWN])
    depths = config.get("transformer_layers_per_block", 1)
    depths = depths if isinstance(depths, list) else [depths] * len(widths)
    keys = pair("time_embed.0") + pair("time_embed.2") + pair("input_blocks.0.0")
    keys += pair("label_emb.0.0") + pair("label_emb.0.2") if "addition_embed_type" in config else []
    channels, width, n = [widths[0]], widths[0], 1
    for level, (new, kind, depth) in enumerate(zip(widths, kinds, depths, strict=True)):
        for _ in range(2):
            keys += resnet(f"input_blocks.{n}.0", width != new)
            keys += transformer(f"input_blocks.{n}.1", depth if kind == CROSS else 0)
            width, n = new, n + 1
            channels.append(width)
        if level != len(widths) - 1:
            keys += pair(f"input_blocks.{n}.0.op")
            channels.append(width)
            n += 1
    keys += (
        resnet("middle_block.0", False) + transformer("middle_block.1", depths[-1]) + resnet("middle_block.2", False)
    )
    return keys, channels, depths[-1]


def unet_keys(config: dict) -> list[str]:
    keys, channels, _ = encoder_half(config)
    widths = config.get("block_out_channels", [320, 640, 1280, 1280])
    kinds = config.get("down_block_types", [CROSS, CROSS, CROSS, DOWN])
    depths = config.get("transformer_layers_per_block", 1)
    depths = depths if isinstance(depths, list) else [depths] * len(widths)
    n = 0
    for level in reversed(range(len(widths))):
        for i in range(3):
            channels.pop()
            keys += resnet(f"output_blocks.{n}.0", True)
            depth = depths[level] if kinds[level] == CROSS else 0
            keys += transformer(f"output_blocks.{n}.1", depth)
            if level and i == 2:
                keys += pair(f"output_blocks.{n}.{1 + bool(depth)}.conv")
            n += 1
    assert not channels
    return keys + pair("out.0") + pair("out.2")


def controlnet_keys(config: dict) -> list[str]:
    keys, channels, _ = encoder_half(config)
    keys += [key for i in range(8) for key in pair(f"input_hint_block.{2 * i}")]
    keys += [key for i in range(len(channels)) for key in pair(f"zero_convs.{i}.0")]
    return keys + pair("middle_block_out.0")


def vae_block(name: str, shortcut: bool) -> list[str]:
    layers = ["norm1", "conv1", "norm2", "conv2"] + ["nin_shortcut"] * shortcut
    return [key for layer in layers for key in pair(f"{name}.{layer}")]


def vae_keys() -> list[str]:
    keys = pair("quant_conv") + pair("post_quant_conv")
    for half in ("encoder", "decoder"):
        keys += [key for layer in ("conv_in", "norm_out", "conv_out") for key in pair(f"{half}.{layer}")]
        keys += vae_block(f"{half}.mid.block_1", False) + vae_block(f"{half}.mid.block_2", False)
        keys += [key for layer in ("norm", "q", "k", "v", "proj_out") for key in pair(f"{half}.mid.attn_1.{layer}")]
    for level, grows in enumerate((False, True, True, False)):
        for j in range(2):
            keys += vae_block(f"encoder.down.{level}.block.{j}", grows and j == 0)
        keys += pair(f"encoder.down.{level}.downsample.conv") if level != 3 else []
    for level, shrinks in enumerate((True, True, False, False)):
        for j in range(3):
            keys += vae_block(f"decoder.up.{level}.block.{j}", shrinks and j == 0)
        keys += pair(f"decoder.up.{level}.upsample.conv") if level else []
    return keys


def open_clip_keys(layers: int) -> list[str]:
    keys = ["positional_embedding", "text_projection", "token_embedding.weight", *pair("ln_final")]
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        keys += [f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias"]
        keys += [
            key for p in ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj", "attn.out_proj") for key in pair(f"{block}.{p}")
        ]
    return keys


# --- what the converter makes of them ---------------------------------------------------------------------------------


def tagged(keys: list[str], prefix: str, tall: int = 1) -> dict[str, torch.Tensor]:
    """For every key a small tensor whose numbers say which key and row it is."""
    return {
        prefix + key: torch.stack([torch.full((1,), i * 16.0 + r) for r in range(tall)]) for i, key in enumerate(keys)
    }


def join(keys: list[str], converted: dict[str, torch.Tensor], real: dict[str, torch.Tensor]) -> Header:
    """Each original key with the diffusers keys in it, in the order of its rows; each must be used exactly once."""
    assert set(converted) == set(real), sorted(set(converted) ^ set(real))[:8]
    found: dict[str, list[tuple[float, str]]] = {key: [] for key in keys}
    for ours, tensor in converted.items():
        number = float(tensor.flatten()[0])
        found[keys[int(number // 16)]].append((number, ours))
    assert all(found.values()), [key for key, ours in found.items() if not ours]
    return {key: ([], [ours for _, ours in sorted(parts)]) for key, parts in found.items()}


def with_shapes(header: Header, real: dict[str, torch.Tensor]) -> Header:
    shaped = {}
    for key, (_, ours) in header.items():
        shape = list(real[ours[0]].shape)
        shape[:1] = [len(ours) * shape[0]] if shape else []
        if ".attn_1." in key and key.endswith("weight") and len(shape) == 2:
            shape += [1, 1]
        if key.endswith("text_projection"):
            shape.reverse()
        shaped[key] = (shape, ours)
    return shaped


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in model.state_dict().items() if not key.endswith("position_ids")}


def unet_header(config: dict) -> Header:
    with torch.device("meta"):
        real = state(UNet2DConditionModel(**config))
    keys = unet_keys(config)
    given = {"layers_per_block": 2, **config}
    return with_shapes(
        join(keys, convert_ldm_unet_checkpoint(tagged(keys, "model.diffusion_model."), given), real), real
    )


def controlnet_header(config: dict) -> Header:
    with torch.device("meta"):
        real = state(ControlNetModel(**{k: v for k, v in config.items() if k != "up_block_types"}))
    keys = controlnet_keys(config)
    given = {"layers_per_block": 2, **config}
    converted = convert_controlnet_checkpoint(tagged(keys, "control_model."), given)
    for leaf in ("weight", "bias"):  # diffusers' converter handles the label embedding only in its UNets
        for i in (1, 2) if "addition_embed_type" in config else ():
            at = keys.index(f"label_emb.0.{2 * i - 2}.{leaf}")
            converted.setdefault(f"add_embedding.linear_{i}.{leaf}", torch.full((1,), at * 16.0))
    return with_shapes(join(keys, converted, real), real)


def vae_header() -> Header:
    with torch.device("meta"):
        real = state(AutoencoderKL(**VAE))
    keys = vae_keys()
    return with_shapes(join(keys, convert_ldm_vae_checkpoint(tagged(keys, "first_stage_model."), VAE), real), real)


def text_header(config: CLIPTextConfig, projection: bool, prefix: str = "") -> Header:
    with torch.device("meta"):
        model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    found = {}
    for key, value in state(model).items():
        ours = key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}"
        found[prefix + ours] = (list(value.shape), [ours])
    return found


def open_clip_header(config: CLIPTextConfig, projection: bool) -> Header:
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(config)
    keys = open_clip_keys(config.num_hidden_layers)
    checkpoint = tagged(keys, "at.", tall=3)
    checkpoint["at.text_projection"] = torch.full((1, 1), keys.index("text_projection") * 16.0)
    converted = convert_open_clip_checkpoint(model, checkpoint, prefix="at.")
    real = state(model)
    header = with_shapes(join(keys, converted, real), real)
    if not projection:  # SD 2 has the projection in its file, and nobody uses it
        width = config.hidden_size
        header["text_projection"] = ([width, width], [])
    return header


# --- whole checkpoints ------------------------------------------------------------------------------------------------


def under(prefix: str, part: Header, name: str) -> Iterator[tuple[str, list]]:
    for key, (shape, ours) in part.items():
        yield prefix + key, ["F16", shape, [f"{name}/{one}" for one in ours]]


def checkpoint(unet: str, vae: Header, texts: list[tuple[str, Header, str]], extra: dict[str, list]) -> dict:
    found = dict(under("model.diffusion_model.", unet_header(UNETS[unet]), "unet"))
    found |= dict(under("first_stage_model.", vae, "vae"))
    for prefix, header, name in texts:
        found |= dict(under(prefix, header, name))
    return found | extra


def write(name: str, header: dict) -> None:
    text = json.dumps(header, separators=(",", ":")).encode()
    (OUT / f"{name}.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"{name}: {len(header)} keys")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    vae = vae_header()
    # The schedule and counters that the original training code leaves in its files.
    schedule = {
        key: ["F32", [1000], []] for key in ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod")
    }
    positions = {"cond_stage_model.transformer.text_model.embeddings.position_ids": ["I64", [1, 77], []]}
    averages = {"model_ema.decay": ["F32", [], []], "model_ema.num_updates": ["I32", [], []]}
    vit_l = text_header(TEXTS["vit_l"], projection=False)
    vit_h = open_clip_header(TEXTS["vit_h"], projection=False)
    big_g = open_clip_header(TEXTS["big_g"], projection=True)
    scale = {"logit_scale": ["F32", [], []]}
    write(
        "sd15",
        checkpoint(
            "sd15", vae, [("cond_stage_model.transformer.", vit_l, "text_encoder")], schedule | positions | averages
        ),
    )
    sd21 = schedule | {f"cond_stage_model.model.{k}": v for k, v in scale.items()}
    write("sd21", checkpoint("sd21", vae, [("cond_stage_model.model.", vit_h, "text_encoder")], sd21))
    both = [
        ("conditioner.embedders.0.transformer.", vit_l, "text_encoder"),
        ("conditioner.embedders.1.model.", big_g, "text_encoder_2"),
    ]
    sdxl = {f"conditioner.embedders.1.model.{k}": v for k, v in scale.items()} | {
        "denoiser.sigmas": ["F32", [1000], []]
    }
    write("sdxl", checkpoint("sdxl", vae, both, sdxl))
    one = [("conditioner.embedders.0.model.", big_g, "text_encoder_2")]
    write(
        "refiner", checkpoint("refiner", vae, one, {f"conditioner.embedders.0.model.{k}": v for k, v in scale.items()})
    )
    for name in ("sd15", "sd21", "sdxl"):
        write(f"controlnet_{name}", dict(under("control_model.", controlnet_header(UNETS[name]), "controlnet")))


if __name__ == "__main__":
    main()
