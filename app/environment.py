"""What must stand in the environment before Paddle is imported; standard library only, so that a launcher can use it.

Measured on a Zen 4 core pair: MKL takes its slow path on AMD unless told otherwise (a 2048^3 matmul 234 -> 101 ms), and
Paddle sets OMP_NUM_THREADS to 1 when nobody has set it.
"""

import contextlib
import io
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Processor:
    """The CPU as the kernels care about it; `cores` are physical ones that this process may use."""

    vendor: str
    model: str
    flags: frozenset[str]
    cores: int


def parse_cpuinfo(text: str, allowed: set[int]) -> Processor:
    """Read /proc/cpuinfo; `allowed` are the logical CPUs of this process (two of them may be one physical core)."""
    blocks = [dict(re.findall(r"^([^:\n]+?)[ \t]*:[ \t]*(.*)$", block, re.M)) for block in text.strip().split("\n\n")]
    blocks = [b for b in blocks if b.get("processor", "").isdigit()]
    mine = [b for b in blocks if int(b["processor"]) in allowed] or blocks
    # Some virtual machines and all ARM kernels give no core ids: then each logical CPU counts.
    cores = {(b.get("physical id", "0"), b.get("core id", f"cpu{b['processor']}")) for b in mine}
    first = blocks[0] if blocks else {}
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    model = first.get("model name") or platform.machine()
    return Processor(first.get("vendor_id", "unknown"), model, flags, max(1, len(cores)))


def _quota() -> float | None:
    """CPUs that a container may use (cgroup v2, then v1), or None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    with contextlib.suppress(OSError, ValueError):
        v1 = Path("/sys/fs/cgroup/cpu")
        limit = int((v1 / "cpu.cfs_quota_us").read_text())
        return None if limit < 0 else limit / int((v1 / "cpu.cfs_period_us").read_text())
    return None


def _sysctl(name: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5).stdout.strip()
    return ""


def processor() -> Processor:
    """The CPU of this machine, limited to what this process may use."""
    logical = os.cpu_count() or 1
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _processor_elsewhere(logical)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(logical))
    cpu, quota = parse_cpuinfo(text, set(allowed)), _quota()
    cores = cpu.cores if quota is None else max(1, min(cpu.cores, round(quota)))
    return Processor(cpu.vendor, cpu.model, cpu.flags, cores)


def _processor_elsewhere(logical: int) -> Processor:
    """macOS and Windows, where there is no /proc."""
    if sys.platform == "darwin":
        cores = _sysctl("hw.physicalcpu")
        words = f"{_sysctl('machdep.cpu.features')} {_sysctl('machdep.cpu.leaf7_features')}".lower().split()
        model = _sysctl("machdep.cpu.brand_string") or platform.machine()
        vendor = _sysctl("machdep.cpu.vendor") or "Apple"
        return Processor(vendor, model, frozenset(words), int(cores) if cores.isdigit() else logical)
    name = os.environ.get("PROCESSOR_IDENTIFIER", platform.processor())
    vendor = next((v for v in ("AuthenticAMD", "GenuineIntel") if v in name), "unknown")
    return Processor(vendor, name or platform.machine(), frozenset(), max(1, logical // 2))


def _threads(given: Mapping[str, str], cores: int) -> int:
    for name in ("MIXSTUDIO_THREADS", "OMP_NUM_THREADS"):
        if value := given.get(name, "").split(",")[0].strip():
            if not value.isdigit() or int(value) < 1:
                raise ValueError(f"{name} is {given[name]!r}; set it to a whole number from 1 up, or leave it unset")
            return int(value)
    return cores


def settings(cpu: Processor, given: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to `given`: what the user has set stays, but MIXSTUDIO_THREADS wins over OMP_NUM_THREADS."""
    threads = str(_threads(given, cpu.cores))
    wanted = {"OMP_NUM_THREADS": threads, "FLAGS_paddle_num_threads": threads}
    if cpu.vendor == "AuthenticAMD" and ("avx2" in cpu.flags or not cpu.flags):
        wanted["MKL_DEBUG_CPU_TYPE"] = "5"  # MKL's AVX2 code, which it otherwise keeps for Intel
    ours = {"OMP_NUM_THREADS", "FLAGS_paddle_num_threads"} if given.get("MIXSTUDIO_THREADS") else set()
    return {name: value for name, value in wanted.items() if name in ours or not given.get(name)}


def prepare() -> dict[str, str]:
    """Put the settings into this process' environment and say which were added. Call it before Paddle is imported."""
    added = settings(processor(), os.environ)
    os.environ.update(added)
    return added


def import_paddle() -> ModuleType:
    """Paddle, without the warnings it prints at every import about threads (we set them on purpose) and ccache."""
    prepare()
    said = io.StringIO()
    with contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No ccache found")
        import paddle
    known = ("OMP_NUM_THREADS", "ccache", "warnings.warn(")
    for line in said.getvalue().splitlines():
        if line.strip() and not any(word in line for word in known):
            sys.stderr.write(line + "\n")
    return paddle
