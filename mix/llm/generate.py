"""Continue texts: a generator of tokens, and transformers' `generate` on top of it.

Rows of a batch need not be equally long: padding is dropped at once, prompts are computed as one pack, and every
further step is one token a row that still goes on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import paddle
from paddle import Tensor

from mix.llm.beam import beam_search
from mix.llm.cache import KVCache, Step
from mix.llm.config import Alibi
from mix.llm.prefix import PrefixCache
from mix.llm.sampling import Choice, GenerationConfig, choose, penalise
from mix.llm.text import Decoder, StopText


@dataclass(frozen=True)
class Token:
    """One new token of row `row`; `text` is what can be shown now (empty while a character is incomplete)."""

    row: int
    id: int
    text: str = ""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Finished:
    """Row `row` is complete, by an end token or stop string ("stop") or by the limit ("length"); `text` is the rest."""

    row: int
    reason: str
    text: str = ""


Event = Token | Finished


class LogitsMask(Protocol):
    """Which tokens may come next; one object follows one text."""

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Scores (V,) with -inf where a token is not allowed."""
        ...

    def accept(self, token: int) -> None:
        """The text goes on with this token."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing may follow but its end."""
        ...


@dataclass(frozen=True)
class Prompts:
    """What is to be continued: token ids a row, and what goes with them."""

    ids: tuple[tuple[int, ...], ...]
    tokenizer: Decoder | None = None
    masks: tuple[LogitsMask | None, ...] = ()
    prefixes: PrefixCache | None = None


@dataclass
class Row:
    """One text on its way."""

    index: int
    prompt: tuple[int, ...]
    random: np.random.Generator
    mask: LogitsMask | None = None
    stop: StopText | None = None
    new: list[int] = field(default_factory=list)


def stream(model: Any, prompts: Prompts, config: GenerationConfig) -> Iterator[Event]:
    """Tokens of all rows as they come, and one `Finished` a row; closing the generator stops the work.

    Raises ValueError at the first step for prompts that are empty, too long, or not of this model's tokenizer.
    """
    most = check_lengths(model.config, prompts, config)
    rows = _rows(prompts, config)
    cache = model.new_cache(len(rows), max(len(row.prompt) for row in rows) + min(most, 64))
    with paddle.no_grad():
        scores = prefill(model, cache, rows, prompts.prefixes)
        while rows:
            going: list[Row] = []
            for row, raw in zip(rows, scores, strict=True):
                events = list(advance(row, raw, config, most))
                yield from events
                if not isinstance(events[-1], Finished):
                    going.append(row)
                elif prompts.prefixes is not None:
                    prompts.prefixes.store([*row.prompt, *row.new], cache, row.index)
            rows = going
            if rows:
                ids = np.asarray([[row.new[-1]] for row in rows])
                scores = next_scores(model, cache.step([1] * len(rows), [row.index for row in rows]), ids)


def check_lengths(config: Any, prompts: Prompts, wanted: GenerationConfig) -> int:
    """How many tokens may be added; ValueError when a prompt is empty or the context cannot hold them."""
    longest, shortest = max(map(len, prompts.ids), default=0), min(map(len, prompts.ids), default=0)
    if shortest < 1:
        raise ValueError("a prompt has no tokens; begin it with the tokenizer's bos token, or say something")
    most = wanted.max_new_tokens or wanted.max_length - longest
    if most < 1:
        raise ValueError(
            f"max_length {wanted.max_length} is used up by a prompt of {longest} tokens; give max_new_tokens"
        )
    room = config.max_position_embeddings
    if not isinstance(config.positions, Alibi) and longest + most > room:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens {most} exceed this model's context of {room}; "
            f"shorten the prompt or ask for at most {max(room - longest, 0)} new tokens"
        )
    return most


