"""Four tiny pictures and a fresh tiny checkpoint for every test that trains."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.training.dataset import Dataset, scan
from tests.ppdiffusers.pipelines.conftest import tiny

CAPTIONS = ("a red square", "a green square", "a blue square, flat", "a white square")
COLOURS = ((220, 40, 30), (30, 180, 60), (40, 60, 210), (240, 240, 240))


def picture(colour, size=(72, 64)) -> PIL.Image.Image:
    array = np.full((size[1], size[0], 3), 30, np.uint8)
    array[16:48, 16:52] = colour
    return PIL.Image.fromarray(array)


def write_pictures(place: Path) -> Path:
    """Four pictures with captions beside them."""
    place.mkdir()
    for i, (caption, colour) in enumerate(zip(CAPTIONS, COLOURS, strict=True)):
        picture(colour).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(caption)
    return place


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def dataset(folder) -> Dataset:
    return scan(folder)


def fresh(family: str = "sd15") -> Bundle:
    """A bundle that a test may change."""
    return tiny.__wrapped__(family)
