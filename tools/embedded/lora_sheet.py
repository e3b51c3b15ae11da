"""What the style LoRAs do: the same seeds without, at half and at full strength.

python lora_sheet.py --model build/unet --loras build/loras --out sheet.webp
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from app import environment

environment.prepare()

from PIL import Image  # noqa: E402
from styles import STYLES  # noqa: E402

from app.runtime import RECOMMENDED, advice  # noqa: E402
from ppdiffusers.pipelines.adapters import Library  # noqa: E402
from ppdiffusers.pipelines.event import Image as Made  # noqa: E402
from ppdiffusers.pipelines.load import load_bundle  # noqa: E402
from ppdiffusers.pipelines.request import Request, Sampling  # noqa: E402
from ppdiffusers.pipelines.run import run  # noqa: E402

THINGS = ("a fox, flat style", "a 3d render of a castle", "a blue butterfly")
WEIGHTS = (0.0, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--loras", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=144)
    args = parser.parse_args()
    bundle, told = load_bundle(args.model), advice(args.model / RECOMMENDED)
    library = Library.of_folders(args.loras)
    sampling = Sampling(steps=told.get("steps", 20), cfg_scale=told.get("cfg_scale", 4.0))
    page = Image.new("RGB", (len(THINGS) * len(WEIGHTS) * args.side, len(STYLES) * args.side), "white")
    for row, style in enumerate(STYLES):
        for column, (thing, weight) in enumerate((t, w) for t in THINGS for w in WEIGHTS):
            tag = f" <lora:{style}:{weight}>" if weight else ""
            seed = THINGS.index(thing) + 1
            asked = Request(prompts=(thing + tag,), seeds=(seed,), width=256, height=256, sampling=sampling)
            (made,) = (event.image for event in run(bundle, asked, library) if isinstance(event, Made))
            page.paste(
                made.resize((args.side, args.side), Image.Resampling.LANCZOS), (column * args.side, row * args.side)
            )
    page.save(args.out, quality=85)


if __name__ == "__main__":
    main()
