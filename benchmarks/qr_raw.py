"""How many codes scan as a ControlNet alone paints them, before any repair.

    python benchmarks/qr_raw.py [--model FOLDER] [--control FOLDER] [--count 100] [--weights 0.7,1,1.4] [--sheet FILE]

The links and prompts of qr_scan.py; the code in its smallest version, error correction H, painted in one pass at the
side at which the art QR flow leads a model. Each is read once by every installed reader, as it is; "any" counts codes
that at least one of them read. Nothing is adapted, guided or repaired: that is what the flow adds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from qr_scan import PLACES, SUBJECTS, links, sheet

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
MODELS = ROOT / "assets" / "models"


def main() -> None:
    """Paint, read, and print a table of the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODELS / "mini-diffusion")
    parser.add_argument("--control", type=Path, default=MODELS / "mini-controlnet-qr")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--weights", default="0.7,1,1.4", help="strengths of the ControlNet")
    parser.add_argument("--level", default="H")
    parser.add_argument("--sheet", type=Path, help="save 36 codes of the last strength as one picture")
    args = parser.parse_args()
    from app import environment

    environment.prepare()
    environment.import_paddle()
    paint = painter(args)
    lines = list[str]()
    for weight in map(float, args.weights.split(",")):
        read, seconds, pictures = list[dict[str, bool]](), list[float](), list[PIL.Image.Image]()
        for picture, heard, spent in paint(weight):
            read.append(heard)
            seconds.append(spent)
            pictures.append(picture)
            sys.stdout.write(f"{weight:g} {len(read):3} {spent:4.1f} s  {[name for name, ok in heard.items() if ok]}\n")
            sys.stdout.flush()
        names = list(read[0])
        shares = [sum(one[name] for one in read) / len(read) for name in names]
        shares.append(sum(any(one.values()) for one in read) / len(read))
        if not lines:
            lines = [f"| strength | {' | '.join(names)} | any | seconds |", "| --- |" + " --- |" * (len(names) + 2)]
        told = " | ".join(f"{share:.0%}" for share in shares)
        lines.append(f"| {weight:g} | {told} | {statistics.median(seconds):.1f} |")
        if args.sheet:
            sheet(pictures[:36], args.sheet)
    sys.stdout.write("\n".join(["", f"{args.count} codes, level {args.level}", "", *lines]) + "\n")


def painter(args: argparse.Namespace) -> Any:
    """A function from a strength to pictures, what each reader made of them, and seconds."""
    from app.runtime import RECOMMENDED, advice
    from mix.appflow.artqr.draw import control
    from mix.appflow.artqr.request import ArtQRRequest
    from mix.appflow.artqr.scan import PLAIN, scan
    from ppdiffusers.pipelines.event import Image
    from ppdiffusers.pipelines.load import load_bundle, load_controlnet
    from ppdiffusers.pipelines.request import Control, Request, Sampling
    from ppdiffusers.pipelines.run import run

    bundle, net, told = (
        load_bundle(args.model),
        load_controlnet(args.control),
        advice(args.model / RECOMMENDED),
    )
    sampling = Sampling(steps=int(told.get("steps", 20)), cfg_scale=float(told.get("cfg_scale", 6)))
    native = int(bundle.unet.config.sample_size or 64) * bundle.factor

    def paint(weight: float) -> Iterator[tuple[PIL.Image.Image, dict[str, bool], float]]:
        rng = np.random.default_rng(7)
        for number, text in enumerate(links(args.count)):
            prompt = f"{rng.choice(SUBJECTS)} {rng.choice(PLACES)}"
            asked = ArtQRRequest(text=text, prompt=prompt, level=args.level, follow=False)
            side = asked.work_side(native, max(64, bundle.factor))
            shown = control(asked.code(), asked.layout(side), asked.shape)
            unit = Control(model=net, image=shown, weight=weight, name=args.control.name)
            request = Request(
                prompts=(prompt,), seeds=(number,), width=side, height=side, sampling=sampling, controls=(unit,)
            )
            began = time.perf_counter()
            picture = next(event.image for event in run(bundle, request) if isinstance(event, Image))
            spent = time.perf_counter() - began
            read = scan(picture, text, ()).read
            yield picture, {name: found[PLAIN] for name, found in read.items()}, spent

    return paint


if __name__ == "__main__":
    main()
