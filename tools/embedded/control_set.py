"""Pictures with light worked in, and the control pictures that say where: for the ControlNet that leads light.

    python control_set.py --set build/small/unet --out build/small/light [--each 2]
    python ../../launch.py train controlnet --images build/small/light/pictures --condition build/small/light/control

Of every picture there are `each`. Seven in ten have a grid of modules worked in as QR codes have them: light modules
lighter, dark ones darker, by a strength that varies. The others are as they were, and their own lightness in cells is
the control picture. A band of some control pictures is a middle grey, which says nothing. The same seed gives the same
files.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIDE = 256


def finder() -> np.ndarray:
    """The corner mark of a QR code with its light border, 1 = light: (8, 8)."""
    marked = np.ones((8, 8), np.float32)
    marked[:7, :7] = 0
    marked[1:6, 1:6] = 1
    marked[2:5, 2:5] = 0
    return marked


def field(rng: np.random.Generator) -> np.ndarray:
    """A code, or a window into a larger one, 1 = light: (SIDE, SIDE)."""
    count, quiet = 17 + 4 * int(rng.integers(1, 11)), int(rng.choice((0, 1, 2, 4)))
    grid = (rng.random((count, count)) < 0.5).astype(np.float32)
    mark = finder()
    grid[:8, :8], grid[:8, -8:], grid[-8:, :8] = mark, mark[:, ::-1], mark[::-1]
    grid = np.pad(grid, quiet, constant_values=1)
    module = max(SIDE / len(grid), float(rng.uniform(7, 10)))
    side = max(SIDE, round(len(grid) * module))
    whole = cv2.resize(grid, (side, side), interpolation=cv2.INTER_NEAREST)
    x, y = (int(v) for v in rng.integers(0, side - SIDE + 1, 2))
    return whole[y : y + SIDE, x : x + SIDE]


def worked_in(picture: np.ndarray, light: np.ndarray, strength: float) -> np.ndarray:
    """The picture (0 to 1), lighter where light is above a half and darker below."""
    lead = (light[..., None] - 0.5) * 2 * strength
    return np.where(lead > 0, picture + (1 - picture) * lead, picture * (1 + lead))


def own_light(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Its lightness in cells, sometimes in two levels, sometimes soft."""
    light = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    cell = int(rng.choice((4, 8, 16)))
    small = cv2.resize(light, (SIDE // cell, SIDE // cell), interpolation=cv2.INTER_AREA)
    kind = rng.random()
    if kind < 0.4:
        small = (small > small.mean()).astype(np.float32)
    elif kind < 0.6:
        return cv2.blur(light, (17, 17))
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)


def silent(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A band of middle grey across or down."""
    begin, end = sorted(int(v) for v in rng.integers(0, SIDE, 2))
    out = light.copy()
    (out if rng.random() < 0.5 else out.T)[begin:end] = 0.5
    return out


def pair(picture: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its control picture, both 0 to 1."""
    if rng.random() < 0.7:
        light = field(rng)
        soft = cv2.GaussianBlur(light, (0, 0), 1.2) if rng.random() < 0.5 else light
        picture = worked_in(picture, soft, float(rng.uniform(0.35, 0.8)))
    else:
        light = own_light(picture, rng)
    return picture, silent(light, rng) if rng.random() < 0.12 else light


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True, help="a folder of small_set.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, lines = np.random.default_rng(args.seed), list[str]()
    for name in ("pictures", "control"):
        (args.out / name).mkdir(parents=True, exist_ok=True)
    for line in (args.set / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        picture = np.asarray(Image.open(args.set / told["file_name"]).convert("RGB"), np.float32) / 255
        for _ in range(args.each):
            name = f"{len(lines):05d}.png"
            for folder, array in zip(("pictures", "control"), pair(picture, rng), strict=True):
                made = Image.fromarray((array.clip(0, 1) * 255).round().astype(np.uint8))
                made.save(args.out / folder / name, compress_level=1)
            lines.append(json.dumps({"file_name": name, "text": told["text"]}))
    (args.out / "pictures" / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} pictures")


if __name__ == "__main__":
    main()
