"""Change a model's weights for a while: merge adapters into them, or hang adapters beside them, and always restore.

Merging costs nothing per step and needs a copy of what it touches; a sidecar leaves the weights alone (quantised or
packed weights that one does not want to rebuild) and costs two small products per layer and step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import Tensor, nn

from ppdiffusers.leaves import Sidecar, sidecar_for
from ppdiffusers.weights.delta import Delta
from ppdiffusers.weights.lora import LoraPatch, descend, find_layer, in_torch_layout, plain_weight, set_weight
from ppdiffusers.weights.lora_blocks import block_weight


@dataclass(frozen=True)
class Use:
    """One adapter with its strengths: UNet, text encoders (the UNet's where None), and per block of the UNet."""

    patch: LoraPatch
    unet: float = 1.0
    text: float | None = None
    blocks: Sequence[float] | None = field(default=None)

    def strength(self, part: str, parameter: str, model: nn.Layer) -> float:
        """The factor for one parameter."""
        base = self.unet if part == "unet" or self.text is None else self.text
        return base if self.blocks is None else base * block_weight(self.blocks, part, parameter, model)


Uses = Sequence["Use | tuple[LoraPatch, float]"]


@contextmanager
def patched(models: Mapping[str, nn.Layer], uses: Uses, how: str = "merge") -> Iterator[None]:
    """The models with adapters applied; on the way out, also after an error, every weight has its old bits again.

    models: {"unet": ..., "text_encoder": ..., "text_encoder_2": ...}; how: "merge" or "sidecar" (which merges what no
    sidecar can do: DoRA, IA3, norms and biases).
    """
    if how not in ("merge", "sidecar"):
        raise ValueError(f"adapters are applied by 'merge' or 'sidecar', not {how!r}")
    undo: list[Any] = []
    try:
        for part, name, changes in _by_parameter(models, uses):
            undo.append(_apply_one(models[part], name, changes, how))
        yield
    finally:
        for restore in reversed(undo):
            restore()


def merge(models: Mapping[str, nn.Layer], uses: Uses) -> None:
    """Merge adapters into the weights for good."""
    for part, name, changes in _by_parameter(models, uses):
        layer, leaf = find_layer(models[part], name)
        set_weight(layer, leaf, _merged(layer, leaf, plain_weight(layer, leaf), changes))


Changes = list[tuple[Delta, float]]


def _by_parameter(models: Mapping[str, nn.Layer], uses: Uses) -> list[tuple[str, str, Changes]]:
    """Every parameter that is changed with all its changes: they add up on the original, so their order does not
    matter.
    """
    table: dict[tuple[str, str], Changes] = {}
    for use in (u if isinstance(u, Use) else Use(*u) for u in uses):
        for part, deltas in use.patch.deltas.items():
            if part not in models:
                continue
            for name, delta in deltas.items():
                if (factor := use.strength(part, name, models[part])) != 0:
                    table.setdefault((part, name), []).append((delta, factor))
    return [(part, name, changes) for (part, name), changes in table.items()]


def _apply_one(model: nn.Layer, name: str, changes: Changes, how: str) -> Any:
    layer, leaf = find_layer(model, name)
    if how == "sidecar" and leaf == "weight" and (beside := sidecar_for(layer, changes)) is not None:
        return _hang(model, name.rpartition(".")[0], layer, beside)
    before = plain_weight(layer, leaf).clone()
    set_weight(layer, leaf, _merged(layer, leaf, before, changes))
    return lambda: set_weight(layer, leaf, before)


def _hang(model: nn.Layer, path: str, layer: nn.Layer, beside: Sidecar) -> Any:
    parent_path, _, own = path.rpartition(".")
    parent = descend(model, parent_path)
    parent._sub_layers[own] = beside

    def restore() -> None:
        parent._sub_layers[own] = layer

    return restore


def _merged(layer: nn.Layer, leaf: str, plain: Tensor, changes: Changes) -> Tensor:
    """`plain`, the layer's own weight, with the changes added, in our layout."""
    with paddle.no_grad():
        weight = total = in_torch_layout(layer, leaf, plain.astype("float32"))
        for delta, factor in changes:
            total = total + delta.change(weight) * factor
        return in_torch_layout(layer, leaf, total)
