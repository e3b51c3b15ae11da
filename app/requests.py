"""What people ask for, checked at the border: pydantic models that the page, HTTP and the command line share.

A value that cannot be is refused here, with the field's name and a sentence; the dataclasses below `app` then only see
sound ones. Words are the WebUI's and diffusers'.
"""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.pictures import Picture
from app.preprocess import PREPROCESSORS

MAX_SEED = 2**32 - 1
MAX_PROMPT = 100_000  # characters; a prompt of this length is a mistake or an attack
Prompt = Field(default="", max_length=MAX_PROMPT)
Side = Field(default=None, ge=64, le=4096, multiple_of=8, description="None: what the model was made for")
Fit = Literal["crop", "stretch", "pad"]


class Params(BaseModel):
    """The base of everything that becomes a job; `kind` picks the service."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    kind: ClassVar[str] = ""


class ControlParams(BaseModel):
    """One ControlNet unit."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    model: str
    image: Picture | None = Field(default=None, description="None: the picture that image-to-image starts from")
    preprocessor: str = "none"
    low: float | None = None
    high: float | None = None
    weight: float = Field(default=1.0, ge=0, le=4)
    start: float = Field(default=0.0, ge=0, le=1)
    end: float = Field(default=1.0, ge=0, le=1)
    fit: Fit = "crop"
    mode: Literal["balanced", "prompt", "control"] = "balanced"

    @model_validator(mode="after")
    def _known(self) -> "ControlParams":
        if self.preprocessor not in PREPROCESSORS:
            raise ValueError(f"there is no preprocessor {self.preprocessor!r}; there are {', '.join(PREPROCESSORS)}")
        if self.start > self.end:
            raise ValueError(f"a ControlNet cannot end ({self.end}) before it starts ({self.start})")
        return self


class HiresParams(BaseModel):
    """The second pass at a larger size; zeros and empty words mean: as in the first."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    scale: float = Field(default=2.0, ge=1, le=8)
    width: int = Field(default=0, ge=0, le=4096, multiple_of=8)
    height: int = Field(default=0, ge=0, le=4096, multiple_of=8)
    steps: int = Field(default=0, ge=0, le=1000)
    strength: float = Field(default=0.5, ge=0, le=1)
    upscaler: Literal["Latent", "Latent (nearest)", "Latent (bicubic)", "Lanczos", "Bicubic", "Nearest"] = "Latent"
    sampler: str = ""
    schedule: str = ""
    cfg_scale: float = Field(default=0.0, ge=0, le=100)
    prompt: str = Prompt
    negative_prompt: str = Prompt


class GenerateParams(Params):
    """A picture from text; with `init_image` from a picture, with `mask` inpainting."""

    kind: ClassVar[str] = "generate"

    prompt: str = Prompt
    negative_prompt: str = Prompt
    styles: list[str] = Field(default_factory=list, max_length=20)
    model: str = Field(default="", description="a checkpoint's name; empty: the one in the settings")
    vae: str = Field(default="", description="another VAE's name; empty: the checkpoint's own")
    sampler: str | None = Field(default=None, description="None: what the model recommends, else DPM++ 2M")
    schedule: str = "Automatic"
    steps: int | None = Field(default=None, ge=1, le=1000, description="None: what the model recommends, else 20")
    cfg_scale: float | None = Field(default=None, ge=0, le=100, description="None: what the model recommends, else 7")
    cfg_rescale: float = Field(default=0.0, ge=0, le=1)
    eta: float | None = Field(default=None, ge=0, le=1)
    s_churn: float = Field(default=0.0, ge=0, le=100)
    s_tmin: float = Field(default=0.0, ge=0)
    s_tmax: float | None = Field(default=None, ge=0)
    s_noise: float = Field(default=1.0, ge=0, le=2)
    width: int | None = Side
    height: int | None = Side
    seed: int = Field(default=-1, ge=-1, le=MAX_SEED, description="-1: a new one")
    variation_seed: int = Field(default=-1, ge=-1, le=MAX_SEED)
    variation_strength: float = Field(default=0.0, ge=0, le=1)
    eta_seed_delta: int = Field(default=0, ge=0, le=2**31)
    rng: Literal["cpu", "gpu"] | None = Field(default=None, description="None: as in the settings")
    count: int = Field(default=1, ge=1, le=100, description="how many pictures")
    batch_size: int = Field(default=1, ge=1, le=32, description="pictures at once: memory, not result")
    clip_skip: int = Field(default=1, ge=1, le=12)
    emphasis: Literal["Original", "No norm", "Ignore", "None"] = "Original"
    init_image: Picture | None = None
    strength: float = Field(default=0.75, ge=0, le=1)
    fit: Fit = "crop"
    mask: Picture | None = None
    mask_blur: float = Field(default=4.0, ge=0, le=256)
    masked_content: Literal["fill", "original", "latent noise", "latent nothing"] = "original"
    only_masked: bool = False
    padding: int = Field(default=32, ge=0, le=1024)
    invert_mask: bool = False
    hires: HiresParams | None = None
    controls: list[ControlParams] = Field(default_factory=list, max_length=8)
    refiner: str = Field(default="", description="an SDXL refiner's name")
    switch_at: float = Field(default=0.8, gt=0, le=1)
    save: bool = Field(default=True, description="keep the pictures in the gallery")

    @model_validator(mode="after")
    def _whole(self) -> "GenerateParams":
        if self.mask is not None and self.init_image is None:
            raise ValueError("inpainting needs the picture that the mask belongs to (init_image)")
        if any(unit.image is None for unit in self.controls) and self.init_image is None:
            raise ValueError("a ControlNet needs a picture (image), or one that image-to-image starts from")
        return self


def sentence(error: Any) -> str:
    """A pydantic ValidationError as one sentence for people: which field, what is wrong."""
    parts = []
    for one in error.errors():
        place = ".".join(str(step) for step in one["loc"])
        said = str(one["msg"]).removeprefix("Value error, ")
        parts.append(f"{place}: {said}" if place else said)
    return "; ".join(parts[:5])
