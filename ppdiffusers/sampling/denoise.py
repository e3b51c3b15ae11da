"""From a network and prompts to the one function samplers need: `denoise(x, sigma) -> x0`.

How a pipeline puts it together:

    denoiser = Denoiser(network, model_schedule, prediction="eps")
    guided = Guided(denoiser, Conds(positive=(Part(cond),), negative=uncond), stack, Guidance(scale=7.0))
    denoise = Steered(guided, guide)                            # only where somebody has a wish about x0
    denoise = Masked(denoise, mask, original)                   # only for inpainting
    for step in guided.follow(choice.sample(denoise, x, sigmas, noise), len(sigmas) - 1):
        ...                                                     # step.x, step.x0; progress, preview, cancel by leaving

* `network(x_in, t, cond) -> output`: x_in (N, C, Y, X) fp32 already scaled by c_in, t a float (the training step), cond
  whatever the pipeline made for N images (text embeddings, pooled text, time ids, residuals, ...). The output has
  x_in's shape.
* `stack([cond, ...]) -> cond | None`: joins conditions along the batch, each for B images, so that one call serves them
  all; None says that they do not fit together (another length) and shall be run one after the other. A pipeline that
  would rather pad does so in `stack`.
* Conditions may change over the run: give a function of the step index instead of a Conds.

B images, C channels, Y X latent height and width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ppdiffusers.sampling.model_schedule import ModelSchedule
from ppdiffusers.sampling.samplers import Denoise, Step

Network = Callable[[Tensor, float, Any], Tensor]
Guide = Callable[[Tensor, float, int, int], Tensor]  # (x0 (B, C, Y, X), sigma, step, steps) -> a better x0
Stack = Callable[[Sequence[Any]], Any]
PREDICTIONS = {"eps": "eps", "epsilon": "eps", "v": "v", "v_prediction": "v", "x0": "x0", "sample": "x0"}


@dataclass(frozen=True)
class Denoiser:
    """A network that predicts eps, v or x0, seen in sigma space (Karras et al. 2022, table 1; Salimans & Ho 2022 for
    v).

    Args:
        network: see the module's text.
        prediction: "eps", "v" or "x0", or diffusers' words for them ("epsilon", "v_prediction", "sample").
        quantize: what happens to a training step that falls between two: None passes the fraction on (k-diffusion,
            WebUI), "round" takes the nearest, "floor" the one below (some diffusers schedulers).
    """

    network: Network
    model: ModelSchedule
    prediction: str = "eps"
    quantize: str | None = None

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"a network predicts one of {', '.join(PREDICTIONS)}, not {self.prediction!r}")
        if self.quantize not in (None, "round", "floor"):
            raise ValueError(f"training steps are quantized by 'round' or 'floor' or not (None), not {self.quantize!r}")

    def __call__(self, x: Tensor, sigma: float, cond: Any) -> Tensor:
        """The estimate of x0 (N, C, Y, X) for latents x at noise level sigma."""
        return self.x0(x, self.output(x, sigma, cond), sigma)

    def output(self, x: Tensor, sigma: float, cond: Any) -> Tensor:
        """What the network says, in its own terms."""
        return self.network(x / math.sqrt(1 + sigma**2), self.t(sigma), cond)

    def t(self, sigma: float) -> float:
        """The training step the network is told for noise level sigma."""
        t = self.model.t(sigma)
        if self.quantize == "round":
            return float(round(t))
        if self.quantize == "floor":
            return float(math.floor(t + 1e-6))  # a step of the table must not fall below itself by rounding
        return t

    def x0(self, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        """x0 from the network's output."""
        kind = PREDICTIONS[self.prediction]
        if kind == "eps":
            return x - output * sigma
        if kind == "v":
            return x / (1 + sigma**2) - output * (sigma / math.sqrt(1 + sigma**2))
        return output


@dataclass(frozen=True)
class Part:
    """One condition of a prompt joined by AND, and its weight: one for all images or one per image."""

    cond: Any
    weight: float | Sequence[float] = 1.0


