"""Where the product keeps what it can always compute again."""

from pathlib import Path


def hash_cache() -> Path:
    """Where the hashes of model files are remembered: reading gigabytes takes seconds."""
    from kernels.build import cache_folder

    return cache_folder() / "hashes.json"
