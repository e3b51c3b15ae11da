"""diffusers' pipelines by name and arguments, over the one `run`: a script moves over by changing its imports.

Differences: `seed=` (one number, or one a picture) instead of a generator; `scheduler` is a WebUI name or a diffusers
scheduler config; prompts are read with WebUI's grammar; `stream(...)` yields events (progress, previews, pictures)
where `__call__` waits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
from paddle import Tensor

from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.patch import Use, merge
from ppdiffusers.pipelines.adapters import Library
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.event import Event, Image, Latents
from ppdiffusers.pipelines.load import load_bundle
from ppdiffusers.pipelines.request import Control, Given, Init, Mask, Refine, Request, Sampling
from ppdiffusers.pipelines.run import run
from ppdiffusers.sampling.menu import choose
from ppdiffusers.weights.lora import LoraPatch, plan_lora, read_lora

Pictures = PIL.Image.Image | Sequence[PIL.Image.Image]


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """`images`: PIL pictures, an array (B, Y, X, 3) in [0, 1] for "np", or latents (B, C, Y, X) for "latent"."""

    images: Any

    def __getitem__(self, which: int) -> Any:
        return (self.images,)[which]


class DiffusionPipeline:
    """What all pipelines share: one loaded checkpoint, a sampler, adapters."""

    families: ClassVar[tuple[str, ...]] = ()  # beginnings of the families that fit; empty: all
    size: ClassVar[int] = 512

    def __init__(self, bundle: Bundle, controlnet: ControlNetModel | Sequence[ControlNetModel] = ()) -> None:
        if self.families and not bundle.family.startswith(self.families):
            raise ValueError(
                f"{bundle.name} is {bundle.family}; {type(self).__name__} is for {', '.join(self.families)}"
            )
        self.bundle = bundle
        self.controlnets = (controlnet,) if isinstance(controlnet, ControlNetModel) else tuple(controlnet)
        self.lora_folders: list[str | Path] = []
        self._scheduler: str | Mapping[str, Any] = bundle.scheduler_config or "DPM++ 2M Karras"
        self._adapters: dict[str, LoraPatch] = {}
        self._active: dict[str, float] = {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: str | None = None, **options: Any) -> "DiffusionPipeline":
        """A diffusers folder, or "embedded": the model that comes with MixStudio.

        dtype None takes the fastest one that this machine computes well.
        """
        return cls(load_bundle(folder, dtype), **options)

    @classmethod
    def from_single_file(cls, file: str | Path, dtype: str | None = None, **options: Any) -> "DiffusionPipeline":
        """A checkpoint in one file, as Civitai has them (.safetensors, .ckpt)."""
        return cls(load_bundle(file, dtype), **options)

    @property
    def side(self) -> int:
        """Pixels of a side where none is asked for: what the model says it was made for, else the family's usual."""
        told = self.bundle.unet.config.sample_size
        return int(told) * self.bundle.factor if told else self.size

    # --- sampler ---

    @property
    def scheduler(self) -> str | Mapping[str, Any]:
        """A WebUI sampler name ("DPM++ 2M Karras") or the content of a scheduler_config.json."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, name: str | Mapping[str, Any]) -> None:
        choose(name)  # an unknown name is told here, not in the middle of a run
        self._scheduler = name

    # --- adapters ---

    def load_lora_weights(self, file: str | Path, adapter_name: str | None = None) -> str:
        """Fit a LoRA file and switch it on at strength 1; gives its verdict."""
        patch = plan_lora(read_lora(file), self.bundle.models)
        name = adapter_name or patch.name
        self._adapters[name] = patch
        self._active[name] = 1.0
        return patch.verdict

    def set_adapters(self, names: Sequence[str] | str, weights: Sequence[float] | float = 1.0) -> None:
        """Which of the loaded adapters are on, and how strongly."""
        wanted = [names] if isinstance(names, str) else list(names)
        strengths = [float(weights)] * len(wanted) if isinstance(weights, int | float) else list(weights)
        if len(strengths) != len(wanted):
            raise ValueError(f"{len(wanted)} adapters got {len(strengths)} weights")
        if missing := [name for name in wanted if name not in self._adapters]:
            raise ValueError(f"no adapter is called {missing[0]!r}; loaded are {', '.join(self._adapters) or 'none'}")
        self._active = dict(zip(wanted, strengths, strict=True))

    def unload_lora_weights(self) -> None:
        """Forget all adapters; the weights were never changed."""
        self._adapters.clear()
        self._active.clear()

    def fuse_lora(self) -> None:
        """Merge the active adapters into the weights for good."""
        merge(self.bundle.models, [Use(self._adapters[name], weight) for name, weight in self._active.items()])
        self._active.clear()

    # --- running ---

    def stream(self, *args: Any, **options: Any) -> Iterator[Event]:
        """As `__call__`, yielding what happens while it happens; closing the generator stops the work."""
        folders = Library.of_folders(*self.lora_folders)
        always = tuple(Use(self._adapters[name], weight) for name, weight in self._active.items())
        return run(self.bundle, self.request(*args, **options), Library(folders.find, always))

    def __call__(self, *args: Any, **options: Any) -> PipelineOutput:
        """Run to the end; arguments are those of `request`."""
        return collect(self.stream(*args, **options))

    def request(
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] = 0,
        **more: Any,
    ) -> Request:
        """The arguments as a request; `more` may have latents, prompt_embeds, negative_prompt_embeds,
        pooled_prompt_embeds,
        negative_pooled_prompt_embeds, output_type, eta, clip_skip, guidance_rescale, batch_size and preview_every.
        """
        given = Given(**{key: more.pop(key) for key in tuple(Given.__dataclass_fields__) if more.get(key) is not None})
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or _blank(given))
        count = max(1, num_images_per_prompt)
        negatives = [negative_prompt] if isinstance(negative_prompt, str | None) else list(negative_prompt)
        return Request(
            prompts=tuple(p for p in prompts for _ in range(count)),
            negative_prompts=tuple((n or "") for n in negatives for _ in range(count if len(negatives) > 1 else 1)),
            seeds=(seed,) if isinstance(seed, int) else tuple(seed),
            width=width or self.side,
            height=height or self.side,
            sampling=Sampling(
                sampler=self._scheduler,
                steps=num_inference_steps,
                cfg_scale=max(guidance_scale, 1.0),  # diffusers reads everything up to 1 as "no guidance"
                cfg_rescale=more.pop("guidance_rescale", 0.0),
                eta=more.pop("eta", None),
            ),
            clip_skip=_layer(more.pop("clip_skip", None), self.bundle.family.startswith("sdxl")),
            output=more.pop("output_type", "pil"),
            given=given,
            **more,
        )


def _layer(skipped: int | None, xl: bool) -> int:
    """diffusers counts skipped layers, from SDXL's last but one or from the last; we count the layer from the end."""
    return 1 if skipped is None else skipped + (2 if xl else 1)


