"""What an art QR code is asked for, checked before any model is touched."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import PIL.Image

from mix.appflow.artqr.draw import SHAPES, Layout, Shape
from mix.appflow.artqr.matrix import LEVELS, Code, make, smallest
from mix.appflow.artqr.payload import text as checked
from mix.appflow.artqr.repair import Look

if TYPE_CHECKING:
    from ppdiffusers.models.controlnet import ControlNetModel

MODULE = 16  # pixels a module gets in the finished picture, so that a quarter of the size still scans
LEAST, LARGEST = 640, 1536  # sides of a finished picture whose size is not given
WORK_MODULE = 8  # pixels a module gets at least while the model works


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeControl:
    """A ControlNet that is shown the code (QR Code Monster, Brightness and their like)."""

    model: "ControlNetModel"
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    name: str = "ControlNet"


@dataclass(frozen=True, kw_only=True)
class Steering:
    """The expert knobs: how the model itself is led towards the code before the repair."""

    rate: float | None = None  # of the guidance; None follows the strength, 0 is off
    start: float = 0.2  # the part of the second pass's steps from which it acts
    end: float = 1.0
    redraw: float = 0.5  # denoising strength of the second pass
    polish: int = 1  # gradient steps on the finished latents
    hold: float = 2.0  # how much the picture's colours count beside its modules

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"guidance acts between 0 and 1 of the way, got {self.start} to {self.end}")
        if not 0 <= self.redraw <= 1:
            raise ValueError(f"the second pass's strength must be between 0 and 1, got {self.redraw}")
        if not 0 <= self.hold <= 100:
            raise ValueError(f"holding the colours takes 0 to 100, got {self.hold}")
        if not 0 <= self.polish <= 20:
            raise ValueError(f"polishing takes 0 to 20 steps, got {self.polish}")


@dataclass(frozen=True, kw_only=True)
class ArtQRRequest:
    """A code, a look, and how strongly one yields to the other.

    Args:
        text: what the code says; `payload` makes it from links, networks and contacts.
        strength: 0 is nearly the picture, 1 nearly the plain code.
        level: error correction; version 0 lets the code choose one with room to follow the picture.
        mask: pattern 0 to 7, None takes the one that agrees best with the picture.
        follow: the unused part of the code follows the picture.
        quiet: modules of quiet zone; scale and place put the code into a part of the picture.
        size: side of the finished picture, 0 lets the number of modules decide.
        picture: use this picture instead of painting one from the prompt (`steering.redraw` 0 keeps it as it is).
        wish: the part of readers and distortions that must succeed before the repair stops.
    """

    text: str
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    candidates: int = 1
    strength: float = 0.5
    level: str = "M"
    version: int = 0
    mask: int | None = None
    follow: bool = True
    shape: Shape = "rounded"
    quiet: float = 2.0
    scale: float = 1.0
    place: tuple[float, float] = (0.5, 0.5)
    size: int = 0
    picture: PIL.Image.Image | None = None
    steps: int = 16
    cfg: float = 6.0
    sampler: str = "DPM++ 2M"
    schedule: str = "Automatic"
    clip_skip: int = 1
    controls: tuple[CodeControl, ...] = ()
    steering: Steering = Steering()
    rounds: int = 8
    wish: float = 0.95
    preview_every: int = 0

    def __post_init__(self) -> None:
        checked(self.text)
        if self.level not in LEVELS:
            raise ValueError(f"error correction is one of {', '.join(LEVELS)}, not {self.level!r}")
        if self.shape not in SHAPES:
            raise ValueError(f"modules are {', '.join(SHAPES)}, not {self.shape!r}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"the strength runs from 0 (picture) to 1 (code), got {self.strength}")
        if not 1 <= self.candidates <= 16:
            raise ValueError(f"1 to 16 candidates, got {self.candidates}")
        if not 1 <= self.rounds <= 20:
            raise ValueError(f"1 to 20 rounds of repair, got {self.rounds}")
        if self.size and not 128 <= self.size <= 4096:
            raise ValueError(f"the finished picture's side is between 128 and 4096 pixels, got {self.size}")
        if not 0 <= self.quiet <= 8:
            raise ValueError(f"the quiet zone has 0 to 8 modules, got {self.quiet}")
        side = self.side
        if self.layout(side).module < 4:
            raise ValueError(
                f"a module would get {self.layout(side).module:.1f} pixels, at least 4 are needed: make the picture "
                "larger, let the code take more of it, or shorten the text"
            )

    def code(self, mask: int = 0) -> Code:
        """The code in its standard form. Raises ValueError where the text does not fit."""
        return make(self.text, self.level, self.chosen_version, self.mask if self.mask is not None else mask)

    @property
    def chosen_version(self) -> int:
        """The version asked for, or one with room to follow the picture without getting fine."""
        least = smallest(self.text, self.level)
        if self.version:
            return max(self.version, 1)
        return min(40, max(least, min(least + 3, 8)) if self.follow else least)

    @property
    def side(self) -> int:
        """Side of the finished picture in pixels."""
        if self.size:
            return self.size
        modules = 17 + 4 * self.chosen_version + 2 * self.quiet
        return int(min(LARGEST, max(LEAST, -(-MODULE * modules / self.scale // 8) * 8)))

    def layout(self, side: int) -> Layout:
        """Where the code lies in a square picture."""
        n = 17 + 4 * self.chosen_version
        return Layout.fit((side, side), n, self.quiet, scale=self.scale, place=self.place)

    def work_side(self, native: int, multiple: int) -> int:
        """The side at which the model is led: enough pixels a module, not below nor far above its own size."""
        modules = (17 + 4 * self.chosen_version + 2 * self.quiet) / self.scale
        wanted = -(-WORK_MODULE * modules // multiple) * multiple
        return int(min(max(wanted, native), 2 * native))

    @property
    def rate(self) -> float:
        """How strongly the model is led."""
        return 1.2 * self.strength if self.steering.rate is None else self.steering.rate

    @property
    def look(self) -> Look:
        """Where the repair begins."""
        s = self.strength
        return Look(
            margin=0.1 + 0.16 * s + 0.14 * s**3,
            body=0.04 + 0.08 * s + 0.2 * s**3,
            follow=0.6 - 0.3 * s,
            texture=1.0 - 0.9 * s**0.5,
            share=0.18 + 0.14 * s,
            shape=self.shape,
        )
