"""Layers whose weights stay quantised in memory, and how a model gets them while it is read from files.

From a GGUF file the blocks are taken as they are; from numbers they are rounded on the way, one matrix at a time, so
that memory never holds the model as floats. Weights are frozen: there is no `.weight` to train, adapters go beside the
leaf.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from paddle import Tensor, nn

import kernels
from kernels import QuantizedWeight
from mix.llm.gguf import GGUF
from mix.llm.layers import TiedHead
from ppdiffusers.models.layers import Linear, plus
from ppdiffusers.weights.plan import Loading, Plan, Readable, iter_plan, read_one

# What `dtype=` may say besides a float dtype: the kind of the matrices, and that of the table of token vectors, which
# suffers more from few bits.
KINDS: Mapping[str, str] = {
    "int8": "int8",
    "int4": "int8",
    "q8_0": "q8_0",
    "q5_1": "q8_0",
    "q5_0": "q8_0",
    "q4_1": "q8_0",
    "q4_0": "q8_0",
}
AS_STORED = "as stored"


class QuantizedLinear(nn.Layer):
    """y = act(x W + b) + residual with a quantised W (in, out); stands in for a Linear."""

    bias: Tensor | None

    def __init__(self, weight: QuantizedWeight, bias: bool = False) -> None:
        super().__init__()
        self.quantized = weight
        self.in_features, self.out_features = weight.shape
        made = self.create_parameter([weight.shape[1]], is_bias=True) if bias else None
        self.bias = made

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        if act is None:
            return kernels.quantized_linear(x, self.quantized, self.bias, residual=residual)
        y = getattr(kernels, act)(kernels.quantized_linear(x, self.quantized, self.bias))
        return y if residual is None else plus(y, residual)

    def dense_weight(self) -> Tensor:
        """The exact weight (in, out), float32."""
        return self.quantized.dequantize()

    def extra_repr(self) -> str:
        """What `print(model)` says of it."""
        return f"in={self.in_features}, out={self.out_features}, {self.quantized.kind}"


class QuantizedEmbedding(nn.Layer):
    """Vectors (..., C) of ids, from a quantised table (C, V); `numbers` is their dtype."""

    def __init__(self, table: QuantizedWeight, numbers: str) -> None:
        super().__init__()
        self.quantized, self.numbers = table, numbers

    def forward(self, ids: Tensor) -> Tensor:
        return kernels.quantized_rows(self.quantized, ids, dtype=self.numbers)


def quantised_leaves(model: nn.Layer) -> list[str]:
    """Names of the layers that hold quantised weights."""
    return [name for name, layer in model.named_sublayers() if isinstance(layer, QuantizedLinear | QuantizedEmbedding)]


class Maker:
    """Makes quantised weights of a checkpoint's tensors: of kind `kind`, or as a GGUF file stores them."""

    def __init__(self, file: Readable, plan: Plan, kind: str) -> None:
        self.file, self.plan, self.kind = file, plan, kind

    def stored(self, name: str) -> str | None:
        """The kind in which the file has the weight of that name, None when it has numbers."""
        if not isinstance(self.file, GGUF):
            return None
        blocks = self.file.stored[self.file.places[self.plan[name].key].key].blocks
        return blocks.name.lower() if blocks.numbers > 1 else None

    def wants(self, name: str) -> bool:
        """Whether the weight of that name becomes quantised."""
        return self.kind != AS_STORED or self.stored(name) is not None

    def make(self, name: str, table: bool = False) -> QuantizedWeight:
        """The weight (in, out) of that name, or the table (C, V) of token vectors."""
        if self.kind == AS_STORED:
            return self._taken(name)
        numbers = read_one(self.file, name, self.plan[name], "float32")
        kind = KINDS[self.kind] if table else self.kind
        try:
            return kernels.quantize(numbers.t().contiguous() if table else numbers, kind)
        except ValueError as error:
            raise ValueError(f"{name} cannot be loaded as {self.kind}: {error}") from None

    def _taken(self, name: str) -> QuantizedWeight:
        key = self.plan[name].key
        blocks, raw = cast(GGUF, self.file).blocks(key)
        try:
            return kernels.from_gguf(blocks.name.lower(), raw, (raw.shape[1] * blocks.numbers, raw.shape[0]))
        except ValueError as error:
            raise ValueError(f"tensor {key!r}: {error}; the file is damaged, get another copy") from None


def fill_quantised(model: Any, file: Readable, plan: Plan, kind: str, dtype: str) -> Loading:
    """Fill an empty model: matrices and token vectors quantised, what is small (norms, biases) in `dtype`.

    Yields (tensors done, of, name) as `iter_plan` does. `plan` is the plan of the model without quantised leaves.
    """
    maker, rest, done = Maker(file, plan, kind), dict(plan), 0
    for name, layer, parent, attribute in _matrices(model):
        if name in plan and maker.wants(name):
            leaf = QuantizedLinear(maker.make(name), getattr(layer, "bias", None) is not None)
            parent._sub_layers[attribute] = leaf
            del rest[name]
            done += 1
            yield done, len(plan), name
    table = next(name for name, layer in _tables(model) if layer is model.part("embed"))
    if maker.wants(table):
        made = maker.make(table, table=True)
        model.put("embed", QuantizedEmbedding(made, dtype))
        if model.config.tied:
            model.put("head", QuantizedLinear(made))
        del rest[table]
        done += 1
        yield done, len(plan), table
    for at, _, name in iter_plan(rest, file, model, dtype):
        yield done + at, len(plan), name


def _matrices(model: nn.Layer) -> list[tuple[str, Linear, Any, str]]:
    """Each Linear with a weight of its own: (the weight's name, the layer, the layer above, its name there)."""
    layers = dict(model.named_sublayers(include_self=True))
    found: list[tuple[str, Linear, Any, str]] = []
    for name, layer in layers.items():
        if isinstance(layer, Linear) and not isinstance(layer, TiedHead):
            above, _, attribute = name.rpartition(".")
            found.append((f"{name}.weight", layer, layers[above], attribute))
    return found


def _tables(model: nn.Layer) -> Iterator[tuple[str, nn.Layer]]:
    return ((f"{n}.weight", layer) for n, layer in model.named_sublayers() if isinstance(layer, nn.Embedding))


def refuse_saving(model: nn.Layer) -> None:
    """ValueError when the model has quantised weights: their numbers are no longer those of a checkpoint."""
    found = quantised_leaves(model)
    if found:
        raise ValueError(
            f"this model's weights are quantised ({len(found)} layers, first {found[0]}) and cannot be saved as a "
            'Hugging Face folder; load it with dtype="float32" or "bfloat16" and save that'
        )
