"""The leaves and blocks that the UNet, the VAE, the ControlNet and the text encoders are made of.

Everything here is channels-last: B batch, Y X height and width, C channels, L tokens. Parameter names and shapes are
diffusers', with Paddle's Linear weights (in, out). A leaf may be *packed* for inference: its weight then lives only in
the layout of a fast kernel.
"""

import math
from typing import Any, ClassVar, cast

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.base.framework import EagerParamBase

import kernels
from kernels import Packed

# --- leaves -----------------------------------------------------------------------------------------------------------


class PackedLeaf(nn.Layer):
    """A layer with one `weight` that can be swapped for its packed form; the plain tensor is freed meanwhile."""

    PACK: ClassVar[Any]

    weight: Tensor | None
    packed: Packed | None = None

    def pack(self) -> None:
        """Keep the weight only in the layout of the fast kernel: for inference, it takes no gradient."""
        if self.packed is None:
            self.packed = type(self).PACK(cast(Tensor, self.weight))
            self.weight = None

    def unpack(self) -> None:
        """Make the weight a plain parameter again, with the same bits."""
        if self.packed is not None:
            dense, self.packed = self.packed.unpack(), None
            self.weight = EagerParamBase.from_tensor(dense, trainable=True)

    def dense_weight(self) -> Tensor:
        """The plain weight in either state; to change the layer's weight use `set_dense_weight`."""
        return cast(Tensor, self.weight) if self.packed is None else self.packed.unpack()

    def set_dense_weight(self, weight: Tensor) -> None:
        """Replace the weight in either state; it is cast to the layer's dtype."""
        now = self.weight if self.packed is None else self.packed
        if list(weight.shape) != list(cast(Any, now).shape):
            raise ValueError(
                f"a weight of shape {list(weight.shape)} does not fit, this layer's is {list(cast(Any, now).shape)}"
            )
        if self.packed is None:
            cast(Tensor, self.weight).set_value(weight.astype(cast(Tensor, self.weight).dtype))
        else:
            self.packed = type(self).PACK(weight.astype(cast(Any, self.packed.dtype)))

    def kernel_weight(self) -> Tensor | Packed:
        return cast(Tensor, self.weight) if self.packed is None else self.packed

    def _state_dict_impl(self, *args: Any, **kwargs: Any) -> Any:
        # Paddle collects state dicts through this method; a packed weight takes part with its plain form.
        if self.packed is None:
            return super()._state_dict_impl(*args, **kwargs)
        self.weight = EagerParamBase.from_tensor(self.dense_weight(), trainable=True)
        try:
            return super()._state_dict_impl(*args, **kwargs)
        finally:
            self.weight = None


class Linear(PackedLeaf, nn.Linear):
    """y = act(x W + b) + residual, in one pass; W is (in, out)."""

    PACK = staticmethod(kernels.pack_linear)

    def __init__(self, width_in: int, width_out: int, bias: bool = True) -> None:
        super().__init__(width_in, width_out, bias_attr=None if bias else False)

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        return kernels.linear(x, self.kernel_weight(), self.bias, act=act, residual=residual)


class Conv2D(PackedLeaf, nn.Conv2D):
    """Convolution over (B, Y, X, C); weight (out, in, kh, kw); `padding` a number or (top, bottom, left, right)."""

    PACK = staticmethod(kernels.pack_conv2d)

    def __init__(
        self,
        width_in: int,
        width_out: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int | tuple[int, int, int, int] | None = None,
    ) -> None:
        super().__init__(width_in, width_out, kernel, stride=stride)
        self.stride = stride
        self.padding = kernel // 2 if padding is None else padding

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        weight, stride, padding = self.kernel_weight(), self.stride, self.padding
        return kernels.conv2d(x, weight, self.bias, stride=stride, padding=padding, act=act, residual=residual)


