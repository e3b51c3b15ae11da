"""From a file or folder to a Bundle that is ready to run: loaded, in a dtype that this machine is fast and good at,
packed.
"""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import paddle

from kernels import build
from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.models.layers import pack
from ppdiffusers.pipelines.bundle import Bundle
from ppdiffusers.pipelines.event import Progress
from ppdiffusers.prompt.encode import TextEncoders
from ppdiffusers.prompt.tokenizer import CLIPTokenizer
from ppdiffusers.sampling import ModelSchedule
from ppdiffusers.weights.load import LoadedParts, iter_load, load_part
from ppdiffusers.weights.plan import drain

DTYPES = ("float32", "bfloat16", "float16")


def default_dtype() -> str:
    """bfloat16 where the CPU multiplies it natively and our kernels are there, float16 on a GPU, else float32."""
    return fastest_dtype(gpu="float16")


def fastest_dtype(gpu: str) -> str:
    """`gpu` on a GPU; on a CPU bfloat16 where it is native, else float32."""
    if paddle.device.get_device().startswith("gpu"):
        return gpu
    return "bfloat16" if build.load("dnn") and "avx512_bf16" in build.cpu_flags() else "float32"


def iter_bundle(source: str | Path, dtype: str | None = None) -> Generator[Progress, None, Bundle]:
    """Load step by step; the generator's value is the bundle. Raises ValueError, with a sentence, for what is no
    checkpoint.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"a model is computed in {', '.join(DTYPES)}, not {dtype!r}")
    parts = yield from iter_parts(source, dtype or default_dtype())
    yield Progress(1, 1, "packing")
    return of_parts(parts).packed()


def iter_parts(source: str | Path, dtype: str) -> Generator[Progress, None, LoadedParts]:
    """`weights.load.iter_load` in the words of events."""
    loading = iter_load(source, dtype)
    while True:
        try:
            done, total, name = next(loading)
        except StopIteration as finished:
            return finished.value
        yield Progress(done, total, f"loading {name.partition('.')[0]}")


def load_bundle(source: str | Path, dtype: str | None = None) -> Bundle:
    """As `iter_bundle`, without the steps."""
    return drain(iter_bundle(source, dtype))


def of_parts(parts: LoadedParts) -> Bundle:
    """The models of a checkpoint with the way its family reads text and counts noise."""
    config = dict(parts.scheduler_config)
    return Bundle(
        name=Path(parts.source).stem,
        family=parts.family,
        unet=parts.unet,
        vae=parts.vae,
        text=_text(parts),
        prediction=parts.prediction_type,
        schedule=ModelSchedule.from_config(config) if config else ModelSchedule.make(),
        scheduler_config=config if "_class_name" in config else {},
    )


def _text(parts: LoadedParts) -> TextEncoders:
    pads = ["<|endoftext|>" if e.config.hidden_act == "quick_gelu" else "!" for e in parts.text_encoders]
    tokenizers = [
        CLIPTokenizer.clip(pad) if folder is None else CLIPTokenizer.from_pretrained(folder)
        for folder, pad in zip(parts.tokenizers, pads, strict=True)
    ]
    models = parts.text_encoders
    if len(models) == 2:
        return TextEncoders.sdxl(tokenizers[0], models[0], tokenizers[1], models[1])
    if parts.family.startswith("sdxl"):
        return TextEncoders.sdxl_refiner(tokenizers[0], models[0])
    return TextEncoders.sd(tokenizers[0], models[0])


def with_vae(bundle: Bundle, source: str | Path) -> Bundle:
    """The bundle with another VAE (a file or a folder)."""
    vae = load_part(source, "vae", str(bundle.vae.dtype).removeprefix("paddle."), bundle.family)
    pack(vae)
    return replace(bundle, vae=vae)


def load_controlnet(source: str | Path, dtype: str | None = None) -> ControlNetModel:
    """A ControlNet of either format, packed."""
    net = load_part(source, "controlnet", dtype or default_dtype())
    pack(net)
    return net
