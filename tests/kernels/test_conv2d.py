"""conv2d: oneDNN against the reference in float32, packed and plain, forward and backward."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest

import kernels
from kernels import build, explain
from kernels.choose import Call

BOUND = {"float32": 1e-5, "bfloat16": 1e-2}
# (B, Y, X), in, out, kernel, stride, padding
GRID = [
    ((1, 7, 9), 33, 9, (3, 3), 1, 1),
    ((2, 6, 5), 4, 64, (3, 3), 1, 1),
    ((3, 5, 4), 64, 3, (3, 3), 1, 1),
    ((2, 9, 8), 9, 33, (3, 3), 2, 1),
    ((1, 8, 8), 64, 64, (3, 3), 2, (0, 1, 0, 1)),
    ((2, 4, 6), 3, 4, (3, 3), 1, (2, 0, 1, 3)),
    ((3, 4, 5), 33, 64, (1, 1), 1, 0),
    ((1, 1, 1), 9, 4, (1, 1), 1, 0),
    ((2, 6, 6), 33, 9, (1, 1), 2, 0),
    ((1, 3, 3), 4, 9, (1, 1), 1, 1),
    ((2, 1, 16), 9, 33, (3, 3), 1, 1),
    ((1, 1, 1), 64, 33, (3, 3), 1, 1),
    ((2, 28, 28), 3, 64, (14, 14), 14, 0),
    ((1, 5, 7), 4, 3, (1, 3), 1, (0, 0, 1, 1)),
    ((1, 6, 6), 4, 8, (2, 2), 2, 0),
]

onednn = pytest.mark.skipif(build.why_not("dnn") is not None, reason=f"extension dnn: {build.why_not('dnn')}")


def random(shape, dtype, seed, scale=1.0):
    values = np.random.default_rng(seed).standard_normal(shape).astype("float32") * scale
    return paddle.to_tensor(values).astype(dtype)


def wide(x):
    return None if x is None else x.astype("float32")


def error(got, want):
    got, want = wide(got).numpy(), wide(want).numpy()
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max()) if want.size else 0.0


def operands(size, width_in, width_out, window, stride, padding, dtype):
    pads = (padding,) * 4 if isinstance(padding, int) else padding
    height = (size[1] + pads[0] + pads[1] - window[0]) // stride + 1
    width = (size[2] + pads[2] + pads[3] - window[1]) // stride + 1
    fan = width_in * window[0] * window[1]
    x = random((*size, width_in), dtype, 1)
    weight = random((width_out, width_in, *window), dtype, 2, fan**-0.5)
    return x, weight, random((width_out,), dtype, 3), random((size[0], height, width, width_out), dtype, 4)


@onednn
@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize("act", [None, "silu"])
@pytest.mark.parametrize("case", GRID, ids=str)
def test_forward_is_the_reference(case, act, dtype):
    how = {"stride": case[4], "padding": case[5], "act": act}
    x, weight, bias, residual = operands(*case, dtype)
    packed = kernels.pack_conv2d(weight)
    for b, r in ((None, None), (bias, None), (bias, residual)):
        with kernels.use(conv2d="reference"):
            want = kernels.conv2d(wide(x), wide(weight), wide(b), residual=wide(r), **how)
        with kernels.use(conv2d="onednn"), paddle.no_grad():
            plain, fast = (kernels.conv2d(x, w, b, residual=r, **how) for w in (weight, packed))
        assert plain.dtype == fast.dtype == x.dtype
        assert error(plain, want) <= BOUND[dtype]
        assert error(fast, want) <= BOUND[dtype]


@onednn
@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize("act", [None, "silu"])
@pytest.mark.parametrize("case", GRID, ids=str)
def test_gradients_are_the_reference(case, act, dtype):
    def gradients(kernel, cast):
        leaves = [cast(t).detach() for t in operands(*case, dtype)]
        for leaf in leaves:
            leaf.stop_gradient = False
        with kernels.use(conv2d=kernel):
            y = kernels.conv2d(*leaves[:3], stride=case[4], padding=case[5], act=act, residual=leaves[3])
        (wide(y) ** 2).sum().backward()
        return [leaf.grad for leaf in leaves]

    for got, want in zip(gradients("onednn", lambda t: t), gradients("reference", wide), strict=True):
        assert error(got, want) <= BOUND[dtype]


@onednn
@pytest.mark.parametrize("trained", ["x", "weight", "bias", "residual"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_only_what_is_trained_gets_a_gradient(trained, kernel):
    leaves = operands((1, 4, 4), 6, 5, (kernel, kernel), 1, kernel // 2, "float32")
    leaves = dict(zip(("x", "weight", "bias", "residual"), leaves, strict=True))
    leaves[trained].stop_gradient = False
    y = kernels.conv2d(leaves["x"], leaves["weight"], leaves["bias"], padding=kernel // 2, residual=leaves["residual"])
    y.sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is not None] == [trained]


@onednn
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_packed_weight_lets_the_gradient_through_to_the_input(kernel):
    x, weight, bias, _ = operands((1, 4, 4), 33, 18, (kernel, kernel), 1, kernel // 2, "float32")
    grads = []
    for w in (weight, kernels.pack_conv2d(weight)):
        x.stop_gradient = False
        (kernels.conv2d(x, w, bias, padding=kernel // 2, act="silu") ** 2).sum().backward()
        grads.append(x.grad.clone())
        x.clear_gradient()
    assert error(grads[1], grads[0]) <= 1e-5


@onednn
@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize("window", [(1, 1), (3, 3), (1, 3), (14, 14)])
@pytest.mark.parametrize("channels", [(1, 1), (4, 3), (3, 4), (9, 33), (33, 9), (64, 100), (320, 4)])
def test_unpack_gives_the_same_bits(channels, window, dtype):
    weight = random((*channels, *window), dtype, 5)
    packed = kernels.pack_conv2d(weight)
    assert (packed.shape, packed.dtype) == (tuple(weight.shape), dtype)
    assert weight.numpy().tobytes() == packed.unpack().numpy().tobytes()


@onednn
@pytest.mark.parametrize("side", [1, 2, 5, 8, 24, 40])
def test_one_packing_serves_pictures_of_every_size(side):
    weight = random((96, 64, 3, 3), "bfloat16", 6, 0.05)
    packed = kernels.pack_conv2d(weight)
    x = random((1, side, side, 64), "bfloat16", 7)
    assert error(kernels.conv2d(x, packed, padding=1), kernels.conv2d(x, weight, padding=1)) <= 1e-2


@onednn
@pytest.mark.parametrize("dtype", list(BOUND))
def test_a_packed_weight_lies_as_the_last_picture_wants_it(dtype):
    weight = random((288, 288, 3, 3), dtype, 6, 0.02)
    packed = kernels.pack_conv2d(weight)
    size = packed.nbytes
    for side in (8, 64, 8, 16, 3):
        x = random((2, side, side, 288), dtype, 7)
        y = kernels.conv2d(x, packed, padding=1)
        now = packed.held[1]
        assert now == build.run("mix_dnn_conv2d_wants", x, None, [1, 1, 1, 1, 1], 0, False, now).item()
        assert weight.numpy().tobytes() == packed.unpack().numpy().tobytes()
        assert abs(packed.nbytes - size) <= 0.2 * size
        assert error(y, kernels.conv2d(x, weight, padding=1)) <= BOUND[dtype]


@onednn
def test_pictures_of_several_sizes_share_a_weight_across_threads():
    packed = kernels.pack_conv2d(random((288, 288, 3, 3), "bfloat16", 6, 0.02))
    pictures = [random((2, side, side, 288), "bfloat16", side) for side in (8, 16, 32, 64)]
    want = [kernels.conv2d(x, packed, padding=1).astype("float32").numpy() for x in pictures]

    def again(number):
        for _ in range(6):
            got = kernels.conv2d(pictures[number], packed, padding=1).astype("float32").numpy()
            if not np.allclose(got, want[number], rtol=0.02, atol=0.02):  # a wrong layout is wrong everywhere
                return number
        return None

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(again, range(4))) == [None] * 4


def test_an_empty_batch_gives_an_empty_batch():
    weight = random((8, 6, 3, 3), "float32", 8)
    for w in (weight, kernels.pack_conv2d(weight)):
        assert tuple(kernels.conv2d(paddle.zeros([0, 5, 5, 6]), w, padding=1).shape) == (0, 5, 5, 8)


@onednn
def test_an_empty_batch_gives_zero_gradients():
    weight = random((8, 6, 3, 3), "float32", 8)
    weight.stop_gradient = False
    kernels.conv2d(paddle.zeros([0, 5, 5, 6]), weight, padding=1).sum().backward()
    assert float(weight.grad.abs().sum()) == 0.0


@onednn
def test_a_view_is_read_by_its_strides():
    x, weight = random((2, 4, 5, 6), "float32", 9), random((8, 4, 3, 3), "float32", 10)
    view = x.transpose([0, 2, 3, 1])
    assert error(kernels.conv2d(view, weight), kernels.conv2d(view.contiguous(), weight)) == 0.0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"x": (1, 4, 4, 5)}, "does not fit weight"),
        ({"x": (4, 4, 6)}, "does not fit weight"),
        ({"x": (1, 2, 4, 6)}, "a window of 3x3 does not fit into 2x4"),
        ({"bias": (7,)}, "does not fit 8 outputs"),
        ({"residual": (1, 4, 4, 8)}, "the residual is"),
        ({"act": "gelu"}, "not 'gelu'"),
        ({"stride": 0}, "stride 0"),
        ({"padding": (1, 1)}, "top, bottom, left, right"),
        ({"padding": -1}, "padding -1"),
    ],
)
def test_wrong_calls_are_told_what_is_wrong(how, said):
    rest = {k: how[k] for k in ("act", "stride", "padding") if k in how}
    shapes = {
        "x": (1, 4, 4, 6),
        "weight": (8, 6, 3, 3),
        "bias": (8,),
        **{k: v for k, v in how.items() if k not in rest},
    }
    tensors = {name: paddle.zeros(shape) for name, shape in shapes.items()}
    residual = tensors.pop("residual", None)
    with pytest.raises(ValueError, match=said):
        kernels.conv2d(*tensors.values(), residual=residual, **rest)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (Call("conv2d", "gpu", "float32", options=("float32", None)), "needs the CPU"),
        (Call("conv2d", "cpu", "float16", options=("float16", None)), "no float16"),
        (Call("conv2d", "cpu", "bfloat16", options=("float32", None)), "the weight is float32, the input bfloat16"),
    ],
)
def test_refusals_have_reasons(call, said):
    assert f"onednn       refused: {said}" in explain(call)
