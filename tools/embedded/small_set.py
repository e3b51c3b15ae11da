"""Picture folders for the small models that a CPU trains, from the pack: for the autoencoder, CLIP pair and UNet.

    python small_set.py --data pack --out build/small

Writes OUT/vae (pictures without captions), OUT/pairs and OUT/unet (with metadata.jsonl), as `launch.py train` reads
them, and OUT/judge: the drawings of vendors that the UNet never sees. Pictures under the GPL or LGPL are left out, and
so is everything that is held out. The same seed gives the same files.
"""

import argparse
import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scenes import DARK, PALETTE, STYLE, with_article
from styles import STYLES
from subset_pack import KEPT_BACK

Record = dict[str, Any]

GENERATOR = ("fluent-3d", "fluent", "fluent-flat")  # one hand in three styles; the others become LoRAs
JUDGE = KEPT_BACK  # vendors that no stage of the generator saw
FEW = (  # what the UNet learns last, large and in one place; the pairs have all of NAMES
    *("fox", "panda", "penguin", "frog", "red apple", "strawberry"),
    *("mushroom", "sunflower", "star", "red heart", "house", "rocket"),
    *("cat", "dog", "owl", "butterfly", "evergreen tree", "cactus", "castle", "rose"),
    *("elephant", "turtle", "tropical fish", "bird", "rabbit face", "automobile", "sailboat", "airplane"),
    *("guitar", "umbrella", "crown", "banana", "pizza", "soft ice cream", "birthday cake", "cherries"),
    *("balloon", "teddy bear", "crescent moon", "tulip"),
)
HUES = {"red": 0, "green": 60, "blue": 108, "purple": 136, "pink": 163}  # in OpenCV's halves of a degree
TINTED = {  # objects that are shown in other hues too, so that a word of colour does not stand for one object
    **{"fox": "red", "frog": "green", "mushroom": "red", "star": "yellow", "house": "red", "rocket": "red"},
    **{"red apple": "red", "red heart": "red", "butterfly": "blue", "cat": "orange", "dog": "orange"},
    **{"owl": "brown", "rose": "red", "bird": "blue", "automobile": "red", "sailboat": "blue", "umbrella": "purple"},
    **{"balloon": "red", "tulip": "pink"},
}
NAMES = tuple(
    """fox|cat face|dog face|panda|bear|koala|lion|tiger face|cow face|pig face|rabbit face|monkey face|mouse face|frog
wolf|penguin|owl|baby chick|elephant|turtle|octopus|fish|tropical fish|dolphin|butterfly|lady beetle|honeybee|snail
red apple|green apple|pear|tangerine|lemon|banana|strawberry|cherries|grapes|watermelon|pineapple|tomato|eggplant
carrot|mushroom|hamburger|pizza|doughnut|cookie|soft ice cream|birthday cake|lollipop|french fries|hot beverage
sun|crescent moon|star|cloud|rainbow|fire|droplet|snowflake|sunflower|rose|tulip|hibiscus|four leaf clover|cactus
palm tree|evergreen tree|deciduous tree|maple leaf|seedling|volcano|red heart|blue heart|green heart|yellow heart|key
bell|balloon|crown|gem stone|light bulb|umbrella|house|rocket|airplane|automobile|bus|sailboat|soccer ball|basketball
guitar|camera|trophy|closed book|wrapped gift|alarm clock|ghost|alien|robot|jack-o-lantern|skull
snowman without snow|grinning face|smiling face with sunglasses|winking face|castle|christmas tree|anchor""".replace(
        "\n", "|"
    ).split("|")
)
SAY = {"snowman without snow": "snowman", "closed book": "book", "soft ice cream": "ice cream cone"}
SAY |= {"wrapped gift": "gift", "jack-o-lantern": "halloween pumpkin", "hot beverage": "cup of coffee"}
SAY |= {"lady beetle": "ladybug", "automobile": "car", "deciduous tree": "tree", "honeybee": "bee"}
SAY |= {"evergreen tree": "tree", "rabbit face": "rabbit", "crescent moon": "moon", "tropical fish": "fish"}
PLAIN = ("white", "light grey", "yellow", "light green", "light blue", "pink", "beige", "lavender", "red", "blue")
PLAIN += ("green", "orange", "purple", "black")


