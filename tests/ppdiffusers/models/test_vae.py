"""The autoencoder against diffusers, whole and in tiles."""

import numpy as np
import paddle
import pytest

from ppdiffusers.models.config import TINY_SD15, VAEConfig
from ppdiffusers.models.vae import AutoencoderKL, fade
from tests.ppdiffusers.models.conftest import error, fill, noise, torch_shapes

KINDS = ["vae", "vae_plain"]


def vae_of(file):
    return fill(AutoencoderKL(VAEConfig.from_dict(file.config)))


def moments(out):
    return paddle.concat([out.latent_dist.mean, out.latent_dist.logvar], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_it_encodes_and_decodes_as_diffusers(golden, kind):
    file = golden(kind)
    vae = vae_of(file)
    assert torch_shapes(vae) == dict(file.keys)
    with paddle.no_grad():
        assert error(moments(vae.encode(file.given("picture"))), file.wanted("moments")) < 1e-5
        assert error(vae.decode(file.given("latent")).sample, file.wanted("picture")) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_overlap_and_fade_as_in_diffusers(golden, kind):
    file = golden(kind)
    vae = vae_of(file)
    with paddle.no_grad():
        assert error(moments(vae.encode_tiled(file.given("picture"))), file.wanted("tiled_moments")) < 1e-5
        assert error(vae.decode_tiled(file.given("latent")).sample, file.wanted("tiled_picture")) < 1e-5


def test_bfloat16_stays_near_float32(golden):
    file = golden("vae")
    vae = vae_of(file)
    vae.to(dtype="bfloat16")
    with paddle.no_grad():
        assert error(vae.decode(file.given("latent")).sample, file.wanted("picture")) < 0.05
        assert error(moments(vae.encode(file.given("picture"))), file.wanted("moments")) < 0.05
        half = vae.decode_tiled(file.given("latent").astype("bfloat16")).sample
    assert half.dtype == paddle.bfloat16
    assert error(half.astype("float32"), file.wanted("tiled_picture")) < 0.05


def test_tiles_say_how_far_they_are():
    vae = fill(AutoencoderKL(TINY_SD15.vae))
    with paddle.no_grad():
        tiles = list(vae.decode_tiles(noise(1, 4, 11, 8), tile=8))
    assert [(t.index, t.of) for t in tiles] == [(i, 4) for i in range(4)]
    assert [t.result is None for t in tiles] == [True, True, True, False]
    assert tiles[-1].result.shape == [1, 3, 88, 64]


def test_one_tile_is_the_whole_picture():
    vae = fill(AutoencoderKL(TINY_SD15.vae))
    z = noise(1, 4, 5, 6)
    with paddle.no_grad():
        assert np.array_equal(vae.decode_tiled(z, tile=8).sample.numpy(), vae.decode(z).sample.numpy())


def test_tiles_that_do_not_advance_are_refused():
    with pytest.raises(ValueError, match="do not advance"):
        AutoencoderKL(TINY_SD15.vae).decode_tiled(noise(1, 4, 8, 8), overlap=1.0)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_fade_starts_with_the_neighbour_and_ends_with_the_tile(axis):
    old, new = paddle.zeros([1, 1, 4, 4]), paddle.ones([1, 1, 4, 4])
    line = fade(old, new, 2, axis).numpy().take(0, axis=5 - axis).ravel()
    assert line.tolist() == [0.0, 0.5, 1.0, 1.0]


def test_a_batch_is_each_picture_alone():
    vae = fill(AutoencoderKL(TINY_SD15.vae))
    z = noise(3, 4, 4, 4)
    with paddle.no_grad():
        assert np.array_equal(vae.decode(z)[0][1:2].numpy(), vae.decode(z[1:2])[0].numpy())


def test_the_posterior_is_sampled_with_the_noise_that_is_given():
    vae = fill(AutoencoderKL(TINY_SD15.vae))
    with paddle.no_grad():
        posterior = vae.encode(noise(1, 3, 32, 32)).latent_dist
    draw = noise(*posterior.mean.shape)
    wanted = posterior.mean.numpy() + np.exp(0.5 * posterior.logvar.numpy()) * draw.numpy()
    assert error(posterior.sample(draw), wanted) < 1e-6
    assert np.array_equal(posterior.mode().numpy(), posterior.mean.numpy())
    assert posterior.kl().shape == [1]
    with pytest.raises(ValueError, match="one value for each"):
        posterior.sample(draw[:, :2])


def test_gradients_reach_the_picture():
    vae = AutoencoderKL(TINY_SD15.vae)
    x = noise(1, 3, 32, 32)
    x.stop_gradient = False
    vae(x, noise=noise(1, 4, 4, 4)).sample.mean().backward()
    assert float(x.grad.abs().sum()) > 0
    assert all(p.grad is not None for p in vae.parameters())
