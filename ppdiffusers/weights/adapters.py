"""Small files that change a model: LoRA kinds and textual inversions, told by their keys and widths."""

import re
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]

# The first that fits any key names the algorithm: the special ones also carry keys of the plain one.
ALGORITHMS: tuple[tuple[str, str], ...] = (
    (r".*\.(dora_scale|lora_magnitude_vector(\..*)?)", "dora"),
    (r".*\.hada_(w[12]_[ab]|t[12])", "loha"),
    (r".*\.lokr_(w[12](_[ab])?|t2)", "lokr"),
    (r".*\.(oft_blocks|oft_diag|boft_.*)", "oft"),
    (r".*\.[ab][12]\.weight", "glora"),
    (r".*\.on_input", "ia3"),
    (r".*\.lora_mid\.weight", "locon"),
    (r".*[._]lora(_linear_layer)?\.(down|up)\.weight|.*\.lora_(down|up|A|B)(\.[\w-]+)?\.weight", "lora"),
    (r"(lora|lycoris)_.*\.(diff|diff_b|set_weight|w_norm|b_norm)", "full"),
)
CONTEXTS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
WIDTHS = {768: "sd15", 1024: "sd2", 1280: "sdxl"}


def adapter_kind(shapes: Shapes) -> str | None:
    """lora, locon, loha, lokr, dora, oft, glora, ia3 or full (weight differences); None for what is no adapter."""
    for pattern, algorithm in ALGORITHMS:
        found = [key for key in shapes if re.fullmatch(pattern, key)]
        if found and algorithm == "lora":
            conv = any(len(shapes[key]) == 4 and shapes[key][2:] != (1, 1) for key in found)
            return "locon" if conv else "lora"
        if found:
            return algorithm
    return None


def lora_family(shapes: Shapes) -> str | None:
    """sd15, sd2 or sdxl by the width of the text that cross-attention reads, or by a second text encoder's keys."""
    if any(re.match(r"lora_te[12]_|text_encoder_2\.", key) for key in shapes):
        return "sdxl"
    ends = r"(lora_down|lora\.down|lora_A|hada_w1_b|hada_w2_b|lora_linear_layer\.down)(\..*)?"
    down = rf".*attn2[._](processor\.)?to_[kv].*{ends}"
    widths = {shape[1] for key, shape in shapes.items() if len(shape) >= 2 and re.fullmatch(down, key)}
    text = r"lora_te_.*(q_proj|k_proj|v_proj).*(lora_down|hada_w1_b)(\.weight)?"
    if not widths:
        widths = {shape[1] for key, shape in shapes.items() if len(shape) >= 2 and re.fullmatch(text, key)}
    return CONTEXTS.get(widths.pop()) if len(widths) == 1 else None


def inversion_family(shapes: Shapes) -> str | None:
    """sd15, sd2 or sdxl when the file is a textual inversion: the WebUI's two layouts, diffusers' one, SDXL's pair."""
    if {"clip_l", "clip_g"} <= set(shapes):
        return "sdxl"
    vectors = [key for key in shapes if key == "emb_params" or key.startswith("string_to_param.")]
    if not vectors and 0 < len(shapes) <= 4 and not any(key.endswith((".weight", ".bias")) for key in shapes):
        vectors = [key for key in shapes if 1 <= len(shapes[key]) <= 2]
    widths = {shapes[key][-1] for key in vectors if shapes[key]}
    return WIDTHS.get(widths.pop()) if len(widths) == 1 else None
