"""From the scores of one step to the next token: penalties, filters, and the draw. Scores are (V,) float32 numpy.

The order and meaning are transformers': repetition penalty, then temperature, top-k, top-p, min-p; presence and
frequency penalties are the OpenAI API's and come right after the repetition penalty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from mix.llm.config import as_ids

NEVER = np.float32(-np.inf)


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How to generate; names and defaults are transformers'.

    `max_length` counts the prompt, `max_new_tokens` does not and wins. `logprobs` n reports each token's
    log-probability and the n likeliest ones. `seed` makes sampling repeat; row r of a batch draws its own numbers.
    """

    max_new_tokens: int | None = None
    max_length: int = 20
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    stop_strings: tuple[str, ...] = ()
    logprobs: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "eos_token_id", as_ids(self.eos_token_id))
        stops = self.stop_strings
        object.__setattr__(self, "stop_strings", (stops,) if isinstance(stops, str) else tuple(stops or ()))
        for name, low, high, what in _RANGES:
            value = getattr(self, name)
            ok = value is None or (isinstance(value, int | float) and value == value and low <= value <= high)
            if not ok:
                raise ValueError(f"{name} is {value!r}; it must be {what}")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f"early_stopping is {self.early_stopping!r}; it must be True, False or 'never'")
        if self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences {self.num_return_sequences} is more than num_beams {self.num_beams}; beam "
                "search returns at most one text a beam"
            )
        if any(not stop for stop in self.stop_strings):
            raise ValueError("stop_strings holds an empty text, which every text ends with; leave it out")

    @property
    def samples(self) -> bool:
        return self.do_sample and self.temperature > 0

    def with_changes(self, changes: Mapping[str, Any]) -> "GenerationConfig":
        """These settings with some replaced; ValueError for a name that does not exist."""
        known = {f.name for f in fields(self)}
        unknown = set(changes) - known
        if unknown:
            raise ValueError(f"generate has no setting {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}")
        return replace(self, **changes) if changes else self

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "GenerationConfig":
        """What a generation_config.json says, as far as it concerns us: such files hold much else."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in config.items() if k in known and v is not None})


_HUGE = float(2**31)
_RANGES = (
    ("max_new_tokens", 1, _HUGE, "a whole number from 1 up"),
    ("max_length", 1, _HUGE, "a whole number from 1 up"),
    ("min_new_tokens", 0, _HUGE, "a whole number from 0 up"),
    ("temperature", 0.0, 1e6, "from 0 (the likeliest token) up"),
    ("top_k", 0, _HUGE, "a whole number from 0 (no limit) up"),
    ("top_p", 0.0, 1.0, "between 0 and 1"),
    ("min_p", 0.0, 1.0, "between 0 and 1"),
    ("repetition_penalty", 1e-6, 1e6, "above 0"),
    ("presence_penalty", -100.0, 100.0, "between -100 and 100"),
    ("frequency_penalty", -100.0, 100.0, "between -100 and 100"),
    ("num_beams", 1, 1024, "from 1 to 1024"),
    ("num_return_sequences", 1, 1024, "from 1 to 1024"),
    ("length_penalty", -100.0, 100.0, "between -100 and 100"),
    ("logprobs", 0, 1000, "from 0 to 1000"),
)


@dataclass(frozen=True)
class Choice:
    """A token with its log-probability and the likeliest (id, log-probability) pairs, where these were asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis, float32."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)


def penalise(scores: np.ndarray, config: GenerationConfig, prompt: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Scores with what was said already made less likely, and the end of the text forbidden while it is too early."""
    if config.repetition_penalty != 1.0:
        scores = repetition(scores, config.repetition_penalty, [*prompt, *new])
    if (config.presence_penalty or config.frequency_penalty) and new:
        ids, counts = np.unique(np.asarray(new), return_counts=True)
        scores = scores.copy()
        scores[ids] -= config.presence_penalty + config.frequency_penalty * counts.astype(np.float32)
    if len(new) < config.min_new_tokens and config.eos_token_id:
        scores = scores.copy()
        scores[list(config.eos_token_id)] = NEVER
    return scores


def repetition(scores: np.ndarray, penalty: float, seen: Sequence[int]) -> np.ndarray:
    """Positive scores of seen tokens divided by the penalty, negative ones multiplied (Keskar et al. 2019)."""
    ids = np.unique(np.asarray(seen, np.int64))
    scores = scores.copy()
    scores[ids] = np.where(scores[ids] < 0, scores[ids] * np.float32(penalty), scores[ids] / np.float32(penalty))
    return scores


def warp(scores: np.ndarray, config: GenerationConfig) -> np.ndarray:
    """Scores after temperature and filters; what must not be drawn is -inf."""
    if config.temperature != 1.0:
        scores = scores / np.float32(config.temperature)
    if 0 < config.top_k < scores.size:
        scores = np.where(scores < np.partition(scores, -config.top_k)[-config.top_k], NEVER, scores)
    if config.top_p < 1.0:
        scores = top_p(scores, config.top_p)
    if config.min_p > 0.0:
        scores = np.where(scores < scores.max() + np.log(np.float32(config.min_p)), NEVER, scores)
    return scores


def top_p(scores: np.ndarray, p: float) -> np.ndarray:
    """Keep the likeliest tokens that together have probability p, at least one (Holtzman et al. 2019)."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    weights = np.exp(ordered - ordered[-1])
    below = np.cumsum(weights / weights.sum()) <= 1.0 - p
    below[-1] = False
    kept = scores.copy()
    kept[order[below]] = NEVER
    return kept


def draw(scores: np.ndarray, random: np.random.Generator) -> int:
    """A token drawn with the probabilities that the scores stand for."""
    weights = np.exp((scores - scores.max()).astype(np.float64))
    upto = np.cumsum(weights)
    return int(min(np.searchsorted(upto, random.random() * upto[-1], side="right"), scores.size - 1))


def choose(scores: np.ndarray, config: GenerationConfig, random: np.random.Generator, raw: np.ndarray) -> Choice:
    """The next token by `scores`; log-probabilities are the model's own, from its `raw` scores."""
    best = int(scores.argmax())
    if not np.isfinite(scores[best]):
        raise ValueError(
            "the model gives NaN or infinite scores, or no token is allowed; its weights are damaged, or the "
            "constraint and the tokenizer do not fit together"
        )
    picked = draw(warp(scores, config), random) if config.samples else best
    if config.logprobs is None:
        return Choice(picked)
    logs = log_softmax(raw)
    order = np.argsort(-logs, kind="stable")[: config.logprobs]
    return Choice(picked, float(logs[picked]), tuple((int(i), float(logs[i])) for i in order))
