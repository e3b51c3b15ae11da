"""Random text through transformers' tokenizer, live: `MIXSTUDIO_REFERENCE_PYTHON=... pytest -m parity`."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from ppdiffusers.prompt.tokenizer import CLIPTokenizer

ROOT = Path(__file__).parents[3]
REFERENCE = """
import json, runpy, sys
golden = runpy.run_path(sys.argv[1])
texts = json.load(sys.stdin)
json.dump(golden["tokenizer"](None)(texts, add_special_tokens=False).input_ids, sys.stdout)
"""
RANGES = [(0x00, 0x7F), (0x80, 0x2FF), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x1FFF), (0x2000, 0x2BFF)]
RANGES += [
    (0x3000, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFFFD),
    (0x1F300, 0x1FAFF),
    (0x10000, 0x1FFFF),
]


def nonsense(rng: random.Random) -> str:
    where = rng.choices(RANGES, weights=[12, *[1] * (len(RANGES) - 1)], k=rng.randint(1, 40))
    return "".join(chr(rng.randint(low, high)) for low, high in where)


@pytest.mark.parity
def test_random_text_has_the_ids_of_transformers(tmp_path: Path) -> None:
    python = os.environ.get("MIXSTUDIO_REFERENCE_PYTHON")
    if not python:
        pytest.skip("set MIXSTUDIO_REFERENCE_PYTHON to a Python with torch, diffusers and transformers")
    rng = random.Random(0)
    texts = [nonsense(rng) for _ in range(3000)]
    script = ROOT / "tools" / "goldens" / "prompt.py"
    done = subprocess.run(
        [python, "-c", REFERENCE, str(script)],
        input=json.dumps(texts),
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        check=True,
    )
    clip = CLIPTokenizer.clip()
    wrong = [text for text, ids in zip(texts, json.loads(done.stdout), strict=True) if clip.ids(text) != ids]
    assert not wrong, f"{len(wrong)} texts differ, first {wrong[0]!r}"
