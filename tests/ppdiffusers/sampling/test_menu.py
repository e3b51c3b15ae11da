"""Names and configs lead to the sampler that people mean by them."""

import pytest

from ppdiffusers.sampling import ModelSchedule
from ppdiffusers.sampling.choice import Choice, Named
from ppdiffusers.sampling.menu import SAMPLERS, SCHEDULE_NAMES, choose
from ppdiffusers.sampling.menu_diffusers import SCHEDULERS
from ppdiffusers.sampling.schedules import SCHEDULES, Range


def kind(choice: Choice) -> str:
    assert isinstance(choice.schedule, Named)
    return choice.schedule.name


@pytest.mark.parametrize(
    ("name", "sampler", "schedule"),
    [
        ("DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("DPM++ 2M", "DPM++ 2M", "Karras"),
        ("DPM++ 2M SDE", "DPM++ 2M SDE", "Exponential"),
        ("DPM++ 2M SDE Karras", "DPM++ 2M SDE", "Karras"),
        ("DPM++ 2M SDE Heun Exponential", "DPM++ 2M SDE Heun", "Exponential"),
        ("DPM++ SDE Karras", "DPM++ SDE", "Karras"),
        ("DPM++ 3M SDE Exponential", "DPM++ 3M SDE", "Exponential"),
        ("DPM2 a Karras", "DPM2 a", "Karras"),
        ("LMS Karras", "LMS", "Karras"),
        ("Euler a", "Euler a", "Uniform"),
        ("euler A", "Euler a", "Uniform"),
        ("k_euler", "Euler", "Uniform"),
        ("k_euler_a", "Euler a", "Uniform"),
        ("k_dpmpp_2m_ka", "DPM++ 2M", "Karras"),
        ("k_dpm_2_a", "DPM2 a", "Karras"),
        ("dpmpp_2m", "DPM++ 2M", "Karras"),
        ("uni_pc", "UniPC", "SGM Uniform"),
        ("DDIM", "DDIM", "DDIM"),
        ("PLMS", "PLMS", "DDIM"),
        ("LCM", "LCM", "SGM Uniform"),
    ],
)
def test_names_of_the_webui(name: str, sampler: str, schedule: str) -> None:
    choice = choose(name)
    assert (choice.name, kind(choice)) == (sampler, schedule)


@pytest.mark.parametrize(
    "schedule", [*SCHEDULES, "SGMUniform", "sgm_uniform", "ddim_uniform", "kl_optimal", "automatic"]
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_on_every_schedule(name: str, schedule: str, model: ModelSchedule) -> None:
    choice = choose(name, schedule)
    for steps in (1, 31):
        sigmas = choice.sigmas(model, steps)
        assert len(sigmas) == steps + 1
        assert sigmas[-1] == 0


def test_a_chosen_schedule_wins_over_the_name() -> None:
    assert kind(choose("DPM++ 2M Karras", "Exponential")) == "Exponential"
    assert kind(choose("DPM++ 2M Karras", "Automatic")) == "Karras"


def test_every_name_is_its_own_alias() -> None:
    assert {choose(name).name for name in SAMPLERS} == set(SAMPLERS)
    assert set(SCHEDULES) < set(SCHEDULE_NAMES.values())


def test_some_samplers_leave_out_the_last_level(model: ModelSchedule) -> None:
    plain, short = choose("DPM++ 2M", "Karras").sigmas(model, 10), choose("DPM2", "Karras").sigmas(model, 10)
    assert len(plain) == len(short)
    assert short[-2] > plain[-2] == pytest.approx(model.sigma_min)


def test_a_span_reaches_the_schedule(model: ModelSchedule) -> None:
    assert choose("Euler", "Karras", span=Range(low=0.1, high=10.0)).sigmas(model, 5)[0] == pytest.approx(10)


@pytest.mark.parametrize(
    ("name", "message"),
    [("DPM++ 2N", r"did you mean 'DPM\+\+ 2M'"), ("Eular a", "did you mean 'Euler a'"), ("xyzzy", "there are DPM")],
)
def test_unknown_samplers_get_the_closest_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(name)


def test_unknown_schedules_get_the_closest_names() -> None:
    with pytest.raises(ValueError, match="no schedule type is called 'Karas'; did you mean 'Karras'"):
        choose("Euler", "Karas")


def test_options_are_checked() -> None:
    assert choose("Euler a").with_options(eta=0.5).options["eta"] == 0.5
    assert "churn" in choose("Heun").accepts
    with pytest.raises(ValueError, match="DPM\\+\\+ 2S a has no option churn; it has eta, s_noise"):
        choose("DPM++ 2S a").with_options(churn=None)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_every_scheduler_config_gives_descending_levels(name: str, steps: int, model: ModelSchedule) -> None:
    sigmas = choose({"_class_name": name}).sigmas(model, steps)
    assert len(sigmas) == steps + 1 or (name == "PNDMScheduler" and len(sigmas) == steps)  # it steps from t 0 to t 0
    assert sigmas == sorted(set(sigmas), reverse=True)
    assert len(sigmas) > 1


def test_configs_that_ask_for_more_are_refused() -> None:
    with pytest.raises(ValueError, match="no scheduler is called 'FooScheduler'"):
        choose({"_class_name": "FooScheduler"})
    for key, value in (("thresholding", True), ("clip_sample", True), ("algorithm_type", "dpmsolver")):
        with pytest.raises(ValueError, match=f"{key}={value!r} is not supported"):
            choose({"_class_name": "DPMSolverMultistepScheduler", key: value})
    with pytest.raises(ValueError, match="'sde-dpmsolver"):
        choose({"_class_name": "DPMSolverSinglestepScheduler", "algorithm_type": "sde-dpmsolver++"})


def test_the_config_of_stable_diffusion() -> None:
    config = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    model = ModelSchedule.from_config(config)
    choice = choose(config)
    assert model == ModelSchedule.make()
    assert [round(model.t(s)) for s in choice.sigmas(model, 50)][:2] == [981, 961]
    assert choice.sigmas(model, 50)[-1] == model.sigma_min
