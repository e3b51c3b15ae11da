"""Find, load and build the C++ kernels; `python -m kernels.build` builds them all and says what came of it.

Each extension is one shared library: a registration file (csrc/ops_<name>.cc, which sees Paddle's headers) and
kernels (csrc/cpu/*.cc, which do not, and are compiled once per instruction set). Libraries lie in a cache under a
hash of their sources, the flags and Paddle's version, so importing never compiles and never fails: what is absent is
told by `why_not`, and the op's plain kernels serve meanwhile.

Environment: MIXSTUDIO_KERNELS=off does without them, MIXSTUDIO_CACHE moves the cache, CXX names the compiler (else
g++).
"""

import functools
import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.build import compile as making
from kernels.build.compile import BuildError

__all__ = [
    "EXTENSIONS",
    "BuildError",
    "Extension",
    "build",
    "build_all",
    "library",
    "load",
    "register",
    "run",
    "unsupported",
    "why_not",
]

COMMAND = "python -m kernels.build"
OFF = ("off", "0", "reference")


@dataclass(frozen=True)
class Extension:
    """One shared library of ops."""

    name: str
    kernels: tuple[str, ...] = ()  # files in csrc/cpu compiled per instruction set
    onednn: bool = False

    @property
    def registration(self) -> Path:
        """The file that tells Paddle about the ops."""
        return making.SOURCES / f"ops_{self.name}.cc"

    @property
    def sources(self) -> list[Path]:
        """Every file that is handed to the compiler."""
        return [self.registration, *(making.SOURCES / "cpu" / kernel for kernel in self.kernels)]


EXTENSIONS: dict[str, Extension] = {}
_loaded: dict[str, str | None] = {}  # name -> why it is absent
_listeners: list[Callable[[], None]] = []


def register(extension: Extension) -> None:
    """Declare an extension; its op module calls this at import."""
    EXTENSIONS[extension.name] = extension


def on_change(listener: Callable[[], None]) -> None:
    """Call `listener` when extensions may have become available after a build in this process."""
    _listeners.append(listener)


@functools.cache
def switched_off() -> bool:
    """Whether the user wants plain Paddle everywhere (MIXSTUDIO_KERNELS=off): read once, as every op asks."""
    return os.environ.get("MIXSTUDIO_KERNELS", "").lower() in OFF


def cache_folder() -> Path:
    """Where built libraries and headers are kept; MIXSTUDIO_CACHE moves it."""
    if own := os.environ.get("MIXSTUDIO_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mixstudio"


def _paddle() -> tuple[Path, str]:
    import paddle
    from paddle import version  # pyright: ignore[reportAttributeAccessIssue]

    return Path(paddle.__file__).parent, f"{paddle.__version__}-{version.commit}"


def _with_headers(sources: list[Path]) -> list[Path]:
    """The sources and every header of ours that they include, directly or not."""
    found, waiting = set(), list(sources)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for name in re.findall(r'^#include "([^"]+)"', file.read_text(encoding="utf-8"), re.M):
            beside = [(file.parent / name).resolve(), (making.SOURCES / name).resolve()]
            waiting += [path for path in beside if path.exists()][:1]
    return sorted(found)


@functools.cache
def _key(extension: Extension) -> str:
    digest = hashlib.sha256()
    for file in _with_headers(extension.sources):
        digest.update(file.name.encode() + file.read_bytes())
    headers = making.ONEDNN_HEADERS if extension.onednn else ""
    digest.update(repr((*map(str, _paddle()), making.FLAGS, making.ISA_FLAGS, headers)).encode())
    return digest.hexdigest()[:16]


def library(extension: Extension) -> Path:
    """The path of the built library, whether or not it exists yet."""
    return cache_folder() / "kernels" / f"{extension.name}-{_key(extension)}.so"


def unsupported() -> str | None:
    """Why this machine can't have the C++ kernels at all, or None."""
    if switched_off():
        return "switched off by MIXSTUDIO_KERNELS"
    if sys.platform != "linux":
        return f"the C++ kernels are built on Linux only, this is {sys.platform}"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"the C++ kernels need an x86-64 CPU, this is {platform.machine()}"
    flags = cpu_flags()
    missing = {"avx2", "fma", "f16c"} - flags
    return f"the CPU lacks {', '.join(sorted(missing))}" if flags and missing else None


@functools.cache
def cpu_flags() -> frozenset[str]:
    """What the CPU can do, in Linux' words (avx2, avx512f ...); empty where that is unknown."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def load(name: str) -> bool:
    """Load extension `name` if it has been built; False when it is absent (see `why_not`)."""
    return why_not(name) is None


def why_not(name: str) -> str | None:
    """Why extension `name` is absent, or None when it is loaded. Looked up once, and again after a build."""
    if name not in _loaded:
        _loaded[name] = _try_load(EXTENSIONS[name])
    return _loaded[name]


def _try_load(extension: Extension) -> str | None:
    if (why := unsupported()) is not None:
        return why
    try:
        path = library(extension)
        if not path.exists():
            return f"not built; `{COMMAND}` builds it (needs g++)"
        from paddle.base import core

        core.load_op_meta_info_and_register_op(str(path))
    except (RuntimeError, OSError) as error:
        return f"{extension.name} does not load: {error}"
    with suppress(OSError):  # what is in use is not old: see compile.prune
        os.utime(path)
    return None


def run(op: str, *arguments: Any) -> Any:
    """Call a loaded custom op with its inputs then its attributes; one result or a list of them."""
    from paddle import _C_ops

    out = _C_ops._run_custom_op(op, *arguments)  # pyright: ignore[reportAttributeAccessIssue]
    return out[0] if len(out) == 1 else out


def build(extension: Extension) -> Path:
    """Compile and link one extension unless that has been done; returns the library. BuildError says why it can't."""
    target = library(extension)
    making.make(target, making.Recipe(extension.name, extension.registration, extension.kernels, extension.onednn))
    if _loaded.get(extension.name) is not None:
        del _loaded[extension.name]
    return target


def _attempt(extension: Extension) -> str | None:
    try:
        build(extension)
    except (BuildError, OSError) as error:
        return str(error)
    return None


def build_all() -> Iterator[tuple[str, str | None]]:
    """Build every extension, yielding (name, None) or (name, why it failed) as each is done."""
    if (why := unsupported()) is not None:
        yield from ((name, why) for name in EXTENSIONS)
        return
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        jobs = {pool.submit(_attempt, extension): name for name, extension in EXTENSIONS.items()}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    for listener in _listeners:
        listener()
