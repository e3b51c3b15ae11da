"""Rough pictures from latents by one small linear map, fitted once to the VAE at hand.

A latent's channels are nearly linear in the colours of its 8 x 8 cell. We encode smooth synthetic pictures and solve
the least squares problem, which fits any VAE (Stable Diffusion's, SDXL's, the embedded one) without constants from
elsewhere.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import PIL.Image
from paddle import Tensor

SIDE = 128  # of the synthetic pictures, in pixels


@dataclass(frozen=True)
class LatentToRGB:
    """(4 latent channels, 1) -> RGB in [-1, 1]."""

    matrix: np.ndarray  # (channels + 1, 3), the last row is the bias

    def __call__(self, latents: Tensor, scale: int = 1) -> tuple[PIL.Image.Image, ...]:
        """Latents (B, C, Y, X) -> one picture each at latent size times `scale`."""
        array = latents.astype("float32").numpy().transpose(0, 2, 3, 1)
        rgb = np.nan_to_num(array @ self.matrix[:-1] + self.matrix[-1])
        pixels = np.clip(np.rint((rgb + 1) * 127.5), 0, 255).astype(np.uint8)
        pictures = (PIL.Image.fromarray(picture) for picture in pixels)
        return tuple(p.resize((p.width * scale, p.height * scale), PIL.Image.Resampling.BILINEAR) for p in pictures)


def fit(vae: Any) -> LatentToRGB:
    """Fit the map to an AutoencoderKL; takes one encoding of four 128 x 128 pictures."""
    pictures = _smooth_pictures(4)
    dtype = next(iter(vae.parameters())).dtype
    with paddle.no_grad():
        moments = vae.encode(paddle.to_tensor(pictures).astype(dtype)).latent_dist.mode()
    latents = (moments.astype("float32") * vae.config.scaling_factor).numpy()
    factor = SIDE // latents.shape[-1]
    cells = pictures.reshape(4, 3, SIDE // factor, factor, SIDE // factor, factor).mean(axis=(3, 5))
    rows = latents.transpose(0, 2, 3, 1).reshape(-1, latents.shape[1])
    rows = np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)
    wanted = cells.transpose(0, 2, 3, 1).reshape(-1, 3)
    ridge = 1e-3 * len(rows) * np.eye(rows.shape[1], dtype=np.float64)  # an untrained VAE's latents may be degenerate
    matrix = np.linalg.solve(rows.T.astype(np.float64) @ rows + ridge, rows.T.astype(np.float64) @ wanted)
    return LatentToRGB(matrix.astype(np.float32))


def _smooth_pictures(count: int) -> np.ndarray:
    """(count, 3, SIDE, SIDE) in [-1, 1]: random colours on a coarse grid, blown up smoothly, the same every time."""
    draw = np.random.default_rng(7)
    pictures = []
    for _ in range(count):
        coarse = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(coarse).resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC)
        pictures.append(np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1)
    return np.stack(pictures)
