"""The leaves and the block of a decoder. B batch, L tokens, C channels, H heads, G key/value heads, D numbers a head.

Parameter names and shapes are those of the family's checkpoints: a layer finds its parts by role and keeps them under
the checkpoint's names. The part that a role names may be any layer with a Linear's call, so that adapters and quantised
leaves can stand in for it.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

import kernels
from mix.llm.config import Alibi, DecoderConfig, Rope
from mix.llm.context import Context, Heads
from ppdiffusers.models.layers import LayerNorm, Linear, plus


class RMSNorm(nn.Layer):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, eps=self.eps)


class PlainNorm(nn.Layer):
    """Layer norm without weights (OPT without `layer_norm_elementwise_affine`)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.width, self.eps = width, eps

    def forward(self, x: Tensor) -> Tensor:
        ones, zeros = paddle.ones([self.width], x.dtype), paddle.zeros([self.width], x.dtype)
        return kernels.layer_norm(x, ones, zeros, eps=self.eps)


class Conv1D(Linear):
    """A Linear whose checkpoint already has the weight as (in, out): GPT-2's."""

    TURNED = False


class TiedHead(Linear):
    """The logits of (B, L, C) by the table of token vectors (V, C), which belongs to the embedding.

    `pack()` makes a copy in the layout of the fast kernel, for inference.
    """

    def __init__(self, embed: nn.Embedding) -> None:
        nn.Layer.__init__(self)
        self.bias = cast(Any, None)
        self._embed = (embed,)  # in a tuple, so that it is not this layer's parameter a second time

    def pack(self) -> None:
        if self.packed is None:
            self.packed = kernels.pack_linear(self._embed[0].weight.t().contiguous())

    def unpack(self) -> None:
        self.packed = None

    def dense_weight(self) -> Tensor:
        return self._embed[0].weight.t()

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        if self.packed is not None:
            return kernels.linear(x, self.packed)
        table = self._embed[0].weight
        if x.dtype == paddle.float32 or x.place.is_gpu_place():
            return paddle.matmul(x, table, transpose_y=True)
        return kernels.linear(x, table.t().contiguous())

    def _state_dict_impl(self, *args: Any, **kwargs: Any) -> Any:
        return nn.Layer._state_dict_impl(self, *args, **kwargs)


def make_norm(config: DecoderConfig, width: int | None = None) -> nn.Layer:
    kind = RMSNorm if config.norm == "rms" else LayerNorm if config.norm_affine else PlainNorm
    return kind(width or config.hidden_size, config.norm_eps)


def make_linear(config: DecoderConfig, width_in: int, width_out: int, bias: bool) -> Linear:
    return (Conv1D if config.conv1d else Linear)(width_in, width_out, bias)


class Parts:
    """Mixed into a layer whose parts have roles here and dotted names in checkpoints."""

    _places: dict[str, tuple[str, ...]]

    def name_parts(self, names: Mapping[str, str]) -> None:
        """Say what the parts are called, before any is put."""
        self._places = {role: tuple(name.split(".")) for role, name in names.items()}

    def put(self, role: str, layer: nn.Layer) -> None:
        """Register the part of that role under its name, making the layers above it."""
        *above, name = self._places[role]
        at = cast(nn.Layer, self)
        for step in above:
            if step not in at._sub_layers:
                at.add_sublayer(step, nn.Layer())
            at = cast(nn.Layer, at._sub_layers[step])
        at.add_sublayer(name, layer)

    def part(self, role: str) -> Any:
        """The part of that role, whoever plays it now."""
        above, name = self.place(role)
        return above[name]

    def place(self, role: str) -> tuple[dict[str, Any], str]:
        """Where the part of that role is kept: the sub-layers of the layer above it, and its name there."""
        *above, name = self._places[role]
        at: Any = self
        for step in above:
            at = at._sub_layers[step]
        return at._sub_layers, name


