"""What this machine offers and what MixStudio makes of it: facts, kernels with reasons, problems with what to do."""

import contextlib
import ctypes
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from app import __version__, environment
from app.probes import Choice, choices

PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "numpy", "pillow", "opencv-python", "safetensors", "tokenizers")
FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd")
LOW_MEMORY_GB = 4.0  # SD 1.5 in bf16 with room for a 512 x 512 picture


@dataclass(frozen=True)
class Problem:
    """Something that keeps MixStudio from working, or from working fast."""

    what: str
    do: str
    fatal: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `doctor` prints; `dataclasses.asdict` makes it JSON."""

    mixstudio: str
    python: str
    executable: str
    system: str
    packages: dict[str, str]
    cpu: dict[str, Any]
    memory_gb: dict[str, float]
    devices: list[str]
    environment: dict[str, str]
    extensions: dict[str, str]  # name -> "ready" or why not
    kernels: list[Choice]
    problems: list[Problem]

    @property
    def usable(self) -> bool:
        """Whether anything can be generated at all."""
        return not any(problem.fatal for problem in self.problems)


def memory() -> dict[str, float]:
    """Total and available memory in GB; empty where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kib = {row[0].rstrip(":"): int(row[1]) for row in rows}
        return {"total": round(kib["MemTotal"] / 2**20, 1), "available": round(kib["MemAvailable"] / 2**20, 1)}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return {"total": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)}
    if sys.platform == "win32":
        kib = ctypes.c_ulonglong()
        if ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kib)):
            return {"total": round(kib.value / 2**20, 1)}
    return {}


def packages() -> dict[str, str]:
    """Versions of the packages that matter here, of those that are installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _devices(paddle: Any) -> list[str]:
    if not paddle.is_compiled_with_cuda():
        return []
    found: list[str] = []
    for i in range(paddle.device.cuda.device_count()):
        card = paddle.device.cuda.get_device_properties(i)
        found.append(f"gpu:{i} {card.name}, {card.total_memory / 2**30:.1f} GB, compute {card.major}.{card.minor}")
    return found


def _extensions() -> dict[str, str]:
    from kernels import build

    return {name: build.why_not(name) or "ready" for name in build.EXTENSIONS}


def _environment_problems(cpu: environment.Processor) -> list[Problem]:
    found: list[Problem] = []
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if threads.isdigit() and int(threads) < cpu.cores:
        found.append(
            Problem(f"{threads} of {cpu.cores} cores are used", "unset OMP_NUM_THREADS, or set MIXSTUDIO_THREADS")
        )
    if cpu.vendor == "AuthenticAMD" and "avx2" in cpu.flags and os.environ.get("MKL_DEBUG_CPU_TYPE") != "5":
        found.append(Problem("MKL takes its slow path on this AMD CPU", "unset MKL_DEBUG_CPU_TYPE, or set it to 5"))
    if os.environ.get("LD_PRELOAD"):
        found.append(Problem("LD_PRELOAD puts a library before Paddle's own", "unset it if Paddle fails to start"))
    for name in ("kernels", "ppdiffusers"):
        if _installed(name):
            found.append(
                Problem(f"the PyPI package {name!r} has the name of one of our folders", f"pip uninstall {name}")
            )
    if _installed("paddlepaddle") and _installed("paddlepaddle-gpu"):
        found.append(Problem("both builds of Paddle are installed over each other", "delete .venv and start again"))
    return found


def _memory_problems(found: dict[str, float]) -> list[Problem]:
    free = found.get("available", LOW_MEMORY_GB)
    if free >= LOW_MEMORY_GB:
        return []
    return [
        Problem(f"{free} GB of memory are free", f"close other programs: SD 1.5 wants about {LOW_MEMORY_GB:.0f} GB")
    ]


def _kernel_problems(extensions: dict[str, str]) -> list[Problem]:
    return [
        Problem(f"the C++ kernels {name!r} are absent: {why}", "CPU work is slower until that is put right")
        for name, why in extensions.items()
        if why != "ready"
    ]


def _cpu_facts(cpu: environment.Processor) -> dict[str, Any]:
    features = [feature for feature in FEATURES if feature in cpu.flags]
    return {"model": cpu.model, "vendor": cpu.vendor, "cores": cpu.cores, "features": features}


def _settings() -> dict[str, str]:
    ours = ("OMP_", "MKL_", "KMP_", "FLAGS_", "MIXSTUDIO_")
    return {name: os.environ[name] for name in sorted(os.environ) if name.startswith(ours)}


def _try_paddle() -> tuple[list[str], dict[str, str], list[Choice], list[Problem]]:
    """Devices, C++ extensions and chosen kernels; "usable" is tried here, not inferred: every op computes something."""
    devices: list[str] = []
    extensions: dict[str, str] = {}
    problems: list[Problem] = []
    kernels: list[Choice] = []
    try:
        paddle = environment.import_paddle()
        devices, extensions = _devices(paddle), _extensions()
        kernels = choices(paddle)
    except Exception as why:  # whatever is broken, the rest of the diagnosis is still wanted
        problems.append(Problem(f"{type(why).__name__}: {why}", "delete .venv and start launch.py again", fatal=True))
    if not devices and shutil.which("nvidia-smi"):
        problems.append(Problem("an NVIDIA driver is here but the CPU is used", "python launch.py --gpu doctor"))
    return devices, extensions, kernels, problems + _kernel_problems(extensions)


def examine() -> Diagnosis:
    """Look at everything. A Paddle that does not import or compute is a fatal problem, not an exception."""
    cpu, ram = environment.processor(), memory()
    devices, extensions, kernels, problems = _try_paddle()
    return Diagnosis(
        mixstudio=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        system=platform.platform(),
        packages=packages(),
        cpu=_cpu_facts(cpu),
        memory_gb=ram,
        devices=devices,
        environment=_settings(),
        extensions=extensions,
        kernels=kernels,
        problems=[*problems, *_environment_problems(cpu), *_memory_problems(ram)],
    )
