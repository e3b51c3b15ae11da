"""What doctor finds wrong, on machines that are made up."""

import pytest

from app import diagnosis, environment

AMD = environment.Processor("AuthenticAMD", "EPYC", frozenset({"avx2"}), 8)
WELL = {"OMP_NUM_THREADS": "8", "MKL_DEBUG_CPU_TYPE": "5"}


@pytest.fixture
def machine(monkeypatch):
    """Set the environment and the installed packages, and get what is found wrong."""

    def problems(variables: dict[str, str], installed: set[str] = frozenset()) -> str:
        for name in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "LD_PRELOAD"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(diagnosis, "_installed", installed.__contains__)
        return " ".join(f"{p.what}: {p.do};" for p in diagnosis._environment_problems(AMD))

    return problems


def test_a_prepared_environment_has_no_problem(machine):
    assert machine(WELL) == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"OMP_NUM_THREADS": "2"}, "2 of 8 cores"),
        ({"MKL_DEBUG_CPU_TYPE": "4"}, "MKL takes its slow path"),
        ({"LD_PRELOAD": "libx.so"}, "LD_PRELOAD"),
    ],
)
def test_each_wrong_variable_is_told(machine, changed, said):
    assert said in machine(WELL | changed)


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({"kernels"}, "pip uninstall kernels"),
        ({"ppdiffusers"}, "pip uninstall ppdiffusers"),
        ({"paddlepaddle", "paddlepaddle-gpu"}, "both builds"),
    ],
)
def test_packages_that_get_in_our_way_are_told(machine, installed, said):
    assert said in machine(WELL, installed)


def test_little_memory_is_told():
    assert "1.5 GB" in diagnosis._memory_problems({"total": 8, "available": 1.5})[0].what
    assert diagnosis._memory_problems({"available": 12}) == []
    assert diagnosis._memory_problems({}) == []


def test_an_absent_extension_is_told_with_its_reason():
    (problem,) = diagnosis._kernel_problems({"norm": "ready", "attention": "no C++ compiler found"})
    assert "attention" in problem.what
    assert "no C++ compiler found" in problem.what


def test_a_paddle_that_does_not_start_is_fatal_and_the_rest_is_still_told(monkeypatch):
    def fail():
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(environment, "import_paddle", fail)
    found = diagnosis.examine()
    assert not found.usable
    assert "libgomp" in found.problems[0].what
    assert found.cpu["cores"] >= 1


def test_a_gpu_that_lies_idle_is_told(monkeypatch):
    monkeypatch.setattr(diagnosis.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(diagnosis, "_devices", lambda paddle: [])
    assert any("--gpu" in problem.do for problem in diagnosis.examine().problems)
