"""One op for all layers of a decoder, where the model is made of what that op knows.

`kernels.decoder_step` computes one token a row through every layer. A model fits when its layers are Llama's: RMS norm
before, rotary positions, SwiGLU, matrices of their own for q, k and v, all of them quantised. Adapters that replace a
leaf are noticed at the next token, and the layers are called one by one again.
"""

from dataclasses import dataclass
from typing import Any, cast

from paddle import Tensor, nn

import kernels
from mix.llm.config import DecoderConfig, Rope
from mix.llm.layers import Block, RMSNorm
from mix.llm.quantized import QuantizedLinear

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
Place = tuple[dict[str, Any], str, nn.Layer]  # the sub-layers of the layer above, the name there, the layer


def why_not(config: DecoderConfig) -> str | None:
    """Why a config is none of Llama's shape, or None."""
    checks = (
        (config.norm != "rms", "its norms are not RMS norms"),
        (not isinstance(config.positions, Rope), "its positions are not rotary"),
        (config.act != "silu" or not config.gated, "its MLP is not SwiGLU"),
        (config.residual != "pre", f"its residuals are {config.residual!r}, not 'pre'"),
        (config.fused_qkv != "split" or config.fused_mlp, "its checkpoint joins matrices"),
    )
    return next((f"{config.model_type}: {why}" for bad, why in checks if bad), None)


@dataclass(frozen=True, eq=False)
class Fused:
    """A model's layers for the one op, and where their leaves were found."""

    stack: kernels.DecoderStack
    places: list[Place]

    def fits(self) -> bool:
        """Whether every leaf is still where it was."""
        return all(above.get(name) is leaf for above, name, leaf in self.places)

    def run(self, h: Tensor, pages: kernels.Pages, angles: tuple[Tensor, Tensor]) -> Tensor:
        """h (B, L, C), one token a row of `pages`, after all layers."""
        width = h.shape[-1]
        cos, sin = (t.reshape([-1, t.shape[-1]]) for t in angles)
        return kernels.decoder_step(h.reshape([-1, width]), self.stack, pages, cos, sin).reshape(h.shape)


def fuse(config: DecoderConfig, blocks: Any) -> Fused | str:
    """The layers for the one op, or why they cannot be given to it."""
    why, places = why_not(config), []
    if why is not None:
        return why
    layers = []
    for block in blocks:
        made = _layer(block, places)
        if isinstance(made, str):
            return made
        layers.append(made)
    rope = cast(Rope, config.positions)
    scale = blocks[0].heads.scale
    heads = (config.num_heads, config.num_kv_heads, config.head_dim)
    return Fused(kernels.DecoderStack(tuple(layers), *heads, config.norm_eps, scale, rope.interleaved), places)


def _layer(block: Block, places: list[Place]) -> kernels.DecoderLayer | str:
    config, parts = block.config, {}
    norms = ["attn_norm", "mlp_norm", *(["q_norm", "k_norm"] if config.qk_norm else [])]
    for role in (*LINEARS, *norms):
        above, name = block.place(role)
        leaf, wanted = above[name], QuantizedLinear if role in LINEARS else RMSNorm
        if type(leaf) is not wanted:
            return f"{role} of layer {block.index} is a {type(leaf).__name__}, not a {wanted.__name__}"
        places.append((above, name, leaf))
        parts[role] = kernels.Projection(leaf.quantized, leaf.bias) if role in LINEARS else leaf.weight
    return kernels.DecoderLayer(**parts, window=config.window[block.index] or 0)
