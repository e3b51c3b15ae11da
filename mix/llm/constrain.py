"""Texts that must follow a JSON schema, a regular expression, or be one of some choices.

The grammar work is llguidance's (MIT), an optional package: `pip install llguidance`. One mask follows one text.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mix.llm.tokenizer import Tokenizer

LONGEST_GRAMMAR = 1_000_000
_vocabularies: "WeakKeyDictionary[Tokenizer, Any]" = WeakKeyDictionary()  # making one takes a second


def _library() -> Any:
    try:
        return import_module("llguidance")
    except ImportError as error:
        raise ValueError(
            f"constrained decoding needs the package llguidance ({error}); pip install llguidance"
        ) from None


def _vocabulary(tokenizer: Tokenizer) -> Any:
    if tokenizer not in _vocabularies:
        make = _library().LLTokenizer
        _vocabularies[tokenizer] = make(tokenizer.backend.to_str(), eos_token=tokenizer.eos_token_id)
    return _vocabularies[tokenizer]


class GrammarMask:
    """A `LogitsMask` that keeps a text within a grammar."""

    def __init__(self, tokenizer: Tokenizer, grammar: str) -> None:
        if len(grammar) > LONGEST_GRAMMAR:
            raise ValueError(f"the grammar has {len(grammar):,} characters, at most {LONGEST_GRAMMAR:,} are accepted")
        self._matcher = _library().LLMatcher(_vocabulary(tokenizer), grammar, log_level=0)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            why = self._matcher.get_error().strip().splitlines()[0]
            raise ValueError(f"the constraint cannot be followed: {why}")

    def apply(self, scores: np.ndarray) -> np.ndarray:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(bits, bitorder="little").astype(bool)[: scores.size]
        kept = np.full_like(scores, -np.inf)
        kept[: allowed.size][allowed] = scores[: allowed.size][allowed]
        return kept

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    @property
    def finished(self) -> bool:
        return bool(self._matcher.is_stopped())


def json_schema(tokenizer: Tokenizer, schema: Mapping[str, Any] | str | None = None) -> GrammarMask:
    """JSON that fits the schema (any JSON object when None); ValueError for a schema that is invalid or unsupported."""
    wanted: Any = {"type": "object"} if schema is None else schema
    if isinstance(wanted, str):
        try:
            wanted = json.loads(wanted)
        except json.JSONDecodeError as error:
            raise ValueError(f"the JSON schema is not JSON: {error}") from None
    if not isinstance(wanted, Mapping):
        raise ValueError(f"a JSON schema is an object; got {type(wanted).__name__}")
    return GrammarMask(tokenizer, _made("grammar_from_json_schema", json.dumps(wanted)))


def regex(tokenizer: Tokenizer, pattern: str) -> GrammarMask:
    """Text that the whole pattern matches: Rust's syntax, no look-around, no back-references; \\d means 0 to 9."""
    inside = _library().regex_to_lark(pattern, "d")
    return GrammarMask(tokenizer, _made("grammar_from_lark", f"start: /{inside}/"))


def choice(tokenizer: Tokenizer, choices: Sequence[str]) -> GrammarMask:
    """Exactly one of the texts."""
    if not choices or not all(isinstance(c, str) and c for c in list[Any](choices)):
        raise ValueError("choices must be texts, at least one and none empty")
    return GrammarMask(tokenizer, _made("grammar_from_lark", "start: " + " | ".join(map(json.dumps, choices))))


def _made(how: str, text: str) -> str:
    try:
        return str(getattr(_library().LLMatcher, how)(text))
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"the constraint is not valid: {str(error).splitlines()[0]}") from None
