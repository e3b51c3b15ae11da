"""Compile the C++ kernels once into a cache and load them; `python -m kernels.build` builds and says what came of it.

Each extension is one shared library: a registration file (csrc/ops_<name>.cc, which sees Paddle's headers) and kernels (csrc/cpu/*.cc,
which do not, and are compiled once per instruction set). The cache key is a hash of sources, flags and Paddle's version, so an
extension is found again without asking the compiler. Importing never compiles; what is missing is told by `why_not`.
"""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "csrc"
ONEDNN_HEADERS = "onednn-devel==2025.0.1"  # oneDNN 3.6.1; Paddle's wheel carries the library (3.6.2) but only forwarding headers
ISA_FLAGS = {
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma", "-mf16c", "-mprefer-vector-width=512"),
    "avx512bf16": (
        "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mavx512bf16", "-mfma", "-mf16c", "-mprefer-vector-width=512"
    ),
}  # fmt: skip
COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fvisibility=hidden")


@dataclass(frozen=True)
class Extension:
    """One shared library of ops."""

    name: str
    kernels: tuple[str, ...] = ()  # files in csrc/cpu compiled per instruction set
    onednn: bool = False

    @property
    def registration(self) -> Path:
        return SOURCES / f"ops_{self.name}.cc"


EXTENSIONS: dict[str, Extension] = {}


def cache_folder() -> Path:
    """Where built libraries and headers are kept; MIXSTUDIO_CACHE moves it."""
    if own := os.environ.get("MIXSTUDIO_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mixstudio"


def _paddle_folder() -> Path:
    import paddle

    return Path(paddle.__file__).parent


def _paddle_version() -> str:
    import paddle

    return f"{paddle.__version__}-{paddle.version.commit}"


@functools.cache
def _key(extension: Extension) -> str:
    digest = hashlib.sha256()
    files = [extension.registration, *(SOURCES / "cpu" / k for k in extension.kernels)]
    for file in sorted({*files, *SOURCES.glob("*.h"), *SOURCES.glob("cpu/*.h")}):
        digest.update(file.name.encode() + file.read_bytes())
    parts = (_paddle_version(), COMMON_FLAGS, ISA_FLAGS, sys.version_info[:2], ONEDNN_HEADERS if extension.onednn else "")
    digest.update(repr(parts).encode())
    return digest.hexdigest()[:16]


def library(extension: Extension) -> Path:
    """The path of the built library, whether or not it exists yet."""
    return cache_folder() / "kernels" / f"{extension.name}-{_key(extension)}.so"


def unsupported() -> str | None:
    """Why this machine can't have the C++ kernels at all, or None."""
    if os.environ.get("MIXSTUDIO_KERNELS", "").lower() in ("off", "0", "reference"):
        return "switched off by MIXSTUDIO_KERNELS"
    if sys.platform != "linux":
        return f"the C++ kernels are built on Linux only, this is {sys.platform}"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"the C++ kernels need an x86-64 CPU, this is {platform.machine()}"
    flags = _cpu_flags()
    missing = {"avx2", "fma", "f16c"} - flags
    return f"the CPU lacks {', '.join(sorted(missing))}" if flags and missing else None


@functools.cache
def _cpu_flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        return frozenset()
    return frozenset()


def compiler() -> str | None:
    """The C++ compiler that would be used: $CXX, else g++."""
    return shutil.which(os.environ.get("CXX", "g++"))


_loaded: dict[str, str | None] = {}


def load(name: str) -> bool:
    """Load extension `name` if it has been built; False when it is absent (see `why_not`)."""
    if name not in _loaded:
        _loaded[name] = _try_load(EXTENSIONS[name])
    return _loaded[name] is None


def why_not(name: str) -> str | None:
    """Why extension `name` is absent, or None when it is loaded."""
    load(name)
    return _loaded[name]


def _try_load(extension: Extension) -> str | None:
    if (why := unsupported()) is not None:
        return why
    path = library(extension)
    if not path.exists():
        return "not built; `python -m kernels.build` builds it (needs g++)"
    from paddle.base import core

    try:
        core.load_op_meta_info_and_register_op(str(path))
    except (RuntimeError, OSError) as error:
        return f"{path.name} does not load: {error}"
    return None


def run(op: str, *arguments: Any) -> Any:
    """Call a loaded custom op with its inputs then its attributes; one result or a list of them."""
    import paddle

    out = paddle._C_ops._run_custom_op(op, *arguments)
    return out[0] if len(out) == 1 else out


def onednn_include() -> Path:
    """The folder of oneDNN's headers, fetched from PyPI once into the cache (only headers are used)."""
    folder = cache_folder() / ONEDNN_HEADERS.replace("==", "-")
    include = folder / "include"
    if (include / "dnnl.hpp").exists():
        return include
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", scratch, ONEDNN_HEADERS]
        done = subprocess.run(command, capture_output=True, text=True)
        found = next(Path(scratch).rglob("dnnl.hpp"), None)
        if found is None:
            raise RuntimeError(f"oneDNN's headers ({ONEDNN_HEADERS}) can't be fetched from PyPI: {done.stderr.strip()[-300:]}")
        folder.mkdir(exist_ok=True)
        shutil.copytree(found.parent, folder / "partial", dirs_exist_ok=True)
        (folder / "partial").rename(include)
    return include


def _includes(extension: Extension) -> list[str]:
    paddle = _paddle_folder()
    roots = [SOURCES, paddle / "include", paddle / "include" / "third_party", Path(sysconfig.get_path("include"))]
    if extension.onednn:
        roots.insert(0, onednn_include())
    return [f"-I{root}" for root in roots]


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-6000:]}")


