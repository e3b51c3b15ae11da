"""What launch.py does before anything is installed: `.venv`, packages, kernels, each once; standard library only.

A stamp in `.venv` says what was installed for which pyproject.toml and Python. While it holds, a start runs no pip,
asks no network and imports nothing big.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app.cli import COMMANDS, main
from app.troubles import Trouble, explain_pip, explain_venv

ROOT = Path(__file__).parents[1]
NEEDED_GB = {"cpu": 2, "gpu": 8}  # unpacked wheels and pip's copies of them while it installs

# The GPU builds of Paddle 3.3 by the CUDA they carry. A driver runs every build up to the CUDA version it reports.
CUDA_BUILDS = (((11, 8), "cu118"), ((12, 6), "cu126"), ((12, 9), "cu129"), ((13, 0), "cu130"))
PADDLE_INDEX = "https://www.paddlepaddle.org.cn/packages/stable/{build}/"

# What a waiting user wants to see of pip's talk, and of the kernel builder's ("attention: ready").
PIP_NEWS = r"\s*(Downloading|Installing|Building|Uninstalling) "
BUILD_NEWS = r"[a-z0-9_]+: "

Say = Callable[[str], None]


def say(line: str) -> None:
    """One line of progress, on stderr so that a command's own output stays clean."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Stamp:
    """What `.venv` holds; a start that wants the same has nothing to do."""

    project: str  # pyproject.toml and the Python of the venv
    device: str  # "cpu" or a GPU build such as "cu126"
    extras: tuple[str, ...]
    kernels: str  # the C++ sources and the compiler

    @classmethod
    def read(cls, file: Path) -> "Stamp | None":
        """The stamp in `file`; None when there is none or it is damaged."""
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return cls(found["project"], found["device"], tuple(found["extras"]), found["kernels"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, file: Path) -> None:
        """Replace the stamp in one step."""
        part = file.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        part.replace(file)


@dataclass(frozen=True)
class Venv:
    """The environment beside launch.py."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter, whether or not it exists."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def stamp(self) -> Path:
        """Where its stamp lies."""
        return self.folder / "mixstudio.json"

    def works(self) -> bool:
        """Whether its interpreter starts, is new enough and has pip."""
        probe = "import pip, sys; sys.exit(sys.version_info < (3, 10))"
        try:
            return (
                subprocess.run([str(self.python), "-I", "-c", probe], capture_output=True, timeout=60).returncode == 0
            )
        except (OSError, subprocess.SubprocessError):
            return False

    def is_ours_to_remove(self) -> bool:
        """True for a venv, whole or half made; False for anything else that happens to be called .venv."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return False
        half_made = {"bin", "include", "lib", "lib64", "Scripts", "Include", "Lib", "share"}
        return (self.folder / "pyvenv.cfg").exists() or {p.name for p in self.folder.iterdir()} <= half_made


def project_key(root: Path, venv: Venv) -> str:
    """Changes when pyproject.toml does, the folder is moved, or the Python behind the venv is another one."""
    digest = hashlib.sha256((root / "pyproject.toml").read_bytes())
    try:
        digest.update((venv.folder / "pyvenv.cfg").read_bytes())
    except OSError:
        return "no venv"
    digest.update(f"{root.resolve()}\0{os.path.realpath(venv.python)}".encode())
    return digest.hexdigest()[:16]


def kernels_key(root: Path, compiler: str | None) -> str:
    """Changes when a C++ source does, or when a compiler has come or gone."""
    digest = hashlib.sha256(repr(compiler).encode())
    for file in sorted((root / "kernels" / "csrc").rglob("*")):
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def cuda_version(nvidia_smi: str) -> tuple[int, int] | None:
    """The newest CUDA that the driver runs, read from nvidia-smi's table."""
    found = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", nvidia_smi)
    return (int(found[1]), int(found[2])) if found else None


def gpu_build(cuda: tuple[int, int] | None) -> str:
    """The newest GPU build of Paddle that runs on a driver for `cuda`."""
    if cuda is None:
        raise Trouble(
            "--gpu was asked for, but nvidia-smi finds no NVIDIA driver here. Install NVIDIA's driver and try again, "
            "or start without --gpu: everything runs on the CPU too"
        )
    fitting = [build for needs, build in CUDA_BUILDS if needs <= cuda]
    if not fitting:
        raise Trouble(
            f"the NVIDIA driver here runs CUDA {cuda[0]}.{cuda[1]}, Paddle's GPU builds need {CUDA_BUILDS[0][0][0]}."
            f"{CUDA_BUILDS[0][0][1]} or newer. Update the driver, or start without --gpu"
        )
    return fitting[-1]


def _ask_driver() -> tuple[int, int] | None:
    try:
        return cuda_version(subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=60).stdout)
    except (OSError, subprocess.SubprocessError):
        return None


