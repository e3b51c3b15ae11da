"""launch.py's decisions, without a network: what is installed when, for which CUDA, and what is said when it fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import install, troubles
from app.install import Stamp, Trouble, Venv, cuda_version, gpu_build, kernels_key, project_key, requirements, split

ROOT = Path(__file__).parents[2]
words = st.text("abcdef0123456789", max_size=16)


@pytest.fixture
def project(tmp_path):
    """A folder that looks like a checkout with an installed .venv."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mixstudio"\n')
    (tmp_path / "kernels" / "csrc").mkdir(parents=True)
    (tmp_path / "kernels" / "csrc" / "ops.cc").write_text("int one;")
    venv = Venv(tmp_path / ".venv")
    venv.python.parent.mkdir(parents=True)
    venv.python.write_text("")
    (venv.folder / "pyvenv.cfg").write_text("version = 3.11.7\n")
    return tmp_path


@pytest.fixture
def calls(monkeypatch):
    """Names of the expensive steps in the order in which they run, instead of the steps."""
    ran: list[str] = []
    monkeypatch.setattr(install, "_make", lambda venv, tell: ran.append("venv"))
    monkeypatch.setattr(
        install, "_install", lambda root, venv, device, extras, tell: ran.append(f"pip {device} {','.join(extras)}")
    )
    monkeypatch.setattr(install, "_build_kernels", lambda root, venv, tell: ran.append("kernels"))
    monkeypatch.setattr(install, "_check_space", lambda root, device: None)
    monkeypatch.setattr(install, "_ask_driver", lambda: (12, 8))
    return ran


def quiet(line: str) -> None:
    pass


def ensure(root: Path, **asked) -> Path:
    return install.ensure(root, tell=quiet, **asked)


