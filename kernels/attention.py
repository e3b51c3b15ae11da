"""Attention for diffusion and language models: one meaning, several speeds.

B batch, L query tokens, M key tokens, H heads, G key/value heads (H is a multiple of G), D per head.

Call.shape is (L, M, H, G, D), Call.dtype that of q. Call.options: attention (dtype of the mask or None, causal, whether
the mask wants a gradient); attention_varlen (causal, whether queries and keys share their boundaries); attention_decode
(dtype of the cache, paged).
"""

import math
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from kernels import build, reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, no, table
from kernels.native import DTYPES, refusal

EXTENSION = "attention"
SOURCES = ("attention_forward.cc", "attention_backward.cc", "attention_decode.cc")
build.register(build.Extension(EXTENSION, kernels=SOURCES))

MOST_DIM = 512  # the C++ kernels stage a row of this many values
QUERY_BLOCK = 512  # queries of one step of the chunked kernel: its memory is a few times QUERY_BLOCK x M per head

_native_refusal = refusal(EXTENSION)


# C++ on the CPU ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ask:
    """What the ops take beside q, k and v. Held in an object, so that autograd sees q, k and v alone."""

    op: str
    extra: tuple[Tensor | None, ...]  # the mask, or the boundaries of the sequences
    scale: float
    causal: bool


class _Differentiable(PyLayer):
    """Keeps the output and two floats a row; the backward kernel makes the weights again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ask: _Ask) -> Tensor:
        out, stats = build.run(ask.op, q, k, v, *ask.extra, ask.scale, ask.causal, True)
        ctx.save_for_backward(q, k, v, out, stats)
        ctx.ask = ask
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, stats = ctx.saved_tensor()
        ask = ctx.ask
        grads = build.run(f"{ask.op}_grad", q, k, v, *ask.extra, out, stats, dout, ask.scale, ask.causal)
        return tuple(None if t.stop_gradient else g for t, g in zip((q, k, v), grads, strict=True))


def _run_native(q: Tensor, k: Tensor, v: Tensor, ask: _Ask) -> Tensor:
    if needs_grad(q, k, v):
        return _Differentiable.apply(q, k, v, ask)
    return build.run(ask.op, q, k, v, *ask.extra, ask.scale, ask.causal, False)[0]


def _native(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    if q.shape[1] == 1 and mask is None and not needs_grad(q, k, v):  # the last query sees every key, causal or not
        return _decode_native(q, k, v, paddle.full([q.shape[0]], k.shape[1], dtype="int32"), scale, None)
    return _run_native(q, k, v, _Ask("mix_attention", (mask,), scale, causal))


def _refuse_native(call: Call) -> str | None:
    mask, _, mask_grad = call.options
    return no(
        (call.shape[-1] > MOST_DIM, f"head dim above {MOST_DIM}"),
        (mask not in (None, "bool", *DTYPES), f"no {mask} mask"),
        (bool(mask_grad), "no gradient for the mask"),
    ) or _native_refusal(call)


def _varlen_native(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, causal: bool, scale: float) -> Tensor:
    bounds = (cu_q.astype("int32"), cu_k.astype("int32"))
    for name, cu, rows in (("cu_q", bounds[0], q.shape[0]), ("cu_k", bounds[1], k.shape[0])):
        ends = [int(end) for end in cu.numpy()]
        if ends[0] != 0 or ends[-1] != rows or sorted(ends) != ends:
            raise ValueError(f"attention_varlen: {name} must rise from 0 to the {rows} rows of the pack; got {ends}")
    return _run_native(q, k, v, _Ask("mix_attention_varlen", bounds, scale, causal))


def _refuse_varlen_native(call: Call) -> str | None:
    return no((call.shape[-1] > MOST_DIM, f"head dim above {MOST_DIM}")) or _native_refusal(call)


def _decode_native(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor, scale: float, block_table: Tensor | None
) -> Tensor:
    blocks = None if block_table is None else block_table.astype("int32")
    return build.run("mix_attention_decode", q, k_cache, v_cache, lengths.astype("int32"), blocks, scale)


def _refuse_decode_native(call: Call) -> str | None:
    return no(
        (call.grad, "no backward"),
        (call.options[0] not in DTYPES, f"no {call.options[0]} cache"),
    ) or _native_refusal(call)


# Paddle's flash attention on the GPU ---------------------------------------------------------------


def _refuse_flash(call: Call) -> str | None:
    length, keys, _, _, dim = call.shape
    mask, causal, _ = call.options
    return no(
        (call.device != "gpu", "needs a GPU"),
        (call.dtype not in ("float16", "bfloat16"), f"no {call.dtype}"),
        (dim > 256 or dim % 8 != 0, "head dim must be a multiple of 8 up to 256"),
        (mask is not None, "masks: a row without any key would give NaN, and causal drops the mask"),
        (bool(causal) and length != keys, "causal is aligned top-left there, so it needs as many queries as keys"),
    )


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    factor = scale * math.sqrt(q.shape[-1])  # an explicit scale would rule the flash kernel out, so q carries it
    if abs(factor - 1) > 1e-6:
        q = q * factor
    return F.scaled_dot_product_attention(q, *_repeated(q, k, v), is_causal=causal)


def _repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """k and v with as many heads as q."""
    times = q.shape[-2] // k.shape[-2]
    return (k, v) if times == 1 else (k.repeat_interleave(times, axis=-2), v.repeat_interleave(times, axis=-2))


def _refuse_varlen_flash(call: Call) -> str | None:
    causal, shared = call.options
    return no(
        (call.device != "gpu", "needs a GPU"),
        (call.dtype not in ("float16", "bfloat16"), f"no {call.dtype}"),
        (call.shape[-1] > 256 or call.shape[-1] % 8 != 0, "head dim must be a multiple of 8 up to 256"),
        (bool(causal) and not shared, "causal needs the same boundaries (the same tensor) for queries and keys"),
    )


def _varlen_flash(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, causal: bool, scale: float) -> Tensor:
    k, v = _repeated(q, k, v)
    cu_q, cu_k = cu_q.astype("int32"), cu_k.astype("int32")
    longest = [int((cu[1:] - cu[:-1]).max()) for cu in (cu_q, cu_k)]
    out, _ = F.flash_attention.flash_attn_unpadded(
        q, k, v, cu_q, cu_k, longest[0], longest[1], scale, dropout=0.0, causal=causal
    )
    return out


# Plain Paddle in blocks of queries -----------------------------------------------------------------


class _Chunked(PyLayer):
    """Scores of one block of queries at a time, made again for the gradient: no memory of size L x M."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ask: _Ask, block: int) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.ask, ctx.block = ask, block
        parts = [_rows(q[:, i : i + block], k, v, i, q.shape[1], ask) for i in range(0, q.shape[1], block)]
        return paddle.concat(parts, axis=1)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensor()
        dq, dk, dv = [], paddle.zeros(k.shape, "float32"), paddle.zeros(v.shape, "float32")
        for i in range(0, q.shape[1], ctx.block):
            rows, keys, values = inputs = [t.detach() for t in (q[:, i : i + ctx.block], k, v)]
            for t in inputs:
                t.stop_gradient = False
            with paddle.enable_grad():
                out = _rows(rows, keys, values, i, q.shape[1], ctx.ask)
            # backward() rather than grad(): Paddle's grad() keeps global state and crashes inside another grad().
            paddle.autograd.backward([out], [dout[:, i : i + ctx.block]])
            grads = [t.grad for t in inputs]
            dq.append(grads[0])
            dk, dv = dk + grads[1].astype("float32"), dv + grads[2].astype("float32")
        grads = (paddle.concat(dq, axis=1), dk.astype(k.dtype), dv.astype(v.dtype))
        return tuple(None if t.stop_gradient else g for t, g in zip((q, k, v), grads, strict=True))


