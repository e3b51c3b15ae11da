"""Every attention kernel against plain float32 maths, over one grid; what a kernel accepts it must get right."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

import kernels
from kernels import attention, attention_decode, attention_varlen, build, reference
from kernels import attention as _function
from kernels.choose import Call, tables

module = sys.modules["kernels.attention"]
DTYPES = ("float32", "bfloat16")
TOLERANCE = {"float32": 2e-6, "bfloat16": 8e-3}  # of the norm
GRAD_TOLERANCE = {"float32": 5e-6, "bfloat16": 2e-2}
needs_native = pytest.mark.skipif(build.why_not("attention") is not None, reason=str(build.why_not("attention")))


def random(shape, seed, dtype="float32"):
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32")).astype(dtype)


def wide(t):
    return t.detach().astype("float32")


def distance(a, b, floor=0.02):
    """|a - b| / |b| in float64, |b| counting as `floor` an element at least; NaN never passes."""
    a, b = (wide(t).numpy().astype("float64") for t in (a, b))
    assert a.shape == b.shape
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), floor * math.sqrt(b.size))


def with_gradients(f, tensors, weight):
    """f(*tensors) and its gradients under a fixed incoming gradient."""
    leaves = [t.detach() for t in tensors]
    for t in leaves:
        t.stop_gradient = False
    out = f(*leaves)
    return out.detach(), paddle.grad(out, leaves, weight.astype(out.dtype))


def compare(f, plain, tensors, dtype, floor=0.02):
    """Value and gradients of `f` on `dtype` tensors against `plain` on the same values in float32."""
    weight = random(tensors[0].shape, 99)
    with paddle.no_grad():
        alone = f(*tensors)
    out, grads = with_gradients(f, tensors, weight)
    want, want_grads = with_gradients(plain, [wide(t) for t in tensors], weight)
    assert out.dtype == tensors[0].dtype
    assert distance(out, want) < TOLERANCE[dtype]
    assert distance(alone, want) < TOLERANCE[dtype]
    for name, got, expected in zip("qkv", grads, want_grads, strict=True):
        assert distance(got, expected, floor) < GRAD_TOLERANCE[dtype], f"gradient of {name}"


# name: L, M, H, G, D, causal, mask
SHAPES = {
    "square": (64, 64, 2, 2, 64, False, None),
    "cross": (100, 77, 2, 2, 40, False, None),
    "odd": (5, 123, 3, 3, 40, False, None),
    "one query": (1, 77, 4, 2, 64, False, None),
    "one key": (50, 1, 2, 2, 16, False, None),
    "causal": (130, 130, 2, 2, 64, True, None),
    "causal, more keys": (20, 150, 2, 1, 64, True, None),
    "causal, rows without keys": (150, 20, 2, 2, 32, True, None),
    "grouped heads": (49, 97, 6, 2, 80, False, None),
    "long": (200, 1100, 1, 1, 40, False, None),
    "bool": (33, 65, 2, 2, 40, False, "bool"),
    "bool, rows without keys": (33, 65, 2, 2, 40, False, "empty rows"),
    "additive": (33, 65, 2, 2, 40, False, "float"),
    "additive bf16": (33, 65, 2, 2, 40, False, "bf16"),
    "lowest number": (33, 65, 2, 2, 40, False, "lowest"),
    "causal and mask": (33, 65, 4, 2, 40, True, "float"),
    **{f"dim {d}": (60, 70, 2, 2, d, False, None) for d in (1, 8, 33, 80, 128, 160, 256, 512)},
}


def make_mask(kind, shape):
    values = random(shape, 7)
    match kind:
        case None:
            return None
        case "bool":
            mask = values > -0.3
            mask[..., 0] = True
            return mask
        case "empty rows":
            mask = values > 0
            mask[:, :, ::3] = False
            return mask
        case "float":
            return paddle.where(values > -0.5, values, paddle.full([], -math.inf))
        case "bf16":
            return values.astype("bfloat16")
        case "lowest":  # a padding row all of whose keys are "forbidden" by the lowest number attends to all alike
            low = paddle.full(shape, float(np.finfo("float32").min))
            low[:, :, 5:] = 0.0
            return low


def inputs(length, keys, heads, groups, dim, dtype, batch=2):
    return [
        random([batch, length, heads, dim], 1, dtype),
        random([batch, keys, groups, dim], 2, dtype),
        random([batch, keys, groups, dim], 3, dtype),
    ]


def call_of(shape, dtype, causal, mask, grad=True, device="cpu"):
    kind = None if mask is None else str(mask.dtype).removeprefix("paddle.")
    return Call("attention", device, dtype, grad, shape, (kind, causal, False))


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [("native", "float32"), ("native", "bfloat16"), ("chunked", "float32"), ("reference", "bfloat16")],
)
@pytest.mark.parametrize("name", SHAPES)
def test_kernels_agree_with_plain_maths(kernel, name, dtype):
    length, keys, heads, groups, dim, causal, kind = SHAPES[name]
    mask = make_mask(kind, [2, heads, length, keys])
    entry = next(k for k in tables()["attention"] if k.name == kernel)
    run = (lambda q, k, v, m, c, s: module._chunked(q, k, v, m, c, s, block=16)) if kernel == "chunked" else entry.run
    if kernel == "native" and (why := entry.refuse(call_of((length, keys, heads, groups, dim), dtype, causal, mask))):
        assert "built" in why or "MIXSTUDIO_KERNELS" in why or "CPU lacks" in why, f"refused without need: {why}"
        pytest.skip(why)
    scale = 0.7 / math.sqrt(dim)
    compare(
        lambda q, k, v: run(q, k, v, mask, causal, scale),
        lambda q, k, v: reference.attention(q, k, v, mask, causal, scale),
        inputs(length, keys, heads, groups, dim, dtype),
        dtype,
        floor=1.0 if keys == 1 else 0.02,  # over a single key, the gradients of q and k are 0
    )


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", list(itertools.product((1, 2), (1, 4), (1, 50), (1, 70))), ids=str)
def test_masks_broadcast_along_any_axis(shape, dtype):
    mask = make_mask("float" if sum(shape) % 2 else "bool", list(shape))
    compare(
        lambda q, k, v: module._native(q, k, v, mask, False, 0.2),
        lambda q, k, v: reference.attention(q, k, v, mask, False, 0.2),
        inputs(50, 70, 4, 2, 24, dtype),
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [None, 0.0, -0.3, 3.0])
def test_scale(scale, dtype):
    tensors = inputs(20, 40, 2, 2, 16, dtype)
    used = 0.25 if scale is None else scale
    compare(
        lambda q, k, v: attention(q, k, v, scale=scale),
        lambda q, k, v: reference.attention(q, k, v, None, False, used),
        tensors,
        dtype,
    )


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_that_keep_rising_are_rescaled(dtype):
    q, k, v = inputs(60, 300, 1, 1, 32, dtype)
    k = (k.astype("float32") * paddle.linspace(0.1, 30, 300).reshape([1, 300, 1, 1])).astype(dtype)
    assert distance(
        module._native(q, k, v, None, False, 1.0), reference.attention(wide(q), wide(k), wide(v), None, False, 1.0)
    ) < (TOLERANCE[dtype] * 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_without_keys_is_zero_and_has_no_gradient(dtype):
    q, k, v = inputs(10, 4, 1, 1, 16, dtype)
    out, grads = with_gradients(lambda *t: attention(*t, causal=True), (q, k, v), random(q.shape, 5))
    assert (wide(out)[:, :6] == 0).all()
    assert (wide(grads[0])[:, :6] == 0).all()
    assert all(np.isfinite(wide(g).numpy()).all() for g in grads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_nan_and_where_it_is(dtype):
    q, k, v = inputs(60, 60, 1, 1, 16, dtype)
    q[0, 7] = math.nan
    v[1, 30] = math.nan
    out = np.isnan(wide(attention(q, k, v, causal=True)).numpy()).any(axis=(2, 3))
    assert out[0].tolist() == [i == 7 for i in range(60)]
    assert out[1, 30:].all()  # in earlier rows 0 x NaN may be NaN as well, as in plain maths


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_repeats_bit_for_bit(dtype):
    tensors = inputs(130, 200, 4, 2, 40, dtype)
    first, second = (with_gradients(lambda *t: attention(*t), tensors, random(tensors[0].shape, 5)) for _ in range(2))
    for a, b in zip((first[0], *first[1]), (second[0], *second[1]), strict=True):
        assert (wide(a) == wide(b)).all()


THREADS = """
import numpy as np, paddle, hashlib, sys
from kernels import attention, attention_decode
digest = hashlib.sha256()
for dtype in ("float32", "bfloat16"):
    r = np.random.default_rng(0)
    new = lambda *shape: paddle.to_tensor(r.standard_normal(shape).astype("float32")).astype(dtype)
    for batch, length, keys, heads, dim in ((2, 100, 130, 3, 40), (1, 60, 2100, 1, 64)):
        q, k, v = new(batch, length, heads, dim), new(batch, keys, heads, dim), new(batch, keys, heads, dim)
        for t in (q, k, v):
            t.stop_gradient = False
        out = attention(q, k, v, causal=True)
        for t in (out, *paddle.grad(out, [q, k, v], new(*out.shape))):
            digest.update(t.astype("float32").numpy().tobytes())
        with paddle.no_grad():
            lengths = paddle.full([batch], keys, dtype="int32")
            digest.update(attention_decode(q[:, :1], k, v, lengths).astype("float32").numpy().tobytes())
