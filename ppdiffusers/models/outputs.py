"""What the models return: named fields that also unpack and index like the tuples of diffusers and transformers."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import paddle
from paddle import Tensor


class Output:
    """A result with named fields; `out[0]`, `a, b = out` and `out["name"]` work too, fields that are None left out."""

    def to_tuple(self) -> tuple[Any, ...]:
        values = (getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]
        return tuple(v for v in values if v is not None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __getitem__(self, which: int | slice | str) -> Any:
        return getattr(self, which) if isinstance(which, str) else self.to_tuple()[which]


@dataclass(frozen=True, eq=False)
class UNet2DConditionOutput(Output):
    """The network's prediction (B, C, Y, X): noise, v or x0, as the checkpoint was trained."""

    sample: Tensor


@dataclass(frozen=True, eq=False)
class ControlNetOutput(Output):
    """Residuals for the UNet's skips, in the order of its way down, and for its middle; all (B, C, Y, X)."""

    down_block_res_samples: tuple[Tensor, ...]
    mid_block_res_sample: Tensor


@dataclass(frozen=True, eq=False)
class DecoderOutput(Output):
    """Pictures (B, 3, Y, X), about [-1, 1]."""

    sample: Tensor


@dataclass(frozen=True, eq=False)
class CLIPTextOutput(Output):
    """Text features (B, L, D) after the final norm, (B, D) at the end token, and every layer's before that norm."""

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, eq=False)
class CLIPTextProjectionOutput(Output):
    """As `CLIPTextOutput`, with the pooled features projected into the space shared with pictures (B, P)."""

    text_embeds: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    pooler_output: Tensor | None = None


class DiagonalGaussian:
    """The VAE's posterior: a mean and a log-variance for every latent value, each (B, C, Y, X), in float32."""

    def __init__(self, moments: Tensor) -> None:
        self.mean, logvar = paddle.chunk(moments.astype("float32"), 2, axis=1)
        self.logvar = logvar.clip(-30.0, 20.0)

    @property
    def std(self) -> Tensor:
        return paddle.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """A draw; `noise` is standard normal and of the mean's shape, so that whoever calls owns the randomness."""
        if noise.shape != self.mean.shape:
            raise ValueError(
                f"noise has shape {list(noise.shape)}, the latents are {list(self.mean.shape)}; give one value for each"
            )
        return self.mean + self.std * noise.astype(self.mean.dtype)

    def kl(self) -> Tensor:
        """KL divergence to the standard normal, summed over a picture: (B,)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum(axis=[1, 2, 3])


@dataclass(frozen=True, eq=False)
class AutoencoderKLOutput(Output):
    """The posterior over latents, before scaling by `config.scaling_factor`."""

    latent_dist: DiagonalGaussian
