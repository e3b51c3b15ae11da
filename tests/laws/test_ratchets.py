"""Limits that only ever get tighter: sizes, things that do not belong, and the frozen public names."""

import ast
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(name for name in ("kernels", "ppdiffusers", "mix", "app") if (ROOT / name).is_dir())
BELOW_APP = tuple(name for name in PACKAGES if name != "app")

LONGEST_FILE = 500
FUNCTION_P90 = 20  # nine of ten functions fit on half a screen
LONGEST_FUNCTION = 45
MOST_ARGUMENTS = 10  # beyond that a frozen dataclass reads better
# Signatures that follow diffusers or the op they name, where a dataclass would break scripts that move over.
LONG_SIGNATURES = {"__call__", "stream", "forward", "adamw_step"}


def sources(*folders: str) -> list[Path]:
    return sorted(f for folder in folders for f in (ROOT / folder).rglob("*.py"))


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def functions(file: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    assert node.end_lineno is not None
    doc = node.body[0] if ast.get_docstring(node) is not None else None
    said = (doc.end_lineno or doc.lineno) - doc.lineno + 1 if doc else 0
    return node.end_lineno - node.lineno + 1 - said


def test_no_file_is_long():
    long = {
        name_of(f): n
        for f in sources(*PACKAGES, "tools", "benchmarks", "tests")
        if (n := len(f.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    }
    assert not long, f"over {LONGEST_FILE} lines; split where the file has two subjects: {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_short(package):
    lengths = sorted(length(node) for file in sources(package) for node in functions(file))
    p90 = lengths[int(len(lengths) * 0.9)]
    assert p90 <= FUNCTION_P90, f"the 90th percentile of function lengths in {package} is {p90} lines"
    long = [
        f"{name_of(file)}:{node.lineno} {node.name} has {length(node)} lines; take out a step that has a name"
        for file in sources(package)
        for node in functions(file)
        if length(node) > LONGEST_FUNCTION
    ]
    assert not long, "\n".join(long)


def test_argument_lists_are_short():
    def count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        a = node.args
        names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        return len(names) - (names[:1] in (["self"], ["cls"]))

    long = [
        f"{name_of(file)}:{node.lineno} {node.name} takes {count(node)} arguments; group them in a frozen dataclass"
        for file in sources(*PACKAGES)
        for node in functions(file)
        if count(node) > MOST_ARGUMENTS and node.name not in LONG_SIGNATURES
    ]
    assert not long, "\n".join(long)


def test_nothing_prints_below_app():
    wrong = [
        f"{name_of(file)}:{node.lineno} prints; yield an event or return the text, app/ shows it"
        for file in sources(*BELOW_APP)
        if file.name != "__main__.py" and "bench" not in file.parts  # those are programs
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "tqdm")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_for_later():
    later = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    wrong = [
        f"{name_of(file)}:{token.start[0]} {token.string.strip()[:80]}: do it now, or write it into an issue"
        for file in sources(*PACKAGES, "tools", "benchmarks")
        for token in tokenize.generate_tokens(iter(file.read_text(encoding="utf-8").splitlines(keepends=True)).__next__)
        if token.type == tokenize.COMMENT and later.search(token.string)
    ]
    wrong += [
        f"{name_of(file)}:{node.lineno} raises NotImplementedError: what is not built does not exist"
        for file in sources(*PACKAGES)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Name) and node.id == "NotImplementedError"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_error_is_swallowed_unseen():
    def silent(node: ast.ExceptHandler) -> bool:
        wide = node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
        return node.type is None or (wide and all(isinstance(step, ast.Pass) for step in node.body))

    wrong = [
        f"{name_of(file)}:{node.lineno} catches everything and says nothing: name the exception, or report it"
        for file in sources(*PACKAGES)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ExceptHandler) and silent(node)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_is_for():
    wrong = [name_of(file) for file in sources(*PACKAGES) if not ast.get_docstring(tree(file))]
    assert not wrong, f"no module docstring in {wrong}; one sentence is enough"


def test_no_module_is_called_after_nothing():
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}
    wrong = [name_of(file) for file in sources(*PACKAGES) if file.stem in vague]
    assert not wrong, f"name these after what they hold: {wrong}"


def test_public_names_are_the_agreed_ones():
    """What scripts may rely on. Removing or renaming one breaks users: say so in CHANGELOG.md and edit the list."""
    from importlib import import_module

    agreed = (ROOT / "tests" / "laws" / "public_names.txt").read_text(encoding="utf-8").split()
    now = [f"{package}.{name}" for package in BELOW_APP for name in getattr(import_module(package), "__all__", ())]
    changed = sorted(set(now) ^ set(agreed))
    assert not changed, f"added or gone: {changed}; edit tests/laws/public_names.txt and tell CHANGELOG.md"
