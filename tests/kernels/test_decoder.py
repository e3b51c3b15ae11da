"""A decoder's layers as one op: the same as its single ops, whatever the kinds, sizes, caches and company of a row."""

from dataclasses import replace

import numpy as np
import paddle
import pytest

import kernels
from kernels import DecoderLayer, DecoderStack, Pages, Projection, build, decoder_step, explain, quantize, use
from kernels.quant_formats import ROUNDINGS

native = pytest.mark.skipif(build.why_not("decoder") is not None, reason=f"{build.why_not('decoder')}")
SIZES = {"channels": 64, "heads": 4, "groups": 2, "dim": 16, "inner": 96, "layers": 2}
ODD = {"channels": 50, "heads": 6, "groups": 2, "dim": 14, "inner": 77, "layers": 2}  # int8 and int4 take any width
MANY = ("q4_0", "q8_0", "q5_1", "int8", "q4_1", "int4", "q5_0")


def random(generator, *shape, scale=1.0):
    return paddle.to_tensor((generator.standard_normal(shape) * scale).astype("float32"))


def stack_of(kinds=("q4_1",), *, seed=0, bias=False, heads_normed=False, window=0, interleaved=False, **sizes):
    s = SIZES | sizes
    generator = np.random.default_rng(seed)
    c, d, inner = s["channels"], s["dim"], s["inner"]
    wide, narrow = s["heads"] * d, s["groups"] * d

    def norm(width):
        return random(generator, width, scale=0.1) + 1

    def part(at, width_in, width_out):
        weight = quantize(
            random(generator, width_in, width_out, scale=width_in**-0.5), kinds[at % len(kinds)], group=32
        )
        return Projection(weight, random(generator, width_out, scale=0.1) if bias else None)

    shapes = [(c, wide), (c, narrow), (c, narrow), (wide, c), (c, inner), (c, inner), (inner, c)]
    layers = [
        DecoderLayer(
            norm(c),
            norm(c),
            *(part(i + j, *shape) for j, shape in enumerate(shapes)),
            q_norm=norm(d) if heads_normed else None,
            k_norm=norm(d) if heads_normed else None,
            window=window,
        )
        for i in range(s["layers"])
    ]
    return DecoderStack(tuple(layers), s["heads"], s["groups"], d, 1e-5, d**-0.5, interleaved)


def inputs(stack, lengths, *, room=None, table=None, pages=None, dtype="float32", turned=None, seed=1):
    """x, caches that are full of numbers, and angles of each row's position."""
    generator = np.random.default_rng(seed)
    shape = [pages or len(lengths), room or max(lengths), stack.kv_heads, stack.head_dim]
    sides = [[random(generator, *shape).astype(dtype) for _ in stack.layers] for _ in range(2)]
    where = None if table is None else paddle.to_tensor(np.asarray(table, np.int32))
    held = Pages(*sides, paddle.to_tensor(np.asarray(lengths, np.int32)), where)
    half = (turned or stack.head_dim) // 2
    angle = np.outer(np.asarray(lengths) - 1, 1 / 50.0 ** (np.arange(half) / half)).astype("float32")
    return random(generator, len(lengths), stack.width), held, *(paddle.to_tensor(f(angle)) for f in (np.cos, np.sin))


def run(which, stack, x, held, cos, sin):
    """The result and the caches afterwards, from copies of those given."""
    copy = replace(held, keys=[t.clone() for t in held.keys], values=[t.clone() for t in held.values])
    with paddle.no_grad(), use(decoder_step=which):
        y = decoder_step(x, stack, copy, cos, sin)
    return [t.astype("float32").numpy() for t in (y, *copy.keys, *copy.values)]


def error(got, want):
    return float(np.sqrt(np.square(got - want).mean() / np.square(want).mean()))


def assert_same(stack, *given):
    """The op is its single ops to the last bits, and the exact definition up to what rounding x costs."""
    got, single, exact = (run(which, stack, *given) for which in ("native", "composed", "reference"))
    for a, b, c in zip(got, single, exact, strict=True):
        assert error(a, b) < 2e-3  # a last bit may move a code of x by one
        assert error(a, c) < 0.03


CASES = {
    **{kind: {"kinds": (kind,)} for kind in ROUNDINGS},
    "mixed": {"kinds": MANY},
    "bias": {"bias": True},
    "head norms": {"heads_normed": True},
    "one group": {"groups": 1},
    "a group each": {"groups": 4},
    "five heads a group": {"heads": 10, "groups": 2, "dim": 16},
    "neighbours": {"interleaved": True},
    "window": {"window": 5},
    "odd": {"kinds": ("int8", "int4"), "bias": True, **ODD},
    "one layer": {"layers": 1},
}


@native
@pytest.mark.parametrize("case", CASES)
def test_it_is_its_single_ops(case):
    stack = stack_of(**CASES[case])
    assert_same(stack, *inputs(stack, [9]))
    assert_same(stack, *inputs(stack, [1, 7, 12]))


