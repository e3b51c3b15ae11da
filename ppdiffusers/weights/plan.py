"""A plan says where in a file each of our parameters is and what must be done to it; it is total before any reading.

Ops are chosen by the type of the layer, not by names: Paddle's Linear weights are the transposes of torch's, and a 4-D
weight that feeds a Linear was a 1x1 convolution. Running a plan streams: one tensor at a time goes from the file to its
place, so memory peaks at the model plus a few copies of one tensor.
"""

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from paddle import Tensor, nn

from ppdiffusers.weights.dtype import BY_PADDLE, DTYPES, FLOATS, copy_into, empty, finite, paddle_name, to_tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Loading = Generator[tuple[int, int, str], None, None]
R = TypeVar("R")


class Op(Protocol):
    """One step from the file's layout to ours; `undo` is its exact inverse."""

    def apply(self, array: np.ndarray) -> np.ndarray: ...

    def undo(self, array: np.ndarray) -> np.ndarray: ...

    def shape(self, shape: Shape) -> Shape: ...


@dataclass(frozen=True)
class Transpose:
    """(out, in) to (in, out)."""

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array.T

    def undo(self, array: np.ndarray) -> np.ndarray:
        return array.T

    def shape(self, shape: Shape) -> Shape:
        return shape[::-1]


@dataclass(frozen=True)
class Squeeze:
    """A 1x1 convolution (out, in, 1, 1) as the matrix (out, in); a matrix stays one."""

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.shape(array.shape))

    def undo(self, array: np.ndarray) -> np.ndarray:
        return array[:, :, None, None]

    def shape(self, shape: Shape) -> Shape:
        return shape[:2] if shape[2:] == (1, 1) else shape


