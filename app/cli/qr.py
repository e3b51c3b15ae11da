"""A QR code for a link that is a picture, checked by several readers before it is handed over."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

SHAPES = ("rounded", "square", "dot")
SAME = ("prompt", "negative_prompt", "model", "strength", "error_correction", "version", "mask_pattern", "shape")
SAME += ("quiet", "scale", "size", "candidates", "seed", "steps", "cfg_scale", "sampler", "guidance", "redraw")
SAME += ("rounds",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mixstudio qr` understands."""
    says = parser.add_argument_group("what the code says (one of these)")
    says.add_argument("--text", "-t", help="a link (https://... or example.com) or any text")
    says.add_argument("--wifi", metavar="NAME", help="a network to join; --password and --security belong to it")
    says.add_argument("--password", default="")
    says.add_argument("--security", choices=("WPA", "WEP", "nopass"), default="WPA")
    says.add_argument("--hidden", action="store_true", help="the network does not show its name")
    says.add_argument("--contact", metavar="KEY=VALUE", nargs="+", help="name=, phone=, email=, url=, organisation=...")
    shows = parser.add_argument_group("what it shows")
    shows.add_argument("--prompt", "-p", default="", help="the picture")
    shows.add_argument("--negative-prompt", "-n", default="")
    shows.add_argument("--picture", metavar="FILE", help="put the code into this picture instead of painting one")
    shows.add_argument("--strength", type=float, default=0.5, help="0: nearly the picture, 1: nearly the plain code")
    shows.add_argument(
        "--candidates", type=int, default=1, help="so many tries, the best is written; others get -2, -3"
    )
    _add_code(parser)
    _add_model(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--out", "-o", default="qr.png", help="a .png, .jpg or .webp file")
    out.add_argument("--force", action="store_true", help="write codes that do not scan, and end with success")
    out.add_argument("--data", metavar="FOLDER", help="the studio's folder with models and settings")
    out.add_argument("--json", action="store_true", help="one line of JSON per event on stdout, no progress bar")


def _add_code(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("code")
    group.add_argument("--error-correction", choices=("L", "M", "Q", "H"), default="M")
    group.add_argument("--version", type=int, default=0, help="1 to 40; 0 lets the code choose")
    group.add_argument("--mask-pattern", type=int, default=-1, help="0 to 7; -1 takes the one that fits the picture")
    group.add_argument("--no-follow", action="store_true", help="standard padding, not one that follows the picture")
    group.add_argument("--shape", choices=SHAPES, default="rounded")
    group.add_argument("--quiet", type=float, default=2.0, help="quiet zone in modules")
    group.add_argument("--scale", type=float, default=1.0, help="part of the picture that the code takes")
    group.add_argument("--place", type=float, nargs=2, default=(0.5, 0.5), metavar=("X", "Y"))
    group.add_argument("--size", type=int, default=0, help="side in pixels; 0: enough for the modules")


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("painting")
    group.add_argument("--model", default="", help="a checkpoint of the studio by name; 'none' only with --picture")
    group.add_argument("--seed", type=int, default=-1, help="-1: a new one")
    group.add_argument("--steps", type=int)
    group.add_argument("--cfg-scale", type=float)
    group.add_argument("--sampler")
    group.add_argument("--guidance", type=float, help="how strongly the model is led towards the code; 0: off")
    group.add_argument("--redraw", type=float, help="strength of the guided pass; default: what suits the model")
    group.add_argument("--rounds", type=int, default=8, help="of repair and checking, at most")
    group.add_argument(
        "--control", action="append", default=[], metavar="NAME[,WEIGHT[,START[,END]]]", help="a ControlNet, up to two"
    )


def run(args: argparse.Namespace) -> int:
    """Make the codes, write the best; 1 where none scans."""
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
    from app.requests_qr import QrParams
    from app.services import Saved
    from app.services import run as work
    from app.studio import Studio

    made: list[Saved] = []
    with Studio.open(args.data) as studio, Bar(quiet=args.json) as bar:
        params = studio.parse(QrParams, values)
        try:
            for event in work(studio, params):
                if isinstance(event, Saved):
                    made.append(event)
                else:
                    _tell(event, args, bar)
        except KeyError as why:  # a model by that name is not here
            raise ValueError(str(why.args[0])) from None
    return _write(made, out, args)


def _values(args: argparse.Namespace) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(args, name) for name in SAME}
    values |= {"follow": not args.no_follow, "place_x": args.place[0], "place_y": args.place[1], "save": False}
    given = [name for name in ("text", "wifi", "contact") if getattr(args, name) is not None]
    if len(given) != 1:
        raise ValueError("say what the code says: one of --text, --wifi and --contact")
    if args.text is not None:
        values |= {"content": "link" if _is_link(args.text) else "text", "text": args.text}
    elif args.wifi is not None:
        wifi = {"name": args.wifi, "password": args.password, "security": args.security, "hidden": args.hidden}
        values |= {"content": "wifi", "wifi": wifi}
    else:
        pairs = [one.partition("=") for one in args.contact]
        values |= {"content": "contact", "contact": {key: value for key, _, value in pairs}}
    values["controls"] = [_control(one) for one in args.control]
    if args.picture:
        from app.pictures import open_file

        values["picture"] = open_file(args.picture)
    return values


def _is_link(text: str) -> bool:
    return not any(c.isspace() for c in text.strip()) and ("://" in text or "." in text.split("/")[0])


def _control(given: str) -> dict[str, Any]:
    model, *numbers = given.split(",")
    try:
        return {"model": model} | dict(zip(("weight", "start", "end"), map(float, numbers), strict=False))
    except ValueError:
        raise ValueError(f"--control {given}: weight, start and end must be numbers") from None


def _tell(event: Any, args: argparse.Namespace, bar: Any) -> None:
    from ppdiffusers.pipelines.event import Note, Progress

    if isinstance(event, Note | Progress) and args.json:
        print(json.dumps({"event": type(event).__name__.lower(), **vars(event)}), flush=True)
    elif isinstance(event, Note):
        bar.note(event.text, event.warning)
    elif isinstance(event, Progress):
        bar.show(event.step, event.of, event.note)


def _write(made: list[Any], out: Path, args: argparse.Namespace) -> int:
    """The best first; codes that fail only where they are wanted."""
    from app.save import save_picture

    made = sorted(made, key=lambda one: -one.extra["qr"]["score"])
    good = [one for one in made if one.extra["qr"]["ok"]]
    for number, one in enumerate(made if args.force else good, start=1):
        path = out if number == 1 else out.with_stem(f"{out.stem}-{number}")
        save_picture(one.picture(), path, one.infotext)
        report = one.extra["qr"]
        told = {"event": "image", "path": str(path), "seed": one.seed, "infotext": one.infotext, "report": report}
        print(json.dumps(told) if args.json else f"{path}  {_short(report)}", flush=True)
    if good:
        return 0
    why = "; ".join(made[0].extra["qr"]["reasons"]) if made else "nothing was made"
    print(f"no code scans with every reader: {why}", file=sys.stderr)
    return 0 if args.force else 1


def _short(report: dict[str, Any]) -> str:
    plain = [name for name, row in report["readers"].items() if row["1x"]]
    return (
        f"read by {', '.join(plain) or 'nobody'}; {report['rate']:.0%} under distortions; "
        f"{report['similarity']:.0%} like the picture; {report['rounds']} rounds"
    )
