"""The loop itself, on a task small enough to know the answer: rates, accumulation, averages, states, the journal."""

import math

import numpy as np
import paddle
import PIL.Image
import pytest
from paddle.base.framework import EagerParamBase

from ppdiffusers.sampling import ModelSchedule
from ppdiffusers.training import checkpoint, rates
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.event import Note, Saved, TrainStep
from ppdiffusers.training.journal import Journal, plot, sheet, smooth
from ppdiffusers.training.loop import MOST_LOST, LoopConfig, Loss, train
from ppdiffusers.training.objective import Objective
from ppdiffusers.training.optimiser import AdamW, AdamWConfig, Average


def parameter(*values, dtype="float32"):
    return EagerParamBase.from_tensor(paddle.to_tensor(values).astype(dtype), trainable=True)


class Line:
    """Fits w to draws around 3: the loss of batch n is (w - target(n))^2."""

    name = "line"

    def __init__(self, out, seed=0, broken=(), count=1):
        self.w, self.out, self.draws, self.broken = parameter(0.0), out, Draws(seed), broken
        self.seen, self.closed, self.count = [], 0, count

    def about(self):
        return {"seed": self.draws.seed, "pair": (1, 2)}

    def prepare(self, folder):
        return iter(())

    def trainable(self):
        return {"w": self.w}

    def factors(self):
        return {}

    def loss(self, number):
        self.seen.append(number)
        target = 3.0 + self.draws.normal([1], "target", number).item() * 0.1
        factor = math.nan if number in self.broken else 1.0
        return Loss(((self.w - target) * factor).square().sum(), {"w": self.w.item()})

    def samples(self):
        return [PIL.Image.new("RGB", (8, 8))], ["w"]

    def save(self, step):
        self.out.write_text(f"{self.w.item()}")
        return self.out

    def close(self):
        self.closed += 1


def run(tmp_path, task=None, name="run", **options):
    config = LoopConfig(**({"steps": 6, "rate": 0.5, "schedule": "constant"} | options))
    return train(task or Line(tmp_path / "out"), config, tmp_path / name)


def test_a_run_learns_logs_plots_and_saves(tmp_path):
    task = Line(tmp_path / "out")
    events = list(run(tmp_path, task, steps=12, sample_every=6, save_every=5, keep=2))
    told = [event for event in events if isinstance(event, TrainStep)]
    assert [event.step for event in told] == list(range(1, 13))
    assert told[-1].loss < told[0].loss / 10
    log = Journal(tmp_path / "run" / "log.jsonl").read()
    assert [record["loss"] for record in log] == [event.loss for event in told]
    assert log[0]["w"] == 0.0
    assert [p.name for p in checkpoint.states(tmp_path / "run" / "state")] == [
        "step-000010.safetensors",
        "step-000012.safetensors",
    ]
    assert PIL.Image.open(tmp_path / "run" / "loss.png").size == (960, 480)
    assert len(list((tmp_path / "run" / "sheets").iterdir())) == 2
    assert [event.final for event in events if isinstance(event, Saved) and event.kind == "result"] == [0, 0, 1]
    assert task.closed == 1


def test_accumulating_two_batches_is_one_batch_of_both(tmp_path):
    task = Line(tmp_path / "out")
    first = next(event for event in run(tmp_path, task, accumulate=2) if isinstance(event, TrainStep))
    assert task.seen[:2] == [0, 1]
    targets = [3.0 + task.draws.normal([1], "target", n).item() * 0.1 for n in (0, 1)]
    assert first.loss == pytest.approx(np.mean(np.square(targets)), rel=1e-5)
    assert first.norm == pytest.approx(2 * np.mean(targets), rel=1e-5)


def test_closing_saves_and_the_next_run_goes_on(tmp_path):
    events = run(tmp_path, save_every=0)
    for event in events:
        if event.step == 3:
            events.close()
    assert (tmp_path / "out").is_file()
    again = list(run(tmp_path, save_every=0))
    assert again[0] == Note("going on from step 3")
    assert [event.step for event in again if isinstance(event, TrainStep)] == [4, 5, 6]
    assert [record["step"] for record in Journal(tmp_path / "run" / "log.jsonl").read()] == [1, 2, 3, 4, 5, 6]


def test_what_was_logged_after_the_last_state_is_taken_back(tmp_path):
    list(run(tmp_path, steps=4))
    Journal(tmp_path / "run" / "log.jsonl").add({"step": 5, "loss": 1.0})
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    done = list(run(tmp_path, steps=4))
    assert [type(event) for event in done] == [Note, Saved]  # the result is written again, nothing is trained
    assert [record["step"] for record in Journal(tmp_path / "run" / "log.jsonl").read()] == [1, 2, 3, 4]


def test_another_run_in_the_folder_is_not_gone_on_with(tmp_path):
    list(run(tmp_path))
    with pytest.raises(ValueError, match=r"rate was 0.5, is now 0.25; seed was 0, is now 1"):
        list(run(tmp_path, Line(tmp_path / "out", seed=1), rate=0.25))
    list(run(tmp_path, save_every=2, sample_every=3))  # how often one looks changes nothing


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path):
    task = Line(tmp_path / "out", broken=(1,))
    events = list(run(tmp_path, task, steps=3))
    assert [event.text for event in events if isinstance(event, Note)] == [
        "step 2 was left out: its gradient is not finite"
    ]
    assert math.isfinite(task.w.item())
    with pytest.raises(ValueError, match="no finite gradient"):
        list(run(tmp_path, Line(tmp_path / "out", broken=range(99)), "lost", steps=MOST_LOST + 5))


