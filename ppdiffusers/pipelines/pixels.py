"""Pictures and masks between PIL and tensors: PIL at the border, NCHW float tensors inside.

B batch, Y X height and width. Pictures are in [-1, 1], masks in [0, 1] with 1 = repaint.
"""

from dataclasses import dataclass

import numpy as np
import paddle
import PIL.Image
import PIL.ImageFilter
import PIL.ImageOps
from paddle import Tensor

RESAMPLE = PIL.Image.Resampling.LANCZOS


def to_tensor(images: list[PIL.Image.Image]) -> Tensor:
    """RGB pictures of one size -> (B, 3, Y, X) float32 in [-1, 1]."""
    stack = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
    return paddle.to_tensor(np.ascontiguousarray(stack.transpose(0, 3, 1, 2)) / 127.5 - 1.0)


def to_images(pixels: Tensor) -> list[PIL.Image.Image]:
    """(B, 3, Y, X) in [-1, 1] -> PIL pictures; values outside are clipped, NaN becomes black."""
    return [PIL.Image.fromarray(picture) for picture in np.rint(to_arrays(pixels) * 255).astype(np.uint8)]


def to_arrays(pixels: Tensor) -> np.ndarray:
    """(B, 3, Y, X) in [-1, 1] -> (B, Y, X, 3) float32 in [0, 1], clipped."""
    array = pixels.astype("float32").numpy().transpose(0, 2, 3, 1)
    return np.nan_to_num(np.clip((array + 1) / 2, 0, 1))


def load_image(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture upright (EXIF orientation applied), RGB, transparency over white."""
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return image.convert("RGB")


def fit(image: PIL.Image.Image, size: tuple[int, int], how: str = "crop") -> PIL.Image.Image:
    """The picture at exactly `size`: "stretch" it, "crop" what does not fit, or "pad" with its edge blurred out."""
    if image.size == size:
        return image
    match how:
        case "stretch":
            return image.resize(size, RESAMPLE)
        case "crop":
            return PIL.ImageOps.fit(image, size, RESAMPLE)
        case "pad":
            inner = PIL.ImageOps.contain(image, size, RESAMPLE)
            blurred = inner.resize(size, RESAMPLE).filter(PIL.ImageFilter.GaussianBlur(max(size) / 16))
            canvas = PIL.Image.new("L", size) if image.mode == "L" else blurred  # a mask ends where its picture does
            canvas.paste(inner, ((size[0] - inner.width) // 2, (size[1] - inner.height) // 2))
            return canvas
        case _:
            raise ValueError(f"unknown way to fit a picture: {how!r}; known: stretch, crop, pad")


def load_mask(mask: PIL.Image.Image, size: tuple[int, int], invert: bool = False) -> PIL.Image.Image:
    """A mask as "L" at `size`, white = repaint. Alpha counts where the picture has one that varies, else its
    brightness."""
    mask = PIL.ImageOps.exif_transpose(mask)
    if mask.mode in ("RGBA", "LA") and mask.getchannel("A").getextrema() != (255, 255):
        mask = mask.getchannel("A")
    mask = mask.convert("L")
    if mask.size != size:
        mask = mask.resize(size, PIL.Image.Resampling.BILINEAR)
    return PIL.ImageOps.invert(mask) if invert else mask


def blur_mask(mask: PIL.Image.Image, radius: float) -> PIL.Image.Image:
    """The mask with soft edges; the radius is a Gaussian's standard deviation in pixels."""
    return mask.filter(PIL.ImageFilter.GaussianBlur(radius)) if radius > 0 else mask


def mask_tensor(mask: PIL.Image.Image) -> Tensor:
    """ "L" mask -> (1, 1, Y, X) float32 in [0, 1]."""
    return paddle.to_tensor(np.asarray(mask, np.float32)[None, None] / 255.0)


def latent_mask(mask: PIL.Image.Image, factor: int) -> Tensor:
    """The mask at latent size: (1, 1, Y/factor, X/factor), 1 where any pixel of the cell is to be repainted at least
    halfway.
    """
    array = np.asarray(mask, np.float32) / 255.0
    rows, columns = array.shape[0] // factor, array.shape[1] // factor
    cells = array[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return paddle.to_tensor(np.rint(cells.mean(axis=(1, 3))).astype(np.float32)[None, None])


@dataclass(frozen=True)
class Crop:
    """A box of the original that is worked on at another size and pasted back."""

    box: tuple[int, int, int, int]  # left, top, right, bottom
    size: tuple[int, int]

    def cut(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """The box of the picture, at working size."""
        return image.crop(self.box).resize(self.size, RESAMPLE)

    def paste(self, patch: PIL.Image.Image, onto: PIL.Image.Image, mask: PIL.Image.Image) -> PIL.Image.Image:
        """The original with the patch composited back under the full-size mask; pixels where the mask is 0 keep their
        bits.
        """
        left, top, right, bottom = self.box
        full = onto.copy()
        full.paste(patch.resize((right - left, bottom - top), RESAMPLE), (left, top))
        return composite(full, onto, mask)


def composite(new: PIL.Image.Image, old: PIL.Image.Image, mask: PIL.Image.Image) -> PIL.Image.Image:
    """New where the mask is white, old (bit for bit) where it is black."""
    return PIL.Image.composite(new, old, mask)


def crop_to_mask(mask: PIL.Image.Image, padding: int, size: tuple[int, int]) -> Crop:
    """The smallest box around the mask plus padding that has the working size's aspect ratio and lies inside the
    picture.

    Raises ValueError when the mask is empty.
    """
    found = mask.getbbox()
    if found is None:
        raise ValueError("the mask is empty: paint the region to change, or switch off 'only masked'")
    width, height = mask.size
    left, top = max(found[0] - padding, 0), max(found[1] - padding, 0)
    right, bottom = min(found[2] + padding, width), min(found[3] + padding, height)
    wanted = size[0] / size[1]
    if (right - left) / (bottom - top) < wanted:
        left, right = _widen(left, right, round((bottom - top) * wanted), width)
    else:
        top, bottom = _widen(top, bottom, round((right - left) / wanted), height)
    return Crop((left, top, right, bottom), size)


def _widen(low: int, high: int, length: int, limit: int) -> tuple[int, int]:
    length = min(length, limit)
    low = min(max(low - (length - (high - low)) // 2, 0), limit - length)
    return low, low + length


def fill_masked(image: PIL.Image.Image, mask: PIL.Image.Image) -> PIL.Image.Image:
    """The picture with the masked region filled by its surroundings, blurred wider and wider (the "fill" start of
    inpainting)."""
    keep = np.asarray(PIL.ImageOps.invert(mask), np.float32)[..., None] / 255.0
    pixels = np.asarray(image, np.float32)
    filled, weight = pixels * keep, keep
    for radius in (256, 64, 32, 16, 8, 4, 2):
        blurred, weights = _blur(pixels * keep, radius), _blur(np.repeat(keep, 3, axis=2), radius)
        known = weights > 1e-3
        local = np.where(known, blurred / np.maximum(weights, 1e-3), filled)
        filled = local if radius == 256 else np.where(known, local, filled)
    result = pixels * weight + filled * (1 - weight)
    return PIL.Image.fromarray(np.clip(np.rint(result), 0, 255).astype(np.uint8))


def _blur(array: np.ndarray, radius: int) -> np.ndarray:
    import cv2

    size = 2 * min(radius, min(array.shape[:2]) // 2) + 1
    return cv2.blur(array, (size, size), borderType=cv2.BORDER_REPLICATE)
