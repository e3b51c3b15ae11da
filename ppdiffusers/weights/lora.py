"""LoRA files of every common kind -> a patch for the loaded model, and one sentence that says how well the file fits.

Files in the wild name one layer five ways; we compute the spellings from the model and look the file's names up
(`lora_keys`). What each kind adds to a weight is in `delta`. A file that does not fit the model is refused before
anything is touched.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paddle import Tensor, nn

from ppdiffusers.weights.delta import Decomposed, Delta, Full, Hadamard, Kronecker, LowRank, Rescale
from ppdiffusers.weights.file import TensorFile, open_tensors
from ppdiffusers.weights.lora_keys import group_keys, spelling_table
from ppdiffusers.weights.names import unet_ldm_names

FAMILIES = {
    768: "SD 1.5",
    1024: "SD 2",
    2048: "SDXL",
    1280: "SDXL refiner",
}  # by the width of the text that cross attention reads
_OTHER_MODELS = (
    ("double_blocks", "FLUX"),
    ("single_transformer_blocks", "FLUX"),
    ("joint_blocks", "SD 3"),
    ("lora_te3", "SD 3"),
    ("adaln_single", "PixArt"),
    ("lora_prior", "Stable Cascade or Kandinsky"),
    ("transformer.transformer_blocks", "a diffusion transformer"),
)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file's header, grouped by layer; tensors are read when a patch is made."""

    path: Path
    groups: Mapping[str, Mapping[str, str]]  # layer as spelled -> leaf -> key
    strangers: tuple[str, ...]  # keys that no adapter kind has
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its ending: what `<lora:name:1>` says."""
        return self.path.stem

    @property
    def alias(self) -> str:
        """The name its trainer gave it (`ss_output_name`), else the file's."""
        return self.metadata.get("ss_output_name") or self.name

    @property
    def family(self) -> str | None:
        """The model family it was trained on, as far as names and shapes tell."""
        for mark, family in _OTHER_MODELS:
            if any(mark in layer for layer in self.groups):
                return family
        for layer, leaves in self.groups.items():
            if "attn2" in layer and layer.endswith(("to_k", "to_v")) and (width := self._width_in(leaves)) is not None:
                return FAMILIES.get(width, f"a model with cross attention {width}")
        return "SDXL" if any(layer.startswith(("lora_te2_", "text_encoder_2.")) for layer in self.groups) else None

    def _width_in(self, leaves: Mapping[str, str]) -> int | None:
        if "lokr_w1" in leaves or "lokr_w1_b" in leaves:
            sides = [leaves.get(f"lokr_w{i}") or leaves.get(f"lokr_w{i}_b") for i in (1, 2)]
            return None if None in sides else self.shapes[str(sides[0])][1] * self.shapes[str(sides[1])][1]
        key = next((leaves[leaf] for leaf in ("down", "hada_w1_b", "diff") if leaf in leaves), None)
        return None if key is None else self.shapes[key][1]


@dataclass(frozen=True)
class LoraPatch:
    """What one file changes in a loaded model: {part: {parameter name: Delta}}."""

    path: Path
    deltas: Mapping[str, Mapping[str, Delta]]
    unused: tuple[str, ...]  # keys nobody asked for
    verdict: str

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def modules(self) -> int:
        """How many parameters it changes."""
        return sum(len(part) for part in self.deltas.values())


def read_lora(path: str | Path) -> LoraFile:
    """The header of a LoRA file. Raises ValueError when the file holds no adapter."""
    with open_tensors(path) as file:
        shapes = {key: tuple(shape) for key, shape in file.shapes.items()}
        groups, strangers = group_keys(shapes)
        groups = {layer: leaves for layer, leaves in groups.items() if _is_adapter(leaves)}
        if not groups:
            raise ValueError(
                f"{Path(path).name} is not a LoRA file: none of its {len(shapes)} tensors has an adapter's name "
                "(lora_down, lora_A, hada_w1_a, lokr_w1, diff, ...)"
            )
        return LoraFile(Path(path), groups, tuple(strangers), shapes, dict(file.metadata))


def _is_adapter(leaves: Mapping[str, str]) -> bool:
    return bool(set(leaves) - {"weight", "bias", "alpha"}) or set(leaves) == {"weight", "on_input"}


