"""Turn one extension's sources into a shared library: compiler, flags, oneDNN's headers, a lock, room in the cache."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "csrc"
ONEDNN_HEADERS = (
    "onednn-devel==2025.0.1"  # oneDNN 3.6.1; Paddle's wheel carries the library (3.6.2) but only forwarding headers
)
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mprefer-vector-width=512")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
ISA_FLAGS = {"avx2": _AVX2, "avx512": (*_AVX2, *_AVX512), "avx512bf16": (*_AVX2, *_AVX512, "-mavx512bf16")}
# -Wno-...uninitialized: GCC 12 says so of its own AVX-512 intrinsics
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
)
# Paddle's headers: without its Python bindings (no Python.h needed, half the time), with its warnings off
PADDLE_FLAGS = ("-DPADDLE_NO_PYTHON", "-w")
KEPT = 4  # libraries of one extension in the cache: other checkouts and branches may be using them


class BuildError(RuntimeError):
    """An extension can't be built; says why and what to do."""


def compiler() -> str | None:
    """The C++ compiler that would be used: $CXX, else g++."""
    return shutil.which(os.environ.get("CXX") or "g++")


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Wait until no other process builds the same extension."""
    import fcntl  # not on Windows, where nothing is built

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Recipe:
    """What one library is made of: a registration file and kernels in csrc/cpu."""

    name: str
    registration: Path
    kernels: tuple[str, ...]
    onednn: bool


def paddle_folder() -> Path:
    """Where Paddle's headers and libraries are."""
    import paddle

    return Path(paddle.__file__).parent


def make(target: Path, recipe: Recipe) -> None:
    """Build `target` unless it is there. Two processes may ask at once: one builds, the other waits and finds it."""
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_one(target.parent / f"{recipe.name}.lock"):
            if not target.exists():
                _make(target, recipe)
    except OSError as error:
        raise BuildError(
            f"the cache {target.parent} can't be written ({error.strerror}); set MIXSTUDIO_CACHE to a folder that can"
        ) from error


def _make(target: Path, recipe: Recipe) -> None:
    cxx = compiler()
    if cxx is None:
        wanted = os.environ.get("CXX") or "g++"
        raise BuildError(
            f"no C++ compiler {wanted!r} was found; install g++ 10 or newer (Debian: apt-get install g++) or set CXX"
        )
    log = target.parent / f"{recipe.name}.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        objects: list[str] = []
        for command in _compilations(cxx, recipe, target.parent.parent, scratch):
            _run(command, log)
            objects.append(command[-1])
        _run([cxx, "-shared", "-o", f"{scratch}/out.so", *objects, *_libraries(recipe.onednn)], log)
        os.replace(f"{scratch}/out.so", target)
    prune(target, recipe.name)


def _compilations(cxx: str, recipe: Recipe, cache: Path, scratch: str) -> Iterator[list[str]]:
    """Commands that end with the object they make.

    Objects for the smallest instruction set go first: of an inline function that several of them hold, the linker keeps
    the first, which must run on every CPU.
    """
    includes = [f"-I{SOURCES}", *(f"-I{paddle_folder()}/{folder}" for folder in ("include", "include/third_party"))]
    if recipe.onednn:
        includes.insert(0, f"-I{onednn_include(cache)}")
    yield [cxx, *FLAGS, *PADDLE_FLAGS, *includes, "-c", str(recipe.registration), "-o", f"{scratch}/ops.o"]
    for isa, flags in ISA_FLAGS.items():
        for kernel in recipe.kernels:
            source, made = f"{SOURCES}/cpu/{kernel}", f"{scratch}/{Path(kernel).stem}.{isa}.o"
            yield [cxx, *FLAGS, *flags, f"-DISA={isa}", f"-I{SOURCES}", "-c", source, "-o", made]


def _libraries(onednn: bool) -> list[str]:
    # One OpenMP runtime in the process: Paddle's libiomp5, which also speaks GCC's interface.
    names = [
        "libpaddle.so",
        "libphi.so",
        "libphi_core.so",
        "libcommon.so",
        "libiomp5.so",
        *(["libdnnl.so.3"] if onednn else []),
    ]
    paddle = paddle_folder()
    folders = [paddle / "libs", paddle / "base"]
    return [*(f"-L{f}" for f in folders), *(f"-l:{n}" for n in names), *(f"-Wl,-rpath,{f}" for f in folders)]


def _run(command: list[str], log: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if not done.returncode:
        return
    log.write_text(f"{' '.join(command)}\n\n{done.stdout}{done.stderr}", encoding="utf-8")
    lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
    said = lines[0][:300] if lines else "it says nothing"
    raise BuildError(
        f"{Path(command[0]).name} failed with code {done.returncode}: {said}; everything it said is in {log}"
    )


def prune(target: Path, name: str) -> None:
    """Keep the newest libraries of an extension; newest by use, since loading touches them."""
    found: list[tuple[float, Path]] = []
    for path in target.parent.glob(f"{name}-*.so"):
        with contextlib.suppress(OSError):  # another process may be pruning too
            found.append((path.stat().st_mtime, path))
    for _, old in sorted(found, reverse=True)[KEPT:]:
        if old != target:
            old.unlink(missing_ok=True)


def onednn_include(cache: Path) -> Path:
    """The folder of oneDNN's headers, fetched from PyPI once into the cache (only headers are used)."""
    folder = cache / ONEDNN_HEADERS.replace("==", "-")
    include = folder / "include"
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder / "lock"), tempfile.TemporaryDirectory(dir=folder) as scratch:
        if (include / "dnnl.hpp").exists():
            return include
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", scratch, ONEDNN_HEADERS]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        found = next((p for p in Path(scratch).rglob("dnnl.hpp") if (p.parent / "oneapi").is_dir()), None)
        if found is None:
            said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise BuildError(f"oneDNN's headers ({ONEDNN_HEADERS}) can't be fetched from PyPI: {said[:300]}")
        os.replace(found.parent, include)
    return include
