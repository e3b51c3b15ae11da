"""A model's parameters on their way into a file: named and laid out as the format wants, made one at a time."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from paddle import Tensor, nn

from ppdiffusers.weights.dtype import BY_PADDLE, finite, paddle_name, to_array
from ppdiffusers.weights.plan import Rows, Spell, Take, as_stored, linear_weights, with_layout
from ppdiffusers.weights.write import Entry


@dataclass(frozen=True)
class Weight:
    """One parameter of a model: known by shape and dtype, and unpacked only when it is asked for."""

    layer: nn.Layer
    leaf: str

    @property
    def held(self) -> Any:
        packed = getattr(self.layer, "packed", None)
        return packed if self.leaf == "weight" and packed is not None else self.layer._parameters[self.leaf]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.held.shape)

    @property
    def dtype(self) -> str:
        return paddle_name(self.held.dtype)

    def value(self) -> Tensor:
        return self.held if isinstance(self.held, Tensor) else self.layer.dense_weight()


def weights_of(model: nn.Layer) -> dict[str, Weight]:
    """All parameters in the model's order, packed or not."""
    found = {}
    for prefix, layer in model.named_sublayers(include_self=True):
        for leaf, value in layer._parameters.items():
            if value is not None or (leaf == "weight" and getattr(layer, "packed", None) is not None):
                found[f"{prefix}.{leaf}".lstrip(".")] = Weight(layer, leaf)
    return found


def entries_of(model: nn.Layer, spell: Spell = as_stored, dtype: str | None = None) -> dict[str, Entry]:
    """The model's parameters under the names and in the layouts that `spell` gives, cast to `dtype` if there is one."""
    to = None if dtype is None else paddle_name(dtype)
    transposed = linear_weights(model)
    groups: dict[str, list[tuple[Take, Weight]]] = {}
    for name, weight in weights_of(model).items():
        take = with_layout(spell(name)[0], name in transposed, (), len(weight.shape))
        groups.setdefault(take.key, []).append((take, weight))
    return {key: _entry(key, group, to) for key, group in groups.items()}


def _entry(key: str, group: list[tuple[Take, Weight]], to: str | None) -> Entry:
    group = sorted(group, key=lambda one: next((op.index for op in one[0].ops if isinstance(op, Rows)), 0))
    dtype = to or group[0][1].dtype
    shapes = [take.undo(np.broadcast_to(np.uint8(0), weight.shape)).shape for take, weight in group]
    shape = (sum(s[0] for s in shapes), *shapes[0][1:]) if len(group) > 1 else shapes[0]

    def make() -> np.ndarray:
        arrays = [take.undo(_array(key, weight, dtype)) for take, weight in group]
        return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]

    return Entry(BY_PADDLE[dtype], shape, make)


def _array(key: str, weight: Weight, dtype: str) -> np.ndarray:
    value = weight.value()
    array, kind = to_array(value.astype(cast(Any, dtype)) if weight.dtype != dtype else value)
    if not finite(array, kind):
        raise ValueError(f"{key} is NaN or infinite as {dtype}; save as bfloat16 or float32, or check the model")
    return array
