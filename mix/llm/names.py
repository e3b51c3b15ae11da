"""Our parameters' names are the checkpoints' own; what is left to say is where files differ from that."""

from typing import Any

from paddle import nn

from mix.llm.config import DecoderConfig
from ppdiffusers.models.layers import Linear
from ppdiffusers.weights.plan import Plan, Readable, Spell, Take, Transpose, make_plan, refuse_unknown

# Published files that leave out the first part of our names.
BARE = ("transformer.", "model.", "gpt_neox.")
HARMLESS = (
    (r"(.*\.)?(rotary_emb|rotary_pos_emb)\.inv_freq", "angles, they are computed"),
    (r"(.*\.)?(attn|attention)\.(masked_)?bias", "mask, it is computed"),
)
TIED = (r"lm_head\.weight|embed_out\.weight|transformer\.output_layer\.weight|output\.weight", "the embedding again")


def spell_for(model: nn.Layer, config: DecoderConfig) -> Spell:
    """Where files keep our parameters: under our names, or without their first part; GPT-2's matrices lie our way."""
    turned = (
        {f"{n}.weight" for n, layer in model.named_sublayers() if isinstance(layer, Linear)} if config.conv1d else ()
    )

    def spell(name: str) -> tuple[Take, ...]:
        ops = (Transpose(),) if name in turned else ()
        bare = [name.removeprefix(prefix) for prefix in BARE if name.startswith(prefix)]
        other = ["lm_head.weight"] if name == "embed_out.weight" else []  # GPT-NeoX as transformers 5 may call it
        return tuple(Take(key, ops) for key in (name, *bare, *other))

    return spell


def plan_for(model: Any, file: Readable, source: str) -> Plan:
    """Where each parameter is in the file; ValueError for a file that is not exactly this model."""
    plan = make_plan(model, spell_for(model, model.config), file.shapes, source)
    refuse_unknown(file.shapes, [plan], source, (*HARMLESS, TIED) if model.config.tied else HARMLESS)
    return plan