class Block(Parts, nn.Layer):
    """One layer: attention and a network for each token, with norms and skip connections as the config has them."""

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.name_parts(config.names.block)
        self.config, self.index = config, index
        slopes = alibi_slopes(config.num_heads) if isinstance(config.positions, Alibi) else None
        self.heads = Heads(1 / math.sqrt(config.head_dim), config.window[index], slopes)
        self.run = getattr(self, f"_{config.residual}")
        self._build_attention()
        self._build_mlp()

    def _build_attention(self) -> None:
        c, norms = self.config, ["attn_norm", "mlp_norm"]
        wide, narrow = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        if c.residual == "sandwich":
            norms += ["attn_out_norm", "mlp_out_norm"]
        for role in norms:
            self.put(role, make_norm(c))
        parts = {"q": wide, "k": narrow, "v": narrow} if c.fused_qkv == "split" else {"qkv": wide + 2 * narrow}
        for role, width in parts.items():
            self.put(role, make_linear(c, c.hidden_size, width, c.qkv_bias))
        self.put("o", make_linear(c, wide, c.hidden_size, c.out_bias))
        if c.qk_norm:
            self.put("q_norm", RMSNorm(c.head_dim, c.norm_eps))
            self.put("k_norm", RMSNorm(c.head_dim, c.norm_eps))

    def _build_mlp(self) -> None:
        c = self.config
        ups = {"gate_up": 2} if c.fused_mlp else {"gate": 1, "up": 1} if c.gated else {"up": 1}
        for role, times in ups.items():
            self.put(role, make_linear(c, c.hidden_size, times * c.intermediate_size, c.mlp_bias))
        self.put("down", make_linear(c, c.intermediate_size, c.hidden_size, c.mlp_bias))

    def forward(self, x: Tensor, context: Context, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """x (B, L, C) after this layer; `context` holds the keys that each query may see, `angles` turn q and k."""
        return self.run(x, context, angles)

    def _pre(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        x = self.attention(self.part("attn_norm")(x), context, angles, x)
        return self.mlp(self.part("mlp_norm")(x), x)

    def _inner(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        h = self.part("attn_norm")(x)
        h = self.part("mlp_norm")(self.attention(h, context, angles, h))
        return self.mlp(h, h)

    def _post(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        x = self.part("attn_norm")(self.attention(x, context, angles, x))
        return self.part("mlp_norm")(self.mlp(x, x))

    def _sandwich(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        h = self.attention(self.part("attn_norm")(x), context, angles, None)
        x = plus(x, self.part("attn_out_norm")(h))
        return plus(x, self.part("mlp_out_norm")(self.mlp(self.part("mlp_norm")(x), None)))

    def _parallel(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        h = self.attention(self.part("attn_norm")(x), context, angles, x)
        return self.mlp(self.part("mlp_norm")(x), h)

    def attention(
        self, x: Tensor, context: Context, angles: tuple[Tensor, Tensor] | None, residual: Tensor | None
    ) -> Tensor:
        q, k, v = self.queries_keys_values(x)
        if self.config.qk_norm:
            q, k = self.part("q_norm")(q), self.part("k_norm")(k)
        if angles is not None:
            q, k = (turn(t, angles, cast(Rope, self.config.positions)) for t in (q, k))
        seen = context.attend(self.index, q, k, v, self.heads)
        return self.part("o")(seen.flatten(2), residual=residual)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, H, D), (B, L, G, D), (B, L, G, D)."""
        c, (b, length, _) = self.config, x.shape
        heads, groups, d = c.num_heads, c.num_kv_heads, c.head_dim
        if c.fused_qkv == "split":
            q, k, v = (self.part(role)(x) for role in ("q", "k", "v"))
        elif c.fused_qkv == "concat":
            q, k, v = self.part("qkv")(x).split([heads * d, groups * d, groups * d], axis=-1)
        else:
            q, k, v = self.part("qkv")(x).reshape([b, length, heads, 3, d]).unbind(3)
        return tuple(t.reshape([b, length, n, d]) for t, n in ((q, heads), (k, groups), (v, groups)))  # type: ignore

    def mlp(self, x: Tensor, residual: Tensor | None) -> Tensor:
        c = self.config
        if c.fused_mlp:
            h = kernels.swiglu(self.part("gate_up")(x))
        elif c.gated:
            h = kernels.swiglu(self.part("gate")(x), self.part("up")(x))
        elif c.act == "relu":
            h = relu(self.part("up")(x))
        else:
            h = self.part("up")(x, act=c.act)
        return self.part("down")(h, residual=residual)


def relu(x: Tensor) -> Tensor:
    """max(x, 0); in float32, because Paddle's CPU build has none for bfloat16."""
    return F.relu(x.astype("float32")).astype(x.dtype)


def turn(x: Tensor, angles: tuple[Tensor, Tensor], rope: Rope) -> Tensor:
    """x (B, L, H, D) with the first `rope.dim` numbers of each head turned by the angles."""
    cos, sin = angles
    if rope.dim == x.shape[-1]:
        return kernels.rope(x, cos, sin, interleaved=rope.interleaved)
    head, tail = x[..., : rope.dim].contiguous(), x[..., rope.dim :]
    return paddle.concat([kernels.rope(head, cos, sin, interleaved=rope.interleaved), tail], axis=-1)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """2^(-8i/n) for i = 1..n; for n not a power of two the odd ones of the next power fill up (Press et al. 2021)."""

    def slopes(n: int, step: int = 1) -> list[float]:
        return [2.0 ** (-8.0 * i / n) for i in range(1, n + 1, step)]

    power = 2 ** int(math.log2(heads))
    return tuple((slopes(power) + slopes(2 * power, 2))[:heads])
