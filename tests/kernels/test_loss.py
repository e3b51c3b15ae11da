"""The loss from scores that never exist at once: the same numbers and gradients as from all of them."""

import numpy as np
import paddle
import pytest

import kernels
from kernels import loss as loss_module


def case(rows=23, width=16, vocabulary=41, turned=False, dtype="float32"):
    rng = np.random.RandomState(3)
    x = paddle.to_tensor(rng.standard_normal((rows, width)).astype("float32")).astype(dtype)
    shape = (vocabulary, width) if turned else (width, vocabulary)
    weight = paddle.to_tensor(rng.standard_normal(shape).astype("float32")).astype(dtype)
    labels = paddle.to_tensor(np.where(rng.rand(rows) < 0.3, -100, rng.randint(0, vocabulary, rows)))
    x.stop_gradient = weight.stop_gradient = False
    return x, weight, labels


def run(kernel, x, weight, labels, turned, times=1.0):
    x, weight = x.detach(), weight.detach()
    x.stop_gradient = weight.stop_gradient = False
    with kernels.use(linear_cross_entropy=kernel):
        value = kernels.linear_cross_entropy(x, weight, labels, turned=turned)
    (value * times).backward()
    return float(value), x.grad.astype("float32").numpy(), weight.grad.astype("float32").numpy()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("most", [10**9, 64 * 41])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_in_pieces_is_the_loss(turned, most, dtype, monkeypatch):
    monkeypatch.setattr(loss_module, "MOST_SCORES", most)
    made = case(rows=150, turned=turned, dtype=dtype)
    whole, pieces = (run(kernel, *made, turned, 3.0) for kernel in ("reference", "chunked"))
    near = 1e-5 if dtype == "float32" else 2e-2
    assert pieces[0] == pytest.approx(whole[0], rel=near)
    for ours, theirs in zip(pieces[1:], whole[1:], strict=True):
        assert np.abs(ours - theirs).max() <= near * np.abs(theirs).max()


def test_a_frozen_weight_gets_no_gradient():
    x, weight, labels = case()
    weight.stop_gradient = True
    kernels.linear_cross_entropy(x, weight, labels).backward()
    assert weight.grad is None
    assert x.grad is not None


def test_without_a_gradient_and_without_labels():
    x, weight, labels = case()
    with paddle.no_grad():
        value = kernels.linear_cross_entropy(x, weight, labels)
        plain = kernels.cross_entropy(paddle.matmul(x, weight), labels)
        nothing = kernels.linear_cross_entropy(x, weight, paddle.full_like(labels, -100))
    assert float(value) == pytest.approx(float(plain), rel=1e-5)
    assert float(nothing) == 0


def test_what_does_not_fit_is_refused():
    x, weight, labels = case()
    with pytest.raises(ValueError, match="do not fit"):
        kernels.linear_cross_entropy(x, weight, labels, turned=True)
    with kernels.use(linear_cross_entropy="chunked"), pytest.raises(ValueError, match="label 99"):
        kernels.linear_cross_entropy(x, weight, paddle.full_like(labels, 99))
