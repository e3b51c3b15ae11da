"""From the pictures of a request to what a pass starts from: latents to begin with, masks, extra channels, and how to
put the result back.
"""

from dataclasses import dataclass, replace

import paddle
import PIL.Image
from paddle import Tensor

from ppdiffusers.pipelines import pixels
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.request import Init, Mask, Request


@dataclass(frozen=True, eq=False)
class Canvas:
    """The picture that is worked on, and how a result goes back into the one that was given."""

    picture: PIL.Image.Image  # at the pass's size
    original: PIL.Image.Image  # as given, or fitted to the pass's size
    mask: PIL.Image.Image | None = None  # "L" at the pass's size, soft edges
    full_mask: PIL.Image.Image | None = None  # "L" at the original's size, soft edges
    crop: pixels.Crop | None = None

    def finish(self, result: PIL.Image.Image) -> PIL.Image.Image:
        """The result inside the original; pixels outside the mask keep their bits."""
        if self.full_mask is None:
            return result
        if self.crop is None and result.size != self.original.size:  # after a hires pass
            result = result.resize(self.original.size, pixels.RESAMPLE)
        if self.crop is not None:
            return self.crop.paste(result, self.original, self.full_mask)
        return pixels.composite(result, self.original, self.full_mask)


def canvas(request: Request) -> Canvas | None:
    """The working picture and mask of a request with a picture. Raises ValueError for an empty mask."""
    if request.init is None:
        return None
    size = (request.width, request.height)
    image = pixels.load_image(request.init.image)
    if request.mask is None:
        fitted = pixels.fit(image, size, request.init.fit)
        return Canvas(fitted, fitted)
    return _masked(image, request.init, request.mask, size)


def _masked(image: PIL.Image.Image, init: Init, mask: Mask, size: tuple[int, int]) -> Canvas:
    hard = pixels.load_mask(mask.image, image.size, mask.invert)
    if hard.getbbox() is None:
        raise ValueError("the mask is empty: nothing would change; paint the region to repaint white")
    if not mask.only_masked:
        original = pixels.fit(image, size, init.fit)
        soft = pixels.blur_mask(pixels.fit(hard, size, init.fit), mask.blur)
        return Canvas(_filled(original, soft, mask), original, soft, soft)
    soft = pixels.blur_mask(hard, mask.blur)
    crop = pixels.crop_to_mask(soft, mask.padding, size)
    inner = crop.cut(soft)
    return Canvas(_filled(crop.cut(image), inner, mask), image, inner, soft, crop)


def _filled(picture: PIL.Image.Image, mask: PIL.Image.Image, how: Mask) -> PIL.Image.Image:
    return pixels.fill_masked(picture, mask) if how.content == "fill" else picture


@dataclass(frozen=True, eq=False)
class Start:
    """What one pass begins with; all None for a picture from text alone."""

    image: Tensor | None = None  # (1 or B, C, Y, X) latents to noise
    mask: Tensor | None = None  # (1, 1, Y, X), 1 = repaint
    extra: Tensor | None = None  # (1, E, Y, X) for models that read more than the latent
    known: Tensor | None = None  # (1, C, Y, X) latents outside the mask

    def filled(self, content: str, noise: Tensor) -> "Start":
        """The start with unit noise (B, C, Y, X), or nothing, where the mask is, for the contents that ask for it."""
        if self.image is None or self.mask is None or content not in ("latent noise", "latent nothing"):
            return self
        kept = self.image * (1 - self.mask)
        return replace(self, image=kept + noise * self.mask if content == "latent noise" else kept)


def start(bundle: Bundle, request: Request, place: Canvas | None) -> Start:
    """Encode the working picture: what all pictures of a request begin with."""
    if place is None:
        return Start(extra=_blank(bundle, request))
    image = pixels.to_tensor([place.picture])
    given = request.given
    latents = bundle.encode(image) if given is None or given.init_latents is None else given.init_latents
    if place.mask is None or request.mask is None:
        return Start(latents, extra=_picture_channels(bundle, latents, image, None))
    extra = _picture_channels(bundle, latents, image, pixels.mask_tensor(place.mask).round())
    return Start(latents, pixels.latent_mask(place.mask, bundle.factor), extra, latents)


def _blank(bundle: Bundle, request: Request) -> Tensor | None:
    """An inpainting model asked for a picture from text: everything masked, a grey picture."""
    if bundle.extra_channels == 0:
        return None
    if bundle.extra_channels == bundle.latent_channels:
        raise ValueError(f"{bundle.name} edits pictures (InstructPix2Pix): give it a picture to start from")
    grey = paddle.zeros([1, 3, request.height, request.width])
    latents = bundle.encode(grey)
    return paddle.concat([paddle.ones_like(latents[:, :1]), latents], axis=1)


def _picture_channels(bundle: Bundle, latents: Tensor, image: Tensor, mask: Tensor | None) -> Tensor | None:
    """Extra input channels: the mask and the picture without its masked part, or InstructPix2Pix' unscaled picture."""
    if bundle.extra_channels == 0:
        return None
    if bundle.extra_channels == bundle.latent_channels:
        return bundle.unscale(latents)
    if mask is None:
        return paddle.concat([paddle.ones_like(latents[:, :1]), latents], axis=1)
    hidden = bundle.encode(image * (1 - mask))
    small = paddle.nn.functional.interpolate(mask, size=list(latents.shape[2:]), mode="nearest")
    return paddle.concat([small, hidden], axis=1)


def at_size(first: Start, latents: Tensor) -> Start:
    """What the hires pass begins with: the enlarged latents, extra channels enlarged with them."""
    extra = first.extra
    if extra is not None:
        extra = paddle.nn.functional.interpolate(extra, size=list(latents.shape[2:]), mode="nearest")
    return replace(first, image=latents, mask=None, known=None, extra=extra)
