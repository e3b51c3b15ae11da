"""Enlarging finished pictures."""

import pytest

from app.requests import GenerateParams
from app.requests_enlarge import EnlargeParams
from app.studio import results
from tests.app.conftest import VALUES


def made(studio, params):
    job = studio.submit(params)
    assert job.wait(60)
    assert job.error is None, job.error
    return next(results(job))


@pytest.fixture
def small(studio):
    return made(studio, GenerateParams(prompt="a fox", **VALUES)).picture()


def test_a_picture_is_resized_and_keeps_its_settings(studio, small):
    larger = made(studio, EnlargeParams(image=small, scale=1.5, strength=0))
    assert larger.picture().size == (96, 96)
    assert larger.infotext == small.info["parameters"]


def test_the_model_goes_over_it_with_the_settings_that_the_picture_carries(studio, small):
    larger = made(studio, EnlargeParams(image=small, scale=2, strength=0.5))
    assert larger.picture().size == (128, 128)
    assert larger.infotext.startswith("a fox\n")
    assert "Denoising strength: 0.5" in larger.infotext
    assert larger.seed == 1


def test_what_would_be_too_large_is_refused(studio, small):
    job = studio.submit(EnlargeParams(image=small.resize((1024, 64)), scale=8))
    assert job.wait(60)
    assert "smaller scale" in job.error
