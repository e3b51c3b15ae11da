"""Imports run one way: kernels <- ppdiffusers <- mix <- app <- launch.py (docs/adr/0001)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ORDER = ("kernels", "ppdiffusers", "mix", "app")
# Inside ppdiffusers a part may import itself and the parts it stands on.
PARTS = {
    "weights": {
        "models"
    },  # the naming walks and detection read the model configs; models/pretrained.py loads through weights
    "models": {"weights"},
    "sampling": {"models", "weights"},
    "prompt": {"models", "weights"},
    "pipelines": {"models", "weights", "sampling", "prompt"},
    "training": {"models", "weights", "sampling", "prompt", "pipelines"},
}
REFERENCES = {"torch", "diffusers", "transformers", "peft", "k_diffusion", "openvino"}
USERS = {"gradio", "fastapi", "pydantic", "uvicorn", "starlette"}


def sources(*folders: str) -> list[Path]:
    return sorted(f for folder in folders for f in (ROOT / folder).rglob("*.py"))


def imports(file: Path) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of every import in `file`, inside functions too."""
    found: list[tuple[int, str]] = []
    package = list(file.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            head = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{head}.{alias.name}") for alias in node.names]
    return found


def where(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_what_it_stands_on(package):
    above = set(ORDER[ORDER.index(package) + 1 :]) | {"launch", "tests", "tools", "benchmarks"}
    wrong = [
        f"{where(file, line)} imports {name}: move the shared piece down into {package} (or below), "
        f"or pass what is needed as an argument from {name.split('.')[0]}"
        for file in sources(package)
        for line, name in imports(file)
        if name.split(".")[0] in above
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_ppdiffusers_stand_on_each_other_in_order(part):
    allowed = PARTS[part] | {part}
    wrong = [
        f"{where(file, line)} imports {name}: ppdiffusers/{part} may use {sorted(PARTS[part]) or 'nothing else'}; "
        "take a value or a callable as an argument instead"
        for file in sources(f"ppdiffusers/{part}")
        for line, name in imports(file)
        if name.startswith("ppdiffusers.") and name.split(".")[1] in PARTS.keys() - allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_reference_libraries_stay_out_of_the_product():
    wrong = [
        f"{where(file, line)} imports {name}: torch and its like are for tools/, benchmarks/ and parity tests; "
        "compare with a golden made by tools/ instead"
        for file in [*sources(*ORDER), ROOT / "launch.py"]
        if file.exists()
        for line, name in imports(file)
        if name.split(".")[0] in REFERENCES
    ]
    assert not wrong, "\n".join(wrong)


def test_a_test_that_imports_a_reference_library_is_marked_parity():
    wrong = [
        f"{where(file, line)} imports {name} without the parity mark: run the reference in a subprocess under "
        "@pytest.mark.parity, or freeze a golden with tools/"
        for file in sources("tests")
        for line, name in imports(file)
        if name.split(".")[0] in REFERENCES and "parity" not in file.read_text(encoding="utf-8")
    ]
    assert not wrong, "\n".join(wrong)


def test_what_the_product_imports_is_installed_with_it():
    """A package that happens to lie in a developer's environment is missing in everybody else's."""
    import re
    import sys

    declared = (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\ndependencies = [")[2].partition("\n]")[0]
    )
    known_as = {
        "paddlepaddle": "paddle",
        "pillow": "PIL",
        "opencv-python": "cv2",
        "typing-extensions": "typing_extensions",
        "zxing-cpp": "zxingcpp",
    }
    names = set(re.findall(r'^ +"([A-Za-z0-9-]+)', declared, re.M))
    packages = {known_as.get(name, name) for name in names} | {"pyzbar"}  # asked for inside a try, in the extra `scan`
    if "gradio" in names:  # which is built on them
        packages |= {"fastapi", "httpx", "pydantic", "starlette", "uvicorn"}
    wrong = [
        f"{where(file, line)} imports {name}: add its package to the dependencies in pyproject.toml, or do without"
        for file in sources(*ORDER)
        for line, name in imports(file)
        if name.split(".")[0] not in packages | set(sys.stdlib_module_names) | set(ORDER)
    ]
    assert not wrong, "\n".join(wrong)


def test_only_app_knows_users():
    wrong = [
        f"{where(file, line)} imports {name}: web and form libraries belong to app/; give app a plain function or a "
        "frozen dataclass to call"
        for file in sources("kernels", "ppdiffusers", "mix")
        for line, name in imports(file)
        if name.split(".")[0] in USERS
    ]
    assert not wrong, "\n".join(wrong)


def test_kernels_import_only_paddle_numpy_and_the_standard_library():
    import sys

    allowed = set(sys.stdlib_module_names) | {"kernels", "paddle", "numpy", "setuptools"}
    wrong = [
        f"{where(file, line)} imports {name}: kernels/ is ops only; paddle, numpy and the standard library are "
        "enough for them"
        for file in sources("kernels")
        for line, name in imports(file)
        if name.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)
