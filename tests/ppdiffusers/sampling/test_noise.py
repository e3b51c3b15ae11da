"""A seed means what it means in torch, whatever else is in the batch."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ppdiffusers.sampling.brownian import BrownianPath
from ppdiffusers.sampling.generators import CpuGenerator, CudaGenerator
from ppdiffusers.sampling.noise import NoiseSource, Variation, paste_centre, slerp

SHAPE = (4, 6, 6)
with np.load(Path(__file__).parents[2] / "goldens" / "sampling_noise.npz") as file:
    GOLDEN = {key: file[key] for key in file}
DRAWS = [(json.loads(key), value) for key, value in GOLDEN.items() if "draw" in key]
INCREMENTS = [(json.loads(key), value) for key, value in GOLDEN.items() if "from" in key]


@pytest.mark.parametrize("seed", sorted({case["seed"] for case, _ in DRAWS}))
def test_cpu_draws_are_torchs_one_after_the_other(seed: int) -> None:
    generator = CpuGenerator(seed)
    for case, theirs in DRAWS:
        if case["seed"] != seed:
            continue
        ours = generator.normal(tuple(case["shape"]))
        if ours.size < 16:
            np.testing.assert_array_equal(ours, theirs)
        else:  # torch's vector cosine and logarithm are good to 3 units in the last place; ours are rounded correctly
            np.testing.assert_allclose(ours, theirs, rtol=4e-7, atol=6e-7)


def test_gpu_draws_are_cudas() -> None:
    known = [[-0.92466259, -0.42534415, -2.6438457, 0.14518388], [-0.12086647, -0.57972564, -0.62285122, -0.32838709]]
    np.testing.assert_allclose(CudaGenerator(0).normal((2, 4)), known, atol=5e-7)


def test_gpu_draws_go_on_and_differ() -> None:
    generator = CudaGenerator(3)
    first, second = generator.normal(SHAPE), generator.normal(SHAPE)
    assert np.abs(first - second).min() > 0
    assert not np.array_equal(CudaGenerator(3 + 2**32).normal(SHAPE), first)


@pytest.mark.parametrize(("case", "theirs"), INCREMENTS, ids=str)
def test_brownian_increments_are_torchsdes(case: dict[str, float], theirs: np.ndarray) -> None:
    path = BrownianPath(int(case["seed"]), 0.0291672, 14.614641, SHAPE, CpuGenerator)
    np.testing.assert_allclose(path(case["from"], case["to"]), theirs, atol=5e-6)


@settings(max_examples=25, deadline=None)
@example([2.0, 2.0 + 1e-9, 5.0])  # equal once rounded, at a point where a node is cut
@example([0.0291672, 7.321904, 7.3219041])
@given(st.lists(st.floats(0.03, 14.6), min_size=3, max_size=3, unique=True))
def test_increments_of_neighbouring_intervals_add_up(points: list[float]) -> None:
    path = BrownianPath(5, 0.0291672, 14.614641, SHAPE, CpuGenerator)
    a, b, c = sorted(points)
    np.testing.assert_allclose(path(a, b) + path(b, c), path(a, c), atol=2e-5)
    np.testing.assert_array_equal(path(c, a), -path(a, c))


@pytest.mark.parametrize("rng", ["cpu", "gpu"])
@given(seeds=st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_an_image_of_a_batch_gets_what_it_gets_alone(rng: str, seeds: list[int]) -> None:
    def stream(seeds: list[int]) -> np.ndarray:
        source = NoiseSource(seeds, SHAPE, rng)
        draws = [source.first(), source.next(), source.next(), source.brownian(0.03, 14.6)(14.6, 9.0)]
        return np.stack([d.numpy() for d in draws], axis=1)

    together = stream(seeds)
    for i, seed in enumerate(seeds):
        np.testing.assert_array_equal(together[i], stream([seed])[0])


def test_brownian_noise_is_unit_noise() -> None:
    between = NoiseSource([1], (4, 32, 32)).brownian(0.03, 14.6)
    for a, b in ((14.6, 9.0), (9.0, 8.9), (0.5, 0.03)):
        assert abs(float(between(a, b).std()) - 1) < 0.05


def test_first_starts_over_and_next_goes_on() -> None:
    source = NoiseSource([4], SHAPE)
    first, second = source.first().numpy(), source.next().numpy()
    np.testing.assert_array_equal(source.first().numpy(), first)
    np.testing.assert_array_equal(source.next().numpy(), second)
    generator = CpuGenerator(4)
    np.testing.assert_array_equal(first[0], generator.normal(SHAPE))
    np.testing.assert_array_equal(second[0], generator.normal(SHAPE))


def test_eta_seed_delta_reseeds_what_comes_after_the_first() -> None:
    source = NoiseSource([4], SHAPE, eta_seed_delta=31337)
    np.testing.assert_array_equal(source.first().numpy(), NoiseSource([4], SHAPE).first().numpy())
    np.testing.assert_array_equal(source.next().numpy()[0], CpuGenerator(4 + 31337).normal(SHAPE))


def test_variation_goes_from_one_seed_to_the_other() -> None:
    def first(strength: float) -> np.ndarray:
        return NoiseSource([1], SHAPE, variation=Variation(seeds=(2,), strength=strength)).first().numpy()

    one, two = (NoiseSource([seed], SHAPE).first().numpy() for seed in (1, 2))
    np.testing.assert_array_equal(first(0.0), one)
    np.testing.assert_allclose(first(1.0), two, atol=1e-6)
    middle = first(0.5)
    assert np.abs(middle - one).max() > 0.1
    assert abs(middle.std() - 1) < 0.2  # on the sphere, not on the chord, whose deviation would be 0.7


def test_slerp_between_equal_noise_is_that_noise() -> None:
    noise = CpuGenerator(1).normal(SHAPE)
    np.testing.assert_allclose(slerp(0.3, noise, noise), noise, atol=1e-6)


def test_resized_seed_keeps_its_centre() -> None:
    small = NoiseSource([9], (4, 4, 4)).first().numpy()
    large = NoiseSource([9], (4, 8, 6), variation=Variation(resize_from=(4, 4))).first().numpy()
    np.testing.assert_array_equal(large[:, :, 2:6, 1:5], small)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_pasting_covers_as_much_as_fits(y: int, x: int, height: int, width: int) -> None:
    pasted = paste_centre(np.ones((1, y, x), np.float32), np.zeros((1, height, width), np.float32))
    assert pasted.shape == (1, height, width)
    rows, columns = min(y, height), min(x, width)
    assert (rows - 1) * (columns - 1) <= pasted.sum() <= rows * columns  # odd differences lose an edge


def test_wrong_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="'cpu', 'gpu'"):
        NoiseSource([1], SHAPE, "cuda")
    with pytest.raises(ValueError, match="one seed per image"):
        NoiseSource([], SHAPE)
    with pytest.raises(ValueError, match="2 images need as many"):
        NoiseSource([1, 2], SHAPE, variation=Variation(seeds=(1,), strength=0.5))
