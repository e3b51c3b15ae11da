"""The bodies of the WebUI's HTTP interface: its field names and defaults; what means nothing here passes."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.pictures import Picture
from app.requests import MAX_PROMPT, MAX_SEED


class Lenient(BaseModel):
    """Clients of the WebUI send everything that any of its versions ever knew."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True, allow_inf_nan=False)


class GenerateBody(Lenient):
    """What txt2img and img2img share."""

    prompt: str = Field(default="", max_length=MAX_PROMPT)
    negative_prompt: str = Field(default="", max_length=MAX_PROMPT)
    styles: list[str] | None = None
    seed: int = Field(default=-1, ge=-1, le=MAX_SEED)
    subseed: int = Field(default=-1, ge=-1, le=MAX_SEED)
    subseed_strength: float = Field(default=0, ge=0, le=1)
    sampler_name: str | None = None
    sampler_index: str | None = None  # the older name of sampler_name
    scheduler: str | None = None
    batch_size: int = Field(default=1, ge=1, le=32)
    n_iter: int = Field(default=1, ge=1, le=100)
    steps: int = Field(default=50, ge=1, le=1000)
    cfg_scale: float = Field(default=7.0, ge=0, le=100)
    width: int = Field(default=512, ge=64, le=4096)
    height: int = Field(default=512, ge=64, le=4096)
    restore_faces: bool | None = None
    tiling: bool | None = None
    denoising_strength: float | None = Field(default=None, ge=0, le=1)
    eta: float | None = Field(default=None, ge=0, le=1)
    s_churn: float | None = Field(default=None, ge=0)
    s_tmin: float | None = Field(default=None, ge=0)
    s_tmax: float | None = Field(default=None, ge=0)
    s_noise: float | None = Field(default=None, ge=0, le=2)
    override_settings: dict[str, Any] | None = None
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    script_name: str | None = None
    script_args: list[Any] = Field(default_factory=list)
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict)
    send_images: bool = True
    save_images: bool = False
    force_task_id: str | None = None
    infotext: str | None = None


class Txt2ImgBody(GenerateBody):
    """A picture from text, perhaps with a second pass at a larger size."""

    enable_hr: bool = False
    hr_scale: float = Field(default=2.0, ge=1, le=8)
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = Field(default=0, ge=0, le=1000)
    hr_resize_x: int = Field(default=0, ge=0, le=4096)
    hr_resize_y: int = Field(default=0, ge=0, le=4096)
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str = Field(default="", max_length=MAX_PROMPT)
    hr_negative_prompt: str = Field(default="", max_length=MAX_PROMPT)


class Img2ImgBody(GenerateBody):
    """A picture from a picture; with a mask, inpainting."""

    init_images: list[Picture] = Field(min_length=1, max_length=32)
    resize_mode: int = Field(default=0, ge=0, le=3)
    mask: Picture | None = None
    mask_blur: float | None = Field(default=None, ge=0, le=256)
    mask_blur_x: float = Field(default=4, ge=0, le=256)
    inpainting_fill: int = Field(default=0, ge=0, le=3)
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = Field(default=0, ge=0, le=1024)
    inpainting_mask_invert: int = Field(default=0, ge=0, le=1)
    include_init_images: bool = False


class ExtrasBody(Lenient):
    """Enlarging; face restoration needs models that this studio does not have."""

    resize_mode: int = Field(default=0, ge=0, le=1)
    show_extras_results: bool = True
    gfpgan_visibility: float = 0
    codeformer_visibility: float = 0
    upscaling_resize: float = Field(default=2, gt=0, le=8)
    upscaling_resize_w: int = Field(default=512, ge=1, le=8192)
    upscaling_resize_h: int = Field(default=512, ge=1, le=8192)
    upscaling_crop: bool = True
    upscaler_1: str = "None"
    upscaler_2: str = "None"
    extras_upscaler_2_visibility: float = Field(default=0, ge=0, le=1)


class ExtraSingleBody(ExtrasBody):
    """One picture to enlarge."""

    image: Picture


class NamedPicture(Lenient):
    """A picture of a batch."""

    data: Picture
    name: str = ""


class ExtraBatchBody(ExtrasBody):
    """Several pictures to enlarge."""

    imageList: list[NamedPicture] = Field(min_length=1, max_length=64)


class ImageBody(Lenient):
    """A picture to look into."""

    image: Picture


class UnitBody(Lenient):
    """A ControlNet unit as the extension's clients send it, in old and new words."""

    enabled: bool = True
    image: Any = None
    input_image: Any = None  # the older name
    module: str = "none"
    model: str = "None"
    weight: float = Field(default=1.0, ge=0, le=4)
    resize_mode: int | str = "Resize and Fill"
    threshold_a: float = -1
    threshold_b: float = -1
    guidance_start: float = Field(default=0.0, ge=0, le=1)
    guidance_end: float = Field(default=1.0, ge=0, le=1)
    control_mode: int | str = "Balanced"
