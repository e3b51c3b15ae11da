"""The autoencoder between pictures in [-1, 1] and latents, whole or in overlapping tiles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import paddle
from paddle import Tensor, nn

from ppdiffusers.models.config import VAEConfig
from ppdiffusers.models.layers import (
    Attention,
    Conv2D,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    channels_first,
    channels_last,
)
from ppdiffusers.models.outputs import AutoencoderKLOutput, DecoderOutput, DiagonalGaussian
from ppdiffusers.models.pretrained import Pretrained

EPS = 1e-6


class PixelAttention(Attention):
    """Self-attention over all pixels, one head, with its own norm and residual."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__(width, heads=1, bias=True)
        self.group_norm = GroupNorm(groups, width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(1, 2)
        return super().forward(h, context=h, residual=x.flatten(1, 2)).reshape(x.shape)


class MidBlock(nn.Layer):
    """Two residual blocks around an attention."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        width, groups = config.block_out_channels[-1], config.norm_num_groups
        self.resnets = nn.LayerList([ResBlock(width, width, groups, EPS) for _ in range(2)])
        attend = PixelAttention(width, groups) if config.mid_block_add_attention else nn.Identity()
        self.attentions = nn.LayerList([attend])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class DownBlock(nn.Layer):
    """Residual blocks, then half the size; the convolution sees one more row and column at the far sides only."""

    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        width, depth = widths[level], config.layers_per_block
        inputs = [widths[max(level - 1, 0)]] + [width] * (depth - 1)
        self.resnets = nn.LayerList([ResBlock(i, width, config.norm_num_groups, EPS) for i in inputs])
        self.downsamplers = nn.LayerList([Downsample(width, (0, 1, 0, 1))] if level < len(widths) - 1 else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nn.Layer):
    """Residual blocks, then twice the size."""

    def __init__(self, config: VAEConfig, step: int) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        width, depth = widths[step], config.layers_per_block + 1
        inputs = [widths[max(step - 1, 0)]] + [width] * (depth - 1)
        self.resnets = nn.LayerList([ResBlock(i, width, config.norm_num_groups, EPS) for i in inputs])
        self.upsamplers = nn.LayerList([Upsample(width)] if step < len(widths) - 1 else [])

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for upsample in self.upsamplers:
            x = upsample(x, (2 * x.shape[1], 2 * x.shape[2]))
        return x


class Encoder(nn.Layer):
    """Pictures (B, Y, X, 3) to mean and log-variance (B, Y/8, X/8, 2 * latent)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = Conv2D(config.in_channels, widths[0])
        self.down_blocks = nn.LayerList([DownBlock(config, i) for i in range(len(widths))])
        self.mid_block = MidBlock(config)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], EPS)
        self.conv_out = Conv2D(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), act="silu"))


