"""The guide's loss and its gradient, through a real decoder."""

import numpy as np
import paddle
import pytest

from mix.appflow.artqr.draw import Layout, picture
from mix.appflow.artqr.guide import CodeGuide, ScanLoss, plain_decoder, wanted
from mix.appflow.artqr.matrix import make
from ppdiffusers.pipelines import pixels
from tests.ppdiffusers.pipelines.conftest import tiny

CODE = make("hi", "L", 1, 0)
LAYOUT = Layout.fit((64, 64), CODE.n, 2)


def loss(margin: float = 0.1) -> ScanLoss:
    return ScanLoss(wanted(CODE, np.full((CODE.n, CODE.n), 0.5), margin), LAYOUT)


def test_the_code_itself_has_no_loss_and_its_negative_much():
    shown = pixels.to_tensor([picture(CODE, LAYOUT)])
    assert float(loss()(shown)) < 1e-3
    assert float(loss()(-shown)) > 0.1


def test_module_means_are_those_of_the_repair():
    shown = pixels.to_tensor([picture(CODE, LAYOUT)])
    means = loss().modules(shown)[0].numpy()
    assert ((means < 0.5) == CODE.modules).all()


def test_the_gradient_through_the_decoder_is_right():
    vae = plain_decoder(tiny("sd15"))
    measure = loss(0.3)
    z = paddle.to_tensor(np.random.default_rng(0).normal(0, 0.3, (1, 4, 8, 8)).astype("float32"))

    def value(at):
        return measure(vae.decode(at).sample)

    z.stop_gradient = False
    (slope,) = paddle.grad([value(z)], [z])
    way = paddle.to_tensor(np.random.default_rng(1).normal(0, 1, z.shape).astype("float32"))
    step = 2e-3
    with paddle.no_grad():
        numeric = float(value(z + way * step) - value(z - way * step)) / (2 * step)
    assert float((slope * way).sum()) == pytest.approx(numeric, rel=0.05, abs=1e-6)


def test_held_colours_stay_nearer_to_the_picture_while_its_modules_turn_right():
    vae = plain_decoder(tiny("sd15"))
    start = paddle.to_tensor(np.random.default_rng(2).normal(0, 1, (1, 4, 8, 8)).astype("float32"))
    shares = paddle.to_tensor([0.299, 0.587, 0.114]).reshape([1, 3, 1, 1])

    def colours(z):
        shown = vae.decode(z / vae.config.scaling_factor).sample
        return shown - (shown * shares).sum(axis=1, keepdim=True)

    def led(hold):
        shown = vae.decode(start / vae.config.scaling_factor).sample
        guide, z = CodeGuide(vae, loss(0.3), rate=0.2, start=0.0, colours=shown, hold=hold), start
        losses = []
        for step in range(6):
            z = guide(z, 1.0, step, 6)
            losses.append(guide.last)
        return float(((colours(z) - colours(start)) ** 2).mean()), losses

    (free, unheld), (held, losses) = led(0.0), led(20.0)
    assert held < 0.7 * free
    assert losses[-1] < losses[0]
    assert unheld[-1] < unheld[0]


def test_a_nudge_lowers_the_loss_and_weights_stay():
    bundle = tiny("sd15")
    vae = plain_decoder(bundle)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    guide = CodeGuide(vae, loss(0.3), rate=0.2, start=0.5)
    z = paddle.to_tensor(np.random.default_rng(0).normal(0, 1, (1, 4, 8, 8)).astype("float32"))
    assert (guide(z, 1.0, 0, 10) == z).all()  # not yet its turn
    losses = []
    for step in range(5, 9):
        z = guide(z, 1.0, step, 10)
        losses.append(guide.last)
    assert losses[-1] < losses[0]
    assert guide.calls == 4
    assert all((vae.state_dict()[name] == value).all() for name, value in before.items())


def test_packed_weights_are_no_obstacle():
    from ppdiffusers.models.layers import pack
    from ppdiffusers.models.vae import AutoencoderKL

    bundle = tiny("sd15")
    twin = AutoencoderKL(bundle.vae.config)
    twin.set_state_dict(bundle.vae.state_dict())
    pack(twin)
    z = paddle.to_tensor(np.random.default_rng(0).normal(0, 1, (1, 4, 4, 4)).astype("float32"))
    from dataclasses import replace

    unpacked = plain_decoder(replace(bundle, vae=twin))
    assert unpacked.decode(z).sample.numpy() == pytest.approx(bundle.vae.decode(z).sample.numpy(), abs=1e-4)
