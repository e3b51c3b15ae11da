"""Configs read from the shapes in a header. What shapes do not show (heads, activations) follows the family's rule.

Every function takes the shapes of one part, its prefix removed. `ldm` says whether the names are the original code's or
diffusers'. Heads: Stable Diffusion 1 has 8 in every layer and projects with 1x1 convolutions; everything later has 64
channels a head and projects with matrices. CLIP has 64 channels a head.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import Any

from ppdiffusers.models.config import (
    BIG_G,
    CROSS_DOWN,
    CROSS_UP,
    PLAIN_DOWN,
    PLAIN_UP,
    VIT_H,
    VIT_L,
    CLIPTextConfig,
    ControlNetConfig,
    UNetConfig,
    VAEConfig,
)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Block:
    """One residual block and the depth of the transformer behind it."""

    width: int
    depth: int


Levels = tuple[tuple[Block, ...], ...]


def numbered(shapes: Shapes, pattern: str) -> Iterator[int]:
    """0, 1, ... while the key `pattern.format(number)` is there."""
    for n in count():
        if pattern.format(n) not in shapes:
            return
        yield n


def _depth(shapes: Shapes, name: str) -> int:
    return len(list(numbered(shapes, f"{name}.transformer_blocks.{{}}.norm1.weight")))


def _down(shapes: Shapes, ldm: bool) -> Levels:
    if not ldm:
        found = []
        for i in numbered(shapes, "down_blocks.{}.resnets.0.conv1.weight"):
            blocks = numbered(shapes, f"down_blocks.{i}.resnets.{{}}.conv1.weight")
            names = [(f"down_blocks.{i}.resnets.{j}.conv1.weight", f"down_blocks.{i}.attentions.{j}") for j in blocks]
            found.append(tuple(Block(shapes[conv][0], _depth(shapes, attention)) for conv, attention in names))
        return tuple(found)
    levels: list[list[Block]] = [[]]
    names = (f"input_blocks.{n}.0" for n in count(1))
    for name in takewhile(lambda n: f"{n}.in_layers.2.weight" in shapes or f"{n}.op.weight" in shapes, names):
        if f"{name}.op.weight" in shapes:
            levels.append([])
        else:
            width = shapes[f"{name}.in_layers.2.weight"][0]
            levels[-1].append(Block(width, _depth(shapes, f"{name[:-1]}1")))
    return tuple(tuple(level) for level in levels)


def _up(shapes: Shapes, ldm: bool, depths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Transformer depths on the way up, bottom level first; a level has one block more than on the way down."""
    if not ldm:
        pairs = enumerate(reversed(depths))
        return tuple(
            tuple(_depth(shapes, f"up_blocks.{i}.attentions.{j}") for j in range(blocks + 1)) for i, blocks in pairs
        )
    blocks = [_depth(shapes, f"output_blocks.{n}.1") for n in range(sum(depths) + len(depths))]
    return tuple(tuple(blocks.pop(0) for _ in range(depth + 1)) for depth in reversed(depths))


def _middle(shapes: Shapes, ldm: bool) -> tuple[str | None, int]:
    resnet = "middle_block.0.in_layers.2" if ldm else "mid_block.resnets.0.conv1"
    depth = _depth(shapes, "middle_block.1" if ldm else "mid_block.attentions.0")
    if depth:
        return "UNetMidBlock2DCrossAttn", depth
    return ("UNetMidBlock2D" if f"{resnet}.weight" in shapes else None), 0


def _collapse(values: tuple[Any, ...]) -> Any:
    """One value when all are equal, as configs write it."""
    return values[0] if len(set(values)) == 1 else values


def _transformers(levels: tuple[tuple[int, ...], ...], middle: int) -> Any:
    """`transformer_layers_per_block`: a level without attention has no say, except that the mid block asks the last."""
    found = [_collapse(level) if any(level) else None for level in levels]
    if middle:
        last = found[-1][0] if isinstance(found[-1], tuple) else found[-1]
        if last not in (None, middle):
            raise ValueError(f"a mid block of {middle} transformer layers below a level of {last} is not supported")
        found[-1] = middle if found[-1] is None else found[-1]
    said = {value for value in found if value is not None}
    default = said.pop() if len(said) == 1 else 1
    return _collapse(tuple(default if value is None else value for value in found))