class Decoder(nn.Layer):
    """Latents (B, Y, X, latent) to pictures (B, 8Y, 8X, 3)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = Conv2D(config.latent_channels, widths[-1])
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.LayerList([UpBlock(config, i) for i in range(len(widths))])
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], EPS)
        self.conv_out = Conv2D(widths[0], config.out_channels)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x, act="silu"))


@dataclass(frozen=True)
class Tiling:
    """Overlapping squares: `size` and `step` count pixels of what is cut, `blend` and `keep` pixels of the result."""

    size: int
    step: int
    blend: int
    keep: int

    def starts(self, length: int) -> range:
        return range(0, length, self.step)


@dataclass(frozen=True, eq=False)
class Tile:
    """One finished tile, number `index` of `of`; the last one carries the whole result."""

    index: int
    of: int
    result: Tensor | None = None


def tiled(x: Tensor, run: Callable[[Tensor], Tensor], tiling: Tiling) -> Iterator[Tile]:
    """Run a network over tiles of x (B, C, Y, X); each tile is faded into its upper and left neighbours."""
    rows, columns = tiling.starts(x.shape[2]), tiling.starts(x.shape[3])
    of, size, keep = len(rows) * len(columns), tiling.size, tiling.keep
    above: list[Tensor] = []
    strips: list[Tensor] = []
    for i, top in enumerate(rows):
        row: list[Tensor] = []
        for j, left in enumerate(columns):
            tile = run(x[:, :, top : top + size, left : left + size]).astype("float32")
            if above:
                tile = fade(above[j], tile, tiling.blend, axis=2)
            if row:
                tile = fade(row[-1], tile, tiling.blend, axis=3)
            row.append(tile)
            if (i + 1, j + 1) != (len(rows), len(columns)):
                yield Tile(i * len(columns) + j, of)
        strips.append(paddle.concat([tile[:, :, :keep, :keep] for tile in row], axis=3))
        above = row
    yield Tile(of - 1, of, paddle.concat(strips, axis=2).astype(x.dtype))


def fade(before: Tensor, tile: Tensor, extent: int, axis: int) -> Tensor:
    """`tile` whose first `extent` rows (axis 2) or columns (3) come gradually out of the last ones of `before`."""
    extent = min(before.shape[axis], tile.shape[axis], extent)
    if extent == 0:
        return tile
    shape = [1, 1, 1, 1]
    shape[axis] = extent
    share = (paddle.arange(extent, dtype="float32") / extent).reshape(shape)
    old = paddle.slice(before, [axis], [before.shape[axis] - extent], [before.shape[axis]])
    new = paddle.slice(tile, [axis], [0], [extent])
    rest = paddle.slice(tile, [axis], [extent], [tile.shape[axis]])
    mixed = old * (1 - share) + new * share
    return mixed if rest.shape[axis] == 0 else paddle.concat([mixed, rest], axis=axis)


class AutoencoderKL(Pretrained):
    """Stable Diffusion's autoencoder. Latents here are unscaled: pipelines multiply by `config.scaling_factor`."""

    CONFIG: ClassVar[type[VAEConfig]] = VAEConfig
    ALIASES: ClassVar[tuple[tuple[str, str], ...]] = (
        (".to_q.", ".query."),
        (".to_k.", ".key."),
        (".to_v.", ".value."),
        (".to_out.0.", ".proj_attn."),
    )
    config: VAEConfig

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config)
        latent = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = Conv2D(2 * latent, 2 * latent, kernel=1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = Conv2D(latent, latent, kernel=1) if config.use_post_quant_conv else nn.Identity()

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussian]:
        """The posterior over latents of pictures (B, 3, Y, X) in [-1, 1], one picture after the other."""
        posterior = DiagonalGaussian(paddle.concat([self._moments(one) for one in x.split(x.shape[0])]))
        return AutoencoderKLOutput(posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Pictures (B, 3, 8Y, 8X) of unscaled latents (B, 4, Y, X), one picture after the other."""
        x = paddle.concat([self._picture(one) for one in z.split(z.shape[0])])
        return DecoderOutput(x) if return_dict else (x,)

    def forward(self, sample: Tensor, noise: Tensor | None = None) -> DecoderOutput:
        """Encode and decode; with `noise` the latent is drawn, without it is the mean."""
        posterior = DiagonalGaussian(self._moments(sample))
        return DecoderOutput(self._picture(posterior.mode() if noise is None else posterior.sample(noise)))

    def encode_tiled(self, x: Tensor, tile: int | None = None, overlap: float = 0.25) -> AutoencoderKLOutput:
        """As `encode`, in tiles of `tile` picture pixels (default: the size the model was made for)."""
        *_, last = self.encode_tiles(x, tile, overlap)
        return AutoencoderKLOutput(DiagonalGaussian(cast(Tensor, last.result)))

    def decode_tiled(self, z: Tensor, tile: int | None = None, overlap: float = 0.25) -> DecoderOutput:
        """As `decode`, in tiles of `tile` latent pixels; memory depends on the tile, not on the picture."""
        *_, last = self.decode_tiles(z, tile, overlap)
        return DecoderOutput(cast(Tensor, last.result))

    def encode_tiles(self, x: Tensor, tile: int | None = None, overlap: float = 0.25) -> Iterator[Tile]:
        """Tile by tile; the last `Tile` carries the moments (B, 2 * latent, Y/8, X/8), mean first."""
        size = tile or self.config.sample_size
        return tiled(x, self._moments, self._tiling(size, size // self.config.scale, overlap))

    def decode_tiles(self, z: Tensor, tile: int | None = None, overlap: float = 0.25) -> Iterator[Tile]:
        """Tile by tile; the last `Tile` carries the pictures."""
        size = tile or self.config.sample_size // self.config.scale
        return tiled(z, self._picture, self._tiling(size, size * self.config.scale, overlap))

    @staticmethod
    def _tiling(size: int, result: int, overlap: float) -> Tiling:
        step, blend = int(size * (1 - overlap)), int(result * overlap)
        if step < 1 or not 0 <= overlap < 1:
            raise ValueError(f"tiles of {size} with overlap {overlap} do not advance; overlap must be in [0, 1)")
        return Tiling(size, step, blend, result - blend)

    def _moments(self, x: Tensor) -> Tensor:
        return channels_first(self.quant_conv(self.encoder(channels_last(x, self.dtype))), x.dtype)

    def _picture(self, z: Tensor) -> Tensor:
        return channels_first(self.decoder(self.post_quant_conv(channels_last(z, self.dtype))), z.dtype)
