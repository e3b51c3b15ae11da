"""ControlNets against diffusers, alone, with a UNet, and several at once."""

import numpy as np
import paddle
import pytest

from ppdiffusers.models.config import TINY_SD15, ControlNetConfig, UNetConfig
from ppdiffusers.models.controlnet import ControlNetModel, MultiControlNet, soft_scales
from ppdiffusers.models.unet import UNet2DConditionModel
from tests.ppdiffusers.models.conftest import error, fill, noise, torch_shapes

FAMILIES = ["sd15", "sdxl", "pooled"]


def net_of(file):
    return fill(ControlNetModel(ControlNetConfig.from_dict(file.config["controlnet"])))


def arguments_of(file):
    return [file.given(name) for name in ("sample", "timestep", "text", "picture")]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_gives_the_residuals_that_diffusers_gives(golden, family):
    file = golden(f"controlnet_{family}")
    net = net_of(file)
    assert torch_shapes(net) == dict(file.keys[0])
    with paddle.no_grad():
        down, mid = net(*arguments_of(file), 0.7, file.added)
    assert error(mid, file.wanted("mid")) < 1e-5
    assert f"out_down_{len(down)}" not in file.file
    assert max(error(x, file.wanted(f"down_{i}")) for i, x in enumerate(down)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_unet_takes_them(golden, family):
    file = golden(f"controlnet_{family}")
    unet = fill(UNet2DConditionModel(UNetConfig.from_dict(file.config["unet"])))
    with paddle.no_grad():
        down, mid = net_of(file)(*arguments_of(file), 0.7, file.added)
        out = unet(*arguments_of(file)[:3], None, file.added, down, mid).sample
    assert error(out, file.wanted("sample")) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near_float32(golden, family):
    file = golden(f"controlnet_{family}")
    net, unet = net_of(file), fill(UNet2DConditionModel(UNetConfig.from_dict(file.config["unet"])))
    for model in (net, unet):
        model.to(dtype="bfloat16")
    with paddle.no_grad():
        down, mid = net(*arguments_of(file), 0.7, file.added)
        out = unet(*arguments_of(file)[:3], None, file.added, down, mid).sample
    assert error(out, file.wanted("sample")) < 0.05


def test_one_scale_for_each_residual_is_diffusers_guess_mode(golden):
    file = golden("controlnet_sd15")
    with paddle.no_grad():
        down, _ = net_of(file)(*arguments_of(file), soft_scales(13))
    assert error(down[0], file.wanted("soft")) < 1e-5
    assert soft_scales(13)[0] == pytest.approx(0.1)
    assert soft_scales(13)[-1] == 1.0


def test_several_are_the_sum_of_each(golden):
    file = golden("controlnet_sd15")
    net, (x, t, text, picture) = net_of(file), arguments_of(file)
    with paddle.no_grad():
        both = MultiControlNet([net, net])(x, t, text, [picture, picture * 0.5], [0.3, 0.4])
        first, second = net(x, t, text, picture, 0.3), net(x, t, text, picture * 0.5, 0.4)
    wanted = (first.mid_block_res_sample + second.mid_block_res_sample).numpy()
    assert error(both.mid_block_res_sample, wanted) < 1e-6
    assert len(both.down_block_res_samples) == len(first.down_block_res_samples)
    with pytest.raises(ValueError, match="2 ControlNets got 1 pictures"):
        MultiControlNet([net, net])(x, t, text, [picture], [1.0, 1.0])


def test_a_new_one_changes_nothing_and_starts_from_the_unet():
    unet = fill(UNet2DConditionModel(TINY_SD15.unet))
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 16)).eval()
    x, text = noise(1, 4, 8, 8), noise(1, 5, 32)
    with paddle.no_grad():
        down, mid = net(x, 10, text, noise(1, 3, 64, 64))
        assert np.array_equal(unet(x, 10, text, None, None, down, mid)[0].numpy(), unet(x, 10, text)[0].numpy())
    theirs = unet.state_dict()
    shared = [name for name in net.state_dict() if name in theirs]
    assert any(name.startswith("down_blocks.3") for name in shared)
    assert all(np.array_equal(net.state_dict()[name].numpy(), theirs[name].numpy()) for name in shared)


def test_a_picture_of_the_wrong_size_is_refused():
    net = ControlNetModel(ControlNetConfig.from_unet(TINY_SD15.unet))
    with pytest.raises(ValueError, match="resize the picture"):
        net(noise(1, 4, 8, 8), 1, noise(1, 5, 32), noise(1, 3, 32, 64))