def requirements(declared: Sequence[str], extras: Sequence[str], gpu: bool) -> list[str]:
    """The packages to ask pip for, out of the metadata lines of our own pyproject.toml.

    `declared` are lines such as 'numpy<3,>=1.26' and 'pytest>=8; extra == "dev"'. With `gpu` the CPU build of Paddle is
    left out: both builds fill the same folder.
    """
    wanted: list[str] = []
    for line in declared:
        package, _, marker = (part.strip() for part in line.partition(";"))
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if extra and extra[1] not in extras:
            continue
        if not (gpu and re.match(r"paddlepaddle\b(?!-)", package)):
            wanted.append(package)
    return wanted


def _stream(command: Sequence[str], tell: Say, shown: str = PIP_NEWS, cwd: Path | None = None) -> tuple[int, str]:
    """Run a command, passing on the lines that match `shown`; the exit code and all it said, errors among it."""
    said: list[str] = []
    pipe, fold = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, stdout=pipe, stderr=fold, text=True, encoding="utf-8", errors="replace", cwd=cwd
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if re.match(shown, line):
                tell(f"      {line.strip()[:160]}")
    return process.returncode, "".join(said)


def _pip(venv: Venv, *arguments: str, tell: Say) -> None:
    command = [str(venv.python), "-m", "pip", *arguments, "--disable-pip-version-check"]
    if arguments[0] == "install":
        command.append("--progress-bar=off")
    code, said = _stream(command, tell)
    if code:
        raise Trouble(explain_pip(said))


def _make(venv: Venv, tell: Say) -> None:
    """A working venv, remade when what is there does not work; nothing is left behind when it fails."""
    if venv.works():
        return
    if venv.folder.exists() or venv.folder.is_symlink():
        if not venv.is_ours_to_remove():
            raise Trouble(f"{venv.folder} exists but is no Python environment; move it away and start again")
        tell(f"      {venv.folder.name} does not work (moved folder or another Python?); making it anew")
        shutil.rmtree(venv.folder)
    base = getattr(sys, "_base_executable", None) or sys.executable
    try:
        venv.folder.mkdir()  # tells a read-only folder apart from all else that can go wrong
    except OSError as why:
        raise Trouble(explain_venv(str(why), venv.folder.parent)) from None
    code, said = _stream([base, "-m", "venv", str(venv.folder)], tell)
    if code or not venv.works():
        shutil.rmtree(venv.folder, ignore_errors=True)
        raise Trouble(explain_venv(said, venv.folder.parent))


def _install(root: Path, venv: Venv, device: str, extras: Sequence[str], tell: Say) -> None:
    gpu = device != "cpu"
    _pip(venv, "install", "--no-deps", "--editable", str(root), tell=tell)
    ask = "import importlib.metadata as m, json; print(json.dumps(m.requires('mixstudio') or []))"
    declared = subprocess.run([str(venv.python), "-I", "-c", ask], capture_output=True, text=True, check=True).stdout
    _pip(venv, "uninstall", "--yes", "paddlepaddle" if gpu else "paddlepaddle-gpu", tell=lambda _: None)
    _pip(venv, "install", *requirements(json.loads(declared), extras, gpu), tell=tell)
    if gpu:
        paddle = next(r for r in requirements(json.loads(declared), ["gpu"], True) if r.startswith("paddlepaddle-gpu"))
        _pip(venv, "install", paddle, "--index-url", PADDLE_INDEX.format(build=device), tell=tell)


