"""What the grid's random numbers do not reach: extremes, large offsets, views, nothing at all, and wrong arguments."""

import math
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import build

native = pytest.mark.skipif(
    any(build.why_not(name) for name in ("elementwise", "norm", "loss", "layout")), reason="the extensions are absent"
)
ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x]),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@native
@pytest.mark.parametrize("op", list(ACTIVATIONS))
def test_activations_are_good_to_a_few_ulp(op):
    x = np.linspace(-30, 30, 40001).astype("float32")
    want = ACTIVATIONS[op](x.astype("float64"))
    with kernels.use(**{op: "native"}):
        got = getattr(kernels, op)(paddle.to_tensor(x)).numpy()
    assert np.abs(got - want).max() < 5e-7 * 3  # gelu around 3: half an ulp of 3 and the error of Phi
    near = np.abs(x) < 5
    assert (np.abs(got - want)[near] <= 1e-5 * np.abs(want[near]) + 1e-9).all() or op == "gelu_tanh"


@native
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", list(ACTIVATIONS))
def test_activations_at_the_ends_of_the_number_line(op, dtype):
    x = paddle.to_tensor([-3e38, -1e30, -1000.0, -200.0, -0.0, 0.0, 1e-38, 200.0, 1e30, 3e38]).astype(dtype)
    x.stop_gradient = False
    with kernels.use(**{op: "native"}):
        y = getattr(kernels, op)(x)
    y.astype("float32").sum().backward()
    y, slope, x = (t.astype("float32").numpy() for t in (y, x.grad, x.detach()))
    np.testing.assert_allclose(y[:4], 0, atol=1e-30)
    np.testing.assert_allclose(slope[:4], 0, atol=1e-30)
    np.testing.assert_array_equal(y[-3:], x[-3:])
    np.testing.assert_allclose(slope[-3:], 1, rtol=1e-6)
    np.testing.assert_allclose(slope[4:7], 0.5, rtol=1e-6)
    nan = paddle.to_tensor([float("nan")] * 17).astype(dtype)
    with kernels.use(**{op: "native"}):
        assert np.isnan(getattr(kernels, op)(nan).astype("float32").numpy()).all()


def exact_group_norm(x: np.ndarray, groups: int) -> np.ndarray:
    h = x.astype("float64").reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    centred = h - h.mean(axis=(1, 3), keepdims=True)
    return (centred / np.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + 1e-5)).reshape(x.shape)


