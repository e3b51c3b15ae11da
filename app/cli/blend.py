"""Blend two photos into one picture that is both, or into a strip from one to the other."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

METHODS = ("latent", "structure+look", "composite", "dissolve")
SHAPES = ("subject", "shadows", "left-right", "top-bottom", "diagonal", "radial", "mask")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mixstudio blend` understands."""
    parser.add_argument("a", metavar="A", help="the first photo")
    parser.add_argument("b", metavar="B", help="the second photo")
    parser.add_argument("--balance", type=float, default=0.5, help="0 is the first photo, 1 the second")
    parser.add_argument("--strip", type=int, default=0, metavar="N", help="N balances from 0 to 1 instead of one")
    parser.add_argument("--method", choices=METHODS, default="latent")
    parser.add_argument("--shape", choices=SHAPES, default="subject", help="where a composite's seam runs")
    parser.add_argument("--mask", metavar="FILE", help="for --shape mask: white is the second photo")
    _add_model(parser)
    look = parser.add_argument_group("look")
    look.add_argument("--strength", type=float, default=0.4, help="how much is painted anew in the middle, 0 to 1")
    look.add_argument("--selective", type=float, default=0.7, help="0: mix evenly, 1: each place the stronger photo's")
    look.add_argument("--texture", type=float, default=0.7, help="of structure+look: brushwork besides colours")
    look.add_argument("--softness", type=float, default=0.15, help="of a composite's seam")
    fitting = parser.add_argument_group("fitting")
    fitting.add_argument("--align", choices=("crop", "pad", "stretch"), default="crop")
    fitting.add_argument("--no-focus", action="store_true", help="crop the middle, not what catches the eye")
    fitting.add_argument("--match", action="store_true", help="lay the second onto the first: both show the same thing")
    fitting.add_argument("--size", type=int, default=768, help="longer side of the result")
    fitting.add_argument("--width", "-W", type=int, default=0)
    fitting.add_argument("--height", "-H", type=int, default=0)
    out = parser.add_argument_group("output")
    out.add_argument("--out", "-o", default="blend.png", help="a .png, .jpg or .webp file; a strip gets -1, -2, ...")
    out.add_argument("--data", metavar="FOLDER", help="the studio's folder with models and settings")
    out.add_argument("--json", action="store_true", help="one line of JSON per event on stdout, no progress bar")


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("painting")
    group.add_argument("--prompt", "-p", default="", help="what to paint where the blend is painted anew")
    group.add_argument("--negative-prompt", "-n", default="")
    group.add_argument("--model", default="", help="a checkpoint of the studio by name; 'none' blends pixels alone")
    group.add_argument("--control", default="", help="a ControlNet that holds the shapes, by name")
    group.add_argument("--control-reads", choices=("luminance", "canny"), default="luminance")
    group.add_argument("--control-weight", type=float, default=0.6)
    group.add_argument("--steps", type=int)
    group.add_argument("--cfg-scale", type=float)
    group.add_argument("--sampler", default="DPM++ 2M")
    group.add_argument("--schedule", default="SGM Uniform")
    group.add_argument("--seed", type=int, default=-1, help="-1: a new one")


def run(args: argparse.Namespace) -> int:
    """Check, blend, write; the pictures' paths are printed."""
    from app.save import FORMATS

    out = Path(args.out)
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"{out.name} is no picture format that is written; use {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise ValueError(f"the folder {out.parent} does not exist")
    values = _values(args)
    from app.environment import import_paddle

    import_paddle()
    from app.cli.progress import Bar
    from app.requests_blend import BlendParams
    from app.services import run as work
    from app.studio import Studio

    with Studio.open(args.data) as studio, Bar(quiet=args.json) as bar:
        params = studio.parse(BlendParams, values)
        try:
            for event in work(studio, params):
                _tell(event, args, bar, out)
        except KeyError as why:  # a model by that name is not here
            raise ValueError(str(why.args[0])) from None
    return 0


def _values(args: argparse.Namespace) -> dict[str, Any]:
    from app.pictures import open_file

    same = ("balance", "strip", "method", "shape", "prompt", "negative_prompt", "model", "strength", "selective")
    same += ("texture", "softness", "align", "match", "size", "width", "height", "steps", "cfg_scale", "sampler")
    same += ("schedule", "seed", "control", "control_reads", "control_weight")
    values = {name: getattr(args, name) for name in same}
    values |= {"image_a": open_file(args.a), "image_b": open_file(args.b), "focus": not args.no_focus, "save": False}
    return values | ({"mask": open_file(args.mask)} if args.mask else {})


def _tell(event: Any, args: argparse.Namespace, bar: Any, out: Path) -> None:
    from app.save import save_picture
    from app.services import Saved
    from ppdiffusers.pipelines.event import Note, Progress

    if isinstance(event, Saved):
        path = out if not args.strip else out.with_stem(f"{out.stem}-{event.index + 1}")
        save_picture(event.picture(), path, event.infotext)
        told = {"event": "image", "path": str(path), "seed": event.seed, "infotext": event.infotext}
        bar.clear()
        print(json.dumps(told) if args.json else path, flush=True)
    elif isinstance(event, Note | Progress) and args.json:
        print(json.dumps({"event": type(event).__name__.lower(), **vars(event)}), flush=True)
    elif isinstance(event, Note):
        bar.note(event.text, event.warning)
    elif isinstance(event, Progress):
        bar.show(event.step, event.of, event.note)
    sys.stdout.flush()
