"""Everything that makes a training run what it is: one frozen value, as JSON or as flags."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mix.peft.config import LoRAConfig, PrefixConfig
from ppdiffusers.training.optimiser import AdamWConfig

Method = Literal["full", "lora", "prefix"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from.

    paths: .jsonl, .json, .parquet, .txt files, folders of them, or folders that the library `datasets` saved. Where
    evaluation has no paths of its own, `held_out` (a share below 1, or a number of samples) of the data is kept for it.
    answers_only: of conversations and prompts only the answers are learned. template: a chat template instead of the
    tokenizer's. length: the most tokens of a sample; longer ones are cut, plain texts into several. pack: texts one
    after the other in rows of `tokens` tokens, each seeing only itself; else `batch` samples side by side with padding.
    """

    paths: tuple[str, ...]
    evaluation: tuple[str, ...] = ()
    held_out: float = 0.0
    answers_only: bool = True
    template: str | None = None
    length: int = 1024
    pack: bool = True
    tokens: int = 2048
    batch: int = 4

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("say what is to be learned from: data.paths names files or folders")
        if self.length < 2 or self.batch < 1 or self.tokens < 2:
            raise ValueError("length and tokens must be at least 2, batch at least 1")
        if self.held_out < 0:
            raise ValueError(f"held_out is a share below 1 or a number of samples, not {self.held_out}")
        if self.pack and self.tokens < self.length:
            object.__setattr__(self, "length", self.tokens)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A run. model: a folder or a .gguf file. out: where the result goes; run: its diary and states ("" is OUT.run).

    method "full" moves every weight, "lora" and "prefix" train small files beside the model. dtype: what is computed
    in, "float32" or "bfloat16" (None: the faster one here), with the moved weights in float32 in either case; for
    "lora" and "prefix" also "stored" or a kind of `AutoModelForCausalLM` ("int8", ...): the model stays quantised.
    steps 0 means `epochs` passes. A step takes `accumulate` batches. recompute: keep only the layers' inputs, compute
    the rest again for the gradients: much less memory, a third more time. average: decay of averaged weights, 0 off.
    *_every: in steps, 0 for only at the end. prompts are answered at each evaluation, `answer` tokens each.
    """

    model: str
    data: DataConfig
    out: str
    run: str = ""
    method: Method = "lora"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    dtype: str | None = None
    steps: int = 0
    epochs: float = 1.0
    accumulate: int = 1
    rate: float = 2e-4
    schedule: str = "cosine"
    warmup: int = 0
    average: float = 0.0
    adamw: AdamWConfig = field(default_factory=lambda: AdamWConfig(beta2=0.99, weight_decay=0.0))
    recompute: bool = False
    seed: int = 0
    evaluate_every: int = 0
    save_every: int = 500
    keep: int = 2
    prompts: tuple[str, ...] = ()
    answer: int = 64

    def __post_init__(self) -> None:
        if self.method not in ("full", "lora", "prefix"):
            raise ValueError(f"method is 'full', 'lora' or 'prefix', not {self.method!r}")
        if self.steps < 0 or self.epochs <= 0:
            raise ValueError("steps can't be negative (0: by epochs), and epochs must be above 0")
        if self.method == "full" and self.dtype not in (None, "float32", "bfloat16"):
            raise ValueError(f"all weights can be trained in float32 or bfloat16, not {self.dtype!r}; or train a LoRA")

    @property
    def folder(self) -> Path:
        """Where the run keeps its diary and its states."""
        return Path(self.run or f"{self.out.rstrip('/')}.run")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "TrainConfig":
        """The config in a JSON object: parts that are left out keep their defaults; ValueError for unknown names."""
        return _made(cls, given, "")

    @classmethod
    def from_file(cls, path: str | Path, **changes: Any) -> "TrainConfig":
        """The config in a JSON file, with some values given by name instead; `data` may hold only what differs."""
        return cls.from_dict(merged(read_json_file(path), changes))


def read_json_file(path: str | Path) -> dict[str, Any]:
    """A JSON object in a file; ValueError says what is wrong with it."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as why:
        raise ValueError(f"{path} can't be read: {why.strerror or why}") from None
    except ValueError as why:
        raise ValueError(f"{path} is not JSON: {why}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object with the settings")
    return found


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` over it, parts inside parts too."""
    found = dict(base)
    for key, value in changes.items():
        inside = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if inside else value
    return found


def _made(kind: Any, given: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    if strange := sorted(given.keys() - names):
        raise ValueError(f"{where}{strange[0]} is no setting; there are {', '.join(sorted(names))}")
    values = {name: _value(hints[name], value, f"{where}{name}.") for name, value in given.items()}
    try:
        return kind(**values)
    except TypeError as why:
        raise ValueError(f"{where or 'settings'}: {why}".replace("__init__() ", "")) from None


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where[:-1]} must be an object, not {value!r}")
        return _made(hint, value, where)
    if isinstance(value, str) and typing.get_origin(hint) is tuple:
        return (value,)
    return _checked(hint, tuple(value) if isinstance(value, list) else value, where[:-1])


def _checked(hint: Any, value: Any, name: str) -> Any:
    """The value, if it is of a plain type that the field takes; numbers may be whole where fractions are meant."""
    kinds = [hint] if typing.get_origin(hint) not in (typing.Union, types.UnionType) else list(typing.get_args(hint))
    simple = {int: (int,), float: (int, float), bool: (bool,), str: (str,), type(None): (type(None),)}
    if not all(kind in simple for kind in kinds):
        return value
    allowed = tuple(t for kind in kinds for t in simple[kind])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ValueError(f"{name} can't be {value!r}; a {kinds[0].__name__} is meant")
    return value
