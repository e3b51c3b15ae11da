"""Low-rank paths beside chosen layers, trained in float32 whatever the model's dtype, and the file they become.

The file is kohya's: `lora_unet_<layer, flat>.lora_down.weight` (r, in[, kh, kw]), `.lora_up.weight` (out, r[, 1, 1]),
`.alpha`, and what its trainer says about itself under `ss_...`, as the WebUI and Civitai show it.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.base.framework import EagerParamBase

import kernels
from kernels.reference import activate
from ppdiffusers.models.layers import Conv2D, Linear
from ppdiffusers.training.checkpoint import entry
from ppdiffusers.training.draws import Draws
from ppdiffusers.weights.lora import descend
from ppdiffusers.weights.names import unet_ldm_names
from ppdiffusers.weights.write import Entry, write_tensors

UNET = r"attentions\.\d+\.(proj_in|proj_out|.*\.(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2))"
CONV = r".*\.(conv1|conv2|conv_shortcut|time_emb_proj|(down|up)samplers\.0\.conv)"
TEXT = r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """What is trained beside the model. The paths' output counts alpha / rank.

    targets, text_targets: regular expressions that find a layer's name in the UNet and in the text encoders; text None
    leaves the encoders alone. conv: residual blocks' convolutions too, at conv_rank (0: rank).
    """

    rank: int = 16
    alpha: float = 16.0
    targets: str = UNET
    text_targets: str | None = None
    conv: bool = False
    conv_rank: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.conv_rank < 0:
            raise ValueError(f"the rank must be at least 1, got {self.rank} (convolutions {self.conv_rank})")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be above 0 (the rank is usual), got {self.alpha}")
        for pattern in filter(None, (self.targets, self.text_targets)):
            try:
                re.compile(pattern)
            except re.error as why:
                raise ValueError(f"{pattern!r} is no regular expression: {why}") from None


class LowRankPath(nn.Layer):
    """A frozen layer and a trained path: y = act(layer(x) + alpha / r * up(down(x))) + residual.

    down is (in, r), or (r, in, kh, kw) for a convolution, up (r, out); up starts at zero, so nothing changes at first.
    """

    def __init__(self, layer: Linear | Conv2D, rank: int, alpha: float, generator: np.random.Generator) -> None:
        super().__init__()
        self.layer, self.rank, self.alpha = layer, rank, alpha
        shape, wide = tuple(layer.dense_weight().shape), isinstance(layer, Conv2D)
        down = (rank, *shape[1:]) if wide else (shape[0], rank)
        bound = 1.0 / math.sqrt(math.prod(shape[1:]) if wide else shape[0])
        self.down = _parameter(generator.uniform(-bound, bound, down))
        self.up = _parameter(np.zeros((rank, shape[0] if wide else shape[1])))

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        y = self.layer(x, residual=residual if act is None else None)
        up = (self.up * (self.alpha / self.rank)).astype(x.dtype)
        y = kernels.linear(self._down(x, self.down.astype(x.dtype)), up, residual=y)
        if act is None:
            return y
        y = activate(y, act)
        return y if residual is None else kernels.add(y, residual)

    def _down(self, x: Tensor, down: Tensor) -> Tensor:
        if isinstance(self.layer, Linear):
            return kernels.linear(x, down)
        return kernels.conv2d(x, down, stride=self.layer.stride, padding=self.layer.padding)

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def torch_factors(self) -> tuple[Tensor, Tensor]:
        """(down, up) in torch's layout, as files have them."""
        if isinstance(self.layer, Linear):
            return self.down.T, self.up.T
        return self.down, self.up.T.reshape([-1, self.rank, 1, 1])


def _parameter(values: np.ndarray) -> Tensor:
    return EagerParamBase.from_tensor(paddle.to_tensor(values.astype(np.float32)), trainable=True)


