"""The studio's language models: found by name, loaded when first asked for, each served by an engine of its own."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog import ADAPTER, Catalog, Model, adapter_of

if TYPE_CHECKING:
    from mix.llm.engine import Engine
    from mix.llm.model import CausalLM
    from mix.llm.tokenizer import Tokenizer

SMALL = "smollm2"  # the one that is taken where none is named
HOW_TO_GET = "get one with `python launch.py models add smollm2`, or put a .gguf file or a Hugging Face folder into {}"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What one engine may use."""

    memory: int = 1 << 30  # bytes for keys and values
    block_size: int = 16
    max_running: int = 16
    max_waiting: int = 64
    prefill_chunk: int = 256


@dataclass(eq=False)
class Loaded:
    """A model that is served."""

    name: str
    path: Path
    model: "CausalLM"
    tokenizer: "Tokenizer"
    engine: "Engine"
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def idle(self) -> bool:
        """Whether nobody is served or waits."""
        load = self.engine.load()
        return not load.running and not load.waiting

    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer: the model's and the tokenizer's."""
        config = self.model.generation_config
        own = config.eos_token_id if config is not None else self.model.config.eos_token_ids
        more = self.tokenizer.eos_token_id
        return own if more is None or more in own else (*own, more)

    def prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Token ids of a conversation up to where the answer begins. ValueError when the template refuses it."""
        found = self.tokenizer.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True)
        return list(found["input_ids"])


def load(
    path: Path,
    name: str = "",
    sizes: Sizes | None = None,
    progress: Progress | None = None,
    adapter: Path | None = None,
) -> Loaded:
    """Read a model from a folder or a .gguf file, hang an adapter into it, and start its engine.

    ValueError says what is wrong with it.
    """
    from app.environment import import_paddle

    import_paddle()
    from mix.llm.engine import Engine
    from mix.llm.loading import AutoModelForCausalLM
    from mix.llm.tokenizer import AutoTokenizer

    sizes = sizes or Sizes()
    tokenizer = AutoTokenizer.from_pretrained(path)
    reading = AutoModelForCausalLM.load(path)
    while True:
        try:
            told = next(reading)
        except StopIteration as end:
            model = end.value
            break
        if progress is not None:
            progress(*told)
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer of {path.name} has {len(tokenizer)} tokens and its model {model.config.vocab_size}; they "
            "are not from the same model"
        )
    if adapter is not None:
        model = _adapted(model, adapter)
    how = {"block_size": sizes.block_size, "max_running": sizes.max_running, "max_waiting": sizes.max_waiting}
    engine = Engine(model, tokenizer, blocks=blocks_for(model, sizes), prefill_chunk=sizes.prefill_chunk, **how)
    return Loaded(name or path.stem, path, model, tokenizer, engine.start())


def _adapted(model: Any, folder: Path) -> Any:
    """The model with a LoRA: merged where its weights are floats, beside them where they are quantised."""
    from mix.peft import load_adapter

    if not (folder / ADAPTER).is_file():
        raise ValueError(f"{folder} has no {ADAPTER}, so it is no adapter as PEFT saves them")
    if adapter_of(folder).get("peft_type") == "PREFIX_TUNING":
        raise ValueError(
            f"{folder.name} is a prefix, which the engine does not serve; use it from Python: mix.peft.load_adapter"
        )
    made = load_adapter(model, folder)
    try:
        return made.merge_and_unload()
    except ValueError:  # quantised weights can't take it
        return made.eval()


def blocks_for(model: Any, sizes: Sizes) -> int:
    """As many blocks as the memory allows, not more than all running texts could fill."""
    affordable = sizes.memory // (model.cache_layout.bytes_per_token() * sizes.block_size)
    usable = sizes.max_running * -(-model.config.max_position_embeddings // sizes.block_size)
    return max(min(affordable, usable), 1)


class LLMHost:
    """Loads by name from the catalogue; the least recently used idle model makes room when more than `most` are in."""

    def __init__(self, catalog: Catalog, sizes: Sizes | None = None, most: int = 2) -> None:
        self.catalog, self.sizes, self.most = catalog, sizes, most
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._closed = False

    def models(self) -> dict[str, Model]:
        """What could be loaded, by the names that `get` takes."""
        found = [model for model in self.catalog.list("llm") if not model.problem]
        folders = [model.name.partition("/")[0] for model in found]
        return {f if folders.count(f) == 1 else m.name: m for m, f in zip(found, folders, strict=True)}

    @property
    def loaded(self) -> list[Loaded]:
        """What is in memory."""
        return list(self._loaded.values())

    def default(self) -> str:
        """The name to use where none is given: a loaded model, SmolLM2, or the first. KeyError when there is none."""
        there = self.models()
        name = next((n for n in (*reversed(list(self._loaded)), SMALL, *there) if n in there), None)
        if name is None:
            raise KeyError(f"there is no language model yet: {HOW_TO_GET.format(self.catalog.folder('llm'))}")
        return name

    def find(self, name: str = "") -> tuple[str, Model]:
        """The model of that name; KeyError says what there is."""
        there = self.models()
        name = name or self.default()
        if name in there:
            return name, there[name]
        try:
            model = self.catalog.find("llm", name)
        except KeyError as why:
            known = f"there are: {', '.join(there)}" if there else HOW_TO_GET.format(self.catalog.folder("llm"))
            raise KeyError(f"there is no language model {name!r}; {known}") from why
        if model.problem:
            raise ValueError(f"{name} cannot be used: {model.problem}")
        return next(known for known, m in there.items() if m.path == model.path), model

    def get(self, name: str = "", progress: Progress | None = None) -> Loaded:
        """The model, loaded now if it was not. KeyError for an unknown name, ValueError for a broken file."""
        with self._lock:
            if self._closed:
                raise ValueError("the studio is closing")
            name, model = self.find(name)
            if name not in self._loaded:
                base = self.base_of(model.path) if model.family == "adapter" else None
                self._make_room()
                self._loaded[name] = (
                    load(model.path, name, self.sizes, progress)
                    if base is None
                    else load(base, name, self.sizes, progress, adapter=model.path)
                )
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def base_of(self, adapter: Path) -> Path:
        """The model that an adapter is for: the path in it, or a model here of that name. ValueError without one."""
        told = str(adapter_of(adapter).get("base_model_name_or_path") or "")
        if told and Path(told).exists():
            return Path(told)
        wanted = Path(told).stem.lower()
        models = [m for m in self.catalog.list("llm") if not m.problem and m.family != "adapter"]
        found = [m for m in models if wanted and (m.name.lower() == wanted or wanted in m.path.stem.lower())]
        if not found:
            owner = told or "a model that it does not name"
            raise ValueError(
                f"the adapter {adapter.name} belongs to {owner}, which is not here; put that model into "
                f"{self.catalog.folder('llm')}, or name it: `chat --model MODEL --adapter {adapter}`"
            )
        return found[0].path

    def unload(self, name: str) -> bool:
        """Let go of a model; who is being served by it is cancelled. False when it was not loaded."""
        with self._lock:
            found = self._loaded.pop(name, None)
        if found is not None:
            found.engine.stop()
        return found is not None

    def close(self) -> None:
        """Let go of everything."""
        self._closed = True
        for name in list(self._loaded):
            self.unload(name)

    def _make_room(self) -> None:
        from mix.llm.engine import Busy

        while len(self._loaded) >= self.most:
            old = next((name for name, one in self._loaded.items() if one.idle), None)
            if old is None:
                raise Busy(f"{', '.join(self._loaded)} are in memory and answering; try again when they are done", 10)
            self._loaded.pop(old).engine.stop()