def _rows(prompts: Prompts, config: GenerationConfig) -> list[Row]:
    if config.stop_strings and prompts.tokenizer is None:
        raise ValueError("stop_strings need the tokenizer to be found: pass tokenizer=")
    masks = prompts.masks or (None,) * len(prompts.ids)
    if len(masks) != len(prompts.ids):
        raise ValueError(f"{len(masks)} logits masks for {len(prompts.ids)} prompts; give one each")
    seeds = np.random.SeedSequence(config.seed).spawn(len(prompts.ids))
    text = prompts.tokenizer
    return [
        Row(
            i, ids, np.random.default_rng(seed), mask, StopText(text, config.stop_strings) if text is not None else None
        )
        for i, (ids, seed, mask) in enumerate(zip(prompts.ids, seeds, masks, strict=True))
    ]


def prefill(model: Any, cache: KVCache, rows: Sequence[Row], prefixes: PrefixCache | None) -> np.ndarray:
    """Compute the prompts, or what is new of them; scores (rows, V) of the first new tokens."""
    known = [prefixes.load(row.prompt, cache, row.index) if prefixes else 0 for row in rows]
    counts = [len(row.prompt) - n for row, n in zip(rows, known, strict=True)]
    step = cache.step(counts, [row.index for row in rows])
    ids = np.concatenate([row.prompt[n:] for row, n in zip(rows, known, strict=True)])
    scores = next_scores(model, step, ids.reshape([-1, 1] if step.single else [1, -1]))
    if prefixes is not None:
        for row in rows:
            prefixes.store(row.prompt, cache, row.index)
    return scores


def next_scores(model: Any, step: Step, ids: np.ndarray) -> np.ndarray:
    """One forward call; scores (rows, V) float32 after the last token of each row."""
    last = None if step.single else paddle.to_tensor(np.cumsum(step.counts) - 1)
    logits = model(paddle.to_tensor(ids.astype(np.int64)), context=step, keep=last).logits
    step.commit()
    logits = logits if logits.dtype == paddle.float32 else logits.astype("float32")
    return logits.numpy().reshape([len(step.counts), -1])


def advance(row: Row, raw: np.ndarray, config: GenerationConfig, most: int) -> Iterator[Event]:
    """Choose the row's next token and say what that means."""
    scores = penalise(raw, config, row.prompt, row.new)
    if row.mask is not None:
        scores = row.mask.apply(scores)
    picked: Choice = choose(scores, config, row.random, raw)
    row.new.append(picked.id)
    ended = picked.id in config.eos_token_id
    text = row.stop.push(picked.id) if row.stop and not ended else ""
    if row.mask is not None and not ended:
        row.mask.accept(picked.id)
    yield Token(row.index, picked.id, text, picked.logprob, picked.top)
    stopped = row.stop is not None and row.stop.found
    complete = row.mask is not None and row.mask.finished
    if ended or stopped or complete or len(row.new) >= most:
        reason = "stop" if ended or stopped or complete else "length"
        yield Finished(row.index, reason, row.stop.end() if row.stop else "")


@dataclass(frozen=True, eq=False)
class GenerateOutput:
    """Prompts with their continuations (B, L), padded on the right; log-probabilities and reasons of the new tokens."""

    sequences: Tensor
    reasons: tuple[str, ...] = ()
    logprobs: tuple[tuple[float | None, ...], ...] = ()
    top_logprobs: tuple[tuple[tuple[tuple[int, float], ...], ...], ...] = ()
    scores: tuple[float, ...] = ()


