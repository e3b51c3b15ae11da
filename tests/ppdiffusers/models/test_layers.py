"""Leaves, packing and the small pieces of maths that every model shares."""

import math

import numpy as np
import paddle
import pytest

from ppdiffusers.models.layers import Conv2D, GroupNorm, Linear, channels_first, channels_last, nearest, pack, sinusoid
from ppdiffusers.models.outputs import CLIPTextOutput, UNet2DConditionOutput
from tests.ppdiffusers.models.conftest import error, noise

LEAVES = [lambda: Linear(6, 4), lambda: Linear(6, 4, bias=False), lambda: Conv2D(6, 4), lambda: Conv2D(6, 4, kernel=1)]


@pytest.mark.parametrize("make", LEAVES)
def test_a_packed_leaf_has_the_same_weight(make):
    leaf = make()
    before, kept = leaf.weight.numpy().copy(), leaf.weight
    assert leaf.dense_weight() is kept
    leaf.pack()
    leaf.pack()
    assert leaf.weight is None
    assert np.array_equal(leaf.dense_weight().numpy(), before)
    assert list(leaf.state_dict()) == list(make().state_dict())
    leaf.unpack()
    leaf.unpack()
    assert np.array_equal(leaf.weight.numpy(), before)
    assert not leaf.weight.stop_gradient


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("make", LEAVES)
def test_a_weight_can_be_set_in_either_state(make, packed):
    leaf = make()
    if packed:
        leaf.pack()
    changed = leaf.dense_weight() + 1.0
    wanted = changed.numpy()
    leaf.set_dense_weight(changed.astype("float64"))
    assert leaf.dense_weight().dtype == paddle.float32
    assert np.array_equal(leaf.dense_weight().numpy(), wanted)
    x = noise(2, 3, 5, 6)
    other = make()
    other.set_state_dict(leaf.state_dict())
    with paddle.no_grad():
        assert error(leaf(x), other(x).numpy()) < 1e-5
    with pytest.raises(ValueError, match="does not fit"):
        leaf.set_dense_weight(changed[:2])


def test_packing_a_model_packs_every_leaf():
    model = paddle.nn.Sequential(Linear(4, 4), paddle.nn.Sequential(Conv2D(4, 4), GroupNorm(2, 4, 1e-5)))
    pack(model)
    names = [name for name, _ in model.named_parameters()]
    assert names == ["0.bias", "1.0.bias", "1.1.weight", "1.1.bias"]


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (9, 11), (3, 4)])
def test_nearest_repeats_the_pixel_at_the_floor(size):
    x = noise(2, 3, 4, 5)
    rows = [math.floor(i * 3 / size[0]) for i in range(size[0])]
    columns = [math.floor(i * 4 / size[1]) for i in range(size[1])]
    assert np.array_equal(nearest(x, size).numpy(), x.numpy()[:, rows][:, :, columns])


def test_borders_are_inverse():
    x = noise(2, 3, 4, 5)
    inside = channels_last(x, "float32")
    assert inside.shape == [2, 4, 5, 3]
    assert np.array_equal(channels_first(inside, "float32").numpy(), x.numpy())


def test_the_sinusoid_starts_at_frequency_one():
    wave = sinusoid(paddle.to_tensor([0.0, 1.0, 999.0]), 8).numpy()
    assert wave[0].tolist() == [1.0] * 4 + [0.0] * 4
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    assert np.allclose(wave[2], np.concatenate([np.cos(999 * frequencies), np.sin(999 * frequencies)]), atol=1e-4)


def test_outputs_unpack_index_and_name():
    one = paddle.ones([1])
    out = UNet2DConditionOutput(one)
    assert out[0] is out["sample"] is out.sample is next(iter(out))
    last, pooled = CLIPTextOutput(one, one)
    assert last is pooled is one
