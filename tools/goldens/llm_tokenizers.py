"""Small SentencePiece models and what they make of texts: tests/goldens/llm_pieces_*.model and llm_pieces.json.

Run with an interpreter that has sentencepiece: python tools/goldens/llm_tokenizers.py
"""

import io
import json
from pathlib import Path

import sentencepiece

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens"
TEXTS = [
    "Hello world",
    " two  spaces and a tab\tinside ",
    "na\u00efve caf\u00e9, \ufb01ne \u00bd \uff11\uff12\uff13",
    "日本語 and 한국어 😀",
    "def f(x):\n    return x  # comment",
    "",
    "the kernels of the kernels",
]
KINDS = {
    "bpe": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "vocab_size": 640}
    | {"remove_extra_whitespaces": False, "split_digits": True, "user_defined_symbols": ["<tool>"]},
    "unigram": {"model_type": "unigram", "normalization_rule_name": "nfkc", "vocab_size": 420, "pad_id": 3},
}


def main() -> None:
    corpus = [line for p in sorted((ROOT / "docs").rglob("*.md")) for line in p.read_text().splitlines() if line]
    found = {}
    for name, how in KINDS.items():
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_writer=model, character_coverage=0.99, **how
        )
        (GOLDENS / f"llm_pieces_{name}.model").write_bytes(model.getvalue())
        made = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        ids = [made.encode(text) for text in TEXTS]
        found[name] = {"ids": ids, "decoded": [made.decode(i) for i in ids]}
    found["texts"] = TEXTS
    (GOLDENS / "llm_pieces.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
