"""Three styles for LoRAs, made of pictures that the UNet knows: shapes stay, so a LoRA learns the style alone."""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from PIL import Image


def _light(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), np.float32) / 255


def pixel_art(picture: Image.Image) -> Image.Image:
    """16 x 16 large pixels of few colours."""
    tiny = picture.resize((16, 16), Image.Resampling.BOX).quantize(10, dither=Image.Dither.NONE)
    return tiny.convert("RGB").resize(picture.size, Image.Resampling.NEAREST)


def cyanotype(picture: Image.Image) -> Image.Image:
    """From Prussian blue to pale paper, with more contrast than the picture had."""
    light = _light(picture)[..., None]
    light = light * light * (3 - 2 * light)
    return Image.fromarray((light * (228, 240, 255) + (1 - light) * (12, 40, 110)).round().astype(np.uint8))


def woodcut(picture: Image.Image) -> Image.Image:
    """Black ink on cream paper: dark parts full, middle ones hatched, edges drawn."""
    light = cv2.GaussianBlur(_light(picture), (0, 0), 1.5)
    down, across = np.mgrid[: light.shape[0], : light.shape[1]]
    wave = 0.5 + 0.5 * np.sin((across + down) * (2 * np.pi / 16))  # period of 16 pixels along x and y
    ink = light < 0.25 + 0.5 * wave
    edges = cv2.Canny(cv2.GaussianBlur(np.asarray(picture), (0, 0), 1.2), 40, 110)
    ink |= cv2.dilate(edges, np.ones((5, 5), np.uint8)) > 0
    soft = cv2.GaussianBlur(ink.astype(np.float32), (0, 0), 0.8)[..., None]
    return Image.fromarray(((1 - soft) * (250, 243, 226) + soft * (24, 20, 20)).round().astype(np.uint8))


STYLES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "cyanotype": cyanotype,
    "woodcut": woodcut,
    "pixel-art": pixel_art,
}