def _blank(given: Given) -> list[str]:
    if given.prompt_embeds is None:
        raise ValueError("give a prompt, or prompt_embeds")
    return [""] * given.prompt_embeds.shape[0]


def collect(events: Iterator[Event]) -> PipelineOutput:
    """Run to the end and gather what came out, in order."""
    pictures: dict[int, Image] = {}
    latents: dict[int, Tensor] = {}
    for event in events:
        if isinstance(event, Image):
            pictures[event.index] = event
        elif isinstance(event, Latents):
            latents.update(zip(event.indices, event.latents.unbind(0), strict=True))
    if latents:
        import paddle

        return PipelineOutput(paddle.stack([latents[i] for i in sorted(latents)]))
    found = [pictures[i] for i in sorted(pictures)]
    if all(event.array is not None for event in found):
        return PipelineOutput(np.stack([event.array for event in found]))  # type: ignore[arg-type]
    return PipelineOutput([event.image for event in found])


class StableDiffusionPipeline(DiffusionPipeline):
    """Pictures from text with SD 1.x and 2.x."""

    families = ("sd",)


class StableDiffusionImg2ImgPipeline(StableDiffusionPipeline):
    """Pictures from a picture and text; `strength` 0 keeps it, 1 forgets it. The picture's own size, rounded down to a
    multiple of 8.
    """

    def request(
        self, prompt: str | Sequence[str], image: PIL.Image.Image, strength: float = 0.8, **more: Any
    ) -> Request:  # type: ignore[override]
        """As the base's, with the picture."""
        width, height = more.pop("width", None), more.pop("height", None)
        request = super().request(prompt, height or image.height // 8 * 8, width or image.width // 8 * 8, **more)
        return replace(request, init=Init(image=image, strength=strength, fit="stretch", rule="diffusers"))


class StableDiffusionInpaintPipeline(StableDiffusionImg2ImgPipeline):
    """Repaint what is white in `mask_image`, with an inpainting model or any other; the rest keeps its bits."""

    def request(  # type: ignore[override]
        self,
        prompt: str | Sequence[str],
        image: PIL.Image.Image,
        mask_image: PIL.Image.Image,
        strength: float = 1.0,
        padding_mask_crop: int | None = None,
        mask_blur: float = 4.0,
        **more: Any,
    ) -> Request:
        """As image-to-image's, with the mask; `padding_mask_crop` works on the masked region alone, with so many pixels
        around.
        """
        mask = Mask(
            image=mask_image, blur=mask_blur, only_masked=padding_mask_crop is not None, padding=padding_mask_crop or 0
        )
        return replace(super().request(prompt, image, strength, **more), mask=mask)


class StableDiffusionControlNetPipeline(StableDiffusionPipeline):
    """Pictures from text and control pictures, one for each ControlNet of the pipeline."""

    def request(  # type: ignore[override]
        self,
        prompt: str | Sequence[str],
        image: Pictures,
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        control_guidance_start: float | Sequence[float] = 0.0,
        control_guidance_end: float | Sequence[float] = 1.0,
        **more: Any,
    ) -> Request:
        """As the base's, with control pictures, scales and the part of the way in which each acts."""
        pictures = [image] if isinstance(image, PIL.Image.Image) else list(image)
        if len(pictures) != len(self.controlnets):
            raise ValueError(f"{len(self.controlnets)} ControlNets need as many pictures, got {len(pictures)}")
        scales, starts, ends = (
            [float(v)] * len(pictures) if isinstance(v, int | float) else list(v)
            for v in (controlnet_conditioning_scale, control_guidance_start, control_guidance_end)
        )
        more.setdefault("height", pictures[0].height // 8 * 8)
        more.setdefault("width", pictures[0].width // 8 * 8)
        controls = tuple(
            Control(model=net, image=picture, weight=scale, start=start, end=end, fit="stretch")
            for net, picture, scale, start, end in zip(self.controlnets, pictures, scales, starts, ends, strict=True)
        )
        return replace(super().request(prompt, **more), controls=controls)


class StableDiffusionXLPipeline(DiffusionPipeline):
    """Pictures from text with SDXL; `refiner` takes over after `denoising_end` of the steps."""

    families = ("sdxl",)
    size = 1024

    def request(  # type: ignore[override]
        self,
        prompt: str | Sequence[str] | None = None,
        *args: Any,
        refiner: Bundle | None = None,
        denoising_end: float = 0.8,
        **more: Any,
    ) -> Request:
        """As the base's, with the refiner."""
        request = super().request(prompt, *args, **({"guidance_scale": 5.0} | more))
        return request if refiner is None else replace(request, refine=Refine(bundle=refiner, switch_at=denoising_end))


class StableDiffusionXLImg2ImgPipeline(StableDiffusionXLPipeline):
    """Pictures from a picture and text with SDXL, or with its refiner."""

    def request(
        self, prompt: str | Sequence[str], image: PIL.Image.Image, strength: float = 0.3, **more: Any
    ) -> Request:  # type: ignore[override]
        """As the base's, with the picture."""
        more.setdefault("height", image.height // 8 * 8)
        more.setdefault("width", image.width // 8 * 8)
        init = Init(image=image, strength=strength, fit="stretch", rule="diffusers")
        return replace(super().request(prompt, **more), init=init)
