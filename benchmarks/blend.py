"""Blends of 20 photo pairs: how like each photo the ends are, whether likeness only rises and only falls, and seconds.

    python benchmarks/blend.py [--model NAME] [--vae FOLDER] [--methods latent,composite:shadows] [--strength 0.4]
                               [--size 512] [--prompt TEXT] [--sheet FILE]

The pairs are of the photographs in assets/photos, each fitted to the other; --photos names another folder. Likeness is
measured against the fitted photos: SSIM, edges and colours always, CLIP where assets/models/mini-clip is there.
Results go to benchmarks/data/blend.csv.
"""

import argparse
import csv
import datetime
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

METHODS = "latent,structure+look,composite:subject,composite:shadows,composite:left-right,dissolve"
COLUMNS = (
    *("date", "model", "method", "strength", "size", "pairs", "measure", "end_a", "end_b", "apart", "one_way"),
    "seconds",
)
STEPS = 5


def main() -> None:
    """Blend all pairs by each method, print and keep a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "assets" / "photos")
    parser.add_argument("--model", default="", help="a checkpoint file or folder; without it nothing is painted anew")
    parser.add_argument("--vae", default="", help="an autoencoder's folder: the latent method without a UNet")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--strength", type=float, default=0.4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--prompt", default="")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--pick", default="", help="these pairs instead: rocket+dahlia,pagoda+cat; nothing is kept")
    parser.add_argument("--sheet", type=Path, help="save the strips as one picture")
    args = parser.parse_args()
    from app import environment

    environment.prepare()
    environment.import_paddle()
    bundle, clip, pairs = _bundle(args), _clip(), _pairs(args)
    rows, strips = [], []
    for method in args.methods.split(","):
        if method == "latent" and bundle is None:
            sys.stdout.write("latent: needs --model or --vae\n")
            continue
        found, made = measure(bundle, clip, pairs, method, args)
        strips += [(method, strip) for strip in made]
        for name, values in found.items():
            told = (datetime.date.today().isoformat(), bundle.name if bundle else "none", method)
            rows.append((*told, args.strength, args.size, len(pairs), name, *values))
            words = "ends {} {}  photos apart {}  one way {:>3}/{}  {} s a blend"
            sys.stdout.write(f"{method:<22}{name:<9}{words.format(*values[:4], len(pairs), values[4])}\n")
            sys.stdout.flush()
    if not args.pick:
        _keep(rows)
    if args.sheet:
        sheet(strips).save(args.sheet, quality=85)


def _pairs(args: argparse.Namespace) -> list[tuple[Any, Any]]:
    """Every two photographs of the folder up to so many, or those that are picked by name."""
    import PIL.Image

    photos = {path.stem: PIL.Image.open(path) for path in sorted(args.photos.glob("*.jpg"))}
    if args.pick:
        return [tuple(photos[name] for name in pair.split("+")) for pair in args.pick.split(",")]  # type: ignore[misc]
    if len(photos) < 2:
        raise SystemExit(f"{args.photos} has fewer than two .jpg photographs")
    return list(itertools.combinations(photos.values(), 2))[: args.pairs]


def _bundle(args: argparse.Namespace) -> Any:
    """The checkpoint; with --vae alone a tiny random UNet stands in, which is not called at strength 0."""
    from ppdiffusers.pipelines.load import load_bundle

    if args.model:
        return load_bundle(args.model)
    if not args.vae:
        return None
    from dataclasses import replace

    from ppdiffusers.models.vae import AutoencoderKL
    from tests.ppdiffusers.pipelines.conftest import tiny

    args.strength = 0.0
    return replace(tiny("sd15", sample_size=32), name="autoencoder alone", vae=AutoencoderKL.from_pretrained(args.vae))


def _clip() -> Any:
    folder = ROOT / "assets" / "models" / "mini-clip"
    if not folder.is_dir():
        return None
    from ppdiffusers.models.clip_vision import CLIPModel

    return CLIPModel.from_pretrained(str(folder))


def measure(
    bundle: Any, clip: Any, pairs: Sequence[tuple[Any, Any]], method: str, args: argparse.Namespace
) -> tuple[dict[str, tuple[Any, ...]], list[Any]]:
    """For each measure: likeness of the ends, of the photos to each other, how many pairs go one way, seconds."""
    from mix.appflow import similarity
    from mix.appflow.blend import Blend, Blended, BlendRequest
    from mix.appflow.blend.align import align, to_image

    measures: dict[str, Any] = {
        "ssim": similarity.structural,
        "edges": similarity.edges,
        "colours": similarity.colours,
        "all": similarity.likeness,
    }
    if clip is not None:
        measures["clip"] = lambda one, other: similarity.meaning(clip, one, other)
    lines: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in measures}
    way, _, shape = method.partition(":")
    seconds, strips = 0.0, []
    for a, b in pairs:
        asked: dict[str, Any] = {"method": way, "size": args.size, "strength": args.strength, "prompt": args.prompt}
        request = BlendRequest(a=a, b=b, **asked, **({"shape": shape} if shape else {}))
        pair, begun = align(request), time.perf_counter()
        strip = [e.image for e in Blend(bundle).strip(request, STEPS) if isinstance(e, Blended)]
        seconds += time.perf_counter() - begun
        strips.append(strip)
        photos = to_image(pair.a), to_image(pair.b)
        for name, like in measures.items():
            lines[name].append(tuple([like(picture, photo) for picture in strip] for photo in photos))  # type: ignore
    each = f"{seconds / len(pairs) / STEPS:.2f}"
    return {name: (*_summary(found), each) for name, found in lines.items()}, strips


def _summary(lines: Sequence[tuple[list[float], list[float]]]) -> tuple[str, str, str, int]:
    """Means of the ends' likeness and of the photos' to each other; how many pairs rise and fall all the way."""
    count = len(lines)
    end_a, end_b = sum(a[0] for a, _ in lines) / count, sum(b[-1] for _, b in lines) / count
    apart = sum(a[-1] for a, _ in lines) / count
    falls = [all(x > y for x, y in itertools.pairwise(a)) for a, _ in lines]
    rises = [all(x < y for x, y in itertools.pairwise(b)) for _, b in lines]
    return f"{end_a:.4f}", f"{end_b:.4f}", f"{apart:.3f}", sum(f and r for f, r in zip(falls, rises, strict=True))


def sheet(strips: Sequence[tuple[str, Sequence[Any]]], width: int = 208) -> Any:
    """One row a strip, its method written above it."""
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

    line, gap = 20, 4
    rows = [(name, [p.resize((width, round(p.height * width / p.width))) for p in strip]) for name, strip in strips]
    heights = [line + row[0].height + gap for _, row in rows]
    whole = PIL.Image.new("RGB", (width * STEPS + gap * (STEPS - 1), sum(heights)), "white")
    draw, font, top = PIL.ImageDraw.Draw(whole), PIL.ImageFont.load_default(13), 0
    for (name, row), height in zip(rows, heights, strict=True):
        draw.text((2, top + 2), name, fill="#222", font=font)
        for i, picture in enumerate(row):
            whole.paste(picture, (i * (width + gap), top + line))
        top += height
    return whole


def _keep(rows: Sequence[tuple[Any, ...]]) -> None:
    path = ROOT / "benchmarks" / "data" / "blend.csv"
    path.parent.mkdir(exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
