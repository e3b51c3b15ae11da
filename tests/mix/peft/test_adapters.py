"""LoRA and prefixes beside PEFT: scores, gradients and files; and the laws of hanging in, merging and taking out."""

import importlib.util
import json
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

import kernels
from mix.peft import LoRAConfig, LoRAModel, PrefixConfig, PrefixModelForCausalLM, load_adapter

spec = importlib.util.spec_from_file_location("peft_test_cases", Path(__file__).with_name("cases.py"))
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
CASES = cases.CASES
LORAS = [name for name, (_, settings) in CASES.items() if "peft_type" not in settings]
PREFIXES = [name for name in CASES if name not in LORAS]


def ids_of(case="lora"):
    return paddle.to_tensor(cases.arrays(case)["ids"])


def bits(model):
    return {name: p.numpy().tobytes() for name, p in model.named_parameters()}


@pytest.mark.parametrize("case", CASES)
def test_scores_loss_and_gradients_are_pefts(case):
    expected, (model, turned) = cases.arrays(case), cases.adapted(case)
    out = model(ids_of(case), labels=ids_of(case))
    assert np.abs(out.logits.numpy() - expected["logits"]).max() < 1e-4
    assert float(out.loss) == pytest.approx(float(expected["loss"]), rel=1e-5)
    out.loss.backward()
    trained = model.trainable_parameters()
    theirs = {key.removeprefix("grad "): value for key, value in expected.items() if key.startswith("grad ")}
    assert {cases.in_files(name) for name in trained} == set(theirs)
    for name, parameter in trained.items():
        grad, want = parameter.grad.numpy(), theirs[cases.in_files(name)]
        want = want.T if name in turned else want
        assert np.abs(grad - want).max() <= 1e-4 * max(np.abs(want).max(), 1e-3), name
    frozen = [p for p in model.parameters() if p.stop_gradient]
    assert all(p.grad is None for p in frozen)


def test_a_new_adapter_changes_nothing():
    model = cases.base("lora")
    before = model(ids_of()).logits
    for settings in ({"r": 4}, {"r": 4, "use_dora": True, "target_modules": "all-linear"}):
        adapted = LoRAModel(cases.base("lora"), LoRAConfig(**settings))
        assert float((adapted(ids_of()).logits - before).abs().max()) < 1e-5


@pytest.mark.parametrize("case", ["lora", "dora", "conv1d", "rslora_saved", "all_linear"])
def test_merged_weights_say_the_same_and_unmerging_restores_every_bit(case):
    model, _ = cases.adapted(case)
    before, scores = bits(model), model(ids_of()).logits
    assert model.merge() == []
    assert model.merged
    assert float((model(ids_of()).logits - scores).abs().max()) < 1e-4
    model.unmerge()
    assert bits(model) == before
    assert bool((model(ids_of()).logits == scores).all())


@pytest.mark.parametrize("case", ["lora", "rslora_saved"])
def test_unloading_gives_the_model_back(case):
    plain = cases.base(case)
    model, _ = cases.adapted(case)
    model.merge()
    given = model.unload()
    assert bits(given) == bits(plain)
    assert bool((given(ids_of()).logits == plain(ids_of()).logits).all())


def test_a_merged_model_saves_as_any_other(tmp_path):
    model, _ = cases.adapted("rslora_saved")
    scores = model(ids_of()).logits
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path)
    assert float((again(ids_of()).logits - scores).abs().max()) < 1e-4


def test_packed_weights_carry_adapters_too():
    model, _ = cases.adapted("lora")
    before, scores = bits(model), model(ids_of()).logits
    model.base_model.pack()
    assert float((model(ids_of()).logits - scores).abs().max()) < 1e-4
    model.merge()
    assert float((model(ids_of()).logits - scores).abs().max()) < 1e-4
    model.unmerge()
    from ppdiffusers.models.layers import unpack

    unpack(model.base_model)
    assert bits(model) == before


