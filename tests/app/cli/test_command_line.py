"""The command line as a user meets it."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from app import __version__, cli
from app.cli import COMMANDS, doctor, main, test
from app.diagnosis import Diagnosis, Problem
from app.probes import PROBES, Choice

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("words", [["-h"], ["--help"]])
def test_help_lists_every_command(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert "--gpu" not in out  # an option of launch.py, which an installed mixstudio does not have


def test_launchers_help_knows_its_own_options(capsys):
    main(["--help"], prog="python launch.py")
    assert "--gpu" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mixstudio {__version__}\n"


def test_an_unknown_command_names_the_known_ones(capsys):
    assert main(["paint"]) == 2
    assert "doctor" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_what_the_table_needs(name, capsys):
    module = import_module(COMMANDS[name][0])
    assert callable(module.run)
    assert module.__doc__
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"mixstudio {name}" in capsys.readouterr().out


def test_a_wrong_option_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--jsn"])
    assert stop.value.code == 2
    assert "--jsn" in capsys.readouterr().err


def test_help_imports_nothing_big():
    code = (
        "import sys; from app.cli import main; main(['--help']); main(['--version']); "
        "print([m for m in ('paddle', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "code", "said"), [(ValueError("bad size"), 1, "bad size"), (KeyboardInterrupt(), 130, "interrupted")]
)
def test_a_failing_command_ends_with_its_sentence(error, code, said, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    assert main(["doctor"]) == code
    assert said in capsys.readouterr().err


def test_doctor_tells_programs_everything(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] is True
    assert found["packages"]["paddlepaddle"].startswith("3.")
    assert {"attention", "conv2d", "linear"} <= {choice["op"] for choice in found["kernels"]}
    assert found["environment"]["OMP_NUM_THREADS"]


def test_doctor_knows_a_typical_call_of_every_op():
    import kernels  # declares the tables
    from kernels.choose import tables

    assert kernels.attention
    assert set(tables()) <= set(PROBES), "add the new op's typical call to app/probes.py"


def diagnosis(**changed) -> Diagnosis:
    facts = {
        "mixstudio": "0.1.0",
        "python": "3.11",
        "executable": "python",
        "system": "Linux",
        "packages": {},
        "cpu": {"model": "x", "vendor": "y", "cores": 2, "features": []},
        "memory_gb": {},
        "devices": [],
        "environment": {},
        "extensions": {"attention": "not built"},
        "kernels": [Choice("attention", "float32", "reference", {"native": "needs AVX2"})],
        "problems": [],
    }
    return Diagnosis(**(facts | changed))


def test_doctor_says_why_a_kernel_was_refused():
    assert "refused: native: needs AVX2" in doctor.describe(diagnosis())


def test_only_a_fatal_problem_makes_it_unusable(monkeypatch, capsys):
    slow, broken = Problem("slow", "wait"), Problem("no paddle", "reinstall", fatal=True)
    for problems, code in (([slow], 0), ([slow, broken], 1)):
        monkeypatch.setattr(doctor, "examine", lambda found=problems: diagnosis(problems=found))
        assert main(["doctor"]) == code
        assert "no paddle" not in capsys.readouterr().out or code == 1


def test_test_passes_its_words_on_to_pytest(monkeypatch):
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "call", lambda command, cwd, env: asked.append(command) or 5)
    assert main(["test", "tests/laws", "-x", "-k", "layers"]) == 5
    assert asked[0][1:] == ["-m", "pytest", "tests/laws", "-x", "-k", "layers"]


def test_test_needs_a_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(test, "ROOT", tmp_path)
    assert main(["test"]) == 1
    assert "clone of the repository" in capsys.readouterr().err


def test_the_module_can_be_run():
    done = subprocess.run([sys.executable, "-m", "app.cli", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python launch.py")
    assert cli.LAUNCHER.strip() in done.stdout


@pytest.mark.parametrize("rest", [[], ["-q"], ["-m", "parity"], ["-q", "-x", "--tb=long"]])
def test_the_whole_suite_runs_in_several_processes(rest):
    assert test.whole(rest)


@pytest.mark.parametrize("rest", [["tests/laws"], ["-q", "tests/laws/test_layers.py::test_x"], ["-n", "3"], ["--pdb"]])
def test_a_named_test_or_an_own_choice_runs_in_one(rest):
    assert not test.whole(rest)
