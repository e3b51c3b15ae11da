"""Each trainer on four tiny pictures: the loss of one repeated batch falls, a resumed run is the same run."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdiffusers.models.clip import CLIPTextConfig
from ppdiffusers.models.clip_vision import CLIPConfig, CLIPModel, CLIPVisionConfig
from ppdiffusers.models.config import TINY_SD15
from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.models.unet import UNet2DConditionModel
from ppdiffusers.models.vae import AutoencoderKL
from ppdiffusers.prompt.embedding import read_embedding
from ppdiffusers.prompt.tokenizer import CLIPTokenizer
from ppdiffusers.training import vae as vae_training
from ppdiffusers.training.checkpoint import newest
from ppdiffusers.training.controlnet import ControlNetTask, ControlTrainConfig, begun
from ppdiffusers.training.diffusion import DiffusionConfig, DiffusionTask, LoraTask, LoraTrainConfig, SampleConfig
from ppdiffusers.training.event import Sample, Saved, TrainStep
from ppdiffusers.training.inversion import InversionConfig, InversionTask
from ppdiffusers.training.loop import LoopConfig, train
from ppdiffusers.training.lowrank import LoraConfig
from ppdiffusers.training.materials import MaterialConfig
from ppdiffusers.training.objective import Objective
from ppdiffusers.training.pair import PairConfig, PairTask
from ppdiffusers.training.vae import VAETask, VAETrainConfig, parts_of, psnr
from tests.ppdiffusers.models.conftest import fill
from tests.ppdiffusers.pipelines.conftest import tiny
from tests.ppdiffusers.training.conftest import fresh

MATERIAL = MaterialConfig(resolution=64, batch=2, flip=True)
SAMPLE = SampleConfig(count=2, side=64, steps=2)


def diffusion(dataset, out):
    return DiffusionTask(fresh(), dataset, out, DiffusionConfig(material=MATERIAL, sample=SAMPLE, offset_noise=0.05))


def lora(dataset, out):
    config = LoraTrainConfig(
        material=MATERIAL, sample=SAMPLE, lora=LoraConfig(rank=4, alpha=4, conv=True, text_targets=".*q_proj")
    )
    return LoraTask(fresh(), dataset, out / "x.safetensors", config)


def controlnet(dataset, out):
    config = ControlTrainConfig(material=MATERIAL, sample=SAMPLE, condition="luminance")
    return ControlNetTask(fresh(), dataset, out, config)


def inversion(dataset, out):
    config = InversionConfig(material=MATERIAL, sample=SAMPLE, count=2)
    return InversionTask(fresh(), dataset, out / "word.safetensors", config)


def vae(dataset, out):
    model = fill(AutoencoderKL(TINY_SD15.vae))
    return VAETask(model, dataset, out, VAETrainConfig(crop=32, batch=2, scale=True))


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
PAIR = CLIPConfig(
    text_config=CLIPTextConfig(**TOWER, projection_dim=16),
    vision_config=CLIPVisionConfig(**TOWER, projection_dim=16, image_size=32, patch_size=8),
    projection_dim=16,
)


@functools.cache
def pair_weights():
    return {name: value.numpy() for name, value in CLIPModel(PAIR).state_dict().items()}


def pair(dataset, out):
    model = CLIPModel(PAIR)
    model.set_state_dict(pair_weights())
    return PairTask(model, CLIPTokenizer.clip(), dataset, out, PairConfig(batch=4))


TASKS = {task.__name__: task for task in (diffusion, lora, controlnet, inversion, vae, pair)}
LOADED = {"diffusion": UNet2DConditionModel, "controlnet": ControlNetModel, "vae": AutoencoderKL, "pair": CLIPModel}


def steps(events) -> list[TrainStep]:
    return [event for event in events if isinstance(event, TrainStep)]


class Repeated:
    """A task that sees its first batch over and over."""

    def __init__(self, task):
        self.task = task

    def __getattr__(self, name):
        return getattr(self.task, name)

    def loss(self, number):
        return self.task.loss(0)


@pytest.mark.parametrize("kind", TASKS)
def test_the_loss_of_a_repeated_batch_falls(kind, dataset, tmp_path):
    task = TASKS[kind](dataset, tmp_path / "out")
    rate = {"inversion": 3e-2, "lora": 1e-2}.get(kind, 2e-3)
    events = list(train(Repeated(task), LoopConfig(steps=6, rate=rate, schedule="constant"), tmp_path / "run"))
    losses = [event.loss for event in steps(events)]
    assert losses[-1] < losses[0]
    assert min(losses) == min(losses[2:])


def test_a_locked_text_tower_keeps_every_bit(dataset, tmp_path):
    task = pair(dataset, tmp_path / "out")
    task.config = dataclasses.replace(task.config, lock_text=True)
    list(train(task, LoopConfig(steps=2, rate=1e-2, schedule="constant", warmup=0), tmp_path / "run"))
    moved = {name for name, p in task.model.named_parameters() if not np.array_equal(p.numpy(), pair_weights()[name])}
    assert not any(name.startswith("text_model.") for name in moved)
    assert {"visual_projection.weight", "text_projection.weight"} <= moved
    assert any(name.startswith("vision_model.") for name in moved)


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_closed_and_resumed_is_the_run_that_was_not(kind, dataset, tmp_path):
    """Losses, weights, moments, averages: the same bits, through a file and with fresh models."""
    config = LoopConfig(steps=4, rate=1e-3, warmup=1, accumulate=1 + (kind == "vae"), average=0.9, save_every=0)
    whole = steps(train(TASKS[kind](dataset, tmp_path / "a"), config, tmp_path / "whole"))
    run, first = train(TASKS[kind](dataset, tmp_path / "b"), config, tmp_path / "halves"), []
    for event in run:
        first += steps([event])
        if len(first) == 2:
            run.close()
    rest = steps(train(TASKS[kind](dataset, tmp_path / "b"), config, tmp_path / "halves"))
    assert [e.step for e in first + rest] == [1, 2, 3, 4]
    assert [e.loss for e in first + rest] == [e.loss for e in whole]
    one, other = (newest(tmp_path / name / "state") for name in ("whole", "halves"))
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert np.array_equal(tensor.numpy(), other.tensors[name].numpy()), name


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_ends_with_its_result_and_leaves_the_rest_alone(kind, dataset, tmp_path):
    task = TASKS[kind](dataset, tmp_path / "out")
    config = LoopConfig(steps=1, rate=1e-3, sample_every=1)
    if kind in ("lora", "controlnet", "inversion"):
        models = dict(task.bundle.models)
        before = {k: [(n, p.numpy(), p.stop_gradient) for n, p in m.named_parameters()] for k, m in models.items()}
    events = list(train(task, config, tmp_path / "run"))
    *_, last = events
    assert isinstance(last, Saved)
    assert last.final
    sample = next(event for event in events if isinstance(event, Sample))
    assert sample.images
    assert sample.path.is_file()
    if kind in LOADED:
        LOADED[kind].from_pretrained(last.path)
    if kind == "inversion":
        assert read_embedding(last.path).vectors[""].shape == (2, 32)
    if kind in ("lora", "controlnet", "inversion"):
        for part, model in models.items():
            after = [(n, p.numpy(), p.stop_gradient) for n, p in model.named_parameters()]
            for (name, was, stop), (again, now, stops) in zip(before[part], after, strict=True):
                assert (name, stop) == (again, stops)
                assert np.array_equal(was, now), name


def test_bfloat16_weights_move_through_their_float32_masters(dataset, tmp_path):
    task = diffusion(dataset, tmp_path / "out")
    for model in (task.bundle.unet, task.bundle.text.encoders[0].model):
        model.to(dtype="bfloat16")
    losses = [e.loss for e in steps(train(Repeated(task), LoopConfig(steps=5, rate=1e-3), tmp_path / "run"))]
    assert losses[-1] < losses[0]
    assert task.bundle.unet.dtype == paddle.bfloat16
    kept = newest(tmp_path / "run" / "state").tensors
    assert kept["master.conv_in.weight"].dtype == paddle.float32
    assert np.array_equal(
        task.bundle.unet.conv_in.weight.astype("float32").numpy(),
        kept["master.conv_in.weight"].astype("bfloat16").astype("float32").numpy(),
    )


def test_sdxl_is_told_the_size_of_the_file_and_of_the_bucket(folder, dataset, tmp_path):
    config = LoraTrainConfig(material=MATERIAL, lora=LoraConfig(rank=2))
    task = LoraTask(fresh("sdxl-base"), dataset, tmp_path / "x.safetensors", config)
    list(task.prepare(tmp_path))
    batch = task.material.batch(0)
    assert batch.time_ids.tolist()[0] == [64.0, 72.0, 0.0, 4.0, 64.0, 64.0]
    assert float(task.loss(0).value) > 0
    task.close()


def test_a_lora_that_reads_no_text_is_told_the_same_by_kept_and_by_fresh_captions(dataset, tmp_path):
    task = lora(dataset, tmp_path)
    list(task.prepare(tmp_path))
    fresh_text = task.said(["a red square", ""], 0)
    list(task.material.prepare(tmp_path, texts=True))
    kept = task.material.texts(["a red square", ""])
    np.testing.assert_allclose(fresh_text.text.numpy(), kept.text.numpy(), atol=1e-5)
    task.close()


def test_an_autoencoder_measures_its_scale(dataset, tmp_path):
    task = vae(dataset, tmp_path / "out")
    list(train(task, LoopConfig(steps=1), tmp_path / "run"))
    kept = AutoencoderKL.from_pretrained(tmp_path / "out")
    assert kept.config.scaling_factor == pytest.approx(task.measured_scale())
    with pytest.raises(ValueError, match="leaves latents as they are"):
        VAETrainConfig(part="decoder", scale=True)


def test_a_decoder_alone_leaves_the_encoder_its_bits(dataset, tmp_path):
    model = fill(AutoencoderKL(TINY_SD15.vae))
    was = {name: p.numpy() for name, p in model.encoder.named_parameters()}
    task = VAETask(model, dataset, tmp_path / "out", VAETrainConfig(crop=32, batch=2, part="decoder"))
    list(train(task, LoopConfig(steps=2, rate=1e-3), tmp_path / "run"))
    assert all(np.array_equal(was[name], p.numpy()) for name, p in model.encoder.named_parameters())


def test_psnr_of_a_known_error():
    x = paddle.zeros([1, 3, 8, 8])
    assert psnr(x, x + 0.2) == pytest.approx(20.0, abs=1e-3)


def test_control_pictures_come_from_a_folder_by_name(folder, dataset, tmp_path):
    config = ControlTrainConfig(material=MATERIAL, condition=str(folder))
    task = ControlNetTask(fresh(), dataset, tmp_path / "out", config)
    assert task.hint(0, False).shape == (3, 64, 64)
    (folder / "3.png").rename(folder / "other.png")
    with pytest.raises(ValueError, match="no control picture for 3"):
        ControlNetTask(fresh(), dataset, tmp_path / "out", config)
    with pytest.raises(ValueError, match="canny, luminance or a folder"):
        ControlNetTask(fresh(), dataset, tmp_path / "out", dataclasses.replace(config, condition="depth"))


def test_a_controlnet_goes_on_where_it_was_left_and_only_beside_a_unet_that_fits(dataset, tmp_path):
    config = ControlTrainConfig(material=MATERIAL, condition="luminance")
    bundle = fresh()
    task = ControlNetTask(bundle, dataset, tmp_path / "out", config)
    list(train(task, LoopConfig(steps=2, rate=1e-2), tmp_path / "run"))
    again = begun(tmp_path / "out", bundle)
    left = {name: p.numpy() for name, p in task.net.named_parameters()}
    assert any(np.abs(left[name]).max() > 0 for name in left if name.startswith("controlnet_down_blocks"))
    for name, parameter in again.named_parameters():
        np.testing.assert_allclose(parameter.numpy(), left[name], atol=1e-3)
    with pytest.raises(ValueError, match="does not fit"):
        begun(tmp_path / "out", tiny("sdxl-base"))


def test_words_of_several_tokens_start_nothing(dataset, tmp_path):
    with pytest.raises(ValueError, match="is 2 tokens"):
        InversionTask(fresh(), dataset, Path(tmp_path / "x.safetensors"), InversionConfig(start="two words"))


def test_latents_at_half_size_are_decoded_into_half_a_picture(dataset, tmp_path, monkeypatch):
    model = fill(AutoencoderKL(TINY_SD15.vae))
    task = VAETask(model, dataset, tmp_path / "out", VAETrainConfig(crop=32, batch=2, halves=0.5))
    seen = []
    monkeypatch.setattr(vae_training, "parts_of", lambda x, y, z: seen.append((x, y)) or parts_of(x, y, z))
    for number in range(12):
        assert np.isfinite(float(task.loss(number).value))
    sides = [x.shape[-1] for x, _ in seen]
    assert set(sides) == {16, 32}
    assert all(x.shape == y.shape for x, y in seen)
    assert [task.halved(i) for i in range(12)] == [side == 16 for side in sides]  # the same in a resumed run
    with pytest.raises(ValueError, match="half size"):
        VAETrainConfig(halves=1.5)


def test_noisy_steps_can_be_drawn_more_often():
    chance = np.random.default_rng(0)
    plain, biased = (Objective(fresh().schedule, noise_bias=b).times(chance, 20_000) for b in (1.0, 2.0))
    assert plain.min() >= 0
    assert max(plain.max(), biased.max()) < 1000
    assert plain.mean() == pytest.approx(499.5, abs=8)
    assert biased.mean() == pytest.approx(2 / 3 * 1000, abs=8)  # the density grows as the step does
    with pytest.raises(ValueError, match="bias to noisy steps"):
        Objective(fresh().schedule, noise_bias=0)