@native
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_long_texts_and_pages(dtype):
    stack = stack_of()
    assert_same(stack, *inputs(stack, [300, 1, 513], room=520, dtype=dtype))
    order = np.random.default_rng(3).permutation(50)[:33].reshape(3, 11)
    assert_same(stack, *inputs(stack, [161, 16, 17], room=16, pages=50, table=order, dtype=dtype))


@native
def test_a_part_of_each_head_is_turned():
    stack = stack_of()
    assert_same(stack, *inputs(stack, [5, 8], turned=10))


@native
@pytest.mark.parametrize("rows", [2, 5, 8, 11, 16])
def test_a_row_has_the_same_bits_in_any_batch(rows):
    stack = stack_of(MANY)
    lengths = [1 + 7 * i % 23 for i in range(rows)]
    x, held, cos, sin = inputs(stack, lengths)
    whole = run("native", stack, x, held, cos, sin)[0]
    for i in range(rows):
        alone = Pages([t[i : i + 1] for t in held.keys], [t[i : i + 1] for t in held.values], held.lengths[i : i + 1])
        got = run("native", stack, x[i : i + 1], alone, cos[i : i + 1], sin[i : i + 1])[0]
        assert np.array_equal(got[0], whole[i])


@native
def test_rows_of_one_text_see_what_is_before_them():
    stack = stack_of()
    table = [[2, 0]] * 4 + [[1, 3]]
    x, held, cos, sin = inputs(stack, [5, 6, 7, 8, 3], room=6, pages=4, table=table)
    together = run("native", stack, x, held, cos, sin)
    for i in range(5):  # one after the other
        row = replace(held, lengths=held.lengths[i : i + 1], table=held.table[i : i + 1])
        with paddle.no_grad():
            y = decoder_step(x[i : i + 1], stack, row, cos[i : i + 1], sin[i : i + 1])
        assert np.array_equal(y.numpy()[0], together[0][i])
    for got, want in zip([*held.keys, *held.values], together[1:], strict=True):
        assert np.array_equal(got.numpy(), want)


@native
def test_what_is_not_finite_stays_in_its_row():
    stack = stack_of()
    x, held, cos, sin = inputs(stack, [4, 4, 4])
    good = run("native", stack, x, held, cos, sin)[0]
    x[1] = float("nan")
    bad = run("native", stack, x, held, cos, sin)[0]
    assert np.isnan(bad[1]).all()
    assert np.array_equal(bad[[0, 2]], good[[0, 2]])


def test_refusals_have_reasons():
    stack = stack_of()
    x, held, cos, sin = inputs(stack, [4])
    assert "float32 between the layers" in explain("decoder_step", x.astype("bfloat16"), stack, held, cos, sin)
    x.stop_gradient = False
    assert "has no gradient" in explain("decoder_step", x, stack, held, cos, sin)


def test_what_does_not_fit_is_said():
    stack = stack_of()
    x, held, cos, sin = inputs(stack, [4, 2])
    with pytest.raises(ValueError, match=r"x is \(2, 63\)"):
        decoder_step(x[:, :63], stack, held, cos, sin)
    with pytest.raises(ValueError, match="1 and 2 caches for 2 layers"):
        decoder_step(x, stack, replace(held, keys=held.keys[:1]), cos, sin)
    with pytest.raises(ValueError, match="lengths must be int32"):
        decoder_step(x, stack, replace(held, lengths=held.lengths.astype("int64")), cos, sin)
    with pytest.raises(ValueError, match="the table is"):
        decoder_step(x, stack, replace(held, table=paddle.zeros([1, 3], dtype="int32")), cos, sin)
    with pytest.raises(ValueError, match="cos"):
        decoder_step(x, stack, held, cos[:1], sin[:1])
    with pytest.raises(ValueError, match="k of layer 1"):
        DecoderStack((stack.layers[0], replace(stack.layers[1], k=stack.layers[1].q)), 4, 2, 16, 1e-5, 0.25)
    with pytest.raises(ValueError, match="cannot share"):
        replace(stack, kv_heads=3)


@native
@pytest.mark.parametrize(("lengths", "table"), [([0], None), ([9], None), ([4], [[7]]), ([4], [[-1]]), ([9], [[0]])])
def test_nothing_outside_of_the_cache_is_touched(lengths, table):
    stack = stack_of()
    x, held, cos, sin = inputs(stack, [4], room=8)
    where = None if table is None else paddle.to_tensor(table, dtype="int32")
    held = replace(held, lengths=paddle.to_tensor(lengths, dtype="int32"), table=where)
    with paddle.no_grad(), pytest.raises((OSError, RuntimeError, ValueError), match="outside of the cache"):
        decoder_step(x, stack, held, cos, sin)


def test_it_is_public():
    assert kernels.decoder_step is decoder_step
