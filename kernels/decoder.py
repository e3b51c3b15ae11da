"""All layers of a Llama-like decoder for one new token a row, as one op over weights that stay quantised.

A token's way through a layer is norm, q k v, rotary positions, cache, attention, o, norm, gate and up, SwiGLU, down,
with both residuals. Done op by op that is some thirteen calls a layer, which cost a small model more than its
arithmetic.
`native` goes through all layers in one team of threads and, like `quantized_linear`, rounds what enters a matrix to
8 bits in blocks of 32; `composed` is the same by single ops, `reference` by plain ones with exact products. No
gradients.

Call.options: (kinds of the weights, dtype of the caches, whether there is a block table).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain

import paddle
from paddle import Tensor

from kernels import build, reference
from kernels.attention import attention_decode, decode_reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, no, table
from kernels.glu import swiglu
from kernels.native import refusal
from kernels.norm import rms_norm
from kernels.quant import QuantizedWeight, quantized_linear, quantized_reference
from kernels.rope import rope

build.register(build.Extension("decoder", kernels=("decoder.cc", "quant_matmul.cc", "attention_decode.cc")))
_refuse = refusal("decoder")

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True, eq=False)
class Projection:
    """A quantised matrix with its bias (out,), if it has one."""

    weight: QuantizedWeight
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class DecoderLayer:
    """The weights of one layer; norms are (C,), those of queries and keys (D,).

    `window`: keys that a token sees, itself included; 0 for all.
    """

    attn_norm: Tensor
    mlp_norm: Tensor
    q: Projection
    k: Projection
    v: Projection
    o: Projection
    gate: Projection
    up: Projection
    down: Projection
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    window: int = 0

    @property
    def matrices(self) -> tuple[Projection, ...]:
        """In the order of MATRICES."""
        return (self.q, self.k, self.v, self.o, self.gate, self.up, self.down)


@dataclass(frozen=True, eq=False)
class DecoderStack:
    """A decoder's layers and what they have in common: C channels, H heads of D numbers, G key/value heads.

    `eps` of all norms, `scale` of the scores, and whether rotary pairs are neighbours or halves. Raises ValueError for
    weights that do not fit together.
    """

    layers: tuple[DecoderLayer, ...]
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    scale: float
    interleaved: bool = False

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("DecoderStack: no layers")
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"DecoderStack: {self.heads} heads cannot share {self.kv_heads} keys and values")
        for i, layer in enumerate(self.layers):
            self._check(i, layer)

    @property
    def width(self) -> int:
        """C."""
        return self.layers[0].q.weight.shape[0]

    def _check(self, index: int, layer: DecoderLayer) -> None:
        c, inner = self.width, self.layers[0].down.weight.shape[0]
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        wanted = {"q": (c, wide), "k": (c, narrow), "v": (c, narrow), "o": (wide, c)}
        wanted |= {"gate": (c, inner), "up": (c, inner), "down": (inner, c)}
        for name, projection in zip(MATRICES, layer.matrices, strict=True):
            if projection.weight.shape != wanted[name]:
                raise ValueError(
                    f"DecoderStack: {name} of layer {index} is {projection.weight.shape}, it must be {wanted[name]}"
                )
            if projection.bias is not None and projection.bias.shape != [wanted[name][1]]:
                raise ValueError(f"DecoderStack: the bias of {name} in layer {index} is {projection.bias.shape}")
        norms = {"attn_norm": c, "mlp_norm": c, "q_norm": self.head_dim, "k_norm": self.head_dim}
        for name, size in norms.items():
            weight = getattr(layer, name)
            if weight is not None and weight.shape != [size]:
                raise ValueError(f"DecoderStack: {name} of layer {index} is {weight.shape}, it must be ({size},)")

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the weights, each once."""
        return tuple(sorted({p.weight.kind for layer in self.layers for p in layer.matrices}))

    @cached_property
    def lists(self) -> "_Lists":
        return _lists_of(self)


@dataclass(frozen=True, eq=False)
class _Lists:
    """What the native op takes, layer after layer."""

    norms: list[Tensor]
    blocks: list[Tensor]
    biases: list[Tensor]
    abouts: list[int]
    windows: list[int]


def _lists_of(stack: DecoderStack) -> _Lists:
    nothing = paddle.empty([0], dtype="float32")

    def plain(t: Tensor | None) -> Tensor:
        return nothing if t is None else t if t.dtype == paddle.float32 else t.detach().astype("float32")

    matrices = [p for layer in stack.layers for p in layer.matrices]
    return _Lists(
        [plain(t) for layer in stack.layers for t in (layer.attn_norm, layer.mlp_norm, layer.q_norm, layer.k_norm)],
        [p.weight.blocks for p in matrices],
        [plain(p.bias) for p in matrices],
        list(chain.from_iterable(p.weight._about() for p in matrices)),
        [layer.window for layer in stack.layers],
    )


