"""What a model is built from: frozen configs whose fields carry diffusers' and transformers' own names.

`from_dict` reads the config.json of those libraries and refuses, by name, every value this code does not implement; a
value that is only book-keeping is ignored. `to_dict` writes a config.json which diffusers or transformers load.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

Json = Mapping[str, Any]
Depth = int | tuple[int, ...]


def frozen_lists(value: Any) -> Any:
    """JSON's lists as tuples, all the way down; anything else as it is."""
    return tuple(frozen_lists(v) for v in value) if isinstance(value, list | tuple) else value


def plain_lists(value: Any) -> Any:
    """Tuples as JSON's lists, all the way down; anything else as it is."""
    return [plain_lists(v) for v in value] if isinstance(value, list | tuple) else value


def per_level(value: Any, levels: int, key: str) -> tuple[Any, ...]:
    """One value for each level: a single value is repeated, a sequence must have `levels` entries."""
    if not isinstance(value, tuple):
        return (value,) * levels
    if len(value) != levels:
        raise ValueError(f"{key} has {len(value)} entries for {levels} levels; give one value or {levels}")
    return value


class JsonConfig:
    """Reading and writing for the frozen dataclasses below; FIXED says which other keys must have which value."""

    CLASS_NAME: ClassVar[str]
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    IGNORED: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def from_dict(cls, config: Json) -> "Self":
        """The config in a diffusers/transformers `config.json`; `ValueError` names the first key we do not support."""
        known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
        given: dict[str, Any] = {}
        for key, raw in config.items():
            value = frozen_lists(raw)
            if key in known:
                given[key] = value
            else:
                cls._check_other(key, value)
        required = [n for n, f in known.items() if f.default is MISSING and n not in given]
        if required:
            raise ValueError(
                f"{cls.CLASS_NAME} config lacks {', '.join(required)}; the file is not a complete config.json"
            )
        for key, value in list(given.items()):
            if value is None and known[key].default is not None:
                given.pop(key)
        return cls(**given)

    @classmethod
    def _check_other(cls, key: str, value: Any) -> None:
        if key.startswith("_") or key in cls.IGNORED:
            return
        if key not in cls.FIXED:
            raise ValueError(f"{cls.CLASS_NAME} config has an unknown {key}={value!r}; remove it if it has no effect")
        if value not in cls.FIXED[key]:
            accepted = " or ".join(repr(v) for v in cls.FIXED[key])
            raise ValueError(f"{cls.CLASS_NAME} with {key}={value!r} is not supported; {key} must be {accepted}")

    def to_dict(self) -> dict[str, Any]:
        """A `config.json` for the original library: our fields under their names, and the class to build."""
        return {"_class_name": self.CLASS_NAME} | {f.name: plain_lists(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]


CROSS_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
MID_BLOCKS = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)