@given(project=words, device=words, extras=st.lists(words), kernels=words)
def test_a_stamp_reads_back_as_itself(tmp_path_factory, project, device, extras, kernels):
    file = tmp_path_factory.mktemp("stamp") / "stamp.json"
    stamp = Stamp(project, device, tuple(extras), kernels)
    stamp.write(file)
    assert Stamp.read(file) == stamp
    assert [f.name for f in file.parent.iterdir()] == ["stamp.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"project": "x"}', '{"project":1,"device":2,"extras":3,"kernels":4}']
)
def test_a_damaged_stamp_is_no_stamp(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    assert Stamp.read(tmp_path / "s.json") is None


def test_a_second_start_does_nothing(project, calls):
    first = ensure(project)
    assert calls == ["venv", "pip cpu ", "kernels"]
    calls.clear()
    assert ensure(project) == first
    assert calls == []


def test_tests_add_the_dev_extra_and_later_starts_keep_it(project, calls):
    ensure(project)
    ensure(project, extras=frozenset({"dev"}))
    assert calls[3:] == ["venv", "pip cpu dev", "kernels"]
    calls.clear()
    ensure(project)
    assert calls == []


def test_a_changed_pyproject_installs_again(project, calls):
    ensure(project)
    (project / "pyproject.toml").write_text('[project]\nname = "mixstudio"\ndependencies = ["numpy"]\n')
    calls.clear()
    ensure(project)
    assert calls == ["venv", "pip cpu ", "kernels"]


def test_a_changed_kernel_is_only_compiled(project, calls):
    ensure(project)
    (project / "kernels" / "csrc" / "ops.cc").write_text("int two;")
    calls.clear()
    ensure(project)
    assert calls == ["kernels"]


def test_a_compiler_that_appears_is_noticed(project):
    assert kernels_key(project, None) != kernels_key(project, "/usr/bin/g++")


def test_another_python_behind_the_venv_is_noticed(project):
    venv = Venv(project / ".venv")
    before = project_key(project, venv)
    (venv.folder / "pyvenv.cfg").write_text("version = 3.12.1\n")
    assert project_key(project, venv) != before


def test_a_moved_folder_is_noticed(project, calls, tmp_path):
    ensure(project)
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    project.rename(moved)
    calls.clear()
    ensure(moved)
    assert calls == ["venv", "pip cpu ", "kernels"]


def test_the_gpu_wish_is_remembered_until_cpu_is_asked_for(project, calls):
    ensure(project, wish="gpu")
    ensure(project)
    assert calls == ["venv", "pip cu126 ", "kernels"]
    ensure(project, wish="cpu")
    assert calls[3:] == ["venv", "pip cpu ", "kernels"]


def test_a_failure_leaves_no_stamp_and_the_next_start_tries_again(project, calls, monkeypatch):
    ensure(project)

    def fail(*_):
        raise Trouble("no network")

    with monkeypatch.context() as patch:
        patch.setattr(install, "_install", fail)
        with pytest.raises(Trouble):
            ensure(project, extras=frozenset({"dev"}))
    assert Stamp.read(Venv(project / ".venv").stamp) is None
    calls.clear()
    ensure(project)
    assert "pip cpu " in calls


def test_a_full_disk_is_told_before_anything_is_touched(project, monkeypatch):
    monkeypatch.setattr(install, "NEEDED_GB", {"cpu": 10**9, "gpu": 10**9})
    before = sorted(project.rglob("*"))
    with pytest.raises(Trouble, match="GB free"):
        ensure(project)
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(
    ("driver", "build"),
    [
        ((11, 8), "cu118"),
        ((12, 4), "cu118"),
        ((12, 6), "cu126"),
        ((12, 8), "cu126"),
        ((12, 9), "cu129"),
        ((13, 0), "cu130"),
        ((14, 2), "cu130"),
    ],
)
def test_the_newest_build_that_the_driver_runs(driver, build):
    assert gpu_build(driver) == build


@pytest.mark.parametrize(("driver", "said"), [(None, "without --gpu"), ((11, 2), "Update the driver")])
def test_no_fitting_build_is_a_sentence(driver, said):
    with pytest.raises(Trouble, match=said):
        gpu_build(driver)


def test_the_cuda_version_is_read_from_nvidia_smi():
    table = "| NVIDIA-SMI 570.86.15    Driver Version: 570.86.15    CUDA Version: 12.8     |"
    assert cuda_version(table) == (12, 8)
    assert cuda_version("NVIDIA-SMI has failed") is None


DECLARED = [
    "paddlepaddle<3.4,>=3.3",
    "numpy>=1.26",
    'paddlepaddle-gpu<3.4,>=3.3; extra == "gpu"',
    "pytest>=8; extra == 'dev'",
]


def test_requirements_for_the_cpu_and_for_a_gpu():
    assert requirements(DECLARED, [], gpu=False) == ["paddlepaddle<3.4,>=3.3", "numpy>=1.26"]
    assert requirements(DECLARED, ["dev"], gpu=True) == ["numpy>=1.26", "pytest>=8"]
    assert requirements(DECLARED, ["gpu"], gpu=True) == ["numpy>=1.26", "paddlepaddle-gpu<3.4,>=3.3"]


def test_own_options_come_before_the_command():
    assert split(["--gpu", "doctor", "--cpu"]) == ("gpu", ["doctor", "--cpu"])
    assert split(["test", "--gpu"]) == (None, ["test", "--gpu"])


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "WARNING: Retrying ... NewConnectionError(...)\nERROR: No matching distribution found for paddlepaddle",
            "network",
        ),
        (
            "requirement setuptools>=68 (from versions: none)\nERROR: No matching distribution found for setuptools",
            "network",
        ),
        ("paddlepaddle (from versions: none)\nERROR: No matching distribution found for paddlepaddle", "no build"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'", "may not write"),
        ("ERROR: No matching distribution found for paddlepaddle<3.4,>=3.3", "no build for this Python"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "certificate"),
        ("ERROR: something new", "It said: ERROR: something new"),
        ("", "nothing"),
    ],
)
def test_what_pip_said_becomes_one_sentence(said, sentence):
    assert sentence in troubles.explain_pip(said)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("[Errno 30] Read-only file system: '/x/.venv'", "folder that you own"),
        ("The virtual environment was not created successfully because ensurepip is not available.", "-venv"),
        ("[Errno 28] No space left on device", "disk is full"),
        ("Killed", "It said: Killed"),
    ],
)
def test_why_no_environment_could_be_made(said, sentence):
    assert sentence in troubles.explain_venv(said, Path("/x"))


