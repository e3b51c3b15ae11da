"""Models whose weights stay quantised: the same as their dequantised selves, by one op or by many."""

import importlib.util
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

import kernels
from mix.llm import AutoModelForCausalLM, CausalLM
from mix.llm.fused import Fused
from mix.llm.gguf import open_gguf
from mix.llm.quantized import KINDS, QuantizedEmbedding, QuantizedLinear, quantised_leaves


def sibling(name):
    spec = importlib.util.spec_from_file_location(f"llm_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden, files = sibling("golden"), sibling("gguf_file")

CONFIG = {
    "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "hidden_act": "silu",
    "tie_word_embeddings": True, "initializer_range": 0.1,
}  # fmt: skip
QWEN = CONFIG | {"model_type": "qwen2", "tie_word_embeddings": False}
TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}
BYTES = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34}
TALK = [[5, 9, 2, 40, 7, 7, 31], [3, 1], [90, 14, 66, 2, 2, 8, 12, 50, 23, 4]]


def blocks(kind, shape, generator):
    """Random blocks whose numbers spread around 0 as weights do."""
    raw = generator.integers(0, 256, (shape[0], shape[1] // 32, BYTES[kind]), dtype=np.uint8)
    steps = {"q4_0": 8, "q4_1": 8, "q5_0": 16, "q5_1": 16, "q8_0": 128}[kind]
    scale = generator.uniform(0.15, 0.25, raw.shape[:2]).astype(np.float32) / steps
    raw[..., :2] = scale.astype(np.float16)[..., None].view(np.uint8)
    if kind in ("q4_1", "q5_1"):
        raw[..., 2:4] = (-scale * (steps - 0.5)).astype(np.float16)[..., None].view(np.uint8)
    return (shape, TYPES[kind], raw.tobytes())


def write(path, config, kinds):
    """A GGUF file whose matrices have these kinds in turn."""
    generator = np.random.default_rng(0)
    arrays = {n: p.numpy() for n, p in CausalLM.from_config(config).named_parameters()}
    arrays = {n: a.T if a.ndim == 2 and "embed" not in n else a for n, a in arrays.items()}
    for name, array in arrays.items():
        if name.endswith("bias"):
            arrays[name] = generator.standard_normal(array.shape).astype("float32") * 0.1
    metadata, tensors = files.llama(config, arrays, config["model_type"])
    for i, (name, (shape, _, _)) in enumerate(list(tensors.items())):
        if len(shape) == 2:
            tensors[name] = blocks(kinds[i % len(kinds)], shape, generator)
    return files.write(path, metadata, tensors)


def error(got, want):
    return float(np.sqrt(np.square(got - want).mean() / np.square(want).mean()))


def logits(model, ids):
    with paddle.no_grad():
        return model(paddle.to_tensor([ids])).logits.numpy()


def greedy(model, **how):
    return [
        [t.id for t in model.stream([row], max_new_tokens=12, eos_token_id=(), **how) if hasattr(t, "id")]
        for row in TALK
    ]


@pytest.mark.parametrize(
    "kinds", [(k,) for k in TYPES] + [tuple(TYPES)], ids=lambda k: k[0] if len(k) == 1 else "mixed"
)
def test_a_gguf_model_is_its_dequantised_self(kinds, tmp_path):
    path = write(tmp_path / "m.gguf", CONFIG, kinds)
    dense, model = AutoModelForCausalLM.from_pretrained(path, "float32"), AutoModelForCausalLM.from_pretrained(path)
    assert len(quantised_leaves(model)) == 2 * 7 + 2
    assert {p.ndim for p in model.parameters()} == {1}
    with kernels.use(quantized_linear="exact"):
        np.testing.assert_allclose(logits(model, TALK[0]), logits(dense, TALK[0]), atol=2e-4, rtol=1e-4)
    assert error(logits(model, TALK[0]), logits(dense, TALK[0])) < 0.03  # what rounding of x to 8 bits costs
    assert paddle.equal_all(model.embed(paddle.to_tensor(TALK[:1])), dense.embed(paddle.to_tensor(TALK[:1])))


@pytest.mark.parametrize("config", [CONFIG, QWEN], ids=lambda c: c["model_type"])
def test_one_op_and_single_ops_give_the_same_tokens(config, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(write(tmp_path / "m.gguf", config, ("q4_1", "q8_0")))
    assert isinstance(model.fused(), Fused)
    one = greedy(model)
    with kernels.use(decoder_step="composed"):
        assert greedy(model) == one
    model.fused = lambda: "not today"  # the layers, one by one
    assert greedy(model) == one


def test_a_batch_gives_each_row_its_own_tokens(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(write(tmp_path / "m.gguf", CONFIG, ("q4_0", "q5_1")))
    together = [[] for _ in TALK]
    for event in model.stream(TALK, max_new_tokens=12, eos_token_id=()):
        if hasattr(event, "id"):
            together[event.row].append(event.id)
    assert together == greedy(model)


@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_rounded_while_they_are_read(kind, tmp_path):
    dense = CausalLM.from_config(CONFIG | {"tie_word_embeddings": kind != "int8"})
    dense.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, kind)
    kinds = {layer.quantized.kind for layer in model.sublayers() if isinstance(layer, QuantizedLinear)}
    assert kinds == ({kind} if kind == "int8" else {kind, KINDS[kind]})
    assert isinstance(model.part("embed"), QuantizedEmbedding)
    assert isinstance(model.fused(), Fused)
    assert error(logits(model, TALK[0]), logits(dense, TALK[0])) < (0.05 if "8" in kind else 0.4)
    small = sum(layer.quantized.nbytes for layer in model.sublayers() if isinstance(layer, QuantizedLinear))
    assert small < 1.2 * sum(p.size for p in dense.parameters() if p.ndim == 2)


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "mistral", "bloom", "chatglm", "opt", "ernie4_5"])
def test_every_family_can_be_rounded(family, tmp_path):
    made = golden.load(family)
    golden.build(made).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, "int8")
    assert error(logits(model, made["ids"][0].tolist()), made["logits"][:1]) < 0.1
    fused = model.fused()
    assert isinstance(fused, Fused) == (family in ("qwen3", "mistral", "ernie4_5")), fused
    assert isinstance(fused, Fused) or fused.startswith(f"{model.config.model_type}: its ")
    row = made["ids"][0].tolist()
    ones = model.generate(paddle.to_tensor([row]), max_new_tokens=8, eos_token_id=()).numpy()[0, len(row) :]
    longer = logits(model, [*row, *ones.tolist()])[0, len(row) - 1 : -1]
    picked = np.take_along_axis(longer, ones[:, None], 1)[:, 0]
    assert (longer.max(1) - picked < 0.05 * np.abs(longer).max()).all()  # with a cache as without one