_OFF = ("center_input_sample", "only_cross_attention", "dual_cross_attention", "resnet_skip_time_act")
_OFF += ("class_embeddings_concat",)
_ABSENT = ("encoder_hid_dim", "encoder_hid_dim_type", "num_attention_heads", "class_embed_type", "num_class_embeds")
_ABSENT += ("time_embedding_dim", "time_embedding_act_fn", "timestep_post_act", "cross_attention_norm")
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(_OFF, (False,)),
    **dict.fromkeys(_ABSENT, (None,)),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "dropout": (0.0,),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default",),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_type": ("positional",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "mid_block_only_cross_attention": (None, False),
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(JsonConfig):
    """The half of a UNet that a ControlNet shares: levels, attention, and what the time embedding is made of.

    `attention_head_dim` is, for historical reasons, the *number of heads* of each level, as in diffusers.
    `transformer_layers_per_block` is per level; a level may list one depth per attention block.
    """

    CLASS_NAME: ClassVar[str] = ""
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = _UNET_FIXED
    IGNORED: ClassVar[frozenset[str]] = frozenset({"addition_embed_type_num_heads"})

    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN)
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    layers_per_block: Depth = 2
    transformer_layers_per_block: int | tuple[Depth, ...] = 1
    attention_head_dim: Depth = 8
    cross_attention_dim: int = 1280
    use_linear_projection: bool = False
    upcast_attention: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None

    def __post_init__(self) -> None:
        name, levels = self.CLASS_NAME, len(self.block_out_channels)
        if isinstance(self.cross_attention_dim, tuple):
            object.__setattr__(self, "cross_attention_dim", _one(self.cross_attention_dim, "cross_attention_dim"))
        per_level(self.down_block_types, levels, "down_block_types")
        for kind in self.down_block_types:
            if kind not in (CROSS_DOWN, PLAIN_DOWN):
                raise ValueError(f"{name} with down block {kind!r} is not supported; use {CROSS_DOWN} or {PLAIN_DOWN}")
        if self.mid_block_type not in MID_BLOCKS:
            raise ValueError(
                f"{name} with mid_block_type={self.mid_block_type!r} is not supported; it must be one of {MID_BLOCKS}"
            )
        if self.addition_embed_type not in (None, "text_time"):
            raise ValueError(
                f"{name}: addition_embed_type={self.addition_embed_type!r} is not supported; use None or 'text_time'"
            )
        if self.addition_embed_type and not (
            self.addition_time_embed_dim and self.projection_class_embeddings_input_dim
        ):
            raise ValueError(
                f"{name}: addition_embed_type needs addition_time_embed_dim and projection_class_embeddings_input_dim"
            )
        for width, heads in zip(self.block_out_channels, self.heads, strict=True):
            if width % self.norm_num_groups or width % heads:
                raise ValueError(
                    f"{name}: width {width} must be a multiple of {self.norm_num_groups} groups and of {heads} heads"
                )

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each level."""
        return per_level(self.attention_head_dim, len(self.block_out_channels), "attention_head_dim")

    @property
    def depths(self) -> tuple[int, ...]:
        """Residual blocks of each level on the way down."""
        return per_level(self.layers_per_block, len(self.block_out_channels), "layers_per_block")

    @property
    def time_embed_dim(self) -> int:
        return 4 * self.block_out_channels[0]

    @property
    def down_transformers(self) -> tuple[tuple[int, ...], ...]:
        """Transformer layers of each attention block, level by level on the way down; 0 where there is no attention."""
        levels = per_level(
            self.transformer_layers_per_block, len(self.block_out_channels), "transformer_layers_per_block"
        )
        kinds = (kind == CROSS_DOWN for kind in self.down_block_types)
        return tuple(
            _blocks(level, depth, cross) for level, depth, cross in zip(levels, self.depths, kinds, strict=True)
        )

    @property
    def mid_transformer(self) -> int:
        """Transformer layers of the mid block's attention, 0 when it has none."""
        if self.mid_block_type != "UNetMidBlock2DCrossAttn":
            return 0
        last = per_level(
            self.transformer_layers_per_block, len(self.block_out_channels), "transformer_layers_per_block"
        )[-1]
        return last[0] if isinstance(last, tuple) else last


def _blocks(depth: Depth, blocks: int, cross: bool) -> tuple[int, ...]:
    return per_level(depth, blocks, "transformer_layers_per_block") if cross else (0,) * blocks


def _one(values: tuple[int, ...], key: str) -> int:
    if len(set(values)) != 1:
        raise ValueError(f"{key}={values} differs between levels, which is not supported; give one value")
    return values[0]


@dataclass(frozen=True, kw_only=True)
class UNetConfig(EncoderConfig):
    """`UNet2DConditionModel` of Stable Diffusion 1, 2, XL, the XL refiner, and models distilled or tuned from them."""

    CLASS_NAME: ClassVar[str] = "UNet2DConditionModel"

    sample_size: int | None = None
    out_channels: int = 4
    up_block_types: tuple[str, ...] = (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP)
    reverse_transformer_layers_per_block: tuple[Depth, ...] | None = None
    time_cond_proj_dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.sample_size, tuple):
            object.__setattr__(self, "sample_size", _one(self.sample_size, "sample_size"))
        per_level(self.up_block_types, len(self.block_out_channels), "up_block_types")
        for kind in self.up_block_types:
            if kind not in (CROSS_UP, PLAIN_UP):
                raise ValueError(
                    f"{self.CLASS_NAME} with up block {kind!r} is not supported; use {CROSS_UP} or {PLAIN_UP}"
                )

    @property
    def up_transformers(self) -> tuple[tuple[int, ...], ...]:
        """Transformer layers of each attention block on the way up, bottom first; 0 where there is no attention."""
        levels = len(self.block_out_channels)
        down = per_level(self.transformer_layers_per_block, levels, "transformer_layers_per_block")
        up = self.reverse_transformer_layers_per_block or down[::-1]
        blocks = [depth + 1 for depth in self.depths[::-1]]
        kinds = (kind == CROSS_UP for kind in self.up_block_types)
        return tuple(_blocks(level, n, cross) for level, n, cross in zip(up, blocks, kinds, strict=True))


