"""Mixing by bands: a picture as a stack of details from fine to coarse, each band mixed by its own shares.

A plain mix halves the contrast of both photos. Here every place of every band belongs more to the photo that has more
to show there, and details are mixed along a sphere (Shoemake's slerp) instead of a line, which keeps their contrast, so
that both stay crisp.

Y X height and width; pictures and latents (Y, X, C), shares (Y, X): B's part, 0 to 1.
"""

import math

import cv2
import numpy as np

LEAST = 8  # pixels of the coarsest band


def pyramid(picture: np.ndarray, least: int = LEAST) -> list[np.ndarray]:
    """Bands from fine to coarse (Burt & Adelson 1983); `collapse` gives the picture back."""
    bands = []
    while min(picture.shape[:2]) >= 2 * least:
        smaller = cv2.pyrDown(picture)
        bands.append(picture - _expanded(smaller, picture))
        picture = smaller
    return [*bands, picture]


def collapse(bands: list[np.ndarray]) -> np.ndarray:
    """The picture of its bands."""
    picture = bands[-1]
    for band in bands[-2::-1]:
        picture = band + _expanded(picture, band)
    return picture


def _expanded(smaller: np.ndarray, like: np.ndarray) -> np.ndarray:
    return cv2.pyrUp(smaller, dstsize=(like.shape[1], like.shape[0]))


def rivalry(a: np.ndarray, b: np.ndarray, contest: np.ndarray, selective: float) -> list[np.ndarray]:
    """For each band of two pictures, how much more B has to show at each place (Y, X), less than 0 where it is A.

    contest: (Y, X), the difference of what catches the eye, -1 to 1; strong details add to it in the fine bands.
    selective: 0 to 1, how much is given to the stronger one.
    """
    bands = list(zip(pyramid(a), pyramid(b), strict=True))
    found, last = [], max(len(bands) - 1, 1)
    for level, (one, other) in enumerate(bands):
        if level:
            contest = cv2.pyrDown(contest)
        fine = 1 - level / last  # 1 at the finest band, 0 at the coarsest
        field = contest + 0.45 * fine * _stronger(one, other)
        found.append(selective * (2.5 + 3.5 * fine) * field)
    return found


def _stronger(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whose detail is stronger at a place: from -1 (A's) to 1 (B's)."""
    strength = [np.sqrt(cv2.GaussianBlur((band**2).sum(axis=2), (0, 0), 2.0)) + 4e-3 for band in (one, other)]
    return np.tanh(np.log(strength[1] / strength[0]))


def shares(balance: float, rivalries: list[np.ndarray]) -> list[np.ndarray]:
    """B's part at each place of each band: exactly 0 and 1 at the ends, and rising with balance everywhere."""
    if balance in (0.0, 1.0):
        return [np.full(field.shape, balance, np.float32) for field in rivalries]
    lean = math.log(balance / (1 - balance))
    return [(1 / (1 + np.exp(-(lean + field)))).astype(np.float32) for field in rivalries]


def join(a: np.ndarray, b: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """Both pictures in one by the shares of each band: details along the sphere, coarse bands more and more along the
    line, because two skies along the sphere are brighter than either.
    """
    out = []
    bands = list(zip(pyramid(a), pyramid(b), strict=True))
    for level, (one, other) in enumerate(bands):
        w = _fitting(parts, one.shape)[..., None]
        fine = 1 - level / max(len(bands) - 1, 1)
        left, right = slerp_factors(w, 1 - min(1.0, 1.5 * fine) * (1 - _cosine(one, other)))
        out.append(one * left + other * right)
    return collapse(out)


def _fitting(parts: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The shares of the band that has, or comes nearest to, a shape: latents have the pictures' coarser bands."""
    nearest = min(parts, key=lambda part: abs(math.log(part.shape[0] / shape[0])))
    if nearest.shape == shape[:2]:
        return nearest
    return cv2.resize(nearest, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)


def slerp_factors(w: np.ndarray, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """The factors of A and B at B's part w, for two details with this cosine between them; the plain mix for 1."""
    angle = math.acos(min(max(cosine, -0.2), 1.0))
    if angle < 1e-3:
        return 1 - w, w
    return np.sin((1 - w) * angle) / math.sin(angle), np.sin(w * angle) / math.sin(angle)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    norms = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float((one * other).sum()) / norms if norms > 1e-12 else 1.0


def masked(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A where the mask (Y, X) is 0 and B where it is 1, each band with the mask as soft as the band is coarse."""
    out = []
    for level, (one, other) in enumerate(zip(pyramid(a), pyramid(b), strict=True)):
        mask = cv2.pyrDown(mask) if level else mask
        out.append(one + (other - one) * mask[..., None])
    return collapse(out)
