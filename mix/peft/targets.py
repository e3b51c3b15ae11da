"""Which layers an adapter goes to, by PEFT's rules for names."""

import re
from collections.abc import Sequence
from typing import Any

from paddle import nn

from mix.llm.layers import TiedHead
from mix.peft.config import LoRAConfig, Modules, listed
from mix.peft.paths import LoRALinear
from ppdiffusers.models.layers import Linear

ALL_LINEAR = "all-linear"


def is_leaf(layer: nn.Layer) -> bool:
    """Whether a path can hang beside this layer: it maps (..., in) to (..., out) as a Linear does."""
    return isinstance(layer, Linear) or (hasattr(layer, "quantized") and hasattr(layer, "in_features"))


def leaves_of(model: Any) -> dict[str, nn.Layer]:
    """All leaves by name; of those that have paths already, the wrapper."""
    found: dict[str, nn.Layer] = {}
    for name, layer in model.named_sublayers():
        inside = any(name.startswith(f"{known}.") for known in _above(name) if known in found)
        if not inside and (isinstance(layer, LoRALinear) or is_leaf(layer)):
            found[name] = layer
    return found


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def targets_of(model: Any, config: LoRAConfig) -> list[str]:
    """Names of the leaves that the config asks for; ValueError when there are none."""
    leaves = leaves_of(model)
    head = model._places["head"]
    wanted = config.target_modules if config.target_modules is not None else default_targets(model)
    found = [
        name
        for name in leaves
        if (name != ".".join(head) if wanted == ALL_LINEAR else _hit(wanted, name))
        and not (config.exclude_modules and _hit(config.exclude_modules, name))
        and not any(_inside(kept, name) for kept in config.modules_to_save or ())
        and (isinstance(wanted, str) or _chosen(config, name))
    ]
    if not found:
        examples = ", ".join(sorted({name.rpartition(".")[2] for name in leaves}))
        raise ValueError(f"no layer is called {' or '.join(listed(wanted))}; this model has {examples}")
    return found


def default_targets(model: Any) -> list[str]:
    """Queries and values, or the matrix that holds them: what PEFT takes for these families."""
    block = model.config.names.block
    roles = ("q", "v") if model.config.fused_qkv == "split" else ("qkv",)
    return [block[role].rpartition(".")[2] for role in roles]


def _hit(wanted: Modules, name: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == w or name.endswith(f".{w}") or re.fullmatch(w, name) is not None for w in wanted)


def _inside(kept: str, name: str) -> bool:
    return re.match(rf"(^|.*\.){kept}($|\..*)", name) is not None


def _chosen(config: LoRAConfig, name: str) -> bool:
    """Whether the layer's number is among `layers_to_transform`."""
    asked = config.layers_to_transform
    numbers: Sequence[int] | None = (asked,) if isinstance(asked, int) else asked
    if not numbers:
        return True
    patterns = listed(config.layers_pattern)
    tries = [rf"(?:^|.*?\.){p}\.(\d+)\." for p in patterns] or [r".*?\.[^.]*\.(\d+)\."]
    match = next(filter(None, (re.match(p, name) for p in tries)), None)
    return match is not None and int(match.group(1)) in numbers


def saved_whole(model: Any, config: LoRAConfig) -> list[str]:
    """Names of the layers that `modules_to_save` means: all whose names end so, as in PEFT."""
    found = []
    for wanted in config.modules_to_save or ():
        hits = [
            name
            for name, layer in model.named_sublayers()
            if name.endswith(wanted) and (list(layer.parameters()) or isinstance(layer, TiedHead))
        ]
        if not hits:
            raise ValueError(f"modules_to_save: no layer's name ends with {wanted!r}")
        found += hits
    return list(dict.fromkeys(found))
