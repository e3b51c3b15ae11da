"""Textual inversion (Gal et al. 2022): new word vectors for a text encoder, the models stay as they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import paddle
import PIL.Image
from paddle import Tensor
from paddle.base.framework import EagerParamBase

from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.prompt.encode import Conditioning
from ppdiffusers.prompt.tokenizer import LENGTH
from ppdiffusers.training.checkpoint import entry
from ppdiffusers.training.dataset import Dataset
from ppdiffusers.training.diffusion import DiffusionConfig, DiffusionTask
from ppdiffusers.training.event import Event
from ppdiffusers.training.lowrank import frozen
from ppdiffusers.weights.write import write_tensors


@dataclass(frozen=True, kw_only=True)
class InversionConfig(DiffusionConfig):
    """start: the word whose vector the new ones begin as; count: how many vectors; templates: what is said of the
    pictures, {} is the new word.
    """

    start: str = "style"
    count: int = 4
    templates: tuple[str, ...] = ("a picture of {}", "a rendering of {}", "{}", "a good picture of {}")

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 75:
            raise ValueError(f"a word has 1 to 75 vectors, not {self.count}")
        if not self.templates or any("{}" not in template for template in self.templates):
            raise ValueError("each template needs {} where the new word goes, as in 'a picture of {}'")


class InversionTask(DiffusionTask):
    """Train one word for SD 1 or 2; the result is a file (out) that the WebUI and diffusers read."""

    name = "inversion"

    def __init__(self, bundle: Bundle, dataset: Dataset, out: str | Path, config: InversionConfig) -> None:
        super().__init__(bundle, dataset, out, config)
        if len(bundle.text.encoders) != 1 or bundle.time_ids:
            raise ValueError(f"textual inversion is trained for SD 1 and 2, {bundle.name} is {bundle.family}")
        if self.out.suffix != ".safetensors":
            raise ValueError(f"an embedding is written as .safetensors, not as {self.out.name!r}")
        self.words = config
        self.encoder = bundle.text.encoders[0]
        ids = self.encoder.tokenizer.ids(config.start)
        if len(ids) != 1:
            raise ValueError(f"{config.start!r} is {len(ids)} tokens; start from one that is one token, as 'style'")
        with paddle.no_grad():
            start = self.encoder.model.embed_tokens(paddle.to_tensor([ids], dtype="int64"))[0].astype("float32")
            self.vectors = EagerParamBase.from_tensor(start.tile([config.count, 1]), trainable=True)

    def prepare(self, folder: Path) -> Iterator[Event]:
        self._before = list(frozen({**self.bundle.models, "vae": self.bundle.vae}))
        yield from self.material.prepare(folder, texts=False)

    def trainable(self) -> Mapping[str, Tensor]:
        return {"vectors": self.vectors}

    def said(self, captions: Sequence[str], number: int) -> Conditioning:
        chance = self.draws.generator("template", number)
        templates = [self.words.templates[i] for i in chance.integers(0, len(self.words.templates), len(captions))]
        return self.spoken(templates)

    def spoken(self, templates: Sequence[str]) -> Conditioning:
        """What the sentences tell the UNet, the new vectors in the place of {}."""
        rows, places = [], []
        for template in templates:
            before, _, after = template.partition("{}")
            tokens = self.encoder.tokenizer.ids(before), self.encoder.tokenizer.ids(after)
            rows.append(self.encoder.tokenizer.row([*tokens[0], *[0] * self.words.count, *tokens[1]]))
            places.append(1 + len(tokens[0]))
        ids = paddle.to_tensor(rows, dtype="int64")
        out = self.encoder.model(ids, inputs_embeds=self._embeds(ids, places), output_hidden_states=True)
        hidden = out.hidden_states[-max(self.config.material.clip_skip, self.encoder.layer)]
        return Conditioning(self.encoder.model.final_layer_norm(hidden).astype("float32"))

    def _embeds(self, ids: Tensor, places: Sequence[int]) -> Tensor:
        """(B, 77, D): the words' vectors, with the new ones put in by a product that carries their gradient."""
        count = self.words.count
        put, keep = np.zeros((len(places), LENGTH, count), np.float32), np.ones((len(places), LENGTH, 1), np.float32)
        for row, place in enumerate(places):
            for i in range(count):
                put[row, place + i, i], keep[row, place + i] = 1.0, 0.0
        known = self.encoder.model.embed_tokens(ids).astype("float32")
        return known * paddle.to_tensor(keep) + paddle.matmul(paddle.to_tensor(put), self.vectors)

    def samples(self) -> tuple[Sequence[PIL.Image.Image], Sequence[str]]:
        """The templates with the word as it is now."""
        prompts = [t.format(self.out.stem) for t in self.words.templates[: self.config.sample.count]]
        with TemporaryDirectory() as folder:
            bundle, notices = self.bundle.with_embeddings([str(self._write(Path(folder) / self.out.name))])
        if notices:
            raise ValueError(notices[0])
        return self.made(bundle, self.request(prompts)), prompts

    def save(self, step: int) -> Path:
        return self._write(self.out)

    def _write(self, path: Path) -> Path:
        write_tensors(path, {"emb_params": entry(self.vectors.detach())}, {})
        return path
