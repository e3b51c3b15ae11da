"""A loaded checkpoint as a diffusers folder, with the built-in tokenizer where it came without one."""

import json
from pathlib import Path

from ppdiffusers.prompt.tokenizer import ASSETS, EOS, OPENCLIP_PAD, read_merges, vocabulary
from ppdiffusers.weights import save
from ppdiffusers.weights.load import LoadedParts


def save_diffusers(
    parts: LoadedParts, folder: str | Path, dtype: str | None = None, variant: str | None = None
) -> None:
    """Write a pipeline folder that diffusers loads; all or nothing, see `weights.save.save_diffusers`."""
    save.save_diffusers(parts, folder, dtype, variant, tokenizer_files)


def tokenizer_files(hidden_act: str) -> dict[str, str]:
    """{file name: text} of CLIP's tokenizer for transformers, padding as OpenAI's (quick_gelu) or OpenCLIP's."""
    merges = (ASSETS / "merges.txt").read_text(encoding="utf-8")
    pad = EOS if hidden_act == "quick_gelu" else OPENCLIP_PAD
    special = {"bos_token": "<|startoftext|>", "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    return {
        "merges.txt": merges,
        "vocab.json": json.dumps(vocabulary(read_merges(merges)), ensure_ascii=False),
        "special_tokens_map.json": json.dumps(special, indent=2),
        "tokenizer_config.json": json.dumps(config, indent=2),
    }
