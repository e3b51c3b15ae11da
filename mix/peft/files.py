"""Adapter folders as PEFT has them: adapter_config.json and adapter_model.safetensors (or .bin)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn

from mix.peft.paths import LoRALinear
from ppdiffusers.models.layers import Linear
from ppdiffusers.training.checkpoint import entry
from ppdiffusers.weights.file import open_tensors, read_json
from ppdiffusers.weights.write import write_tensors, write_text

PREFIX = "base_model.model."  # what PEFT puts before the names of our layers
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def load_adapter(model: Any, folder: str | Path) -> Any:
    """The model with the adapter in a PEFT folder, of whichever kind it is."""
    from mix.peft.lora import LoRAModel
    from mix.peft.prefix import PrefixModelForCausalLM

    kind = read_config(folder).get("peft_type")
    made = PrefixModelForCausalLM if kind == "PREFIX_TUNING" else LoRAModel
    return made.from_pretrained(model, folder)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The adapter_config.json of a folder; ValueError where there is none."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG}, so it is no adapter as PEFT saves them")
    return read_json(path)


def weights_path(folder: Path) -> Path:
    """The file of weights in an adapter's folder."""
    found = next((folder / name for name in (WEIGHTS, "adapter_model.bin") if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"{folder} has neither {WEIGHTS} nor adapter_model.bin")
    return found


def layouts_of(model: nn.Layer) -> set[str]:
    """The parameters that lie the other way round in files: weights of our Linears, by their names in files."""
    found = set()
    for place, layer in model.named_sublayers():
        if isinstance(layer, LoRALinear):
            found |= {f"{PREFIX}{place}.{side}.weight" for side in ("lora_A", "lora_B")}
        elif isinstance(layer, Linear) and getattr(layer, "TURNED", True):
            found.add(f"{PREFIX}{place}.weight")
    return found


def write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    turned: set[str],
    dtype: str | None,
    model: Any = None,
) -> None:
    """Write an adapter, and where its `model` was read from. ValueError where a number is not finite."""
    entries = {}
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().T.contiguous() if name in turned else tensor.detach()
        if not bool(paddle.isfinite(value.astype("float32")).all()):
            raise ValueError(f"{name} is not finite; train with a lower learning rate")
        entries[name] = entry(value, dtype)
    write_tensors(folder / WEIGHTS, entries, {})
    base = getattr(model, "name_or_path", None)
    told = {**config, "base_model_name_or_path": base} if base else dict(config)
    write_text(folder / CONFIG, json.dumps(told, indent=2, sort_keys=True) + "\n")


def fill(folder: Path, tensors: Mapping[str, Tensor], turned: set[str]) -> None:
    """Read an adapter's file into its parameters, each in the dtype that it has; all of both, or a ValueError."""
    path = weights_path(folder)
    with open_tensors(path) as file:
        given = {key for key in file.shapes if not _copied(key, tensors)}
        missing, strange = sorted(tensors.keys() - given), sorted(given - tensors.keys())
        if missing or strange:
            told = [f"{len(keys)} {what}, first {keys[0]}" for keys, what in
                    ((missing, "missing"), (strange, "that this model has no place for")) if keys]  # fmt: skip
            raise ValueError(f"{path} does not fit this model: {'; '.join(told)}")
        for name, parameter in tensors.items():
            value = file.read(name)
            value = value.T.contiguous() if name in turned else value
            if list(value.shape) != list(parameter.shape):
                told = f"{tuple(value.shape)}, here it is {tuple(parameter.shape)}"
                raise ValueError(f"{path} is for another model: {name} is {told}")
            with paddle.no_grad():
                parameter.set_value(value.astype(parameter.dtype))


def _copied(key: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a key is only the model's own weight again: PEFT writes the weights of a head that has a path."""
    return key.endswith(".base_layer.weight") and key not in tensors