class Pack:
    """Records of the pack and their pictures, decoded when they are asked for."""

    def __init__(self, folder: Path) -> None:
        def lines(name: str) -> list[Record]:
            found = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
            return [r for r in found if "GPL" not in r["licence"]]

        self.drawings, self.photos = lines("captions.jsonl"), lines("photos.jsonl")
        wanted = {r["file"] for r in self.drawings + self.photos}
        self.blobs: dict[str, bytes] = {}
        for path in sorted(folder.glob("pack_*.tar")):
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.name in wanted and (file := archive.extractfile(member)) is not None:
                        self.blobs[member.name] = file.read()

    def open(self, record: Record, mode: str = "RGBA") -> Image.Image:
        return Image.open(io.BytesIO(self.blobs[record["file"]])).convert(mode)


def solid(colour: Any, rng: np.random.Generator, jitter: float = 10.0) -> tuple[int, int, int]:
    """One RGB colour near another."""
    shifted = np.clip(np.asarray(colour) + rng.uniform(-jitter, jitter, 3), 0, 255)
    return int(shifted[0]), int(shifted[1]), int(shifted[2])


def place(ground: Image.Image, drawing: Image.Image, share: float, centre: tuple[float, float], flip: bool) -> None:
    """Put a drawing on the ground: `share` of its side, around a centre in shares of it."""
    side = max(8, round(ground.width * share))
    small = drawing.resize((side, side), Image.Resampling.LANCZOS)
    small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else small
    ground.paste(small, tuple(round(ground.width * c - side / 2) for c in centre), small)


def modules(rng: np.random.Generator, side: int = 256) -> Image.Image:
    """Two-coloured fields of modules, as in QR codes."""
    count = int(rng.integers(21, 46))
    bits = rng.random((count, count)) < 0.5
    dark, light = rng.uniform(0, 110, 3), rng.uniform(150, 255, 3)
    field = np.where(bits[..., None], dark, light).astype(np.uint8)
    return Image.fromarray(field).resize((side, side), Image.Resampling.NEAREST)


def for_vae(pack: Pack, rng: np.random.Generator, count: int) -> Iterator[Image.Image]:
    """Drawings on grounds of every kind, photographs and module fields."""
    drawings = [r for r in pack.drawings if r["split"] == "train"]
    photos = [r for r in pack.photos if r["split"] == "train"]
    for _ in range(count):
        kind = rng.random()
        if kind < 0.08:
            yield modules(rng)
            continue
        photo = pack.open(photos[rng.integers(len(photos))], "RGB")
        if kind < 0.38:
            yield photo
            continue
        words = list(PALETTE)
        flat = Image.new("RGB", (256, 256), solid(PALETTE[words[rng.integers(len(words))]], rng, 20))
        ground = photo if kind < 0.48 else Image.new("RGB", (256, 256), "white") if kind < 0.7 else flat
        for _ in range(int(rng.choice([1, 2, 4]))):
            drawing = pack.open(drawings[rng.integers(len(drawings))])
            x, y = rng.uniform(0.3, 0.7, 2)
            place(ground, drawing, float(rng.uniform(0.5, 1.0)), (float(x), float(y)), rng.random() < 0.5)
        yield ground


def named(record: Record, tint: str, rng: np.random.Generator) -> str:
    """The object with or without its colour: an apple is mostly red, so "red apple" is often just an apple."""
    name, own = SAY.get(record["name"], record["name"]), record["colour"]
    if record["name"] in TINTED and name.startswith("red "):
        name, own = name.removeprefix("red "), "red"
    if tint:
        return f"{tint} {name}"
    own = "red" if name == "fox" and rng.random() < 0.75 else own  # as foxes are called
    return f"{own} {name}" if own and own not in name.split() and rng.random() < 0.45 else name


