"""Small trained parts beside a frozen language model: LoRA and learned prefixes, in files as PEFT has them.

One call each: `LoRAModel(model, LoRAConfig(...))`, `PrefixModelForCausalLM(model, PrefixConfig(...))`.
Names are imported when they are first used.
"""

from importlib import import_module
from typing import Any

PUBLIC = {
    "LoRAConfig": "mix.peft.config",
    "LoRAModel": "mix.peft.lora",
    "PrefixConfig": "mix.peft.config",
    "PrefixModelForCausalLM": "mix.peft.prefix",
    "load_adapter": "mix.peft.files",
}
__all__ = sorted(PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"mix.peft has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
