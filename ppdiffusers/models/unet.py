"""The denoising network of Stable Diffusion 1, 2, XL and the XL refiner.

Inside, feature maps are (B, Y, X, C) and `text` is (B, L, K); the public call takes and returns (B, C, Y, X) as
diffusers does. Sides that are not a multiple of the network's scale are fine: the way up resizes to what the way down
kept.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import paddle
from paddle import Tensor, nn

import kernels
from ppdiffusers.models.config import EncoderConfig, UNetConfig
from ppdiffusers.models.layers import (
    Conv2D,
    Downsample,
    GroupNorm,
    Linear,
    NoAttention,
    SpatialTransformer,
    TimeResBlock,
    TimestepEmbedding,
    Upsample,
    channels_first,
    channels_last,
    plus,
    sinusoid,
)
from ppdiffusers.models.outputs import UNet2DConditionOutput
from ppdiffusers.models.pretrained import Pretrained

Timestep = Tensor | float | int


class DownBlock(nn.Layer):
    """One level of the way down: residual blocks, each with its attention, then half the size."""

    def __init__(self, config: EncoderConfig, level: int) -> None:
        super().__init__()
        width, last = config.block_out_channels[level], len(config.block_out_channels) - 1
        before = config.block_out_channels[max(level - 1, 0)]
        depths = config.down_transformers[level]
        inputs = [before] + [width] * (len(depths) - 1)
        self.resnets = nn.LayerList([res_block(config, i, width) for i in inputs])
        self.attentions = nn.LayerList([attention(config, level, depth) for depth in depths])
        self.downsamplers = nn.LayerList([Downsample(width)] if level < last else [])

    def forward(self, x: Tensor, emb: Tensor, text: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for resnet, attend in zip(self.resnets, self.attentions, strict=True):
            x = attend(resnet(x, emb), text)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Layer):
    """The bottom: two residual blocks around an attention; distilled models keep one block, or nothing."""

    RESNETS: ClassVar[Mapping[str | None, int]] = {"UNetMidBlock2DCrossAttn": 2, "UNetMidBlock2D": 1, None: 0}

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, level = config.block_out_channels[-1], len(config.block_out_channels) - 1
        count = self.RESNETS[config.mid_block_type]
        self.resnets = nn.LayerList([res_block(config, width, width) for _ in range(count)])
        self.attentions = nn.LayerList([attention(config, level, config.mid_transformer) for _ in range(count - 1)])

    def forward(self, x: Tensor, emb: Tensor, text: Tensor) -> Tensor:
        for resnet, attend in zip(self.resnets, (NoAttention(), *self.attentions), strict=False):
            x = resnet(attend(x, text), emb)
        return x


class UpBlock(nn.Layer):
    """One level of the way up: residual blocks that take back a skip each, attention, then twice the size."""

    def __init__(self, config: UNetConfig, step: int) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        width, level = widths[step], len(widths) - 1 - step
        depths, last = config.up_transformers[step], len(widths) - 1
        skips = [width] * (len(depths) - 1) + [widths[min(step + 1, last)]]
        inputs = [widths[max(step - 1, 0)]] + [width] * (len(depths) - 1)
        pairs = zip(inputs, skips, strict=True)
        self.resnets = nn.LayerList([res_block(config, x + skip, width) for x, skip in pairs])
        self.attentions = nn.LayerList([attention(config, level, depth) for depth in depths])
        self.upsamplers = nn.LayerList([Upsample(width)] if step < last else [])

    def forward(self, x: Tensor, skips: list[Tensor], emb: Tensor, text: Tensor) -> Tensor:
        """Takes its skips off the end of `skips`."""
        for resnet, attend in zip(self.resnets, self.attentions, strict=True):
            x = attend(resnet(kernels.concat_channels(x, skips.pop()), emb), text)
        for upsample in self.upsamplers:
            x = upsample(x, tuple(skips[-1].shape[1:3]))
        return x


def res_block(config: EncoderConfig, width_in: int, width_out: int) -> TimeResBlock:
    return TimeResBlock(width_in, width_out, config.time_embed_dim, config.norm_num_groups, config.norm_eps)


def attention(config: EncoderConfig, level: int, depth: int) -> SpatialTransformer | NoAttention:
    if depth == 0:
        return NoAttention()
    width, heads = config.block_out_channels[level], config.heads[level]
    projection = Linear if config.use_linear_projection else Conv2D
    return SpatialTransformer(width, heads, depth, config.cross_attention_dim, config.norm_num_groups, projection)


def times(timestep: Timestep, batch: int) -> Tensor:
    """One time for each sample: (B,) fp32."""
    t = timestep if isinstance(timestep, Tensor) else paddle.to_tensor(float(timestep))
    return t.astype("float32").reshape([-1]).expand([batch])


class UNetEncoder(Pretrained):
    """What a UNet and its ControlNets share: the embedding of time and size, the way down, the middle."""

    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        width, emb = config.block_out_channels[0], config.time_embed_dim
        self.conv_in = Conv2D(config.in_channels, width)
        self.time_embedding = TimestepEmbedding(width, emb, getattr(config, "time_cond_proj_dim", None))
        if config.addition_embed_type:
            self.add_embedding = TimestepEmbedding(cast(int, config.projection_class_embeddings_input_dim), emb)
        self.down_blocks = nn.LayerList([DownBlock(config, i) for i in range(len(config.block_out_channels))])
        self.mid_block = MidBlock(config)

    def embed(
        self, timestep: Timestep, batch: int, added: Mapping[str, Tensor] | None, guidance: Tensor | None = None
    ) -> Tensor:
        """(B, E): the time, and for XL what the picture shows and how big it is; SiLU done, for all blocks at once."""
        wave = sinusoid(times(timestep, batch), self.config.block_out_channels[0]).astype(self.dtype)
        if guidance is not None:
            wave = self.time_embedding.cond_proj(guidance.astype(self.dtype), residual=wave)
        emb = self.time_embedding(wave)
        if self.config.addition_embed_type:
            emb = self.add_embedding(self.added_features(added or {}), residual=emb)
        return kernels.silu(emb)

    def added_features(self, added: Mapping[str, Tensor]) -> Tensor:
        """Pooled text (B, P) beside the sinusoids of `time_ids` (B, N): original size, crop, target size (or score)."""
        if not {"text_embeds", "time_ids"} <= set(added):
            raise ValueError(
                f"this model needs added_cond_kwargs with text_embeds and time_ids, it got {sorted(added)}"
            )
        ids = added["time_ids"]
        sizes = sinusoid(ids.flatten(), cast(int, self.config.addition_time_embed_dim)).reshape([ids.shape[0], -1])
        features = paddle.concat([added["text_embeds"].astype(self.dtype), sizes.astype(self.dtype)], axis=-1)
        if features.shape[-1] != self.config.projection_class_embeddings_input_dim:
            raise ValueError(
                f"text_embeds {list(added['text_embeds'].shape)} and time_ids {list(ids.shape)} make "
                f"{features.shape[-1]} features, not {self.config.projection_class_embeddings_input_dim}; "
                "XL has 6 time ids, its refiner 5"
            )
        return features

    def down(self, x: Tensor, emb: Tensor, text: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = [x]
        for block in self.down_blocks:
            x, kept = block(x, emb, text)
            skips += kept
        return x, skips


class UNet2DConditionModel(UNetEncoder):
    """Predicts the noise (or v) in a noisy latent at a time, given the text."""

    CONFIG: ClassVar[type[UNetConfig]] = UNetConfig
    config: UNetConfig

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        width = config.block_out_channels[0]
        self.up_blocks = nn.LayerList([UpBlock(config, i) for i in range(len(config.block_out_channels))])
        self.conv_norm_out = GroupNorm(config.norm_num_groups, width, config.norm_eps)
        self.conv_out = Conv2D(width, config.out_channels)

    def forward(
        self,
        sample: Tensor,
        timestep: Timestep,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """One prediction, of the sample's dtype.

        sample (B, C, Y, X); timestep a number or (B,); encoder_hidden_states (B, L, K); timestep_cond (B, G) for LCM
        models; added_cond_kwargs {"text_embeds": (B, P), "time_ids": (B, N)} for XL; residuals from ControlNets are
        (B, C, Y, X), one for each skip and one for the middle.
        """
        text = encoder_hidden_states.astype(self.dtype)
        emb = self.embed(timestep, sample.shape[0], added_cond_kwargs, timestep_cond)
        x, skips = self.down(self.conv_in(channels_last(sample, self.dtype)), emb, text)
        x = self.mid_block(x, emb, text)
        x, skips = self.control(x, skips, down_block_additional_residuals, mid_block_additional_residual)
        for block in self.up_blocks:
            x = block(x, skips, emb, text)
        x = channels_first(self.conv_out(self.conv_norm_out(x, act="silu")), sample.dtype)
        return UNet2DConditionOutput(x) if return_dict else (x,)

    def control(
        self, x: Tensor, skips: list[Tensor], down: Sequence[Tensor] | None, mid: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Add a ControlNet's residuals to the middle and to the skips."""
        if down is not None and len(down) != len(skips):
            raise ValueError(
                f"{len(down)} down-block residuals for {len(skips)} skips; is the ControlNet of this family?"
            )
        if down is not None:
            skips = [plus(skip, channels_last(more, self.dtype)) for skip, more in zip(skips, down, strict=True)]
        return x if mid is None else plus(x, channels_last(mid, self.dtype)), skips

    def extra_repr(self) -> str:
        return f"{self.config}"
