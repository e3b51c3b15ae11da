"""Trains the CLIP-format BPE tokenizer (vocab.json, merges.txt; 8,192 tokens).

    python make_tokenizer.py --data . --out tokenizer [--words /usr/share/dict/american-english-small]

Needs captions.jsonl and photos.jsonl only, no pictures and no GPU.  The corpus
is composed captions of all splits (weight 6), names and keywords, colours,
sizes, places and prompt words (below), and, if given, a general word list.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from compose import Planner
from scenes import PALETTE, SCENES
from word_lists import words

GENERAL = words(
    """
a an the and or of in on at with without to from by for under over above below behind between next near beside
around inside outside left right top bottom centre center middle corner front back small tiny little large big
huge giant tall short long wide narrow round square one two three four five six seven eight nine ten many
several some few old young new modern ancient vintage retro classic futuristic bright dark light pale vivid
pastel colourful colorful black white grey gray red orange yellow green blue cyan teal purple violet pink
brown beige gold golden silver bronze turquoise lavender magenta crimson scarlet navy maroon olive cream ivory
photo photograph picture image painting drawing sketch illustration cartoon comic anime icon logo emoji clip
art render 3d flat glossy outline silhouette watercolour watercolor oil pixel minimal minimalist simple
detailed realistic cute funny happy sad angry smiling sleeping running standing sitting flying swimming
jumping eating drinking playing holding wearing looking background gradient plain blurred isolated scenery
landscape portrait close-up view style high quality best masterpiece beautiful city street road house home
building tower bridge castle church school shop garden park forest wood mountain hill valley river lake sea
ocean beach island desert snow ice sky cloud sun moon star night day sunset sunrise morning evening winter
spring summer autumn rain storm rainbow cat dog kitten puppy bird fish horse cow pig sheep goat chicken duck
rabbit mouse bear lion tiger elephant monkey fox wolf dragon unicorn car bus truck train plane airplane boat
ship bicycle motorcycle rocket robot computer phone book table chair lamp bed clock window door apple banana
orange lemon strawberry cherry grape bread cake cookie pizza burger coffee tea cup bottle glass plate tree
flower rose tulip sunflower leaf grass plant mushroom cactus man woman boy girl child baby person people king
queen wizard astronaut hat shirt dress shoe bag umbrella guitar piano drum ball crown key heart fire water qr
code pattern texture stripes dots blurry low worst ugly deformed text watermark noise
"""
)


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--data", default=".")
    ap.add_argument("--out", default="tokenizer")
    ap.add_argument("--vocab", type=int, default=8192)
    ap.add_argument("--words", default="")
    ap.add_argument("--samples", type=int, default=60000)
    a = ap.parse_args()
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    recs = [
        json.loads(line)
        for line in Path(Path(a.data) / "captions.jsonl").read_text(encoding="utf-8", errors="ignore").splitlines()
    ]
    photos = [
        json.loads(line)
        for line in Path(Path(a.data) / "photos.jsonl").read_text(encoding="utf-8", errors="ignore").splitlines()
    ]
    pl = Planner(recs, photos, split=("train", "heldout_name", "heldout_combo"), seed=5)
    corpus = []
    for _ in range(a.samples // 1000):
        corpus += pl.batch(1000)["text"]
    corpus = corpus * 6
    for r in recs:
        corpus.append(r["name"] + " " + r["colour"])
        corpus.append(" ".join(r["keywords"]))
    corpus += GENERAL * 30
    corpus += [" ".join(PALETTE)] * 50 + [p for s in SCENES.values() for p in s[0]] * 50
    if a.words:
        corpus += [
            w.strip()
            for w in Path(a.words).read_text(encoding="utf-8", errors="ignore").splitlines()
            if re.fullmatch(r"[a-z]{3,12}\s*", w)
        ]
    tok = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tok.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=a.vocab + 600,
            end_of_word_suffix="</w>",
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    merges = [
        tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in json.loads(tok.to_str())["model"]["merges"]
    ]
    # the byte order of the CLIP and GPT-2 vocabularies
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    cs = bs[:]
    n = 0
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + n)
            n += 1
    alphabet = [chr(c) for c in cs]
    vocab = alphabet + [c + "</w>" for c in alphabet]
    seen, kept = set(vocab), []
    for x, y in merges:
        if len(vocab) >= a.vocab - 2:
            break
        if x in seen and y in seen and x + y not in seen:
            kept.append((x, y))
            vocab.append(x + y)
            seen.add(x + y)
    assert len(vocab) == a.vocab - 2, f"only {len(vocab)} tokens: pass --words"
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}, ensure_ascii=False))
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in kept) + "\n")

    def sp(c: str) -> dict[str, Any]:
        return {"content": c, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    (out / "special_tokens_map.json").write_text(
        json.dumps(
            {
                "bos_token": sp("<|startoftext|>"),
                "eos_token": sp("<|endoftext|>"),
                "pad_token": "<|endoftext|>",
                "unk_token": sp("<|endoftext|>"),
            },
            indent=1,
        )
    )
    (out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": 77,
                "do_lower_case": True,
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "errors": "replace",
                "add_prefix_space": False,
            },
            indent=1,
        )
    )
    from transformers import CLIPTokenizer

    t = CLIPTokenizer.from_pretrained(out)
    lens = [len(x) for x in t(corpus[:4000])["input_ids"]]
    print("tokens per caption: mean", sum(lens) / len(lens), "max", max(lens))
    for s in ("a photo of a cat", "A 3D render of a red car on a blue background!", "zzyzx façade 42"):
        ids = t(s)["input_ids"]
        print(s, ids, t.convert_ids_to_tokens(ids))
        assert ids[0] == a.vocab - 2
        assert ids[-1] == a.vocab - 1


if __name__ == "__main__":
    main()
