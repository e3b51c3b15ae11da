"""LoRA files of every kind against LyCORIS, diffusers and peft, and the laws of patching."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import save_file

from ppdiffusers.models.clip import CLIPTextModel
from ppdiffusers.models.config import TINY_SD15, TINY_SDXL, CLIPTextConfig, UNetConfig
from ppdiffusers.models.layers import Conv2D, Linear, pack
from ppdiffusers.models.unet import UNet2DConditionModel
from ppdiffusers.patch import Use, merge, patched
from ppdiffusers.weights.lora import apply, in_torch_layout, plain_weight, plan_lora, read_lora
from tests.ppdiffusers.models.conftest import fill
from tools.goldens.lora_tensors import adapter_tensor, kind_tensor
from tools.goldens.random_weights import random_weight

GOLDENS = Path(__file__).parents[2] / "goldens"
KINDS = np.load(GOLDENS / "lora_kinds.npz")
MODELS = np.load(GOLDENS / "lora_models.npz")
SHAPES = json.loads(str(KINDS["shapes"]))


class Toy(nn.Layer):
    """One linear and one convolution."""

    def __init__(self):
        super().__init__()
        self.linear, self.conv = Linear(32, 48), Conv2D(8, 16, 3)
        for name, shape in (("linear", (48, 32)), ("conv", (16, 8, 3, 3))):
            value = paddle.to_tensor(random_weight(f"{name}.weight", shape))
            getattr(self, name).set_dense_weight(value.T if name == "linear" else value)


def write(path, tensors, metadata=None):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, metadata)
    return path


def kind_file(folder, kind):
    tensors = {}
    for key, shape in SHAPES.items():
        of, name, leaf = key.split(".", 2)
        if of == kind:
            tensors[f"lora_te_{name}.{leaf}"] = kind_tensor(kind, name, leaf, shape)
    return write(folder / f"{kind}.safetensors", tensors)


@pytest.mark.parametrize("kind", sorted({key.split(".")[0] for key in SHAPES}))
def test_every_lycoris_kind_changes_weights_as_lycoris_does(tmp_path, kind):
    toy = Toy()
    file = kind_file(tmp_path, kind)
    patch = apply(toy, file, part="text_encoder")
    for name in ("linear", "conv"):
        wanted = KINDS[f"{kind}/{name}/merged"]
        layer = getattr(toy, name)
        got = in_torch_layout(layer, "weight", plain_weight(layer, "weight")).numpy()
        assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max(), name
    assert not patch.unused


def test_whole_differences_are_added_to_weights_biases_and_norms(tmp_path):
    unet = UNet2DConditionModel(TINY_SD15.unet)
    before = {k: v.numpy().copy() for k, v in unet.state_dict().items()}
    tensors = {
        "lora_unet_conv_out.diff": np.full((4, 32, 3, 3), 0.5, np.float32),
        "lora_unet_conv_out.diff_b": np.full(4, 0.25, np.float32),
        "lora_unet_conv_norm_out.w_norm": np.full(32, 2, np.float32),
        "lora_unet_conv_norm_out.b_norm": np.full(32, 3, np.float32),
    }
    apply(unet, write(tmp_path / "full.safetensors", tensors), scale=2.0)
    wanted = {"conv_out.weight": 1.0, "conv_out.bias": 0.5, "conv_norm_out.weight": 4.0, "conv_norm_out.bias": 6.0}
    for key, value in unet.state_dict().items():
        assert np.allclose(value.numpy() - before[key], wanted.get(key, 0), atol=1e-6), key


def models():
    unet_config, text_config = (json.loads(str(MODELS[f"{part}_config"])) for part in ("unet", "text"))
    unet = fill(UNet2DConditionModel(UNetConfig.from_dict(unet_config)))
    text = fill(CLIPTextModel(CLIPTextConfig.from_dict(text_config)))
    return {"unet": unet, "text_encoder": text}


def model_file(folder, spelling):
    keys = json.loads(str(MODELS[f"{spelling}/keys"]))
    return write(folder / f"{spelling}.safetensors", {k: adapter_tensor(k, tuple(s)) for k, s in keys})


def outputs(parts):
    sample, context, ids = (paddle.to_tensor(MODELS[k]) for k in ("sample", "context", "ids"))
    with paddle.no_grad():
        return {
            "unet": parts["unet"](sample, 321, context).sample,
            "text": parts["text_encoder"](ids).last_hidden_state,
        }


def assert_near(got, wanted, bound=1e-4):
    error = np.linalg.norm(got.numpy() - wanted) / np.linalg.norm(wanted)
    assert error < bound, error


@pytest.mark.parametrize("spelling", ["kohya", "kohya_conv", "peft", "diffusers", "dora"])
@pytest.mark.parametrize("how", ["merge", "sidecar"])
def test_models_with_an_adapter_give_what_diffusers_gives(tmp_path, spelling, how):
    parts = models()
    patch = plan_lora(read_lora(model_file(tmp_path, spelling)), parts)
    assert not patch.unused
    with patched(parts, [(patch, 1.0)], how):
        changed = outputs(parts)
    for part, value in changed.items():
        assert_near(value, MODELS[f"{spelling}/{part}"])
    for part, value in outputs(parts).items():
        assert_near(value, MODELS[f"none/{part}"])


@pytest.mark.parametrize("spelling", ["kohya", "peft"])
def test_a_strength_below_one_is_diffusers_adapter_weight(tmp_path, spelling):
    parts = models()
    patch = plan_lora(read_lora(model_file(tmp_path, spelling)), parts)
    with patched(parts, [(patch, 0.6)]):
        assert_near(outputs(parts)["unet"], MODELS[f"{spelling}/unet_0.6"])


# --- spellings
# ----------------------------------------------------------------------------------------------------------------------
# --


def low_rank(layers, name, alpha=None):
    """Tensors of a rank 2 adapter; `name(module)` spells a layer, layers are (module, out, in)."""
    draw, tensors = np.random.default_rng(5), {}
    for module, out, inner in layers:
        tensors[f"{name(module)}.lora_down.weight"] = draw.normal(size=(2, inner)).astype(np.float32)
        tensors[f"{name(module)}.lora_up.weight"] = draw.normal(size=(out, 2)).astype(np.float32)
    return tensors


def attention_layers(unet):
    found = []
    for name, layer in unet.named_sublayers():
        if isinstance(layer, Linear) and ".attn" in name:
            found.append((name, layer.weight.shape[1], layer.weight.shape[0]))
    return found


@pytest.fixture(scope="module")
def xl():
    return UNet2DConditionModel(TINY_SDXL.unet)


def test_all_spellings_of_a_layer_name_the_same_layer(tmp_path, xl):
    from ppdiffusers.weights.names import unet_ldm_names

    ldm = unet_ldm_names(TINY_SDXL.unet)
    layers = attention_layers(xl)
    spellings = {
        "kohya": lambda m: "lora_unet_" + m.replace(".", "_"),
        "kohya_ldm": lambda m: "lora_unet_" + ldm(m).replace(".", "_"),
        "dotted": lambda m: f"unet.{m}",
        "bare": lambda m: m,
        "peft": lambda m: f"base_model.model.{m}",
        "generic": lambda m: f"diffusion_model.{ldm(m)}",
        "lycoris": lambda m: "lycoris_" + m.replace(".", "_"),
    }
    deltas = {}
    for name, spell in spellings.items():
        patch = plan_lora(read_lora(write(tmp_path / f"{name}.safetensors", low_rank(layers, spell))), {"unet": xl})
        assert not patch.unused
        deltas[name] = {
            k: d.change(paddle.zeros([d.up.shape[0], d.down.shape[1]])).numpy() for k, d in patch.deltas["unet"].items()
        }
    for name, found in deltas.items():
        assert found.keys() == deltas["kohya"].keys(), name
        assert all((found[k] == v).all() for k, v in deltas["kohya"].items()), name


def test_old_diffusers_processor_keys_are_understood(tmp_path):
    unet = UNet2DConditionModel(TINY_SD15.unet)
    base = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    tensors = {}
    for leaf in ("to_q", "to_k", "to_v", "to_out"):
        tensors[f"unet.{base}.processor.{leaf}_lora.down.weight"] = np.ones((2, 32), np.float32)
        tensors[f"unet.{base}.processor.{leaf}_lora.up.weight"] = np.ones((32, 2), np.float32)
    patch = plan_lora(read_lora(write(tmp_path / "old.safetensors", tensors)), {"unet": unet})
    wanted = {f"{base}.{leaf}.weight" for leaf in ("to_q", "to_k", "to_v", "to_out.0")}
    assert set(patch.deltas["unet"]) == wanted


def test_the_second_text_encoder_is_told_from_the_first(tmp_path):
    parts = {
        "text_encoder": CLIPTextModel(TINY_SDXL.text_encoder),
        "text_encoder_2": CLIPTextModel(TINY_SDXL.text_encoder_2),
    }
    tensors = {}
    for index, width in ((1, 32), (2, 64)):
        name = f"lora_te{index}_text_model_encoder_layers_0_self_attn_q_proj"
        tensors[f"{name}.lora_down.weight"] = np.ones((2, width), np.float32)
        tensors[f"{name}.lora_up.weight"] = np.ones((width, 2), np.float32)
    patch = plan_lora(read_lora(write(tmp_path / "te.safetensors", tensors)), parts)
    assert {part: list(d) for part, d in patch.deltas.items()} == {
        part: ["text_model.encoder.layers.0.self_attn.q_proj.weight"] for part in parts
    }


# --- laws -------------------------------------------------------------------------------------------------------------
# ----------------


@pytest.fixture
def fitted(tmp_path):
    unet = UNet2DConditionModel(TINY_SD15.unet)
    layers = attention_layers(unet)
    first = write(tmp_path / "first.safetensors", low_rank(layers, lambda m: "lora_unet_" + m.replace(".", "_")))
    second = write(tmp_path / "second.safetensors", low_rank(layers[::2], lambda m: f"unet.{m}"))
    return {"unet": unet}, [plan_lora(read_lora(f), {"unet": unet}) for f in (first, second)]


def bits(unet):
    return {k: v.numpy().tobytes() for k, v in unet.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", ["merge", "sidecar"])
@pytest.mark.parametrize("packed", [False, True])
def test_restoring_gives_the_same_bits_even_when_the_body_raises(fitted, dtype, how, packed):
    parts, (one, two) = fitted
    unet = parts["unet"].to(dtype=dtype)
    if packed:
        pack(unet)
    before = bits(unet)

    def fail_inside():
        with patched(parts, [(one, 0.7), (two, -1.3)], how):
            assert how == "sidecar" or bits(unet) != before
            raise KeyError("the body fails")

    with pytest.raises(KeyError):
        fail_inside()
    assert bits(unet) == before


def test_adapters_commute(fitted):
    parts, (one, two) = fitted
    with patched(parts, [(one, 0.5), (two, 0.8)]):
        forward = bits(parts["unet"])
    with patched(parts, [(two, 0.8), (one, 0.5)]):
        assert np.allclose(*(np.frombuffer(b["conv_in.weight"], np.float32) for b in (forward, bits(parts["unet"]))))
        name = next(iter(one.deltas["unet"]))
        assert np.allclose(*(np.frombuffer(b[name], np.float32) for b in (forward, bits(parts["unet"]))), atol=1e-6)


def test_strength_zero_changes_nothing(fitted):
    parts, (one, _) = fitted
    before = bits(parts["unet"])
    with patched(parts, [(one, 0.0)]):
        assert bits(parts["unet"]) == before


def test_block_weights_choose_blocks(fitted):
    parts, (one, _) = fitted
    before = bits(parts["unet"])
    only_middle = [0.0] * 13 + [1.0] + [0.0] * 12  # 26: text encoder, 12 down, middle, 12 up
    with patched(parts, [Use(one, 1.0, blocks=only_middle)]):
        changed = {k for k, v in bits(parts["unet"]).items() if v != before[k]}
    assert changed
    assert all(k.startswith("mid_block") for k in changed)
    with pytest.raises(ValueError, match="12, 17, 20, 26"), patched(parts, [Use(one, 1.0, blocks=[1.0])]):
        pass


def test_merging_for_good_stays(fitted):
    parts, (one, _) = fitted
    before = bits(parts["unet"])
    merge(parts, [(one, 1.0)])
    assert bits(parts["unet"]) != before


# --- verdicts ---------------------------------------------------------------------------------------------------------
# ----------------


def test_the_verdict_names_kind_family_rank_and_keys(tmp_path):
    unet = UNet2DConditionModel(TINY_SD15.unet)
    tensors = low_rank(attention_layers(unet), lambda m: "lora_unet_" + m.replace(".", "_"))
    tensors["lora_unet_nowhere.lora_up.weight"] = np.ones((4, 2), np.float32)
    tensors["odd"] = np.ones(3, np.float32)
    patch = plan_lora(read_lora(write(tmp_path / "style.safetensors", tensors)), {"unet": unet})
    assert patch.verdict.startswith("style: LoRA for a model with cross attention 32, rank 2, ")
    assert "2 keys unused (first 'odd')" in patch.verdict
    assert set(patch.unused) == {"odd", "lora_unet_nowhere.lora_up.weight"}


def test_a_lora_of_another_family_is_refused_in_one_sentence(tmp_path, xl):
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{layer}.lora_down.weight": np.ones((4, 768), np.float32),
        f"{layer}.lora_up.weight": np.ones((320, 4), np.float32),
    }
    file = read_lora(write(tmp_path / "old.safetensors", tensors))
    assert file.family == "SD 1.5"
    with pytest.raises(
        ValueError, match=r"old.safetensors is a LoRA for SD 1.5, the loaded model is a model with cross attention 96"
    ):
        plan_lora(file, {"unet": xl})


@pytest.mark.parametrize(("layer", "family"), [
    ("lora_unet_double_blocks_0_img_attn_qkv", "FLUX"),
    ("lora_unet_joint_blocks_0_x_block_attn_qkv", "SD 3"),
])  # fmt: skip
def test_loras_of_other_architectures_are_named(tmp_path, xl, layer, family):
    tensors = {
        f"{layer}.lora_down.weight": np.ones((4, 8), np.float32),
        f"{layer}.lora_up.weight": np.ones((8, 4), np.float32),
    }
    with pytest.raises(ValueError, match=f"LoRA for {family}"):
        plan_lora(read_lora(write(tmp_path / "x.safetensors", tensors)), {"unet": xl})


def test_wrong_shapes_are_refused_before_anything_changes(tmp_path):
    unet = UNet2DConditionModel(TINY_SD15.unet)
    tensors = low_rank(attention_layers(unet), lambda m: f"unet.{m}")
    key = next(k for k in tensors if "attn1" in k and k.endswith("lora_up.weight"))
    tensors[key] = np.ones((999, 2), np.float32)
    with pytest.raises(ValueError, match="does not fit"):
        plan_lora(read_lora(write(tmp_path / "x.safetensors", tensors)), {"unet": unet})


def test_a_file_without_adapters_is_not_a_lora(tmp_path):
    path = write(tmp_path / "vae.safetensors", {"encoder.conv_in.weight": np.ones((4, 3, 3, 3), np.float32)})
    with pytest.raises(ValueError, match="is not a LoRA file"):
        read_lora(path)
