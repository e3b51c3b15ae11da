"""Diffusion models on pictures with captions: the whole UNet, a LoRA beside it, or a ControlNet before it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
from paddle import Tensor

from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.event import Image
from ppdiffusers.pipelines.request import Request, Sampling
from ppdiffusers.pipelines.run import run
from ppdiffusers.prompt.encode import Conditioning
from ppdiffusers.training.dataset import Dataset, counts
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.event import Event
from ppdiffusers.training.loop import Loss
from ppdiffusers.training.lowrank import LoraConfig, LowRank, Told, frozen, metadata
from ppdiffusers.training.materials import Batch, MaterialConfig, Materials, added
from ppdiffusers.training.objective import Mixed, Objective, weighted_error


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The pictures of a sheet; no prompts: the first captions of the dataset. side 0 is what the model was made for."""

    prompts: tuple[str, ...] = ()
    count: int = 4
    side: int = 0
    steps: int = 20
    cfg_scale: float = 7.0
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """How pictures are taught; see `MaterialConfig` and `Objective` for the numbers."""

    material: MaterialConfig = field(default_factory=MaterialConfig)
    min_snr: float = 5.0
    offset_noise: float = 0.0
    noise_bias: float = 1.0
    seed: int = 0
    sample: SampleConfig = field(default_factory=SampleConfig)


class DiffusionTask:
    """Train all of a checkpoint's UNet; the result (out) is what `write(out)` makes of it, or else its folder in
    diffusers' form, float16.
    """

    name = "diffusion"

    def __init__(
        self,
        bundle: Bundle,
        dataset: Dataset,
        out: str | Path,
        config: DiffusionConfig,
        write: Callable[[Path], None] | None = None,
    ) -> None:
        self.write = write
        self.bundle, self.dataset, self.out, self.config = bundle, dataset, Path(out), config
        if bundle.extra_channels:
            raise ValueError(f"{bundle.name} reads {bundle.extra_channels} channels more than a latent; train its base")
        self.draws = Draws(config.seed)
        self.material = Materials(bundle, dataset, config.material, self.draws)
        self.objective = Objective(
            bundle.schedule, bundle.prediction, config.min_snr, config.offset_noise, config.noise_bias
        )
        self._before: list[tuple[Tensor, bool]] = []

    # --- for the loop ---

    def about(self) -> dict[str, Any]:
        config = dataclasses.asdict(self.config)
        return {"model": self.bundle.name, "pictures": len(self.dataset), **{k: config[k] for k in self._settings()}}

    def _settings(self) -> Sequence[str]:
        return [f.name for f in dataclasses.fields(self.config) if f.name != "sample"]

    def prepare(self, folder: Path) -> Iterator[Event]:
        self._before = list(frozen({**self.bundle.models, "vae": self.bundle.vae}))
        yield from self.material.prepare(folder)
        self.thaw()

    def thaw(self) -> None:
        """Let move what is trained."""
        for parameter in self.bundle.unet.parameters():
            parameter.stop_gradient = False

    def trainable(self) -> Mapping[str, Tensor]:
        return dict(self.bundle.unet.named_parameters())

    def factors(self) -> Mapping[str, float]:
        return {}

    def loss(self, number: int) -> Loss:
        batch = self.material.batch(number)
        mixed = self.objective.mix(batch.latents, self.draws, number)
        said = self.said(batch.captions, number)
        more = self.residuals(batch, mixed, said)
        out = self.bundle.unet(
            mixed.noisy,
            mixed.times,
            said.text,
            added_cond_kwargs=added(said, batch.time_ids),
            down_block_additional_residuals=more[0],
            mid_block_additional_residual=more[1],
        )
        return Loss(weighted_error(out.sample, mixed))

    def said(self, captions: Sequence[str], number: int) -> Conditioning:
        """What the captions of batch `number` tell the UNet."""
        return self.material.texts(captions)

    def residuals(self, batch: Batch, mixed: Mixed, said: Conditioning) -> tuple[list[Tensor] | None, Tensor | None]:
        """What is added to the UNet's skips and middle; nothing here."""
        return None, None

    def samples(self) -> tuple[Sequence[PIL.Image.Image], Sequence[str]]:
        prompts = self.prompts()
        return self.made(self.bundle, self.request(prompts)), prompts

    @staticmethod
    def made(bundle: Bundle, request: Request) -> list[PIL.Image.Image]:
        """The request's pictures."""
        return [event.image for event in run(bundle, request) if isinstance(event, Image)]

    def prompts(self) -> tuple[str, ...]:
        config = self.config.sample
        captions = dict.fromkeys(example.caption for example in self.dataset.examples)
        return config.prompts or tuple(captions)[: config.count]

    def request(self, prompts: Sequence[str], **more: Any) -> Request:
        config = self.config.sample
        side = config.side or int(self.bundle.unet.config.sample_size or 64) * self.bundle.factor
        return Request(
            prompts=tuple(prompts),
            seeds=tuple(config.seed + i for i in range(len(prompts))),
            width=side,
            height=side,
            sampling=Sampling(steps=config.steps, cfg_scale=config.cfg_scale),
            **more,
        )

    def save(self, step: int) -> Path:
        if self.write is None:
            self.bundle.unet.save_pretrained(self.out, dtype="float16")
        else:
            self.write(self.out)
        return self.out

    def close(self) -> None:
        for parameter, stop in self._before:
            parameter.stop_gradient = stop
        self._before = []


