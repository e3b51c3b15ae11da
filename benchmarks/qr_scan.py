"""How surely art QR codes scan and how much picture they leave: random links in several scripts, varied prompts.

    python benchmarks/qr_scan.py [--count 100] [--model FOLDER [--control FOLDER]] [--sheet FILE] [--page]

With a model the pictures are painted from prompts. Without one the codes go into photographs (assets/photos, or
--photos FOLDER), each cropped, mirrored and tinted at random: that measures everything but the painting. Every code is
read by every installed reader, plain and under each distortion, and the text is compared. Similarity is to the picture
without a code: SSIM of the lightness at 256 and at 64 pixels, shared colours, and CLIP where assets/models/mini-clip
is there. Results go to benchmarks/data/qr_scan.csv, one line a code; --page also writes its section of
docs/benchmarks/qr_scan.md.
"""

import argparse
import csv
import datetime
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SCRIPTS = (
    "abcdefghijklmnopqrstuvwxyz0123456789-_/",
    "абвгдежзийклмнопрстуфхцчшщыэюя",
    "日本語検索頁案内店品新着東京大阪",
    "中文页面查询网店商品北京上海产地",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "عربيةصفحةبحثمتجرجديد",
    "한국어검색상점새소식",
    "éèàüöäßñçøåœ",
)
SUBJECTS = (
    "a red apple",
    "a fox",
    "a sunflower",
    "a house",
    "a red balloon",
    "a rocket",
    "a penguin",
    "an evergreen tree",
)
PLACES = ("on a blue background", "on a yellow background", "3d style", "flat style", "on a light green background", "")
SMALL = 256  # side of the pictures that are kept for the sheet
COLUMNS: tuple[str, ...] = ("date", "model", "number", "text", "version", "side", "ok", "reader", "plain", "stress")
COLUMNS += ("margin", "rounds", "seconds", "ssim", "ssim_small", "colours", "clip")


INTRODUCTION = """# Do art QR codes scan?

Made by `python benchmarks/qr_scan.py --page`: random links of 20 to 120 characters, three in ten of them in Cyrillic,
Greek, Chinese, Japanese, Korean, Arabic or accented Latin, default settings. Each code is read by every reader, plain
and under fourteen distortions, and the text that was read is compared with the one that was wanted, character by
character. SSIM is to the picture without a code, at 256 pixels and as a thumbnail of 64; seconds are wall clock.
"""


