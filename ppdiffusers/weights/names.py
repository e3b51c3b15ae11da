"""The names of original (LDM, OpenCLIP) checkpoints, computed by a walk over our own model.

Our modules carry diffusers' and transformers' names; a walk yields where each block of ours lies in the original, a
short table renames the leaves inside a block, and everything below is called the same in both. Nothing is written out
key by key, so every depth and width of a family is covered and both directions come from one place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ppdiffusers.models.config import ControlNetConfig, EncoderConfig, UNetConfig, VAEConfig
from ppdiffusers.weights.plan import Rows, Spell, Squeeze, Take, Transpose

Places = Iterator[tuple[str, str]]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_LEAVES = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


@dataclass(frozen=True)
class Names:
    """Spells modules of ours as another format does: `names("down_blocks.0.resnets.0.conv1")`, also `names[...]`.

    `places` maps blocks, the longest one that holds a module counts; `leaves` maps what lies directly below a block.
    """

    places: Mapping[str, str]
    leaves: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""

    def __call__(self, module: str) -> str:
        head = module
        while head and head not in self.places:
            head = head.rpartition(".")[0]
        if head not in self.places:
            raise KeyError(f"no original name is known for {module!r}")
        leaf = module[len(head) :].lstrip(".")
        leaf = self.leaves.get(leaf, leaf)
        return self.prefix + ".".join(part for part in (self.places[head], leaf) if part)

    def __getitem__(self, module: str) -> str:
        return self(module)

    def __contains__(self, module: str) -> bool:
        try:
            self(module)
        except KeyError:
            return False
        return True

    def under(self, prefix: str) -> "Names":
        """The same names below a prefix such as `model.diffusion_model.`."""
        return Names(self.places, self.leaves, prefix + self.prefix)


def split(parameter: str) -> tuple[str, str]:
    """(module, leaf) of a parameter's name."""
    module, _, leaf = parameter.rpartition(".")
    return module, leaf


def spell_by(names: Names) -> Spell:
    """Parameters of modules that `names` knows."""

    def spell(parameter: str) -> tuple[Take, ...]:
        module, leaf = split(parameter)
        return (Take(f"{names(module)}.{leaf}"),)

    return spell


def _encoder_places(config: EncoderConfig) -> Places:
    """The way down and the middle, which a UNet and its ControlNets share."""
    n, last = 0, len(config.block_out_channels) - 1
    yield "conv_in", "input_blocks.0.0"
    for i, depth in enumerate(config.depths):
        for j in range(depth):
            n += 1
            yield f"down_blocks.{i}.resnets.{j}", f"input_blocks.{n}.0"
            yield f"down_blocks.{i}.attentions.{j}", f"input_blocks.{n}.1"
        if i != last:
            n += 1
            yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{n}.0.op"
    yield "mid_block.resnets.0", "middle_block.0"
    yield "mid_block.attentions.0", "middle_block.1"
    yield "mid_block.resnets.1", f"middle_block.{2 if config.mid_transformer else 1}"
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "time_embedding.cond_proj", "time_embed.cond_proj"  # guidance-distilled (LCM) models
    yield "add_embedding.linear_1", "label_emb.0.0"
    yield "add_embedding.linear_2", "label_emb.0.2"


def _decoder_places(config: UNetConfig) -> Places:
    n, last = 0, len(config.block_out_channels) - 1
    for i, transformers in enumerate(config.up_transformers):
        for j, layers in enumerate(transformers):
            yield f"up_blocks.{i}.resnets.{j}", f"output_blocks.{n}.0"
            yield f"up_blocks.{i}.attentions.{j}", f"output_blocks.{n}.1"
            if i != last and j == len(transformers) - 1:
                yield f"up_blocks.{i}.upsamplers.0", f"output_blocks.{n}.{2 if layers else 1}"
            n += 1
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"


def unet_ldm_names(config: UNetConfig) -> Names:
    """Names inside `model.diffusion_model.` of an LDM or SGM checkpoint."""
    return Names(dict((*_encoder_places(config), *_decoder_places(config))), RESNET)


