"""The diary of a run: one JSON object a step, and the curve of the loss as a picture."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw

from ppdiffusers.weights.write import replacing, write_text

WIDTH, HEIGHT, LEFT, TOP = 960, 480, 84, 34
_INK, _FAINT, _CURVE, _RAW = (32, 32, 36), (222, 222, 226), (202, 60, 48), (226, 198, 190)


class Journal:
    """A .jsonl file that only grows, except that resuming takes back the steps after the state."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, record: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole records; a line that a crash has cut off is left out."""
        if not self.path.is_file():
            return []
        records = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return records

    def cut(self, step: int) -> None:
        """Forget what came after a step."""
        kept = [record for record in self.read() if record.get("step", 0) <= step]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))

    def plot(self, path: Path, title: str) -> None:
        """The loss so far as a PNG."""
        points = [(r["step"], r["loss"]) for r in self.read() if math.isfinite(r.get("loss", math.nan))]
        if len(points) > 1:
            with replacing(path) as file:
                plot(points, title).save(file, "PNG")


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The running mean of the last `window` values."""
    sums, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        sums.append(total / min(i + 1, window))
    return sums


def plot(points: Sequence[tuple[float, float]], title: str) -> PIL.Image.Image:
    """A curve through (step, loss): pale as measured, strong as a running mean."""
    steps, losses = [p[0] for p in points], [p[1] for p in points]
    means = smooth(losses, max(1, len(points) // 20))
    low, high = _bounds(losses, means)
    image = PIL.Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = PIL.ImageDraw.Draw(image)

    def place(step: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 20) * (step - steps[0]) / max(steps[-1] - steps[0], 1)
        return x, TOP + (HEIGHT - TOP - 40) * (1 - (min(max(loss, low), high) - low) / (high - low))

    for i in range(6):
        value, step = low + (high - low) * i / 5, steps[0] + (steps[-1] - steps[0]) * i / 5
        y, x = place(steps[0], value)[1], place(step, low)[0]
        draw.line([(LEFT, y), (WIDTH - 20, y)], fill=_FAINT)
        draw.text((8, y - 6), f"{value:.4g}", fill=_INK)
        draw.text((x - 10, HEIGHT - 28), f"{step:.0f}", fill=_INK)
    draw.line([place(s, v) for s, v in zip(steps, losses, strict=True)], fill=_RAW)
    draw.line([place(s, v) for s, v in zip(steps, means, strict=True)], fill=_CURVE, width=2)
    draw.text((LEFT, 10), f"{title}: loss {means[-1]:.4g} after {steps[-1]:.0f} steps", fill=_INK)
    return image


def _bounds(losses: Sequence[float], means: Sequence[float]) -> tuple[float, float]:
    """The range shown: all means, and all but the wildest single values."""
    ordered = sorted(losses)
    low, high = min(ordered[0], *means), max(ordered[int(0.98 * (len(ordered) - 1))], *means)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def sheet(images: Sequence[PIL.Image.Image], captions: Sequence[str], columns: int = 4) -> PIL.Image.Image:
    """Pictures in rows, each with a line of text below."""
    columns = min(columns, len(images))
    width, height = max(i.width for i in images), max(i.height for i in images)
    line = 18
    rows = math.ceil(len(images) / columns)
    page = PIL.Image.new("RGB", (columns * width, rows * (height + line)), "white")
    draw = PIL.ImageDraw.Draw(page)
    for n, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = n % columns * width, n // columns * (height + line)
        page.paste(image, (x, y))
        draw.text((x + 4, y + height + 3), caption[: max(4, width // 6 - 1)], fill=_INK)
    return page