class Beside(nn.Layer):
    """An adapter next to a quantised leaf."""

    def __init__(self, leaf):
        super().__init__()
        self.leaf, self.calls = leaf, 0
        self.in_features, self.out_features = leaf.in_features, leaf.out_features

    def forward(self, x, act=None, residual=None):
        self.calls += 1
        return self.leaf(x, act=act, residual=residual)


def test_a_replaced_leaf_is_noticed(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(write(tmp_path / "m.gguf", CONFIG, ("q4_1",)))
    before = greedy(model)
    above = model.blocks[1].self_attn
    leaf, beside = above.q_proj, Beside(above.q_proj)
    above.q_proj = beside
    assert model.fused() == "q of layer 1 is a Beside, not a QuantizedLinear"
    assert greedy(model) == before
    assert beside.calls > 12
    above.q_proj = leaf
    assert isinstance(model.fused(), Fused)
    assert greedy(model) == before


def test_dense_models_say_why_not():
    assert CausalLM.from_config(CONFIG).fused() == "q of layer 0 is a Linear, not a QuantizedLinear"


def test_hidden_states_and_gradients_go_through_the_layers(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(write(tmp_path / "m.gguf", CONFIG, ("q4_1",)))
    with paddle.no_grad():
        out = model(paddle.to_tensor([TALK[0]]), output_hidden_states=True)
    assert len(out.hidden_states) == 3
    vectors = model.embed(paddle.to_tensor([TALK[0]]))
    vectors.stop_gradient = False
    model(inputs_embeds=vectors, labels=paddle.to_tensor([TALK[0]])).loss.backward()
    assert float(vectors.grad.abs().sum()) > 0


def test_saving_is_refused(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(write(tmp_path / "m.gguf", CONFIG, ("q4_1",)))
    with pytest.raises(ValueError, match=r'quantised \(16 layers, first .* load it with dtype="float32"'):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scales_that_are_no_numbers_are_refused(tmp_path):
    path = write(tmp_path / "m.gguf", CONFIG, ("q8_0",))
    raw = bytearray(path.read_bytes())
    with open_gguf(path) as file:
        at = file.stored["blk.1.ffn_down.weight"].start
    raw[at : at + 2] = b"\x00\x7c"  # infinity
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="infinite or not a number; the file is damaged"):
        AutoModelForCausalLM.from_pretrained(path)


def test_numbers_that_are_none_are_refused_when_rounding(tmp_path):
    model = CausalLM.from_config(CONFIG)
    weight = model.blocks[0].part("up").weight
    weight.set_value(paddle.full_like(weight, 7e4))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be loaded as q4_1: .*too large"):
        AutoModelForCausalLM.from_pretrained(tmp_path, "q4_1")