def controlnet_ldm_names(config: ControlNetConfig) -> Names:
    """Names inside `control_model.` of an original ControlNet file."""
    hints = len(config.conditioning_embedding_out_channels) - 1
    places = dict(_encoder_places(config))
    places["controlnet_cond_embedding.conv_in"] = "input_hint_block.0"
    for i in range(2 * hints):
        places[f"controlnet_cond_embedding.blocks.{i}"] = f"input_hint_block.{2 * i + 2}"
    places["controlnet_cond_embedding.conv_out"] = f"input_hint_block.{4 * hints + 2}"
    for i in range(sum(config.depths) + len(config.depths)):
        places[f"controlnet_down_blocks.{i}"] = f"zero_convs.{i}.0"
    places["controlnet_mid_block"] = "middle_block_out.0"
    return Names(places, RESNET)


def vae_ldm_names(config: VAEConfig) -> Names:
    """Names inside `first_stage_model.`; LDM numbers the decoder's levels from the full resolution down."""
    levels, last = len(config.block_out_channels), len(config.block_out_channels) - 1
    places = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        places |= {f"{half}.{name}": f"{half}.{name}" for name in ("conv_in", "conv_out")}
        places[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        places |= {f"{half}.mid_block.resnets.{i}": f"{half}.mid.block_{i + 1}" for i in range(2)}
        places[f"{half}.mid_block.attentions.0"] = f"{half}.mid.attn_1"
    for i in range(levels):
        for j in range(config.layers_per_block):
            places[f"encoder.down_blocks.{i}.resnets.{j}"] = f"encoder.down.{i}.block.{j}"
        for j in range(config.layers_per_block + 1):
            places[f"decoder.up_blocks.{i}.resnets.{j}"] = f"decoder.up.{last - i}.block.{j}"
        places[f"encoder.down_blocks.{i}.downsamplers.0"] = f"encoder.down.{i}.downsample"
        places[f"decoder.up_blocks.{i}.upsamplers.0"] = f"decoder.up.{last - i}.upsample"
    return Names(places, VAE_LEAVES)


# Our names and older ones for the same thing: the VAE's attention before diffusers 0.15, transformers' CLIP since 5.0.
OTHER_NAMES = (
    (".to_q.", ".query."),
    (".to_k.", ".key."),
    (".to_v.", ".value."),
    (".to_out.0.", ".proj_attn."),
    ("text_model.", ""),
)


def spell_below(prefix: str) -> Spell:
    """Our own names below a prefix, in the spellings of all versions of diffusers and transformers."""

    def spell(parameter: str) -> tuple[Take, ...]:
        others = (parameter.replace(ours, other) for ours, other in OTHER_NAMES if ours in parameter)
        return (Take(prefix + parameter), *(Take(prefix + other) for other in others))

    return spell


def spell_vae_ldm(names: Names) -> Spell:
    """LDM's VAE, whose attention was made of 1x1 convolutions."""

    def spell(parameter: str) -> tuple[Take, ...]:
        module, leaf = split(parameter)
        squeezed = leaf == "weight" and ".attentions." in f".{module}" and not module.endswith("group_norm")
        return (Take(f"{names(module)}.{leaf}", (Squeeze(),) if squeezed else ()),)

    return spell


OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip_names(layers: int) -> Names:
    """Names inside an OpenCLIP text tower, e.g. below `cond_stage_model.model.` or `conditioner.embedders.1.model.`."""
    places = {"text_model.embeddings.token_embedding": "token_embedding", "text_model.final_layer_norm": "ln_final"}
    for i in range(layers):
        places[f"text_model.encoder.layers.{i}"] = f"transformer.resblocks.{i}"
    return Names(places, OPEN_CLIP_LAYER)


def spell_open_clip(layers: int, prefix: str = "") -> Spell:
    """OpenCLIP's text tower. No modules there: q, k, v stacked, the positions, the projection from the right."""
    names = open_clip_names(layers).under(prefix)
    special = {
        "text_model.embeddings.position_embedding.weight": Take(f"{prefix}positional_embedding"),
        "text_projection.weight": Take(f"{prefix}text_projection", (Transpose(),)),
    }

    def spell(parameter: str) -> tuple[Take, ...]:
        if parameter in special:
            return (special[parameter],)
        module, leaf = split(parameter)
        block, _, projection = module.rpartition(".self_attn.")
        if projection in ("q_proj", "k_proj", "v_proj"):
            return (Take(f"{names(block)}.attn.in_proj_{leaf}", (Rows("qkv".index(projection[0]), 3),)),)
        return (Take(f"{names(module)}.{leaf}"),)

    return spell