print(digest.hexdigest())
"""


@needs_native
def test_the_number_of_threads_changes_no_bit():
    said = []
    for threads in "12":
        env = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", THREADS], env=env, capture_output=True, text=True, check=True)
        said.append(done.stdout.split()[-1])
    assert said[0] == said[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_into_one_projection(dtype):
    fused = random([2, 50, 3, 4, 40], 4, dtype)
    q, k, v = (fused[:, :, i] for i in range(3))
    whole = [paddle.to_tensor(wide(t).numpy()).astype(dtype) for t in (q, k, v)]
    assert (wide(attention(q, k, v)) == wide(attention(*whole))).all()
    swapped = q.transpose([0, 2, 1, 3])
    assert (
        distance(attention(swapped, swapped, swapped), attention(*[swapped.clone().reshape([2, 4, 50, 40])] * 3)) == 0
    )


def test_a_mask_that_learns_goes_to_the_reference():
    q, k, v = inputs(10, 12, 2, 2, 16, "float32")
    mask = random([1, 2, 10, 12], 8)
    mask.stop_gradient = False
    attention(q, k, v, mask=mask).sum().backward()
    assert mask.grad is not None
    with pytest.raises(ValueError, match="no gradient for the mask"), kernels.use(attention="native"):
        attention(q, k, v, mask=mask)


def test_half_precision_is_refused_on_the_cpu():
    entry = tables()["attention"][0]
    assert "float16" in (entry.refuse(call_of((8, 8, 1, 1, 16), "float16", False, None)) or "")


@pytest.mark.parametrize("kernel", ["native", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences(causal, dtype, kernel):
    if kernel == "native" and build.why_not("attention"):
        pytest.skip(str(build.why_not("attention")))
    cu_q, cu_k = (
        paddle.to_tensor([0, 5, 5, 62, 130], dtype="int32"),
        paddle.to_tensor([0, 40, 47, 60, 128], dtype="int32"),
    )
    tensors = [random([130, 4, 24], 1, dtype), random([128, 2, 24], 2, dtype), random([128, 2, 24], 3, dtype)]
    with kernels.use(attention_varlen=kernel):
        compare(
            lambda q, k, v: attention_varlen(q, k, v, cu_q, cu_k, causal=causal),
            lambda q, k, v: reference.attention_varlen(q, k, v, cu_q, cu_k, causal, 24**-0.5),
            tensors,
            dtype,
        )


def test_boundaries_must_cover_the_pack():
    q = random([10, 1, 8], 1)
    with pytest.raises(ValueError, match="cu_q"):
        attention_varlen(q, q, q, paddle.to_tensor([0, 5]), paddle.to_tensor([0, 5, 10]))
    if build.why_not("attention") is None:
        with pytest.raises(ValueError, match="cu_q must rise"):
            attention_varlen(q, q, q, paddle.to_tensor([0, 5, 9]), paddle.to_tensor([0, 5, 10]))


@pytest.mark.parametrize("kernel", ["native", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cache", DTYPES)
@pytest.mark.parametrize(("heads", "groups", "dim"), [(4, 4, 40), (6, 2, 64), (7, 1, 33), (9, 3, 128)])
def test_decoding_over_a_cache(heads, groups, dim, cache, dtype, kernel):
    if kernel == "native" and build.why_not("attention"):
        pytest.skip(str(build.why_not("attention")))
    lengths = paddle.to_tensor([600, 0, 1, 77], dtype="int32")
    q, k, v = (
        random([4, 1, heads, dim], 1, dtype),
        random([4, 608, groups, dim], 2, cache),
        random([4, 608, groups, dim], 3, cache),
    )
    k[2, 1:] = math.nan  # never written
    v[2, 1:] = math.nan
    want = paddle.zeros([4, 1, heads, dim])
    for i, n in enumerate(lengths.tolist()):
        if n:
            seen = (wide(q[i : i + 1]), wide(k[i : i + 1, :n]), wide(v[i : i + 1, :n]))
            want[i] = reference.attention(*seen, None, False, dim**-0.5)[0]
    order = np.random.default_rng(0).permutation(4 * 38)
    pages = [paddle.zeros([160, 16, groups, dim], dtype=cache) for _ in range(2)]
    for page, whole in zip(pages, (k, v), strict=True):
        page[paddle.to_tensor(order)] = whole.reshape([4 * 38, 16, groups, dim])
    rows = paddle.to_tensor(order.reshape(4, 38).astype("int32"))
    rows[3, 5:] = -1  # beyond the end
    with kernels.use(attention_decode=kernel):
        tolerance = TOLERANCE[dtype] * (
            4 if kernel == "reference" else 1
        )  # Paddle's matmul rounds the scores to bf16 as well
        assert distance(attention_decode(q, k, v, lengths), want) < tolerance
        assert distance(attention_decode(q, *pages, lengths, block_table=rows), want) < tolerance


def test_what_does_not_fit_is_said():
    q, k, v = inputs(10, 12, 4, 4, 16, "float32")
    with pytest.raises(ValueError, match="do not fit"):
        attention(q, k[..., :8], v)
    with pytest.raises(ValueError, match="one dtype"):
        attention(q, k.astype("bfloat16"), v.astype("bfloat16"))
    with pytest.raises(ValueError, match="does not broadcast"):
        attention(q, k, v, mask=paddle.ones([3, 1, 10, 12], dtype="bool"))
    with pytest.raises(ValueError, match="batch"):
        attention(q, k[:1], v[:1])
    assert attention(q, k[:, :0], v[:, :0]).abs().sum() == 0
    assert _function(q[:, :0], k, v).shape == [2, 0, 4, 16]


def test_refusals_on_a_gpu_are_the_known_traps():
    flash = next(k for k in tables()["attention"] if k.name == "flash")
    call = call_of((64, 64, 8, 8, 40), "bfloat16", True, None, device="gpu")
    assert flash.refuse(call) is None
    assert "top-left" in (flash.refuse(call_of((1, 64, 8, 8, 40), "bfloat16", True, None, device="gpu")) or "")
    assert "mask" in (flash.refuse(call_of((64, 64, 8, 8, 40), "bfloat16", True, paddle.ones([1]), device="gpu")) or "")
    assert "float32" in (flash.refuse(call_of((64, 64, 8, 8, 40), "float32", False, None, device="gpu")) or "")
