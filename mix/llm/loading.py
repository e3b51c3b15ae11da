"""Models from folders as Hugging Face has them and from GGUF files, and back into folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mix.llm.config import DecoderConfig
from mix.llm.model import CausalLM
from mix.llm.names import plan_for
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

        `dtype` "float32", "bfloat16" or "float16"; None keeps the file's (a GGUF file's numbers become float32).
        `pack` keeps the weights only in the layout of the fast kernels. ValueError says what is wrong with the files.
        """
        return drain(cls.load(path, dtype, variant=variant, pack=pack))

    @classmethod
    def load(cls, path: str | Path, dtype: str | None = None, *, variant: str | None = None, pack: bool = False) -> Any:
        """As `from_pretrained`, but a generator that yields (tensors done, of, name) and returns the model."""
        path = Path(path)
        if path.suffix.lower() == ".gguf":
            from mix.llm.gguf import open_gguf

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
        return model

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | DecoderConfig) -> CausalLM:
        """A model with random weights."""
        return CausalLM.from_config(config)


def fill(model: CausalLM, file: Readable, source: str, dtype: str | None) -> Any:
    """Read all weights, telling progress; the model."""
    plan = plan_for(model, file, source)
    yield from iter_plan(plan, file, model, dtype)
    return model.eval()


def _generation(config: Mapping[str, Any]) -> GenerationConfig:
    try:
        return GenerationConfig.from_dict(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"generation_config.json: {error}") from None
