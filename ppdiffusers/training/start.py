"""A checkpoint made ready for training: plain weights, the autoencoder in float32, the rest as asked for."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.event import Progress
from ppdiffusers.pipelines.load import fastest_dtype, iter_parts, of_parts
from ppdiffusers.pipelines.save import save_diffusers
from ppdiffusers.weights.load import LoadedParts, load_part
from ppdiffusers.weights.save import save_ldm

DTYPES = ("float32", "bfloat16")  # float16 would need its loss scaled


@dataclass(frozen=True, eq=False)
class Start:
    """What is trained on, as pipelines see it and as files do."""

    bundle: Bundle
    parts: LoadedParts

    def write(self, out: Path, dtype: str = "float16") -> None:
        """The whole checkpoint: a single file where `out` ends in .safetensors, else a diffusers folder."""
        save = partial(save_ldm if out.suffix == ".safetensors" else save_diffusers, self.parts, out)
        save(dtype)


def default_dtype() -> str:
    """bfloat16 on a GPU, and on CPUs that multiply it natively; else float32."""
    return fastest_dtype(gpu="bfloat16")


def iter_start(source: str | Path, dtype: str | None = None) -> Generator[Progress, None, Start]:
    """Load step by step; the generator's value is what was loaded. Raises ValueError for what is no checkpoint."""
    if dtype not in (None, *DTYPES):
        raise ValueError(f"training computes in {' or '.join(DTYPES)}, not {dtype!r}")
    kind = dtype or default_dtype()
    parts = yield from iter_parts(source, kind)
    if kind != "float32":
        parts = replace(parts, vae=load_part(source, "vae", "float32", parts.family))
    return Start(of_parts(parts), parts)