@dataclass(frozen=True, kw_only=True)
class LoraTrainConfig(DiffusionConfig):
    """As for a diffusion model, and what the LoRA is. text_factor: the text encoders' rate as a part of the UNet's."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    text_factor: float = 0.5
    rate: float = 1e-4  # told in the file only; the loop's is the one that counts
    dtype: str = "float16"


class LoraTask(DiffusionTask):
    """Train a LoRA; the result is one file (out)."""

    name = "lora"

    def __init__(self, bundle: Bundle, dataset: Dataset, out: str | Path, config: LoraTrainConfig) -> None:
        super().__init__(bundle, dataset, out, config)
        if self.out.suffix != ".safetensors":
            raise ValueError(f"a LoRA is written as .safetensors, not as {self.out.name!r}")
        self.lora = config
        self.paths: LowRank | None = None

    @property
    def with_text(self) -> bool:
        return self.lora.lora.text_targets is not None

    def prepare(self, folder: Path) -> Iterator[Event]:
        self._before = list(frozen({**self.bundle.models, "vae": self.bundle.vae}))
        yield from self.material.prepare(folder, texts=not self.with_text)
        self.paths = LowRank(self.bundle.models, self.lora.lora, self.draws)

    def trainable(self) -> Mapping[str, Tensor]:
        return self._paths.parameters()

    def factors(self) -> Mapping[str, float]:
        return {"text_encoder": self.lora.text_factor}

    def said(self, captions: Sequence[str], number: int) -> Conditioning:
        return self.material.captions(captions) if self.with_text else super().said(captions, number)

    def save(self, step: int) -> Path:
        material = self.config.material
        told = Told(
            name=self.out.stem,
            model=self.bundle.name,
            family=self.bundle.family,
            resolution=material.resolution,
            pictures=len(self.dataset),
            steps=step,
            batch=material.batch,
            rate=self.lora.rate,
            seed=self.config.seed,
            dtype=str(self.bundle.unet.dtype).removeprefix("paddle."),
            tags=dict(counts(self.dataset)),
            prediction=self.bundle.prediction,
        )
        self._paths.save(self.out, metadata(told, self.lora.lora), self.lora.dtype)
        return self.out

    def close(self) -> None:
        if self.paths is not None:
            self.paths.remove()
        super().close()

    @property
    def _paths(self) -> LowRank:
        assert self.paths is not None, "prepare comes first"
        return self.paths