@native
@settings(deadline=None, max_examples=25)
@given(
    offset=st.floats(-3000, 3000), rows=st.integers(2, 700), groups=st.sampled_from([1, 4]), outlier=st.booleans(),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_group_norm_keeps_its_digits_far_from_zero(offset, rows, groups, outlier, seed):
    """The variance is not a difference of squares: x + 3000 is normalised as well as its own rounding allows."""
    x = (np.random.default_rng(seed).standard_normal((2, rows, 24)) + offset).astype("float32")
    if outlier:
        x[:, 0] = 0
    ones, zeros = paddle.ones([24]), paddle.zeros([24])
    with kernels.use(group_norm="native"):
        got = kernels.group_norm(paddle.to_tensor(x), ones, zeros, groups=groups).numpy()
    np.testing.assert_allclose(got, exact_group_norm(x, groups), atol=2e-6 * (1 + abs(offset)))


@native
def test_a_shift_is_the_same_as_a_shifted_input():
    random = np.random.default_rng(0)
    x, shift = (random.standard_normal(s).astype("float32") for s in ((2, 30, 32), (2, 32)))
    weight, bias = (paddle.to_tensor(random.standard_normal(32).astype("float32")) for _ in range(2))
    shifted = paddle.to_tensor(x + 50 * shift[:, None])
    with kernels.use(group_norm="native"):
        got = kernels.group_norm(paddle.to_tensor(x), weight, bias, groups=8, shift=paddle.to_tensor(50 * shift))
        want = kernels.group_norm(shifted, weight, bias, groups=8)
    np.testing.assert_allclose(got.numpy(), want.numpy(), atol=2e-5)


@native
def test_views_are_read_as_they_look():
    x = paddle.randn([40, 66])
    for view in (x.t(), x[1::3, 5:], x.transpose([1, 0])[:, ::2]):
        whole = paddle.to_tensor(view.numpy())
        with kernels.use("native"):
            assert (kernels.silu(view) == kernels.silu(whole)).all()
            assert (kernels.layer_norm(view, None, None) == kernels.layer_norm(whole, None, None)).all()
            assert (kernels.concat_channels(view, view) == kernels.concat_channels(whole, whole)).all()


@native
def test_nothing_in_gives_nothing_out():
    one = paddle.ones([8])
    with kernels.use("native"):
        assert kernels.silu(paddle.zeros([0, 8])).shape == [0, 8]
        assert kernels.geglu(paddle.zeros([0, 8])).shape == [0, 4]
        assert kernels.group_norm(paddle.zeros([2, 0, 8]), one, one, groups=2).shape == [2, 0, 8]
        assert kernels.rms_norm(paddle.zeros([0, 8]), one).shape == [0, 8]
        assert kernels.concat_channels(paddle.zeros([0, 8]), paddle.zeros([0, 3])).shape == [0, 11]
        assert float(kernels.cross_entropy(paddle.zeros([0, 8]), paddle.zeros([0], dtype="int64"))) == 0


@native
def test_cross_entropy_of_impossible_tokens():
    logits = paddle.to_tensor([[0.0, -math.inf, 0.0], [-math.inf, 3e38, -math.inf]])
    with kernels.use(cross_entropy="native"):
        assert float(kernels.cross_entropy(logits, paddle.to_tensor([2, 1]))) == pytest.approx(math.log(2) / 2)
        for bad in (3, -1):
            with pytest.raises(ValueError, match=f"label {bad} is outside the vocabulary of 3"):
                kernels.cross_entropy(logits, paddle.to_tensor([0, bad]))
        logits.stop_gradient = False
        kernels.cross_entropy(logits, paddle.to_tensor([2, -100]), ignore_index=-100).backward()
    np.testing.assert_allclose(logits.grad.numpy(), [[0.5, 0, -0.5], [0, 0, 0]], atol=1e-7)


def test_wrong_shapes_are_told():
    x, w = paddle.zeros([2, 3, 8]), paddle.ones([8])
    for call, says in (
        (lambda: kernels.group_norm(x, w, w, groups=3), "8 channels do not divide into 3 groups"),
        (lambda: kernels.group_norm(x, w, w, groups=2, act="gelu"), "no activation or 'silu'"),
        (lambda: kernels.group_norm(x, w, w, groups=2, shift=w), r"shift must be \(B, C\)"),
        (lambda: kernels.layer_norm(x, w[:4], None), "8 channels need weights of that length"),
        (lambda: kernels.geglu(x[..., :3]), "must be even"),
        (lambda: kernels.swiglu(x, x[:1]), "must be alike"),
        (lambda: kernels.rope(x.unsqueeze(2), w, w), "needs cos and sin of shape"),
        (lambda: kernels.concat_channels(x, x[:1]), "do not fit"),
        (lambda: kernels.upsample_nearest2x(x), "takes"),
        (lambda: kernels.adamw_step([x], [w], [x], [x], step=1, lr=0.1), "must have one shape"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


THREADS = """
import hashlib, paddle, kernels
paddle.seed(0)
x, w = paddle.randn([2, 40, 40, 64]), paddle.randn([64])
x.stop_gradient = w.stop_gradient = False
y = kernels.group_norm(x, w, w, groups=8, act="silu")
z = kernels.layer_norm(y, w, w)
z.square().sum().backward()
print(hashlib.sha256(b"".join(t.numpy().tobytes() for t in (y, z, x.grad, w.grad))).hexdigest())
"""


@native
def test_results_do_not_depend_on_the_number_of_threads():
    def digest(threads: int) -> str:
        code = f"import os; os.environ.update(OMP_NUM_THREADS='{threads}', FLAGS_paddle_num_threads='1')\n" + THREADS
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    assert digest(1) == digest(3)


@pytest.mark.skipif(not kernels.keep_freed_memory(), reason="malloc is not ours to set here")
def test_big_outputs_reuse_memory():
    x = paddle.zeros([1 << 23])  # 32 MiB
    for _ in range(4):
        paddle.nn.functional.relu(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        paddle.nn.functional.relu(x)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 3 * 8192  # 8 * 8192 without
    kernels.release_freed_memory()