def plan_lora(file: LoraFile, models: Mapping[str, nn.Layer]) -> LoraPatch:
    """Fit a file to the parts "unet", "text_encoder", "text_encoder_2" of a loaded model (any subset).

    Raises ValueError with one sentence when the file was made for another family or fits no layer.
    """
    wanted = _model_family(models)
    if file.family is not None and wanted is not None and file.family != wanted:
        raise ValueError(
            f"{file.path.name} is a LoRA for {file.family}, the loaded model is {wanted}: pick another LoRA or another "
            "model"
        )
    table = spelling_table(models, _ldm_names(models))
    deltas: dict[str, dict[str, Delta]] = {}
    unused = list(file.strangers)
    with open_tensors(file.path) as tensors:
        for layer, leaves in file.groups.items():
            place = table.get(layer)
            made = {} if place is None else _deltas_of(leaves, tensors)
            if place is None or not made:
                unused += leaves.values()
                continue
            part, module = place
            deltas.setdefault(part, {}).update({f"{module}.{leaf}": delta for leaf, delta in made.items()})
    if not deltas:
        first = next(iter(file.groups))
        raise ValueError(
            f"{file.path.name} fits no layer of the loaded model{'' if wanted is None else f' ({wanted})'}: 0 of "
            f"{len(file.groups)} layers are known, the first is called {first!r}"
        )
    _check_shapes(file, deltas, models)
    return LoraPatch(file.path, deltas, tuple(unused), _verdict(file, deltas, unused))


def _ldm_names(models: Mapping[str, nn.Layer]) -> Callable[[str], str] | None:
    return unet_ldm_names(models["unet"].config) if "unet" in models else None


def _model_family(models: Mapping[str, nn.Layer]) -> str | None:
    if "unet" not in models:
        return None
    width = int(models["unet"].config.cross_attention_dim)
    return FAMILIES.get(width, f"a model with cross attention {width}")


