"""Make pictures from text, or from a picture and text, with a checkpoint of your own.

Prompts are WebUI's: (word:1.2), [from:to:0.5], AND, BREAK, <lora:name:0.8>; {a|b} and __name__ are chosen by the seed.
Each picture is written with its settings inside, as WebUI and Civitai read them; --from-picture takes them out again.
"""

import argparse
import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cache import hash_cache

if TYPE_CHECKING:
    from ppdiffusers.pipelines.bundle import Bundle
    from ppdiffusers.pipelines.request import Mask, Request
    from ppdiffusers.prompt.wildcards import Wildcards

UNTOLD = 512  # stands in for a side until the model is there to tell its own
DEFAULTS = {"steps": 20, "cfg_scale": 7.0, "sampler": "DPM++ 2M", "schedule": "Automatic", "clip_skip": 1, "rng": "cpu"}
SAMPLING = ("sampler", "schedule", "steps", "cfg_scale", "cfg_rescale", "eta")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; what is left out has the WebUI's defaults."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default="embedded",
        help="a checkpoint file (.safetensors, .ckpt) or a diffusers folder; default: the embedded one",
    )
    model.add_argument("--vae", help="another VAE: a file or a folder")
    model.add_argument("--refiner", help="an SDXL refiner; --switch-at says when it takes over")
    model.add_argument("--switch-at", type=float, default=0.8, metavar="PART")
    model.add_argument("--lora", action="append", default=[], metavar="FILE[:WEIGHT]", help="a LoRA file, also several")
    model.add_argument("--lora-folder", action="append", default=[], help="where <lora:name:1> is looked up first")
    model.add_argument("--embeddings", help="a folder of textual inversions, used by name in prompts")
    model.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fastest good one here")
    text = parser.add_argument_group("prompt")
    text.add_argument("--prompt", "-p", default="", help="what to show")
    text.add_argument("--negative-prompt", "-n", default="", help="what to avoid")
    text.add_argument("--clip-skip", type=int, default=DEFAULTS["clip_skip"])
    text.add_argument("--wildcards", metavar="FOLDER", help="files for __name__ in prompts; default: DATA/wildcards")
    text.add_argument("--from-picture", metavar="FILE", help="start from the settings inside this picture")
    _add_sampling(parser)
    _add_pictures(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--out", "-o", default="out.png", help="a .png, .jpg or .webp file; several get -1, -2, ...")
    out.add_argument("--json", action="store_true", help="one line of JSON per event on stdout, no progress bar")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument("--width", "-W", type=int, help="default: what the model was made for")
    group.add_argument("--height", "-H", type=int)
    group.add_argument("--steps", type=int, default=DEFAULTS["steps"])
    group.add_argument("--cfg-scale", type=float, default=DEFAULTS["cfg_scale"])
    group.add_argument("--cfg-rescale", type=float, default=0.0)
    group.add_argument("--sampler", default=DEFAULTS["sampler"])
    group.add_argument("--schedule", default=DEFAULTS["schedule"])
    group.add_argument("--eta", type=float)
    group.add_argument("--seed", type=int, default=-1, help="-1: a new one")
    group.add_argument(
        "--rng", choices=("cpu", "gpu"), default=DEFAULTS["rng"], help="whose noise: diffusers', or the WebUI's default"
    )
    group.add_argument("--count", type=int, default=1, help="how many pictures")
    group.add_argument("--batch-size", type=int, default=1, help="pictures at once: memory, not result")


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pictures")
    group.add_argument("--init", metavar="FILE", help="image-to-image: start from this picture")
    group.add_argument("--strength", type=float, default=0.75, help="0 keeps the picture, 1 forgets it")
    group.add_argument("--fit", choices=("crop", "stretch", "pad"), default="crop")
    group.add_argument("--mask", metavar="FILE", help="inpainting: white is repainted")
    group.add_argument("--mask-blur", type=float, default=4.0)
    group.add_argument(
        "--masked-content", choices=("original", "fill", "latent noise", "latent nothing"), default="original"
    )
    group.add_argument("--only-masked", action="store_true", help="work on the masked region alone, at full size")
    group.add_argument("--padding", type=int, default=32, help="pixels around it")
    group.add_argument("--control", action="append", default=[], metavar="MODEL,PICTURE[,WEIGHT[,START[,END]]]")
    group.add_argument("--hires", type=float, metavar="SCALE", help="a second pass at this scale")
    group.add_argument("--hires-strength", type=float, default=0.7)
    group.add_argument("--hires-steps", type=int, default=0)
    group.add_argument("--hires-upscaler", default="Latent")


def run(args: argparse.Namespace) -> int:
    """Load, generate, write; the pictures' paths are printed."""
    from app.environment import import_paddle

    import_paddle()
    from app.cli.progress import Bar
    from ppdiffusers.pipelines.event import Image, Note, Progress
    from ppdiffusers.pipelines.run import run as generate

    _check_output(Path(args.out))
    asked = _request(args)
    with Bar(quiet=args.json) as bar:
        bundle = _load(args, bar)
        request = _with_models(asked, args, bundle)
        for event in generate(bundle, request, _library(args, bundle)):
            if args.json and isinstance(event, Note | Progress):
                print(json.dumps({"event": type(event).__name__.lower(), **vars(event)}), flush=True)
            elif isinstance(event, Note):
                bar.note(event.text, event.warning)
            elif isinstance(event, Progress):
                bar.show(event.step, event.of, event.note)
            elif isinstance(event, Image):
                path = _save(event, Path(args.out), request.count)
                told = {"event": "image", "path": str(path), "seed": event.seed, "infotext": event.infotext}
                bar.clear()
                print(json.dumps(told) if args.json else path, flush=True)
    return 0


def _check_output(out: Path) -> None:
    from app.save import FORMATS

    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"{out.name} is no picture format that is written; use {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise ValueError(f"the folder {out.parent} does not exist")


def _load(args: argparse.Namespace, bar: Any) -> "Bundle":
    from ppdiffusers.pipelines.describe import file_hash
    from ppdiffusers.pipelines.load import iter_bundle, with_vae

    bundle = bar.follow(iter_bundle(args.model, args.dtype))
    if args.vae:
        bundle = with_vae(bundle, args.vae)
    if args.embeddings:
        files = [
            str(p) for p in sorted(Path(args.embeddings).rglob("*")) if p.suffix in (".safetensors", ".pt", ".bin")
        ]
        bundle, notices = bundle.with_embeddings(files)
        for notice in notices:
            bar.note(notice, True)
    if Path(args.model).is_file():
        bar.show(1, 1, "hashing")
        bundle = replace(bundle, digest=file_hash(Path(args.model), hash_cache()))
    return bundle


def _library(args: argparse.Namespace, bundle: "Bundle") -> Any:
    from ppdiffusers.patch import Use
    from ppdiffusers.pipelines.adapters import Library
    from ppdiffusers.weights.lora import plan_lora, read_lora
    from ppdiffusers.weights.source import STORE

    always = []
    for given in args.lora:
        file, weight = _weighted(given)
        patch = plan_lora(read_lora(file), bundle.models)
        print(patch.verdict, file=sys.stderr)
        always.append(Use(patch, weight))
    folders = [*args.lora_folder, *{str(Path(_weighted(given)[0]).parent) for given in args.lora}]
    return replace(Library.of_folders(*folders, STORE / "Lora"), always=tuple(always))


def _weighted(given: str) -> tuple[str, float]:
    """ "file.safetensors:0.8" -> the file and its weight."""
    file, colon, weight = given.rpartition(":")
    if not colon or Path(given).exists():
        return given, 1.0
    try:
        return file, float(weight)
    except ValueError:
        return given, 1.0  # a drive letter or a name with a colon


def _request(args: argparse.Namespace) -> "Request":
    """What needs no model to be checked, so that a typo is told before gigabytes are read; see `_with_models`."""
    from ppdiffusers.pipelines.passes import choice_for
    from ppdiffusers.pipelines.request import Hires, Init, Noise, Request, Sampling

    if args.from_picture:
        _take_settings(args)
    else:
        _take_advice(args)
    first = secrets.randbelow(2**32) if args.seed < 0 else args.seed
    init = Init(image=_open(args.init), strength=args.strength, fit=args.fit) if args.init else None
    hires = None
    if args.hires:
        hires = Hires(
            scale=args.hires, strength=args.hires_strength, steps=args.hires_steps, upscaler=args.hires_upscaler
        )
    sampling = Sampling(**{name: getattr(args, name) for name in SAMPLING})
    choice_for(sampling)
    prompts, negatives = _wildcards(args).both(args.prompt, args.negative_prompt, first, max(args.count, 1))
    return Request(
        prompts=prompts,
        negative_prompts=negatives,
        seeds=(first,),
        width=args.width or UNTOLD,
        height=args.height or UNTOLD,
        sampling=sampling,
        noise=Noise(rng=args.rng),
        clip_skip=args.clip_skip,
        init=init,
        mask=_mask(args),
        hires=hires,
        batch_size=args.batch_size,
    )


def _wildcards(args: argparse.Namespace) -> "Wildcards":
    from app import settings
    from ppdiffusers.prompt.wildcards import Wildcards

    return Wildcards(Path(args.wildcards) if args.wildcards else settings.load().data / "wildcards")


def _with_models(request: "Request", args: argparse.Namespace, bundle: "Bundle") -> "Request":
    """The request at the model's own size where none was asked for, with its ControlNets and its refiner."""
    from ppdiffusers.pipelines.load import load_bundle
    from ppdiffusers.pipelines.request import Refine

    side = int(bundle.unet.config.sample_size or 64) * bundle.factor
    request = request.with_size(args.width or side, args.height or side)
    controls = tuple(_control(given) for given in args.control)
    refine = None
    if args.refiner:
        refine = Refine(bundle=load_bundle(args.refiner, args.dtype), switch_at=args.switch_at)
    return replace(request, controls=controls, refine=refine)


def _mask(args: argparse.Namespace) -> "Mask | None":
    from ppdiffusers.pipelines.request import Mask

    if not args.mask:
        return None
    return Mask(
        image=_open(args.mask),
        blur=args.mask_blur,
        content=args.masked_content,
        only_masked=args.only_masked,
        padding=args.padding,
    )


def _take_settings(args: argparse.Namespace) -> None:
    """Fill what the picture's infotext says into the options that the user has left at their defaults."""
    from ppdiffusers.pipelines.infotext import extract, parse

    text = extract(_open(args.from_picture))
    if text is None:
        raise ValueError(f"{args.from_picture} has no generation settings inside")
    told = parse(text)
    args.prompt = args.prompt or told.prompt
    args.negative_prompt = args.negative_prompt or told.negative_prompt
    width, height = told.size or (None, None)
    args.width, args.height = args.width or width, args.height or height
    values = {"RNG": "GPU", **told.values}
    if args.seed < 0 and "Seed" in values:
        args.seed = _number(int, "Seed", values["Seed"])
    for key, option, kind in (
        ("Steps", "steps", int),
        ("CFG scale", "cfg_scale", float),
        ("Sampler", "sampler", str),
        ("Schedule type", "schedule", str),
        ("Clip skip", "clip_skip", int),
        ("Eta", "eta", float),
        ("RNG", "rng", str.lower),
    ):
        if key in values and getattr(args, option) == DEFAULTS.get(option):
            setattr(args, option, _number(kind, key, values[key]))


def _take_advice(args: argparse.Namespace) -> None:
    """Fill what the model's folder advises into the options that the user has left at their defaults."""
    from app.runtime import RECOMMENDED, advice
    from ppdiffusers.weights.source import locate

    try:
        told = advice(locate(args.model) / RECOMMENDED)
    except ValueError:  # loading tells what is wrong with it, after the options have been checked
        return
    for option in ("steps", "cfg_scale", "sampler", "schedule"):
        if option in told and getattr(args, option) == DEFAULTS[option]:
            setattr(args, option, told[option])


def _number(kind: Callable[[str], Any], key: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"the picture's settings say {key}: {text}, which is no number") from None


def _open(path: str) -> Any:
    import PIL.Image

    from app.pictures import upright

    try:
        with PIL.Image.open(path) as image:
            image.load()
            return upright(image)
    except FileNotFoundError:
        raise ValueError(f"there is no picture {path}") from None
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as why:
        raise ValueError(f"{path} is not a picture that can be read: {why}") from why


def _control(given: str) -> Any:
    from ppdiffusers.pipelines.load import load_controlnet
    from ppdiffusers.pipelines.request import Control

    model, picture, *numbers = given.split(",")
    try:
        weight, start, end = (float(numbers[i]) if i < len(numbers) else (1.0, 0.0, 1.0)[i] for i in range(3))
    except ValueError:
        raise ValueError(f"--control {given}: weight, start and end must be numbers") from None
    net = load_controlnet(model)
    return Control(model=net, image=_open(picture), weight=weight, start=start, end=end, name=Path(model).stem)


def _save(event: Any, out: Path, count: int) -> Path:
    from app.save import save_picture

    path = out if count == 1 else out.with_stem(f"{out.stem}-{event.index + 1}")
    save_picture(event.image, path, event.infotext)
    return path
