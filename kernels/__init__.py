"""Ops with one meaning and several speeds, shared by diffusion and by the language models."""

from kernels.attention import attention, attention_decode, attention_varlen
from kernels.choose import explain, use
from kernels.decoder import DecoderLayer, DecoderStack, Pages, Projection, decoder_step
from kernels.glu import geglu, gelu, gelu_tanh, quick_gelu, silu, swiglu
from kernels.layout import add, concat_channels, upsample_nearest2x
from kernels.linear import conv2d, linear, pack_conv2d, pack_linear
from kernels.loss import cross_entropy, linear_cross_entropy
from kernels.memory import keep_freed_memory, release_freed_memory
from kernels.norm import group_norm, group_norm_silu, layer_norm, rms_norm
from kernels.optim import adamw_step
from kernels.packed import Packed
from kernels.quant import (
    QuantizedWeight,
    from_gguf,
    from_groups,
    join_outputs,
    quantize,
    quantized_linear,
    quantized_rows,
)
from kernels.rope import rope
from kernels.status import Status, status

__all__ = [
    "DecoderLayer",
    "DecoderStack",
    "Packed",
    "Pages",
    "Projection",
    "QuantizedWeight",
    "Status",
    "adamw_step",
    "add",
    "attention",
    "attention_decode",
    "attention_varlen",
    "concat_channels",
    "conv2d",
    "cross_entropy",
    "decoder_step",
    "explain",
    "from_gguf",
    "from_groups",
    "geglu",
    "gelu",
    "gelu_tanh",
    "group_norm",
    "group_norm_silu",
    "join_outputs",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "pack_conv2d",
    "pack_linear",
    "quantize",
    "quantized_linear",
    "quantized_rows",
    "quick_gelu",
    "release_freed_memory",
    "rms_norm",
    "rope",
    "silu",
    "status",
    "swiglu",
    "upsample_nearest2x",
    "use",
]

keep_freed_memory()
