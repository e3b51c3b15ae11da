"""What a person asks for, as values: one `Request` is the whole input of a run, its optional parts are what a variant
adds.

A picture from text is a plain request; `init` makes it image-to-image, `mask` inpainting, `hires` adds a second pass at
a larger size, `controls` ControlNets, `refine` hands the last steps to an SDXL refiner. Everything is checked here,
before a model is touched.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import PIL.Image

if TYPE_CHECKING:
    from paddle import Tensor

    from ppdiffusers.models.controlnet import ControlNetModel
    from ppdiffusers.pipelines.bundle import Bundle
    from ppdiffusers.sampling.denoise import Guide

MAX_PIXELS = 4096 * 4096
MAX_STEPS = 1000
Emphasis = Literal["Original", "No norm", "Ignore", "None"]
Fit = Literal["crop", "stretch", "pad"]
MaskedContent = Literal["fill", "original", "latent noise", "latent nothing"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to walk from noise to picture. None means the sampler's own default."""

    sampler: str | Mapping[str, Any] = "DPM++ 2M"  # a WebUI name ("DPM++ 2M Karras"), or a diffusers scheduler config
    schedule: str = "Automatic"
    steps: int = 20
    cfg_scale: float = 7.0
    cfg_rescale: float = 0.0
    eta: float | None = None
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps must be between 1 and {MAX_STEPS}, got {self.steps}")
        if not (math.isfinite(self.cfg_scale) and 0 <= self.cfg_scale <= 100):
            raise ValueError(f"the CFG scale must be between 0 and 100, got {self.cfg_scale}")
        if not 0 <= self.cfg_rescale <= 1:
            raise ValueError(f"CFG rescale must be between 0 and 1, got {self.cfg_rescale}")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Where the noise comes from besides the seed; the variation seed blends a second noise in."""

    rng: Literal["cpu", "gpu"] = "cpu"  # torch's CPU generator (diffusers), or the GPU's (WebUI's default)
    variation_seed: int = 0
    variation_strength: float = 0.0
    eta_seed_delta: int = 0

    def __post_init__(self) -> None:
        if self.rng not in ("cpu", "gpu"):
            raise ValueError(f"the noise source is 'cpu' or 'gpu', not {self.rng!r}")
        if not 0 <= self.variation_strength <= 1:
            raise ValueError(f"variation strength must be between 0 and 1, got {self.variation_strength}")


@dataclass(frozen=True, kw_only=True)
class Init:
    """The picture that image-to-image starts from; `strength` 0 keeps it, 1 forgets it."""

    image: PIL.Image.Image
    strength: float = 0.75
    fit: Fit = "crop"
    rule: Literal["webui", "diffusers"] = "webui"  # how many of the steps a strength runs, see `schedules.start_at`

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"denoising strength must be between 0 and 1, got {self.strength}")


@dataclass(frozen=True, kw_only=True)
class Mask:
    """What to repaint: white in `image` (or opaque, where it has transparency)."""

    image: PIL.Image.Image
    blur: float = 4.0
    content: MaskedContent = "original"
    only_masked: bool = False
    padding: int = 32
    invert: bool = False

    def __post_init__(self) -> None:
        if self.content not in ("fill", "original", "latent noise", "latent nothing"):
            raise ValueError(
                f"masked content is 'fill', 'original', 'latent noise' or 'latent nothing', not {self.content!r}"
            )
        if self.blur < 0 or self.padding < 0:
            raise ValueError("mask blur and padding can't be negative")


@dataclass(frozen=True, kw_only=True)
class Hires:
    """A second pass at a larger size, from the first one's result."""

    scale: float = 2.0
    width: int = 0  # both given: this size instead of the scale
    height: int = 0
    steps: int = 0  # 0: as many as the first pass
    strength: float = 0.7
    upscaler: Literal["Latent", "Latent (nearest)", "Latent (bicubic)", "Lanczos", "Bicubic", "Nearest"] = "Latent"
    sampler: str = ""  # "": the first pass's
    schedule: str = ""
    cfg_scale: float = 0.0  # 0: the first pass's
    prompt: str = ""  # "": the first pass's
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"the hires pass's denoising strength must be between 0 and 1, got {self.strength}")
        if self.width == 0 and not 1 <= self.scale <= 8:
            raise ValueError(f"hires scale must be between 1 and 8, got {self.scale}")

    def size(self, width: int, height: int, multiple: int) -> tuple[int, int]:
        """The second pass's (width, height)."""
        if self.width and self.height:
            return self.width, self.height
        return tuple(max(multiple, int(side * self.scale) // multiple * multiple) for side in (width, height))  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Control:
    """One ControlNet with its (already preprocessed) picture; it acts between `start` and `end` of the way."""

    model: "ControlNetModel"
    image: PIL.Image.Image
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    fit: Fit = "crop"
    name: str = "ControlNet"
    mode: Literal["balanced", "prompt", "control"] = "balanced"  # what counts more where prompt and control disagree

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"a ControlNet acts between 0 and 1 of the way, got {self.start} to {self.end}")


@dataclass(frozen=True, kw_only=True)
class Refine:
    """An SDXL refiner that takes over after `switch_at` of the steps."""

    bundle: "Bundle"
    switch_at: float = 0.8
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5

    def __post_init__(self) -> None:
        if not 0 < self.switch_at <= 1:
            raise ValueError(f"the refiner takes over between 0 and 1 of the steps, got {self.switch_at}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """What a caller has computed before: unit noise to start from, texts already encoded (one row a picture), or the
    latents of image-to-image, which are then not encoded from its picture."""

    init_latents: "Tensor | None" = None  # (1 or B, C, Y/8, X/8), scaled
    latents: "Tensor | None" = None  # (B, C, Y/8, X/8), standard normal, as diffusers takes them
    prompt_embeds: "Tensor | None" = None  # (B, L, D)
    negative_prompt_embeds: "Tensor | None" = None
    pooled_prompt_embeds: "Tensor | None" = None  # (B, P)
    negative_pooled_prompt_embeds: "Tensor | None" = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that decides a run's pictures. Prompts, negatives and seeds are one a picture."""

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...] = ("",)
    seeds: tuple[int, ...] = (0,)
    width: int = 512
    height: int = 512
    sampling: Sampling = field(default_factory=Sampling)
    noise: Noise = field(default_factory=Noise)
    clip_skip: int = 1
    emphasis: Emphasis = "Original"
    init: Init | None = None
    mask: Mask | None = None
    hires: Hires | None = None
    controls: tuple[Control, ...] = ()
    refine: Refine | None = None
    batch_size: int = 4  # pictures denoised at once; memory, not result
    given: Given | None = None
    guide: "Guide | None" = None  # corrects the predicted x0 at every step of every pass, see `sampling.denoise`
    output: Literal["pil", "np", "latent"] = "pil"
    preview_every: int = 0  # steps between previews; 0: none
    tile: int = 0  # VAE tiles in pixels; 0: only where the picture is large

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("a request needs at least one prompt (it may be empty text)")
        for what, values in (("negative prompts", self.negative_prompts), ("seeds", self.seeds)):
            if len(values) not in (1, len(self.prompts)):
                raise ValueError(f"{len(self.prompts)} prompts need as many {what}, or one; got {len(values)}")
        if self.mask is not None and self.init is None:
            raise ValueError("inpainting needs the picture that the mask belongs to")
        if not 1 <= self.clip_skip <= 12:
            raise ValueError(f"clip skip must be between 1 and 12, got {self.clip_skip}")
        if self.output not in ("pil", "np", "latent"):
            raise ValueError(f"output is 'pil', 'np' or 'latent', not {self.output!r}")
        check_size(self.width, self.height)

    @property
    def count(self) -> int:
        """How many pictures come out."""
        return len(self.prompts)

    def picture_seeds(self) -> tuple[int, ...]:
        """One seed a picture: a single seed counts up, as users of the WebUI expect."""
        return self.seeds if len(self.seeds) == self.count else tuple(self.seeds[0] + i for i in range(self.count))

    def picture_negatives(self) -> tuple[str, ...]:
        """One negative prompt a picture."""
        return self.negative_prompts if len(self.negative_prompts) == self.count else self.negative_prompts * self.count

    def with_size(self, width: int, height: int) -> "Request":
        """The same request at another size."""
        return replace(self, width=width, height=height)


def check_size(width: int, height: int) -> None:
    """Raise ValueError unless both sides are multiples of 8 from 64 on and the area is within bounds."""
    for side, value in (("width", width), ("height", height)):
        if value < 64 or value % 8:
            near = max(64, round(value / 8) * 8)
            raise ValueError(f"{side} must be a multiple of 8, at least 64, got {value}; try {near}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} is more than {MAX_PIXELS} pixels; make it smaller and upscale afterwards")
