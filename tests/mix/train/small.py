"""A tiny language model with a tokenizer of bytes, in a folder, and data for it."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mix.llm.model import CausalLM
from mix.llm.tokenizer import Settings
from mix.llm.tokenizer import Tokenizer as Ours
from mix.train.config import TrainConfig, merged
from ppdiffusers.training.draws import Draws

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": 258,
}
TEMPLATE = (
    "{% for m in messages %}<|begin|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


def tokenizer() -> Ours:
    """256 bytes and three special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<|pad|>", "<|begin|>", "<|end|>")])
    return Ours(backend, Settings(eos_token="<|end|>", pad_token="<|pad|>", templates={"default": TEMPLATE}))


def model() -> CausalLM:
    """Random weights, the same every time."""
    made = CausalLM.from_config(CONFIG)
    draws = Draws(5)
    for name, p in made.named_parameters():
        drawn = draws.normal(p.shape, name) * (0.08 if p.ndim > 1 else 0.05)
        p.set_value(drawn + (1.0 if p.ndim == 1 else 0.0))
    return made


def write(folder: Path) -> Path:
    """The model's folder."""
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


QUESTIONS = ["red", "green", "a longer question about blue things", "x", "what is yellow", "two words"]


def data(folder: Path, count: int = 24) -> Path:
    """Conversations of very different lengths."""
    lines = []
    for i in range(count):
        said = QUESTIONS[i % len(QUESTIONS)] + str(i)
        turns = [{"role": "user", "content": said}, {"role": "assistant", "content": said[::-1] * (1 + i % 3)}]
        lines.append(json.dumps({"messages": turns}))
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def config(folder: Path, **changes: Any) -> TrainConfig:
    """A short run on the tiny model."""
    plain = {
        "model": str(folder / "model"),
        "out": str(folder / "out"),
        "data": {"paths": [str(folder / "data.jsonl")], "tokens": 192, "length": 128},
        "dtype": "float32",
        "rate": 0.01,
        "steps": 6,
        "lora": {"r": 4, "target_modules": "all-linear"},
    }
    return TrainConfig.from_dict(merged(plain, changes))
