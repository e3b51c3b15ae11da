"""Fine-tune a language model on your own conversations or texts: a LoRA (the default), a prefix, or the whole model.

Data: .jsonl, .json, .parquet or .txt files, or folders of them; records have messages, prompt and completion,
instruction and output, or text. Ctrl-C stops after the current step and saves; the same command goes on from there.
A config file (--config) has the settings as JSON; options given here count more.
"""

import argparse
import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.cli.progress import Bar

GIVEN: dict[str, Any] = {"default": argparse.SUPPRESS}  # only what was said overrides the config file
# options -> where they go in the config
PLACES = {
    "data": "data.paths",
    "evaluation": "data.evaluation",
    "held_out": "data.held_out",
    "length": "data.length",
    "tokens": "data.tokens",
    "batch": "data.batch",
    "pack": "data.pack",
    "answers_only": "data.answers_only",
    "template": "data.template",
    "prompt": "prompts",
    "decay": "adamw.weight_decay",
    "clip": "adamw.clip",
}
PLAIN = (
    "model", "out", "run", "steps", "epochs", "rate", "schedule", "warmup", "accumulate", "average", "dtype",
    "recompute", "seed", "evaluate_every", "save_every",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained, on which texts, how."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    files = parser.add_argument_group("files")
    files.add_argument("--model", "-m", help="a model's folder, or a .gguf file", **GIVEN)
    files.add_argument("--data", "-d", nargs="+", metavar="FILE", help="files and folders to learn from", **GIVEN)
    files.add_argument("--out", "-o", metavar="FOLDER", help="where the adapter or the model goes", **GIVEN)
    files.add_argument("--run", metavar="FOLDER", help="state, log and curve; default: OUT.run", **GIVEN)
    files.add_argument("--config", metavar="FILE", help="settings as JSON")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--lora", nargs="*", metavar="NAME=VALUE", help="such as r=8 alpha=16 use_dora=true", **GIVEN)
    what.add_argument("--prefix", type=int, metavar="TOKENS", help="a learned prefix of so many tokens", **GIVEN)
    what.add_argument("--full", action="store_true", help="all weights", **GIVEN)
    _add_learning(parser)
    _add_texts(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON per event on stdout, no progress bar")


def _add_learning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learning")
    group.add_argument("--steps", type=int, help="default: one pass over the data", **GIVEN)
    group.add_argument("--epochs", type=float, help="passes over the data, where no steps are given", **GIVEN)
    group.add_argument("--rate", type=float, help="peak learning rate; default 2e-4, or 2e-5 with --full", **GIVEN)
    group.add_argument("--schedule", choices=("constant", "linear", "cosine"), **GIVEN)
    group.add_argument("--warmup", type=int, metavar="STEPS", **GIVEN)
    group.add_argument("--accumulate", type=int, metavar="BATCHES", help="batches a step", **GIVEN)
    group.add_argument("--average", type=float, metavar="DECAY", help="averaged weights (0.99); 0: off", **GIVEN)
    group.add_argument("--decay", type=float, help="weight decay", **GIVEN)
    group.add_argument("--clip", type=float, help="the longest gradient; 0: off", **GIVEN)
    group.add_argument("--dtype", help="float32, bfloat16; beside adapters also stored, int8, int4", **GIVEN)
    group.add_argument("--recompute", action="store_true", help="less memory, a third more time", **GIVEN)
    group.add_argument("--seed", type=int, **GIVEN)
    group.add_argument("--save-every", type=int, metavar="STEPS", **GIVEN)


def _add_texts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts")
    group.add_argument("--length", type=int, metavar="TOKENS", help="of one sample at most; default 1024", **GIVEN)
    group.add_argument("--tokens", type=int, help="of a batch; default 2048", **GIVEN)
    group.add_argument("--no-pack", dest="pack", action="store_false", help="padded batches instead of packs", **GIVEN)
    group.add_argument("--batch", type=int, metavar="SAMPLES", help="of a batch, with --no-pack", **GIVEN)
    group.add_argument("--learn-all", dest="answers_only", action="store_false", help="questions too", **GIVEN)
    group.add_argument("--template", help="a chat template, instead of the tokenizer's", **GIVEN)
    group.add_argument("--evaluation", nargs="+", metavar="FILE", help="texts to measure on", **GIVEN)
    group.add_argument("--held-out", type=float, metavar="SHARE", help="of the data, to measure on", **GIVEN)
    group.add_argument("--evaluate-every", type=int, metavar="STEPS", **GIVEN)
    group.add_argument("--prompt", "-p", action="append", help="answered at every evaluation, also several", **GIVEN)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as the config has them."""
    given, found = vars(args), dict[str, Any]()
    for name in PLAIN:
        if name in given:
            found[name] = given[name]
    for name, place in PLACES.items():
        if name in given:
            *above, last = place.split(".")
            at = found
            for step in above:
                at = at.setdefault(step, {})
            at[last] = given[name]
    if "lora" in given:
        found |= {"method": "lora", "lora": pairs(given["lora"])}
    if "prefix" in given:
        found |= {"method": "prefix", "prefix": {"num_virtual_tokens": given["prefix"]}}
    if "full" in given:
        found |= {"method": "full"}
    return found


def pairs(words: list[str]) -> dict[str, Any]:
    """["r=8", "use_dora=true"] as settings; values are JSON, or text where they are none. ValueError for others."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"--lora takes NAME=VALUE, such as r=8, not {word!r}")
        try:
            found[{"alpha": "lora_alpha", "dropout": "lora_dropout"}.get(name, name)] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def run(args: argparse.Namespace) -> int:
    """Train; exit code 130 when it was stopped before its end."""
    from app.environment import import_paddle

    settings = settings_of(args)
    import_paddle()
    from app.cli.progress import Bar
    from app.cli.train import stopping
    from mix.train.config import TrainConfig, merged, read_json_file
    from mix.train.loop import run as train

    whole = merged(read_json_file(args.config) if args.config else {}, settings)
    if missing := [name for name in ("model", "data", "out") if name not in whole]:
        raise ValueError(f"say --{missing[0]}, or give it in a --config file")
    if whole.get("method") == "full":
        whole.setdefault("rate", 2e-5)
    config = TrainConfig.from_dict(whole)
    with Bar(quiet=args.json) as bar, stopping() as stopped:
        with closing(train(config)) as events:  # type: ignore[type-var]
            for event in events:
                tell(args.json, bar, event)
                if stopped:
                    break
        if stopped:
            bar.note("stopped and saved; the same command goes on from here")
    return 130 if stopped else 0


def tell(as_json: bool, bar: "Bar", event: Any) -> None:
    """One event, as JSON or for people."""
    from mix.train.loop import Evaluated
    from mix.train.telling import told
    from ppdiffusers.training.event import Note, Progress, TrainStep

    if as_json:
        print(json.dumps(told(event)), flush=True)
    elif isinstance(event, TrainStep):
        line = f"loss {event.loss:.4f}"
        bar.show(event.step, event.of, f"{line}, {speed(event.parts, event.seconds)}" if bar.live else "training")
        if not bar.live and (event.step % max(event.of // 10, 1) == 0 or event.step == 1):
            bar.note(f"step {event.step}: {line}, {speed(event.parts, event.seconds)}")
    elif isinstance(event, Progress):
        bar.show(event.step, event.of, event.note)
    elif isinstance(event, Note):
        bar.note(event.text, event.warning)
    elif isinstance(event, Evaluated):
        if event.loss is not None:
            bar.note(f"step {event.step}: loss {event.loss:.4f} on texts that were held out")
        for prompt, answer in event.answers:
            bar.note(f"  {prompt}\n    {answer}")
    elif event.kind == "result":
        bar.clear()
        path = Path(event.path)
        print(path if event.final else f"{path} (so far, step {event.step})", flush=True)


def speed(parts: Mapping[str, float], seconds: float) -> str:
    return f"{parts.get('tokens', 0) / max(seconds, 1e-9):,.0f} tokens/s"
