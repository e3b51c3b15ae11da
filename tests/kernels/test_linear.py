"""linear: oneDNN against the reference in float32, packed and plain, forward and backward; refusals with reasons."""

import gc
import threading
import weakref

import numpy as np
import paddle
import pytest

import kernels
from kernels import build, explain
from kernels.choose import Call

ACTS = (None, "silu", "gelu", "gelu_tanh", "quick_gelu", "geglu")
SHAPES = [
    ((1,), 33, 18),
    ((2,), 129, 130),
    ((4,), 66, 64),
    ((5,), 3, 4),
    ((2, 7), 64, 128),
    ((300,), 96, 66),
    ((1, 1, 3), 320, 256),
    ((), 9, 6),
]
BOUND = {"float32": 1e-5, "bfloat16": 1e-2}

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


def operands(lead, width_in, width_out, dtype, act):
    x = random((*lead, width_in), dtype, 1)
    weight = random((width_in, width_out), dtype, 2, width_in**-0.5)
    bias = random((width_out,), dtype, 3)
    residual = random((*lead, width_out // 2 if act == "geglu" else width_out), dtype, 4)
    return x, weight, bias, residual


@onednn
@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("lead", "width_in", "width_out"), SHAPES)
def test_forward_is_the_reference(lead, width_in, width_out, act, dtype):
    x, weight, bias, residual = operands(lead, width_in, width_out, dtype, act)
    packed = kernels.pack_linear(weight)
    for b in (None, bias):
        for r in (None, residual):
            with kernels.use(linear="reference"):
                want = kernels.linear(wide(x), wide(weight), wide(b), act=act, residual=wide(r))
            with kernels.use(linear="onednn"), paddle.no_grad():
                plain, fast = (kernels.linear(x, w, b, act=act, residual=r) for w in (weight, packed))
            assert plain.dtype == fast.dtype == x.dtype
            assert error(plain, want) <= BOUND[dtype]
            assert error(fast, want) <= BOUND[dtype]


@onednn
@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("lead", "width_in", "width_out"), [((2, 7), 33, 18), ((130,), 64, 128), ((1,), 5, 6)])
def test_gradients_are_the_reference(lead, width_in, width_out, act, dtype):
    def gradients(kernel, cast):
        leaves = [cast(t).detach() for t in operands(lead, width_in, width_out, dtype, act)]
        for leaf in leaves:
            leaf.stop_gradient = False
        with kernels.use(linear=kernel):
            y = kernels.linear(*leaves[:3], act=act, residual=leaves[3])
        (wide(y) ** 2).sum().backward()
        return [leaf.grad for leaf in leaves]

    for got, want in zip(gradients("onednn", lambda t: t), gradients("reference", wide), strict=True):
        assert error(got, want) <= BOUND[dtype]


@onednn
@pytest.mark.parametrize("trained", ["x", "weight", "bias", "residual"])
def test_only_what_is_trained_gets_a_gradient(trained):
    leaves = dict(zip(("x", "weight", "bias", "residual"), operands((4,), 6, 5, "float32", None), strict=True))
    leaves[trained].stop_gradient = False
    kernels.linear(leaves["x"], leaves["weight"], leaves["bias"], residual=leaves["residual"]).sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is not None] == [trained]


@onednn
def test_a_packed_weight_lets_the_gradient_through_to_the_input():
    x, weight, bias, _ = operands((4,), 33, 18, "float32", None)
    x.stop_gradient = False
    kernels.linear(x, kernels.pack_linear(weight), bias, act="silu").sum().backward()
    got = x.grad.clone()
    x.clear_gradient()
    with kernels.use("reference"):
        kernels.linear(x, weight, bias, act="silu").sum().backward()
    assert error(got, x.grad) <= 1e-5


@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (4, 3), (9, 33), (33, 9), (64, 64), (320, 100), (257, 1)])
def test_unpack_gives_the_same_bits(shape, dtype):
    weight = random(shape, dtype, 5)
    packed = kernels.pack_linear(weight)
    assert (packed.shape, packed.dtype) == (shape, dtype)
    assert bool((packed.unpack() == weight).all())
    assert packed.unpack().dtype == weight.dtype


@onednn
def test_unpack_keeps_what_is_not_a_number():
    weight = paddle.to_tensor([[float("nan"), float("inf"), -0.0], [1e-42, -float("inf"), 0.0]])
    back = kernels.pack_linear(weight).unpack()
    assert weight.numpy().tobytes() == back.numpy().tobytes()


@onednn
def test_packed_frees_the_plain_weight_and_is_hardly_larger():
    weight = paddle.nn.Linear(320, 640).weight
    alive, plain_bytes = weakref.ref(weight), weight.size * 4
    packed = kernels.pack_linear(weight)
    del weight
    gc.collect()
    assert alive() is None
    assert packed.nbytes <= 1.05 * plain_bytes


