"""The UNet of every family against diffusers."""

import json

import numpy as np
import paddle
import pytest

from ppdiffusers.models.config import TINY_SD15, TINY_SDXL, UNetConfig
from ppdiffusers.models.layers import pack, unpack
from ppdiffusers.models.unet import UNet2DConditionModel
from tests.ppdiffusers.models.conftest import error, fill, noise, shadow, torch_shapes, transposed
from tools.goldens.random_weights import random_direction

FAMILIES = ["sd15", "sd21", "sdxl", "refiner", "inpaint", "lcm", "distilled"]


def unet_of(file):
    return fill(UNet2DConditionModel(UNetConfig.from_dict(file.config)))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_predicts_what_diffusers_predicts(golden, family):
    file = golden(f"unet_{family}")
    unet = unet_of(file)
    guidance = file.given("guidance") if family == "lcm" else None
    arguments = file.given("sample"), file.given("timestep"), file.given("text"), guidance, file.added
    with paddle.no_grad():
        assert error(unet(*arguments).sample, file.wanted("sample")) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_its_parameters_are_named_and_shaped_as_in_diffusers(golden, family):
    file = golden(f"unet_{family}")
    unet = UNet2DConditionModel.empty(UNetConfig.from_dict(file.config))
    assert torch_shapes(unet) == dict(file.keys)


def test_its_gradients_are_torchs(golden):
    file = golden("unet_gradients")
    unet, sample = unet_of(file), file.given("sample")
    sample.stop_gradient = False
    out = unet(sample, file.given("timestep"), file.given("text"), added_cond_kwargs=file.added).sample
    target = paddle.to_tensor(random_direction("target", out.shape).astype("float32"))
    loss = (out - target).square().mean()
    loss.backward()

    assert error(loss, file.wanted("loss")) < 1e-5
    assert error(sample.grad, file.wanted("sample_grad")) < 1e-4
    flip, parameters = transposed(unet), dict(unet.named_parameters())
    names, shadows = json.loads(str(file.wanted("names"))), file.wanted("shadow")
    assert set(names) == set(parameters)
    for name, theirs in zip(names, shadows, strict=True):
        gradient = parameters[name].grad.numpy().astype(np.float64)
        ours = shadow(name, gradient.T if name in flip else gradient)
        assert np.abs(np.subtract(ours, theirs)).max() < 1e-4 * theirs[0], name


def test_bfloat16_stays_near_float32(golden):
    file = golden("unet_sdxl")
    unet = unet_of(file)
    unet.to(dtype="bfloat16")
    arguments = file.given("sample"), file.given("timestep"), file.given("text"), None, file.added
    with paddle.no_grad():
        out = unet(*arguments).sample
    assert out.dtype == paddle.float32  # the caller's dtype
    assert error(out, file.wanted("sample")) < 0.05


def test_a_number_or_a_tensor_of_one_or_many_is_the_same_time():
    unet = fill(UNet2DConditionModel(TINY_SD15.unet))
    x, text = noise(2, 4, 8, 8), noise(2, 5, 32)
    with paddle.no_grad():
        outs = [unet(x, t, text)[0] for t in (10, 10.0, paddle.to_tensor(10), paddle.to_tensor([10.0, 10.0]))]
        alone = unet(x[:1], 10, text[:1], return_dict=False)[0]
    assert all(bool((out == outs[0]).all()) for out in outs)
    assert error(outs[0][:1], alone.numpy()) < 1e-5


def test_packing_changes_no_bit_of_the_weights():
    unet = fill(UNet2DConditionModel(TINY_SD15.unet))
    x, text = noise(1, 4, 8, 8), noise(1, 5, 32)
    before = {k: v.numpy().copy() for k, v in unet.state_dict().items()}
    with paddle.no_grad():
        plain = unet(x, 10, text).sample
        pack(unet)
        packed = unet(x, 10, text).sample
    assert list(unet.state_dict()) == list(before)
    assert sum(p.size for p in unet.parameters()) < sum(v.size for v in before.values()) // 10
    assert error(packed, plain.numpy()) < 1e-4
    with pytest.raises(ValueError, match="unpack"):
        unet.to(dtype="bfloat16")
    with pytest.raises(ValueError, match="unpack"):
        unet.set_state_dict(before)
    unpack(unet)
    after = unet.state_dict()
    assert list(after) == list(before)
    assert all(np.array_equal(after[k].numpy(), v) for k, v in before.items())
    assert all(not p.stop_gradient for p in unet.parameters())


def test_xl_asks_for_what_it_needs():
    unet = UNet2DConditionModel(TINY_SDXL.unet)
    x, text = noise(1, 4, 8, 8), noise(1, 5, 96)
    with pytest.raises(ValueError, match="text_embeds and time_ids"):
        unet(x, 1, text)
    with pytest.raises(ValueError, match="6 time ids"):
        unet(x, 1, text, added_cond_kwargs={"text_embeds": paddle.ones([1, 64]), "time_ids": paddle.ones([1, 5])})


def test_residuals_of_another_family_are_refused():
    unet = UNet2DConditionModel(TINY_SD15.unet)
    with pytest.raises(ValueError, match="2 down-block residuals for 8 skips"):
        unet(
            noise(1, 4, 8, 8),
            1,
            noise(1, 5, 32),
            down_block_additional_residuals=[paddle.ones([1])] * 2,
        )


def test_nine_channels_with_empty_extras_are_the_four_channel_unet():
    config = TINY_SD15.unet
    four = fill(UNet2DConditionModel(config))
    nine = UNet2DConditionModel(UNetConfig.from_dict(config.to_dict() | {"in_channels": 9}))
    weights = four.state_dict()
    first = paddle.zeros(nine.conv_in.weight.shape)
    first[:, :4] = weights["conv_in.weight"]
    nine.set_state_dict({**weights, "conv_in.weight": first})
    x, text = noise(1, 4, 8, 8), noise(1, 5, 32)
    with paddle.no_grad():
        wide = nine(paddle.concat([x, noise(1, 5, 8, 8, name="extras")], axis=1), 10, text).sample
        assert error(wide, four(x, 10, text).sample.numpy()) < 1e-5