def main() -> None:
    """Make the codes, print and keep what they do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--model", default="", help="a checkpoint file or folder; without it photographs are used")
    parser.add_argument("--control", default="", help="a ControlNet's folder that leads the light too")
    parser.add_argument("--weight", type=float, default=0.9, help="the ControlNet's")
    parser.add_argument("--photos", type=Path, default=ROOT / "assets" / "photos")
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--sheet", type=Path, help="save 36 codes as one picture")
    parser.add_argument("--page", action="store_true", help="write its section of docs/benchmarks/qr_scan.md")
    args = parser.parse_args()
    from app import environment

    environment.prepare()
    environment.import_paddle()
    rows, made = measured(args)
    if args.sheet:
        sheet([one.image for one in made[:36]], args.sheet)
    text = summary(rows, made, args)
    sys.stdout.write(text)
    keep(rows, made, args)
    if args.page:
        page(text, args)


def measured(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Any]]:
    """All codes, one line each as they get ready; an interrupt ends with what there is."""
    rows, made = [], []
    try:
        for row, code in codes(args):
            rows.append(row)
            made.append(
                replace(code, image=code.image.resize((SMALL, SMALL)), reference=None)
            )  # whole ones fill memory
            lost = "; ".join(code.report.failures()) or "all"
            state = "ok" if row["ok"] else "FAILED"
            sys.stdout.write(f"{len(rows):3} v{row['version']:<2} {state} {row['seconds']:5.1f} s  {lost}\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.write("interrupted\n")
    return rows, made


def links(count: int) -> list[str]:
    """Random links of 20 to 120 characters, three in ten beyond ASCII; the same every time."""
    rng = np.random.default_rng(20261125)
    made = []
    for _ in range(count):
        length = int(rng.integers(20, 121))
        script = SCRIPTS[0] if rng.random() < 0.7 else SCRIPTS[int(rng.integers(1, len(SCRIPTS)))]
        start = "https://example.com/"
        made.append(start + "".join(rng.choice(list(script), max(0, length - len(start)))))
    return made


def codes(args: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each code's row and the code itself, with default settings but for what the arguments say."""
    from app.runtime import RECOMMENDED, advice
    from mix.appflow.artqr.flow import ArtQR, CodePicture
    from mix.appflow.artqr.request import ArtQRRequest, Steering

    bundle, clip = _bundle(args.model), _clip()
    told = advice(Path(args.model) / RECOMMENDED) if args.model else {}
    how = {ours: told[theirs] for ours, theirs in (("steps", "steps"), ("cfg", "cfg_scale")) if theirs in told}
    steering = Steering(redraw=told.get("redraw", Steering.redraw))
    rng = np.random.default_rng(7)
    flow, controls = ArtQR(bundle), _controls(args)
    for number, text in enumerate(links(args.count)):
        prompt = f"{rng.choice(SUBJECTS)} {rng.choice(PLACES)}"
        picture = None if bundle is not None else photograph(args.photos, number, rng)
        asked = {"prompt": prompt, "seed": number, "strength": args.strength, "picture": picture}
        request = ArtQRRequest(text=text, controls=controls, steering=steering, **asked, **how)
        start = time.perf_counter()
        code = next(event for event in flow.stream(request) if isinstance(event, CodePicture))
        yield _row(code, request, number, time.perf_counter() - start, clip), code


def _row(code: Any, request: Any, number: int, seconds: float, clip: Any) -> dict[str, Any]:
    from mix.appflow.similarity import colours, meaning, structural

    reference = code.reference
    return {
        "number": number,
        "text": request.text,
        "version": code.version,
        "side": code.image.width,
        "ok": code.ok,
        "margin": code.report.margin,
        "rounds": code.rounds,
        "seconds": seconds,
        "ssim": structural(code.image, reference),
        "ssim_small": structural(code.image, reference, 64),
        "colours": colours(code.image, reference),
        "clip": meaning(clip, code.image, reference) if clip is not None else None,
    }


def photograph(folder: Path, number: int, rng: np.random.Generator) -> PIL.Image.Image:
    """One of the photographs, cropped, mirrored and tinted at random."""
    files = sorted(folder.glob("*.jpg"))
    image = PIL.Image.open(files[number % len(files)]).convert("RGB")
    side = int(min(image.size) * rng.uniform(0.5, 1))
    left, top = (int(rng.integers(0, whole - side + 1)) for whole in image.size)
    image = image.crop((left, top, left + side, top + side))
    if rng.random() < 0.5:
        image = PIL.ImageOps.mirror(image)
    image = PIL.ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.7, 1.4)))
    hue, saturation, value = image.convert("HSV").split()
    turn = int(rng.integers(0, 256)) if rng.random() < 0.5 else 0
    return PIL.Image.merge("HSV", (hue.point([(h + turn) % 256 for h in range(256)]), saturation, value)).convert("RGB")


def _bundle(model: str) -> Any:
    from ppdiffusers.pipelines.load import load_bundle

    return load_bundle(model) if model else None


def _controls(args: argparse.Namespace) -> tuple[Any, ...]:
    from mix.appflow.artqr.request import CodeControl
    from ppdiffusers.pipelines.load import load_controlnet

    if not args.control:
        return ()
    return (CodeControl(model=load_controlnet(args.control), weight=args.weight, name=Path(args.control).name),)


def _clip() -> Any:
    from ppdiffusers.models.clip_vision import CLIPModel

    folder = ROOT / "assets" / "models" / "mini-clip"
    return CLIPModel.from_pretrained(folder) if folder.is_dir() else None


