"""The network that guidance calls: the UNet with its ControlNets and the extra channels of inpainting models."""

from collections.abc import Sequence
from dataclasses import dataclass

import paddle
from paddle import Tensor

from ppdiffusers.models.controlnet import ControlNetModel, soft_scales
from ppdiffusers.pipelines.conditions import Cond
from ppdiffusers.pipelines.pixels import fit, load_image, to_tensor
from ppdiffusers.pipelines.request import Control


@dataclass(frozen=True, eq=False)
class Hint:
    """A ControlNet with its picture as a tensor."""

    control: Control
    picture: Tensor  # (1, 3, Y, X) in [0, 1]

    @classmethod
    def of(cls, control: Control, width: int, height: int) -> "Hint":
        """The control's picture at the size of the pass."""
        picture = fit(load_image(control.image), (width, height), control.fit)
        return cls(control, (to_tensor([picture]) + 1) / 2)

    def acts(self, step: int, steps: int) -> bool:
        """Whether it acts at this step of so many (diffusers' rule: the whole step lies between start and end)."""
        control = self.control
        return control.weight != 0 and control.start <= step / steps and (step + 1) / steps <= control.end


class Network:
    """`network(x, t, cond)` in the words of `sampling.denoise`; `step` of `steps` is where the pass is."""

    def __init__(self, hints: Sequence[Hint]) -> None:
        self.hints = tuple(hints)
        self.step, self.steps = 0, 1

    def __call__(self, x: Tensor, t: float, cond: Cond) -> Tensor:
        """The UNet's output (N, C, Y, X), float32."""
        down, mid = self._residuals(x, t, cond)
        inputs = x if cond.extra is None else paddle.concat([x, cond.extra.astype(x.dtype)], axis=1)
        out = cond.unet(
            inputs,
            t,
            cond.text,
            added_cond_kwargs=cond.added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        )
        return out.sample.astype("float32")

    def _residuals(self, x: Tensor, t: float, cond: Cond) -> tuple[list[Tensor] | None, Tensor | None]:
        sums: list[Tensor] | None = None
        for hint in self.hints:
            if not hint.acts(self.step, self.steps):
                continue
            found = self._of(hint, x, t, cond)
            sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
        return (None, None) if sums is None else (sums[:-1], sums[-1])

    @staticmethod
    def _of(hint: Hint, x: Tensor, t: float, cond: Cond) -> list[Tensor]:
        net, control = hint.control.model, hint.control
        picture = hint.picture.expand([x.shape[0], *hint.picture.shape[1:]])
        out = net(x, t, cond.text, picture, _scale(net, control), cond.added)
        residuals = [*out.down_block_res_samples, out.mid_block_res_sample]
        if control.mode == "control":  # it speaks on the prompt's side only, so that guidance amplifies it
            keep = paddle.to_tensor([float(flag) for flag in cond.positive]).reshape([-1, 1, 1, 1])
            residuals = [r * keep.astype(r.dtype) for r in residuals]
        return residuals


def _scale(net: ControlNetModel, control: Control) -> float | list[float]:
    if control.mode != "prompt":
        return control.weight
    return [control.weight * s for s in soft_scales(len(net.controlnet_down_blocks) + 1)]