class GroupNorm(nn.GroupNorm):
    """Group norm over (B, ..., C), with the time embedding's shift before it and SiLU after it when asked for."""

    def __init__(self, groups: int, width: int, eps: float) -> None:
        super().__init__(groups, width, epsilon=eps)
        self.groups, self.eps = groups, eps

    def forward(self, x: Tensor, act: str | None = None, shift: Tensor | None = None) -> Tensor:
        return kernels.group_norm(x, self.weight, self.bias, groups=self.groups, eps=self.eps, act=act, shift=shift)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, epsilon=eps)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.layer_norm(x, self.weight, self.bias, eps=self.eps)


def packed_leaves(model: nn.Layer) -> list[PackedLeaf]:
    """All layers of `model`, itself included, that can be packed."""
    return [layer for layer in model.sublayers(include_self=True) if isinstance(layer, PackedLeaf)]


def pack(model: nn.Layer) -> None:
    """Pack every weight of `model` for inference, one by one, so that memory never holds two copies of the model."""
    for leaf in packed_leaves(model):
        leaf.pack()


def unpack(model: nn.Layer) -> None:
    """Undo `pack`: every weight is a plain parameter again, with the bits it had."""
    for leaf in packed_leaves(model):
        leaf.unpack()


# --- borders ----------------------------------------------------------------------------------------------------------


def channels_last(x_BCYX: Tensor, dtype: Any) -> Tensor:
    """(B, C, Y, X) as callers give it -> (B, Y, X, C) in the model's dtype."""
    return x_BCYX.astype(dtype).transpose([0, 2, 3, 1]).contiguous()


def channels_first(x_BYXC: Tensor, dtype: Any) -> Tensor:
    """(B, Y, X, C) inside -> (B, C, Y, X) for callers."""
    return x_BYXC.transpose([0, 3, 1, 2]).contiguous().astype(dtype)


def plus(x: Tensor, y: Tensor) -> Tensor:
    """x + y, in x's dtype; one of them may be spread over the other (a sum of pooled residuals)."""
    y = y.astype(x.dtype)
    if x.shape == y.shape:
        return kernels.add(x, y)
    return (x.astype("float32") + y.astype("float32")).astype(x.dtype)


# --- residual blocks --------------------------------------------------------------------------------------------------


class ResBlock(nn.Layer):
    """norm, SiLU, conv, twice; plus the input."""

    def __init__(self, width_in: int, width_out: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, width_in, eps)
        self.conv1 = Conv2D(width_in, width_out)
        self.norm2 = GroupNorm(groups, width_out, eps)
        self.conv2 = Conv2D(width_out, width_out)
        self.conv_shortcut = nn.Identity() if width_in == width_out else Conv2D(width_in, width_out, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x, act="silu"))
        return self.conv2(self.norm2(h, act="silu"), residual=self.conv_shortcut(x))


class TimeResBlock(ResBlock):
    """A residual block that also hears the time embedding; `emb` (B, E) has been through SiLU, once for all blocks."""

    def __init__(self, width_in: int, width_out: int, emb: int, groups: int, eps: float) -> None:
        super().__init__(width_in, width_out, groups, eps)
        self.time_emb_proj = Linear(emb, width_out)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x, act="silu"))
        h = self.norm2(h, act="silu", shift=self.time_emb_proj(emb))
        return self.conv2(h, residual=self.conv_shortcut(x))