def _build_kernels(root: Path, venv: Venv, tell: Say) -> None:
    """Compile the kernels where that is possible; where not, say so and go on."""
    code, said = _stream([str(venv.python), "-m", "kernels.build"], tell, BUILD_NEWS, cwd=root)
    if code:
        if not re.search(f"^{BUILD_NEWS}", said, re.M):  # it did not even start
            tell(f"      {' / '.join(said.strip().splitlines()[-1:])[:300]}")
        tell(
            "      Without these kernels everything works, in plain Paddle; on a CPU, attention, convolutions and\n"
            "      large matrix products take 2 to 10 times as long. `python launch.py doctor` says what is missing."
        )


def ensure(root: Path, *, wish: str | None = None, extras: frozenset[str] = frozenset(), tell: Say = say) -> Path:
    """The interpreter of a `.venv` that holds all that is asked for. `wish` is "gpu", "cpu" or None (as it was)."""
    venv = Venv(root / ".venv")
    old = Stamp.read(venv.stamp) or Stamp("", "cpu", (), "")
    device = old.device
    if wish == "cpu":
        device = "cpu"
    elif wish == "gpu" and old.device == "cpu":
        device = gpu_build(_ask_driver())
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    new = Stamp(project_key(root, venv), device, tuple(sorted({*old.extras, *extras})), kernels_key(root, compiler))
    if new == old and venv.python.exists():
        return venv.python
    if (new.project, new.device, new.extras) != (old.project, old.device, old.extras) or not venv.python.exists():
        _check_space(root, device)
        tell(f"MixStudio: setting up {venv.folder} (once; some minutes and about {NEEDED_GB[_kind(device)]} GB)")
        tell("[1/3] Python environment")
        venv.stamp.unlink(missing_ok=True)
        _make(venv, tell)
        new = replace(new, project=project_key(root, venv))
        tell(f"[2/3] Packages ({'CPU' if device == 'cpu' else device} build of Paddle)")
        _install(root, venv, device, new.extras, tell)
    tell("[3/3] Kernels")
    _build_kernels(root, venv, tell)
    new.write(venv.stamp)
    return venv.python


def _kind(device: str) -> str:
    return "cpu" if device == "cpu" else "gpu"


def _check_space(root: Path, device: str) -> None:
    free, needed = shutil.disk_usage(root).free / 2**30, NEEDED_GB[_kind(device)]
    if free < needed:
        raise Trouble(
            f"{root} has {free:.1f} GB free, the installation needs about {needed} GB; free some and start again"
        )


def split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """launch.py's own options, which come before the command, and the rest."""
    wish, rest = None, list(arguments)
    while rest and rest[0] in ("--gpu", "--cpu"):
        wish = rest.pop(0).removeprefix("--")
    return wish, rest


def launch(arguments: Sequence[str]) -> int:
    """launch.py: help at once, anything else in a complete environment."""
    wish, rest = split(arguments)
    quick = rest[:1] in (["-h"], ["--help"], ["--version"])
    if not wish and rest and (quick or not (rest[0] in COMMANDS or rest[0].startswith("-"))):
        return main(rest, prog="python launch.py")  # help, version or an unknown command: nothing to install
    try:
        python = ensure(ROOT, wish=wish, extras=frozenset({"dev"} if rest[:1] == ["test"] else ()))
    except Trouble as why:
        say(f"launch.py: {why}")
        return 1
    except OSError as why:
        say(f"launch.py: {explain_venv(str(why), ROOT)}")
        return 1
    except KeyboardInterrupt:
        say("launch.py: interrupted; the next start goes on from here")
        return 130
    return _hand_over(python, rest)


def _hand_over(python: Path, words: Sequence[str]) -> int:
    """Become the command line; an editable install has the checkout on the path, wherever the user stands."""
    command = [str(python), "-m", "app.cli", *words]
    if os.name == "posix":
        sys.stdout.flush()
        os.execve(python, command, dict(os.environ))
    return subprocess.call(command)
