"""ControlNets: a copy of the UNet's way down learns to read a control picture; the UNet itself stays as it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import PIL.Image
from paddle import Tensor

from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.request import Control
from ppdiffusers.prompt.encode import Conditioning
from ppdiffusers.training.dataset import SUFFIXES, Dataset
from ppdiffusers.training.diffusion import DiffusionConfig, DiffusionTask
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.materials import Batch, added
from ppdiffusers.training.objective import Mixed
from ppdiffusers.training.pictures import fitted, to_array
from ppdiffusers.weights.load import load_part


def canny(image: PIL.Image.Image) -> PIL.Image.Image:
    """White edges on black, at the thresholds that are usual for ControlNets."""
    import cv2

    edges = cv2.Canny(np.asarray(image.convert("RGB")), 100, 200)
    return PIL.Image.fromarray(edges).convert("RGB")


def luminance(image: PIL.Image.Image) -> PIL.Image.Image:
    """Brightness in cells of 8 pixels, as QR codes are laid over pictures."""
    small = image.convert("L").resize((image.width // 8, image.height // 8), PIL.Image.Resampling.BOX)
    return small.resize(image.size, PIL.Image.Resampling.NEAREST).convert("RGB")


CONDITIONS: Mapping[str, Callable[[PIL.Image.Image], PIL.Image.Image]] = {"canny": canny, "luminance": luminance}


def started(net: ControlNetModel, draws: Draws) -> ControlNetModel:
    """A new net whose reader of control pictures begins with the run's own random numbers, not with Paddle's."""
    reader = net.controlnet_cond_embedding
    with paddle.no_grad():
        for i, conv in enumerate((reader.conv_in, *reader.blocks)):
            shape = conv.dense_weight().shape
            bound = (3.0 / np.prod(shape[1:])) ** 0.5
            values = draws.generator("control reader", i).uniform(-bound, bound, shape).astype(np.float32)
            conv.set_dense_weight(paddle.to_tensor(values))
            conv.bias.set_value(paddle.zeros_like(conv.bias))
    return net


def begun(source: str | Path, bundle: Bundle) -> ControlNetModel:
    """A ControlNet's folder or file, to be trained on beside this UNet. Raises ValueError where the two don't fit."""
    net = load_part(source, "controlnet", str(bundle.unet.dtype).removeprefix("paddle."))
    for name in ("block_out_channels", "cross_attention_dim"):
        if (has := getattr(net.config, name)) != (wanted := getattr(bundle.unet.config, name)):
            raise ValueError(f"{source} does not fit {bundle.name}: its {name} is {has}, the UNet's {wanted}")
    return net


@dataclass(frozen=True, kw_only=True)
class ControlTrainConfig(DiffusionConfig):
    """As for a diffusion model. condition: "canny", "luminance", or a folder of control pictures with the pictures'
    names.
    """

    condition: str = "canny"


class ControlNetTask(DiffusionTask):
    """Train a ControlNet from the UNet's own weights, or on from `net`; the result is its folder (out)."""

    name = "controlnet"

    def __init__(
        self,
        bundle: Bundle,
        dataset: Dataset,
        out: str | Path,
        config: ControlTrainConfig,
        net: ControlNetModel | None = None,
    ) -> None:
        super().__init__(bundle, dataset, out, config)
        self.net = started(ControlNetModel.from_unet(bundle.unet), self.draws) if net is None else net
        self.net.eval()
        self.condition = config.condition
        self._hints = self._found() if config.condition not in CONDITIONS else {}

    def _found(self) -> dict[int, Path]:
        """The control picture of each example. Raises ValueError where one is missing."""
        folder = Path(self.condition)
        if not folder.is_dir():
            raise ValueError(f"the condition is {', '.join(CONDITIONS)} or a folder, not {self.condition!r}")
        there = {path.stem: path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES}
        names = [example.path.stem for example in self.dataset.examples]
        if missing := [name for name in names if name not in there]:
            raise ValueError(f"{folder} has no control picture for {missing[0]} ({len(missing)} missing)")
        return {i: there[name] for i, name in enumerate(names)}

    def thaw(self) -> None:
        for parameter in self.net.parameters():
            parameter.stop_gradient = False

    def trainable(self) -> Mapping[str, Tensor]:
        return dict(self.net.named_parameters())

    def residuals(self, batch: Batch, mixed: Mixed, said: Conditioning) -> tuple[list[Tensor] | None, Tensor | None]:
        hints = [self.hint(i, flip) for i, flip in zip(batch.indices, batch.flips, strict=True)]
        told = added(said, batch.time_ids)
        out = self.net(mixed.noisy, mixed.times, said.text, paddle.to_tensor(np.stack(hints)), added_cond_kwargs=told)
        return list(out.down_block_res_samples), out.mid_block_res_sample

    def hint(self, index: int, flip: bool) -> np.ndarray:
        """The control picture of one example at its bucket's size: (3, Y, X) in [0, 1]."""
        size = self.material.sizes[index]
        if index in self._hints:
            image = fitted(self._hints[index], size)
        else:
            image = CONDITIONS[self.condition](fitted(self.dataset.examples[index].path, size))
        array = (to_array(image) + 1.0) / 2.0
        return np.ascontiguousarray(array[:, :, ::-1]) if flip else array

    def samples(self) -> tuple[Sequence[PIL.Image.Image], Sequence[str]]:
        """Each control picture beside what was made from it and its caption."""
        made, told = list[PIL.Image.Image](), list[str]()
        for index in range(min(self.config.sample.count, len(self.dataset))):
            caption = self.dataset.examples[index].caption
            array = self.hint(index, False)
            hint = PIL.Image.fromarray((array.transpose(1, 2, 0) * 255).round().astype(np.uint8))
            request = self.request([caption], controls=(Control(model=self.net, image=hint),))
            images = self.made(self.bundle, request)
            made += [hint.resize(images[0].size), *images]
            told += ["control", caption]
        return made, told

    def save(self, step: int) -> Path:
        self.net.save_pretrained(self.out, dtype="float16")
        return self.out
