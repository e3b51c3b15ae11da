"""Autoencoders: pictures to latents and back, judged by colours, edges at three scales, structure, and KL.

B pictures, C channels, Y X height and width.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import PIL.Image
from paddle import Tensor

from ppdiffusers.models.outputs import DiagonalGaussian
from ppdiffusers.models.vae import AutoencoderKL
from ppdiffusers.training.dataset import Dataset
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.event import Event
from ppdiffusers.training.loop import Loss
from ppdiffusers.training.lowrank import frozen
from ppdiffusers.training.materials import posterior
from ppdiffusers.training.pictures import Order, open_rgb, to_array, to_image


@dataclass(frozen=True, kw_only=True)
class VAETrainConfig:
    """Squares of `crop` pixels, cut where chance says; the weights of the loss's parts.

    part: "all", or "decoder" alone, which leaves latents as they are for models that know them. scale: set the
    config's scaling_factor to 1 / deviation of the latents at the end (for a new autoencoder only). halves: the share
    of batches whose latents are decoded at half their size, into pictures at half theirs; latents that scale as
    pictures do are smoother, and a diffusion model learns them sooner (Kouzelis et al. 2025; 0.25, or 0 for off).
    """

    crop: int = 128
    batch: int = 4
    flip: bool = True
    edges: float = 0.35
    areas: float = 0.5
    structure: float = 0.15
    kl: float = 1e-4
    halves: float = 0.0
    part: str = "all"
    scale: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.part not in ("all", "decoder"):
            raise ValueError(f"'all' of an autoencoder is trained or its 'decoder', not {self.part!r}")
        if self.scale and self.part == "decoder":
            raise ValueError("a trained decoder leaves latents as they are, so their scale must stay too")
        if not 0 <= self.halves <= 1:
            raise ValueError(f"the share of batches at half size must be in [0, 1], got {self.halves}")
        if min(self.edges, self.areas, self.structure, self.kl) < 0:
            raise ValueError("the weights of the loss can't be negative; 0 leaves a part out")


def likeness(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity (Wang et al. 2004) over windows of 7 pixels, for values in [-1, 1]."""

    def mean(t: Tensor) -> Tensor:
        return F.avg_pool2d(t, 7, 2)

    mx, my = mean(x), mean(y)
    sx, sy, sxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.02**2, 0.06**2
    return ((2 * mx * my + c1) * (2 * sxy + c2) / ((mx * mx + my * my + c1) * (sx + sy + c2))).mean()


def edges(x: Tensor, y: Tensor, scales: int = 3) -> Tensor:
    """L1 between the differences of neighbouring pixels, at `scales` sizes each half of the one before."""
    total = paddle.zeros([])
    difference = x - y  # taking differences is linear
    for _ in range(scales):
        total = total + (difference[..., 1:] - difference[..., :-1]).abs().mean()
        total = total + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
        difference = F.avg_pool2d(difference, 2)
    return total


def parts_of(x: Tensor, y: Tensor, latents: DiagonalGaussian) -> dict[str, Tensor]:
    """The loss's parts for pictures x and what came back, y, both (B, 3, Y, X)."""
    pixels = float(np.prod(latents.mean.shape[1:]))
    return {
        "l1": (x - y).abs().mean(),
        "edges": edges(x, y),
        "areas": F.avg_pool2d(x - y, 8).abs().mean(),
        "structure": 1.0 - likeness(x, y),
        "kl": latents.kl().mean() / pixels,
    }


