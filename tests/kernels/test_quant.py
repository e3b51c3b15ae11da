"""Quantised linear layers: formats bit for bit, products within what rounding x costs, the same bits however asked.

The dequantisers here are written block by block from ggml's definition, apart from those of the product.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import (
    QuantizedWeight,
    build,
    from_gguf,
    from_groups,
    join_outputs,
    quantize,
    quantized_linear,
    quantized_rows,
)
from kernels.quant_layout import KINDS, interleave, separate

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "goldens" / "quant_blocks.npz"
STORED = [name for name, about in KINDS.items() if about.stored]
ROUNDED = {
    "int8": 0.008,
    "q8_0": 0.007,
    "q5_0": 0.05,
    "q5_1": 0.045,
    "q4_0": 0.1,
    "q4_1": 0.09,
    "int4": 0.11,
}  # of the weight
ACTIVATIONS = 0.01  # error of a product by rounding x, root mean square over root mean square
AVX2 = 2  # enum How in csrc/ops_quant.cc

native = pytest.mark.skipif(build.why_not("quant") is not None, reason=f"extension quant: {build.why_not('quant')}")


def random(shape, seed, dtype="float32", scale=1.0):
    values = np.random.default_rng(seed).standard_normal(shape).astype("float32") * scale
    return paddle.to_tensor(values).astype(dtype)


def stored(kind, rows, width, seed=0):
    """Random blocks as a GGUF file has them, with scales of a sensible size."""
    generator, about = np.random.default_rng(seed), KINDS[kind]
    raw = generator.integers(0, 256, (rows, width // about.length, about.stored), dtype=np.uint8)
    for at in [208] if kind == "q6_k" else [2 * i for i in range(len(about.header))]:
        halves = generator.uniform(0.001, 0.02, raw.shape[:2]).astype(np.float16)
        raw[..., at : at + 2] = halves[..., None].view(np.uint8)
    return raw


def weights(kind, width_in, width_out, seed=0):
    if kind in STORED:
        return from_gguf(kind, stored(kind, width_out, width_in, seed), (width_in, width_out))
    return quantize(random((width_in, width_out), seed, scale=0.05), kind, group=64)


def half(block, at):
    return np.float32(np.frombuffer(block[at : at + 2].tobytes(), "<f2")[0])


def block_values(kind, block):
    """One block's numbers, one at a time."""
    f, d = np.float32, half(block, 208 if kind == "q6_k" else 0)
    if kind == "q8_0":
        return [d * f(np.int8(q)) for q in block[2:].view(np.int8)]
    if kind in ("q4_0", "q4_1", "q5_0", "q5_1"):
        symmetric, five = kind.endswith("0"), kind.startswith("q5")
        at = 2 if symmetric else 4
        bits = int.from_bytes(block[at : at + 4].tobytes(), "little") if five else 0
        found = []
        for i in range(32):
            byte = int(block[-16:][i % 16])
            q = (byte & 15 if i < 16 else byte >> 4) | ((bits >> i & 1) << 4)
            found.append(d * f(q - (16 if five else 8)) if symmetric else d * f(q) + half(block, 2))
        return found
    if kind == "q6_k":
        found = [f(0)] * 256
        for i in range(256):
            part, j = divmod(i, 128)
            run, lane = divmod(j, 32)
            byte = int(block[64 * part + 32 * (run % 2) + lane])
            high = int(block[128 + 32 * part + lane]) >> 2 * run & 3
            q = (byte & 15 if run < 2 else byte >> 4) | high << 4
            found[i] = d * f(block[192:208].view(np.int8)[i // 16]) * f(q - 32)
        return found
    packed, found = [int(b) for b in block[4:16]], []
    for i in range(256):
        s = i // 32
        scale = packed[s] & 63 if s < 4 else (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4
        low = packed[s + 4] & 63 if s < 4 else (packed[s + 4] >> 4) | (packed[s] >> 6) << 4
        byte = int(block[(16 if kind == "q4_k" else 48) + 32 * (s // 2) + i % 32])
        q = byte & 15 if s % 2 == 0 else byte >> 4
        if kind == "q5_k":
            q |= (int(block[16 + i % 32]) >> s & 1) << 4
        found.append(d * f(scale) * f(q) - half(block, 2) * f(low))
    return found


def error(got, want):
    got, want = (t.astype("float32").numpy() for t in (got, want))
    assert got.shape == want.shape
    return float(np.sqrt(np.square(got - want).mean() / np.square(want).mean()))


def reference(x, weight, bias=None, residual=None):
    with kernels.use(quantized_linear="reference"):
        wide = None if residual is None else residual.astype("float32")
        return quantized_linear(x.astype("float32"), weight, bias, residual=wide)


def exact(x, weight, *more):
    with kernels.use(quantized_linear="exact"):
        return quantized_linear(x, weight, *more)


def same(a, b):
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


# formats -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORED)
def test_blocks_are_read_as_ggml_reads_them(kind):
    golden = np.load(GOLDEN)
    raw, values = golden[f"{kind}.raw"], golden[f"{kind}.values"]
    weight = from_gguf(kind, raw.tobytes(), values.shape[::-1])
    assert weight.dequantize().numpy().T.tobytes() == values.tobytes()
    assert weight._values().tobytes() == values.tobytes()  # without the native kernels


@pytest.mark.parametrize("kind", STORED)
def test_blocks_are_what_the_definition_says(kind):
    raw = stored(kind, 2, 256, seed=3)
    want = np.array([[v for block in row for v in block_values(kind, block)] for row in raw], np.float32)
    assert from_gguf(kind, raw, (256, 2)).dequantize().numpy().T.tobytes() == want.tobytes()


@given(kind=st.sampled_from(list(KINDS)), width=st.integers(1, 300), out=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_the_layout_loses_nothing(kind, width, out, seed):
    width = width if kind in ("int8", "int4") else -(-width // KINDS[kind].length) * KINDS[kind].length
    weight = weights(kind, width, out, seed)
    parts = separate(kind, weight.shape, weight.group, weight.blocks.numpy())
    assert interleave(parts).tobytes() == weight.blocks.numpy().tobytes()
    assert parts.codes.max() < 1 << KINDS[kind].bits
    assert weight.dequantize().numpy().T.tobytes() == weight._values().tobytes()
    assert (
        weight.dequantize("bfloat16")
        .astype("float32")
        .equal_all(weight.dequantize().astype("bfloat16").astype("float32"))
    )


@pytest.mark.parametrize("kind", list(ROUNDED))
def test_rounding_keeps_weights_near(kind):
    weight = random((256, 48), 1, scale=0.05)
    assert error(quantize(weight, kind, group=32).dequantize(), weight) <= ROUNDED[kind]
    assert quantize(paddle.zeros([64, 3]), kind, group=32).dequantize().abs().max() == 0


@pytest.mark.parametrize("kind", list(ROUNDED))
def test_rounding_what_was_rounded_changes_nothing_more(kind):
    once = quantize(random((128, 16), 2), kind, group=64).dequantize()
    assert error(quantize(once, kind, group=64).dequantize(), once) <= 2e-3  # scales are float16


def test_groups_are_scale_times_code_minus_zero():
    generator = np.random.default_rng(0)
    codes, zeros = generator.integers(0, 16, (100, 18)), generator.integers(0, 16, (2, 18))
    scales = generator.uniform(0.01, 0.02, (2, 18)).astype(np.float16).astype(np.float32)
    weight = from_groups(codes, scales, zeros, group=64)
    of_row = np.arange(100) // 64
    want = scales[of_row] * (codes - zeros[of_row]).astype(np.float32)
    assert weight.dequantize().numpy().tobytes() == want.tobytes()


# products ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_a_product_is_the_dequantised_one(kind, rows, dtype):
    weight = weights(kind, 512, 72)
    x, bias, residual = random((rows, 512), 1, dtype), random((72,), 2, dtype), random((rows, 72), 3, dtype)
    small = 4e-3 if dtype == "bfloat16" else 2e-6
    for b in (None, bias):
        for r in (None, residual):
            want = reference(x, weight, b, r)
            got = quantized_linear(x, weight, b, residual=r)
            assert got.dtype == x.dtype
            assert error(got, want) <= ACTIVATIONS + small
            with kernels.use(quantized_linear="exact" if build.load("quant") else "reference"):
                assert error(quantized_linear(x, weight, b, residual=r), want) <= small


@native
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_error_is_that_of_rounding_x(kind):
    """Rounding x by hand and multiplying exactly gives the same product to float's precision: nothing else is lost."""
    weight, x = weights(kind, 768, 40), random((9, 768), 4).numpy()
    blocks = x.reshape(9, -1, 32)
    step = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    rounded = (np.rint(blocks / step) * step).reshape(9, 768).astype(np.float32)
    got = quantized_linear(paddle.to_tensor(x), weight)
    assert error(got, reference(paddle.to_tensor(rounded), weight)) <= 1e-5


@native
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_row_does_not_depend_on_the_batch(kind):
    weight, x = weights(kind, 256, 50), random((512, 256), 5)
    whole, wholly_exact = quantized_linear(x, weight), exact(x, weight)
    for rows in (*range(1, 18), 511):
        assert same(quantized_linear(x[:rows], weight), whole[:rows])
    assert same(exact(x[7:12], weight), wholly_exact[7:12])
    assert same(quantized_linear(x.reshape([2, 256, 256]), weight), whole.reshape([2, 256, 50]))


@native
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("how", [0, 1])
def test_avx2_gives_the_bits_of_avx512(kind, how):
    for width_in, width_out, rows in ((256, 33, 7), (512, 16, 1)):
        weight, x = weights(kind, width_in, width_out), random((rows, width_in), 6) * 30
        about = (KINDS[kind].id, width_out, weight.group)
        best, plain = (
            build.run("mix_quant_linear", x, weight.blocks, None, None, *about, h) for h in (how, how | AVX2)
        )
        assert same(best, plain)


THREADS = """
import hashlib, numpy, paddle
from kernels import from_gguf, quantized_linear
generator = numpy.random.default_rng(0)
raw = generator.integers(0, 256, (400, 512 // 32, 20), dtype=numpy.uint8)
raw[..., :4] = numpy.array([0.01, -0.1], "<f2").view(numpy.uint8)
weight = from_gguf("q4_1", raw, (512, 400))
x = paddle.to_tensor(generator.standard_normal((40, 512)).astype("float32"))
found = b"".join(quantized_linear(x[:rows], weight).numpy().tobytes() for rows in (1, 5, 40))
print(hashlib.sha256(found).hexdigest())
"""


@native
def test_threads_do_not_change_bits():
    said = set()
    for threads in "12":
        env = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", THREADS], env=env, cwd=ROOT, capture_output=True, text=True, check=True
        )
        said.add(done.stdout.split()[-1])
    assert len(said) == 1


@given(
    width=st.integers(1, 200), out=st.integers(1, 70), rows=st.integers(0, 19), kind=st.sampled_from(["int8", "int4"])
)
@settings(deadline=None, max_examples=40)
def test_odd_shapes(width, out, rows, kind):
    weight, x = weights(kind, width, out), random((rows, width), 8)
    got, want = quantized_linear(x, weight), reference(x, weight)
    assert got.shape == [rows, out]
    # Inputs are rounded to steps of their block's largest / 127, whatever their size: half a step each, adding up.
    sizes = np.abs(x.numpy())
    steps = [sizes[:, i - i % 32 : i - i % 32 + 32].max(1, initial=0) / 127 for i in range(width)]
    bound = np.stack(steps, 1) / 2 @ np.abs(weight.dequantize().numpy())
    assert (np.abs(got.numpy() - want.numpy()) <= bound + 1e-6).all()


@native
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row_and_is_seen(bad):
    weight, x = weights("q4_1", 64, 20), random((3, 64), 9)
    clean = quantized_linear(x, weight)
    x[1, 40] = bad
    got = quantized_linear(x, weight)
    assert np.isnan(got[1].numpy()).all()
    assert same(got[0], clean[0])
    assert same(got[2], clean[2])


@native
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e30])
def test_tiny_and_huge_inputs(size):
    weight, x = weights("q4_1", 64, 20), random((2, 64), 10)
    got, want = quantized_linear(x * size, weight).numpy(), reference(x, weight).numpy().astype("float64") * size
    assert np.abs(got - want).max() <= 0.02 * np.abs(want).max() + 1e-33


# gradients, joins, embeddings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["q4_1", "q6_k", "int8", "int4"])
def test_gradients_reach_x_bias_and_residual(kind, dtype):
    weight, factor = weights(kind, 256, 20), random((2, 3, 20), 14)
    leaves = [random((2, 3, 256), 11, dtype), random((20,), 12, dtype), random((2, 3, 20), 13, dtype)]

    def gradients(kernel, inputs):
        for leaf in inputs:
            leaf.stop_gradient = False
        with kernels.use(**({"quantized_linear": kernel} if kernel else {})):
            y = quantized_linear(inputs[0], weight, inputs[1], residual=inputs[2])
        (y.astype("float32") * factor).sum().backward()
        return [leaf.grad for leaf in inputs]

    got = gradients(None, leaves)
    want = gradients("reference", [leaf.detach().astype("float32") for leaf in leaves])
    for a, b, leaf in zip(got, want, leaves, strict=True):
        assert a.dtype == leaf.dtype
        assert error(a, b) <= (1e-2 if dtype == "bfloat16" else 1e-6)


def test_only_the_bias_trains():
    weight, bias = weights("q8_0", 64, 20), random((20,), 1)
    bias.stop_gradient = False
    quantized_linear(random((3, 64), 2), weight, bias).sum().backward()
    assert error(bias.grad, paddle.full([20], 3.0)) == 0


def test_joined_outputs_are_those_side_by_side():
    parts, x = [weights("q4_1", 64, n, n) for n in (32, 16, 21)], random((3, 64), 1)
    joined = join_outputs(*parts)
    assert joined.shape == (64, 69)
    assert same(quantized_linear(x, joined), paddle.concat([quantized_linear(x, w) for w in parts], axis=-1))


@pytest.mark.parametrize("kind", list(KINDS))
def test_rows_are_the_weights(kind):
    weight, ids = weights(kind, 256, 50), paddle.to_tensor([[49, 0, 17], [17, 16, 15]])
    want = weight.dequantize().numpy().T[ids.numpy()]
    got = quantized_rows(weight, ids)
    assert got.shape == [2, 3, 256]
    assert got.numpy().tobytes() == want.tobytes()
    assert quantized_rows(weight, ids[0], dtype="bfloat16").dtype == paddle.bfloat16
    assert quantized_rows(weight, paddle.zeros([0], "int64")).shape == [0, 256]


# refusals ------------------------------------------------------------------------------------------------------------


def wrong_sizes():
    weight = weights("q4_1", 64, 20)
    x = random((3, 64), 1)
    yield "unknown kind 'q3_k'", lambda: from_gguf("q3_k", b"", (256, 1))
    yield "unknown kind 'int8'; known: q8_0", lambda: from_gguf("int8", b"", (256, 1))
    yield "takes 40 bytes, there are 41", lambda: from_gguf("q4_1", bytes(41), (64, 1))
    yield "not a multiple", lambda: from_gguf("q4_k", bytes(144), (128, 1))
    yield "both at least 1", lambda: from_gguf("q4_0", b"", (0, 4))
    yield "both at least 1", lambda: from_gguf("q4_0", b"", (32, -1))
    yield "both at least 1", lambda: from_gguf("q4_0", b"", (32, 4, 4))
    yield "there are 3", lambda: from_gguf("q4_0", bytes(3), (1 << 40, 1 << 40))
    yield "not a multiple", lambda: quantize(random((33, 4), 1), "q8_0")
    yield (
        "not a multiple of 32 inputs|multiple of 32 inputs, not 48",
        lambda: quantize(random((96, 4), 1), "int4", group=48),
    )
    yield "not a number", lambda: quantize(paddle.full([32, 1], float("nan")), "int8")
    yield "float16", lambda: quantize(paddle.full([32, 1], 1e30), "q8_0")
    yield "unknown kind 'q4_k'", lambda: quantize(random((256, 1), 1), "q4_k")
    yield "takes 640 bytes", lambda: QuantizedWeight("q4_1", (64, 1), paddle.zeros([3], "uint8"))
    yield "takes 640 bytes", lambda: QuantizedWeight("q4_1", (64, 1), paddle.zeros([640], "float32"))
    yield "the input is", lambda: quantized_linear(random((3, 63), 1), weight)
    yield "cast the input", lambda: quantized_linear(x.astype("float64"), weight)
    yield "does not fit 20 outputs", lambda: quantized_linear(x, weight, random((21,), 1))
    yield "the residual is", lambda: quantized_linear(x, weight, residual=random((3, 21), 1))
    yield "the residual is", lambda: quantized_linear(x, weight, residual=random((3, 20), 1, "bfloat16"))
    yield (
        "whole numbers from 0 to 15",
        lambda: from_groups(np.full((64, 1), 16), np.ones((1, 1)), np.ones((1, 1), int), group=64),
    )
    yield (
        "scales and zeros must be",
        lambda: from_groups(np.zeros((64, 1), int), np.ones((2, 1)), np.ones((2, 1), int), group=64),
    )
    yield "ids must be within 0..19", lambda: quantized_rows(weight, paddle.to_tensor([20]))
    yield "ids must be within 0..19", lambda: quantized_rows(weight, paddle.to_tensor([-1]))
    yield "ids are int64 or int32", lambda: quantized_rows(weight, paddle.to_tensor([1.0]))
    yield "does not go with", lambda: join_outputs(weight, weights("q4_0", 64, 20))
    yield "multiple of 16 outputs", lambda: join_outputs(weight, weight)


@pytest.mark.parametrize("index", range(27))
def test_what_does_not_fit_is_refused_with_a_reason(index):
    said, call = list(wrong_sizes())[index]
    with pytest.raises(ValueError, match=said):
        call()


def test_every_refusal_is_tested():
    assert len(list(wrong_sizes())) == 27


def test_a_gpu_kernel_refuses_the_cpu():
    with kernels.use(quantized_linear="paddle_gpu"), pytest.raises(ValueError, match="needs a GPU"):
        quantized_linear(random((1, 64), 1), weights("int8", 64, 16))


@pytest.mark.gpu
def test_the_gpu_kernel_is_near_the_reference():
    x = random((5, 64), 1).cuda().astype("float16")
    weight = quantize(random((64, 32), 2, scale=0.05).cuda(), "int8")
    with kernels.use(quantized_linear="paddle_gpu"):
        assert error(quantized_linear(x, weight), reference(x, weight)) <= 0.01


def test_no_kernel_asks_for_what_the_one_openmp_runtime_lacks():
    """GCC makes `schedule(dynamic)` a call that libiomp5 does not have: it would fail to load, or, where libgomp is
    loaded besides, every thread would do all of the work."""
    plain = re.compile(r"schedule\((dynamic|guided)")
    assert [f.name for f in (ROOT / "kernels" / "csrc").rglob("*.cc") if plain.search(f.read_text())] == []
    assert [f.name for f in (ROOT / "kernels" / "csrc").rglob("*.h") if plain.search(f.read_text())] == []