class LowRank:
    """All paths of a run, hung into the models until `remove`."""

    PREFIX: ClassVar[Mapping[str, str]] = {"unet": "lora_unet_", "text_encoder": "lora_te_"}

    def __init__(self, models: Mapping[str, nn.Layer], config: LoraConfig, draws: Draws) -> None:
        self.models, self.config = models, config
        self.paths: dict[str, LowRankPath] = {}
        for part, name, rank in self._places():
            layer = cast(Linear | Conv2D, descend(models[part], name))
            alpha = config.alpha * rank / config.rank  # one strength for all ranks
            path = LowRankPath(layer, rank, alpha, draws.generator(f"lora {part}.{name}"))
            self.paths[f"{part}.{name}"] = path
            _parent(models[part], name)._sub_layers[name.rpartition(".")[2]] = path

    def _places(self) -> list[tuple[str, str, int]]:
        """(part, layer, rank) of everything that is trained. Raises ValueError when nothing matches."""
        config, found = self.config, list[tuple[str, str, int]]()
        for part, model in self.models.items():
            pattern = config.targets if part == "unet" else config.text_targets
            for name, layer in model.named_sublayers():
                if not isinstance(layer, Linear | Conv2D):
                    continue
                if pattern is not None and re.search(f"(?:{pattern})$", name):
                    found.append((part, name, config.rank))
                elif config.conv and part == "unet" and re.fullmatch(CONV, name):
                    found.append((part, name, config.conv_rank or config.rank))
        if not found:
            raise ValueError(f"no layer's name matches {config.targets!r}; an example is to_q, to_k, to_v, to_out.0")
        return found

    def remove(self) -> None:
        """The models as they were."""
        for place, path in self.paths.items():
            part, _, name = place.partition(".")
            _parent(self.models[part], name)._sub_layers[name.rpartition(".")[2]] = path.layer

    def parameters(self) -> dict[str, Tensor]:
        return {f"{place}.{side}": getattr(path, side) for place, path in self.paths.items() for side in ("down", "up")}

    # --- the file ---

    def save(self, file: Path, metadata: Mapping[str, str], dtype: str = "float16") -> None:
        """Write all paths; values beyond float16 are refused rather than written as infinite."""
        spell, entries = self._spelling(), dict[str, Entry]()
        for place, path in self.paths.items():
            down, up = (t.detach().contiguous() for t in path.torch_factors())
            for side, tensor in (("lora_down.weight", down), ("lora_up.weight", up)):
                if not bool(paddle.isfinite(tensor.astype(cast(Any, dtype)).astype("float32")).all()):
                    raise ValueError(f"{place} is not finite as {dtype}; lower the learning rate")
                entries[f"{spell(place)}.{side}"] = entry(tensor, dtype)
            entries[f"{spell(place)}.alpha"] = entry(paddle.to_tensor(path.alpha, dtype="float32"), dtype)
        write_tensors(file, entries, metadata)

    def _spelling(self) -> Callable[[str], str]:
        """kohya's names: diffusers' layers for SD 1 and 2, the original ones for SDXL."""
        xl = bool(self.models["unet"].config.addition_embed_type)
        ldm = unet_ldm_names(self.models["unet"].config) if xl else None
        encoders = [part for part in self.models if part != "unet"]

        def spell(place: str) -> str:
            part, _, name = place.partition(".")
            if part == "unet":
                return "lora_unet_" + (ldm(name) if ldm is not None else name).replace(".", "_")
            number = (2 if part.endswith("_2") else 1) if xl or len(encoders) > 1 else ""
            return f"lora_te{number}_{name.replace('.', '_')}"

        return spell


def _parent(model: nn.Layer, name: str) -> nn.Layer:
    return descend(model, name.rpartition(".")[0])


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a LoRA file says about its making."""

    name: str
    model: str
    family: str
    resolution: int
    pictures: int
    steps: int
    batch: int
    rate: float
    seed: int
    dtype: str
    tags: Mapping[str, int]
    prediction: str = "eps"


_BASES = {"sdxl": "sdxl_base_v1-0", "sd2": "sd_v2"}
_ARCHITECTURES = {"sdxl": "stable-diffusion-xl-v1-base", "sd2": "stable-diffusion-v2"}


def metadata(told: Told, config: LoraConfig) -> dict[str, str]:
    """The header of a LoRA file; everything is a string, as the format wants."""
    kind = next((key for key in _BASES if told.family.startswith(key)), "")
    said: dict[str, Any] = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": config.rank,
        "ss_network_alpha": config.alpha,
        "ss_base_model_version": _BASES.get(kind, "sd_v1"),
        "ss_v2": kind == "sd2",
        "ss_sd_model_name": told.model,
        "ss_output_name": told.name,
        "ss_resolution": f"({told.resolution}, {told.resolution})",
        "ss_num_train_images": told.pictures,
        "ss_steps": told.steps,
        "ss_total_batch_size": told.batch,
        "ss_unet_lr": told.rate,
        "ss_seed": told.seed,
        "ss_mixed_precision": {"bfloat16": "bf16", "float16": "fp16"}.get(told.dtype, "no"),
        "ss_training_comment": "MixStudio",
        "modelspec.architecture": f"{_ARCHITECTURES.get(kind, 'stable-diffusion-v1')}/lora",
        "modelspec.title": told.name,
        "modelspec.prediction_type": {"eps": "epsilon"}.get(told.prediction, told.prediction),
    }
    if config.conv:
        rank = config.conv_rank or config.rank
        said["ss_network_args"] = json.dumps({"conv_dim": rank, "conv_alpha": config.alpha * rank / config.rank})
    said["ss_tag_frequency"] = json.dumps({"pictures": dict(told.tags)})
    return {key: str(value) for key, value in said.items()}


def frozen(models: Mapping[str, nn.Layer]) -> Iterator[tuple[Tensor, bool]]:
    """Freeze every parameter; yields each with what it was before, for undoing."""
    for model in models.values():
        model.eval()
        for parameter in model.parameters():
            yield parameter, parameter.stop_gradient
            parameter.stop_gradient = True