@dataclass(frozen=True, eq=False)
class Pages:
    """Where rows find and put their keys and values.

    keys[i] and values[i] (pages, page size, G, D) of layer i, float32 or bfloat16. Row r is the last of lengths[r]
    tokens (int32, the new one included), which lie in the pages that table[r] names in order (int32 (N, most pages));
    without a table they lie in page r. Entries of the table beyond a row's end may be anything.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    lengths: Tensor
    table: Tensor | None = None


def _native(x: Tensor, stack: DecoderStack, pages: Pages, cos: Tensor, sin: Tensor) -> Tensor:
    lists = stack.lists
    where = paddle.empty([0], dtype="int32") if pages.table is None else pages.table
    about = (lists.abouts, lists.windows, stack.interleaved, stack.eps, stack.scale)
    weights = (lists.norms, lists.blocks, lists.biases)
    return build.run(
        "mix_decoder", x, *weights, list(pages.keys), list(pages.values), pages.lengths, where, cos, sin, *about
    )


# by single ops ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ops:
    """What a layer is composed of."""

    norm: Callable[..., Tensor]
    product: Callable[..., Tensor]  # (x, weight, bias, residual)
    rope: Callable[..., Tensor]
    look: Callable[..., Tensor]  # (q, keys, values, lengths, scale, table)
    gate: Callable[..., Tensor]


def _composed(x: Tensor, stack: DecoderStack, pages: Pages, cos: Tensor, sin: Tensor, ops: _Ops) -> Tensor:
    slots = _slots(pages)
    for layer, keys, values in zip(stack.layers, pages.keys, pages.values, strict=True):
        h = ops.norm(x, layer.attn_norm, stack.eps)
        q, k, v = (
            ops.product(h, p.weight, p.bias, None).reshape([x.shape[0], 1, -1, stack.head_dim])
            for p in (layer.q, layer.k, layer.v)
        )
        q = q if layer.q_norm is None else ops.norm(q, layer.q_norm, stack.eps)
        k = k if layer.k_norm is None else ops.norm(k, layer.k_norm, stack.eps)
        q, k = (_turned(t, cos, sin, stack.interleaved, ops) for t in (q, k))
        _put(keys, slots, k)
        _put(values, slots, v)
        if layer.window and int(pages.lengths.max()) > layer.window:
            seen = _look_back(q, keys, values, pages, stack.scale, layer.window)
        else:
            seen = ops.look(q, keys, values, pages.lengths, stack.scale, pages.table)
        x = ops.product(seen.reshape([x.shape[0], -1]), layer.o.weight, layer.o.bias, x)
        h = ops.norm(x, layer.mlp_norm, stack.eps)
        h = ops.gate(*(ops.product(h, p.weight, p.bias, None) for p in (layer.gate, layer.up)))
        x = ops.product(h, layer.down.weight, layer.down.bias, x)
    return x


def _slots(pages: Pages) -> Tensor:
    """Where the new token of each row goes: an index into (pages page size)."""
    at, size = pages.lengths.astype("int64") - 1, pages.keys[0].shape[1]
    if pages.table is None:
        return paddle.arange(at.shape[0]) * size + at
    page = paddle.take_along_axis(pages.table.astype("int64"), (at // size).unsqueeze(1), axis=1).squeeze(1)
    return page * size + at % size


def _put(side: Tensor, slots: Tensor, new: Tensor) -> None:
    width = new.shape[2] * new.shape[3]
    flat, rows = side.reshape([-1, width]), new.astype(side.dtype).reshape([-1, width])
    if side.dtype == paddle.bfloat16 and width % 2 == 0:  # Paddle's CPU build scatters no bfloat16, but int32
        flat, rows = flat.view("int32"), rows.view("int32")
    paddle.scatter_(flat, slots, rows)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, ops: _Ops) -> Tensor:
    """x (N, 1, H, D) with the first numbers of each head turned by the angles."""
    count, cos, sin = 2 * cos.shape[1], cos.unsqueeze(1), sin.unsqueeze(1)
    if count == x.shape[-1]:
        return ops.rope(x, cos, sin, interleaved)
    return paddle.concat([ops.rope(x[..., :count].contiguous(), cos, sin, interleaved), x[..., count:]], axis=-1)


def _look_back(q: Tensor, keys: Tensor, values: Tensor, pages: Pages, scale: float, window: int) -> Tensor:
    """Attention over the last `window` keys of each row."""
    if pages.table is not None:
        flat = pages.table.clip(min=0, max=keys.shape[0] - 1).flatten().astype("int64")
        shape = [q.shape[0], -1, *keys.shape[2:]]
        keys, values = (paddle.index_select(t, flat, axis=0).reshape(shape) for t in (keys, values))
    else:
        keys, values = keys[: q.shape[0]], values[: q.shape[0]]
    at, ends = paddle.arange(keys.shape[1]).unsqueeze(0), pages.lengths.astype("int64").unsqueeze(1)
    sees = (at < ends) & (at >= ends - window)
    hidden = ~sees.unsqueeze([2, 3])  # what lies there may never have been written, and 0 x NaN is NaN
    keys, values = (paddle.where(hidden, paddle.zeros([]), t.astype("float32")) for t in (keys, values))
    return reference.attention(q.astype("float32"), keys, values, sees.unsqueeze([1, 2]), False, scale).astype(q.dtype)


def _look(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float, where: Tensor | None) -> Tensor:
    if where is None:
        k, v = k[: q.shape[0]], v[: q.shape[0]]
    return attention_decode(q, k, v, lengths, scale=scale, block_table=where)


_SINGLE = _Ops(
    lambda x, weight, eps: rms_norm(x, weight, eps=eps),
    lambda x, weight, bias, residual: quantized_linear(x, weight, bias, residual=residual),
    lambda x, cos, sin, interleaved: rope(x, cos, sin, interleaved=interleaved),
    _look,
    swiglu,
)
_PLAIN = _Ops(reference.rms_norm, quantized_reference, reference.rope, decode_reference, reference.swiglu)


def _by_single_ops(x: Tensor, stack: DecoderStack, pages: Pages, cos: Tensor, sin: Tensor) -> Tensor:
    return _composed(x, stack, pages, cos, sin, _SINGLE)


def _by_plain_ops(x: Tensor, stack: DecoderStack, pages: Pages, cos: Tensor, sin: Tensor) -> Tensor:
    return _composed(x, stack, pages, cos, sin, _PLAIN)


def _refuse_native(call: Call) -> str | None:
    return no(
        (call.dtype != "float32", f"x is float32 between the layers, not {call.dtype}"),
        (call.grad, "has no gradient"),
        (call.options[1] not in ("float32", "bfloat16"), f"no {call.options[1]} caches"),
    ) or _refuse(call)


table(
    "decoder_step",
    Kernel("native", _native, _refuse_native, "CPU; float32; no gradients"),
    Kernel("composed", _by_single_ops, accept, "everything, by single ops"),
    Kernel("reference", _by_plain_ops, accept, "everything, in plain Paddle"),
)


@lru_cache(maxsize=256)
def _call(device: str, dtype: str, grad: bool, shape: tuple[int, ...], options: tuple[object, ...]) -> Call:
    return Call("decoder_step", device, dtype, grad, shape, options)


def decoder_step(x: Tensor, stack: DecoderStack, pages: Pages, cos: Tensor, sin: Tensor) -> Tensor:
    """x (N, C), one new token a row, after all layers; their keys and values are put into `pages`, in place.

    cos and sin (N, T/2) float32 turn the first T numbers of each head. Several rows may be tokens of one text that
    follow each other (the same pages, lengths one apart): each sees itself and what is before it. Rows do not
    influence each other otherwise: a row's result has the same bits in any batch. Raises ValueError for what does not
    fit.
    """
    rows = x.shape[0] if x.ndim else 0
    if x.ndim != 2 or x.shape[1] != stack.width or rows < 1:
        raise ValueError(f"decoder_step: x is {tuple(x.shape)}, it must be (N, {stack.width}) with at least one row")
    if len(pages.keys) != len(stack.layers) or len(pages.values) != len(stack.layers):
        raise ValueError(
            f"decoder_step: {len(pages.keys)} and {len(pages.values)} caches for {len(stack.layers)} layers"
        )
    if pages.keys[0].ndim != 4 or pages.keys[0].shape[2:] != [stack.kv_heads, stack.head_dim]:
        raise ValueError(
            f"decoder_step: the caches are {tuple(pages.keys[0].shape)}, they must be (pages, page size, "
            f"{stack.kv_heads}, {stack.head_dim})"
        )
    if pages.lengths.shape != [rows] or pages.lengths.dtype != paddle.int32:
        raise ValueError(f"decoder_step: lengths must be int32 ({rows},), not {tuple(pages.lengths.shape)}")
    if pages.table is not None and (pages.table.ndim != 2 or pages.table.shape[0] != rows):
        raise ValueError(f"decoder_step: the table is {tuple(pages.table.shape)}, it must be ({rows}, pages of a row)")
    if cos.shape != sin.shape or cos.ndim != 2 or cos.shape[0] != rows or 2 * cos.shape[1] > stack.head_dim:
        raise ValueError(f"decoder_step: cos {tuple(cos.shape)} and sin {tuple(sin.shape)} must be ({rows}, T/2)")
    options = (stack.kinds, dtype_of(pages.keys[0]), pages.table is not None)
    call = _call(device_of(x), dtype_of(x), needs_grad(x), tuple(x.shape), options)
    return choose(call).run(x, stack, pages, cos, sin)
