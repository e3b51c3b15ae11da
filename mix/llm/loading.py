"""Models from folders as Hugging Face has them and from GGUF files, and back into folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle

from mix.llm.config import DecoderConfig
from mix.llm.gguf import GGUF, open_gguf
from mix.llm.model import CausalLM
from mix.llm.names import plan_for
from mix.llm.quantized import AS_STORED, KINDS, fill_quantised
from mix.llm.sampling import GenerationConfig
from ppdiffusers.weights.file import open_tensors, read_json
from ppdiffusers.weights.plan import Readable, drain, iter_plan


class AutoModelForCausalLM:
    """Loads language models; what comes back is a `CausalLM`."""

    @classmethod
    def from_pretrained(
        cls, path: str | Path, dtype: str | None = None, *, variant: str | None = None, pack: bool = False
    ) -> CausalLM:
        """The model in a Hugging Face folder, or in a .gguf file, ready for inference.

        `dtype` "float32", "bfloat16" or "float16"; None or "auto" keeps the file's. The quantised matrices of a GGUF
        file then stay quantised in memory, as they are in the file, where the CPU computes (elsewhere they become
        bfloat16). "int8", "int4" (in groups of 128), "q8_0", "q5_1", "q5_0", "q4_1" or "q4_0" round matrices and token
        vectors to that while they are read; with 4 or 5 bits the token vectors keep 8.
        `pack` keeps dense weights only in the layout of the fast kernels. ValueError says what is wrong with the files.
        """
        return drain(cls.load(path, dtype, variant=variant, pack=pack))

    @classmethod
    def load(cls, path: str | Path, dtype: str | None = None, *, variant: str | None = None, pack: bool = False) -> Any:
        """As `from_pretrained`, but a generator that yields (tensors done, of, name) and returns the model."""
        path = Path(path)
        if path.suffix.lower() == ".gguf":
            with open_gguf(path) as file:
                model = yield from fill(CausalLM.empty(DecoderConfig.from_dict(file.config())), file, path.name, dtype)
                model.generation_config = _generation(file.config())
        else:
            if not path.is_dir():
                raise ValueError(f"there is no folder and no .gguf file {path}; download the model, or check the name")
            config = read_json(path / "config.json")
            with open_tensors(path, variant) as file:
                model = yield from fill(CausalLM.empty(DecoderConfig.from_dict(config)), file, file.path.name, dtype)
            extra = path / "generation_config.json"
            model.generation_config = _generation(config | (read_json(extra) if extra.is_file() else {}))
        if pack:
            model.pack()
        model.name_or_path = str(path)
        return model

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | DecoderConfig) -> CausalLM:
        """A model with random weights."""
        return CausalLM.from_config(config)


def fill(model: CausalLM, file: Readable, source: str, dtype: str | None) -> Any:
    """Read all weights, telling progress; the model. `dtype` as for `from_pretrained`."""
    plan, dtype = plan_for(model, file, source), None if dtype == "auto" else dtype
    if dtype in KINDS:
        yield from fill_quantised(model, file, plan, str(dtype), "float32")
    elif dtype is None and isinstance(file, GGUF) and file.quantised:
        if str(paddle.get_device()).startswith("cpu"):
            yield from fill_quantised(model, file, plan, AS_STORED, "float32")
        else:
            yield from iter_plan(plan, file, model, "bfloat16")
    else:
        yield from iter_plan(plan, file, model, dtype)
    return model.eval()


def _generation(config: Mapping[str, Any]) -> GenerationConfig:
    try:
        return GenerationConfig.from_dict(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"generation_config.json: {error}") from None
