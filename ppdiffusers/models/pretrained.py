"""A model folder in diffusers' or transformers' form: `config.json` beside safetensors; read, written, or made anew."""

from collections.abc import Mapping
from typing import Any, ClassVar

import paddle
from paddle import nn

from ppdiffusers.models.config import JsonConfig


class Pretrained(nn.Layer):
    """Base of every model: keeps its frozen config; loads from and saves to a folder."""

    CONFIG: ClassVar[type[JsonConfig]]
    WEIGHTS_NAME: ClassVar[str] = "diffusion_pytorch_model"
    # other spellings of our parameter names that published folders use: (ours, theirs), tried on a part of the name
    ALIASES: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def dtype(self) -> paddle.dtype:
        """The dtype of weights and activations."""
        return next(p.dtype for p in self.parameters())

    @classmethod
    def from_config(cls, config: JsonConfig | Mapping[str, Any]) -> "Pretrained":
        """A model with random weights; `config` is one of ours or the content of a config.json."""
        return cls(config if isinstance(config, JsonConfig) else cls.CONFIG.from_dict(config))

    @classmethod
    def empty(cls, config: JsonConfig) -> "Pretrained":
        """A model without memory for its weights: every one must be set before it is used. For loaders."""
        with paddle.LazyGuard():
            return cls(config)

    def config_dict(self) -> dict[str, Any]:
        """What `config.json` says about this model."""
        return self.config.to_dict()
