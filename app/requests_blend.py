"""Params of blending two photos."""

from typing import ClassVar

from pydantic import Field, model_validator

from app.pictures import Picture
from app.requests import MAX_SEED, Params, Prompt
from mix.appflow.blend.request import LARGEST, SMALLEST, Align, Method, Shape, check_photo

WITHOUT = "none"  # the model's name for blending pixels alone


class BlendParams(Params):
    """One picture that is both photos; with `strip`, several of them from the first photo to the second."""

    kind: ClassVar[str] = "blend"

    image_a: Picture
    image_b: Picture
    balance: float = Field(default=0.5, ge=0, le=1, description="0: the first photo, 1: the second")
    strip: int = Field(default=0, ge=0, le=21, description="so many balances from 0 to 1; 0: only `balance`")
    method: Method = "latent"
    shape: Shape = Field(default="subject", description="of a composite: where the seam runs")
    mask: Picture | None = Field(default=None, description="for the shape 'mask': white is the second photo")
    prompt: str = Prompt
    negative_prompt: str = Prompt
    styles: list[str] = Field(default_factory=list, max_length=20)
    model: str = Field(default="", description="a checkpoint's name; empty: the one in the settings; none: without")
    strength: float = Field(default=0.4, ge=0, le=1, description="how much is painted anew in the middle")
    selective: float = Field(default=0.7, ge=0, le=1, description="0: mix evenly, 1: each place the stronger photo's")
    texture: float = Field(default=0.7, ge=0, le=1, description="of structure+look: brushwork besides colours")
    softness: float = Field(default=0.15, ge=0, le=1, description="of a composite's seam")
    align: Align = "crop"
    focus: bool = Field(default=True, description="crop around what catches the eye")
    match: bool = Field(default=False, description="lay the second onto the first where both show the same thing")
    size: int = Field(default=768, ge=SMALLEST, le=LARGEST, description="longer side of the result")
    width: int = Field(default=0, ge=0, le=LARGEST, multiple_of=8, description="with height: instead of size")
    height: int = Field(default=0, ge=0, le=LARGEST, multiple_of=8)
    steps: int | None = Field(default=None, ge=1, le=1000, description="None: what the model recommends, else 20")
    cfg_scale: float | None = Field(default=None, ge=0, le=100, description="None: what the model recommends, else 7")
    sampler: str = "DPM++ 2M"
    schedule: str = "SGM Uniform"
    seed: int = Field(default=-1, ge=-1, le=MAX_SEED, description="-1: a new one")
    control: str = Field(default="", description="a ControlNet's name: holds the shapes while it is painted anew")
    control_reads: str = Field(default="luminance", pattern="^(luminance|canny)$")
    control_weight: float = Field(default=0.6, ge=0, le=4)
    save: bool = Field(default=True, description="keep the pictures in the gallery")

    @model_validator(mode="after")
    def _whole(self) -> "BlendParams":
        check_photo(self.image_a, "image_a")
        check_photo(self.image_b, "image_b")
        if bool(self.width) != bool(self.height):
            raise ValueError("give both width and height, or neither")
        if self.width and min(self.width, self.height) < SMALLEST:
            raise ValueError(f"width and height must be at least {SMALLEST}")
        if self.strip == 1:
            raise ValueError("a strip has 2 to 21 balances; 0 makes only the one that is asked for")
        if self.method == "composite" and self.shape == "mask" and self.mask is None:
            raise ValueError("a composite by mask needs the mask: a picture, white where the second photo shall be")
        if self.method == "latent" and self.model == WITHOUT:
            raise ValueError("the latent method needs a model; choose one, or another method")
        return self