def _deltas_of(leaves: Mapping[str, str], file: TensorFile) -> dict[str, Delta]:
    """The changes of one layer's "weight" and "bias"; empty where the leaves are incomplete or of an unknown kind."""

    def get(leaf: str) -> Tensor:
        return file.read(leaves[leaf])

    def maybe(leaf: str) -> Tensor | None:
        return get(leaf) if leaf in leaves else None

    alpha = float(get("alpha").astype("float32").reshape([-1])[0]) if "alpha" in leaves else None
    found: dict[str, Delta] = {}
    if {"down", "up"} <= leaves.keys():
        found["weight"] = LowRank(get("down"), get("up"), maybe("mid"), alpha)
    elif {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= leaves.keys():
        first, second = ((get(f"hada_w{i}_a"), get(f"hada_w{i}_b")) for i in (1, 2))
        found["weight"] = Hadamard(*first, *second, maybe("hada_t1"), maybe("hada_t2"), alpha)
    elif any(leaf.startswith("lokr_w1") for leaf in leaves) and any(leaf.startswith("lokr_w2") for leaf in leaves):
        factor = {
            i: get(f"lokr_w{i}") if f"lokr_w{i}" in leaves else (get(f"lokr_w{i}_a"), get(f"lokr_w{i}_b"))
            for i in (1, 2)
        }
        found["weight"] = Kronecker(factor[1], factor[2], maybe("lokr_t2"), alpha)
    elif {"weight", "on_input"} <= leaves.keys():
        found["weight"] = Rescale(get("weight"), bool(get("on_input").astype("float32").sum() > 0))
    elif "diff" in leaves or "w_norm" in leaves:
        found["weight"] = Full(get("diff" if "diff" in leaves else "w_norm"))
    if "weight" in found and (magnitude := maybe("magnitude")) is not None:
        found["weight"] = Decomposed(found["weight"], magnitude, on_input=False)
    elif "weight" in found and (scale := maybe("dora_scale")) is not None:
        found["weight"] = Decomposed(
            found["weight"], scale, on_input=scale.ndim > 1 and scale.shape[0] == 1 != scale.shape[1]
        )
    if "diff_b" in leaves or "b_norm" in leaves:
        found["bias"] = Full(get("diff_b" if "diff_b" in leaves else "b_norm"))
    return found


def plain_weight(layer: nn.Layer, leaf: str) -> Tensor:
    """A layer's parameter without its gradient; a packed one is unpacked into a fresh tensor."""
    return (layer.dense_weight() if _packable(layer, leaf) else getattr(layer, leaf)).detach()


def set_weight(layer: nn.Layer, leaf: str, value: Tensor) -> None:
    """Replace a layer's parameter, packed or not, cast to its dtype."""
    if _packable(layer, leaf):
        layer.set_dense_weight(value)
    else:
        parameter = getattr(layer, leaf)
        parameter.set_value(value.astype(parameter.dtype))


def in_torch_layout(layer: nn.Layer, leaf: str, value: Tensor) -> Tensor:
    """Our layout to torch's, and torch's to ours: Linear weights are turned."""
    return value.T if leaf == "weight" and isinstance(layer, nn.Linear) else value


def _packable(layer: nn.Layer, leaf: str) -> bool:
    return leaf == "weight" and hasattr(layer, "dense_weight")


def _check_shapes(file: LoraFile, deltas: Mapping[str, Mapping[str, Delta]], models: Mapping[str, nn.Layer]) -> None:
    for part, name, delta in _each(deltas):
        layer, leaf = find_layer(models[part], name)
        shape = _torch_shape(layer, leaf)
        low = delta.inner if isinstance(delta, Decomposed) else delta
        if isinstance(low, LowRank) and (low.up.shape[0] != shape[0] or low.down.shape[1] != shape[1]):
            raise ValueError(
                f"{file.path.name} does not fit: for {part}.{name} it has {low.up.shape[0]} x {low.down.shape[1]}, the "
                f"layer is {shape[0]} x {shape[1]}; it was made for another model"
            )


def _torch_shape(layer: nn.Layer, leaf: str) -> tuple[int, ...]:
    packed = getattr(layer, "packed", None)
    shape = tuple(packed.shape if leaf == "weight" and packed is not None else getattr(layer, leaf).shape)
    return shape[::-1] if leaf == "weight" and isinstance(layer, nn.Linear) else shape


def find_layer(model: nn.Layer, parameter: str) -> tuple[nn.Layer, str]:
    """The layer that owns a parameter, and the parameter's own name."""
    path, _, leaf = parameter.rpartition(".")
    return descend(model, path), leaf


def descend(model: nn.Layer, path: str) -> nn.Layer:
    """The sublayer with a dotted name; the model itself for ""."""
    return functools.reduce(getattr, path.split("."), model) if path else model


def _each(deltas: Mapping[str, Mapping[str, Delta]]) -> Iterator[tuple[str, str, Delta]]:
    for part, changes in deltas.items():
        for name, delta in changes.items():
            yield part, name, delta


def _verdict(file: LoraFile, deltas: Mapping[str, Mapping[str, Delta]], unused: list[str]) -> str:
    all_deltas = [delta for _, _, delta in _each(deltas)]
    kinds = Counter(delta.kind for delta in all_deltas)
    kind = kinds.most_common(1)[0][0]
    if kind == "LoRA" and any(
        isinstance(d, LowRank) and d.down.ndim == 4 and max(d.down.shape[2:]) > 1 for d in all_deltas
    ):
        kind = "LoCon"
    ranks = sorted({delta.rank for delta in all_deltas if delta.rank})
    rank = f", rank {ranks[0] if len(ranks) == 1 else f'{ranks[0]} to {ranks[-1]}'}" if ranks else ""
    total = sum(len(leaves) for leaves in file.groups.values()) + len(file.strangers)
    rest = f", {len(unused)} keys unused (first {unused[0]!r})" if unused else ""
    family = file.family or "family not told by its names"
    return f"{file.name}: {kind} for {family}{rank}, {total - len(unused)} of {total} keys used{rest}"


def apply(model: nn.Layer, path: str | Path, scale: float = 1.0, part: str = "unet") -> LoraPatch:
    """Merge a file into one model in place, for good; `patch.patched` does it for a while and undoes it."""
    from ppdiffusers.patch import merge

    patch = plan_lora(read_lora(path), {part: model})
    merge({part: model}, [(patch, scale)])
    return patch
