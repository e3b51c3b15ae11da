"""How alike two pictures are, measured in ways that fail differently: structure, edges, colours, meaning.

All take pictures of any size (the second is brought to the first's) and give 1 for the same picture and about 0 for
unrelated ones.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import PIL.Image

if TYPE_CHECKING:
    from ppdiffusers.models.clip_vision import CLIPModel


def _both(one: PIL.Image.Image, other: PIL.Image.Image, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as (Y, X, 3) float32 in [0, 1], at the first one's shape, the longer side at most `side`."""
    one = one.convert("RGB")
    scale = min(1.0, side / max(one.size))
    size = max(8, round(one.width * scale)), max(8, round(one.height * scale))
    fitting = (p if p.size == size else p.resize(size, PIL.Image.Resampling.LANCZOS) for p in (one, other))
    first, second = (np.asarray(p.convert("RGB"), np.float32) / 255 for p in fitting)
    return first, second


def _grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def structural(one: PIL.Image.Image, other: PIL.Image.Image, side: int = 256) -> float:
    """SSIM of the lightness (Wang et al. 2004): Gaussian windows of 1.5 pixels, at `side` pixels."""
    x, y = (_grey(p) for p in _both(one, other, side))

    def blur(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    map_ = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(map_.mean())


def edges(one: PIL.Image.Image, other: PIL.Image.Image, side: int = 192) -> float:
    """The correlation of the edges: where they are and how they run, whatever the colours."""
    gradients = []
    for picture in _both(one, other, side):
        grey = cv2.GaussianBlur(_grey(picture), (0, 0), 1.0)
        dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
        strength, double = np.hypot(dx, dy), 2 * np.arctan2(dy, dx)  # a line looks alike from both sides
        gradients.append(np.stack([strength * np.cos(double), strength * np.sin(double)]).ravel())
    return _cosine(*gradients)


def colours(one: PIL.Image.Image, other: PIL.Image.Image, side: int = 128) -> float:
    """The part of the colour histograms that both share: 8 x 8 x 8 cells of Lab, softened."""
    histograms = []
    for picture in _both(one, other, side):
        lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).reshape(-1, 3)
        counts, _ = np.histogramdd(lab, bins=8, range=[(0, 100), (-80, 80), (-80, 80)])
        for axis in range(3):
            counts = 0.5 * counts + 0.25 * (np.roll(counts, 1, axis) + np.roll(counts, -1, axis))
        histograms.append(counts / max(counts.sum(), 1))
    return float(np.minimum(*histograms).sum())


def likeness(one: PIL.Image.Image, other: PIL.Image.Image, model: "CLIPModel | None" = None) -> float:
    """The mean of all measures: what is told as "like A"."""
    found = [structural(one, other), edges(one, other), colours(one, other)]
    return float(np.mean([*found, meaning(model, one, other)] if model is not None else found))


def meaning(model: "CLIPModel", one: PIL.Image.Image, other: PIL.Image.Image) -> float:
    """The cosine of both pictures in a CLIP's space."""
    first, second = vectors(model, [one, other])
    return _cosine(first, second)


def vectors(model: "CLIPModel", images: Sequence[PIL.Image.Image]) -> np.ndarray:
    """(B, P) the pictures in a CLIP's space."""
    import paddle

    from ppdiffusers.models.clip_vision import normalised

    size = model.config.vision_config.image_size
    planes = np.stack([normalised(image, size) for image in images])
    with paddle.no_grad():
        return model.get_image_features(paddle.to_tensor(planes).astype(model.dtype)).astype("float32").numpy()


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    norms = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.dot(one, other)) / norms if norms > 1e-12 else 1.0
