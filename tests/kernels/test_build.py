"""The build: what it says when it can't, that it never gets in the way, and that two at once are no trouble."""

import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels import build
from kernels.build import compile as making
from kernels.build.compile import BuildError, Recipe, make, prune

ROOT = Path(__file__).parents[2]
CXX = making.compiler()
needs_compiler = pytest.mark.skipif(CXX is None or sys.platform != "linux", reason="needs a C++ compiler on Linux")

SMALL = """
import json, paddle, kernels
x = paddle.linspace(-3, 3, 32).reshape([2, 4, 4])
w = paddle.ones([4])
x.stop_gradient = False
out = kernels.group_norm(kernels.silu(x), w, w, groups=2, act="silu")
kernels.attention(*[out.reshape([2, 4, 1, 4])] * 3).sum().backward()
y = kernels.linear(x, kernels.pack_linear(paddle.ones([4, 4])), w, act="gelu").astype("bfloat16")
kernels.concat_channels(y, kernels.rms_norm(y, w)).sum()
kernels.adamw_step([w], [w], [w * 0], [w * 0], step=1, lr=0.1)
says = [line for line in kernels.explain("silu", x).splitlines() if line.endswith("chosen")]
why = {extension.name: extension.why_not for extension in kernels.status().extensions}
print(json.dumps({"grad": x.grad.numpy().tolist(), "says": says, "why": why}))
"""


def small(**environment: str) -> dict:
    """A few ops in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_all_works_without_kernels(tmp_path):
    """Switched off, or with an empty cache and no compiler: the same numbers from plain Paddle, and a reason."""
    usual = small()
    off = small(MIXSTUDIO_KERNELS="off")
    bare = small(MIXSTUDIO_CACHE=str(tmp_path / "empty"), CXX="/nonexistent")
    for found, why in (
        (off, "switched off by MIXSTUDIO_KERNELS"),
        (bare, "not built; `python -m kernels.build` builds"),
    ):
        assert found["says"] == ["reference    chosen"]
        assert all(reason.startswith(why) for reason in found["why"].values())
        flat = [
            [v for m in found["grad"] for row in m for v in row],
            [v for m in usual["grad"] for row in m for v in row],
        ]
        assert flat[0] == pytest.approx(flat[1], abs=1e-5)
    assert not (tmp_path / "empty").exists()  # importing and asking write nothing


def test_the_command_says_what_is_missing(tmp_path):
    environment = {**os.environ, "MIXSTUDIO_CACHE": str(tmp_path), "CXX": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", "kernels.build"],
        cwd=ROOT, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split(":")[0] for line in lines} == set(build.EXTENSIONS)
    assert all("no C++ compiler '/nonexistent' was found; install g++" in line for line in lines)
    assert "RuntimeWarning" not in done.stderr


def fake_compiler(folder: Path, body: str) -> Path:
    path = folder / "fake-g++"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


RECIPE = Recipe("toy", making.SOURCES / "ops_toy.cc", ("toy.cc",), False)
MAKES = """
echo run >> "$(dirname "$0")/runs"
sleep 0.05
for last; do
    case "$before" in -o) echo lib > "$last";; esac
    before="$last"
done
"""


@needs_compiler
def test_a_compiler_error_is_a_sentence_with_a_log(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, "echo 'toy.cc:3: error: no such thing' >&2; exit 4")))
    with pytest.raises(BuildError, match=r"failed with code 4: toy.cc:3: error: no such thing; everything .*toy\.log"):
        make(tmp_path / "kernels" / "toy-1.so", RECIPE)
    assert "ops_toy.cc" in (tmp_path / "kernels" / "toy.log").read_text()
    assert not list((tmp_path / "kernels").glob("*.so"))


@needs_compiler
def test_two_builds_at_once_compile_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, MAKES)))
    target = tmp_path / "kernels" / "toy-1.so"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: make(target, RECIPE), range(4)))
    assert target.read_text() == "lib\n"
    commands = 2 + len(making.ISA_FLAGS)  # registration, a kernel for each instruction set, the link
    assert len((tmp_path / "runs").read_text().split()) == commands


@needs_compiler
def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, MAKES)))
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"can't be written .*MIXSTUDIO_CACHE"):
        make(tmp_path / "file" / "toy-1.so", RECIPE)


def test_old_libraries_go_but_not_what_was_used_lately(tmp_path):
    now = time.time()
    paths = [tmp_path / f"toy-{i}.so" for i in range(7)]
    for age, path in enumerate(paths):
        path.write_text("")
        os.utime(path, (now - age, now - age))
    (tmp_path / "other-1.so").write_text("")
    prune(paths[6], "toy")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"toy-0.so", "toy-1.so", "toy-2.so", "toy-3.so", "toy-6.so", "other-1.so"}


def test_a_library_is_known_by_its_sources(tmp_path, monkeypatch):
    """Any change in what an extension includes gives it another name; other extensions keep theirs."""
    for name, text in {"ops_a.cc": '#include "one.h"', "ops_b.cc": "", "one.h": '#include "cpu/two.h"'}.items():
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "two.h").write_text("int two;")
    monkeypatch.setattr(making, "SOURCES", tmp_path)

    def names() -> list[str]:
        build._key.cache_clear()
        return [build.library(build.Extension(name)).name for name in ("a", "b")]

    before = names()
    assert names() == before
    (tmp_path / "cpu" / "two.h").write_text("long two;")
    after = names()
    build._key.cache_clear()
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_sources_of_every_extension_are_here():
    for extension in build.EXTENSIONS.values():
        assert all(path.is_file() for path in extension.sources)
