"""How adapter files spell layers: a key is a layer's name and a leaf; we ask the model for its names and look the name
up.

kohya flattens names with underscores (diffusers' or LDM's), peft keeps the dots, diffusers once wrote through attention
processors. The flat spelling cannot be taken apart again without guessing, so every spelling is computed from the model
instead (see design 4.1).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from paddle import nn

# The end of a key -> what it is. Adapters of peft may carry a name of their own (".lora_A.default.weight").
_LEAVES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern + "$"), leaf)
    for pattern, leaf in (
        (r"\.lora_down(?:\.\w+)?\.weight", "down"),
        (r"\.lora_up(?:\.\w+)?\.weight", "up"),
        (r"\.lora_mid\.weight", "mid"),
        (r"\.lora_A(?:\.\w+)?\.weight", "down"),
        (r"\.lora_B(?:\.\w+)?\.weight", "up"),
        (r"[._]lora\.down\.weight", "down"),
        (r"[._]lora\.up\.weight", "up"),
        (r"\.lora_linear_layer\.down\.weight", "down"),
        (r"\.lora_linear_layer\.up\.weight", "up"),
        (r"\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?", "magnitude"),
        (r"\.dora_scale", "dora_scale"),
        (r"(?:[._]lora|\.lora_linear_layer)?\.alpha", "alpha"),
        (r"\.(hada_w[12]_[ab]|hada_t[12])", r"\1"),
        (r"\.(lokr_w[12](?:_[ab])?|lokr_t2)", r"\1"),
        (r"\.diff", "diff"),
        (r"\.diff_b", "diff_b"),
        (r"\.(w_norm|b_norm)", r"\1"),
        (r"\.(on_input|scalar)", r"\1"),
        (r"\.weight", "weight"),
        (r"\.bias", "bias"),
    )
)


def split_key(key: str) -> tuple[str, str] | None:
    """(layer as spelled, leaf) of an adapter's key, or None for a key that no adapter kind has."""
    for pattern, leaf in _LEAVES:
        if match := pattern.search(key):
            return _layer(key[: match.start()]), match.expand(leaf)
    return None


def _layer(spelled: str) -> str:
    spelled = spelled.removeprefix("base_model.model.").replace(".processor.", ".")
    return spelled + ".0" if spelled.endswith(".to_out") else spelled


def group_keys(keys: Mapping[str, object]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """({layer as spelled: {leaf: key}}, keys that belong to no adapter kind)."""
    groups: defaultdict[str, dict[str, str]] = defaultdict(dict)
    strangers = []
    for key in keys:
        if (parts := split_key(key)) is None:
            strangers.append(key)
        else:
            groups[parts[0]][parts[1]] = key
    return dict(groups), strangers


_PROCESSOR_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out.0"}


def _unet_spellings(module: str, ldm: str | None) -> Iterator[str]:
    flat = module.replace(".", "_")
    yield from (f"lora_unet_{flat}", f"lycoris_{flat}", f"unet.{module}", module)
    if ldm is not None:
        flat = ldm.replace(".", "_")
        yield from (f"lora_unet_{flat}", f"diffusion_model.{ldm}", f"model.diffusion_model.{ldm}", f"unet.{ldm}")


def _text_spellings(module: str, index: int, alone: bool) -> Iterator[str]:
    if module.startswith("text_model."):  # transformers 5 leaves the prefix out
        yield from _text_spellings(module.removeprefix("text_model."), index, alone)
    flat, dotted = module.replace(".", "_"), "text_encoder" if index == 0 else f"text_encoder_{index + 1}"
    yield f"lora_te{index + 1}_{flat}"
    if alone or index == 0:
        yield from (f"lora_te_{flat}", module)
    if alone:  # the refiner's only encoder is the second one of SDXL
        yield from (f"lora_te2_{flat}", f"text_encoder_2.{module}", f"text_encoder.{module}")
    yield f"{dotted}.{module}"
    head, _, leaf = module.rpartition(".")
    if leaf in _PROCESSOR_TEXT:
        yield f"{dotted}.{head}.{_PROCESSOR_TEXT[leaf]}"


def spelling_table(models: Mapping[str, nn.Layer], ldm_name: Callable[[str], str] | None) -> dict[str, tuple[str, str]]:
    """{spelling: (part, module)} for every layer with a weight of the parts "unet", "text_encoder", "text_encoder_2".

    `ldm_name` gives the LDM spelling of a UNet module and raises KeyError where there is none.
    """
    table: dict[str, tuple[str, str]] = {}
    encoders = [part for part in models if part.startswith("text_encoder")]
    for part, model in models.items():
        for module, layer in model.named_sublayers():
            if not hasattr(layer, "weight"):
                continue
            if part == "unet":
                spellings = _unet_spellings(module, _ldm(ldm_name, module))
            else:
                spellings = _text_spellings(module, encoders.index(part), len(encoders) == 1)
            for spelling in spellings:
                table.setdefault(spelling, (part, module))
    return table


def _ldm(ldm_name: Callable[[str], str] | None, module: str) -> str | None:
    if ldm_name is None:
        return None
    try:
        return ldm_name(module)
    except KeyError:
        return None