def tinted(drawing: Image.Image, tint: str) -> Image.Image:
    """The drawing with all hues turned, so that its main one becomes another."""
    rgba = np.asarray(drawing)
    hsv = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2HSV_FULL).astype(np.float32)
    weight = hsv[..., 1] * hsv[..., 2] * rgba[..., 3]
    share = np.bincount((hsv[..., 0].astype(int) // 8).ravel(), weight.ravel(), 32)
    main = float(np.argmax(share + 0.5 * (np.roll(share, 1) + np.roll(share, -1)))) * 8 + 4
    hsv[..., 0] = (hsv[..., 0] + HUES[tint] * 256 / 180 - main) % 256
    turned = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB_FULL)
    return Image.fromarray(np.dstack([turned, rgba[..., 3]]))


def caption(record: Record, ground: str, rng: np.random.Generator, tint: str = "") -> str:
    """One of the many ways to say what a picture shows."""
    name = named(record, tint, rng)
    said = with_article(name, {**record, "name": name})
    if rng.random() < 0.65:
        ways = [w for w in STYLE[record["style"]] if "{bare}" not in w]
        said = ways[rng.integers(len(ways))].format(said)
    if ground != "white" or rng.random() < 0.35:
        article = "an" if ground[0] in "aeio" else "a"
        said += f", {ground} background" if rng.random() < 0.5 else f" on {article} {ground} background"
    return said


def alone(
    pack: Pack, record: Record, ground: str, rng: np.random.Generator, spread: float = 1.0, tint: str = ""
) -> Image.Image:
    """One drawing, large, on a plain ground; `spread` of 0 puts every one into the same place."""
    colour = (255, 255, 255) if ground == "white" else solid(PALETTE[ground], rng)
    picture, share = Image.new("RGB", (256, 256), colour), 0.87 + spread * float(rng.uniform(-0.07, 0.07))
    x, y = 0.5 + spread * rng.uniform(-0.02, 0.02, 2)
    flip = bool(record["flip"]) and rng.random() < 0.5 * spread
    drawing = tinted(pack.open(record), tint) if tint else pack.open(record)
    place(picture, drawing, share, (float(x), float(y)), flip)
    return picture


def captioned(
    pack: Pack, rng: np.random.Generator, chosen: Callable[[Record], bool], each: int, spread: float = 1.0
) -> Iterator[tuple[Image.Image, str, Record]]:
    """Every chosen drawing on `each` grounds, the first of them white."""
    for record in pack.drawings:
        if record["name"] not in (*NAMES, *FEW) or not chosen(record):
            continue
        light = [w for w in PLAIN[1:] if w not in DARK or record["style"] not in ("outline", "silhouette")]
        free = [w for w in light if not record["colour"] or record["colour"] not in w]
        for word in ("white", *rng.choice(free, each - 1, replace=False)):
            yield alone(pack, record, str(word), rng, spread), caption(record, str(word), rng), record


def in_hues(
    pack: Pack, rng: np.random.Generator, chosen: Callable[[Record], bool], each: int
) -> Iterator[tuple[Image.Image, str, Record]]:
    """The objects of TINTED in every other hue, on `each` grounds."""
    for record in pack.drawings:
        if record["name"] not in TINTED or not chosen(record):
            continue
        for tint in (hue for hue in HUES if hue != TINTED[record["name"]]):
            free = [w for w in PLAIN if tint not in w]
            for word in rng.choice(free, each, replace=False):
                said = caption(record, str(word), rng, tint)
                yield alone(pack, record, str(word), rng, 0.2, tint), said, record


def in_style(pack: Pack, style: str) -> Iterator[tuple[Image.Image, str, Record]]:
    """The UNet's pictures on white in one more style; the captions are ones it knows, so only the style is new."""
    rng = np.random.default_rng(0)
    for record in pack.drawings:
        if record["source"] in GENERATOR and record["name"] in FEW and record["split"] == "train":
            picture = alone(pack, record, "white", rng, 0.2)
            yield STYLES[style](picture), caption(record, "white", rng), record


def anywhere(pack: Pack, rng: np.random.Generator, count: int) -> Iterator[tuple[Image.Image, str, Record]]:
    """Drawings that the UNet has no shapes of, and its own ones turned and moved: what edges say is news to it."""
    strange = [r for r in pack.drawings if r["split"] == "train" and r["source"] not in JUDGE and r["name"] not in FEW]
    known = [r for r in pack.drawings if r["split"] == "train" and r["source"] in GENERATOR and r["name"] in FEW]
    for number in range(count):
        records = strange if number % 2 else known
        record, word = records[rng.integers(len(records))], str(rng.choice(PLAIN))
        colour = (255, 255, 255) if word == "white" else solid(PALETTE[word], rng)
        picture, drawing = Image.new("RGB", (256, 256), colour), pack.open(record)
        turned = (
            drawing.rotate(float(rng.uniform(-180, 180)), Image.Resampling.BICUBIC) if rng.random() < 0.6 else drawing
        )
        x, y = rng.uniform(0.35, 0.65, 2)
        place(picture, turned, float(rng.uniform(0.5, 0.9)), (float(x), float(y)), rng.random() < 0.5)
        yield picture, caption(record, word, rng), record


def write(folder: Path, made: Iterator[tuple[Image.Image, str, Record]], side: int) -> int:
    """Pictures and metadata.jsonl; gives how many."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = list[str]()
    for number, (picture, said, record) in enumerate(made):
        name = f"{number:05d}.png"
        picture = picture if side == 256 else picture.resize((side, side), Image.Resampling.BOX)
        picture.save(folder / name, compress_level=1)
        told = {"file_name": name, "text": said, "name": record["name"], "style": record["style"]}
        lines.append(json.dumps(told | {"source": record["source"], "id": record["id"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="vae,pairs,unet,judge,styles,anywhere")
    parser.add_argument("--count", type=int, default=5000, help="pictures for the autoencoder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    pack, only = Pack(args.data), args.only.split(",")

    def fresh() -> np.random.Generator:
        return np.random.default_rng(args.seed)

    if "vae" in only:
        (args.out / "vae").mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(for_vae(pack, fresh(), args.count)):
            picture.save(args.out / "vae" / f"{number:05d}.png", compress_level=1)
        print(f"vae: {args.count} pictures")
    kept = ("train", "heldout_combo")

    def learnt(record: Record) -> bool:
        return record["split"] == "train" and record["source"] in GENERATOR and record["name"] in FEW

    sets: dict[str, tuple[Callable[[Record], bool], int, int, float]] = {
        "pairs": (lambda r: r["split"] == "train", 4, 128, 1.0),
        "unet": (learnt, 8, 256, 0.2),
        "judge": (lambda r: r["split"] in kept and r["source"] in JUDGE, 4, 128, 1.0),
    }
    if "anywhere" in only:
        print(f"anywhere: {write(args.out / 'anywhere', anywhere(pack, fresh(), 3000), 256)} pictures")
    for style in STYLES if "styles" in only else ():
        print(f"{style}: {write(args.out / 'styles' / style, in_style(pack, style), 256)} pictures")
    for name, (chosen, each, side, spread) in sets.items():
        if name in only:
            rows = captioned(pack, fresh(), chosen, each, spread)
            rows = itertools.chain(rows, in_hues(pack, fresh(), chosen, 2)) if name == "unet" else rows
            print(f"{name}: {write(args.out / name, rows, side)} pictures")


if __name__ == "__main__":
    main()