def _rows(q: Tensor, k: Tensor, v: Tensor, first: int, total: int, ask: _Ask) -> Tensor:
    """Queries [first, first + rows) of `total`."""
    mask = reference.attention_mask(ask.extra[0], ask.causal, q.shape[1], k.shape[1], first, total)
    if mask is not None:
        mask = mask.reshape([1] * (4 - mask.ndim) + list(mask.shape))
    return reference.attention(q, k, v, mask, False, ask.scale)


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, block: int = QUERY_BLOCK
) -> Tensor:
    return _Chunked.apply(q, k, v, _Ask("", (mask,), scale, causal), block)


def _refuse_chunked(call: Call) -> str | None:
    return no(
        (bool(call.options[2]), "no gradient for the mask"),
        (not call.grad, "without a gradient the reference works in blocks as well"),
        (
            call.shape[0] <= QUERY_BLOCK,
            f"up to {QUERY_BLOCK} queries are one block: the reference does not compute twice",
        ),
    )


def decode_reference(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor, scale: float, block_table: Tensor | None
) -> Tensor:
    if block_table is not None:
        flat = block_table.clip(min=0).flatten().astype("int64")  # entries beyond a sequence's end may be anything
        shape = [q.shape[0], -1, *k_cache.shape[2:]]
        k_cache, v_cache = (paddle.index_select(t, flat, axis=0).reshape(shape) for t in (k_cache, v_cache))
    keep = paddle.arange(k_cache.shape[1]).unsqueeze(0) < lengths.astype("int64").unsqueeze(-1)
    keep = keep.unsqueeze(-1).unsqueeze(-1)
    k_cache, v_cache = (  # what lies beyond the end was never written, and 0 x NaN is NaN
        paddle.where(keep, t.astype("float32"), paddle.zeros([])).astype(q.dtype) for t in (k_cache, v_cache)
    )
    return reference.attention_decode(q, k_cache, v_cache, lengths, scale)