@onednn
def test_a_view_is_read_by_its_strides():
    x, weight = random((32, 5), "float32", 6), random((18, 32), "float32", 7)
    assert (
        error(kernels.linear(x.t(), weight.t()), paddle.matmul(x, weight, transpose_x=True, transpose_y=True)) <= 1e-5
    )


def test_no_rows_give_no_rows():
    weight = random((6, 8), "float32", 8)
    for w in (weight, kernels.pack_linear(weight)):
        assert tuple(kernels.linear(paddle.zeros([0, 6]), w).shape) == (0, 8)
        assert tuple(kernels.linear(paddle.zeros([2, 0, 6]), w, act="geglu").shape) == (2, 0, 4)


@onednn
def test_no_rows_give_zero_gradients():
    weight = random((6, 8), "float32", 8)
    weight.stop_gradient = False
    kernels.linear(paddle.zeros([0, 6]), weight).sum().backward()
    assert float(weight.grad.abs().sum()) == 0.0


@onednn
def test_a_bfloat16_input_takes_a_float32_bias():
    x, weight, bias, _ = operands((4,), 32, 16, "bfloat16", None)
    assert error(kernels.linear(x, weight, wide(bias)), kernels.linear(x, weight, bias)) <= 1e-2


@onednn
def test_threads_share_the_cache():
    x, weight, bias, residual = operands((40,), 64, 96, "float32", "gelu")
    packed = kernels.pack_linear(weight)
    want = kernels.linear(x, weight, bias, act="gelu", residual=residual)
    worst = []

    def work():
        worst.append(
            max(
                error(kernels.linear(x[:n], packed, bias, act="gelu", residual=residual[:n]), want[:n])
                for n in range(1, 40)
            )
        )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(worst) == 4
    assert max(worst) <= 1e-5


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"x": (4, 5)}, "last axis is 5"),
        ({"bias": (7,)}, "does not fit 8 outputs"),
        ({"bias": (8, 1)}, "does not fit 8 outputs"),
        ({"residual": (1, 8)}, "the residual is"),
        ({"act": "relu"}, "unknown activation 'relu'"),
        ({"weight": (6, 7), "bias": (7,), "act": "geglu"}, "must be even"),
    ],
)
def test_wrong_calls_are_told_what_is_wrong(how, said):
    shapes = {"x": (4, 6), "weight": (6, 8), "bias": (8,), **{k: v for k, v in how.items() if k != "act"}}
    tensors = {name: paddle.zeros(shape) for name, shape in shapes.items()}
    residual = tensors.pop("residual", None)
    with pytest.raises(ValueError, match=said):
        kernels.linear(*tensors.values(), act=how.get("act"), residual=residual)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (Call("linear", "gpu", "float32", options=("float32", None, None)), "needs the CPU"),
        (Call("linear", "cpu", "float16", options=("float16", None, None)), "no float16"),
        (
            Call("linear", "cpu", "float32", options=("bfloat16", None, None)),
            "the weight is bfloat16, the input float32",
        ),
        (Call("linear", "cpu", "float32", options=("float32", "int8", None)), "the weight is packed as 'int8'"),
    ],
)
def test_refusals_have_reasons(call, said):
    assert f"onednn       refused: {said}" in explain(call)


@onednn
def test_a_forced_kernel_does_not_fall_back():
    x, weight = paddle.zeros([2, 4]), paddle.zeros([4, 4], dtype="bfloat16")
    with kernels.use(linear="onednn"), pytest.raises(ValueError, match="the weight is bfloat16, the input float32"):
        kernels.linear(x, weight)
    with kernels.use(linear="paddle_gpu"), pytest.raises(ValueError, match="needs a GPU"):
        kernels.linear(x, x.t())


@onednn
def test_the_reference_can_read_a_packed_weight():
    x, weight, bias, _ = operands((4,), 33, 18, "float32", None)
    with kernels.use("reference"):
        assert error(kernels.linear(x, kernels.pack_linear(weight), bias), kernels.linear(x, weight, bias)) == 0.0


@onednn
def test_the_op_itself_guards_memory():
    x, weight = paddle.zeros([2, 4]), paddle.zeros([4, 8])
    for arguments, said in [
        ((x, weight, paddle.zeros([7]), None, 0, -1), "the bias"),
        ((x, weight, None, paddle.zeros([2, 7]), 0, -1), "the residual"),
        ((x, paddle.zeros([3, 8]), None, None, 0, -1), "does not fit the input"),
        ((x, weight, None, None, 0, 10**6), "another process"),
    ]:
        with pytest.raises((RuntimeError, OSError, ValueError), match=said):
            build.run("mix_dnn_linear", *arguments)
