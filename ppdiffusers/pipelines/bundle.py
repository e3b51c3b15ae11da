"""One loaded checkpoint: its models, how they read text, its noise schedule. What every pipeline runs on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import paddle
from paddle import Tensor, nn

from ppdiffusers.models.layers import pack
from ppdiffusers.models.outputs import AutoencoderKLOutput, DecoderOutput
from ppdiffusers.models.unet import UNet2DConditionModel
from ppdiffusers.models.vae import AutoencoderKL
from ppdiffusers.pipelines import preview
from ppdiffusers.prompt.encode import TextEncoders
from ppdiffusers.sampling import ModelSchedule

SD_SCHEDULE = ModelSchedule.make()


@dataclass(frozen=True, eq=False, kw_only=True)
class Bundle:
    """A checkpoint in memory.

    family is detection's word ("sd15", "sdxl-base", ...), prediction "eps", "v" or "x0"; scheduler_config is the
    folder's, where it had one; digest is the file's sha256 in short, as infotexts carry it.
    """

    name: str
    family: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: TextEncoders
    prediction: str = "eps"
    schedule: ModelSchedule = SD_SCHEDULE
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def models(self) -> dict[str, nn.Layer]:
        """What adapters may change, by the parts' names in a diffusers folder."""
        encoders = [encoder.model for encoder in self.text.encoders]
        names = ["text_encoder", "text_encoder_2"] if self.family != "sdxl-refiner" else ["text_encoder_2"]
        return {"unet": self.unet, **dict(zip(names, encoders, strict=False))}

    @property
    def latent_channels(self) -> int:
        """Channels of a latent; the UNet may read more."""
        return int(self.vae.config.latent_channels)

    @property
    def factor(self) -> int:
        """Picture pixels per latent pixel."""
        return int(self.vae.config.scale)

    @property
    def extra_channels(self) -> int:
        """What the UNet reads besides the latent: 5 for inpainting models (mask, picture), 4 for InstructPix2Pix."""
        return int(self.unet.config.in_channels) - self.latent_channels

    @property
    def time_ids(self) -> int:
        """How many numbers about size and score the UNet is told: 6 in SDXL, 5 in its refiner, else 0."""
        config = self.unet.config
        if config.addition_embed_type != "text_time":
            return 0
        pooled = int(self.text.encoders[-1].model.config.projection_dim)
        return (int(config.projection_class_embeddings_input_dim or 0) - pooled) // int(
            config.addition_time_embed_dim or 1
        )

    @cached_property
    def preview(self) -> preview.LatentToRGB:
        """Latents to rough pictures; fitted to the VAE when first asked for."""
        return preview.fit(self.vae)

    def packed(self) -> "Bundle":
        """The same bundle with all weights in the layout of the fast kernels: for inference."""
        for model in (self.unet, self.vae, *(encoder.model for encoder in self.text.encoders)):
            pack(model)
        return self

    def with_embeddings(self, paths: list[str]) -> tuple["Bundle", list[str]]:
        """The bundle with textual inversions known by name, and a sentence for each file that does not fit."""
        text, notices = self.text.with_embeddings(paths)
        return replace(self, text=text), notices

    @paddle.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, Y, X) in [-1, 1] -> scaled latents (B, C, Y/8, X/8), float32; the posterior's mean."""
        posterior = cast(AutoencoderKLOutput, self.vae.encode(pixels.astype("float32"))).latent_dist
        return posterior.mode() * self.vae.config.scaling_factor

    @paddle.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, Y, X) -> pictures (B, 3, 8 Y, 8 X), about [-1, 1]."""
        return cast(DecoderOutput, self.vae.decode(self.unscale(latents))).sample

    def unscale(self, latents: Tensor) -> Tensor:
        """Latents as the VAE's decoder wants them."""
        return latents / self.vae.config.scaling_factor
