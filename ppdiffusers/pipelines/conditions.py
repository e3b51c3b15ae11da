"""What the UNet is told in one call, and how the prompts of a batch become it.

N images of a call (pictures times conditions), L tokens, D text width, P pooled width, E extra channels, Y X latent
height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import paddle
from paddle import Tensor

from ppdiffusers.models.unet import UNet2DConditionModel
from ppdiffusers.pipelines.request import Given
from ppdiffusers.prompt.encode import Conditioning
from ppdiffusers.prompt.plan import Told
from ppdiffusers.sampling.denoise import Conds, Part


@dataclass(frozen=True, eq=False)
class Cond:
    """Everything besides x and t for N images, and the UNet that is told it."""

    unet: UNet2DConditionModel
    text: Tensor  # (N, L, D)
    pooled: Tensor | None = None  # (N, P)
    time_ids: Tensor | None = None  # (N, 6 or 5)
    extra: Tensor | None = None  # (N, E, Y, X): mask and picture of inpainting models
    positive: tuple[bool, ...] = ()  # of each image: the prompt's side, not the negative prompt's

    @property
    def added(self) -> dict[str, Tensor] | None:
        """SDXL's added conditions, as models take them."""
        if self.pooled is None or self.time_ids is None:
            return None
        return {"text_embeds": self.pooled, "time_ids": self.time_ids}


def stack(conds: Sequence[Cond]) -> Cond | None:
    """The conditions as one call; None where their texts differ in length and must run one after the other."""
    first = conds[0]
    if any(c.unet is not first.unet or c.text.shape[1:] != first.text.shape[1:] for c in conds):
        return None
    return Cond(
        first.unet,
        paddle.concat([c.text for c in conds]),
        _join([c.pooled for c in conds]),
        _join([c.time_ids for c in conds]),
        _join([c.extra for c in conds]),
        tuple(flag for c in conds for flag in c.positive),
    )


def _join(tensors: Sequence[Tensor | None]) -> Tensor | None:
    given = [t for t in tensors if t is not None]
    return paddle.concat(given) if given else None


@dataclass(frozen=True, eq=False)
class GivenTexts:
    """Texts that the caller has encoded: the same at every step."""

    told: Told

    @classmethod
    def of(cls, given: Given, rows: Sequence[int], guided: bool) -> "GivenTexts":
        """The rows of these pictures. Raises ValueError where guidance lacks the negative side."""
        assert given.prompt_embeds is not None
        if guided and given.negative_prompt_embeds is None:
            raise ValueError("prompt_embeds need negative_prompt_embeds, or a guidance scale of 1")
        cond = _pick(given.prompt_embeds, given.pooled_prompt_embeds, rows)
        against = None
        if guided and given.negative_prompt_embeds is not None:
            against = _pick(given.negative_prompt_embeds, given.negative_pooled_prompt_embeds, rows)
        return cls(Told(cond, against, tuple(range(len(rows))), (1.0,) * len(rows)))

    def at(self, step: int) -> Told:
        """What is told at any step."""
        return self.told


def _pick(text: Tensor, pooled: Tensor | None, rows: Sequence[int]) -> Conditioning:
    return _rows(Conditioning(text, pooled), rows)


@dataclass(frozen=True, eq=False)
class Context:
    """What all prompts of a batch share: the UNet, size numbers per side, extra channels per picture."""

    unet: UNet2DConditionModel
    time_ids: Tensor | None = None  # (6 or 5,)
    negative_time_ids: Tensor | None = None
    extra: Tensor | None = None  # (B or 1, E, Y, X)
    pix2pix: bool = False

    def conds(self, told: Told) -> Conds:
        """Guidance's view of what a prompt plan says at one step."""
        parts = tuple(Part(self._cond(layer.cond, True), layer.weight) for layer in told.layers())
        negative = None if told.uncond is None else self._cond(told.uncond, False)
        if not self.pix2pix or negative is None or negative.extra is None:
            return Conds(parts, negative)
        blind = replace(negative, extra=paddle.zeros_like(negative.extra))
        return Conds(parts, blind, image=negative)

    def _cond(self, said: Conditioning, positive: bool) -> Cond:
        count = said.text.shape[0]
        ids = self.time_ids if positive else self.negative_time_ids
        return Cond(
            self.unet,
            said.text,
            said.pooled,
            None if ids is None else ids.unsqueeze(0).expand([count, ids.shape[0]]),
            None if self.extra is None else self.extra.expand([count, *self.extra.shape[1:]]),
            (positive,) * count,
        )


def _rows(said: Conditioning, index: Sequence[int]) -> Conditioning:
    if list(index) == list(range(said.text.shape[0])):
        return said
    where = paddle.to_tensor(list(index), dtype="int64")
    return Conditioning(said.text[where], None if said.pooled is None else said.pooled[where])