class Downsample(nn.Layer):
    """Half the sides by a strided convolution."""

    def __init__(self, width: int, padding: int | tuple[int, int, int, int] = 1) -> None:
        super().__init__()
        self.conv = Conv2D(width, width, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Layer):
    """Nearest neighbours to `size` (Y, X), then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv2D(width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(nearest(x, size))


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, Y, X, C) to `size` by repeating pixels: row i of the result is row floor(i * Y / size) of x."""
    _, y, w, _ = x.shape
    if size == (2 * y, 2 * w):
        return kernels.upsample_nearest2x(x)
    for axis, (old, new) in enumerate(zip((y, w), size, strict=True), start=1):
        x = paddle.index_select(x, paddle.to_tensor(np.arange(new) * old // new), axis=axis)
    return x


# --- attention --------------------------------------------------------------------------------------------------------


class Attention(nn.Layer):
    """Multi-head attention of x (B, L, C) to `context` (B, M, K), plus `residual`."""

    def __init__(self, width: int, heads: int, context: int | None = None, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias)
        self.to_k = Linear(context or width, width, bias)
        self.to_v = Linear(context or width, width, bias)
        self.to_out = nn.LayerList([Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor, residual: Tensor) -> Tensor:
        q, k, v = self.split(self.to_q(x)), self.split(self.to_k(context)), self.split(self.to_v(context))
        return self.to_out[0](kernels.attention(q, k, v).flatten(2), residual=residual)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape([*x.shape[:2], self.heads, x.shape[2] // self.heads])


class GEGLU(nn.Layer):
    """Project to twice the width; one half gates the other."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = Linear(width_in, 2 * width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x, act="geglu")


class FeedForward(nn.Layer):
    """Four times wider and back, plus `residual`. The middle place of `net` is diffusers' dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.LayerList([GEGLU(width, 4 * width), nn.Identity(), Linear(4 * width, width)])

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.net[2](self.net[0](x), residual=residual)


class TransformerBlock(nn.Layer):
    """Self-attention, attention to the text, feed-forward; a layer norm before and a residual around each."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = LayerNorm(width), Attention(width, heads)
        self.norm2, self.attn2 = LayerNorm(width), Attention(width, heads, context)
        self.norm3, self.ff = LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        h = self.norm1(x)
        x = self.attn1(h, context=h, residual=x)
        x = self.attn2(self.norm2(x), context=text, residual=x)
        return self.ff(self.norm3(x), residual=x)


class SpatialTransformer(nn.Layer):
    """Transformer blocks over the pixels of (B, Y, X, C): diffusers' Transformer2DModel."""

    def __init__(
        self, width: int, heads: int, depth: int, context: int, groups: int, projection: type[Linear] | type[Conv2D]
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, width, 1e-6)
        self.proj_in = project(width, projection)
        self.transformer_blocks = nn.LayerList([TransformerBlock(width, heads, context) for _ in range(depth)])
        self.proj_out = project(width, projection)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x)).flatten(1, 2)
        for block in self.transformer_blocks:
            h = block(h, text)
        return self.proj_out(h.reshape(x.shape), residual=x)


def project(width: int, kind: type[Linear] | type[Conv2D]) -> Linear | Conv2D:
    """A map of each pixel: SD 1 stores it as a 1x1 convolution, SD 2 and XL as a Linear."""
    return kind(width, width, 1) if issubclass(kind, Conv2D) else kind(width, width)


class NoAttention(nn.Layer):
    """Stands where a level has no attention, so that every level reads the same."""

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return x


# --- time -------------------------------------------------------------------------------------------------------------


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """(N,) -> (N, dim) fp32: cosines then sines of t at frequencies from 1 down to 1/10000."""
    half = dim // 2
    angles = t.astype("float32").unsqueeze(1) * paddle.to_tensor(
        np.exp(np.arange(half) * (-math.log(10000.0) / half)).astype("float32")
    )
    return paddle.concat([angles.cos(), angles.sin()], axis=1)


class TimestepEmbedding(nn.Layer):
    """Two Linears with SiLU between; LCM models add a projection of the guidance embedding (B, `cond`) to the input."""

    def __init__(self, width_in: int, width: int, cond: int | None = None) -> None:
        super().__init__()
        self.linear_1 = Linear(width_in, width)
        self.linear_2 = Linear(width, width)
        if cond:
            self.cond_proj = Linear(cond, width_in, bias=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.linear_2(self.linear_1(x, act="silu"), residual=residual)
