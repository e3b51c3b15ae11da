"""CLIP pairs: a picture tower and a text tower that give a picture and its caption the same direction.

B pairs, L tokens, P width of the shared space.
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

from ppdiffusers.models.clip_vision import CLIPModel, normalised
from ppdiffusers.prompt.tokenizer import CLIPTokenizer
from ppdiffusers.training.dataset import Dataset
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.event import Event
from ppdiffusers.training.loop import Loss
from ppdiffusers.training.lowrank import frozen
from ppdiffusers.training.pictures import Order, open_rgb

LARGEST_SCALE = 100.0  # of the logits, as in CLIP


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """batch: pairs that are told apart from each other, the more the better; flip: mirrored half of the time.

    lock_text: the text tower stays as it is, so that a UNet that was trained on it still fits (the reverse of LiT, Zhai
    et al. 2022); its projection learns.
    """

    batch: int = 32
    flip: bool = True
    lock_text: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError(f"contrastive training compares pairs, so a batch needs at least 2, not {self.batch}")


def contrast(logits: Tensor, same: np.ndarray) -> Tensor:
    """Cross entropy both ways for logits (B, B); `same` says which captions are equal: all of those are right."""
    target = paddle.to_tensor((same / same.sum(axis=1, keepdims=True)).astype(np.float32))
    ways = (F.log_softmax(side, axis=1) for side in (logits, logits.T))
    return sum((-(target * way).sum(axis=1).mean() for way in ways), start=paddle.zeros([])) / 2


class PairTask:
    """Train both towers; the result is a folder (out) that transformers' CLIPModel loads."""

    name = "clip"

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, dataset: Dataset, out: str | Path, config: PairConfig
    ) -> None:
        if len(dataset) < 2:
            raise ValueError("contrastive training needs at least two pictures")
        if len(tokenizer) > model.config.text_config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens, the text tower {model.config.text_config.vocab_size}"
            )
        self.model, self.tokenizer, self.dataset = model, tokenizer, dataset
        self.out, self.config, self.draws = Path(out), config, Draws(config.seed)
        self.order = Order([(1, 1)] * len(dataset), config.batch, self.draws)
        self._before: list[tuple[Tensor, bool]] = []

    # --- for the loop ---

    def about(self) -> dict[str, Any]:
        return {"pictures": len(self.dataset), **dataclasses.asdict(self.config)}

    def prepare(self, folder: Path) -> Iterator[Event]:
        self._before = list(frozen({"clip": self.model}))
        for parameter in self.trainable().values():
            parameter.stop_gradient = False
        return iter(())

    def trainable(self) -> Mapping[str, Tensor]:
        locked = ("text_model.",) if self.config.lock_text else ()
        return {name: p for name, p in self.model.named_parameters() if not name.startswith(locked)}

    def factors(self) -> Mapping[str, float]:
        return {}

    def loss(self, number: int) -> Loss:
        indices = self.order(number)
        chance = self.draws.generator("flip", number).random(len(indices)) < 0.5
        pictures = self.pictures(indices, [bool(flip and self.config.flip) for flip in chance])
        captions = [self.dataset.examples[i].caption for i in indices]
        out = self.model(self.ids(captions), pictures)
        scale = LARGEST_SCALE / max(float(self.model.logit_scale.astype("float32").exp()), LARGEST_SCALE)
        same = np.array([[a == b for b in captions] for a in captions])
        right = out.logits_per_image.argmax(axis=1).numpy()
        accuracy = float(np.mean([same[row, column] for row, column in enumerate(right)]))
        return Loss(contrast(out.logits_per_image * scale, same), {"accuracy": accuracy})

    def ids(self, captions: Sequence[str]) -> Tensor:
        """(B, L) token ids, as long as the longest caption; what does not fit is left out.

        The text tower reads from the left and is read at the end token, so padding after it would change nothing.
        """
        most = self.model.config.text_config.max_position_embeddings - 2
        rows = [self.tokenizer.ids(caption)[:most] for caption in captions]
        length = max(map(len, rows)) + 2
        return paddle.to_tensor([self.tokenizer.row(row, length) for row in rows], dtype="int64")

    def pictures(self, indices: Sequence[int], flips: Sequence[bool]) -> Tensor:
        """(B, 3, Y, X) as the tower sees them."""
        size = self.model.config.vision_config.image_size
        arrays = [normalised(open_rgb(self.dataset.examples[i].path), size) for i in indices]
        return paddle.to_tensor(np.stack([a[:, :, ::-1] if f else a for a, f in zip(arrays, flips, strict=True)]))

    def samples(self) -> tuple[Sequence[PIL.Image.Image], Sequence[str]]:
        """Pictures with the caption, of all that are shown, that the model finds the likeliest."""
        indices = list(range(min(16, len(self.dataset))))
        captions = [self.dataset.examples[i].caption for i in indices]
        out = self.model(self.ids(captions), self.pictures(indices, [False] * len(indices)))
        best = out.logits_per_image.argmax(axis=1).tolist()
        side = self.model.config.vision_config.image_size
        images = [open_rgb(self.dataset.examples[i].path).resize((side, side)) for i in indices]
        return images, [captions[i] for i in best]

    def save(self, step: int) -> Path:
        self.model.save_pretrained(self.out)
        return self.out

    def close(self) -> None:
        for parameter, stop in self._before:
            parameter.stop_gradient = stop
        self._before = []
