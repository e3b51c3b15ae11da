"""Pictures as a trainer wants them: sizes of about one area (aspect-ratio buckets), cut to fit, in batches of one size.

X Y width and height in pixels; sizes are (width, height) as in PIL.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from ppdiffusers.pipelines.pixels import load_image
from ppdiffusers.training.draws import Draws

Size = tuple[int, int]
LONGEST = 2.0  # long side to short side; longer pictures are cut


def buckets(resolution: int, step: int = 64) -> list[Size]:
    """Sizes with sides in multiples of `step` and at most resolution^2 pixels, from 1:2 over the square to 2:1."""
    if resolution < step or resolution % step:
        raise ValueError(f"the resolution {resolution} must be a multiple of {step}, and at least {step}")
    area, found = resolution * resolution, {(resolution, resolution)}
    for width in range(step, int(resolution * math.sqrt(LONGEST)) + 1, step):
        height = min(area // width // step * step, int(width * LONGEST) // step * step)
        if height and 1 / LONGEST <= width / height <= LONGEST:
            found |= {(width, height), (height, width)}
    return sorted(found)


def bucket_of(size: Size, among: Sequence[Size]) -> Size:
    """The bucket whose shape is nearest to a picture's; among equals the larger one."""
    ratio = math.log(size[0] / size[1])
    return min(among, key=lambda b: (round(abs(math.log(b[0] / b[1]) - ratio), 6), -b[0] * b[1]))


def cut(size: Size, to: Size, where: tuple[float, float] = (0.5, 0.5)) -> tuple[Size, Size]:
    """(size after scaling to cover `to`, left and top of the part that is kept)."""
    factor = max(to[0] / size[0], to[1] / size[1])
    width, height = (max(t, round(s * factor)) for s, t in zip(size, to, strict=True))
    return (width, height), (round((width - to[0]) * where[0]), round((height - to[1]) * where[1]))


def open_rgb(path: Path) -> PIL.Image.Image:
    """A picture upright and without transparency (white shows through)."""
    with PIL.Image.open(path) as image:
        return load_image(image)


def fitted(path: Path, to: Size, where: tuple[float, float] = (0.5, 0.5)) -> PIL.Image.Image:
    """The picture scaled and cut to a size."""
    image = open_rgb(path)
    scaled, (left, top) = cut(image.size, to, where)
    image = image.resize(scaled, PIL.Image.Resampling.LANCZOS)
    return image.crop((left, top, left + to[0], top + to[1]))


def to_array(image: PIL.Image.Image) -> np.ndarray:
    """(3, Y, X) float32 in [-1, 1]."""
    return np.ascontiguousarray(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0)


def to_image(array: np.ndarray) -> PIL.Image.Image:
    """The way back, values beyond the range cut off."""
    pixels = np.clip((array.transpose(1, 2, 0) + 1.0) * 127.5, 0, 255).round().astype(np.uint8)
    return PIL.Image.fromarray(pixels)


class Order:
    """Which examples make batch number n: every epoch each example once, batches of one size only, shuffled anew."""

    def __init__(self, sizes: Sequence[Size], batch: int, draws: Draws) -> None:
        if batch < 1:
            raise ValueError(f"a batch needs at least one picture, not {batch}")
        self.batch, self.draws = batch, draws
        self._by_size: dict[Size, list[int]] = defaultdict(list)
        for index, size in enumerate(sizes):
            self._by_size[size].append(index)
        self.per_epoch = sum(math.ceil(len(group) / batch) for group in self._by_size.values())
        self._epoch, self._batches = -1, list[list[int]]()

    def __call__(self, number: int) -> list[int]:
        """The examples of batch `number`, counted over the whole run."""
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return self._batches[place]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        generator = self.draws.generator("order", epoch)
        batches = []
        for _, group in sorted(self._by_size.items()):
            mixed = [group[i] for i in generator.permutation(len(group))]
            batches += [mixed[i : i + self.batch] for i in range(0, len(mixed), self.batch)]
        return [batches[i] for i in generator.permutation(len(batches))]