@dataclass(frozen=True)
class Conds:
    """What the network is told at one step.

    Args:
        positive: the parts of the prompt, usually one.
        negative: the condition guidance leads away from; None runs without guidance.
        image: InstructPix2Pix only: the negative condition with the picture, `negative` then being without both.
    """

    positive: tuple[Part, ...]
    negative: Any = None
    image: Any = None


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022).

    Args:
        scale: 1 leaves the negative condition out, which halves the work.
        rescale: phi of Lin et al. (2023), section 3.4: how far the result is brought back to the deviation of the
            positive one.
        start, stop: the fraction of steps within which guidance acts (Kynkaanniemi et al. 2024); outside, only the
            positive runs.
        least_sigma: below this noise level every other step leaves the negative condition out (WebUI "negative guidance
            minimum sigma"); 0 is off.
        image_scale: InstructPix2Pix: how closely to keep to the picture.
    """

    scale: float = 7.0
    rescale: float = 0.0
    start: float = 0.0
    stop: float = 1.0
    least_sigma: float = 0.0
    image_scale: float = 1.5

    def acts(self, step: int, steps: int, sigma: float) -> bool:
        """Whether the negative condition is needed at this step."""
        if sigma < self.least_sigma and step % 2:
            return False
        return self.start * steps <= step < self.stop * steps


class Guided:
    """A Denoise: the network under guidance at the current step.

    `step` is set by `follow`, so that a sampler that calls several times within a step sees one step's conditions.
    """

    def __init__(
        self, denoiser: Denoiser, conds: Conds | Callable[[int], Conds], stack: Stack, guidance: Guidance | None = None
    ) -> None:
        self.denoiser, self.stack, self.guidance = denoiser, stack, guidance or Guidance()
        self._conds = conds
        self.step, self.steps = 0, 1

    def follow(self, run: Iterator[Step], steps: int) -> Iterator[Step]:
        """The steps of `run`, keeping count; call it before the first step is taken."""
        self.step, self.steps = 0, steps
        for step in run:
            self.step = step.index + 1
            yield step

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        conds = self._conds(self.step) if callable(self._conds) else self._conds
        return self.denoiser.x0(x, self._output(x, sigma, conds), sigma)

    def _output(self, x: Tensor, sigma: float, conds: Conds) -> Tensor:
        rule, weights = self.guidance, [part.weight for part in conds.positive]
        told = [part.cond for part in conds.positive]
        plain = rule.scale == 1 and weights == [1.0] and conds.image is None
        if conds.negative is None or plain or not rule.acts(self.step, self.steps, sigma):
            return average(self._outputs(x, sigma, told), weights)
        extra = [] if conds.image is None else [conds.image]
        *positive, negative = self._outputs(x, sigma, [*told, *extra, conds.negative])
        if extra:
            *positive, picture = positive
            return negative + (picture - negative) * rule.image_scale + lead(positive, weights, picture, rule.scale)
        guided = negative + lead(positive, weights, negative, rule.scale)
        return rescaled(guided, average(positive, weights), rule.rescale) if rule.rescale else guided

    def _outputs(self, x: Tensor, sigma: float, conds: list[Any]) -> list[Tensor]:
        """The network's output for every condition, in one call if they stack."""
        if len(conds) > 1:
            together = self.stack(conds)
            if together is not None:
                return list(
                    paddle.split(self.denoiser.output(paddle.concat([x] * len(conds)), sigma, together), len(conds))
                )
        return [self.denoiser.output(x, sigma, cond) for cond in conds]


@dataclass(frozen=True)
class Steered:
    """A Denoise whose x0 estimates go through a guide: manifold-preserving guidance (He et al. 2023) and its like.

    The guide is called without autograd; one that wants a gradient switches it on for itself. No gradient runs through
    the network, so a guide costs what it does itself.
    """

    guided: Guided
    guide: Guide

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.guide(self.guided(x, sigma), sigma, self.guided.step, self.guided.steps)


def lead(outputs: Sequence[Tensor], weights: Sequence[float | Sequence[float]], base: Tensor, scale: float) -> Tensor:
    """scale * sum_i w_i (outputs_i - base) (Liu et al. 2022, "Compositional visual generation", equation 11)."""
    parts = [(out - base) * spread(weight, scale) for out, weight in zip(outputs, weights, strict=True)]
    return sum(parts[1:], parts[0])


def average(outputs: Sequence[Tensor], weights: Sequence[float | Sequence[float]]) -> Tensor:
    """Each image's weighted mean, for steps without a negative condition; the first part where weights cancel."""
    if len(outputs) == 1:
        return outputs[0]
    table = np.array(np.broadcast_arrays(*weights), dtype=np.float64).reshape(len(outputs), -1)
    cancel = table.sum(axis=0) <= 0
    table[:, cancel] = np.eye(len(outputs), 1)
    parts = [out * spread(row.tolist(), 1.0) for out, row in zip(outputs, table / table.sum(axis=0), strict=True)]
    return sum(parts[1:], parts[0])


def spread(weight: float | Sequence[float], scale: float) -> float | Tensor:
    """scale * weight in a form that multiplies (B, C, Y, X)."""
    if isinstance(weight, int | float):
        return scale * weight
    return paddle.to_tensor([scale * w for w in weight], dtype="float32").reshape([-1, 1, 1, 1])


def rescaled(guided: Tensor, positive: Tensor, phi: float) -> Tensor:
    """Bring each image's deviation a part phi of the way back to that of `positive` (Lin et al. 2023, section 3.4)."""
    axes = list(range(1, guided.ndim))
    ratio = positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return guided * (ratio * phi + (1 - phi))


@dataclass(frozen=True)
class Masked:
    """A Denoise for inpainting with any model: what is to be kept is put back into every x0 estimate.

    x starts as `original + noise * sigma`; after the run `finish` puts the known region back exactly.

    Args:
        mask: (B or 1, 1, Y, X), 1 where the picture is to change, values between blend.
        original: (B or 1, C, Y, X), the latents to keep.
        noise: with it, x itself is kept on the noised original as well before every call (WebUI does so for DDIM and
            PLMS, diffusers for every sampler); without it only x0 is.
    """

    denoise: Denoise
    mask: Tensor
    original: Tensor
    noise: Tensor | None = None

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        if self.noise is not None:
            x = self._blend(x, self.original + self.noise * sigma)
        return self.finish(self.denoise(x, sigma))

    def finish(self, x0: Tensor) -> Tensor:
        """x0 with the known region as it was."""
        return self._blend(x0, self.original)

    def _blend(self, inside: Tensor, outside: Tensor) -> Tensor:
        return inside * self.mask + outside * (1 - self.mask)
