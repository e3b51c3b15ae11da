"""A conversation with a language model, as the command line and the chat tab hold it: what is said, how to answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.llm_host import Loaded
from ppdiffusers.weights.write import write_text

if TYPE_CHECKING:
    from mix.llm.engine import Stream

Message = dict[str, str]
SHARE = 4  # an answer without a limit gets at least this part of the model's context
RANGES = {
    "temperature": (0.0, 5.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 100_000),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.1, 5.0),
    "max_tokens": (1, 1_000_000),
}


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How to answer. `temperature` 0 always takes the likeliest word; `seed` None: another answer each time."""

    temperature: float = 0.3
    top_p: float = 0.9
    top_k: int = 50
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between {low} and {high}")

    @classmethod
    def of_model(cls, loaded: Loaded) -> "Manner":
        """What the model's makers recommend, where they do."""
        own = loaded.model.generation_config
        if own is None or not own.do_sample:
            return cls()
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return cls(**{name: getattr(own, name) for name in names})

    def with_values(self, values: Mapping[str, Any]) -> "Manner":
        """With some changed; names that are not ours and empty values are left out. ValueError says what is wrong."""
        known = {f.name for f in fields(self)}
        return replace(self, **{name: value for name, value in values.items() if name in known and value is not None})


@dataclass
class Conversation:
    """What was said so far."""

    system: str = ""
    messages: list[Message] = field(default_factory=list)
    left_out: int = 0  # messages that the last prompt had no room for

    def say(self, text: str) -> None:
        """The user's next words."""
        self.messages.append({"role": "user", "content": text})

    def answered(self, text: str) -> None:
        """The model's words, whole or as far as they came."""
        if text:
            self.messages.append({"role": "assistant", "content": text})

    def prompt(self, loaded: Loaded, most: int) -> list[int]:
        """Token ids up to where the answer begins, with room for it; the oldest messages go first when it gets long.

        ValueError when the last message alone is too long.
        """
        first = [{"role": "system", "content": self.system}] if self.system.strip() else []
        for start in range(len(self.messages)):
            if start and self.messages[start]["role"] != "user":  # templates want the user to begin
                continue
            ids = loaded.prompt([*first, *self.messages[start:]])
            room = loaded.engine.most_tokens(len(ids))
            if room >= min(most, (room + len(ids)) // SHARE):
                self.left_out = start
                return ids
        raise ValueError(f"the message is too long for {loaded.name}; shorten it, or the system prompt")

    def answer(self, loaded: Loaded, manner: Manner, schema: Any = None) -> "Stream":
        """Begin an answer to what was said last; `schema`: a JSON schema that it must fit ({}: any object)."""
        from mix.llm.constrain import json_schema
        from mix.llm.engine import Request
        from mix.llm.sampling import GenerationConfig

        ids = self.prompt(loaded, manner.max_tokens)
        config = GenerationConfig(
            max_new_tokens=min(manner.max_tokens, loaded.engine.most_tokens(len(ids))),
            do_sample=manner.temperature > 0,
            temperature=max(manner.temperature, 1e-3),
            top_p=manner.top_p,
            top_k=manner.top_k,
            min_p=manner.min_p,
            repetition_penalty=manner.repetition_penalty,
            eos_token_id=loaded.ends(),
            stop_strings=manner.stop,
            seed=manner.seed,
        )
        mask = None if schema is None else json_schema(loaded.tokenizer, schema or None)
        return loaded.engine.submit(Request(ids=ids, config=config, mask=mask))

    def save(self, path: Path, manner: Manner) -> None:
        """Write all of it as JSON."""
        told = {"system": self.system, "messages": self.messages, "manner": asdict(manner)}
        write_text(path, json.dumps(told, ensure_ascii=False, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Conversation":
        """What `save` wrote. ValueError for another file."""
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(told["system"]), checked(told["messages"]))
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise ValueError(f"{path} is not a saved conversation: {why}") from None


def checked(messages: Sequence[Any]) -> list[Message]:
    """Messages from a file or a browser; ValueError for anything else."""
    found = [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
    if any(m["role"] not in ("user", "assistant") for m in found):
        raise ValueError("a message is neither the user's nor the assistant's")
    return found


def manner_with(manner: Manner, name: str, value: str) -> Manner:
    """The manner with one value changed, given as text. ValueError says what there is."""
    kinds = {f.name: f.type for f in fields(Manner)}
    if name not in RANGES and name != "seed":
        raise ValueError(f"there is no {name!r} to set; there are {', '.join((*RANGES, 'seed'))}")
    try:
        number: Any = None if value == "none" else float(value) if kinds[name] in (float, "float") else int(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None
    return replace(manner, **{name: number})
