"""From the first pass's latents to larger ones for the hires pass: in latent space, or through pixels."""

from collections.abc import Generator
from typing import Literal

import paddle
import PIL.Image
from paddle import Tensor

from ppdiffusers.pipelines import pixels
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.event import Event, Note

LATENT: dict[str, Literal["bilinear", "nearest", "bicubic"]] = {
    "Latent": "bilinear",
    "Latent (nearest)": "nearest",
    "Latent (bicubic)": "bicubic",
}
PIXEL = {
    "Lanczos": PIL.Image.Resampling.LANCZOS,
    "Bicubic": PIL.Image.Resampling.BICUBIC,
    "Nearest": PIL.Image.Resampling.NEAREST,
}
UPSCALERS = (*LATENT, *PIXEL)


def enlarge(
    bundle: Bundle, latents: Tensor, size: tuple[int, int], upscaler: str, tile: int = 0
) -> Generator[Event, None, Tensor]:
    """Latents (B, C, Y, X) for pictures of `size` (width, height). Raises ValueError for an unknown upscaler."""
    width, height = size
    if upscaler in LATENT:
        shape = [height // bundle.factor, width // bundle.factor]
        mode = LATENT[upscaler]
        return paddle.nn.functional.interpolate(latents, size=shape, mode=mode, align_corners=False)
    if upscaler not in PIXEL:
        raise ValueError(f"no upscaler is called {upscaler!r}; there are {', '.join(UPSCALERS)}")
    larger = []
    for i in range(latents.shape[0]):
        yield Note("enlarging through pixels")
        picture = pixels.to_images(bundle.decode(latents[i : i + 1]))[0]
        larger.append(bundle.encode(pixels.to_tensor([picture.resize((width, height), PIXEL[upscaler])])))
    return paddle.concat(larger)
