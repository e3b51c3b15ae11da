"""Params of art QR codes."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.pictures import Picture
from app.requests import MAX_SEED, Params, Prompt
from mix.appflow.artqr import payload

WITHOUT = "none"  # the model's name for a code on a picture that is given, without painting
Content = Literal["link", "text", "wifi", "contact"]
Word = Field(default="", max_length=500)


class WifiParams(BaseModel):
    """A network to join."""

    model_config = ConfigDict(extra="forbid")
    name: str = Word
    password: str = Field(default="", max_length=200)
    security: Literal["WPA", "WEP", "nopass"] = "WPA"
    hidden: bool = False


class ContactParams(BaseModel):
    """A person or business card."""

    model_config = ConfigDict(extra="forbid")
    name: str = Word
    family: str = Word
    organisation: str = Word
    title: str = Word
    phone: str = Word
    email: str = Word
    url: str = Word
    address: str = Word
    note: str = Word


class QrControl(BaseModel):
    """A ControlNet that is shown the code: QR Code Monster, Brightness and their like."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: str
    weight: float = Field(default=1.0, ge=0, le=4)
    start: float = Field(default=0.0, ge=0, le=1)
    end: float = Field(default=1.0, ge=0, le=1)


class QrParams(Params):
    """A QR code that is a picture: what it says, what it shows, and how strongly one yields to the other."""

    kind: ClassVar[str] = "qr"

    content: Content = "link"
    text: str = Field(default="", max_length=4000, description="of a link or a text")
    wifi: WifiParams | None = None
    contact: ContactParams | None = None
    prompt: str = Prompt
    negative_prompt: str = Prompt
    styles: list[str] = Field(default_factory=list, max_length=20)
    picture: Picture | None = Field(default=None, description="use this picture instead of painting one")
    model: str = Field(default="", description="a checkpoint's name; empty: the one in the settings; none: without")
    strength: float = Field(default=0.5, ge=0, le=1, description="0: nearly the picture, 1: nearly the plain code")
    error_correction: Literal["L", "M", "Q", "H"] = "M"
    version: int = Field(default=0, ge=0, le=40, description="0: one with room to follow the picture")
    mask_pattern: int = Field(default=-1, ge=-1, le=7, description="-1: the one that agrees best with the picture")
    follow: bool = Field(default=True, description="the unused part of the code follows the picture")
    shape: Literal["square", "rounded", "dot"] = "rounded"
    quiet: float = Field(default=2.0, ge=0, le=8, description="quiet zone in modules")
    scale: float = Field(default=1.0, ge=0.2, le=1, description="part of the picture that the code takes")
    place_x: float = Field(default=0.5, ge=0, le=1)
    place_y: float = Field(default=0.5, ge=0, le=1)
    size: int = Field(default=0, ge=0, le=4096, description="side in pixels; 0: enough for the modules")
    candidates: int = Field(default=1, ge=1, le=16)
    seed: int = Field(default=-1, ge=-1, le=MAX_SEED, description="-1: a new one")
    steps: int | None = Field(default=None, ge=1, le=1000, description="None: what the model recommends, else 20")
    cfg_scale: float | None = Field(default=None, ge=0, le=100, description="None: what the model recommends, else 7")
    sampler: str | None = Field(default=None, description="None: what the model recommends, else DPM++ 2M")
    schedule: str = "Automatic"
    clip_skip: int = Field(default=1, ge=1, le=12)
    guidance: float | None = Field(default=None, ge=0, le=10, description="None: follows the strength; 0: off")
    guidance_start: float = Field(default=0.2, ge=0, le=1)
    guidance_end: float = Field(default=1.0, ge=0, le=1)
    redraw: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="of the guided pass; None: what the model recommends, else 0.5",
    )
    rounds: int = Field(default=8, ge=1, le=20, description="of repair and checking, at most")
    controls: list[QrControl] = Field(default_factory=list, max_length=2)
    save: bool = Field(default=True, description="keep the pictures in the gallery")

    @model_validator(mode="after")
    def _whole(self) -> "QrParams":
        self.said()
        if self.model == WITHOUT and self.picture is None:
            raise ValueError("without a model the code needs a picture to go into")
        if self.guidance_start > self.guidance_end:
            raise ValueError("guidance cannot end before it starts")
        return self

    def said(self) -> str:
        """The text that the code says. Raises ValueError with a sentence."""
        match self.content:
            case "link":
                return payload.link(self.text)
            case "text":
                return payload.text(self.text)
            case "wifi":
                return payload.Wifi(**(self.wifi or WifiParams()).model_dump()).text()
            case "contact":
                return payload.Contact(**(self.contact or ContactParams()).model_dump()).text()
