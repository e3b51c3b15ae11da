"""The loss of a batch, through whatever hangs in or stands before the model, without ever holding its scores.

B batch, L tokens, T tokens of a pack, C channels, N tokens whose successor is learned, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

import kernels
from mix.llm.layers import TiedHead
from mix.llm.model import make_context
from mix.peft.paths import parameter
from mix.peft.prefix import Prefixed
from mix.train.packing import IGNORED, Batch
from ppdiffusers.models.layers import Linear

ROUND = 64  # rows of scores come in multiples of it: products of few different shapes are set up once


def batch_loss(model: Any, batch: Batch) -> Tensor:
    """Mean cross entropy of the batch's labels, float32. `model` is a CausalLM, or one with adapters or a prefix."""
    base = getattr(model, "base_model", model)
    ids = paddle.to_tensor(batch.ids)
    mask = None if batch.mask is None else paddle.to_tensor(batch.mask)
    h = base.embed(ids)
    context: Any = make_context(h, mask, None, batch.ends)
    if hasattr(model, "prompt_encoder"):
        context = model.context(context)
        if getattr(base, "recomputes", False):
            h = _lend(h, context)
    h, _ = base.trunk(h, context)
    keep, labels = _chosen(batch.labels)
    h = paddle.index_select(h.reshape([-1, h.shape[-1]]), keep, axis=0)
    if base.config.embed_dim:
        h = base.part("project_out")(h)
    return _head_loss(base.part("head"), h, labels)


def _chosen(labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Places (N,) of the tokens that count, with their labels; filled up to a multiple of ROUND by ones that do not."""
    flat = labels.reshape(-1)
    places = np.flatnonzero(flat != IGNORED)
    spare = -len(places) % ROUND
    wanted = np.concatenate([flat[places], np.full(spare, IGNORED, np.int64)])
    places = np.concatenate([places, np.zeros(spare, np.int64)])
    return paddle.to_tensor(places), paddle.to_tensor(wanted)


def _head_loss(head: Any, h: Tensor, labels: Tensor) -> Tensor:
    if isinstance(head, TiedHead) and head.packed is None:
        return kernels.linear_cross_entropy(h, head._embed[0].weight, labels, turned=True)
    if isinstance(head, Linear) and head.packed is None and cast(Any, head.bias) is None:
        return kernels.linear_cross_entropy(h, cast(Tensor, head.weight), labels)
    return kernels.cross_entropy(head(h), labels)  # quantised, packed, or with a path beside it


# --- computing layers again -------------------------------------------------------------------------------------------


class _Again(PyLayer):
    """A layer of which only the input is kept; it runs a second time for the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.run = run
        return run(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        x = ctx.saved_tensor()[0].detach()
        x.stop_gradient = False
        with paddle.enable_grad():
            y = ctx.run(x)
        # backward(), not grad(): the weights inside take their gradients too.
        paddle.autograd.backward([y], [dy])
        return x.grad


class _Lend(PyLayer):
    """x itself; on the way back, when all layers are done, the prefix gets the gradients of what was lent to them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leaves: "_Leaves", *pairs: Tensor) -> Tensor:
        ctx.leaves, ctx.frozen = leaves, x.stop_gradient
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        return (None if ctx.frozen else dx, *[t.grad for pair in ctx.leaves.pairs for t in pair])


class _Leaves:
    """The prefix as tensors without a history, which may be used by several backward passes."""

    def __init__(self, context: Prefixed) -> None:
        self.pairs = [(parameter(k), parameter(v)) for k, v in context.pairs]


def _lend(h: Tensor, context: Prefixed) -> Tensor:
    leaves, own = _Leaves(context), [t for pair in context.pairs for t in pair]
    context.pairs = leaves.pairs
    return _Lend.apply(h, leaves, *own)


@contextmanager
def recomputing(base: Any) -> Iterator[None]:
    """The model's layers keep only their inputs while a gradient is recorded."""
    own = [block.run for block in base.blocks]

    def wrapped(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def again(x: Tensor, context: Any, angles: Any) -> Tensor:
            if not paddle.is_grad_enabled():
                return run(x, context, angles)
            if x.stop_gradient:
                x = x.detach()
                x.stop_gradient = False
            return _Again.apply(x, lambda t: run(t, context, angles))

        return again

    try:
        for block in base.blocks:
            block.run = wrapped(block.run)
        base.recomputes = True
        yield
    finally:
        for block, run in zip(base.blocks, own, strict=True):
            block.run = run
        base.recomputes = False
