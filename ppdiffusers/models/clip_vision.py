"""CLIP whole: a picture tower and a text tower into one space (Radford et al. 2021), under transformers' names.

B pictures or texts, L patches + 1 or tokens, D width of a tower, P width of the shared space.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import numpy as np
import paddle
import PIL.Image
from paddle import Tensor, nn

from ppdiffusers.models.clip import CLIPEncoder, CLIPTextModel
from ppdiffusers.models.config import CLIPTextConfig, Json, JsonConfig
from ppdiffusers.models.layers import Conv2D, LayerNorm, Linear, channels_last, plus
from ppdiffusers.models.outputs import Output
from ppdiffusers.models.pretrained import Pretrained

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(JsonConfig):
    """The picture tower; the defaults are ViT-B/32's. transformers' configs carry many options that have no effect."""

    CLASS_NAME: ClassVar[str] = "CLIPVisionModel"

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_act not in ("quick_gelu", "gelu"):
            raise ValueError(
                f"CLIPVisionModel with hidden_act={self.hidden_act!r} is not supported; it must be 'quick_gelu' or "
                "'gelu'"
            )
        if self.image_size % self.patch_size or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"CLIPVisionModel: {self.image_size} pixels must be whole patches of {self.patch_size}, "
                f"{self.hidden_size} channels whole heads of {self.num_attention_heads}"
            )

    @classmethod
    def _check_other(cls, key: str, value: Any) -> None:
        if key == "model_type" and value not in ("clip_vision_model", "clip"):
            raise ValueError(f"this config.json is of a {value!r} model, not of a CLIP picture tower")

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": "clip_vision_model"} | {k: v for k, v in super().to_dict().items() if k != "_class_name"}


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(JsonConfig):
    """Both towers and the space they share."""

    CLASS_NAME: ClassVar[str] = "CLIPModel"

    text_config: CLIPTextConfig
    vision_config: CLIPVisionConfig
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592

    @classmethod
    def from_dict(cls, config: Json) -> "CLIPConfig":
        """transformers' config.json of a `CLIPModel`; ValueError for another model's."""
        if config.get("model_type") != "clip" or not {"text_config", "vision_config"} <= config.keys():
            raise ValueError(f"this config.json is of a {config.get('model_type')!r} model, not of a whole CLIP")
        own = {f.name for f in fields(cls)} - {"text_config", "vision_config"}
        return cls(
            text_config=CLIPTextConfig.from_dict(config["text_config"]),
            vision_config=CLIPVisionConfig.from_dict(config["vision_config"]),
            **{key: config[key] for key in own & config.keys()},
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "model_type": "clip",
            "text_config": self.text_config.to_dict(),
            "vision_config": self.vision_config.to_dict(),
            "projection_dim": self.projection_dim,
            "logit_scale_init_value": self.logit_scale_init_value,
        }


@dataclass(frozen=True, eq=False)
class CLIPOutput(Output):
    """Unit vectors of pictures and texts (B, P), and their likeness times the learned scale, (B, B)."""

    logits_per_image: Tensor
    logits_per_text: Tensor
    text_embeds: Tensor
    image_embeds: Tensor


class CLIPVisionEmbeddings(nn.Layer):
    """(B, 3, Y, X) -> (B, L, D): one vector for the whole, then one for each patch, with their positions."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        normal = paddle.nn.initializer.Normal(0.0, width**-0.5)
        self.class_embedding = self.create_parameter([width], default_initializer=normal)
        self.patch_embedding = PatchEmbedding(config)
        count = (config.image_size // config.patch_size) ** 2 + 1
        self.position_embedding = nn.Embedding(count, width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = self.patch_embedding(channels_last(pixel_values, self.class_embedding.dtype)).flatten(1, 2)
        whole = self.class_embedding.expand([patches.shape[0], 1, patches.shape[2]])
        positions = self.position_embedding.weight.unsqueeze(0)
        x = paddle.concat([t.astype("float32") for t in (whole, patches)], axis=1).astype(patches.dtype)
        return plus(x, positions.expand(x.shape))


class PatchEmbedding(Conv2D):
    """Non-overlapping patches; no bias, as in CLIP."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        size = config.patch_size
        super().__init__(config.num_channels, config.hidden_size, kernel=size, stride=size, padding=0)
        self.bias = cast(Any, None)


class CLIPVisionTransformer(nn.Layer):
    """The picture tower: (B, 3, Y, X) normalised by `MEAN` and `DEVIATION` -> (B, L, D) and pooled (B, D)."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.size = config.image_size
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = LayerNorm(width, eps)  # transformers spells it so
        self.encoder = CLIPEncoder(config, causal=False)
        self.post_layernorm = LayerNorm(width, eps)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        if list(pixel_values.shape[2:]) != [self.size, self.size]:
            raise ValueError(f"this tower sees {self.size}x{self.size} pixels, got {list(pixel_values.shape[2:])}")
        last = self.encoder(self.pre_layrnorm(self.embeddings(pixel_values)))[-1]
        return last, self.post_layernorm(last[:, 0])


class CLIPModel(Pretrained):
    """Both towers. Loads from and saves to transformers' folders."""

    CONFIG: ClassVar[type[CLIPConfig]] = CLIPConfig
    WEIGHTS_NAME: ClassVar[str] = "model"
    HARMLESS: ClassVar[tuple[tuple[str, str], ...]] = ((r".*\.position_ids", "positions, they only count"),)
    config: CLIPConfig

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        text, vision, width = config.text_config, config.vision_config, config.projection_dim
        tower = CLIPTextModel(text)
        self._tower = (tower,)  # in a tuple, so that its parameters are not counted twice
        self.text_model = tower.text_model
        self.vision_model = CLIPVisionTransformer(vision)
        self.visual_projection = Linear(vision.hidden_size, width, bias=False)
        self.text_projection = Linear(text.hidden_size, width, bias=False)
        start = paddle.nn.initializer.Constant(config.logit_scale_init_value)
        self.logit_scale = self.create_parameter([], default_initializer=start)

    @property
    def dtype(self) -> paddle.dtype:
        return self.visual_projection.dense_weight().dtype

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, Y, X) normalised -> (B, P), not of unit length."""
        return self.visual_projection(self.vision_model(pixel_values)[1])

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L) token ids -> (B, P), not of unit length."""
        return self.text_projection(self.text_tower.encode(input_ids, attention_mask, None).pooler_output)

    @property
    def text_tower(self) -> CLIPTextModel:
        """The text half as the model that Stable Diffusion reads with; it shares the weights."""
        return self._tower[0]

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> CLIPOutput | tuple[Tensor, ...]:
        """How well each text fits each picture."""
        image = unit(self.get_image_features(pixel_values))
        text = unit(self.get_text_features(input_ids, attention_mask))
        logits = paddle.matmul(text, image, transpose_y=True) * self.logit_scale.astype("float32").exp()
        out = CLIPOutput(logits.T, logits, text, image)
        return out if return_dict else out.to_tuple()

    def config_dict(self) -> dict[str, Any]:
        return {"architectures": ["CLIPModel"]} | self.config.to_dict()


def unit(x: Tensor) -> Tensor:
    """Rows of length 1, float32."""
    x = x.astype("float32")
    return x * paddle.rsqrt((x * x).sum(axis=-1, keepdim=True).clip(min=1e-12))


def normalised(image: PIL.Image.Image, size: int) -> np.ndarray:
    """A picture as the tower sees it: short side to `size`, centre kept, (3, size, size) float32."""
    factor = size / min(image.size)
    width, height = (max(size, round(side * factor)) for side in image.size)
    image = image.convert("RGB").resize((width, height), PIL.Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    return np.ascontiguousarray(
        ((pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)).transpose(2, 0, 1)
    )
