"""Each op in plain Paddle: the definition, the gradient by autograd, and the path that works everywhere.

Shapes: B batch, L query tokens, M key tokens, H heads, G key/value heads, D per head, C channels, Y X height and width.
Statistics, softmax and losses are computed in float32 whatever the dtype. On the CPU everything is: Paddle 3.3 has no
bfloat16 kernels there for sums, matmul, conv2d, softmax and most activations.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

QUERY_BLOCK = 1024  # rows of scores alive at once where no gradient is asked for; bounds memory at L x M
_HALF = (paddle.bfloat16, paddle.float16)


def in_float32(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`op` in float32 when its first tensor is a half-width one on the CPU; the result is of that dtype again."""

    @functools.wraps(op)
    def widened(x: Tensor, *rest: Any) -> Tensor:
        if x.dtype not in _HALF or x.place.is_gpu_place():
            return op(x, *rest)
        wide = (t.astype("float32") if isinstance(t, Tensor) and t.dtype in _HALF else t for t in rest)
        return op(x.astype("float32"), *wide).astype(x.dtype)

    return widened


def activate(x: Tensor, act: str | None) -> Tensor:
    """x after one of the activations that linear and conv2d can fuse."""
    match act:
        case None:
            return x
        case "silu":
            return silu(x)
        case "gelu":
            return gelu(x)
        case "gelu_tanh":
            return gelu_tanh(x)
        case "quick_gelu":
            return quick_gelu(x)
        case "geglu":
            return geglu(x)
        case _:
            pass
    raise ValueError(f"unknown activation {act!r}; known: None, silu, gelu, gelu_tanh, quick_gelu, geglu")


@in_float32
def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return F.silu(x)


@in_float32
def gelu(x: Tensor) -> Tensor:
    """x * Phi(x)."""
    return F.gelu(x)


@in_float32
def gelu_tanh(x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    return F.gelu(x, approximate=True)


@in_float32
def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x)."""
    return x * F.sigmoid(1.702 * x)


@in_float32
def geglu(x: Tensor) -> Tensor:
    """(..., 2D) -> (..., D): first half times GELU of the second (Shazeer 2020, in diffusers' order)."""
    value, gate = paddle.chunk(x, 2, axis=-1)
    return value * F.gelu(gate)


@in_float32
def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """silu(gate) * up; one argument of (..., 2D) holds gate then up."""
    if up is None:
        gate, up = paddle.chunk(gate, 2, axis=-1)
    return F.silu(gate) * up


@in_float32
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, act: str | None, residual: Tensor | None) -> Tensor:
    """act(x @ weight + bias) + residual; weight is (in, out)."""
    y = activate(F.linear(x, weight, bias), act)
    return y if residual is None else y + residual


@in_float32
def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: tuple[int, int, int, int],
    act: str | None,
    residual: Tensor | None,
) -> Tensor:
    """Channels-last convolution: x (B, Y, X, C), weight (out, in, kh, kw), padding (top, bottom, left, right)."""
    y = F.conv2d(x, weight, bias, stride=stride, padding=list(padding), data_format="NHWC")
    y = activate(y, act)
    return y if residual is None else y + residual


def attention_mask(mask: Tensor | None, causal: bool, rows: int, keys: int, first: int, total: int) -> Tensor | None:
    """Additive float32 mask of `rows` queries starting at `first` out of `total`, or None.

    Causal is aligned bottom-right: the last query sees every key, as decoding with a cache needs.
    """
    bias = None
    if mask is not None:
        cut = mask if mask.shape[-2] == 1 else mask[..., first : first + rows, :]
        bias = paddle.where(cut, 0.0, -math.inf) if cut.dtype == paddle.bool else cut.astype("float32")
    if causal:
        query = paddle.arange(first, first + rows).unsqueeze(-1) + (keys - total)
        future = paddle.where(paddle.arange(keys).unsqueeze(0) > query, -math.inf, 0.0).astype("float32")
        bias = future if bias is None else bias + future
    return bias


@in_float32
def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """softmax(q k^T * scale + mask) v for q (B, L, H, D), k and v (B, M, G, D); a row without any key gives zeros."""
    length, keys, groups = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    k, v = (t.repeat_interleave(groups, axis=2) if groups > 1 else t for t in (k, v))
    q, k, v = (t.transpose([0, 2, 1, 3]) for t in (q, k, v))
    needs_all = paddle.is_grad_enabled() and not (q.stop_gradient and k.stop_gradient and v.stop_gradient)
    block = length if needs_all else QUERY_BLOCK
    out = []
    for first in range(0, length, max(block, 1)):
        rows = q[:, :, first : first + block]
        scores = paddle.matmul(rows, k, transpose_y=True).astype("float32") * scale
        bias = attention_mask(mask, causal, rows.shape[2], keys, first, length)
        if bias is None:
            weights = F.softmax(scores, axis=-1)
        else:  # softmax over nothing is NaN, and so is its gradient; such a row attends to nothing
            alive = (bias > -math.inf).any(axis=-1, keepdim=True)
            bias = paddle.where(alive, bias, paddle.zeros_like(bias))
            weights = F.softmax(scores + bias, axis=-1) * alive.astype("float32")
        out.append(paddle.matmul(weights.astype(v.dtype), v))
    joined = out[0] if len(out) == 1 else paddle.concat(out, axis=2)
    return joined.transpose([0, 2, 1, 3])


