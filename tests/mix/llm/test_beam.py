"""Beam search beside transformers'."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

spec = importlib.util.spec_from_file_location("llm_golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)
sys.path.append(str(golden.ROOT / "tools" / "goldens"))
from llm_configs import BEAMS  # noqa: E402


@pytest.fixture(scope="module")
def case():
    made = golden.load("llama")
    return made, golden.build(made)


@pytest.mark.parametrize("which", range(len(BEAMS)))
def test_beams_are_those_of_transformers(case, which):
    made, model = case
    ids, mask = paddle.to_tensor(made["ids"]), paddle.to_tensor(made["mask"])
    how = BEAMS[which] | {"pad_token_id": 3, "return_dict_in_generate": True}
    out = model.generate(ids, mask, **how)
    new = out.sequences.numpy()[:, made["ids"].shape[1] :]
    np.testing.assert_array_equal(new, made[f"beam_{which}"])
    np.testing.assert_allclose(out.scores, made[f"beam_scores_{which}"], rtol=1e-4)


def test_beams_take_no_stop_strings(case):
    made, model = case
    with pytest.raises(ValueError, match="num_beams=1"):
        model.generate(paddle.to_tensor(made["ids"]), num_beams=2, stop_strings="x", max_new_tokens=4)
