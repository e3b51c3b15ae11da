"""Attention for diffusion and language models: one meaning, several speeds.

B batch, L query tokens, M key tokens, H heads, G key/value heads (H is a multiple of G), D per head.
"""

import math

from paddle import Tensor

from kernels import reference
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, table

table("attention", Kernel("reference", reference.attention, accept))
table("attention_varlen", Kernel("reference", reference.attention_varlen, accept))
table("attention_decode", Kernel("reference", reference.attention_decode, accept))


def _check(q: Tensor, k: Tensor, v: Tensor, name: str) -> None:
    heads, groups = q.shape[-2], k.shape[-2]
    if k.shape != v.shape or q.shape[-1] != k.shape[-1] or heads % max(groups, 1):
        raise ValueError(
            f"{name}: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} do not fit; expected (..., L, H, D) and twice "
            "(..., M, G, D) with H a multiple of G"
        )


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """softmax(q k^T * scale + mask) v.

    q (B, L, H, D), k and v (B, M, G, D) -> (B, L, H, D). mask broadcasts to (B, H, L, M): bool (True may attend) or additive.
    causal is aligned bottom-right: query i of L sees keys up to i + M - L. scale defaults to 1/sqrt(D).
    """
    _check(q, k, v, "attention")
    if mask is not None and mask.ndim != 4:
        mask = mask.reshape([1] * (4 - mask.ndim) + list(mask.shape))
    shape = (q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3])
    kind = None if mask is None else dtype_of(mask)
    call = Call("attention", device_of(q), dtype_of(q), needs_grad(q, k, v, mask), shape, (kind, causal))
    return choose(call).run(q, k, v, mask, causal, 1 / math.sqrt(q.shape[-1]) if scale is None else scale)


def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Attention within each sequence of a pack: q (T, H, D), k and v (S, G, D), boundaries cu_q, cu_k int32 (N + 1,)."""
    _check(q, k, v, "attention_varlen")
    shape = (q.shape[0], k.shape[0], q.shape[1], k.shape[1], q.shape[2])
    call = Call("attention_varlen", device_of(q), dtype_of(q), needs_grad(q, k, v), shape, (causal,))
    return choose(call).run(q, k, v, cu_q, cu_k, causal, 1 / math.sqrt(q.shape[-1]) if scale is None else scale)


def attention_decode(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor, *, scale: float | None = None
) -> Tensor:
    """One new query a sequence over its cached keys: q (B, 1, H, D), caches (B, M, G, D), lengths int32 (B,)."""
    _check(q, k_cache, v_cache, "attention_decode")
    shape = (q.shape[1], k_cache.shape[1], q.shape[2], k_cache.shape[2], q.shape[3])
    call = Call("attention_decode", device_of(q), dtype_of(q), needs_grad(q, k_cache, v_cache), shape)
    return choose(call).run(q, k_cache, v_cache, lengths, 1 / math.sqrt(q.shape[-1]) if scale is None else scale)