def test_a_broken_venv_is_made_anew(tmp_path):
    venv = Venv(tmp_path / ".venv")
    venv.python.parent.mkdir(parents=True)
    venv.python.write_text("not an interpreter")
    (venv.folder / "pyvenv.cfg").write_text("home = /gone\n")
    assert not venv.works()
    install._make(venv, quiet)
    assert venv.works()


def test_a_foreign_folder_called_venv_is_never_removed(tmp_path):
    venv = Venv(tmp_path / ".venv")
    venv.folder.mkdir()
    (venv.folder / "thesis.txt").write_text("years of work")
    with pytest.raises(Trouble, match="move it away"):
        install._make(venv, quiet)
    assert (venv.folder / "thesis.txt").exists()


def test_a_venv_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "_stream", lambda command, tell: (1, "Error: ensurepip is not available"))
    with pytest.raises(Trouble, match="python3"):
        install._make(Venv(tmp_path / ".venv"), quiet)
    assert list(tmp_path.iterdir()) == []


def test_pip_that_fails_is_told_in_our_words(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "_stream", lambda command, tell: (1, "getaddrinfo failed"))
    with pytest.raises(Trouble, match="network"):
        install._pip(Venv(tmp_path), "install", "x", tell=quiet)


def test_the_user_sees_what_takes_long(tmp_path):
    seen: list[str] = []
    talk = "print('Collecting x'); print('Downloading x.whl (190 MB)'); print('noise'); raise SystemExit(3)"
    code, said = install._stream([sys.executable, "-c", talk], seen.append)
    assert (code, [line.strip() for line in seen]) == (3, ["Downloading x.whl (190 MB)"])
    assert "noise" in said


def test_launch_hands_help_and_unknown_commands_over_without_installing(monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("help must not install")

    monkeypatch.setattr(install, "ensure", never)
    assert install.launch(["--help"]) == 0
    assert "doctor" in capsys.readouterr().out
    assert install.launch(["no-such-command"]) == 2
    assert "there is no command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Trouble("a sentence"), 1, "a sentence"),
        (PermissionError(13, "Permission denied"), 1, "own"),
        (KeyboardInterrupt(), 130, "goes on"),
    ],
)
def test_launch_ends_with_a_sentence(monkeypatch, capsys, error, code, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(install, "ensure", fail)
    assert install.launch(["doctor"]) == code
    assert said in capsys.readouterr().err


def test_launching_imports_the_standard_library_only():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); import app.install, app.cli; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names); print(sorted(new))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['app']"


def test_a_gpu_installation_never_holds_both_builds_of_paddle(tmp_path, monkeypatch):
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(install, "_pip", lambda venv, *words, tell: asked.append(words))
    metadata = subprocess.CompletedProcess([], 0, stdout=json.dumps(DECLARED))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: metadata)
    install._install(tmp_path, Venv(tmp_path / ".venv"), "cu129", ["dev"], quiet)
    assert asked == [
        ("install", "--no-deps", "--editable", str(tmp_path)),
        ("uninstall", "--yes", "paddlepaddle"),
        ("install", "numpy>=1.26", "pytest>=8"),
        (
            "install",
            "paddlepaddle-gpu<3.4,>=3.3",
            "--index-url",
            "https://www.paddlepaddle.org.cn/packages/stable/cu129/",
        ),
    ]
