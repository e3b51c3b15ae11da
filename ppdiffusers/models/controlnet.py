"""ControlNet: a copy of the UNet's way down that reads a control picture and gives residuals for the UNet's skips."""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, ClassVar

import paddle
from paddle import Tensor, nn

from ppdiffusers.models.config import ControlNetConfig
from ppdiffusers.models.layers import Conv2D, channels_first, channels_last, plus
from ppdiffusers.models.outputs import ControlNetOutput
from ppdiffusers.models.unet import Timestep, UNet2DConditionModel, UNetEncoder

# One scale for all residuals, or one for each, the middle's last.
Scale = float | Sequence[float]


def soft_scales(count: int) -> list[float]:
    """Rising scales for `count` residuals, 0.1 to 1: fine levels follow the prompt, coarse ones the control picture."""
    return [10 ** (i / (count - 1) - 1) for i in range(count)]


class ControlNetConditioningEmbedding(nn.Layer):
    """The control picture (B, 8Y, 8X, 3) as features of the latent's size (B, Y, X, C)."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        widths = config.conditioning_embedding_out_channels
        self.conv_in = Conv2D(config.conditioning_channels, widths[0])
        blocks = []
        for before, after in pairwise(widths):
            blocks += [Conv2D(before, before), Conv2D(before, after, stride=2)]
        self.blocks = nn.LayerList(blocks)
        self.conv_out = zero(Conv2D(widths[-1], config.block_out_channels[0]))

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv_in, *self.blocks):
            x = conv(x, act="silu")
        return self.conv_out(x)


def zero(layer: Conv2D) -> Conv2D:
    """A new ControlNet starts by changing nothing."""
    for parameter in layer.parameters():
        nn.initializer.Constant(0.0)(parameter)
    return layer


class ControlNetModel(UNetEncoder):
    """Residuals for a UNet's skips and middle, from a control picture with values in [0, 1]."""

    CONFIG: ClassVar[type[ControlNetConfig]] = ControlNetConfig
    config: ControlNetConfig

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config)
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(config)
        widths = [config.block_out_channels[0]]
        for level, width in enumerate(config.block_out_channels):
            last = level == len(config.block_out_channels) - 1
            widths += [width] * (config.depths[level] + (not last))
        self.controlnet_down_blocks = nn.LayerList([zero(Conv2D(width, width, kernel=1)) for width in widths])
        self.controlnet_mid_block = zero(Conv2D(widths[-1], widths[-1], kernel=1))

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, **changes: Any) -> "ControlNetModel":
        """A new ControlNet for training: the UNet's own weights on the way down, zeros at every exit.

        `changes` are fields of `ControlNetConfig`.
        """
        net = cls(ControlNetConfig.from_unet(unet.config, **changes))
        net.to(dtype=unet.dtype)
        ours, theirs = net.state_dict(), unet.state_dict()
        for name in ours.keys() & theirs.keys():
            ours[name].set_value(theirs[name])
        return net

    def forward(
        self,
        sample: Tensor,
        timestep: Timestep,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: Scale = 1.0,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        return_dict: bool = True,
    ) -> ControlNetOutput | tuple[tuple[Tensor, ...], Tensor]:
        """Residuals (B, C, Y, X), of the sample's dtype.

        sample (B, C, Y, X), controlnet_cond (B, 3, 8Y, 8X); conditioning_scale is one number or one for each residual
        (see `soft_scales`); the rest is as for the UNet.
        """
        text = encoder_hidden_states.astype(self.dtype)
        emb = self.embed(timestep, sample.shape[0], added_cond_kwargs)
        x = self.conv_in(channels_last(sample, self.dtype), residual=self.hint(controlnet_cond, sample))
        x, skips = self.down(x, emb, text)
        x = self.mid_block(x, emb, text)
        residuals = [exit(skip) for exit, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        residuals.append(self.controlnet_mid_block(x))
        *down, mid = self.scaled(residuals, conditioning_scale, sample.dtype)
        return ControlNetOutput(tuple(down), mid) if return_dict else (tuple(down), mid)

    def hint(self, picture: Tensor, sample: Tensor) -> Tensor:
        """The control picture's features, of the latent's size."""
        if self.config.controlnet_conditioning_channel_order == "bgr":
            picture = picture.flip(axis=[1])
        hint = self.controlnet_cond_embedding(channels_last(picture, self.dtype))
        if hint.shape[1:3] != sample.shape[2:]:
            raise ValueError(
                f"a control picture of {list(picture.shape[2:])} gives features of {list(hint.shape[1:3])}, "
                f"the latent is {list(sample.shape[2:])}; resize the picture"
            )
        return hint

    def scaled(self, residuals: list[Tensor], scale: Scale, dtype: paddle.dtype) -> list[Tensor]:
        """Residuals as callers get them: weighted, channels first, pooled over the picture if the model wants it."""
        scales = [float(scale)] * len(residuals) if isinstance(scale, int | float) else list(scale)
        if len(scales) != len(residuals):
            raise ValueError(f"{len(scales)} scales for {len(residuals)} residuals; give one number or one each")
        if self.config.global_pool_conditions:
            residuals = [x.astype("float32").mean(axis=[1, 2], keepdim=True) for x in residuals]
        return [channels_first(x * s, dtype) for x, s in zip(residuals, scales, strict=True)]


def total(residuals: Sequence[Tensor]) -> Tensor:
    return reduce(plus, residuals)


class MultiControlNet(nn.Layer):
    """Several ControlNets at once: their residuals are summed."""

    def __init__(self, nets: Sequence[ControlNetModel]) -> None:
        super().__init__()
        self.nets = nn.LayerList(nets)

    def forward(
        self,
        sample: Tensor,
        timestep: Timestep,
        encoder_hidden_states: Tensor,
        controlnet_cond: Sequence[Tensor],
        conditioning_scale: Sequence[Scale],
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        return_dict: bool = True,
    ) -> ControlNetOutput | tuple[tuple[Tensor, ...], Tensor]:
        """As `ControlNetModel`, with one picture and one scale for each net."""
        if not len(self.nets) == len(controlnet_cond) == len(conditioning_scale):
            raise ValueError(
                f"{len(self.nets)} ControlNets got {len(controlnet_cond)} pictures "
                f"and {len(conditioning_scale)} scales; give one of each for every net"
            )
        answers = [
            net(sample, timestep, encoder_hidden_states, picture, scale, added_cond_kwargs)
            for net, picture, scale in zip(self.nets, controlnet_cond, conditioning_scale, strict=True)
        ]
        down = tuple(total(same) for same in zip(*(a.down_block_res_samples for a in answers), strict=True))
        mid = total([a.mid_block_res_sample for a in answers])
        return ControlNetOutput(down, mid) if return_dict else (down, mid)
