"""What a trained LoRA file is: the training-time forward again, here, in the WebUI's names, and in diffusers."""

import dataclasses
import functools
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdiffusers.models.layers import Conv2D, Linear
from ppdiffusers.patch import patched
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.save import save_diffusers
from ppdiffusers.training.dataset import scan
from ppdiffusers.training.diffusion import LoraTask, LoraTrainConfig
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.loop import LoopConfig, train
from ppdiffusers.training.lowrank import TEXT, LoraConfig, LowRank, LowRankPath
from ppdiffusers.training.materials import MaterialConfig
from ppdiffusers.weights.file import open_tensors
from ppdiffusers.weights.load import LoadedParts
from ppdiffusers.weights.lora import plan_lora, read_lora
from tests.ppdiffusers.training.conftest import fresh, write_pictures

EVERYTHING = LoraConfig(rank=4, alpha=2, conv=True, conv_rank=2, text_targets=TEXT)


@dataclass(frozen=True, eq=False)
class Trained:
    """A bundle beside which a LoRA was trained, what it answered then, and the file in both dtypes."""

    bundle: Bundle
    inputs: dict[str, np.ndarray]
    during: tuple[np.ndarray, np.ndarray]
    file: Path
    half: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(family) -> Trained after two large steps; each family is trained once."""

    @functools.cache
    def make(family: str) -> Trained:
        out = tmp_path_factory.mktemp(family)
        config = LoraTrainConfig(material=MaterialConfig(resolution=64, batch=2), lora=EVERYTHING, dtype="float32")
        task = LoraTask(fresh(family), scan(write_pictures(out / "pictures")), out / "style.safetensors", config)
        task.close, closing = lambda: None, task.close
        list(train(task, LoopConfig(steps=2, rate=3e-2, schedule="constant"), out / "run"))
        inputs = inputs_for(task.bundle)
        during = answers(task.bundle, inputs)
        file = task.out.rename(out / "full.safetensors")
        task.lora = dataclasses.replace(config, dtype="float16")
        task.save(2)
        closing()
        return Trained(task.bundle, inputs, during, file, task.out)

    return make


def answers(bundle, inputs) -> tuple[np.ndarray, np.ndarray]:
    """The UNet's answer and the first text encoder's."""
    added = None
    if bundle.time_ids:
        added = {"text_embeds": paddle.ones([2, 64]) * 0.1, "time_ids": paddle.ones([2, 6]) * 64}
    x, text, ids = (paddle.to_tensor(inputs[name]) for name in ("x", "text", "ids"))
    with paddle.no_grad():
        unet = bundle.unet(x, 300.0, text, added_cond_kwargs=added).sample
        read = bundle.text.encoders[0].model(ids).last_hidden_state
    return unet.numpy(), read.numpy()


def inputs_for(bundle) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(3)
    width = bundle.unet.config.cross_attention_dim
    rows = bundle.text.encoders[0].tokenizer.rows(["a red square"])
    return {
        "x": draws.standard_normal((2, 4, 8, 8)).astype("float32"),
        "text": draws.standard_normal((2, 77, width)).astype("float32"),
        "ids": np.asarray(rows, dtype="int64"),
    }


@pytest.mark.parametrize("family", ["sd15", "sdxl-base"])
def test_the_file_applied_is_the_forward_that_was_trained(family, trained):
    made = trained(family)
    models = made.bundle.models
    plain = answers(made.bundle, made.inputs)
    patch = plan_lora(read_lora(made.file), models)
    assert not patch.unused
    for how in ("merge", "sidecar"):
        with patched(models, [(patch, 1.0)], how):
            after = answers(made.bundle, made.inputs)
        for was, now, base in zip(made.during, after, plain, strict=True):
            # The same sums in another order: this small model turns their rounding into 1e-4 of its largest answer,
            # as merged and beside differ with plain ops too; which one depends on the CPU.
            assert np.abs(now - was).max() <= 5e-4 * np.abs(was).max()
            assert np.abs(now - base).max() > 1e-2  # it does something


def test_layers_are_called_as_kohya_calls_them(trained):
    with open_tensors(trained("sd15").half) as file:
        keys, shapes, dtypes, metadata = list(file.shapes), file.shapes, set(file.dtypes.values()), file.metadata
        assert file.read("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha").item() == 2.0
        assert file.read("lora_unet_mid_block_resnets_0_conv1.alpha").item() == 1.0  # alpha / rank is one for all
    assert dtypes == {"F16"}
    assert all(re.fullmatch(r"lora_(unet|te)_\w+\.(lora_(up|down)\.weight|alpha)", key) for key in keys)
    q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert (shapes[f"{q}.lora_down.weight"], shapes[f"{q}.lora_up.weight"]) == ((4, 32), (32, 4))
    conv = "lora_unet_mid_block_resnets_0_conv1"
    assert (shapes[f"{conv}.lora_down.weight"], shapes[f"{conv}.lora_up.weight"]) == ((2, 64, 3, 3), (64, 2, 1, 1))
    proj = "lora_unet_down_blocks_0_attentions_0_proj_in"  # SD 1 stores it as a convolution
    assert shapes[f"{proj}.lora_down.weight"] == (4, 32, 1, 1)
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_base_model_version"]) == ("4", "sd_v1")
    assert metadata["ss_output_name"] == "style"
    assert json.loads(metadata["ss_tag_frequency"])["pictures"]["flat"] == 1


def test_sdxl_layers_have_the_original_names(trained):
    names = read_lora(trained("sdxl-base").half)
    assert any(layer.startswith("lora_unet_input_blocks_3_1_transformer_blocks_0_attn1") for layer in names.groups)
    assert {layer.split("_")[1] for layer in names.groups} == {"unet", "te1", "te2"}
    assert names.metadata["ss_base_model_version"] == "sdxl_base_v1-0"


@pytest.mark.parametrize(("act", "with_residual"), [(None, False), (None, True), ("geglu", False), ("silu", True)])
def test_a_path_that_has_learned_nothing_changes_nothing(act, with_residual):
    layer = Linear(8, 8)
    path = LowRankPath(layer, 2, 2.0, np.random.default_rng(0))
    x = paddle.rand([2, 3, 8])
    width = 4 if act == "geglu" else 8
    residual = paddle.rand([2, 3, width]) if with_residual else None
    one, other = layer(x, act=act, residual=residual), path(x, act=act, residual=residual)
    np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_a_convolution_path_is_a_product_of_two_convolutions():
    layer = Conv2D(4, 6, stride=2)
    path = LowRankPath(layer, 3, 1.5, np.random.default_rng(0))
    path.up.set_value(paddle.rand(path.up.shape))
    down, up = path.torch_factors()
    change = paddle.einsum("or,rikl->oikl", up[:, :, 0, 0], down) * 0.5
    x = paddle.rand([2, 8, 8, 4])
    expected = layer(x)
    layer.set_dense_weight(layer.dense_weight() + change)
    whole = layer(x)
    layer.set_dense_weight(layer.dense_weight() - change)
    np.testing.assert_allclose(path(x).numpy(), whole.numpy(), atol=1e-5)
    assert np.abs(whole.numpy() - expected.numpy()).max() > 1e-3


def test_removing_gives_the_layers_back():
    models = fresh().models
    before = {id(layer) for layer in models["unet"].sublayers()}
    paths = LowRank(models, EVERYTHING, Draws(0))
    assert {id(layer) for layer in models["unet"].sublayers()} != before
    paths.remove()
    assert {id(layer) for layer in models["unet"].sublayers()} == before


def test_settings_that_can_not_work_are_told(dataset, tmp_path):
    with pytest.raises(ValueError, match="no layer's name matches"):
        LowRank(fresh().models, LoraConfig(targets="nothing"), Draws(0))
    with pytest.raises(ValueError, match="no regular expression"):
        LoraConfig(targets="(")
    with pytest.raises(ValueError, match="at least 1"):
        LoraConfig(rank=0)
    with pytest.raises(ValueError, match=r"written as \.safetensors"):
        LoraTask(fresh(), dataset, tmp_path / "x.ckpt", LoraTrainConfig())


REFERENCE = """
import sys
import numpy as np
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
folder, lora, data, xl = sys.argv[1:5]
kind = StableDiffusionXLPipeline if xl == "1" else StableDiffusionPipeline
pipe = kind.from_pretrained(folder, local_files_only=True)
pipe.load_lora_weights(lora)
z = {k: torch.from_numpy(v) for k, v in np.load(data).items()}
added = {"text_embeds": torch.ones(2, 64) * 0.1, "time_ids": torch.ones(2, 6) * 64} if xl == "1" else None
with torch.no_grad():
    unet = pipe.unet(z["x"], 300.0, z["text"], added_cond_kwargs=added).sample
    text = pipe.text_encoder(z["ids"]).last_hidden_state
np.savez(data, unet_answer=unet.numpy(), text_answer=text.numpy())
"""


@pytest.mark.parity
@pytest.mark.parametrize("family", ["sd15", "sdxl-base"])
def test_diffusers_loads_the_file_and_says_the_same(family, trained, tmp_path, reference_python):
    made = trained(family)
    bundle, data = made.bundle, tmp_path / "data.npz"
    encoders = [encoder.model for encoder in bundle.text.encoders]
    parts = LoadedParts(
        family, bundle.unet, bundle.vae, encoders, [None] * len(encoders), {}, bundle.prediction, tmp_path
    )
    save_diffusers(parts, tmp_path / "model")
    np.savez(data, **made.inputs)
    words = [tmp_path / "model", made.half, data, int(family.startswith("sdxl"))]
    subprocess.run([reference_python, "-c", REFERENCE, *map(str, words)], check=True, cwd=tmp_path)
    theirs = np.load(data)
    with patched(bundle.models, [(plan_lora(read_lora(made.half), bundle.models), 1.0)]):
        unet, text = answers(bundle, made.inputs)
    np.testing.assert_allclose(unet, theirs["unet_answer"], atol=1e-3)
    np.testing.assert_allclose(text, theirs["text_answer"], atol=1e-3)