class Generating:
    """The methods that make a model continue texts."""

    generation_config: GenerationConfig | None = None

    def settings(self, config: GenerationConfig | None, changes: dict[str, Any]) -> GenerationConfig:
        """What applies: the call's settings over the given config over the model's own."""
        model = cast(Any, self)
        own = self.generation_config or GenerationConfig(
            eos_token_id=model.config.eos_token_ids, pad_token_id=model.config.pad_token_id
        )
        return (config or own).with_changes(changes)

    def stream(
        self,
        input_ids: Tensor | Sequence[Sequence[int]],
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        tokenizer: Decoder | None = None,
        logits_masks: Sequence[LogitsMask | None] = (),
        prefix_cache: PrefixCache | None = None,
        **changes: Any,
    ) -> Iterator[Event]:
        """Tokens as they come; arguments as for `generate`. Rows may also be lists of ids of any lengths."""
        prompts = Prompts(rows_of(input_ids, attention_mask), tokenizer, tuple(logits_masks), prefix_cache)
        return stream(self, prompts, self.settings(generation_config, changes))

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        tokenizer: Decoder | None = None,
        logits_masks: Sequence[LogitsMask | None] = (),
        prefix_cache: PrefixCache | None = None,
        return_dict_in_generate: bool = False,
        **changes: Any,
    ) -> Any:
        """The prompts (B, L) with their new tokens, as transformers returns them; padding may be on either side.

        Settings are those of `GenerationConfig`, by name. `return_dict_in_generate` gives a `GenerateOutput`.
        """
        config = self.settings(generation_config, changes)
        prompts = Prompts(rows_of(input_ids, attention_mask), tokenizer, tuple(logits_masks), prefix_cache)
        if config.num_beams > 1:
            out = self._beams(prompts, config, input_ids)
        else:
            out = self._rows(prompts, config, input_ids)
        return out if return_dict_in_generate else out.sequences

    def _rows(self, prompts: Prompts, config: GenerationConfig, input_ids: Tensor) -> GenerateOutput:
        tokens: list[list[Token]] = [[] for _ in prompts.ids]
        reasons = [""] * len(prompts.ids)
        for event in stream(self, prompts, config):
            if isinstance(event, Token):
                tokens[event.row].append(event)
            else:
                reasons[event.row] = event.reason
        sequences = joined(input_ids, [[t.id for t in row] for row in tokens], config)
        logprobs = tuple(tuple(t.logprob for t in row) for row in tokens)
        return GenerateOutput(sequences, tuple(reasons), logprobs, tuple(tuple(t.top for t in row) for row in tokens))

    def _beams(self, prompts: Prompts, config: GenerationConfig, input_ids: Tensor) -> GenerateOutput:
        if config.stop_strings or any(prompts.masks):
            raise ValueError("beam search takes no stop strings and no constraints; use num_beams=1 with them")
        most = check_lengths(cast(Any, self).config, prompts, config)
        found = beam_search(self, prompts.ids, config, most)
        best = [hypothesis for row in found for hypothesis in row]
        again = paddle.repeat_interleave(to_ids(input_ids), config.num_return_sequences, axis=0)
        sequences = joined(again, [list(h.ids) for h in best], config)
        return GenerateOutput(sequences, scores=tuple(h.score for h in best))


def to_ids(ids: Any) -> Tensor:
    return ids if isinstance(ids, Tensor) else paddle.to_tensor(ids, dtype="int64")


def rows_of(input_ids: Any, attention_mask: Tensor | None) -> tuple[tuple[int, ...], ...]:
    """Token ids a row without the padding."""
    if not isinstance(input_ids, Tensor):
        return tuple(tuple(int(i) for i in row) for row in input_ids)
    if input_ids.ndim != 2:
        raise ValueError(f"input_ids must be (batch, tokens); got {tuple(input_ids.shape)}")
    ids = input_ids.numpy()
    if attention_mask is None:
        return tuple(tuple(row.tolist()) for row in ids)
    if list(attention_mask.shape) != list(input_ids.shape):
        raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}")
    keep = attention_mask.numpy() != 0
    return tuple(tuple(row[k].tolist()) for row, k in zip(ids, keep, strict=True))


def joined(input_ids: Any, new: Sequence[Sequence[int]], config: GenerationConfig) -> Tensor:
    """(B, L + longest): each prompt, its new tokens, then padding (the end token where no padding is named)."""
    ids = to_ids(input_ids).numpy()
    fill = config.pad_token_id if config.pad_token_id is not None else next(iter(config.eos_token_id), 0)
    out = np.full([len(ids), max(map(len, new))], fill, np.int64)
    for row, tokens in enumerate(new):
        out[row, : len(tokens)] = tokens
    return paddle.to_tensor(np.concatenate([ids, out], axis=1))
