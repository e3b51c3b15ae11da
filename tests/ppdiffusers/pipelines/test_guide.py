"""A guide sees every predicted x0 and decides what the sampler goes on with."""

import paddle
import pytest

from ppdiffusers.pipelines.event import Latents
from ppdiffusers.pipelines.request import Hires, Init, Mask, Request, Sampling
from ppdiffusers.pipelines.run import run


def latents(bundle, **values):
    request = Request(
        prompts=("a cat",), width=64, height=64, output="latent", sampling=Sampling(steps=3, cfg_scale=1), **values
    )
    return next(event.latents for event in run(bundle, request) if isinstance(event, Latents))


def test_a_guide_that_changes_nothing_changes_nothing(sd15):
    assert (latents(sd15, guide=lambda x0, *_: x0) == latents(sd15)).all()


def test_it_is_called_once_a_step_with_falling_noise(sd15):
    seen = []

    def guide(x0, sigma, step, steps):
        assert not paddle.is_grad_enabled()
        seen.append((tuple(x0.shape), sigma, step, steps))
        return x0

    latents(sd15, guide=guide)
    assert [(step, steps) for _, _, step, steps in seen] == [(0, 3), (1, 3), (2, 3)]
    assert sorted((sigma for _, sigma, _, _ in seen), reverse=True) == [sigma for _, sigma, _, _ in seen]
    assert {shape for shape, *_ in seen} == {(1, 4, 8, 8)}


def test_the_result_goes_where_the_guide_leads(sd15):
    goal = paddle.full([1, 4, 8, 8], 0.25)
    assert float((latents(sd15, guide=lambda *_: goal) - goal).abs().max()) < 1e-4


def test_it_acts_in_the_second_pass_too(sd15):
    shapes = []
    latents(sd15, guide=lambda x0, *_: shapes.append(x0.shape[2]) or x0, hires=Hires(scale=2, steps=2, strength=1.0))
    assert set(shapes) == {8, 16}


def test_what_a_mask_keeps_the_guide_cannot_touch(sd15):
    import PIL.Image

    half = PIL.Image.new("L", (64, 64), 0)
    half.paste(255, (0, 0, 32, 64))
    picture = Init(image=PIL.Image.new("RGB", (64, 64), "teal"), strength=1.0)
    request = {"init": picture, "mask": Mask(image=half, blur=0)}
    plain = latents(sd15, **request)
    led = latents(sd15, guide=lambda x0, *_: x0 + 1, **request)
    assert led[..., 5:].numpy() == pytest.approx(plain[..., 5:].numpy(), abs=1e-5)
    assert float((led[..., :3] - plain[..., :3]).abs().mean()) > 0.1
