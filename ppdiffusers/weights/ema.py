"""Averaged weights in LDM training checkpoints: `model_ema.` and the UNet's key with all its dots removed.

The average of `model.diffusion_model.input_blocks.1.0.in_layers.0.weight` is called
`model_ema.diffusion_modelinput_blocks10in_layers0weight`.
A file that has only the averages must be read without seeing the dotted keys, so the dots are put back by grammar.
"""

import re

PREFIX, WHERE = "model_ema.diffusion_model", "model.diffusion_model."

_BLOCK = r"(?P<block>(?:in|out)put_blocks)(?P<n>\d+)(?P<sub>\d)|(?P<middle>middle_block)(?P<mid>\d)"
_HEAD = re.compile(rf"{_BLOCK}|(?P<label>label_emb)(?P<a>\d)(?P<b>\d)|(?P<top>time_embed|out)(?P<at>\d)")
_REST = re.compile(
    r"transformer_blocks|(?<=transformer_blocks)\d+|(?:in|out|emb)_layers|skip_connection|norm(?:[123](?=weight|bias))?|"
    r"proj_in|proj_out|attn[12]|to_out|to_[qkv]|ff|net|proj|conv|op|\d|weight|bias"
)


def flatten(key: str) -> str:
    """The key of the average of `model.diffusion_model.<...>`."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")


def unflatten(key: str) -> str | None:
    """The dotted key whose average this is; None for the average's own counters and for names of other models."""
    if not key.startswith(PREFIX):
        return None
    flat = key[len(PREFIX) :]
    head = _HEAD.match(flat)
    if not head:
        return None
    parts = [part for part in head.groups() if part is not None]
    at = head.end()
    while at < len(flat):
        word = _REST.match(flat, at)
        if not word:
            return None
        parts.append(word.group())
        at = word.end()
    return WHERE + ".".join(parts)


def averages(keys: list[str]) -> dict[str, str]:
    """{dotted key: the key under which the file has its average}."""
    found = {unflatten(key): key for key in keys if key.startswith(PREFIX)}
    return {dotted: key for dotted, key in found.items() if dotted is not None and flatten(dotted) == key}