def test_beside_quantised_weights_the_path_stays_a_path():
    leaf = pytest.importorskip("mix.llm.quantized").QuantizedLinear
    model = cases.base("lora")
    weight = model.blocks[0].part("q").weight
    exact = kernels.quantize(weight, "q8_0").dequantize()
    dense, _ = cases.adapted("lora")
    dense.paths["model.layers.0.self_attn.q_proj"].base_layer.set_dense_weight(exact)
    from mix.peft.lora import put

    put(model, "model.layers.0.self_attn.q_proj", leaf(kernels.quantize(weight, "q8_0")))
    settings = CASES["lora"][1]
    small = LoRAModel(model, LoRAConfig(**settings))
    for (name, p), other in zip(
        small.trainable_parameters().items(), dense.trainable_parameters().values(), strict=True
    ):
        p.set_value(other)
        assert p.shape == other.shape, name
    with kernels.use(quantized_linear="exact"):
        assert float((small(ids_of()).logits - dense(ids_of()).logits).abs().max()) < 1e-3
        small(ids_of(), labels=ids_of()).loss.backward()
    assert all(p.grad is not None for p in small.trainable_parameters().values())
    assert small.merge() == ["model.layers.0.self_attn.q_proj"]
    with pytest.raises(ValueError, match="quantised"):
        small.merge_and_unload()


def test_several_adapters_add_up_and_take_turns():
    model, _ = cases.adapted("lora")
    one = model(ids_of()).logits
    model.add_adapter("second", LoRAConfig(r=2, lora_alpha=2, target_modules=["q_proj", "o_proj"]))
    for name, parameter in model.parameters_of("second").items():
        cases.fill(name, parameter, True)
    assert bool((model(ids_of()).logits == one).all())
    model.set_adapter("second")
    two = model(ids_of()).logits
    assert all(not p.stop_gradient for p in model.parameters_of("second").values())
    assert all(p.stop_gradient for p in model.parameters_of("default").values())
    model.set_adapters(["default", "second"], [0.5, 2.0])
    both = model(ids_of()).logits
    model.merge()
    assert float((model(ids_of()).logits - both).abs().max()) < 1e-4
    model.unmerge()
    model.set_adapters(["default", "second"], [1.0, 0.0])
    assert float((model(ids_of()).logits - one).abs().max()) < 1e-5
    model.delete_adapter("default")
    model.set_adapter("second")
    assert bool((model(ids_of()).logits == two).all())
    assert set(model.configs) == {"second"}


def test_switching_adapters_off_shows_the_model_itself():
    plain = cases.base("rslora_saved")(ids_of()).logits
    model, _ = cases.adapted("rslora_saved")
    scores = model(ids_of()).logits
    for merged in (False, True):
        if merged:
            model.merge()
        with model.disable_adapter():
            assert bool((model(ids_of()).logits == plain).all())
        assert model.merged == merged
    model.unmerge()
    assert bool((model(ids_of()).logits == scores).all())


@pytest.mark.parametrize("case", CASES)
def test_a_saved_adapter_comes_back(case, tmp_path):
    model, _ = cases.adapted(case)
    model.save_pretrained(tmp_path)
    again = load_adapter(cases.base(case), tmp_path)
    assert float((again(ids_of()).logits - model(ids_of()).logits).abs().max()) < 1e-6
    assert set(json.loads((tmp_path / "adapter_config.json").read_text())) >= {"peft_type", "task_type"}


def test_a_folder_that_peft_saved_is_read():
    model = LoRAModel.from_pretrained(cases.base("rslora_saved"), cases.GOLDENS / "peft_lora")
    expected = cases.arrays("rslora_saved")["logits"]
    assert np.abs(model(ids_of()).logits.numpy() - expected).max() < 1e-4


def test_dropout_is_a_function_of_seed_and_batch():
    def scores(seed, number, training=True):
        model, _ = cases.adapted("lora")
        config = LoRAConfig(**CASES["lora"][1] | {"lora_dropout": 0.3, "seed": seed})
        made = LoRAModel(model.unload(), config)
        for name, parameter in made.trainable_parameters().items():
            cases.fill(name, parameter, True)
        made.train() if training else made.eval()
        made.start_batch(number)
        return made(ids_of()).logits.numpy()

    assert (scores(1, 5) == scores(1, 5)).all()
    assert (scores(1, 5) != scores(1, 6)).any()
    assert (scores(1, 5) != scores(2, 5)).any()
    assert np.abs(scores(1, 5, training=False) - cases.arrays("lora")["logits"]).max() < 1e-4


