"""Params of enlarging a finished picture."""

from typing import ClassVar, Literal

from pydantic import Field

from app.pictures import Picture
from app.requests import Params, Prompt

MAX_SIDE = 4096


class EnlargeParams(Params):
    """A larger version of a picture; with a strength, the model adds detail, led by the picture's own settings."""

    kind: ClassVar[str] = "enlarge"

    image: Picture
    scale: float = Field(default=2.0, ge=1, le=8)
    method: Literal["Lanczos", "Bicubic", "Nearest"] = "Lanczos"
    strength: float = Field(default=0.3, ge=0, le=1, description="0: only resized; the model is not asked")
    infotext: str = Field(default="", max_length=100_000, description="empty: what the picture carries inside")
    prompt: str = Prompt
    negative_prompt: str = Prompt
    model: str = ""
    steps: int | None = Field(default=None, ge=1, le=1000)
    seed: int = Field(default=-1, ge=-1, le=2**32 - 1)