class VAETask:
    """Train an autoencoder; the result is its folder (out) in diffusers' form."""

    name = "vae"

    def __init__(self, vae: AutoencoderKL, dataset: Dataset, out: str | Path, config: VAETrainConfig) -> None:
        if config.crop % vae.config.scale or config.crop < 4 * vae.config.scale:
            raise ValueError(
                f"crops of {config.crop} pixels don't fit: sides must be multiples of {vae.config.scale}, at least "
                f"{4 * vae.config.scale}"
            )
        self.vae, self.dataset, self.out, self.config = vae, dataset, Path(out), config
        self.draws = Draws(config.seed)
        self.order = Order([(config.crop, config.crop)] * len(dataset), config.batch, self.draws)
        self._before: list[tuple[Tensor, bool]] = []

    # --- for the loop ---

    def about(self) -> dict[str, Any]:
        return {"pictures": len(self.dataset), **dataclasses.asdict(self.config)}

    def prepare(self, folder: Path) -> Iterator[Event]:
        self._before = list(frozen({"vae": self.vae}))
        for parameter in self.trainable().values():
            parameter.stop_gradient = False
        return iter(())

    def trainable(self) -> Mapping[str, Tensor]:
        every = dict(self.vae.named_parameters())
        if self.config.part == "all":
            return every
        return {name: p for name, p in every.items() if name.startswith(("decoder.", "post_quant_conv."))}

    def factors(self) -> Mapping[str, float]:
        return {}

    def loss(self, number: int) -> Loss:
        x = paddle.to_tensor(np.stack([self.crop(i, number) for i in self.order(number)]))
        found = DiagonalGaussian(self.vae._moments(x))
        noise = self.draws.normal(found.mean.shape, "posterior", number)
        z = found.sample(noise)
        if self.halved(number):
            x, z = F.avg_pool2d(x, 2), F.avg_pool2d(z, 2)
        y = self.vae._picture(z)
        parts, config = parts_of(x, y, found), self.config
        weights = {"edges": config.edges, "areas": config.areas, "structure": config.structure, "kl": config.kl}
        total = parts["l1"] + sum((parts[name] * weight for name, weight in weights.items() if weight), start=0.0)
        return Loss(total, {name: float(value) for name, value in parts.items()})

    def halved(self, number: int) -> bool:
        """Whether batch `number` is decoded at half its size."""
        return bool(self.config.halves) and self.draws.generator("halves", number).random() < self.config.halves

    def crop(self, index: int, number: int) -> np.ndarray:
        """A square of one picture for batch `number`, at a size between the whole picture and its own pixels."""
        chance = self.draws.generator("crop", number, index)
        image, side = open_rgb(self.dataset.examples[index].path), self.config.crop
        least = side / min(image.size)
        factor = least * (max(1.0, 1 / least) ** chance.random())
        width, height = (max(side, round(s * factor)) for s in image.size)
        image = image.resize((width, height), PIL.Image.Resampling.LANCZOS)
        left, top = (int(chance.integers(0, s - side + 1)) for s in (width, height))
        array = to_array(image.crop((left, top, left + side, top + side)))
        return np.ascontiguousarray(array[:, :, ::-1]) if self.config.flip and chance.random() < 0.5 else array

    def samples(self) -> tuple[Sequence[PIL.Image.Image], Sequence[str]]:
        made, told = list[PIL.Image.Image](), list[str]()
        for index in range(min(8, len(self.dataset))):
            x = paddle.to_tensor(self.crop(index, -1)).unsqueeze(0)
            y = self.vae(x).sample
            made += [to_image(x[0].numpy()), to_image(y[0].numpy())]
            told += ["picture", f"{psnr(x, y):.1f} dB"]
        return made, told

    def save(self, step: int) -> Path:
        if self.config.scale:
            self.vae.config = dataclasses.replace(self.vae.config, scaling_factor=self.measured_scale())
        self.vae.save_pretrained(self.out)
        return self.out

    @paddle.no_grad()
    def measured_scale(self) -> float:
        """1 / deviation of the latents of up to 64 pictures."""
        crops = (paddle.to_tensor(self.crop(i, -1)).unsqueeze(0) for i in range(min(64, len(self.dataset))))
        latents = paddle.concat([posterior(self.vae, x).mode() for x in crops])
        return round(1.0 / max(float(latents.std()), 1e-6), 5)

    def close(self) -> None:
        for parameter, stop in self._before:
            parameter.stop_gradient = stop
        self._before = []


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    error = float(((x.clip(-1, 1) - y.clip(-1, 1)) / 2).square().mean())
    return float(-10 * np.log10(max(error, 1e-10)))