def test_lora_plus_lets_b_learn_faster():
    model = LoRAModel(cases.base("lora"), LoRAConfig(r=2, loraplus_lr_ratio=16.0))
    factors = model.rate_factors()
    assert set(factors.values()) == {16.0}
    assert set(factors) == {name for name in model.trainable_parameters() if "lora_B" in name}


@pytest.mark.parametrize("case", PREFIXES)
def test_a_prefix_means_the_same_with_a_cache_in_a_batch_and_in_a_pack(case):
    model, _ = cases.adapted(case)
    ids = ids_of(case)
    ids, grown = ids[:, :6], ids[:, :6]
    for _ in range(6):
        grown = paddle.concat([grown, model(grown).logits[:, -1].argmax(-1, keepdim=True)], axis=1)
    told = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=())
    assert (told.numpy() == grown.numpy()).all()
    whole = ids_of(case)
    pack = paddle.concat([whole[0], whole[1][:9]]).unsqueeze(0)
    scores = model(pack, cu_seqlens=[0, 13, 22]).logits[0]
    apart = paddle.concat([model(whole[:1]).logits[0], model(whole[1:, :9]).logits[0]])
    assert float((scores - apart).abs().max()) < 1e-5
    mask = paddle.to_tensor([[1] * 13, [1] * 9 + [0] * 4])
    padded = model(whole, attention_mask=mask).logits
    assert float((padded[1, :9] - apart[13:]).abs().max()) < 1e-5


def test_a_prefix_can_begin_as_words():
    tokens = [5, 6, 7, 8]
    model = PrefixModelForCausalLM(cases.base("lora"), PrefixConfig(num_virtual_tokens=4, init_tokens=tokens))
    ids = ids_of()
    spelled = cases.base("lora")(paddle.concat([paddle.to_tensor([tokens, tokens]), ids], axis=1)).logits[:, 4:]
    assert float((model(ids).logits - spelled).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 0}, "rank"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"bias": "some"}, "bias"),
        ({"target_modules": ["("]}, "regular expression"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        LoRAConfig(**settings)


def test_targets_and_files_that_do_not_fit_are_refused(tmp_path):
    model = cases.base("lora")
    with pytest.raises(ValueError, match="q_proj"):
        LoRAModel(model, LoRAConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match="adapter_config"):
        load_adapter(model, tmp_path)
    with pytest.raises(ValueError, match=r"does not fit|another model"):
        LoRAModel.from_pretrained(cases.base("conv1d"), save(tmp_path / "a", "conv1d", 9))
    with pytest.raises(ValueError, match="num_layers"):
        PrefixModelForCausalLM(model, PrefixConfig(num_layers=7))
    with pytest.raises(ValueError, match="use_qalora"):
        LoRAConfig.from_dict({"peft_type": "LORA", "use_qalora": True})
    with pytest.raises(ValueError, match="IA3"):
        LoRAConfig.from_dict({"peft_type": "IA3"})
    assert bits(model) == bits(cases.base("lora"))


def save(folder, case, rank):
    """A folder whose config says another rank than its tensors have."""
    LoRAModel(cases.base(case), LoRAConfig(target_modules=["c_attn"])).save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": rank}))
    return folder


@pytest.mark.parity
@pytest.mark.parametrize(
    "case", ["lora", "dora", "rslora_saved", "all_biases", "path_bias", "prefix_llama", "prefix_projection"]
)
def test_peft_reads_what_we_save(case, tmp_path, reference_python):
    model, _ = cases.adapted(case)
    cases.base(case).save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "adapter")
    np.save(tmp_path / "ids.npy", ids_of(case).numpy())
    tool = cases.ROOT / "tools" / "goldens" / "llm_peft.py"
    files = [str(tmp_path / name) for name in ("model", "adapter", "ids.npy", "out.npy")]
    subprocess.run([reference_python, str(tool), "run", *files], check=True, cwd=tmp_path, capture_output=True)
    assert np.abs(np.load(tmp_path / "out.npy") - model(ids_of(case)).logits.numpy()).max() < 1e-4
