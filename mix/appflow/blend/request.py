"""What a blend is asked for, as values that are checked before any work is done."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import PIL.Image

from ppdiffusers.pipelines.request import MAX_STEPS

if TYPE_CHECKING:
    from ppdiffusers.models.controlnet import ControlNetModel

Method = Literal["latent", "structure+look", "composite", "dissolve"]
Shape = Literal["subject", "shadows", "left-right", "top-bottom", "diagonal", "radial", "mask"]
Align = Literal["crop", "pad", "stretch"]

METHODS: dict[str, str] = {
    "latent": "melts the photos together in the model's own space; each keeps what catches the eye",
    "structure+look": "keeps the shapes of the first photo and paints them in the colours and textures of the second",
    "composite": "puts parts of both side by side along a seam that is hidden; the shape says where",
    "dissolve": "lays one photo over the other, half transparent: nothing clever, for comparison",
}
SHAPES: dict[str, str] = {
    "subject": "the subject of one photo stays, the other fills in around it",
    "shadows": "double exposure: the second photo shows up in the dark parts of the first",
    "left-right": "the first photo left, the second right",
    "top-bottom": "the first photo above, the second below",
    "diagonal": "the first photo top left, the second bottom right",
    "radial": "the second photo in the middle, the first around it",
    "mask": "your own mask: white is the second photo",
}
ALIGNMENTS: dict[str, str] = {
    "crop": "cut away what does not fit, keeping the centre of interest",
    "pad": "show all of both, with soft borders",
    "stretch": "squeeze both to the same shape",
}
LEAST_SIDE, MOST_SIDE = 16, 16384  # of a photo, in pixels
SMALLEST, LARGEST = 128, 2048  # of a result's longer side


@dataclass(frozen=True, kw_only=True, eq=False)
class Guide:
    """A ControlNet that holds the blend's shapes while it is painted anew."""

    model: "ControlNetModel"
    reads: Literal["luminance", "canny"] = "luminance"
    weight: float = 0.6
    name: str = "ControlNet"

    def __post_init__(self) -> None:
        if self.reads not in ("luminance", "canny"):
            raise ValueError(f"a guide reads 'luminance' or 'canny', not {self.reads!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class BlendRequest:
    """Two photos and how to make one of them.

    Args:
        a, b: the photos, in any size, mode and orientation.
        balance: 0 is A, 1 is B.
        method, shape, align: see `METHODS`, `SHAPES` (of a composite) and `ALIGNMENTS`.
        prompt, negative: what to paint where the blend is painted anew.
        strength: how much is painted anew at balance 0.5; towards the ends it goes to 0. 0 never calls the UNet.
        selective: 0 mixes every place alike, 1 lets each place belong to the photo that has more to show there.
        texture: of "structure+look", how much of the second photo's brushwork is taken over besides its colours.
        softness: of a composite's seam, as a part of the picture.
        focus: whether a crop looks for what catches the eye, or stays in the middle.
        match: whether the second photo is moved and turned onto the first where both show the same thing.
        size: the result's longer side in pixels; width and height, where both are given, say it exactly.
    """

    a: PIL.Image.Image
    b: PIL.Image.Image
    balance: float = 0.5
    method: Method = "latent"
    shape: Shape = "subject"
    mask: PIL.Image.Image | None = None
    prompt: str = ""
    negative: str = ""
    strength: float = 0.4
    selective: float = 0.7
    texture: float = 0.7
    softness: float = 0.15
    align: Align = "crop"
    focus: bool = True
    match: bool = False
    size: int = 768
    width: int = 0
    height: int = 0
    steps: int = 20
    cfg: float = 5.0
    sampler: str = "DPM++ 2M"
    schedule: str = "SGM Uniform"  # even steps of training time, so that a strength means the same with every model
    seed: int = 0
    guides: tuple[Guide, ...] = ()
    preview_every: int = 0

    def __post_init__(self) -> None:
        self._check_choices()
        for name in ("balance", "strength", "selective", "texture", "softness"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps must be between 1 and {MAX_STEPS}, got {self.steps}")
        if not SMALLEST <= self.size <= LARGEST:
            raise ValueError(f"the size must be between {SMALLEST} and {LARGEST} pixels, got {self.size}")
        self._check_sides()
        for name, photo in (("first", self.a), ("second", self.b)):
            check_photo(photo, f"the {name} photo")

    def _check_choices(self) -> None:
        for what, value, known in (
            ("method", self.method, METHODS),
            ("shape", self.shape, SHAPES),
            ("alignment", self.align, ALIGNMENTS),
        ):
            if value not in known:
                raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")
        if self.method == "composite" and self.shape == "mask" and self.mask is None:
            raise ValueError("a composite by mask needs the mask: a picture, white where the second photo shall be")

    def _check_sides(self) -> None:
        if bool(self.width) != bool(self.height):
            raise ValueError("give both width and height, or neither")
        for side in (self.width, self.height):
            if side and (side % 8 or not SMALLEST <= side <= LARGEST):
                near = min(max(round(side / 8) * 8, SMALLEST), LARGEST)
                raise ValueError(
                    f"width and height must be multiples of 8 from {SMALLEST} to {LARGEST}, got {side}; try {near}"
                )

    def at(self, balance: float) -> "BlendRequest":
        """The same blend at another balance."""
        return replace(self, balance=balance)


def check_photo(photo: PIL.Image.Image, name: str = "the photo") -> None:
    """Raise ValueError for a picture that is too small to show anything, too large, or as thin as a line."""
    width, height = photo.size
    if min(width, height) < LEAST_SIDE:
        raise ValueError(
            f"{name} is {width} x {height} pixels, too small to blend; give one of at least {LEAST_SIDE} a side"
        )
    if max(width, height) > MOST_SIDE:
        raise ValueError(f"{name} is {width} x {height} pixels; make it smaller than {MOST_SIDE} a side first")
    if max(width, height) > 12 * min(width, height):
        raise ValueError(f"{name} is {width} x {height} pixels, a strip rather than a picture; crop it first")


def balances(count: int) -> tuple[float, ...]:
    """Evenly from 0 to 1: what a strip shows. ValueError below 2 or above 21."""
    if not 2 <= count <= 21:
        raise ValueError(f"a strip has 2 to 21 balances, got {count}")
    return tuple(round(i / (count - 1), 6) for i in range(count))
