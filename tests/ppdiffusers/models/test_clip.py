"""CLIP's text encoders against transformers."""

import numpy as np
import paddle
import pytest

from ppdiffusers.models.clip import CLIPTextModel, CLIPTextModelWithProjection
from ppdiffusers.models.config import CLIPTextConfig
from tests.ppdiffusers.models.conftest import error, fill, torch_shapes


def model_of(file):
    kind = CLIPTextModelWithProjection if file.name == "clip_g" else CLIPTextModel
    return fill(kind(CLIPTextConfig.from_dict(file.config)))


@pytest.mark.parametrize("name", ["clip_l", "clip_g"])
def test_it_reads_as_transformers_reads(golden, name):
    file = golden(name)
    model = model_of(file)
    assert torch_shapes(model) == dict(file.keys)
    with paddle.no_grad():
        out = model(file.given("ids"), output_hidden_states=True)
    assert error(out.last_hidden_state, file.wanted("last")) < 1e-5
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1
    assert max(error(h, file.wanted(f"hidden_{i}")) for i, h in enumerate(out.hidden_states)) < 1e-5


def test_the_pooled_token_is_the_first_end(golden):
    file = golden("clip_l")
    with paddle.no_grad():
        assert error(model_of(file)(file.given("ids")).pooler_output, file.wanted("pooled")) < 1e-5


def test_the_projection_is_transformers(golden):
    file = golden("clip_g")
    with paddle.no_grad():
        out = model_of(file)(file.given("ids"))
    assert error(out.text_embeds, file.wanted("embeds")) < 1e-5
    assert out[0] is out.text_embeds
    assert out.hidden_states is None


def test_the_final_norm_of_the_last_state_is_the_answer(golden):
    file = golden("clip_l")
    model = model_of(file)
    with paddle.no_grad():
        out = model(file.given("ids"), output_hidden_states=True)
        assert np.array_equal(model.final_layer_norm(out.hidden_states[-1]).numpy(), out.last_hidden_state.numpy())


def test_token_vectors_may_be_given(golden):
    file = golden("clip_l")
    model, ids = model_of(file), file.given("ids")
    with paddle.no_grad():
        same = model(ids, inputs_embeds=model.embed_tokens(ids))
        other = model(ids, inputs_embeds=model.embed_tokens((ids + 3) % 90))
        plain = model(ids)
    assert np.array_equal(same.pooler_output.numpy(), plain.pooler_output.numpy())
    assert error(other.pooler_output, same.pooler_output.numpy()) > 1e-2


def test_a_token_sees_nothing_after_it(golden):
    file = golden("clip_l")
    model, ids = model_of(file), file.given("ids")
    changed = ids.clone()
    changed[:, 6:] = 3
    with paddle.no_grad():
        before, after = model(ids).last_hidden_state, model(changed).last_hidden_state
    assert error(after[:, :6], before[:, :6].numpy()) < 1e-6


def test_masked_tokens_do_not_count(golden):
    file = golden("clip_l")
    model, ids = model_of(file), file.given("ids")
    mask = paddle.ones(ids.shape, dtype="int64")
    mask[:, 2] = 0
    changed = ids.clone()
    changed[:, 2] = 44
    with paddle.no_grad():
        before, after = model(ids, mask).last_hidden_state, model(changed, mask).last_hidden_state
    assert error(after[:, 3:], before[:, 3:].numpy()) < 1e-6


def test_bfloat16_stays_near_float32(golden):
    file = golden("clip_g")
    model = model_of(file)
    model.to(dtype="bfloat16")
    with paddle.no_grad():
        out = model(file.given("ids"))
    assert error(out.text_embeds.astype("float32"), file.wanted("embeds")) < 0.05


def test_too_many_tokens_are_refused(golden):
    with pytest.raises(ValueError, match="17 tokens are too many"):
        model_of(golden("clip_l"))(paddle.ones([1, 17], dtype="int64"))
