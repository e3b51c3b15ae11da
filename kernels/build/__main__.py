"""`python -m kernels.build`: build every extension, one line each; exit code 1 when one failed."""

import sys

import kernels  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares the extensions)
from kernels.build import build_all


def main() -> int:
    """Build everything and say what came of it."""
    failed = 0
    for name, why in build_all():
        failed += why is not None
        sys.stdout.write(f"{name}: {'ready' if why is None else why}\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
