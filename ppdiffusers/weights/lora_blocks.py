"""Strengths per block of the UNet, as users of block-weight presets write them.

A list has one number a block: 12 (SDXL) or 17 (SD 1.5, 2) where only blocks with attention count, 20 or 26 where all
do; the first number is for the text encoders ("BASE").
"""

import re
from collections.abc import Sequence

from paddle import nn

from ppdiffusers.weights.names import unet_ldm_names

_LDM_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)(?:\.(\d+))?")


def _names(counts: tuple[range | tuple[int, ...], range | tuple[int, ...]]) -> tuple[str, ...]:
    down, up = counts
    return ("BASE", *(f"input_blocks{i}" for i in down), "middle_block", *(f"output_blocks{i}" for i in up))


LAYOUTS: dict[int, tuple[str, ...]] = {
    12: _names(((4, 5, 7, 8), range(6))),
    17: _names(((1, 2, 4, 5, 7, 8), range(3, 12))),
    20: _names((range(9), range(9))),
    26: _names((range(12), range(12))),
}


def check_blocks(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights as given; ValueError where their number fits no layout."""
    if len(weights) not in LAYOUTS:
        counts = ", ".join(map(str, LAYOUTS))
        raise ValueError(f"block weights need {counts} numbers (text encoder first), got {len(weights)}")
    return tuple(weights)


def block_weight(weights: Sequence[float], part: str, parameter: str, model: nn.Layer) -> float:
    """The factor for a parameter; blocks that the layout does not list keep 1 (time embedding, first and last
    convolution).
    """
    layout = LAYOUTS[len(check_blocks(weights))]
    if part != "unet":
        return float(weights[0])
    names = unet_ldm_names(model.config)
    match = _LDM_BLOCK.match(names(parameter.rpartition(".")[0]))
    block = "" if match is None else match[1] + ("" if match[1] == "middle_block" else match[2])
    return float(weights[layout.index(block)]) if block in layout else 1.0
