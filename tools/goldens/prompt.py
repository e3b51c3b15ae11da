# ruff: noqa: RUF001
"""What transformers' tokenizer and diffusers' pipelines make of prompts: CLIP's vocabulary, tiny random encoders.

Run with the reference environment from another folder: `python <repo>/tools/goldens/prompt.py`.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = Path(__file__).parents[2]
OUT = ROOT / "tests" / "goldens"
MERGES = ROOT / "assets" / "tokenizers" / "clip" / "merges.txt"
SMALL = 2000  # merges of a second, small vocabulary

TEXTS = [
    *(
        "",
        " ",
        "a",
        "A Photo of a CAT",
        "a photo of an astronaut riding a horse on mars",
        "hello,world",
        "hello , world",
    ),
    *("it's they're we've i'm you'll he'd don't", "'S 'RE 's's", "it’s “quoted” — dash", "masterpiece, best quality,"),
    *(
        "1girl, 2boys, 3.14 100% $5 50mm f/1.8 1920x1080",
        "½ ² ⅷ ٣ 四",
        "a_b-c.d/e\\f|g~h^i`j",
        "((a:1.2)) [b] <lora:x:1> {c}",
    ),
    *(
        "!!! wow! hello!",
        "...",
        "a.b.c",
        "#hashtag @name",
        "c++ c# .net",
        "naïve café façade Ångström",
        "cafe\u0301 a\u030a",
    ),
    *(
        "ﬁne ｆｕｌｌｗｉｄｔｈ",
        "straße STRASSE İstanbul ΣΊΣΥΦΟΣ",
        "一只红色的狐狸，在雪地里",
        "日本語のテキスト カタカナ",
        "한국어 문장",
    ),
    *("Привет, мир", "שלום עולם", "مرحبا بالعالم", "สวัสดี", "नमस्ते", "🦊", "a 🦊 in ❄️ with 👩‍👩‍👧‍👦 and 🇫🇷", "👍🏽👍"),
    *(
        "tab\tnewline\nreturn\r\nmany   spaces",
        "  lead and trail  ",
        "nbsp\u00a0here thin\u2009space ideographic\u3000space",
    ),
    *(
        "zero\u200bwidth \u200djoiner \ufeffbom",
        "null\x00 bell\x07 esc\x1b del\x7f",
        "line\u2028separator para\u2029x",
        "soft\u00adhyphen",
    ),
    *(
        "<|startoftext|> a <|endoftext|> b",
        "<|endoftext|><|endoftext|>",
        "<|ENDOFTEXT|> <|EndOfText|>",
        "a<|endoftext|>b",
    ),
    *(
        "<|endoftext|",
        "supercalifragilisticexpialidocious antidisestablishmentarianism",
        "x" * 300,
        "é" * 50,
        "&amp; &lt;b&gt;",
    ),
    *(
        "http://example.com/a?b=c&d=e",
        "user@example.com",
        "CamelCaseWord ALLCAPS mIxEd",
        "𝕗𝕒𝕟𝕔𝕪 𝔱𝔢𝔵𝔱",
        "Ǆ ǅ ǆ",
        "a</w>b </w>",
        "Ġ Ċ",
    ),
    "long prompt, " * 60,
]
PROMPTS = ["a red fox in the snow, oil painting", "a lighthouse at night"]


def by_path(name: str) -> ModuleType:
    """A module of ours by its file: our packages' names clash with modules that transformers looks for."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def letters() -> list[str]:
    """GPT-2's characters for bytes, in CLIP's order; made again so that the golden does not rest on our own code."""
    plain = [b for b in range(256) if chr(b).isprintable() and b not in (0x20, 0xA0, 0xAD)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def tokenizer(merges: int | None, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """transformers' tokenizer over the first so many merges, loaded from files as from a checkpoint."""
    lines = MERGES.read_text(encoding="utf-8").split("\n")[1:-1][:merges]
    base = letters()
    tokens = [
        *base,
        *(c + "</w>" for c in base),
        *(m.replace(" ", "") for m in lines),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, pad_token=pad, model_max_length=77)


def encoder(kind: type, width: int, act: str) -> torch.nn.Module:
    """A tiny text encoder with CLIP's vocabulary, its weights computed from their names."""
    size = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width, "num_hidden_layers": 3}
    model = kind(CLIPTextConfig(**size, num_attention_heads=width // 16, hidden_act=act, eos_token_id=49407)).eval()
    weight = by_path("random_weights").random_weight
    for key, value in model.state_dict().items():
        name = key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}"
        if value.is_floating_point():
            value.copy_(torch.from_numpy(weight(name, value.shape)))
    return model


def tokens() -> None:
    full, small = tokenizer(None), tokenizer(SMALL)
    ids = {
        "clip": full(TEXTS, add_special_tokens=False).input_ids,
        "small": small(TEXTS, add_special_tokens=False).input_ids,
    }
    rows = full(TEXTS, padding="max_length", truncation=True, max_length=77).input_ids
    golden = {"small_merges": SMALL, "texts": TEXTS, **ids, "rows": rows}
    (OUT / "prompt_tokens.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")


def encode() -> None:
    """Embeddings as diffusers' own pipelines compute them; whatever else a pipeline holds is left out."""
    one, two = encoder(CLIPTextModel, 32, "quick_gelu"), encoder(CLIPTextModelWithProjection, 64, "gelu")
    if not hasattr(one, "text_model"):  # transformers 5 flattened the model, diffusers still looks for the inner one
        CLIPTextModel.text_model = property(lambda model: model)
    nothing = {"vae": None, "unet": None, "scheduler": None}
    sd = StableDiffusionPipeline(
        **nothing, text_encoder=one, tokenizer=tokenizer(None), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    xl = StableDiffusionXLPipeline(
        **nothing, text_encoder=one, text_encoder_2=two, tokenizer=tokenizer(None), tokenizer_2=tokenizer(None, "!")
    )
    made: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for skip in (None, 1, 2):
            made[f"sd_{skip}"], _ = sd.encode_prompt(PROMPTS, "cpu", 1, False, clip_skip=skip)
            made[f"xl_{skip}"], _, made[f"xl_pooled_{skip}"], _ = xl.encode_prompt(
                PROMPTS, device="cpu", do_classifier_free_guidance=False, clip_skip=skip
            )
    np.savez_compressed(OUT / "prompt_encode.npz", prompts=PROMPTS, **{k: v.numpy() for k, v in made.items()})


def embeddings() -> None:
    """Textual inversions as the WebUI, the original script and diffusers pickle them: 2 vectors of width 4."""
    vectors = torch.arange(8, dtype=torch.float32).reshape(2, 4)
    token = {"*": torch.tensor(265)}
    plain = {
        "string_to_token": token,
        "string_to_param": {"*": vectors.clone().requires_grad_()},
        "name": "x",
        "step": 9,
    }
    held = {"string_to_token": token, "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})}
    torch.save(plain, OUT / "prompt_embedding_webui.pt", _use_new_zipfile_serialization=False)
    torch.save(held, OUT / "prompt_embedding_held.pt")
    torch.save({"<cat-toy>": vectors[1].half()}, OUT / "prompt_embedding_diffusers.bin")


PARTS = {"tokens": tokens, "encode": encode, "embeddings": embeddings}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
