"""A model folder in diffusers' or transformers' form: `config.json` beside safetensors; read, written, or made anew."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import paddle
from paddle import nn

from ppdiffusers.models.config import JsonConfig
from ppdiffusers.models.layers import packed_leaves
from ppdiffusers.weights.entries import entries_of
from ppdiffusers.weights.file import open_tensors, read_json
from ppdiffusers.weights.plan import Take, make_plan, refuse_unknown, run_plan
from ppdiffusers.weights.source import locate
from ppdiffusers.weights.write import write_tensors, write_text

if TYPE_CHECKING:
    from typing_extensions import Self


class Pretrained(nn.Layer):
    """Base of every model: keeps its frozen config; loads from and saves to a folder."""

    CONFIG: ClassVar[type[JsonConfig]]
    WEIGHTS_NAME: ClassVar[str] = "diffusion_pytorch_model"
    # Other spellings in published folders, (ours, theirs), each a part of the name.
    ALIASES: ClassVar[tuple[tuple[str, str], ...]] = ()
    # Keys of published folders that this model has no use for, (pattern, why).
    HARMLESS: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def dtype(self) -> paddle.dtype:
        """The dtype of weights and activations."""
        return next(value for _, value in self.named_parameters()).dtype

    # --- building ---

    @classmethod
    def from_config(cls, config: JsonConfig | Mapping[str, Any]) -> "Self":
        """A model with random weights; `config` is one of ours or the content of a config.json."""
        return cls(config if isinstance(config, JsonConfig) else cls.CONFIG.from_dict(config))

    @classmethod
    def empty(cls, config: JsonConfig) -> "Self":
        """A model without memory for its weights, for loaders: every one must be set before the model is used."""
        with paddle.LazyGuard():
            return cls(config)

    # --- reading ---

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, subfolder: str | None = None, dtype: str = "float32", variant: str | None = None
    ) -> "Self":
        """The model in `folder[/subfolder]`, as diffusers or transformers saved it, its weights cast to `dtype`.

        Memory never holds more than the model and a few copies of one tensor. Raises ValueError when there is no such
        folder, when the config asks for something unsupported, or when the weights are not exactly the model's.
        """
        place = locate(folder) / (subfolder or "")
        model = cls.empty(cls.CONFIG.from_dict(read_json(place / "config.json")))
        with open_tensors(place, variant) as file:
            plan = make_plan(model, cls.spell, file.shapes, file.path.name)
            refuse_unknown(file.shapes, [plan], file.path.name, cls.HARMLESS)
            run_plan(plan, file, model, dtype)
        return model.eval()

    @classmethod
    def spell(cls, name: str) -> tuple[Take, ...]:
        """Where a published folder may hold our parameter."""
        return (Take(name), *(Take(name.replace(ours, theirs)) for ours, theirs in cls.ALIASES if ours in name))

    # --- writing ---

    def save_pretrained(self, folder: str | Path, variant: str | None = None, dtype: str | None = None) -> None:
        """Write safetensors and `config.json` as diffusers or transformers do; each file whole or not at all.

        `dtype` casts the weights on the way. Raises ValueError when a weight is not finite or the disk is full.
        """
        folder = Path(folder)
        name = f"{self.WEIGHTS_NAME}.{variant}" if variant else self.WEIGHTS_NAME
        write_tensors(folder / f"{name}.safetensors", entries_of(self, dtype=dtype), {})
        write_text(folder / "config.json", json.dumps(self.config_dict(), indent=2, sort_keys=True) + "\n")

    def config_dict(self) -> dict[str, Any]:
        """What `config.json` says about this model."""
        return self.config.to_dict()

    # --- guards: Paddle's own ways to change weights do not see packed ones ---

    def set_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.refuse_if_packed("set_state_dict")
        return super().set_state_dict(*args, **kwargs)

    set_dict = load_dict = set_state_dict

    def to(self, *args: Any, **kwargs: Any) -> "Self":
        self.refuse_if_packed("to")
        return super().to(*args, **kwargs)

    def astype(self, dtype: Any = None) -> "Self":
        self.refuse_if_packed("astype")
        return super().astype(dtype)

    def refuse_if_packed(self, what: str) -> None:
        if any(leaf.packed is not None for leaf in packed_leaves(self)):
            raise ValueError(f"{what} cannot change packed weights; call ppdiffusers.models.layers.unpack(model) first")
