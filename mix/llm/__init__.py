"""Language models: load, generate, save; names and meanings are transformers'.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import Any

PUBLIC = {
    "AutoModelForCausalLM": "mix.llm.loading",
    "AutoTokenizer": "mix.llm.tokenizer",
    "Busy": "mix.llm.engine",
    "CausalLM": "mix.llm.model",
    "CausalOutput": "mix.llm.model",
    "DecoderConfig": "mix.llm.config",
    "Ended": "mix.llm.engine",
    "Engine": "mix.llm.engine",
    "GrammarMask": "mix.llm.constrain",
    "GenerationConfig": "mix.llm.sampling",
    "Finished": "mix.llm.generate",
    "KVCache": "mix.llm.cache",
    "LoRAConfig": "mix.peft.config",
    "LoRAModel": "mix.peft.lora",
    "PrefixCache": "mix.llm.prefix",
    "PrefixConfig": "mix.peft.config",
    "PrefixModelForCausalLM": "mix.peft.prefix",
    "Request": "mix.llm.engine",
    "Token": "mix.llm.generate",
    "Tokenizer": "mix.llm.tokenizer",
}
__all__ = sorted(PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"mix.llm has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