def test_a_damaged_state_is_told(tmp_path):
    list(run(tmp_path))
    (path,) = checkpoint.states(tmp_path / "run" / "state")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=path.name):
        list(run(tmp_path))


def test_averaged_weights_are_shown_and_taken_back(tmp_path):
    w = parameter(1.0, 2.0, dtype="bfloat16")
    optimiser = AdamW({"w": w}, AdamWConfig())
    average = Average(optimiser, 0.999)
    optimiser.masters["w"].set_value(paddle.to_tensor([3.0, 4.0]))
    average.update(1)
    pull = 1 - 2 / 11  # the decay of the first step is (1 + 1) / (10 + 1)
    np.testing.assert_allclose(average.values["w"].numpy(), [1 + 2 * pull, 2 + 2 * pull], rtol=1e-6)
    with average.shown():
        np.testing.assert_allclose(w.astype("float32").numpy(), [1 + 2 * pull, 2 + 2 * pull], rtol=1e-2)
    assert w.astype("float32").tolist() == [1.0, 2.0]


def test_steps_smaller_than_bfloat16_are_not_lost():
    w = parameter(1.0, dtype="bfloat16")
    optimiser = AdamW({"w": w}, AdamWConfig(weight_decay=0.0))
    for number in range(1, 21):
        (w.astype("float32") * 1.0).sum().backward()
        optimiser.gather(1.0)
        optimiser.step(number, 1e-3)
    assert optimiser.masters["w"].item() == pytest.approx(0.98, abs=1e-4)
    assert w.astype("float32").item() == pytest.approx(0.98, abs=4e-3)


def test_large_gradients_are_scaled_down_and_biases_do_not_decay():
    bias, matrix = parameter(1.0), EagerParamBase.from_tensor(paddle.ones([1, 1]), trainable=True)
    optimiser = AdamW({"b": bias, "m": matrix}, AdamWConfig(weight_decay=0.5, clip=1.0), {"m": 0.5})
    ((bias * 30).sum() + (matrix * 40).sum()).backward()
    optimiser.gather(1.0)
    assert optimiser.step(1, 0.1) == pytest.approx(50.0)
    assert bias.item() == pytest.approx(0.9, abs=1e-4)
    assert matrix.item() == pytest.approx((1 - 0.05 * 0.5) - 0.05, abs=1e-4)
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        optimiser.step(2, 0.1)


def test_rates_rise_and_fall():
    assert [rates.share(i, 8, "constant", 3) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [rates.share(i, 4, "linear") for i in range(4)] == [1.0, 0.75, 0.5, 0.25]
    cosine = [rates.share(i, 100, "cosine", 10, final=0.1) for i in range(100)]
    assert max(cosine) == cosine[10] == 1.0
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert 0.1 < cosine[-1] < 0.11
    with pytest.raises(ValueError, match="constant, linear, cosine"):
        rates.share(0, 1, "steps")


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_target_and_the_mixture_give_the_picture_back(prediction):
    from ppdiffusers.sampling.denoise import Denoiser

    objective = Objective(ModelSchedule.make(), prediction)
    x0 = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype("float32"))
    mixed = objective.mix(x0, Draws(1), 5)
    sigma = objective.schedule.sigmas[int(mixed.times.item())]
    denoiser = Denoiser(lambda x, t, cond: mixed.target, objective.schedule, prediction)
    again = denoiser(mixed.noisy * math.sqrt(1 + sigma**2), sigma, None)
    np.testing.assert_allclose(again.numpy(), x0.numpy(), atol=1e-3 * max(1, sigma))


def test_min_snr_weights_are_the_papers():
    schedule = ModelSchedule.make()
    snr = 1 / np.asarray(schedule.sigmas) ** 2
    steps = np.array([0, 500, 999])
    eps, v = (Objective(schedule, kind, min_snr=5.0).weights(steps) for kind in ("eps", "v"))
    np.testing.assert_allclose(eps, np.minimum(snr[steps], 5) / snr[steps])
    np.testing.assert_allclose(v, np.minimum(snr[steps], 5) / (snr[steps] + 1))
    assert Objective(schedule, min_snr=0.0).weights(steps).tolist() == [1, 1, 1]


def test_draws_depend_on_seed_purpose_and_place_alone():
    a = Draws(1).normal([4], "noise", 3).numpy()
    assert np.array_equal(a, Draws(1).normal([4], "noise", 3).numpy())
    for other in (Draws(2).normal([4], "noise", 3), Draws(1).normal([4], "times", 3), Draws(1).normal([4], "noise", 4)):
        assert not np.array_equal(a, other.numpy())


def test_curves_and_sheets_are_pictures():
    assert plot([(i, 1 / (i + 1)) for i in range(50)], "x").size == (960, 480)
    assert plot([(1, 0.5), (2, 0.5)], "flat").size == (960, 480)
    assert smooth([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]
    page = sheet([PIL.Image.new("RGB", (32, 32), "red")] * 5, ["a"] * 5)
    assert page.size == (128, 2 * 50)
    assert page.getpixel((5, 5)) == (255, 0, 0)