def summary(rows: Sequence[dict[str, Any]], made: Sequence[Any], args: argparse.Namespace) -> str:
    """The tables as Markdown."""
    readers = list(made[0].report.read)
    names = list(made[0].report.read[readers[0]])
    on = (args.model and Path(args.model).name) or "photographs, no model"
    led = f", {Path(args.control).name} at {args.weight:g}" if args.control else ""
    lines = [f"\n{len(rows)} codes, strength {args.strength:g}, on {on}{led}\n"]
    lines += ["| reader | plain (1x) | distortions |", "| --- | --- | --- |"]
    for reader in readers:
        plain = sum(code.report.read[reader]["1x"] for code in made) / len(made)
        stress = statistics.fmean(code.report.rate(reader) for code in made)
        lines.append(f"| {reader} | {plain:.1%} | {stress:.1%} |")
    mean = statistics.fmean(code.report.rate() for code in made)
    every = sum(row["ok"] for row in rows) / len(rows)
    lines.append(f"| all | {every:.1%} | {mean:.1%} |")
    lines += ["", f"| distortion | {' | '.join(readers)} |", "| --- |" + " --- |" * len(readers)]
    for name in names:
        shares = (sum(code.report.read[r][name] for code in made) / len(made) for r in readers)
        lines.append(f"| {name} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    lines += ["", "| measure | median | worst |", "| --- | --- | --- |"]
    for name, worst in (("seconds", max), ("rounds", max), ("ssim", min), ("ssim_small", min), ("colours", min)):
        values = [row[name] for row in rows]
        lines.append(f"| {name} | {statistics.median(values):.2f} | {worst(values):.2f} |")
    if (clip := [row["clip"] for row in rows if row["clip"] is not None]) != []:
        lines.append(f"| clip | {statistics.median(clip):.2f} | {min(clip):.2f} |")
    return "\n".join(lines) + "\n"


def keep(rows: Sequence[dict[str, Any]], made: Sequence[Any], args: argparse.Namespace) -> None:
    """One line a code and reader; lines of other models stay."""
    path = ROOT / "benchmarks" / "data" / "qr_scan.csv"
    path.parent.mkdir(exist_ok=True)
    fixed = {"date": datetime.date.today().isoformat(), "model": Path(args.model).name if args.model else "none"}
    others = list[dict[str, Any]]()
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            others = [line for line in csv.DictReader(file) if line["model"] != fixed["model"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows(others)
        for row, code in zip(rows, made, strict=True):
            told = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
            for reader, read in code.report.read.items():
                values = {"reader": reader, "plain": read["1x"], "stress": round(code.report.rate(reader), 4)}
                writer.writerow(fixed | told | values)


def page(text: str, args: argparse.Namespace) -> None:
    """The section of this model in the documentation's page; the other sections stay."""
    path = ROOT / "docs" / "benchmarks" / "qr_scan.md"
    title = f"Pictures by {Path(args.model).name}" if args.model else "Photographs, no model"
    sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:] if path.is_file() else []
    known = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in sections}
    picture = f"\n![36 codes](../images/{args.sheet.name})\n" if args.sheet else ""
    known[title] = text.strip() + "\n" + picture
    parts = (f"## {name}\n\n{body.strip()}\n" for name, body in known.items())
    path.write_text("\n".join((INTRODUCTION, *parts)), encoding="utf-8")


def sheet(images: Sequence[PIL.Image.Image], path: Path, columns: int = 6, side: int = 230) -> None:
    """Pictures in a square, small enough for the documentation."""
    rows = -(-len(images) // columns)
    whole = PIL.Image.new("RGB", (columns * side, rows * side), "white")
    for number, image in enumerate(images):
        small = image.resize((side - 8, side - 8), PIL.Image.Resampling.LANCZOS)
        whole.paste(small, (number % columns * side + 4, number // columns * side + 4))
    for quality in (85, 75, 65, 55, 45):
        whole.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= 400_000:
            break


if __name__ == "__main__":
    main()
