"""Whether generated pictures show what was asked for, judged by a classifier of other vendors' drawings.

python judge.py --data pack --names learn/judged.json --out build/judge.pdparams             # train it
python judge.py --data pack --names learn/judged.json --judge build/judge.pdparams --pictures names/
python judge.py --data pack --names learn/judged.json --judge build/judge.pdparams --pictures made/ --few

The classifier learns the names of a file and the UNet's objects (small_set.FEW) from the drawings of the vendors kept
back, which no stage of the generator saw. "007 fox.png" should be a fox; it chooses among the file's names, or with
--few among the UNet's objects. How well it knows the real drawings that the UNet learnt from is told beside the figure
for generated pictures.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from app import environment

environment.prepare()

import numpy as np  # noqa: E402
import paddle  # noqa: E402
import paddle.nn.functional as F  # noqa: E402
from paddle import nn  # noqa: E402
from PIL import Image  # noqa: E402
from small_set import FEW, GENERATOR, JUDGE, PLAIN, Pack, alone  # noqa: E402

SIDE = 64


class Judge(nn.Layer):
    """Pictures (B, 3, 64, 64) in [-1, 1] to scores (B, objects)."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Layer] = []
        before = 3
        for channels in (width, 2 * width, 3 * width, 4 * width):
            layers += [nn.Conv2D(before, channels, 3, padding=1, bias_attr=False), nn.BatchNorm2D(channels), nn.ReLU()]
            layers += [nn.Conv2D(channels, channels, 3, stride=2, padding=1, bias_attr=False)]
            layers += [nn.BatchNorm2D(channels), nn.ReLU()]
            before = channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(before, classes))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.features(x).mean(axis=[2, 3]))


def small(picture: Image.Image) -> np.ndarray:
    """(3, 64, 64) in [-1, 1]."""
    scaled = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(scaled, np.float32).transpose(2, 0, 1) / 127.5 - 1


def classes(names: Sequence[str]) -> list[str]:
    """What the judge tells apart."""
    return sorted({*names, *FEW})


def drawings(
    pack: Pack, sources: Sequence[str], names: Sequence[str], grounds: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and name numbers of every drawing of these vendors, on white and on `grounds` - 1 colours."""
    rng, x, y = np.random.default_rng(seed), [], []
    number = {name: i for i, name in enumerate(names)}
    for record in pack.drawings:
        if record["source"] in sources and record["name"] in number:
            for word in ("white", *rng.choice(PLAIN[1:], grounds - 1, replace=False)):
                x.append(small(alone(pack, record, str(word), rng)))
                y.append(number[record["name"]])
    return np.stack(x), np.array(y)


def shaken(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifted, mirrored, blurred or noisy, and of other colours, so that vendors' habits count for less."""
    x = np.stack([np.roll(one, rng.integers(-6, 7, 2), (1, 2)) for one in x])
    mirrored = rng.random(len(x)) < 0.5
    x[mirrored] = x[mirrored][..., ::-1]
    recoloured = rng.random(len(x)) < 0.3  # as the UNet's blue foxes are
    x[recoloured] = x[recoloured][:, rng.permutation(3)]
    blurred = rng.random(len(x)) < 0.4
    soft = F.avg_pool2d(paddle.to_tensor(x[blurred]), 3, 1, 1).numpy() if blurred.any() else x[blurred]
    x[blurred] = soft
    gain, shift = rng.uniform(0.8, 1.2, (len(x), 1, 1, 1)), rng.uniform(-0.15, 0.15, (len(x), 3, 1, 1))
    return (x * gain + shift + rng.normal(0, 0.05, x.shape)).astype(np.float32)


def train(pack: Pack, names: Sequence[str], out: Path, epochs: int) -> None:
    paddle.seed(0)
    rng = np.random.default_rng(0)
    x, y = drawings(pack, JUDGE, names, 6, 1)
    print(f"{len(names)} names, {len(x)} pictures", flush=True)
    model = Judge(len(names))
    rounds = epochs * (len(x) // 64)
    rate = paddle.optimizer.lr.CosineAnnealingDecay(2e-3, rounds)
    moves = paddle.optimizer.AdamW(rate, parameters=model.parameters(), weight_decay=0.02)
    began = time.monotonic()
    for epoch in range(epochs):
        order, losses = rng.permutation(len(x)), []
        for start in range(0, len(x) - 63, 64):
            chosen = order[start : start + 64]
            scores = model(paddle.to_tensor(shaken(x[chosen], rng)))
            loss = F.cross_entropy(scores, paddle.to_tensor(y[chosen]), label_smoothing=0.1)
            loss.backward()
            moves.step()
            moves.clear_grad()
            rate.step()
            losses.append(float(loss))
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, {time.monotonic() - began:.0f} s", flush=True)
    paddle.save(model.state_dict(), str(out))


def shares(model: Judge, x: np.ndarray, y: np.ndarray, among: list[int]) -> dict[str, float]:
    """How often the name is the first, or among the first five, of those that count; y says which of them it is."""
    model.eval()
    with paddle.no_grad():
        order = np.concatenate([model(paddle.to_tensor(x[i : i + 64])).numpy() for i in range(0, len(x), 64)])
    order = order[:, among].argsort(axis=1)[:, ::-1]
    return {f"top{k}": round(float((order[:, :k] == y[:, None]).any(axis=1).mean()), 3) for k in (1, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--judge", type=Path, help="a trained one")
    parser.add_argument("--pictures", type=Path, help="a folder of generated pictures, named by number and object")
    parser.add_argument("--names", type=Path, required=True, help="a JSON list of names")
    parser.add_argument("--few", action="store_true", help="choose among the UNet's objects only")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=14)
    args = parser.parse_args()
    pack, listed = Pack(args.data), json.loads(args.names.read_text(encoding="utf-8"))
    known = classes(listed)
    if args.out is not None:
        train(pack, known, args.out, args.epochs)
    if args.judge is None:
        return
    model = Judge(len(known))
    model.set_state_dict(paddle.load(str(args.judge)))
    names = list(FEW) if args.few else listed
    among = [known.index(name) for name in names]
    x, y = drawings(pack, GENERATOR, names, 2, 2)
    told: dict[str, object] = {"objects": len(names), "real": shares(model, x, y, among) | {"pictures": len(x)}}
    if args.pictures is not None:
        paths = sorted(args.pictures.glob("*.png"))
        x = np.stack([small(Image.open(path)) for path in paths])
        y = np.array([names.index(path.stem.partition(" ")[2]) for path in paths])
        told["generated"] = shares(model, x, y, among) | {"pictures": len(x)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
