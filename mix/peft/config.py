"""What is trained beside a model: frozen configs whose fields are PEFT's, so that adapter_config.json reads as one."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Json = Mapping[str, Any]
Modules = str | Sequence[str]

# Fields of PEFT's files that say nothing about the numbers.
BOOKKEEPING = {
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "task_type",
    "peft_type",
    "fan_in_fan_out",  # how torch's layer stores its weight; ours knows
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
    "base_model_name_or_path",
}


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank paths beside linear layers (Hu et al. 2021): y = W x + scaling * B A x.

    target_modules: a regular expression for whole names of layers, or a list of names, ends of names or regular
    expressions; "all-linear" is every linear layer but the head; None is the family's queries and values.
    layers_to_transform: numbers of the layers that take part (lists of targets only). rank_pattern, alpha_pattern:
    other values for layers whose names end so. scaling is lora_alpha / r, or lora_alpha / sqrt(r) with `use_rslora`
    (Kalajdzievski 2023). `use_dora` trains lengths and directions of the weights' columns apart (Liu et al. 2024).
    bias: which biases of the model are trained too. modules_to_save: layers trained whole and kept in the file, by the
    ends of their names. loraplus_lr_ratio: how much faster B learns than A (LoRA+, Hayou et al. 2024). `seed` makes
    the paths' first values and the dropout.
    """

    r: int = 8
    lora_alpha: float = 8
    target_modules: Modules | None = None
    exclude_modules: Modules | None = None
    lora_dropout: float = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    init_lora_weights: bool | Literal["gaussian"] = True
    modules_to_save: Sequence[str] | None = None
    layers_to_transform: int | Sequence[int] | None = None
    layers_pattern: Modules | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    loraplus_lr_ratio: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        ranks = (self.r, *self.rank_pattern.values())
        if any(r < 1 for r in ranks):
            raise ValueError(f"the rank r must be a whole number from 1 up, got {', '.join(map(str, ranks))}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be at least 0 and below 1, got {self.lora_dropout}")
        if self.bias not in ("none", "all", "lora_only"):
            raise ValueError(f"bias is 'none', 'all' or 'lora_only', not {self.bias!r}")
        if self.init_lora_weights not in (True, False, "gaussian"):
            raise ValueError(f"init_lora_weights is True, False or 'gaussian', not {self.init_lora_weights!r}")
        if self.loraplus_lr_ratio <= 0:
            raise ValueError(f"loraplus_lr_ratio must be above 0 (16 is usual, 1 is off), got {self.loraplus_lr_ratio}")
        for pattern in [*listed(self.target_modules), *listed(self.exclude_modules)]:
            try:
                re.compile(pattern)
            except re.error as why:
                raise ValueError(f"{pattern!r} is no regular expression: {why}") from None

    def rank(self, name: str) -> int:
        """The rank of the layer of that name."""
        return next((r for key, r in self.rank_pattern.items() if _ends(key, name)), self.r)

    def scaling(self, name: str) -> float:
        """What the path beside the layer of that name is multiplied by."""
        alpha = next((a for key, a in self.alpha_pattern.items() if _ends(key, name)), self.lora_alpha)
        rank = self.rank(name)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def to_dict(self, modules: Sequence[str] = ()) -> dict[str, Any]:
        """PEFT's adapter_config.json. `modules` are the names of the layers that were hit: they are written out where
        PEFT does not read `target_modules` as we do.
        """
        written = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in _OURS}
        if self.target_modules is None or not _as_peft(self.target_modules) or self.layers_to_transform is not None:
            written |= {"target_modules": sorted(modules), "layers_to_transform": None, "layers_pattern": None}
        return written | {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True} | _NEUTRAL

    @classmethod
    def from_dict(cls, config: Json) -> "LoRAConfig":
        """The config in an adapter_config.json; ValueError names what it asks for beyond what is supported."""
        _check_kind(config, "LORA")
        known = {f.name for f in fields(cls)}
        strange = {k: v for k, v in config.items() if k not in known | BOOKKEEPING and v not in (None, False, {}, [])}
        if strange:
            told = ", ".join(f"{key}={value!r}" for key, value in sorted(strange.items()))
            raise ValueError(f"this LoRA needs {told}, which is not supported; merge it into its model where it is")
        given: dict[str, Any] = {k: v for k, v in config.items() if k in known and v is not None}
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return cls(**read)


# Written for PEFT's sake; `from_dict` reads all of them as "not asked for".
_NEUTRAL: dict[str, Any] = {"base_model_name_or_path": None, "fan_in_fan_out": False, "revision": None}
_OURS = ("loraplus_lr_ratio", "seed")


@dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """Learned keys and values before every text, in every layer (Li and Liang 2021).

    prefix_projection: they come out of an MLP over `encoder_hidden_size` (the key width when None) numbers, which
    trains more smoothly; the file holds what comes out of it. init_weights: None is normal noise, "zero" nothing.
    init_tokens: token ids whose own keys and values the prefix begins as, repeated or cut to its length: usually the
    best beginning; not with a projection. token_dim, num_attention_heads and num_layers are the model's when None.
    """

    num_virtual_tokens: int = 16
    prefix_projection: bool = False
    encoder_hidden_size: int | None = None
    init_weights: Literal["zero"] | None = None
    init_tokens: Sequence[int] | None = None
    token_dim: int | None = None
    num_attention_heads: int | None = None
    num_layers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_virtual_tokens < 1:
            raise ValueError(f"a prefix needs at least one virtual token, got {self.num_virtual_tokens}")
        if self.init_weights not in (None, "zero"):
            raise ValueError(f"init_weights is None or 'zero', not {self.init_weights!r}")
        if self.init_tokens is not None and (self.prefix_projection or not len(self.init_tokens)):
            raise ValueError("init_tokens must name at least one token, and goes with prefix_projection=False only")

    def to_dict(self) -> dict[str, Any]:
        """PEFT's adapter_config.json of a finished prefix."""
        ours = ("init_tokens", "seed")
        written = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in ours}
        written["encoder_hidden_size"] = self.encoder_hidden_size or self.token_dim
        said = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "inference_mode": True}
        return written | said | {"num_transformer_submodules": 1, "base_model_name_or_path": None, "revision": None}

    @classmethod
    def from_dict(cls, config: Json) -> "PrefixConfig":
        """The config in an adapter_config.json; a projection has done its work by then."""
        _check_kind(config, "PREFIX_TUNING")
        if config.get("modules_to_save") or config.get("num_transformer_submodules") not in (None, 1):
            raise ValueError("this prefix is not one of a decoder alone (modules_to_save, num_transformer_submodules)")
        names = ("num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers")
        return cls(**{name: config[name] for name in names if config.get(name) is not None})


def _check_kind(config: Json, kind: str) -> None:
    if (said := config.get("peft_type")) != kind:
        raise ValueError(f"this adapter is of the kind {said!r}, not {kind}; LORA and PREFIX_TUNING can be read")


def listed(modules: Modules | None) -> list[str]:
    """The patterns, one or several."""
    return [] if modules is None else [modules] if isinstance(modules, str) else list(modules)


def _ends(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _as_peft(modules: Modules) -> bool:
    """Whether PEFT reads these targets as we do: a list is of plain names there."""
    return isinstance(modules, str) or all(re.fullmatch(r"[\w.]+", m) for m in modules)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
