"""Quantised linear layers beside oneDNN in bfloat16, and numpy: `python benchmarks/quant_matmul.py [kinds] [--rows 1]`.

GB/s counts the bytes of the weight; the first line says what plain reading from memory reaches, in the same process and
with as many threads. A weight that fits into the last-level cache is read faster than that. `cold` rows go through so
many copies of the weight that every read comes from memory, as in a model's decode. Medians and the best of all calls:
on a shared machine the best says what the kernel can do, and the ratio to the line above is worth more than either.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from app import environment  # noqa: E402

environment.prepare()

import paddle  # noqa: E402

import kernels  # noqa: E402
from kernels import build  # noqa: E402
from kernels.quant_formats import ROUNDINGS  # noqa: E402
from kernels.quant_layout import KINDS  # noqa: E402

SHAPES = [(576, 576), (576, 192), (576, 960), (576, 1536), (1536, 576), (2048, 8192), (576, 49152)]
SECONDS = 0.4
SETTLE = 0.3  # numpy's and OpenMP's threads spin for a while after their last loop, each in the other's way
COLD = 192 << 20  # bytes that are gone through before a weight is read again


def timed(calls: Iterator[Callable[[], object]]) -> tuple[float, float]:
    """Median and best seconds of the calls that fit into SECONDS, five at least."""
    next(calls)()
    times: list[float] = []
    while len(times) < 5 or sum(times) < SECONDS:
        call = next(calls)
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), min(times)


def over(call: Callable[[], object]) -> Iterator[Callable[[], object]]:
    """The same call again and again."""
    while True:
        yield call


def stream() -> tuple[float, float]:
    """Bytes a second of plain reading, median and best: a maximum over 256 MiB by Paddle's or numpy's threads."""
    from concurrent.futures import ThreadPoolExecutor

    threads = int(os.environ["OMP_NUM_THREADS"])
    data = np.ones(64 << 20, np.float32)
    parts = np.array_split(data, threads)
    with ThreadPoolExecutor(threads) as pool:  # numpy lets go of the interpreter while it reduces
        middle, best = timed(over(lambda: list(pool.map(np.max, parts))))
    return data.nbytes / middle, data.nbytes / best


def weight_of(kind: str, width_in: int, width_out: int) -> "kernels.QuantizedWeight":
    """A weight of any kind; the K kinds, which we only read, from random blocks."""
    random, about = np.random.default_rng(0), KINDS[kind]
    if kind in ROUNDINGS:
        plain = random.standard_normal((width_in, width_out)).astype("float32") * 0.05
        return kernels.quantize(paddle.to_tensor(plain), kind)
    raw = random.integers(0, 256, (width_out, width_in // about.length, about.stored), dtype=np.uint8)
    for at in [208] if kind == "q6_k" else [0, 2]:
        raw[..., at : at + 2] = np.array([0.001], "<f2").view(np.uint8)
    return kernels.from_gguf(kind, raw, (width_in, width_out))


def through(weight: "kernels.QuantizedWeight", x: paddle.Tensor) -> Iterator[Callable[[], object]]:
    """The product with copy after copy of a weight."""
    copies = [
        kernels.QuantizedWeight(weight.kind, weight.shape, weight.blocks.clone(), weight.group)
        for _ in range(COLD // weight.nbytes + 1)
    ]
    while True:
        for copy in copies:
            yield lambda copy=copy: kernels.quantized_linear(x, copy)


def line(what: str, times: tuple[float, float], work: int, size: int) -> None:
    """Print one row: times, then work and bytes a second, median and best."""
    middle, best = times
    print(
        f"  {what:<16}{middle * 1e6:>10.0f}{best * 1e6:>10.0f} us{work / middle / 1e9:>8.0f}{work / best / 1e9:>8.0f}"
        f" GFLOP/s{size / middle / 1e9:>8.1f}{size / best / 1e9:>8.1f} GB/s",
        flush=True,
    )


def shape_rows(width_in: int, width_out: int, rows: int, kinds: list[str]) -> None:
    """All competitors on one shape."""
    print(f"{rows} x {width_in} by {width_in} x {width_out}: median and best")
    work, size = 2 * rows * width_in * width_out, width_in * width_out
    x = paddle.randn([rows, width_in]).astype("bfloat16")
    plain = paddle.randn([width_in, width_out])
    if size * rows <= 1 << 30:
        time.sleep(SETTLE)
        a, b = x.astype("float32").numpy(), plain.numpy()
        line("numpy float32", timed(over(lambda: a @ b)), work, 4 * size)
        time.sleep(SETTLE)
    packed = kernels.pack_linear(plain.astype("bfloat16"))
    line("oneDNN bfloat16", timed(over(lambda: kernels.linear(x, packed))), work, 2 * size)
    for kind in kinds:
        if width_in % KINDS[kind].length:
            continue
        weight = weight_of(kind, width_in, width_out)
        line(kind, timed(over(lambda w=weight: kernels.quantized_linear(x, w))), work, weight.nbytes)
        if rows == 1:
            line(f"{kind} cold", timed(through(weight, x)), work, weight.nbytes)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Quantised linear layers.")
    parser.add_argument("kinds", nargs="*", default=["q4_1", "q8_0", "q4_k", "q6_k", "int8", "int4"])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 512])
    options = parser.parse_args()
    if (why := build.why_not("quant")) is not None:
        sys.exit(f"the kernels are not there: {why}")
    middle, best = stream()
    print(
        f"reading from memory: {middle / 1e9:.1f} GB/s, best {best / 1e9:.1f}; {os.environ['OMP_NUM_THREADS']} threads"
    )
    with paddle.no_grad():
        for rows in options.rows:
            for shape in SHAPES:
                shape_rows(*shape, rows, options.kinds)


if __name__ == "__main__":
    main()