def _encoder(shapes: Shapes, ldm: bool, levels: Levels) -> dict[str, Any]:
    """The fields that UNets and ControlNets share."""
    kind, middle = _middle(shapes, ldm)
    conv_in = "input_blocks.0.0.weight" if ldm else "conv_in.weight"
    label = "label_emb.0.0.weight" if ldm else "add_embedding.linear_1.weight"
    linear = any(len(shape) == 2 for key, shape in shapes.items() if key.endswith(".proj_in.weight"))
    widths = tuple(level[0].width for level in levels)
    context = next((shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight")), None)
    if context is None:
        raise ValueError("this UNet has no cross-attention; models without a text encoder are not supported")
    fields: dict[str, Any] = {
        "in_channels": shapes[conv_in][1],
        "block_out_channels": widths,
        "down_block_types": tuple(CROSS_DOWN if any(b.depth for b in level) else PLAIN_DOWN for level in levels),
        "mid_block_type": kind,
        "layers_per_block": _collapse(tuple(len(level) for level in levels)),
        "transformer_layers_per_block": _transformers(tuple(tuple(b.depth for b in level) for level in levels), middle),
        "attention_head_dim": tuple(max(1, width // 64) for width in widths) if linear else 8,
        "cross_attention_dim": context,
        "use_linear_projection": linear,
        "upcast_attention": linear and label not in shapes,  # Stable Diffusion 2, whose attention overflows in fp16
    }
    if label in shapes:
        fields |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        fields["projection_class_embeddings_input_dim"] = shapes[label][1]
    return fields


def unet_config(shapes: Shapes, ldm: bool) -> UNetConfig:
    """A UNet's config, all but `sample_size`, which no tensor shows."""
    levels = _down(shapes, ldm)
    fields = _encoder(shapes, ldm, levels)
    up = _up(shapes, ldm, tuple(len(level) for level in levels))
    conv_out = "out.2.weight" if ldm else "conv_out.weight"
    projection = "time_embed.cond_proj.weight" if ldm else "time_embedding.cond_proj.weight"
    config = UNetConfig(
        **fields,
        out_channels=shapes[conv_out][0],
        up_block_types=tuple(CROSS_UP if any(level) else PLAIN_UP for level in up),
        time_cond_proj_dim=shapes[projection][1] if projection in shapes else None,
    )
    if config.up_transformers != up:
        config = replace(config, reverse_transformer_layers_per_block=tuple(_collapse(level) or 1 for level in up))
    return config


def controlnet_config(shapes: Shapes, ldm: bool) -> ControlNetConfig:
    """A ControlNet's config, its picture reader included."""
    first, block = "controlnet_cond_embedding.conv_in.weight", "controlnet_cond_embedding.blocks.{}.weight"
    if ldm:
        first, block = "input_hint_block.0.weight", "input_hint_block.{}.weight"
    blocks = [shapes[block.format(2 * n + 2 if ldm else n)][0] for n in range(_hint_blocks(shapes, ldm))]
    return ControlNetConfig(
        **_encoder(shapes, ldm, _down(shapes, ldm)),
        conditioning_channels=shapes[first][1],
        conditioning_embedding_out_channels=(shapes[first][0], *blocks[1::2]),
    )


def _hint_blocks(shapes: Shapes, ldm: bool) -> int:
    if not ldm:
        return len(list(numbered(shapes, "controlnet_cond_embedding.blocks.{}.weight")))
    return sum(key.startswith("input_hint_block.") and key.endswith(".weight") for key in shapes) - 2


def vae_config(shapes: Shapes, ldm: bool) -> VAEConfig:
    """A VAE's config with Stable Diffusion 1's `scaling_factor`: the file does not have it, the family decides."""
    block = "encoder.down.{}.block.{}.conv1.weight" if ldm else "encoder.down_blocks.{}.resnets.{}.conv1.weight"
    widths = tuple(shapes[block.format(i, 0)][0] for i in numbered(shapes, block.format("{}", 0)))
    attention = "encoder.mid.attn_1.norm.weight" if ldm else "encoder.mid_block.attentions.0.group_norm.weight"
    return VAEConfig(
        in_channels=shapes["encoder.conv_in.weight"][1],
        out_channels=shapes["decoder.conv_out.weight"][0],
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=len(list(numbered(shapes, block.format(0, "{}")))),
        latent_channels=shapes["decoder.conv_in.weight"][1],
        use_quant_conv="quant_conv.weight" in shapes,
        use_post_quant_conv="post_quant_conv.weight" in shapes,
        mid_block_add_attention=attention in shapes,
    )


def clip_config(shapes: Shapes) -> CLIPTextConfig:
    """OpenAI's CLIP under transformers' names, with or without `text_model.` before them."""
    inner = {key.removeprefix("text_model."): shape for key, shape in shapes.items()}
    vocabulary, width = inner["embeddings.token_embedding.weight"]
    projection = inner.get("text_projection.weight")
    return replace(
        VIT_L,
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner["encoder.layers.0.mlp.fc1.weight"][0],
        projection_dim=projection[0] if projection else width,
        num_hidden_layers=len(list(numbered(inner, "encoder.layers.{}.layer_norm1.weight"))),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=inner["embeddings.position_embedding.weight"][0],
    )


def open_clip_config(shapes: Shapes, projected: bool) -> CLIPTextConfig:
    """OpenCLIP's text tower. Stable Diffusion 2 (not `projected`) was trained on the last but one of 24 layers."""
    vocabulary, width = shapes["token_embedding.weight"]
    layers = len(list(numbered(shapes, "transformer.resblocks.{}.ln_1.weight")))
    if not projected and (width, layers) == (1024, 24):
        layers = 23
    projection = shapes["text_projection"][1] if projected else VIT_H.projection_dim if width == 1024 else width
    return replace(
        BIG_G if projected else VIT_H,
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=shapes["positional_embedding"][0],
    )
