"""What the papers say is what the repository does: versions, commands, change log, links."""

import re
import subprocess
from pathlib import Path

import pytest

import app
from app.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PAPERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OWN_OPTIONS = {"--gpu", "--cpu", "--help", "--version"}
# The studio needs no command.
OWN_OPTIONS |= {"--port", "--listen", "--desktop", "--data", "--auth", "--token", "--tiny"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_written_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", app.__version__)
    assert 'version = { attr = "app.__version__" }' in read("pyproject.toml")
    assert not re.search(r'^version = "', read("pyproject.toml"), re.M)


def test_a_released_version_is_in_the_change_log():
    log = read("CHANGELOG.md")
    assert "## [Unreleased]" in log
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", log, re.M)
    assert len(re.findall(r"^## \[", log, re.M)) == len(released) + 1, "a release is headed: ## [1.2.3] - 2026-01-31"
    assert not released or released[0] <= app.__version__


@pytest.mark.parametrize("paper", PAPERS, ids=lambda p: p.name)
def test_every_command_in_the_papers_exists(paper):
    text = paper.read_text(encoding="utf-8")
    called = re.findall(
        r"(?:python[\d.]* launch\.py|\bmixstudio)((?: --?[a-z]+)*)(?: ([a-z]+))?(?=[\s`]|$)", text, re.M
    )
    options = {word for words, _ in called for word in words.split()}
    assert options <= OWN_OPTIONS, (
        f"{paper.name} uses {sorted(options - OWN_OPTIONS)}, launch.py has {sorted(OWN_OPTIONS)}"
    )
    unknown = {name for _, name in called if name} - set(COMMANDS)
    assert not unknown, f"{paper.name} uses commands that do not exist: {sorted(unknown)}"


@pytest.mark.parametrize("paper", PAPERS, ids=lambda p: p.name)
def test_every_local_link_leads_somewhere(paper):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", paper.read_text(encoding="utf-8"))
    dead = [link for link in links if not (paper.parent / link).exists()]
    assert not dead, f"{paper.name} links to {dead}"


def test_every_decision_is_numbered_and_listed():
    records = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert [int(r.name[:4]) for r in records] == list(range(1, len(records) + 1))
    index = read("docs/README.md")
    assert not [r.name for r in records if r.name not in index], "list the record in docs/README.md"


def test_ci_ends_with_the_tests():
    script = read(".ci/run")
    assert script.strip().splitlines()[-1].startswith("exec python3 launch.py test")
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")]).returncode == 0
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_the_licence_is_there():
    assert "Apache License" in read("LICENSE")
    assert "Version 2.0, January 2004" in read("LICENSE")


def test_goldens_are_small():
    sizes = {p.name: p.stat().st_size for p in (ROOT / "tests" / "goldens").rglob("*") if p.is_file()}
    large = {name: size for name, size in sizes.items() if size > 2**20}
    assert not large, f"over 1 MiB; make the model behind these smaller: {large}"
    assert sum(sizes.values()) <= 16 * 2**20
