"""Two pictures drawn by numbers, as different as a beach and a flower, and tiny bundles with random weights."""

import cv2
import numpy as np
import PIL.Image
import pytest

from ppdiffusers.pipelines.bundle import Bundle
from tests.ppdiffusers.pipelines.conftest import tiny


def beach(width: int = 160, height: int = 128) -> PIL.Image.Image:
    """Sky over sea over sand, a red boat."""
    y = np.linspace(0, 1, height)[:, None, None]
    sky, sea, sand = (np.array(c) for c in ((0.55, 0.75, 0.95), (0.1, 0.35, 0.6), (0.9, 0.8, 0.55)))
    picture = np.where(y < 0.45, sky * (1 - 0.3 * y), np.where(y < 0.75, sea, sand)) * np.ones((1, width, 1))
    noise = np.random.default_rng(1).normal(0, 0.03, picture.shape)
    picture = np.ascontiguousarray((picture + noise).clip(0, 1) * 255).astype(np.uint8)
    hull = np.array([[0.25, 0.5], [0.6, 0.5], [0.52, 0.64], [0.32, 0.64]]) * [width, height]
    cv2.fillPoly(picture, [hull.astype(np.int32)], (200, 30, 40))
    return PIL.Image.fromarray(picture)


def flower(width: int = 160, height: int = 128) -> PIL.Image.Image:
    """A yellow flower on dark green."""
    y, x = np.mgrid[0:height, 0:width]
    r, angle = np.hypot(x - 0.6 * width, y - 0.45 * height) / height, np.arctan2(y - 0.45 * height, x - 0.6 * width)
    petals = r < 0.22 + 0.09 * np.cos(8 * angle)
    picture = np.empty((height, width, 3))
    picture[:] = (0.05, 0.2, 0.12)
    picture += 0.05 * np.sin(x / 5 + y / 9)[..., None]
    picture[petals] = (0.95, 0.8, 0.15)
    picture[petals] -= (0.25 * r[petals] / 0.3 * (1 + np.cos(8 * angle[petals])))[:, None]
    picture[r < 0.07] = (0.35, 0.2, 0.05)
    return PIL.Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))


@pytest.fixture
def photos() -> tuple[PIL.Image.Image, PIL.Image.Image]:
    return beach(), flower()


@pytest.fixture
def bundle() -> Bundle:
    return tiny("sd15")