@dataclass(frozen=True)
class Rows:
    """Part `index` of `of` equal parts of the first axis: OpenCLIP stacks q, k and v. Undone by stacking."""

    index: int
    of: int

    def apply(self, array: np.ndarray) -> np.ndarray:
        size = array.shape[0] // self.of
        return array[self.index * size : (self.index + 1) * size]

    def undo(self, array: np.ndarray) -> np.ndarray:
        return array

    def shape(self, shape: Shape) -> Shape:
        return (shape[0] // self.of, *shape[1:]) if shape and shape[0] % self.of == 0 else ()


@dataclass(frozen=True)
class Take:
    """How one of our tensors comes out of a file: the key there, then `ops` in order."""

    key: str
    ops: tuple[Op, ...] = ()

    def shape(self, shape: Shape) -> Shape:
        for op in self.ops:
            shape = op.shape(shape)
        return shape

    def apply(self, array: np.ndarray) -> np.ndarray:
        for op in self.ops:
            array = op.apply(array)
        return array

    def undo(self, array: np.ndarray) -> np.ndarray:
        for op in reversed(self.ops):
            array = op.undo(array)
        return array


Plan = Mapping[str, Take]
# Our parameter name -> where a format may keep it, best first, with the ops to torch's layout of that layer.
Spell = Callable[[str], Sequence[Take]]


class Readable(Protocol):
    """What a plan reads from: `TensorFile` is one."""

    @property
    def shapes(self) -> Mapping[str, Shape]: ...

    @property
    def dtypes(self) -> Mapping[str, str]: ...

    def array(self, key: str) -> np.ndarray: ...


def as_stored(name: str) -> Sequence[Take]:
    """The spelling of diffusers' folders: exactly our names."""
    return (Take(name),)


def linear_weights(model: nn.Layer) -> set[str]:
    """The parameters that lie transposed to torch's."""
    layers = model.named_sublayers(include_self=True)
    return {f"{name}.weight".lstrip(".") for name, layer in layers if isinstance(layer, nn.Linear)}


def with_layout(take: Take, transposed: bool, file: Shape, ours: int) -> Take:
    """The take with the ops that our layer's type asks for; two transpositions in a row are none."""
    ops = take.ops
    if ours == 2 and len(file) == 4 and Squeeze() not in ops:
        ops = (*ops, Squeeze())
    if transposed:
        ops = ops[:-1] if ops and ops[-1] == Transpose() else (*ops, Transpose())
    return replace(take, ops=ops)


def make_plan(model: nn.Layer, spell: Spell, shapes: Shapes, source: str = "the file") -> Plan:
    """Where each parameter of `model` is among `shapes`.

    Raises ValueError with the counts and first names of what is missing or has another shape. `source` names the file.
    """
    transposed = linear_weights(model)
    takes: dict[str, Take] = {}
    missing: list[str] = []
    wrong: list[str] = []
    for name, parameter in model.named_parameters():
        choices = spell(name)
        take = next((t for t in choices if t.key in shapes), None)
        if take is None:
            missing.append(choices[0].key)
            continue
        want = tuple(parameter.shape)
        take = with_layout(take, name in transposed, shapes[take.key], len(want))
        if take.shape(shapes[take.key]) != want:
            wrong.append(f"{take.key} is {list(shapes[take.key])}, for {name} {list(want)}")
        takes[name] = take
    problems = [some(missing, "parameters are missing"), some(wrong, "have the wrong shape")]
    if any(problems):
        what = type(model).__name__
        raise ValueError(f"{source} does not fit this {what}: {'; '.join(p for p in problems if p)}")
    return takes


def some(names: Sequence[str], what: str, most: int = 3) -> str:
    """'5 parameters are missing, first a, b, c', or nothing when there are none."""
    return f"{len(names)} {what}, first {', '.join(names[:most])}" if names else ""


# Keys that real checkpoints carry beside the weights of their models, and why nobody needs them.
HARMLESS: tuple[tuple[str, str], ...] = (
    (r"model_ema\..*", "averages (EMA), not asked for"),
    (
        r"(model\.)?(betas|alphas_cumprod(_prev)?|sqrt_\w+|log_one_minus_\w+|posterior_\w+|logvar|lvlb_weights)",
        "schedule",
    ),
    (r"(.*\.)?sigmas|denoiser\.\w+|scale_factor|v_pred|ztsnr", "schedule"),
    (r"(.*\.)?position_ids", "positions, they only count"),
    (r"(.*\.)?logit_scale", "training of CLIP"),
    (r"(.*\.)?attn_mask", "mask, it is computed"),
    (r"(loss|first_stage_model\.loss|discriminator)\..*", "training of the VAE"),
    (
        r"(cond_stage_model|conditioner\.embedders\.\d)\.(model\.)?(visual|vision_model|visual_projection)\..*",
        "CLIP's eye",
    ),
    (r"(visual|vision_model|visual_projection)\..*", "CLIP's eye"),
    (r"(global_step|epoch|iter|state_dict)", "counters"),
    (r"safety_checker\..*", "safety checker"),
)


def sort_extra(keys: Iterable[str], more: Sequence[tuple[str, str]] = ()) -> tuple[dict[str, list[str]], list[str]]:
    """({why they do no harm: keys}, unknown keys) among those nobody takes; `more` adds to `HARMLESS`."""
    harmless: dict[str, list[str]] = {}
    unknown: list[str] = []
    for key in keys:
        why = next((why for pattern, why in (*more, *HARMLESS) if re.fullmatch(pattern, key)), None)
        if why is None:
            unknown.append(key)
        else:
            harmless.setdefault(why, []).append(key)
    return harmless, unknown


def refuse_unknown(
    shapes: Iterable[str], plans: Iterable[Plan], source: str, more: Sequence[tuple[str, str]] = ()
) -> dict[str, int]:
    """ValueError for keys that no plan takes and that are not known to be harmless; {why harmless: how many}."""
    taken = {take.key for plan in plans for take in plan.values()}
    harmless, unknown = sort_extra((key for key in shapes if key not in taken), more)
    if unknown:
        raise ValueError(
            f"{source}: {some(unknown, 'keys belong to no part of this model')}; "
            "if they are known to be junk, load with allow_unknown=True"
        )
    return {why: len(keys) for why, keys in harmless.items()}


def widest(dtypes: Iterable[str]) -> str:
    """The Paddle dtype that holds all these file dtypes: the one float among them, float32 for a mixture of halves."""
    floats = {DTYPES[d].paddle for d in dtypes} & set(FLOATS)
    if len(floats) == 1:
        return floats.pop()
    return "float64" if "float64" in floats else "float32"


def cast(array: np.ndarray, dtype: str, to: str) -> Tensor:
    """The array (safetensors dtype `dtype`) as a Paddle tensor of dtype `to`."""
    if DTYPES[dtype].paddle not in FLOATS or DTYPES[dtype].paddle == to:
        return to_tensor(array, dtype)
    if dtype == "BF16" and to == "float32":
        wide = empty(array.shape, "uint32")
        np.left_shift(array, 16, out=wide, dtype=np.uint32, casting="unsafe")
        return to_tensor(wide.view(np.float32), "F32")
    if dtype in ("F16", "F64", "F32") and to in ("float32", "float64"):  # numpy is four times faster at this
        wide = empty(array.shape, to)
        copy_into(wide, array)
        return to_tensor(wide, BY_PADDLE[to])
    kind: Any = to
    return to_tensor(array, dtype).astype(kind)


def read_one(file: Readable, name: str, take: Take, dtype: str) -> Tensor:
    """One parameter in our layout and `dtype`; ValueError names it when it holds NaN or infinities, or overflows."""
    stored = file.array(take.key)
    kind = file.dtypes[take.key]
    if not finite(stored, kind):
        raise ValueError(f"tensor {take.key!r} holds NaN or infinite numbers; the file is damaged, get another copy")
    ours = take.apply(stored)
    tensor = cast(
        ours.copy() if ours.nbytes < stored.nbytes else ours, kind, dtype
    )  # a view would hold all of `stored`
    if dtype == "float16" and kind != "F16" and not finite(tensor.numpy(), "F16"):
        raise ValueError(f"tensor {take.key!r} has numbers beyond float16's 65504; load it as bfloat16 or float32")
    return tensor


def iter_plan(plan: Plan, file: Readable, model: nn.Layer, dtype: str | None = None) -> Loading:
    """Fill the model from the file, yielding (tensors done, of, name); `dtype` None keeps the file's, widest if mixed.

    Whatever stops it before the end - a bad tensor, a short read, `close()` - leaves the model without any weights, so
    that a half-loaded one cannot be used.
    """
    parameters = dict(model.named_parameters())
    missing = [name for name in parameters if name not in plan]
    if missing or len(plan) != len(parameters):
        raise ValueError(f"the plan has {len(plan)} parameters, the {type(model).__name__} {len(parameters)}")
    to = widest(file.dtypes[take.key] for take in plan.values()) if dtype is None else paddle_name(dtype)
    if to not in FLOATS:
        raise ValueError(f"weights cannot become {to}; choose one of {', '.join(FLOATS)}")
    finished = False
    try:
        for done, (name, take) in enumerate(plan.items(), 1):
            read_one(file, name, take, to)._share_buffer_to(parameters[name])
            yield done, len(plan), name
        finished = True
    finally:
        if not finished:
            for parameter in parameters.values():
                parameter._clear_data()


def run_plan(plan: Plan, file: Readable, model: nn.Layer, dtype: str | None = None) -> None:
    """`iter_plan` without the news."""
    drain(iter_plan(plan, file, model, dtype))


def drain(work: Generator[object, None, R]) -> R:
    """Run a generator to its end; what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value
