"""Answers in OpenAI's words: whole ones, and the chunks of a stream."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from app.rest.openai_tools import Call, ToolReader

if TYPE_CHECKING:
    from mix.llm.engine import EngineEvent, Usage
    from mix.llm.generate import Token
    from mix.llm.tokenizer import Tokenizer

Json = dict[str, Any]
Kind = Literal["chat", "text"]


@dataclass
class Told:
    """One choice as far as it has come."""

    index: int
    reader: ToolReader | None = None
    text: str = ""
    tokens: "list[Token]" = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    reason: str | None = None
    usage: "Usage | None" = None


@dataclass(frozen=True)
class Piece:
    """What one event adds to a choice."""

    text: str = ""
    tokens: "Sequence[Token]" = ()
    calls: Sequence[Call] = ()
    reason: str | None = None

    @property
    def empty(self) -> bool:
        return not (self.text or self.tokens or self.calls or self.reason)


class Answer:
    """What is said about all choices of one request."""

    def __init__(self, kind: Kind, model: str, tokenizer: "Tokenizer", ends: Sequence[int], reported: bool) -> None:
        self.kind, self.model, self.tokenizer, self.ends, self.reported = kind, model, tokenizer, set(ends), reported
        self.created = int(time.time())
        self.id = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{secrets.token_hex(12)}"

    # --- taking events ---

    def take(self, told: Told, event: "EngineEvent") -> Piece:
        """Add an event to its choice."""
        from mix.llm.generate import Token

        if isinstance(event, Token):
            text = told.reader.push(event.text) if told.reader else event.text
            piece = Piece(text, (event,) if self.reported and event.id not in self.ends else ())
        else:
            text, calls = event.text, []
            if told.reader:
                text = told.reader.push(text)
                rest, calls = told.reader.end()
                text += rest
            told.usage = event.usage
            piece = Piece(text, (), calls, "tool_calls" if calls and event.reason == "stop" else event.reason)
        told.text += piece.text
        told.tokens += piece.tokens
        told.calls += piece.calls
        told.reason = piece.reason or told.reason
        return piece

    # --- whole answers ---

    def whole(self, choices: Sequence[Told], n: int) -> Json:
        """The body of an answer that is not streamed."""
        form = self._chat_choice if self.kind == "chat" else self._text_choice
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return self._frame(name, [form(told) for told in choices]) | {"usage": usage(choices, n)}

    def _chat_choice(self, told: Told) -> Json:
        content = None if told.calls and not told.text.strip() else told.text
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if told.calls:
            message["tool_calls"] = told.calls
        logs = self._chat_logprobs(told.tokens) if self.reported else None
        return {"index": told.index, "message": message, "logprobs": logs, "finish_reason": told.reason}

    def _text_choice(self, told: Told, text: str | None = None) -> Json:
        logs = self._text_logprobs(told.tokens) if self.reported else None
        body = told.text if text is None else text
        return {"index": told.index, "text": body, "logprobs": logs, "finish_reason": told.reason}

    def _frame(self, name: str, choices: Sequence[Json]) -> Json:
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
            "system_fingerprint": None,
        }

    # --- chunks ---

    def first(self, told: Told) -> list[Json]:
        """What begins a choice: who speaks in a conversation, the prompt where it is to be repeated."""
        if self.kind == "chat":
            return [self._chunk(told.index, {"role": "assistant", "content": "", "refusal": None}, None, None)]
        return self.chunk(told, Piece(told.text)) if told.text else []

    def chunk(self, told: Told, piece: Piece) -> list[Json]:
        """The chunks of a piece: words, calls, and the end in one of its own."""
        if self.kind == "text":
            logs = self._text_logprobs(piece.tokens) if piece.tokens else None
            choice = {"index": told.index, "text": piece.text, "logprobs": logs, "finish_reason": piece.reason}
            return [self._frame("text_completion", [choice])]
        made: list[Json] = []
        if piece.text or piece.tokens:
            logs = self._chat_logprobs(piece.tokens) if piece.tokens else None
            made.append(self._chunk(told.index, {"content": piece.text}, logs, None))
        if piece.calls:
            calls = [{"index": i, **call} for i, call in enumerate(piece.calls)]
            made.append(self._chunk(told.index, {"tool_calls": calls}, None, None))
        if piece.reason:
            made.append(self._chunk(told.index, {}, None, piece.reason))
        return made

    def _chunk(self, index: int, delta: Json, logs: Any, reason: str | None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logs, "finish_reason": reason}
        return self._frame("chat.completion.chunk", [choice])

    def counted(self, choices: Sequence[Told], n: int) -> Json:
        """The last chunk of a stream that counts tokens."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return self._frame(name, []) | {"usage": usage(choices, n)}

    # --- log-probabilities ---

    def _spelled(self, token: int, logprob: float | None) -> Json:
        text = self.tokenizer.decode([token])
        return {"token": text, "logprob": finite(logprob), "bytes": list(text.encode("utf-8"))}

    def _chat_logprobs(self, tokens: "Sequence[Token]") -> Json:
        entries = [
            self._spelled(t.id, t.logprob) | {"top_logprobs": [self._spelled(i, p) for i, p in t.top]} for t in tokens
        ]
        return {"content": entries, "refusal": None}

    def _text_logprobs(self, tokens: "Sequence[Token]") -> Json:
        texts = [self.tokenizer.decode([t.id]) for t in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [finite(t.logprob) for t in tokens],
            "top_logprobs": [{self.tokenizer.decode([i]): finite(p) for i, p in t.top} for t in tokens],
            "text_offset": [sum(map(len, texts[:i])) for i in range(len(texts))],
        }


def finite(logprob: float | None) -> float:
    """JSON has no infinity: what never happens is -9999, as OpenAI writes it."""
    return -9999.0 if logprob is None or logprob < -9999 else logprob


def usage(choices: Sequence[Told], n: int) -> Mapping[str, Any]:
    """Tokens of all prompts, each counted once for its `n` answers, and of all answers."""
    known = [told.usage for told in choices if told.usage is not None]
    prompt, added = sum(u.prompt for u in known[::n]), sum(u.completion for u in known)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": added,
        "total_tokens": prompt + added,
        "prompt_tokens_details": {"cached_tokens": sum(u.cached for u in known[::n])},
    }
