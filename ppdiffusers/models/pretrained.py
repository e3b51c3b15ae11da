"""A model folder in diffusers' or transformers' form: `config.json` beside safetensors; read, written, or made anew."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import paddle
from paddle import Tensor, nn
from paddle.base.framework import EagerParamBase

from ppdiffusers.models.config import JsonConfig
from ppdiffusers.models.layers import Linear, packed_leaves
from ppdiffusers.weights.dtype import BY_PADDLE, paddle_name, to_array
from ppdiffusers.weights.file import TensorFile, open_tensors, read_json

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
        place = Path(folder) / (subfolder or "")
        model = cls.empty(cls.CONFIG.from_dict(read_json(place / "config.json")))
        with open_tensors(place, variant) as file:
            model.load_tensors(file, dtype)
        return model.eval()

    def load_tensors(self, file: TensorFile, dtype: str) -> None:
        """Take every weight out of `file`, whose names and shapes are torch's under our names or `ALIASES`."""
        takes = self.takes(file)
        for prefix, layer in self.named_sublayers(include_self=True):
            for leaf in list(layer._parameters):
                key = takes.get(f"{prefix}.{leaf}" if prefix else leaf)
                if key is not None:
                    value = file.read(key).astype(cast(Any, dtype))
                    value = value.t().contiguous() if turned(layer, leaf) else value
                    setattr(layer, leaf, EagerParamBase.from_tensor(value, trainable=True))

    def takes(self, file: TensorFile) -> dict[str, str]:
        """Our parameter -> key in the file; ValueError names what is missing, misshapen, or left over."""
        takes: dict[str, str] = {}
        missing: list[str] = []
        wrong: list[str] = []
        for name, shape in self.torch_shapes().items():
            key = next((k for k in self.spellings(name) if k in file.shapes), None)
            if key is None:
                missing.append(name)
            else:
                takes[name] = key
                wrong += [f"{key} {list(file.shapes[key])}, not {list(shape)}"] if file.shapes[key] != shape else []
        left = sorted(set(file.shapes) - set(takes.values()))
        left = [key for key in left if not any(re.fullmatch(pattern, key) for pattern, _ in self.HARMLESS)]
        problems = ((missing, "are missing"), (wrong, "have the wrong shape"), (left, "belong to no part"))
        said = [f"{len(names)} {what}, first {', '.join(names[:3])}" for names, what in problems if names]
        if said:
            raise ValueError(f"{file.path.name} does not fit this {type(self).__name__}: {'; '.join(said)}")
        return takes

    def torch_shapes(self) -> dict[str, tuple[int, ...]]:
        """The names of our parameters with the shapes that torch gives them."""
        layers = self.named_sublayers(include_self=True)
        return {
            f"{prefix}.{leaf}" if prefix else leaf: Write(value, turned(layer, leaf)).shape
            for prefix, layer in layers
            for leaf, value in layer.state_dict(include_sublayers=False).items()
        }

    @classmethod
    def spellings(cls, name: str) -> Iterator[str]:
        """The names under which a published folder may hold our parameter."""
        yield name
        yield from (name.replace(ours, theirs) for ours, theirs in cls.ALIASES if ours in name)

    # --- writing ---

    def save_pretrained(self, folder: str | Path, variant: str | None = None) -> None:
        """Write `config.json` and safetensors that diffusers or transformers load as their own."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config_dict(), indent=2, sort_keys=True) + "\n")
        name = f"{self.WEIGHTS_NAME}.{variant}" if variant else self.WEIGHTS_NAME
        write_safetensors(folder / f"{name}.safetensors", dict(self.stored()))

    def stored(self) -> Iterator[tuple[str, "Write"]]:
        """Every parameter, ready to be written in torch's layout."""
        for prefix, layer in self.named_sublayers(include_self=True):
            for leaf, value in layer.state_dict(include_sublayers=False).items():
                yield f"{prefix}.{leaf}" if prefix else leaf, Write(value, turned(layer, leaf))

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


@dataclass(frozen=True, eq=False)
class Write:
    """A tensor on its way into a file, transposed if asked for."""

    value: Tensor
    turned: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)[::-1] if self.turned else tuple(self.value.shape)

    @property
    def nbytes(self) -> int:
        return self.value.size * self.value.element_size()

    def bytes(self) -> bytes:
        return to_array(self.value.t() if self.turned else self.value)[0].tobytes()


def write_safetensors(path: Path, tensors: Mapping[str, Write]) -> None:
    """Write tensors one after the other (format: header length, JSON header, bytes); the file appears when complete."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        dtype = BY_PADDLE[paddle_name(tensor.value.dtype)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.bytes())
    part.replace(path)


def turned(layer: nn.Layer, leaf: str) -> bool:
    """Whether torch stores this parameter the other way round."""
    return leaf == "weight" and isinstance(layer, Linear)
