"""A run: load, encode, train with the loop that all trainers share, look at held-out texts, save as others read it."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import paddle
import PIL.Image
from paddle import Tensor

from mix.llm.loading import AutoModelForCausalLM
from mix.llm.tokenizer import AutoTokenizer, Tokenizer
from mix.peft.lora import LoRAModel
from mix.peft.prefix import PrefixModelForCausalLM
from mix.train.config import TrainConfig
from mix.train.data import read
from mix.train.examples import Example, encode
from mix.train.loss import batch_loss, recomputing
from mix.train.packing import Batches
from ppdiffusers.training import loop
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.event import Note, Progress, Saved, TrainStep
from ppdiffusers.training.start import default_dtype
from ppdiffusers.weights.write import write_text


@dataclass(frozen=True)
class Evaluated:
    """The model as it is now: mean loss on the held-out texts (None without any), and its answers to the prompts."""

    step: int
    loss: float | None
    answers: tuple[tuple[str, str], ...] = ()

    @property
    def perplexity(self) -> float | None:
        return None if self.loss is None else math.exp(min(self.loss, 700.0))


Event = Note | Progress | TrainStep | Saved | Evaluated
# Settings that a continued run may change: they do not touch the numbers.
FREE = ("model", "out", "run", "data", "evaluate_every", "save_every", "keep", "prompts", "answer", "steps", "epochs")


def run(config: TrainConfig) -> Iterator[Event]:
    """Train as the config says, or go on where the same run stopped; yields what happens.

    Closing the generator stops it after the current step and saves. ValueError, with a sentence, for what can't work.
    """
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    learned, held = yield from _examples(config, tokenizer)
    model = yield from _model(config, learned)
    task = FineTune(config, model, tokenizer, learned, held)
    yield from cast(Iterator[Event], loop.train(task, task.loop_config(), config.folder, LanguageRun))


def _examples(config: TrainConfig, tokenizer: Tokenizer) -> Generator[Event, None, tuple[list[Example], list[Example]]]:
    """(samples to learn, samples held out)."""
    learned = yield from _encoded(config, tokenizer, config.data.paths, "reading texts")
    held: list[Example] = []
    if config.data.evaluation:
        held = yield from _encoded(config, tokenizer, config.data.evaluation, "reading held-out texts")
    elif config.data.held_out:
        share = config.data.held_out
        count = min(round(share * len(learned)) if share < 1 else int(share), len(learned) - 1)
        order = Draws(config.seed).generator("held out").permutation(len(learned))
        held = [learned[i] for i in sorted(order[:count])]
        learned = [learned[i] for i in sorted(order[count:])]
    if not learned:
        raise ValueError("there is nothing to learn: no record has an answer within the length")
    return learned, held


def _encoded(
    config: TrainConfig, tokenizer: Tokenizer, paths: Sequence[str], note: str
) -> Generator[Event, None, list[Example]]:
    records = list(read(paths))
    found: list[Example] = []
    left = 0
    for i, made in enumerate(encode(records, tokenizer, config.data), 1):
        found += made
        left += not made
        if i % 500 == 0 or i == len(records):
            yield Progress(i, len(records), note)
    if left:
        yield Note(f"{left} of {len(records)} records have no answer within {config.data.length} tokens", warning=True)
    return found


def _model(config: TrainConfig, learned: Sequence[Example]) -> Generator[Event, None, Any]:
    dtype = default_dtype() if config.dtype is None else None if config.dtype == "stored" else config.dtype
    work = AutoModelForCausalLM.load(config.model, dtype)
    try:
        while True:
            done, of, _ = next(work)
            if done % 50 == 0 or done == of:
                yield Progress(done, of, "reading the model")
    except StopIteration as finished:
        model = finished.value
    if config.method == "lora":
        return LoRAModel(model, config.lora)
    if config.method == "prefix":
        prefix = config.prefix
        if not (prefix.prefix_projection or prefix.init_weights or prefix.init_tokens):
            first = learned[0].ids[: prefix.num_virtual_tokens]
            prefix = replace(prefix, init_tokens=tuple(int(i) for i in first))
        return PrefixModelForCausalLM(model, prefix)
    for parameter in model.parameters():
        parameter.stop_gradient = False
    return model


class FineTune:
    """What the shared loop drives: the loss of each batch, and how the result is written."""

    name = "language model"

    def __init__(
        self, config: TrainConfig, model: Any, tokenizer: Tokenizer, learned: list[Example], held: list[Example]
    ) -> None:
        self.config, self.model, self.tokenizer = config, model, tokenizer
        data = config.data
        how: dict[str, Any] = {"pack": data.pack, "tokens": data.tokens, "batch": data.batch}
        self.batches = Batches(learned, Draws(config.seed), **how)
        self.held = Batches(held, Draws(config.seed), **how) if held else None
        self.counts = [int(example.learned[1:].sum()) for example in learned]
        self._undo = ExitStack()

    def loop_config(self) -> loop.LoopConfig:
        """The config of the shared loop."""
        c = self.config
        steps = c.steps or -(-self.batches.count(c.epochs) // c.accumulate)
        looked = bool(self.held or c.prompts)
        return loop.LoopConfig(
            steps=steps,
            rate=c.rate,
            schedule=c.schedule,
            warmup=c.warmup,
            accumulate=c.accumulate,
            average=c.average,
            save_every=c.save_every,
            sample_every=(c.evaluate_every or steps) if looked else 0,
            keep=c.keep,
            adamw=c.adamw,
        )

    # --- the loop's side ---

    def about(self) -> dict[str, Any]:
        """What makes the run this run: the settings, the samples, the model's shape."""
        settings = {k: v for k, v in self.config.to_dict().items() if k not in FREE}
        texts = hashlib.blake2b(digest_size=16)
        for example in self.batches.examples:
            texts.update(example.ids.tobytes())
            texts.update(example.learned.tobytes())
        d = self.config.data
        shape = dataclasses.asdict(getattr(self.model, "base_model", self.model).cache_layout)
        return settings | {
            "texts": texts.hexdigest(),
            "batches": [d.pack, d.tokens if d.pack else d.batch],
            "shape": shape,
        }

    def prepare(self, folder: Path) -> Iterator[Any]:
        """Everything is ready; layers that compute again are set up."""
        self.model.train()
        if self.config.recompute:
            self._undo.enter_context(recomputing(getattr(self.model, "base_model", self.model)))
        yield Note(f"{len(self.batches.examples)} samples, {self._moved():,} numbers are trained")

    def _moved(self) -> int:
        return sum(int(p.size) for p in self.trainable().values())

    def trainable(self) -> Mapping[str, Tensor]:
        if self.config.method == "full":
            return dict(self.model.named_parameters())
        return self.model.trainable_parameters()

    def factors(self) -> Mapping[str, float]:
        return {} if self.config.method == "full" else self.model.rate_factors()

    def loss(self, number: int) -> loop.Loss:
        """The loss of a batch, weighted so that every learned token of a step counts the same."""
        every = self.config.accumulate
        batch = self.batches[number]
        if self.config.method != "full":
            self.model.start_batch(number)
        value = batch_loss(self.model, batch)
        if every > 1:
            first = number // every * every
            total = sum(self.counts[i] for n in range(first, first + every) for i in self.batches.members(n))
            value = value * (batch.learned * every / max(total, 1))
        return loop.Loss(value, {"tokens": float(batch.tokens * every), "learned": float(batch.learned * every)})

    def samples(self) -> tuple[Sequence[PIL.Image.Image], Sequence[str]]:
        """No pictures: `LanguageRun` looks at texts."""
        return (), ()

    def evaluate(self, step: int) -> Evaluated:
        """Loss on the held-out texts, and answers."""
        self.model.eval()
        try:
            loss = None if self.held is None else self._held_loss(self.held)
            return Evaluated(step, loss, tuple((prompt, self.answer(prompt)) for prompt in self.config.prompts))
        finally:
            self.model.train()

    def _held_loss(self, held: Batches) -> float:
        total, count = 0.0, 0
        for number in range(len(held.epoch(0))):
            batch = held[number]
            total += float(batch_loss(self.model, batch)) * batch.learned
            count += batch.learned
        return total / max(count, 1)

    def answer(self, prompt: str) -> str:
        """What the model says to a prompt, the likeliest words."""
        how: dict[str, Any] = {"add_generation_prompt": True, "chat_template": self.config.data.template}
        chat = bool(self.config.data.template or self.tokenizer.chat_template)
        ids = (
            self.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], **how)["input_ids"]
            if chat
            else self.tokenizer.encode(prompt)
        )
        said = self.model.generate(paddle.to_tensor([ids]), max_new_tokens=self.config.answer, do_sample=False)
        return self.tokenizer.decode(said[0, len(ids) :], skip_special_tokens=True).strip()

    def save(self, step: int) -> Path:
        """The result: a model's folder, or an adapter's as PEFT has it."""
        out = Path(self.config.out)
        self.model.save_pretrained(out)
        if self.config.method == "full":
            self.tokenizer.save_pretrained(out)
        write_text(out / "training.json", json.dumps({"step": step, **self.config.to_dict()}, indent=2) + "\n")
        return out

    def close(self) -> None:
        self._undo.close()


class LanguageRun(loop.Run):
    """A run that looks at texts instead of pictures."""

    def sample(self) -> Evaluated:
        with self.shown(), paddle.no_grad():
            seen = cast(FineTune, self.task).evaluate(self.step)
        if seen.loss is not None:
            self.journal.add({"step": self.step, "evaluation": seen.loss})
        return seen
