"""Which kernel each op takes here and why the ones before it refuse, found out by calling them.

Each op is called once as the SD 1.5 UNet or a small language model calls it, only smaller; the kernels of its table are
forced in their order until one does not refuse. So nothing here depends on how an op describes its calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Choice:
    """Which kernel an op takes for its typical call, and why the ones before it refused."""

    op: str
    dtype: str
    chosen: str
    refused: dict[str, str]


@dataclass(frozen=True)
class Ask:
    """Makes the inputs of a call in one dtype."""

    paddle: Any
    dtype: str

    def full(self, *shape: int) -> Any:
        """A tensor of small equal numbers: the choice does not look at values."""
        return self.paddle.full(shape, 0.01, dtype=self.dtype)

    def ints(self, *values: int) -> Any:
        """An int32 vector."""
        return self.paddle.to_tensor(values, dtype="int32")

    def moments(self) -> Any:
        """An optimiser's moment, float32 whatever the weights are."""
        return self.paddle.zeros([64, 64], dtype="float32")


def _adamw(k: Any, a: Ask) -> None:
    k.adamw_step([a.full(64, 64)], [a.full(64, 64)], [a.moments()], [a.moments()], step=1, lr=1e-3)


def _cross_entropy(k: Any, a: Ask) -> Any:
    return k.cross_entropy(a.full(8, 512), a.paddle.zeros([8], dtype="int64"))


def _linear_cross_entropy(k: Any, a: Ask) -> Any:
    return k.linear_cross_entropy(a.full(8, 64), a.full(64, 512), a.paddle.zeros([8], dtype="int64"))


def _rope(k: Any, a: Ask) -> Any:
    angles = a.paddle.zeros([8, 32], dtype="float32")
    return k.rope(a.full(1, 8, 9, 64), angles, angles)


def _qkv(a: Ask) -> tuple[Any, Any, Any]:
    return a.full(2, 256, 8, 40), a.full(2, 256, 8, 40), a.full(2, 256, 8, 40)


def _quantized(k: Any, a: Ask) -> Any:
    weight = k.quantize(a.paddle.full([256, 64], 0.01, dtype="float32"), "q4_1")
    return k.quantized_linear(a.full(1, 256), weight)


def _decoder(k: Any, a: Ask) -> Any:
    def part(width_in: int, width_out: int) -> Any:
        return k.Projection(k.quantize(a.paddle.full([width_in, width_out], 0.01, dtype="float32"), "q4_1"))

    norm = a.paddle.ones([64], dtype="float32")
    shared, wide = [part(64, 32) for _ in "kv"], [part(64, 128) for _ in "gu"]
    layer = k.DecoderLayer(norm, norm, part(64, 64), *shared, part(64, 64), *wide, part(128, 64))
    cache, angles = [a.full(1, 16, 2, 16)], a.paddle.zeros([1, 8], dtype="float32")
    stack = k.DecoderStack((layer,), 4, 2, 16, 1e-5, 0.25)
    with a.paddle.no_grad():
        return k.decoder_step(a.full(1, 64), stack, k.Pages(cache, cache, a.ints(3)), angles, angles)


def _packed_rows(a: Ask) -> tuple[Any, ...]:
    rows, ends = a.full(256, 8, 40), a.ints(0, 100, 256)
    return rows, rows, rows, ends, ends


PROBES: dict[str, Callable[[Any, Ask], Any]] = {
    "attention": lambda k, a: k.attention(*_qkv(a)),
    "attention_varlen": lambda k, a: k.attention_varlen(*_packed_rows(a)),
    "attention_decode": lambda k, a: k.attention_decode(
        a.full(1, 1, 9, 64), a.full(1, 128, 3, 64), a.full(1, 128, 3, 64), a.ints(100)
    ),
    "linear": lambda k, a: k.linear(a.full(2, 64, 320), k.pack_linear(a.full(320, 320)), a.full(320)),
    "quantized_linear": _quantized,
    "decoder_step": _decoder,
    "conv2d": lambda k, a: k.conv2d(a.full(2, 16, 16, 64), k.pack_conv2d(a.full(64, 64, 3, 3)), a.full(64), padding=1),
    "group_norm": lambda k, a: k.group_norm(a.full(2, 64, 320), a.full(320), a.full(320), act="silu"),
    "layer_norm": lambda k, a: k.layer_norm(a.full(2, 64, 320), a.full(320), a.full(320)),
    "rms_norm": lambda k, a: k.rms_norm(a.full(2, 64, 320), a.full(320)),
    "rope": _rope,
    "geglu": lambda k, a: k.geglu(a.full(2, 64, 640)),
    "swiglu": lambda k, a: k.swiglu(a.full(2, 64, 320), a.full(2, 64, 320)),
    "silu": lambda k, a: k.silu(a.full(2, 64, 320)),
    "gelu": lambda k, a: k.gelu(a.full(2, 64, 320)),
    "gelu_tanh": lambda k, a: k.gelu_tanh(a.full(2, 64, 320)),
    "quick_gelu": lambda k, a: k.quick_gelu(a.full(2, 64, 320)),
    "add": lambda k, a: k.add(a.full(2, 64, 320), a.full(2, 64, 320)),
    "concat_channels": lambda k, a: k.concat_channels(a.full(2, 8, 8, 320), a.full(2, 8, 8, 640)),
    "upsample_nearest2x": lambda k, a: k.upsample_nearest2x(a.full(2, 8, 8, 320)),
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
    "adamw_step": _adamw,
}


def probe(op: str, ask: Ask) -> Choice:
    """Force the kernels of `op` in order until one takes the call. An error that is no refusal is not caught."""
    import kernels
    from kernels.choose import tables

    refused: dict[str, str] = {}
    for kernel in tables()[op]:
        try:
            with kernels.use(**{op: kernel.name}):
                PROBES[op](kernels, ask)
            return Choice(op, ask.dtype, kernel.name, refused)
        except ValueError as why:
            # "kernel 'x' was asked for but refuses op(...): the reason"
            start, refusal, rest = str(why).partition(f"refuses {op}(")
            if not refusal or not start:
                raise
            refused[kernel.name] = rest.partition("): ")[2]
    raise RuntimeError(f"no kernel of {op} takes a typical {ask.dtype} call: {refused}")


def choices(paddle: Any) -> list[Choice]:
    """Every op in every dtype, on the device that Paddle uses."""
    from kernels.choose import tables

    known = [op for op in tables() if op in PROBES]  # a test keeps PROBES complete
    return [probe(op, Ask(paddle, dtype)) for op in known for dtype in DTYPES]
