"""Say what is installed, which device and kernels are used and why others are not, and what to do about problems."""

import argparse
import dataclasses
import json

from app.diagnosis import Diagnosis, examine
from app.probes import Choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One switch: prose for people or JSON for programs."""
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def _kernel_lines(choices: list[Choice]) -> list[str]:
    """One line an op; both dtypes on it when they agree."""
    lines: list[str] = []
    for op in dict.fromkeys(choice.op for choice in choices):
        mine = [choice for choice in choices if choice.op == op]
        if len({choice.chosen for choice in mine}) == 1:
            chosen = mine[0].chosen
        else:
            chosen = ", ".join(f"{choice.chosen} ({choice.dtype})" for choice in mine)
        refused = {f"{name}: {why}" for choice in mine for name, why in choice.refused.items()}
        lines.append(f"  {op:<17} {chosen}" + (f"    refused: {'; '.join(sorted(refused))}" if refused else ""))
    return lines


def describe(found: Diagnosis) -> str:
    """The diagnosis as text of a screenful or two."""
    cpu = found.cpu
    lines = [
        f"MixStudio {found.mixstudio}",
        f"Python    {found.python} ({found.executable})",
        f"System    {found.system}",
        f"Packages  {', '.join(f'{name} {version}' for name, version in found.packages.items()) or 'none'}",
        f"CPU       {cpu['model']}, {cpu['cores']} cores; {' '.join(cpu['features']) or 'features unknown'}",
        f"Memory    {', '.join(f'{size} GB {kind}' for kind, size in found.memory_gb.items()) or 'unknown'}",
        f"Device    {'; '.join(found.devices) or 'cpu'}",
        f"Settings  {' '.join(f'{name}={value}' for name, value in found.environment.items())}",
        "",
        "C++ kernels",
        *(f"  {name:<17} {state}" for name, state in found.extensions.items()),
        "",
        "Chosen for a typical call",
        *_kernel_lines(found.kernels),
        "",
    ]
    if found.problems:
        lines += ["Problems", *(f"  - {p.what}\n    {p.do}" for p in found.problems), ""]
    lines.append(
        "MixStudio is usable." if found.usable else "MixStudio is not usable until the first problem is solved."
    )
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Exit code 0 when MixStudio is usable, with or without problems that only cost speed."""
    found = examine()
    print(json.dumps(dataclasses.asdict(found) | {"usable": found.usable}, indent=2) if args.json else describe(found))
    return 0 if found.usable else 1