table(
    "attention",
    Kernel("native", _native, _refuse_native),
    Kernel("flash", _flash, _refuse_flash),
    Kernel("chunked", _chunked, _refuse_chunked),
    Kernel("reference", reference.attention, accept),
)
table(
    "attention_varlen",
    Kernel("native", _varlen_native, _refuse_varlen_native),
    Kernel("flash", _varlen_flash, _refuse_varlen_flash),
    Kernel("reference", reference.attention_varlen, accept),
)
table(
    "attention_decode",
    Kernel("native", _decode_native, _refuse_decode_native),
    Kernel("reference", decode_reference, accept),
)


# Public --------------------------------------------------------------------------------------------


def _check(q: Tensor, k: Tensor, v: Tensor, name: str) -> None:
    heads, groups = q.shape[-2], k.shape[-2]
    if k.shape != v.shape or q.shape[-1] != k.shape[-1] or heads % max(groups, 1):
        raise ValueError(
            f"{name}: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} do not fit; "
            "expected (..., L, H, D) and twice (..., M, G, D) with H a multiple of G"
        )
    if k.dtype != v.dtype or (name != "attention_decode" and q.dtype != k.dtype):
        raise ValueError(f"{name}: q is {dtype_of(q)}, k {dtype_of(k)}, v {dtype_of(v)}; cast them to one dtype")


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """softmax(q k^T * scale + mask) v.

    q (B, L, H, D), k and v (B, M, G, D) -> (B, L, H, D). mask broadcasts to (B, H, L, M): bool (True may attend) or
    additive. causal is aligned bottom-right: query i of L sees keys up to i + M - L. scale defaults to 1/sqrt(D). A row
    that sees no key is zero. Raises ValueError when shapes or dtypes do not fit.
    """
    _check(q, k, v, "attention")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"attention: q has batch {q.shape[0]}, k and v have {k.shape[0]}; expand the smaller one")
    if mask is not None:
        mask = _mask_of_four(mask, (q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
    if q.size == 0 or k.shape[1] == 0:
        return paddle.zeros_like(q)
    shape = (q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3])
    options = (None if mask is None else dtype_of(mask), bool(causal), needs_grad(mask))
    call = Call("attention", device_of(q), dtype_of(q), needs_grad(q, k, v, mask), shape, options)
    return choose(call).run(q, k, v, mask, causal, 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale))


def _mask_of_four(mask: Tensor, full: tuple[int, int, int, int]) -> Tensor:
    """The mask with four axes; ValueError when it does not broadcast to `full`."""
    shape = [1] * (4 - mask.ndim) + list(mask.shape)
    if len(shape) != 4 or any(have not in (1, want) for have, want in zip(shape, full, strict=True)):
        raise ValueError(f"attention: a mask of {tuple(mask.shape)} does not broadcast to (B, H, L, M) = {full}")
    return mask if mask.ndim == 4 else mask.reshape(shape)


def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Attention within each sequence of a pack: q (T, H, D), k and v (S, G, D), boundaries cu_q, cu_k int32 (N + 1,).

    Boundaries rise from 0 to T and S; causal is aligned bottom-right inside each sequence. Raises ValueError when they
    do not fit.
    """
    _check(q, k, v, "attention_varlen")
    if cu_q.shape != cu_k.shape or cu_q.ndim != 1 or cu_q.shape[0] < 1:
        raise ValueError(
            f"attention_varlen: cu_q {tuple(cu_q.shape)} and cu_k {tuple(cu_k.shape)} must both be (N + 1,)"
        )
    shape = (q.shape[0], k.shape[0], q.shape[1], k.shape[1], q.shape[2])
    options = (bool(causal), cu_q is cu_k)
    call = Call("attention_varlen", device_of(q), dtype_of(q), needs_grad(q, k, v), shape, options)
    return choose(call).run(q, k, v, cu_q, cu_k, causal, 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale))


def attention_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    block_table: Tensor | None = None,
) -> Tensor:
    """One new query a sequence over its cached keys: q (B, 1, H, D), caches (B, M, G, D), lengths int32 (B,) -> like q.

    With block_table int32 (B, blocks) the caches are pages (pages, page size, G, D) and a sequence's keys lie in the
    pages that its row names, in order. The cache may be bfloat16 under a float32 q. Raises ValueError when shapes do
    not fit.
    """
    _check(q, k_cache, v_cache, "attention_decode")
    if q.ndim != 4 or q.shape[1] != 1 or lengths.shape != [q.shape[0]]:
        raise ValueError(
            f"attention_decode: q {tuple(q.shape)} and lengths {tuple(lengths.shape)} must be (B, 1, H, D) and (B,)"
        )
    rows = k_cache.shape[0] if block_table is None else block_table.shape[0]
    if rows != q.shape[0]:
        raise ValueError(f"attention_decode: {q.shape[0]} queries but {rows} rows of cache; they must be as many")
    keys = k_cache.shape[1] if block_table is None else block_table.shape[1] * k_cache.shape[1]
    shape = (1, keys, q.shape[2], k_cache.shape[2], q.shape[3])
    options = (dtype_of(k_cache), block_table is not None)
    call = Call("attention_decode", device_of(q), dtype_of(q), needs_grad(q, k_cache, v_cache), shape, options)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    return choose(call).run(q, k_cache, v_cache, lengths, factor, block_table)
