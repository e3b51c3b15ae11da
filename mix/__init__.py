"""Language and vision-language models on PaddlePaddle, under transformers' names.

Names are imported when they are first used, so that `import mix` costs nothing.
"""

from importlib import import_module
from typing import Any

PUBLIC = {
    "AutoModelForCausalLM": "mix.llm",
    "AutoTokenizer": "mix.llm",
    "GenerationConfig": "mix.llm",
}
__all__ = sorted(PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"mix has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
