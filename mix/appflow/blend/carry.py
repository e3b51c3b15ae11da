"""Pictures into the model's space and back without losing what the autoencoder cannot hold.

An autoencoder blurs. What it loses, the photo minus its round trip, is kept beside the latents, mixed with the same
shares, and laid over what is decoded: at the ends of a blend the photos come back exactly. Latents may be of a smaller
copy than the result; then everything finer travels as residual.

Y X height and width of the result; pictures (Y, X, 3) float32 in [0, 1].
"""

from dataclasses import dataclass

import cv2
import numpy as np
import paddle
from paddle import Tensor

from ppdiffusers.pipelines.bundle import Bundle

ROUGHER = 1.15, 0.5  # than the draft's: where latents begin to be suspect of noise, and how much more is surely noise
WHITE = 0.62, 0.18  # the same of the roughness of the change itself
SURE = 0.4  # of a change's broad strokes, where its detail is noise
BROAD = 1.5  # latent pixels: what is broader is no noise
HIDES = 0.45  # as much noise, next to the detail of a place, is not seen there
TRUST = 0.18  # a change of colour at which the old detail is mostly dropped


@dataclass(frozen=True, eq=False)
class Carried:
    """A picture as latents (1, C, y, x) and what they miss (Y, X, 3)."""

    latents: Tensor
    residual: np.ndarray


def work_size(bundle: Bundle, size: tuple[int, int]) -> tuple[int, int]:
    """The (width, height) that the model works at: the result's shape, about the area it was made for."""
    levels = len(bundle.unet.config.block_out_channels)
    multiple = bundle.factor * 2 ** (levels - 1)
    side = int(bundle.unet.config.sample_size or 64) * bundle.factor
    scale = min(1.0, side / (size[0] * size[1]) ** 0.5)
    width, height = (max(multiple, 64, round(n * scale / multiple) * multiple) for n in size)
    return width, height


def carry(bundle: Bundle, picture: np.ndarray, work: tuple[int, int]) -> Carried:
    """Encode the picture at (width, height) `work`, and keep what that loses."""
    small = cv2.resize(picture, work, interpolation=cv2.INTER_AREA)
    planes = np.ascontiguousarray(small.transpose(2, 0, 1)[None]) * 2 - 1
    latents = bundle.encode(paddle.to_tensor(planes.astype(np.float32)))
    return Carried(latents, picture - decoded(bundle, latents, (picture.shape[1], picture.shape[0])))


def decoded(bundle: Bundle, latents: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The latents' picture (Y, X, 3) at the result's (width, height); not clipped, so that residuals stay exact."""
    planes = bundle.decode(latents).astype("float32").numpy()[0].transpose(1, 2, 0)
    return cv2.resize((planes + 1) / 2, size, interpolation=cv2.INTER_CUBIC)


def returned(
    bundle: Bundle, begun: Tensor, ended: Tensor, residual: np.ndarray, base: np.ndarray | None = None
) -> np.ndarray:
    """The picture of latents that were changed from `begun` to `ended`, with the residual laid over it.

    Where little was changed the detail belongs there and is kept; where much was changed it would be a ghost of what
    was there before, and is dropped. base: the picture of `begun`, where it is known.
    """
    size = residual.shape[1], residual.shape[0]
    before = decoded(bundle, begun, size) if base is None else base
    if ended is begun:
        return before + residual
    after = decoded(bundle, ended, size)
    change = cv2.GaussianBlur(np.abs(after - before).mean(axis=2), (0, 0), max(size) / 96)
    trust = np.exp(-((change / TRUST) ** 2))[..., None]
    return after + trust * residual


def settled(begun: Tensor, ended: Tensor, zone: np.ndarray | None = None) -> tuple[Tensor, float]:
    """The painted latents without noise that the model left in them, and the part of its fine detail that was kept.

    A small or half-trained model leaves noise where it should have painted. It shows as latents much rougher than the
    draft's; then what was changed in broad strokes stays, and fine detail only where the draft has some to hide it.
    zone (Y, X) says where anything was painted.
    """
    first = to_rows(begun)
    change = to_rows(ended) - first
    weight = np.ones(first.shape[:2], np.float32)
    if zone is not None:
        weight = cv2.resize(zone, (first.shape[1], first.shape[0]), interpolation=cv2.INTER_AREA) + 1e-6
    doubt = _doubt(first, change, weight)
    if doubt == 0:
        return ended, 1.0
    broad, own = (cv2.GaussianBlur(rows, (0, 0), BROAD) for rows in (change, first))
    fine = change - broad
    near, new = (cv2.GaussianBlur((x**2).mean(axis=2), (0, 0), 2.0) for x in (first - own, fine))
    keep = 1 - doubt * (1 - np.minimum(1.0, HIDES * np.sqrt(near / (new + 1e-12))))
    sure = 1 - doubt * (1 - SURE)  # who errs in the fine is not sure in the broad either
    calm = first + sure * (broad + keep[..., None] * fine)
    return to_latents(calm), float((keep * weight).sum() / weight.sum())


def _doubt(first: np.ndarray, change: np.ndarray, weight: np.ndarray) -> float:
    """From 0, the change is paint, to 1, it is noise: by how white it is, and how rough it leaves the latents."""
    rougher = _roughness(first + change, weight) / max(_roughness(first, weight), 1e-9)
    found = ((rougher - ROUGHER[0]) / ROUGHER[1], (_roughness(change, weight) - WHITE[0]) / WHITE[1])
    return min(max(*found, 0.0), 1.0)


def _roughness(rows: np.ndarray, weight: np.ndarray) -> float:
    """The part of the latents' variance that is between neighbours: about 0.25 for photos, 0.9 for noise."""
    weight = weight[..., None] / weight.sum()
    even = rows - (rows * weight).sum(axis=(0, 1))
    return float((weight * (rows - cv2.blur(rows, (3, 3))) ** 2).sum() / ((weight * even**2).sum() + 1e-9))


def to_rows(latents: Tensor) -> np.ndarray:
    """(1, C, y, x) -> (y, x, C), as bands are mixed."""
    return np.ascontiguousarray(latents.astype("float32").numpy()[0].transpose(1, 2, 0))


def to_latents(rows: np.ndarray) -> Tensor:
    """(y, x, C) -> (1, C, y, x)."""
    return paddle.to_tensor(np.ascontiguousarray(rows.transpose(2, 0, 1)[None]).astype(np.float32))
