"""Records as token ids, with a mark at every token that is to be learned."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mix.llm.tokenizer import Tokenizer
from mix.train.config import DataConfig
from mix.train.data import Record, messages_of


@dataclass(frozen=True, eq=False)
class Example:
    """One sample: ids (N,) int32, and which of them are learned (N,) bool. The first token is never learned."""

    ids: np.ndarray
    learned: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def encode(records: Iterable[Record], tokenizer: Tokenizer, config: DataConfig) -> Iterator[list[Example]]:
    """The samples of each record: none where nothing of it is learned, several where a plain text is long."""
    for number, record in enumerate(records, 1):
        try:
            messages = messages_of(record)
            if messages is None:
                made = _plain(str(record["text"]), tokenizer, config.length)
            else:
                made = [_conversation(messages, tokenizer, config)]
        except ValueError as why:
            raise ValueError(f"record {number}: {why}") from None
        yield [example for example in made if example.learned[1:].any()]


def _plain(text: str, tokenizer: Tokenizer, length: int) -> list[Example]:
    """A text and its end, in pieces of at most `length` tokens."""
    ids = tokenizer.encode(text)
    end = tokenizer.eos_token_id
    if end is not None and ids[-1:] != [end]:
        ids = [*ids, end]
    whole = np.asarray(ids, np.int32)
    return [_all(whole[i : i + length]) for i in range(0, len(whole), length)]


def _all(ids: np.ndarray) -> Example:
    return Example(ids, np.ones(len(ids), bool))


def _conversation(messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, config: DataConfig) -> Example:
    text = _rendered(messages, tokenizer, config, False)
    found = tokenizer.backend.encode(text, add_special_tokens=False)
    ids = np.asarray(found.ids[: config.length], np.int32)
    if not config.answers_only:
        return _all(ids)
    learned = np.zeros(len(ids), bool)
    spans = np.asarray(found.offsets[: config.length], np.int64).reshape([-1, 2])
    for begin, end in _answers(messages, text, tokenizer, config):
        learned |= (spans[:, 0] >= begin) & (spans[:, 1] <= end) & (spans[:, 1] > spans[:, 0])
    return Example(ids, learned)


def _rendered(messages: Sequence[Any], tokenizer: Tokenizer, config: DataConfig, ask: bool) -> str:
    return tokenizer.apply_chat_template(
        messages, chat_template=config.template, add_generation_prompt=ask, tokenize=False
    )


def _answers(
    messages: Sequence[Mapping[str, Any]], text: str, tokenizer: Tokenizer, config: DataConfig
) -> list[tuple[int, int]]:
    """Where in the text the assistant speaks, from after what asks it to, to its end token.

    Some templates write earlier turns another way once there is a later one; of those only the last answer is learned.
    """
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise ValueError("the conversation has no message of the assistant, so there is nothing to learn")
    spans = []
    for i in turns:
        before = _rendered(messages[:i], tokenizer, config, True)
        upto = text if i + 1 == len(messages) else _rendered(messages[: i + 1], tokenizer, config, False)
        if text.startswith(upto) and upto.startswith(before):
            spans.append((len(before), len(upto.rstrip())))
    if not spans:
        raise ValueError("the chat template does not say where an answer begins; set answers_only to false")
    return spans
