"""An 8 x 8 sheet of an embedded model, uncurated: half captions of the set, half combinations that are not in it.

python model_sheet.py --model build/model --set build/small/unet --out sheet.webp --table prompts.md [--made pictures/]

Seeds are 1 to 64 in order; sampler, steps and scale are those that the model's mixstudio.json advises.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from app import environment

environment.prepare()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from scenes import with_article  # noqa: E402
from small_set import FEW, PLAIN, SAY  # noqa: E402

from app.runtime import RECOMMENDED, advice  # noqa: E402
from ppdiffusers.pipelines.event import Image as Made  # noqa: E402
from ppdiffusers.pipelines.load import load_bundle  # noqa: E402
from ppdiffusers.pipelines.request import Request, Sampling  # noqa: E402
from ppdiffusers.pipelines.run import run  # noqa: E402

WAYS = {"flat": "{}, flat style", "3d": "a 3d render of {}", "glossy": "a glossy icon of {}"}


def prompts(rows: list[dict[str, Any]], count: int) -> list[tuple[str, str, bool]]:
    """(prompt, name, whether the combination of object, style and ground is new), every object at least once."""
    rng = np.random.default_rng(0)
    seen = {(r["name"], r["style"], word) for r in rows for word in PLAIN if f"{word} background" in r["text"]}
    names = [str(name) for _ in range(-(-count // len(FEW))) for name in rng.permutation(FEW)][:count]
    told = []
    for i, name in enumerate(names):
        known = [r for r in rows if r["name"] == name]
        if i % 2 == 0:
            told.append((known[rng.integers(len(known))]["text"], str(name), False))
            continue
        style = str(rng.choice(list(WAYS)))
        free = [w for w in PLAIN[1:] if (name, style, w) not in seen]
        ground = str(rng.choice(free))
        said = with_article(SAY.get(name, name), {"name": SAY.get(name, name), "plural": False})
        article = "an" if ground[0] in "aeio" else "a"
        told.append((f"{WAYS[style].format(said)} on {article} {ground} background", str(name), True))
    return told


def each(names: list[str]) -> list[tuple[str, str, bool]]:
    """A prompt for each name, on white, in a style by turns."""
    ways = itertools.cycle(WAYS.values())
    said = (SAY.get(name, name) for name in names)
    return [(next(ways).format(with_article(s, {"name": s})), n, False) for s, n in zip(said, names, strict=True)]


def made(model: Path, said: list[str], steps: int) -> list[Image.Image]:
    """One picture each, seeds from 1."""
    bundle, told = load_bundle(model), advice(model / RECOMMENDED)
    side = int(bundle.unet.config.sample_size or 32) * bundle.factor
    sampling = Sampling(
        sampler=told.get("sampler", "DPM++ 2M"),
        schedule=told.get("schedule", "Automatic"),
        steps=steps or told.get("steps", 20),
        cfg_scale=told.get("cfg_scale", 5.0),
    )
    found = []
    for start in range(0, len(said), 8):
        part = said[start : start + 8]
        seeds = tuple(range(start + 1, start + 1 + len(part)))
        request = Request(prompts=tuple(part), seeds=seeds, width=side, height=side, sampling=sampling)
        found += [event.image for event in run(bundle, request) if isinstance(event, Made)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--set", type=Path, required=True, help="the folder that it was trained on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="prompts as a Markdown table")
    parser.add_argument("--made", type=Path, help="a folder for the single pictures, named by their objects")
    parser.add_argument("--names", type=Path, help="a JSON list: one picture of each of these instead")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--side", type=int, default=160, help="of a picture on the sheet")
    parser.add_argument("--steps", type=int, default=0)
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.set / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    told = prompts(rows, args.count) if args.names is None else each(json.loads(args.names.read_text(encoding="utf-8")))
    pictures = made(args.model, [said for said, _, _ in told], args.steps)
    page = Image.new("RGB", (8 * args.side, -(-len(pictures) // 8) * args.side), "white")
    for n, picture in enumerate(pictures):
        small = picture.resize((args.side, args.side), Image.Resampling.LANCZOS)
        page.paste(small, (n % 8 * args.side, n // 8 * args.side))
    page.save(args.out, quality=82)
    if args.table is not None:
        lines = ["| seed | prompt | combination |", "| --- | --- | --- |"]
        lines += [f"| {n} | {said} | {'new' if new else 'in the set'} |" for n, (said, _, new) in enumerate(told, 1)]
        args.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if args.made is not None:
        args.made.mkdir(parents=True, exist_ok=True)
        for n, (picture, (_, name, _)) in enumerate(zip(pictures, told, strict=True), 1):
            picture.save(args.made / f"{n:03d} {name}.png")


if __name__ == "__main__":
    main()