@dataclass(frozen=True, kw_only=True)
class ControlNetConfig(EncoderConfig):
    """`ControlNetModel`: the way down of a UNet plus a small network that reads the control picture."""

    CLASS_NAME: ClassVar[str] = "ControlNetModel"

    conditioning_channels: int = 3
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    controlnet_conditioning_channel_order: str = "rgb"
    global_pool_conditions: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        order = self.controlnet_conditioning_channel_order
        if order not in ("rgb", "bgr"):
            raise ValueError(f"controlnet_conditioning_channel_order={order!r} is not supported; use 'rgb' or 'bgr'")

    @classmethod
    def from_unet(cls, unet: UNetConfig, **changes: Any) -> "ControlNetConfig":
        """A ControlNet for `unet`: the same way down; `changes` are fields of this class."""
        shared = {f.name: getattr(unet, f.name) for f in fields(EncoderConfig)}
        return cls(**(shared | changes))


@dataclass(frozen=True, kw_only=True)
class VAEConfig(JsonConfig):
    """`AutoencoderKL`: pictures in [-1, 1] to latents, 2 ** (levels - 1) times smaller, and back."""

    CLASS_NAME: ClassVar[str] = "AutoencoderKL"
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "act_fn": ("silu", "swish"),
        "latents_mean": (None,),
        "latents_std": (None,),
    }

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 512
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.sample_size, tuple):
            object.__setattr__(self, "sample_size", self.sample_size[0])
        levels = len(self.block_out_channels)
        for key, only in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            kinds = per_level(getattr(self, key), levels, key)
            if set(kinds) != {only}:
                raise ValueError(f"AutoencoderKL with {key}={kinds} is not supported; every entry must be {only!r}")

    @property
    def scale(self) -> int:
        """How many times smaller a latent's sides are than the picture's."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(JsonConfig):
    """`CLIPTextModel`, with or without projection: OpenAI ViT-L (quick_gelu), OpenCLIP ViT-H and bigG (gelu).

    `eos_token_id` 2 is a mistake that many published configs carry; it means "the largest id of the prompt", as in
    transformers. Its configs are full of options for generation and training, so unknown keys are ignored here.
    """

    CLASS_NAME: ClassVar[str] = "CLIPTextModel"

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 1

    def __post_init__(self) -> None:
        if self.hidden_act not in ("quick_gelu", "gelu"):
            raise ValueError(
                f"CLIPTextModel with hidden_act={self.hidden_act!r} is not supported; it must be 'quick_gelu' or 'gelu'"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"CLIPTextModel: hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} heads"
            )

    @classmethod
    def _check_other(cls, key: str, value: Any) -> None:
        if key == "model_type" and value not in ("clip_text_model", "clip"):
            raise ValueError(
                f"this config.json is of a {value!r} model; a CLIP text encoder has model_type 'clip_text_model'"
            )

    def to_dict(self) -> dict[str, Any]:
        """A `config.json` for transformers; the model adds which architecture it is."""
        return {"model_type": "clip_text_model"} | {k: v for k, v in super().to_dict().items() if k != "_class_name"}


# The published families as values, and a tiny one of each for tests. The tiny ones keep everything that a header
# shows about its family (group count 32, heads per width, depth pattern, an 8 times smaller latent), so that detection,
# LoRA spellings and whole pipelines run on them unchanged.


@dataclass(frozen=True, kw_only=True)
class Preset:
    """All configs of one family; `text_encoder` is missing in the XL refiner, `text_encoder_2` everywhere but in XL."""

    unet: UNetConfig
    vae: VAEConfig
    text_encoder: CLIPTextConfig | None = None
    text_encoder_2: CLIPTextConfig | None = None

    @property
    def controlnet(self) -> ControlNetConfig:
        return ControlNetConfig.from_unet(self.unet)


VIT_L = CLIPTextConfig()
VIT_H = CLIPTextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    projection_dim=512,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
    bos_token_id=0,
    eos_token_id=2,
)
BIG_G = CLIPTextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    projection_dim=1280,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    bos_token_id=0,
    eos_token_id=2,
)
VAE_SD = VAEConfig()
VAE_XL = VAEConfig(sample_size=1024, scaling_factor=0.13025)

SD15 = Preset(unet=UNetConfig(sample_size=64, cross_attention_dim=768), vae=VAE_SD, text_encoder=VIT_L)
SD21 = Preset(
    unet=UNetConfig(
        sample_size=96,
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
        upcast_attention=True,
    ),
    vae=replace(VAE_SD, sample_size=768),
    text_encoder=VIT_H,
)
SDXL = Preset(
    unet=UNetConfig(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN),
        up_block_types=(CROSS_UP, CROSS_UP, PLAIN_UP),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
    vae=VAE_XL,
    text_encoder=VIT_L,
    text_encoder_2=BIG_G,
)
SDXL_REFINER = Preset(
    unet=replace(
        SDXL.unet,
        block_out_channels=(384, 768, 1536, 1536),
        down_block_types=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN),
        up_block_types=(PLAIN_UP, CROSS_UP, CROSS_UP, PLAIN_UP),
        transformer_layers_per_block=4,
        attention_head_dim=(6, 12, 24, 24),
        cross_attention_dim=1280,
        projection_class_embeddings_input_dim=2560,
    ),
    vae=VAE_XL,
    text_encoder_2=BIG_G,
)


def _tiny_text(of: CLIPTextConfig, width: int) -> CLIPTextConfig:
    """Two layers of `width`; the vocabulary stays, so that the real tokenizer works with it."""
    size = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}
    return replace(of, num_hidden_layers=2, num_attention_heads=width // 16, **size)


_TINY_VAE = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "sample_size": 64}

TINY_SD15 = Preset(
    unet=replace(
        SD15.unet, sample_size=8, block_out_channels=(32, 32, 64, 64), layers_per_block=1, cross_attention_dim=32
    ),
    vae=replace(VAE_SD, **_TINY_VAE),
    text_encoder=_tiny_text(VIT_L, 32),
)
TINY_SD21 = Preset(
    unet=replace(
        SD21.unet,
        sample_size=8,
        block_out_channels=(64, 64, 128, 128),
        layers_per_block=1,
        attention_head_dim=(1, 1, 2, 2),
        cross_attention_dim=48,
    ),
    vae=replace(VAE_SD, **_TINY_VAE),
    text_encoder=_tiny_text(VIT_H, 48),
)
TINY_SDXL = Preset(
    unet=replace(
        SDXL.unet,
        sample_size=8,
        block_out_channels=(64, 64, 128),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 1, 2),
        cross_attention_dim=32 + 64,
        projection_class_embeddings_input_dim=64 + 6 * 256,
    ),
    vae=replace(VAE_XL, **_TINY_VAE),
    text_encoder=_tiny_text(VIT_L, 32),
    text_encoder_2=_tiny_text(BIG_G, 64),
)
TINY_SDXL_REFINER = Preset(
    unet=replace(
        SDXL_REFINER.unet,
        sample_size=8,
        block_out_channels=(64, 64, 128, 128),
        layers_per_block=1,
        transformer_layers_per_block=2,
        attention_head_dim=(1, 1, 2, 2),
        cross_attention_dim=64,
        projection_class_embeddings_input_dim=64 + 5 * 256,
    ),
    vae=replace(VAE_XL, **_TINY_VAE),
    text_encoder_2=_tiny_text(BIG_G, 64),
)