def attention_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, causal: bool, scale: float) -> Tensor:
    """Attention within each packed sequence: q (T, H, D), boundaries cu_q and cu_k (N + 1,)."""
    ends_q, ends_k = cu_q.tolist(), cu_k.tolist()
    parts = [
        attention(q[a:b].unsqueeze(0), k[c:d].unsqueeze(0), v[c:d].unsqueeze(0), None, causal, scale).squeeze(0)
        for a, b, c, d in zip(ends_q[:-1], ends_q[1:], ends_k[:-1], ends_k[1:], strict=True)
        if b > a
    ]
    if not parts:
        return paddle.zeros_like(q)
    wide = [part.astype("float32") for part in parts]  # Paddle's CPU concat has no bf16 gradient
    return paddle.concat(wide, axis=0).astype(q.dtype)


def attention_decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """One query a sequence, q (B, 1, H, D), over the first `lengths` keys of a cache (B, M, G, D)."""
    keep = paddle.arange(k_cache.shape[1]).unsqueeze(0) < lengths.astype("int64").unsqueeze(-1)
    return attention(q, k_cache, v_cache, keep.unsqueeze(1).unsqueeze(1), False, scale)


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, act: str | None, shift: Tensor | None
) -> Tensor:
    """Group normalisation of channels-last x (B, ..., C) after adding shift (B, C), then act."""
    batch, channels = x.shape[0], x.shape[-1]
    h = x.reshape([batch, -1, channels]).astype("float32")
    if shift is not None:
        h = h + shift.astype("float32").unsqueeze(1)
    h = h.reshape([batch, h.shape[1], groups, channels // groups])
    mean = h.mean(axis=[1, 3], keepdim=True)
    centred = h - mean
    variance = (centred * centred).mean(axis=[1, 3], keepdim=True)
    h = (centred * paddle.rsqrt(variance + eps)).reshape([batch, -1, channels])
    h = h * weight.astype("float32") + bias.astype("float32")
    return activate(h, act).astype(x.dtype).reshape(x.shape)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer normalisation over the last axis."""
    h = x.astype("float32")
    centred = h - h.mean(axis=-1, keepdim=True)
    h = centred * paddle.rsqrt((centred * centred).mean(axis=-1, keepdim=True) + eps)
    if weight is not None:
        h = h * weight.astype("float32")
    if bias is not None:
        h = h + bias.astype("float32")
    return h.astype(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis (Zhang and Sennrich 2019)."""
    h = x.astype("float32")
    h = h * paddle.rsqrt((h * h).mean(axis=-1, keepdim=True) + eps)
    return (h * weight.astype("float32")).astype(x.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of x (B, L, H, D) by angles (L, D/2) or (B, L, D/2)."""
    cos, sin = (t.astype("float32") if t.ndim == 3 else t.astype("float32").unsqueeze(0) for t in (cos, sin))
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    h = x.astype("float32")
    first, second = (h[..., 0::2], h[..., 1::2]) if interleaved else paddle.chunk(h, 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    if interleaved:
        out = paddle.stack(turned, axis=-1).reshape(x.shape)
    else:
        out = paddle.concat(turned, axis=-1)
    return out.astype(x.dtype)


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Mean negative log-likelihood of labels (N,) under logits (N, V) over the rows not ignored; float32 scalar."""
    logits = logits.astype("float32")
    kept = labels != ignore_index
    safe = paddle.where(kept, labels, paddle.zeros_like(labels))
    picked = paddle.take_along_axis(logits, safe.unsqueeze(-1), axis=-1).squeeze(-1)
    losses = paddle.where(kept, paddle.logsumexp(logits, axis=-1) - picked, paddle.zeros([]))
    return losses.sum() / kept.astype("float32").sum().clip(min=1.0)


def adamw_step(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    *, step: int, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """AdamW (Loshchilov and Hutter 2019) in place on every tensor of the lists; `step` counts from 1."""
    rate, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    with paddle.no_grad():
        for p, g, m, s in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
            g = g.astype(m.dtype)
            m.set_value(beta1 * m + (1 - beta1) * g)
            s.set_value(beta2 * s + (1 - beta2) * g * g)
            value = p.astype(m.dtype) * (1 - lr * weight_decay) - rate * m / (s.sqrt() / root + eps)
            p.set_value(value.astype(p.dtype))


@in_float32
def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b."""
    return a + b


@in_float32
def concat_channels(a: Tensor, b: Tensor) -> Tensor:
    """Joined along the last axis."""
    return paddle.concat([a, b], axis=-1)


@in_float32
def upsample_nearest2x(x: Tensor) -> Tensor:
    """(B, Y, X, C) -> (B, 2 Y, 2 X, C)."""
    batch, height, width, channels = x.shape
    wide = x.reshape([batch, height, 1, width, 1, channels]).expand([batch, height, 2, width, 2, channels])
    return wide.reshape([batch, 2 * height, 2 * width, channels])
