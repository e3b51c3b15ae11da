"""Fixtures of the sampling tests; the problem they solve is in problem.py."""

import pytest

from ppdiffusers.sampling import ModelSchedule
from tests.ppdiffusers.sampling.problem import GivenNoise


@pytest.fixture(scope="session")
def model() -> ModelSchedule:
    return ModelSchedule.make()


@pytest.fixture
def given_noise() -> GivenNoise:
    return GivenNoise()
