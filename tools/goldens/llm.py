"""Tiny random language models of every family, run by transformers: goldens for tests/mix/llm.

Run with an interpreter that has torch and transformers, from a folder outside this repository:
    python <repository>/tools/goldens/llm.py [family ...]
Each family gives tests/goldens/llm_<family>.npz: config and parameter names (JSON), token ids, scores, and greedy and
beam continuations. Weights are computed from their names, see random_weights.py.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from llm_configs import BEAMS, CHATGLM_NAMES, CONFIGS
from random_weights import random_weight

GOLDENS = Path(__file__).parents[2] / "tests" / "goldens"
STEPS = 64


def build(family: str) -> tuple[Any, dict[str, Any], list[Any]]:
    """The model with its weights, its config.json, and (name, shape) of what its checkpoint holds."""
    made = dict(CONFIGS[family])
    kind = made.pop("model_type")
    config = transformers.AutoConfig.for_model(kind, **made, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    spell = {"lm_head.weight": "embed_out.weight"} if kind == "gpt_neox" else {}  # as its published files say it
    names = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    tied = config.tie_word_embeddings and [k for k in names if k.endswith(("lm_head.weight", "embed_out.weight"))]
    for name in tied or []:
        del names[name]
    state = {k: torch.from_numpy(random_weight(spell.get(k, k), shape)) for k, shape in names.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= set(tied or []), (missing, unexpected)
    assert not unexpected
    model.tie_weights()
    return (
        model,
        json.loads(config.to_json_string(use_diff=False)),
        [[spell.get(k, k), list(v)] for k, v in names.items()],
    )


def build_chatglm() -> tuple[Any, dict[str, Any], list[Any]]:
    """ChatGLM's checkpoint, run by transformers' Glm: the same network with q, k and v apart."""
    config = dict(CONFIGS["chatglm"])
    glm, _, _ = build("glm_for_chatglm")
    heads, groups, d = config["num_attention_heads"], config["multi_query_group_num"], config["kv_channels"]
    split = [heads * d, groups * d, groups * d]
    state, keys = {}, []
    for theirs, ours in CHATGLM_NAMES.items():
        for layer in range(config["num_layers"]) if "{}" in theirs else [0]:
            targets = [o.format(layer) for o in ours]
            shapes = [tuple(glm.state_dict()[t].shape) for t in targets]
            key = theirs.format(layer)
            weight = random_weight(key, (sum(s[0] for s in shapes), *shapes[0][1:]))
            keys.append([key, list(weight.shape)])
            parts = np.split(weight, np.cumsum(split)[:-1]) if len(targets) == 3 else [weight]
            state |= {t: torch.from_numpy(p.copy()) for t, p in zip(targets, parts, strict=True)}
    glm.load_state_dict(state)
    return glm, config, keys


@torch.no_grad()
def run(model: Any, vocab: int) -> dict[str, np.ndarray]:
    rng = np.random.RandomState(7)
    ids = torch.from_numpy(rng.randint(3, vocab, (2, 13)))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    ids[1, :5] = ids[1, 5]  # padding of a token that the text has, which the repetition penalty cannot tell apart
    plain = model(ids[:1]).logits
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    extra = {} if model.config.model_type == "bloom" else {"position_ids": positions}
    padded = model(ids, attention_mask=mask, **extra).logits
    how = {"attention_mask": mask, "max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    # Small random models like to repeat themselves; with a penalty they say more.
    texts = {"greedy": how, "varied": how | {"repetition_penalty": 1.5}}
    said = {name: model.generate(ids, use_cache=True, **settings) for name, settings in texts.items()}
    for name, settings in texts.items():
        assert torch.equal(said[name], model.generate(ids, use_cache=False, **settings))
    return {
        "ids": ids.numpy(),
        "mask": mask.numpy(),
        "logits": plain.numpy(),
        "padded": padded.numpy()[:, 5:],
        **{name: out.numpy()[:, ids.shape[1] :].astype(np.int16) for name, out in said.items()},
    }


@torch.no_grad()
def beams(model: Any, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    found = {}
    for i, how in enumerate(BEAMS):
        out = model.generate(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            do_sample=False,
            pad_token_id=3,
            return_dict_in_generate=True,
            output_scores=True,
            **how,
        )
        found[f"beam_{i}"] = out.sequences.numpy()[:, ids.shape[1] :].astype(np.int16)
        found[f"beam_scores_{i}"] = out.sequences_scores.numpy()
    return found


def main() -> None:
    families = [f for f in CONFIGS if f != "glm_for_chatglm"]
    for family in sys.argv[1:] or families:
        model, config, keys = build_chatglm() if family == "chatglm" else build(family)
        arrays = run(model, model.config.vocab_size)
        if family == "llama":
            arrays |= beams(model, arrays["ids"], arrays["mask"])
        path = GOLDENS / f"llm_{family}.npz"
        np.savez_compressed(path, config=np.array(json.dumps(config)), keys=np.array(json.dumps(keys)), **arrays)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB, {len(keys)} parameters")


if __name__ == "__main__":
    main()
