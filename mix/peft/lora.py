"""A language model with LoRA adapters: one call hangs them in, and nothing else of the model changes.

`model = LoRAModel(model, LoRAConfig(r=8))` and the model is called, generates and streams as before. The given model is
changed in place (its leaves get wrappers) until `unload`.
"""

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from paddle import Tensor, nn

from mix.llm.layers import TiedHead
from mix.llm.model import CausalLM
from mix.peft import files
from mix.peft.config import LoRAConfig
from mix.peft.paths import Draws, LoRALinear, PathConfig
from mix.peft.targets import leaves_of, saved_whole, targets_of
from ppdiffusers.models.layers import Linear
from ppdiffusers.training.draws import Draws as Generators


class LoRAModel(nn.Layer):
    """A `CausalLM` with adapters by name. What it does not have itself it takes from the model inside."""

    base_model: CausalLM

    def __init__(self, model: CausalLM, config: LoRAConfig, adapter_name: str = "default") -> None:
        super().__init__()
        if isinstance(model, LoRAModel):
            raise ValueError("this model has adapters already; give it another with add_adapter(name, config)")
        self.base_model = model
        self.configs: dict[str, LoRAConfig] = {}
        self.draws: dict[str, Draws] = {}
        self._whole: dict[str, dict[str, nn.Layer]] = {}  # adapter -> name of a layer -> its trained copy
        self._own: dict[str, nn.Layer] = {}  # the model's own layers in those places
        for parameter in model.parameters():
            parameter.stop_gradient = True
        self.add_adapter(adapter_name, config)
        self.set_adapter(adapter_name)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the model inside gives."""
        return self.base_model(*inputs, **named)

    # --- adapters ---

    @property
    def paths(self) -> dict[str, LoRALinear]:
        """All leaves with paths, by the names of their leaves."""
        return {name: leaf for name, leaf in leaves_of(self.base_model).items() if isinstance(leaf, LoRALinear)}

    @property
    def active_adapters(self) -> list[str]:
        return list(self._strengths)

    _strengths: Mapping[str, float] = {}  # replaced, never changed

    def add_adapter(self, name: str, config: LoRAConfig) -> None:
        """Hang in another adapter, not active yet. ValueError where its targets are not in the model."""
        if name in self.configs:
            raise ValueError(f"there is an adapter {name!r} already; delete_adapter it first")
        if not name or "." in name:
            raise ValueError(f"an adapter's name is some letters without a dot, not {name!r}")
        leaves, targets = leaves_of(self.base_model), targets_of(self.base_model, config)
        numbers = {place: i for i, place in enumerate(leaves)}
        draws, generators = Draws(config.seed), Generators(config.seed)
        for place in targets:
            leaf = leaves[place]
            if not isinstance(leaf, LoRALinear):
                leaf = LoRALinear(leaf, numbers[place])
                leaf.training = self.base_model.training
                put(self.base_model, place, leaf)
            path = PathConfig(
                config.rank(place), config.scaling(place), config.lora_dropout, config.use_dora, config.lora_bias,
                config.init_lora_weights,
            )  # fmt: skip
            leaf.add(name, path, draws, generators.generator(f"lora {place}"))
        self._whole[name] = {place: self._copy(place) for place in saved_whole(self.base_model, config)}
        self.configs[name], self.draws[name] = config, draws

    def _copy(self, place: str) -> nn.Layer:
        """A copy of a layer with weights of its own, to be trained whole."""
        own = self._own.setdefault(place, find(self.base_model, place))
        if isinstance(own, TiedHead):
            weight = own.dense_weight()
            made: nn.Layer = Linear(*weight.shape, bias=False)
            made.to(dtype=weight.dtype)
            cast(Any, made).weight.set_value(weight)
        else:
            made = copy.deepcopy(own)
        return made

    def set_adapter(self, names: str | Sequence[str]) -> None:
        """The adapters that count from now on, at full strength; only they are trained."""
        names = [names] if isinstance(names, str) else list(names)
        self.set_adapters(names, [1.0] * len(names))

    def set_adapters(self, names: Sequence[str], weights: Sequence[float] | None = None) -> None:
        """The adapters that count from now on, each times its weight."""
        weights = [1.0] * len(names) if weights is None else list(weights)
        if len(weights) != len(names):
            raise ValueError(f"{len(weights)} weights for {len(names)} adapters; give one each")
        if unknown := [name for name in names if name not in self.configs]:
            raise ValueError(f"there is no adapter {unknown[0]!r}; there are {', '.join(self.configs) or 'none'}")
        if self.merged:
            raise ValueError("adapters are merged; unmerge() before others are chosen")
        self._strengths = dict(zip(names, weights, strict=True))
        for leaf in self.paths.values():
            leaf.active = {name: w for name, w in self._strengths.items() if name in leaf.paths}
        self._place_whole()
        self._mark_trained()

    def _place_whole(self) -> None:
        """Put layers that an active adapter has trained whole into the model, and the model's own elsewhere."""
        for place, own in self._own.items():
            held = [self._whole[name][place] for name in self._strengths if place in self._whole[name]]
            if len(held) > 1:
                raise ValueError(f"two active adapters have each a layer {place} of their own; choose one of them")
            put(self.base_model, place, held[0] if held else own)

    def _mark_trained(self) -> None:
        for parameter in self.parameters():
            parameter.stop_gradient = True
        for parameter in self.trainable_parameters().values():
            parameter.stop_gradient = False

    def delete_adapter(self, name: str) -> None:
        """Forget an adapter; a leaf without any is the model's own again."""
        if name not in self.configs:
            raise ValueError(f"there is no adapter {name!r}; there are {', '.join(self.configs) or 'none'}")
        self.set_adapters(
            [n for n in self._strengths if n != name], [w for n, w in self._strengths.items() if n != name]
        )
        for place, leaf in self.paths.items():
            leaf.remove(name)
            if not leaf.paths:
                put(self.base_model, place, leaf.base_layer)
        del self.configs[name], self.draws[name], self._whole[name]

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The model as it was, for a while. Biases that were trained in place (`bias`) stay."""
        before, merged = self._strengths, self.merged
        self.unmerge()
        self.set_adapters([])
        try:
            yield
        finally:
            self.set_adapters(list(before), list(before.values()))
            if merged:
                self.merge()

    # --- training ---

    def trainable_parameters(self) -> dict[str, Tensor]:
        """What the active adapters train, by the names in PEFT's files; of several adapters, theirs come first."""
        single = len(self._strengths) == 1
        found: dict[str, Tensor] = {}
        for name in self._strengths:
            found |= {(key if single else f"{name}.{key}"): value for key, value in self.parameters_of(name).items()}
        return found

    def parameters_of(self, name: str) -> dict[str, Tensor]:
        """All that belongs to one adapter, by the names that PEFT's files have."""
        config, found = self.configs[name], dict[str, Tensor]()
        for place, leaf in self.paths.items():
            if name in leaf.paths:
                found |= {f"{files.PREFIX}{place}.{key}": value for key, value in leaf.parameters_of(name).items()}
        for place, layer in self._whole[name].items():
            found |= {f"{files.PREFIX}{place}.{key}": value for key, value in layer.named_parameters()}
        if config.bias != "none":
            found |= self._biases(name, config.bias == "all")
        return found

    def _biases(self, name: str, everywhere: bool) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for place, layer in self.base_model.named_sublayers():
            bias = layer._parameters.get("bias")
            if bias is None or ".lora_B" in place:
                continue
            above = place.removesuffix(".base_layer")
            leaf = self.paths.get(above) if above != place else None
            if everywhere or (leaf is not None and name in leaf.paths):
                found[f"{files.PREFIX}{place}.bias"] = bias
        return found

    def rate_factors(self) -> dict[str, float]:
        """Factors of the learning rate by parameters' names: LoRA+ lets B (and vectors) learn faster than A."""
        ratio = next((self.configs[name].loraplus_lr_ratio for name in self._strengths), 1.0)
        every = self.trainable_parameters()
        return {k: ratio for k, p in every.items() if ratio != 1.0 and ("lora_B." in k or p.ndim == 1)}

    def start_batch(self, number: int) -> None:
        """The number of the batch that comes next: what dropout drops depends on it and on the seed alone."""
        for draws in self.draws.values():
            draws.number = number

    # --- merging ---

    @property
    def merged(self) -> bool:
        return any(leaf.merged for leaf in self.paths.values())

    def merge(self) -> list[str]:
        """Put the active adapters into the weights: a step then costs what it costs without them.

        Gives the leaves where that can't be done (quantised weights, a head that is the table of token vectors): there
        the paths stay beside, and count as before.
        """
        return [place for place, leaf in self.paths.items() if not leaf.merge()]

    def unmerge(self) -> None:
        """Take them out again: every weight has the bits it had."""
        for leaf in self.paths.values():
            leaf.unmerge()

    def unload(self) -> CausalLM:
        """The model as it was before any adapter."""
        self.unmerge()
        return self._leave(self._own)

    def merge_and_unload(self) -> CausalLM:
        """The model with the active adapters in its weights for good. ValueError where a leaf can't take them."""
        if beside := self.merge():
            self.unmerge()
            raise ValueError(
                f"{len(beside)} layers can't take the adapter into their weights, first {beside[0]}: they are "
                "quantised or tied to the token vectors. Load the model as floats, or keep the adapter beside it"
            )
        for leaf in self.paths.values():
            leaf._before = None
        return self._leave({})

    def _leave(self, own: Mapping[str, nn.Layer]) -> CausalLM:
        for place, leaf in self.paths.items():
            put(self.base_model, place, leaf.base_layer)
        for place, layer in own.items():
            put(self.base_model, place, layer)
        for parameter in self.base_model.parameters():
            parameter.stop_gradient = False
        return self.base_model

    # --- files ---

    def save_pretrained(self, folder: str | Path, adapter_name: str | None = None, dtype: str | None = None) -> None:
        """Write adapter_config.json and adapter_model.safetensors as PEFT reads them: the only adapter or the named."""
        name = adapter_name or next(iter(self.configs)) if len(self.configs) == 1 else adapter_name
        if name not in self.configs:
            raise ValueError(f"say which adapter is to be saved; there are {', '.join(self.configs)}")
        targets = [place for place, leaf in self.paths.items() if name in leaf.paths]
        layouts = files.layouts_of(self.base_model)
        files.write(
            Path(folder), self.configs[name].to_dict(targets), self.parameters_of(name), layouts, dtype, self.base_model
        )

    @classmethod
    def from_pretrained(cls, model: CausalLM, folder: str | Path, adapter_name: str = "default") -> "LoRAModel":
        """The model with the adapter in a PEFT folder. ValueError where it is another model's."""
        made = cls(model, LoRAConfig.from_dict(files.read_config(folder)), adapter_name)
        made._fill(folder, adapter_name)
        return made

    def load_adapter(self, folder: str | Path, adapter_name: str) -> None:
        """Read another adapter from a PEFT folder; `set_adapter` makes it count."""
        self.add_adapter(adapter_name, LoRAConfig.from_dict(files.read_config(folder)))
        self._fill(folder, adapter_name)

    def _fill(self, folder: str | Path, name: str) -> None:
        try:
            files.fill(Path(folder), self.parameters_of(name), files.layouts_of(self.base_model))
        except ValueError:
            self.delete_adapter(name)
            if not self.configs:
                self._leave(self._own)
            raise


def put(model: nn.Layer, place: str, layer: nn.Layer) -> None:
    """Let `layer` play the part at a dotted name."""
    above, _, own = place.rpartition(".")
    find(model, above)._sub_layers[own] = layer


def find(model: nn.Layer, place: str) -> nn.Layer:
    """The layer at a dotted name; by the tables of sub-layers, for a layer may have a method of a part's name."""
    return functools.reduce(
        lambda at, step: cast(nn.Layer, at._sub_layers[step]), filter(None, place.split(".")), model
    )


@contextmanager
def set_aside(model: nn.Layer) -> Iterator[None]:
    """The model without wrappers, to be saved as it is now (merged, where it is merged)."""
    leaves = {n: leaf for n, leaf in leaves_of(model).items() if isinstance(leaf, LoRALinear)}
    for place, leaf in leaves.items():
        put(model, place, leaf.base_layer)
    try:
        yield
    finally:
        for place, leaf in leaves.items():
            put(model, place, leaf)
