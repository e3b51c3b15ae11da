"""Tokens to text while they come: no half characters, and nothing of a stop string."""

from collections.abc import Sequence
from typing import Protocol

BROKEN = "\ufffd"  # what a decoder writes for bytes that are not a character (yet)


class Decoder(Protocol):
    """What turns ids into text: every tokenizer of this package."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str: ...


class TextStream:
    """Text of a growing list of tokens, given out as soon as it cannot change any more."""

    def __init__(self, tokenizer: Decoder, skip_special_tokens: bool = True) -> None:
        self.tokenizer, self.skip = tokenizer, skip_special_tokens
        self.ids: list[int] = []
        self._from = 0  # decoding begins here: some tokenizers write the first token of a text differently
        self._said = 0  # tokens whose text has been given out

    def push(self, token: int) -> str:
        """The text that this token completes; empty when it ends within a character."""
        self.ids.append(token)
        before, now = self._decode(self._said), self._decode(len(self.ids))
        if now.endswith(BROKEN) or len(now) <= len(before):
            return ""
        self._from, self._said = self._said, len(self.ids)
        return now[len(before) :]

    def end(self) -> str:
        """What is left: bytes that never became a character, as replacement characters."""
        before, now = self._decode(self._said), self._decode(len(self.ids))
        self._from = self._said = len(self.ids)
        return now[len(before) :]

    def _decode(self, end: int) -> str:
        return self.tokenizer.decode(self.ids[self._from : end], skip_special_tokens=self.skip)


class StopText:
    """A `TextStream` that ends before the first of some strings; text that may begin one is held back."""

    def __init__(self, tokenizer: Decoder, stops: Sequence[str]) -> None:
        self.stream, self.stops = TextStream(tokenizer), tuple(stops)
        self.held = ""
        self.found = False

    def push(self, token: int) -> str:
        """What can be shown after this token; `found` says whether a stop string is complete."""
        return self._cut(self.stream.push(token))

    def end(self) -> str:
        """The rest of the text; nothing after a stop string."""
        if self.found:
            return ""
        shown = self._cut(self.stream.end())
        return shown if self.found else shown + self.held

    def _cut(self, text: str) -> str:
        self.held += text
        places = [at for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if places:
            self.found = True
            return self.held[: min(places)]
        keep = max((n for stop in self.stops for n in range(len(stop)) if self.held.endswith(stop[:n])), default=0)
        cut = len(self.held) - keep
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown
