"""Pictures and captions of a folder as the UNet is taught them: latents and text features, made once and kept.

Latents are kept as the posterior's mean and deviation, so that every step draws anew; on the disk, so that a resumed
run reads the same bits. B pictures, C channels, Y X latent height and width.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import paddle
from paddle import Tensor

from ppdiffusers.models.outputs import AutoencoderKLOutput, DiagonalGaussian
from ppdiffusers.models.vae import AutoencoderKL
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.prompt.encode import Conditioning
from ppdiffusers.training.dataset import Dataset
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.event import Event, Progress
from ppdiffusers.training.pictures import Order, Size, bucket_of, buckets, cut, fitted, to_array
from ppdiffusers.training.texts import Captions
from ppdiffusers.weights.write import replacing


@dataclass(frozen=True, kw_only=True)
class MaterialConfig:
    """How pictures become batches. resolution: side of a square of the area that pictures are scaled to; step: sides
    are multiples of it; flip: mirrored half of the time; dropout: the share of captions that are left empty.
    """

    resolution: int = 512
    step: int = 64
    batch: int = 1
    flip: bool = False
    dropout: float = 0.1
    clip_skip: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"the share of dropped captions must be in [0, 1], got {self.dropout}")
        if self.step % 8:
            raise ValueError(f"sides in multiples of {self.step} don't fit latents; use a multiple of 8 (64 is usual)")
        buckets(self.resolution, self.step)


@dataclass(frozen=True, eq=False)
class Batch:
    """Latents (B, C, Y, X) scaled, what the UNet is told beside the text, and where they come from."""

    latents: Tensor
    captions: tuple[str, ...]
    time_ids: Tensor | None
    indices: tuple[int, ...]
    flips: tuple[bool, ...]


class Materials:
    """A dataset beside a loaded checkpoint."""

    def __init__(self, bundle: Bundle, dataset: Dataset, config: MaterialConfig, draws: Draws) -> None:
        self.bundle, self.dataset, self.config, self.draws = bundle, dataset, config, draws
        among = buckets(config.resolution, config.step)
        self.sizes: list[Size] = [bucket_of(example.size, among) for example in dataset.examples]
        self.order = Order(self.sizes, config.batch, draws)
        self.captions = Captions(bundle.text, config.clip_skip)
        self._latents: dict[tuple[int, bool], np.ndarray] = {}
        self._texts: dict[str, Conditioning] = {}

    # --- once ---

    def prepare(self, folder: Path, texts: bool = True) -> Iterator[Event]:
        """Encode every picture (twice where they are mirrored) and, with `texts`, every caption."""
        jobs = [(i, flip) for i in range(len(self.dataset)) for flip in (False, True)[: 1 + self.config.flip]]
        stamp = self._stamp()
        for done, (index, flip) in enumerate(jobs, start=1):
            self._latents[index, flip] = self._moments(index, flip, folder / "cache", stamp)
            yield Progress(done, len(jobs), "encoding pictures")
        if texts:
            said = sorted({"", *(example.caption for example in self.dataset.examples)})
            for done, caption in enumerate(said, start=1):
                with paddle.no_grad():
                    self._texts[caption] = self.captions([caption])
                yield Progress(done, len(said), "encoding captions")

    def _stamp(self) -> str:
        """Names this autoencoder: its config and what it makes of a test picture."""
        ramp = paddle.linspace(-1.0, 1.0, 3 * 32 * 32).reshape([1, 3, 32, 32])
        with paddle.no_grad():
            mean = posterior(self.bundle.vae, ramp).mean.numpy()
        return hashlib.blake2b(repr(self.bundle.vae.config).encode() + mean.tobytes(), digest_size=8).hexdigest()

    def _moments(self, index: int, flip: bool, folder: Path, stamp: str) -> np.ndarray:
        """Mean and deviation of one picture's latents: (2, C, Y, X) float32, from the cache or into it."""
        path, size = self.dataset.examples[index].path, self.sizes[index]
        told = path.stat()
        said = f"{path.resolve()}/{told.st_size}/{told.st_mtime_ns}/{size}/{flip}/{stamp}"
        kept = folder / f"{hashlib.blake2b(said.encode(), digest_size=16).hexdigest()}.npy"
        if kept.is_file():
            return np.load(kept)
        pixels = paddle.to_tensor(self.pixels(index, flip)).unsqueeze(0)
        with paddle.no_grad():
            found = posterior(self.bundle.vae, pixels)
            moments = np.concatenate([found.mean.numpy(), found.std.numpy()])
        if not np.isfinite(moments).all():
            raise ValueError(f"the autoencoder made no numbers of {path.name}; load it in float32")
        with replacing(kept) as file:
            np.save(file, moments)
        return moments

    def pixels(self, index: int, flip: bool) -> np.ndarray:
        """One picture at its bucket's size: (3, Y, X) in [-1, 1]."""
        array = to_array(fitted(self.dataset.examples[index].path, self.sizes[index]))
        return np.ascontiguousarray(array[:, :, ::-1]) if flip else array

    # --- every step ---

    def batch(self, number: int) -> Batch:
        """Batch `number` of the run."""
        indices = self.order(number)
        chance = self.draws.generator("batch", number)
        flips = [bool(self.config.flip and x < 0.5) for x in chance.random(len(indices))]
        dropped = chance.random(len(indices)) < self.config.dropout
        moments = np.stack([self._latents[i, flip] for i, flip in zip(indices, flips, strict=True)])
        mean, std = (paddle.to_tensor(moments[:, i]) for i in range(2))
        latents = (mean + std * self.draws.normal(mean.shape, "posterior", number)) * self._scale
        examples = self.dataset.examples
        captions = tuple("" if drop else examples[i].caption for i, drop in zip(indices, dropped, strict=True))
        return Batch(latents, captions, self._time_ids(indices), tuple(indices), tuple(flips))

    @property
    def _scale(self) -> float:
        return float(self.bundle.vae.config.scaling_factor)

    def texts(self, captions: Sequence[str]) -> Conditioning:
        """The kept features of captions, as long as the longest; empty chunks fill up the others."""
        rows = [self._texts[caption] for caption in captions]
        most = max(row.text.shape[1] for row in rows)
        empty = self._texts[""].text
        long = [self._filled(row.text, empty, most) for row in rows]
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return Conditioning(paddle.concat(long), paddle.concat(pooled) if pooled else None)

    @staticmethod
    def _filled(text: Tensor, empty: Tensor, length: int) -> Tensor:
        missing = (length - text.shape[1]) // empty.shape[1]
        return paddle.concat([text, *[empty] * missing], axis=1) if missing else text

    def _time_ids(self, indices: Sequence[int]) -> Tensor | None:
        """SDXL's six numbers a picture: height and width of the file, top and left of the cut, height and width of the
        bucket; the refiner's five have a middling aesthetic score for the last two.
        """
        if not self.bundle.time_ids:
            return None
        rows = []
        for i in indices:
            (width, height), to = self.dataset.examples[i].size, self.sizes[i]
            left, top = cut((width, height), to)[1]
            last = [to[1], to[0]] if self.bundle.time_ids == 6 else [6.0]
            rows.append([height, width, top, left, *last])
        return paddle.to_tensor(rows, dtype="float32")


def posterior(vae: AutoencoderKL, pixels: Tensor) -> DiagonalGaussian:
    """What the autoencoder makes of pictures (B, 3, 8Y, 8X)."""
    return cast(AutoencoderKLOutput, vae.encode(pixels)).latent_dist


def added(said: Conditioning, time_ids: Tensor | None) -> dict[str, Tensor] | None:
    """SDXL's added conditions, None for other models."""
    if said.pooled is None or time_ids is None:
        return None
    return {"text_embeds": said.pooled, "time_ids": time_ids}
