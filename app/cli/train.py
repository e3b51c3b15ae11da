"""Train on your own pictures (a LoRA, a whole model, a ControlNet, a word, an autoencoder, a CLIP pair) or texts (llm).

`train KIND --help` tells the options of a kind. Captions come from metadata.jsonl or captions.jsonl, from text files
beside the pictures, or from the pictures' names.
Ctrl-C stops after the current step and saves; the same command goes on where it stopped.
"""

import argparse
import json
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.cli.progress import Bar
    from ppdiffusers.training.dataset import Dataset
    from ppdiffusers.training.event import Event
    from ppdiffusers.training.loop import LoopConfig, Task

# what is trained -> (what it is, learning rate, steps, batch)
KINDS = {
    "lora": ("a style or a thing as a small file beside the model", 1e-4, 1000, 1),
    "diffusion": ("the whole UNet", 1e-5, 2000, 1),
    "controlnet": ("a model that reads control pictures", 1e-5, 5000, 1),
    "inversion": ("a new word for the prompt (SD 1 and 2)", 5e-3, 1000, 1),
    "vae": ("the autoencoder", 1e-5, 2000, 4),
    "clip": ("pictures and texts into one space", 1e-5, 2000, 32),
}
SIDE = 512  # of models that do not say what they were made for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each kind of training."""
    from app.cli import train_llm

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind, what in KINDS.items():
        _add_pictures(kinds.add_parser(kind, help=what[0], description=what[0]))
    llm = "a language model on your conversations or texts"
    train_llm.add_arguments(kinds.add_parser("llm", help=llm, description=train_llm.__doc__))


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    """What is trained, on which pictures, from which model, into which file or folder."""
    files = parser.add_argument_group("files")
    files.add_argument("--images", required=True, metavar="FOLDER", help="pictures with captions")
    files.add_argument("--model", "--base", required=True, help="a checkpoint file, a folder, or: embedded")
    files.add_argument("--out", "-o", required=True, help="a .safetensors file (lora, inversion) or a folder")
    files.add_argument("--run", metavar="FOLDER", help="state, log, curve and sheets; default: OUT.run")
    files.add_argument("--trigger", default="", help="words put before every caption")
    _add_learning(parser)
    _add_kinds(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--sample-every", type=int, default=0, metavar="STEPS", help="a sheet of pictures; 0: never")
    out.add_argument("--save-every", type=int, default=500, metavar="STEPS")
    out.add_argument("--prompt", "-p", action="append", default=[], help="for the sheets; default: captions")
    out.add_argument("--sample-steps", type=int, default=20)
    out.add_argument("--json", action="store_true", help="one line of JSON per event on stdout, no progress bar")


def _add_learning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learning")
    group.add_argument("--steps", type=int, help="default by kind")
    group.add_argument("--rate", type=float, help="peak learning rate; default by kind")
    group.add_argument("--schedule", choices=("constant", "linear", "cosine"), default="cosine")
    group.add_argument("--warmup", type=int, default=0, metavar="STEPS")
    group.add_argument("--batch", type=int, help="pictures at once; default by kind")
    group.add_argument("--accumulate", type=int, default=1, metavar="BATCHES", help="batches a step")
    group.add_argument("--average", type=float, default=0.0, metavar="DECAY", help="averaged weights (0.999), 0: off")
    group.add_argument("--resolution", type=int, help="side of a square; default: what the model was made for")
    group.add_argument("--bucket-step", type=int, default=64, help="sides of other shapes are multiples of it")
    group.add_argument("--flip", action="store_true", help="mirror half of the pictures")
    group.add_argument("--dropout", type=float, default=0.1, help="share of captions that are left empty")
    group.add_argument("--min-snr", type=float, default=5.0, metavar="GAMMA", help="0: off")
    group.add_argument("--offset-noise", type=float, default=0.0)
    group.add_argument(
        "--noise-bias", type=float, default=1.0, help="draw noisy steps more often: 2 in proportion to t"
    )
    group.add_argument("--clip-skip", type=int, default=1)
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the computation; default: the fastest here")


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("only some kinds")
    group.add_argument("--rank", type=int, default=16, help="lora")
    group.add_argument("--alpha", type=float, help="lora; default: the rank")
    group.add_argument("--targets", metavar="REGEX", help="lora: which layers of the UNet; default: attention")
    group.add_argument("--conv", action="store_true", help="lora: convolutions too")
    group.add_argument("--text-encoder", action="store_true", help="lora: text encoders too")
    group.add_argument("--condition", default="canny", help="controlnet: canny, luminance, or a folder")
    group.add_argument("--control", help="controlnet: one to go on from")
    group.add_argument("--word", default="style", help="inversion: what the new word begins as")
    group.add_argument("--vectors", type=int, default=4, help="inversion")
    group.add_argument("--part", choices=("all", "decoder"), default="decoder", help="vae")
    group.add_argument("--crop", type=int, default=128, help="vae: side of the squares")
    group.add_argument("--kl", type=float, default=1e-4, help="vae: how strongly latents are kept near a normal one")
    group.add_argument("--lock-text", action="store_true", help="clip: leave the text tower as it is")
    group.add_argument("--halves", type=float, default=0.0, metavar="SHARE", help="vae: batches decoded at half size")


def run(args: argparse.Namespace) -> int:
    """Train; exit code 130 when it was stopped before its end."""
    if args.kind == "llm":
        from app.cli import train_llm

        return train_llm.run(args)
    from app.environment import import_paddle

    import_paddle()
    from app.cli.progress import Bar
    from ppdiffusers.training.dataset import scan
    from ppdiffusers.training.loop import train

    with Bar(quiet=args.json) as bar, stopping() as stopped:
        dataset = scan(args.images, trigger=args.trigger)
        for problem in dataset.problems:
            _tell_note(args, bar, problem)
        task = _task(args, dataset, bar)
        events = train(task, _loop(args), args.run or f"{args.out.rstrip('/')}.run")
        with closing(events):  # type: ignore[type-var]
            for event in events:
                _tell(args, bar, event)
                if stopped:
                    break
    if stopped and not args.json:
        bar.note("stopped and saved; the same command goes on from here")
    return 130 if stopped else 0


@contextmanager
def stopping() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM fill the list once, so that a step is never cut in two; a second Ctrl-C interrupts."""
    caught: list[int] = []

    def catch(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- telling ----------------------------------------------------------------------------------------------------------


def _tell_note(args: argparse.Namespace, bar: "Bar", text: str, warning: bool = True) -> None:
    if args.json:
        print(json.dumps({"event": "note", "text": text, "warning": warning}), flush=True)
    else:
        bar.note(text, warning)


def _tell(args: argparse.Namespace, bar: "Bar", event: "Event") -> None:
    """One event, as JSON or for people."""
    from ppdiffusers.training.event import Note, Progress, Sample, TrainStep

    if args.json:
        told = {k: str(v) if isinstance(v, Path) else v for k, v in vars(event).items() if k != "images"}
        print(json.dumps({"event": type(event).__name__.lower(), **told}), flush=True)
    elif isinstance(event, TrainStep):
        loss = f"loss {event.loss:.4f}"
        bar.show(event.step, event.of, loss if bar.live else "training")
        if not bar.live and (event.step % max(event.of // 10, 1) == 0 or event.step == 1):
            bar.note(f"step {event.step}: {loss}, {event.seconds:.2f} s a step")
    elif isinstance(event, Progress):
        bar.show(event.step, event.of, event.note)
    elif isinstance(event, Note):
        bar.note(event.text, event.warning)
    elif isinstance(event, Sample):
        bar.note(f"sheet: {event.path}")
    elif event.kind == "result":
        bar.clear()
        print(event.path if event.final else f"{event.path} (so far, step {event.step})", flush=True)


# --- what is trained --------------------------------------------------------------------------------------------------


def _loop(args: argparse.Namespace) -> "LoopConfig":
    from ppdiffusers.training.loop import LoopConfig

    _, rate, steps, _ = KINDS[args.kind]
    return LoopConfig(
        steps=steps if args.steps is None else args.steps,
        rate=rate if args.rate is None else args.rate,
        schedule=args.schedule,
        warmup=args.warmup,
        accumulate=args.accumulate,
        average=args.average,
        save_every=args.save_every,
        sample_every=args.sample_every,
    )


def _task(args: argparse.Namespace, dataset: "Dataset", bar: "Bar") -> "Task":
    if args.kind == "vae":
        return _vae(args, dataset)
    if args.kind == "clip":
        return _pair(args, dataset)
    return _diffusion(args, dataset, bar)


def _batch(args: argparse.Namespace) -> int:
    return KINDS[args.kind][3] if args.batch is None else args.batch


def _diffusion(args: argparse.Namespace, dataset: "Dataset", bar: "Bar") -> "Task":
    """The four kinds that run through a UNet."""
    from ppdiffusers.training.controlnet import ControlNetTask, ControlTrainConfig, begun
    from ppdiffusers.training.diffusion import DiffusionConfig, DiffusionTask, LoraTask, LoraTrainConfig
    from ppdiffusers.training.inversion import InversionConfig, InversionTask

    start = _start(args, bar)
    shared = _shared(args, start.bundle)
    if args.kind == "lora":
        rate = KINDS["lora"][1] if args.rate is None else args.rate
        config = LoraTrainConfig(**shared, lora=_lora(args), rate=rate)
        return LoraTask(start.bundle, dataset, args.out, config)
    if args.kind == "controlnet":
        net = None if args.control is None else begun(args.control, start.bundle)
        control = ControlTrainConfig(**shared, condition=args.condition)
        return ControlNetTask(start.bundle, dataset, args.out, control, net)
    if args.kind == "inversion":
        word = InversionConfig(**shared, start=args.word, count=args.vectors)
        return InversionTask(start.bundle, dataset, args.out, word)
    return DiffusionTask(start.bundle, dataset, args.out, DiffusionConfig(**shared), start.write)


def _start(args: argparse.Namespace, bar: "Bar") -> Any:
    from ppdiffusers.training.start import iter_start

    return bar.follow(iter_start(args.model, args.dtype))


def _shared(args: argparse.Namespace, bundle: Any) -> dict[str, Any]:
    from ppdiffusers.training.diffusion import SampleConfig
    from ppdiffusers.training.materials import MaterialConfig

    side = int(bundle.unet.config.sample_size or SIDE // bundle.factor) * bundle.factor
    resolution = args.resolution or side
    material = MaterialConfig(
        resolution=resolution,
        step=min(args.bucket_step, resolution),
        batch=_batch(args),
        flip=args.flip,
        dropout=args.dropout,
        clip_skip=args.clip_skip,
    )
    sample = SampleConfig(prompts=tuple(args.prompt), side=side, steps=args.sample_steps)
    learning = {
        "min_snr": args.min_snr,
        "offset_noise": args.offset_noise,
        "noise_bias": args.noise_bias,
        "seed": args.seed,
    }
    return {"material": material, "sample": sample, **learning}


def _lora(args: argparse.Namespace) -> Any:
    from ppdiffusers.training.lowrank import TEXT, LoraConfig

    config = LoraConfig(
        rank=args.rank,
        alpha=float(args.rank) if args.alpha is None else args.alpha,
        conv=args.conv,
        text_targets=TEXT if args.text_encoder else None,
    )
    return config if args.targets is None else replace(config, targets=args.targets)


def _vae(args: argparse.Namespace, dataset: "Dataset") -> "Task":
    from ppdiffusers.training.vae import VAETask, VAETrainConfig
    from ppdiffusers.weights.load import load_part

    config = VAETrainConfig(
        crop=args.crop,
        batch=_batch(args),
        flip=args.flip,
        part=args.part,
        kl=args.kl,
        halves=args.halves,
        seed=args.seed,
    )
    return VAETask(load_part(args.model, "vae", args.dtype or "float32"), dataset, args.out, config)


def _pair(args: argparse.Namespace, dataset: "Dataset") -> "Task":
    from ppdiffusers.models.clip_vision import CLIPModel
    from ppdiffusers.prompt.tokenizer import CLIPTokenizer
    from ppdiffusers.training.pair import PairConfig, PairTask
    from ppdiffusers.weights.source import locate

    folder = locate(args.model)
    own = (folder / "vocab.json").is_file() or (folder / "tokenizer.json").is_file()
    tokenizer = CLIPTokenizer.from_pretrained(folder) if own else CLIPTokenizer.clip()
    model = CLIPModel.from_pretrained(folder, dtype=args.dtype or "float32")
    config = PairConfig(batch=_batch(args), flip=args.flip, lock_text=args.lock_text, seed=args.seed)
    return PairTask(model, tokenizer, dataset, args.out, config)