def build(extension: Extension) -> Path:
    """Compile and link one extension; returns the library. Raises RuntimeError with the compiler's words."""
    target, cxx, paddle = library(extension), compiler(), _paddle_folder()
    if target.exists():
        return target
    if cxx is None:
        raise RuntimeError("no C++ compiler found; install g++ (Debian: apt-get install g++) or set CXX")
    target.parent.mkdir(parents=True, exist_ok=True)
    includes = _includes(extension)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        jobs = [[cxx, *COMMON_FLAGS, "-w", *includes, "-c", str(extension.registration), "-o", f"{scratch}/ops.o"]]
        for kernel in extension.kernels:
            for isa, flags in ISA_FLAGS.items():
                source, out = str(SOURCES / "cpu" / kernel), f"{scratch}/{Path(kernel).stem}.{isa}.o"
                jobs.append([cxx, *COMMON_FLAGS, *flags, f"-DISA={isa}", f"-I{SOURCES}", "-Wall", "-c", source, "-o", out])
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(_compile, jobs))
        # One OpenMP runtime in the process: Paddle's libiomp5, which also speaks GCC's interface.
        libs = [f"-L{paddle}/libs", f"-L{paddle}/base", "-l:libpaddle.so", "-l:libphi.so", "-l:libphi_core.so", "-l:libcommon.so", "-l:libiomp5.so"]
        libs += ["-l:libdnnl.so.3"] if extension.onednn else []
        rpath = [f"-Wl,-rpath,{paddle}/libs", f"-Wl,-rpath,{paddle}/base"]
        objects = [job[-1] for job in jobs]
        _compile([cxx, "-shared", "-o", f"{scratch}/out.so", *objects, *libs, *rpath])
        os.replace(f"{scratch}/out.so", target)
    for old in target.parent.glob(f"{extension.name}-*.so"):
        if old != target:
            old.unlink(missing_ok=True)
    return target


def build_all() -> Iterator[tuple[str, str | None]]:
    """Build every extension, yielding (name, None) or (name, why it failed) as each is done."""
    for name, extension in EXTENSIONS.items():
        why = unsupported()
        if why is None:
            try:
                build(extension)
            except (RuntimeError, OSError) as error:
                why = str(error)
        yield name, why


def register(extension: Extension) -> None:
    """Declare an extension; its op module calls this at import."""
    EXTENSIONS[extension.name] = extension


def main() -> int:
    """Build everything, one line an extension; exit code 1 when one failed."""
    import kernels  # noqa: F401  (declares the extensions)

    failed = 0
    for name, why in build_all():
        failed += why is not None
        sys.stdout.write(f"{name}: {'ready' if why is None else why}\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    from kernels import build as this  # the module that op modules registered with, not this __main__ copy

    sys.exit(this.main())
