"""Single ops beside torch's.

    MIXSTUDIO_REFERENCE_PYTHON=/path/to/python python benchmarks/kernel_ops.py [words that the wanted rows contain]

Each side is a process of its own (torch never shares one with Paddle). For every row the two are asked in turn, three
times, and the median of all calls counts.
A row of the table below: op, what, arguments of the op's maker on both sides.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pointwise_rows

ROOT = Path(__file__).parent.parent
ROUNDS, SECONDS = 3, 0.7  # a side gets SECONDS a round, and at least three calls
SETTLE = 0.3  # the other side's OpenMP threads spin this long after their last loop
DTYPES = ("float32", "bfloat16")


def _attention(
    what: str, batch: int, length: int, keys: int, heads: int, groups: int, dim: int, **more: Any
) -> dict[str, Any]:
    return {
        "op": "attention",
        "what": what,
        "arguments": {"q": [batch, length, heads, dim], "kv": [batch, keys, groups, dim], **more},
    }


def _decode(what: str, batch: int, keys: int, heads: int, groups: int, dim: int) -> dict[str, Any]:
    arguments = {"q": [batch, 1, heads, dim], "kv": [batch, keys, groups, dim]}
    return {"op": "attention_decode", "what": what, "arguments": arguments}


def _linear(what: str, rows: int, width_in: int, width_out: int, **more: Any) -> dict[str, Any]:
    arguments = {"x": [rows, width_in], "weight": [width_in, width_out], **more}
    return {"op": "linear", "what": what, "arguments": arguments}


def _conv2d(
    what: str, batch: int, side: int, width_in: int, width_out: int, kernel: int = 3, **more: Any
) -> dict[str, Any]:
    arguments = {"x": [batch, side, side, width_in], "weight": [width_out, width_in, kernel, kernel], **more}
    return {"op": "conv2d", "what": what, "arguments": arguments}


ROWS = [
    _conv2d("320 -> 320 @ 64", 2, 64, 320, 320),
    _conv2d("640 -> 640 @ 32", 2, 32, 640, 640),
    _conv2d("1280 -> 1280 @ 16", 2, 16, 1280, 1280),
    _conv2d("1280 -> 1280 @ 8", 2, 8, 1280, 1280),
    _conv2d("960 -> 320 @ 64", 2, 64, 960, 320),
    _conv2d("4 -> 320 @ 64", 2, 64, 4, 320),
    _conv2d("320 -> 4 @ 64", 2, 64, 320, 4),
    _conv2d("VAE 128 -> 128 @ 512", 1, 512, 128, 128),
    _conv2d("1x1 320 -> 640 @ 64", 2, 64, 320, 640, 1),
    _conv2d("320 @ 64, residual", 2, 64, 320, 320, residual=True),
    _conv2d("320 @ 64, training", 2, 64, 320, 320, grad=True),
    _linear("8192 x 320 x 2560", 8192, 320, 2560),
    _linear("8192 x 320 x 2560 geglu", 8192, 320, 2560, act="geglu"),
    _linear("8192 x 1280 x 320, residual", 8192, 1280, 320, residual=True),
    _linear("512 x 1280 x 10240", 512, 1280, 10240),
    _linear("cross attention 154 x 768 x 320", 154, 768, 320),
    _linear("CLIP 77 x 768 x 3072 quick_gelu", 77, 768, 3072, act="quick_gelu"),
    _linear("one token 1 x 576 x 1536", 1, 576, 1536),
    _linear("one token 1 x 576 x 49152", 1, 576, 49152),
    _linear("4 tokens 4 x 4096 x 4096", 4, 4096, 4096),
    _linear("8192 x 320 x 2560, training", 8192, 320, 2560, grad=True),
    _attention("SD 1.5 64x64 self", 2, 4096, 4096, 8, 8, 40),
    _attention("SD 1.5 32x32 self", 2, 1024, 1024, 8, 8, 80),
    _attention("SD 1.5 16x16 self", 2, 256, 256, 8, 8, 160),
    _attention("SD 1.5 64x64 cross", 2, 4096, 77, 8, 8, 40),
    _attention("SDXL 64x64 self", 2, 4096, 4096, 10, 10, 64),
    _attention("VAE 64x64", 1, 4096, 4096, 1, 1, 512),
    _attention("language model 512", 1, 512, 512, 9, 3, 64, causal=True),
    _attention("language model 2048", 1, 2048, 2048, 9, 3, 64, causal=True),
    _attention("SD 1.5 32x32 self, training", 2, 1024, 1024, 8, 8, 80, grad=True),
    _attention("language model 512, training", 4, 512, 512, 9, 3, 64, causal=True, grad=True),
    _decode("9/3 heads, 2048 keys", 1, 2048, 9, 3, 64),
    _decode("32/8 heads, 4096 keys, batch 4", 4, 4096, 32, 8, 128),
    *pointwise_rows.ROWS,
]


# MixStudio's side ----------------------------------------------------------------------------------------------------


def _paddle_inputs(arguments: dict[str, Any], dtype: str) -> list[Any]:
    import paddle

    paddle.seed(0)
    return [paddle.randn(arguments[name]).astype(dtype) for name in ("q", "kv", "kv")]


def _our_attention(dtype: str, causal: bool = False, grad: bool = False, **arguments: Any) -> Callable[[], Any]:
    import paddle

    from kernels import attention

    tensors = _paddle_inputs(arguments, dtype)
    if not grad:
        return lambda: attention(*tensors, causal=causal)
    for t in tensors:
        t.stop_gradient = False
    weight = paddle.randn(arguments["q"]).astype(dtype)
    return lambda: paddle.grad(attention(*tensors, causal=causal), tensors, weight)


def _our_decode(dtype: str, **arguments: Any) -> Callable[[], Any]:
    import paddle

    from kernels import attention_decode

    tensors = _paddle_inputs(arguments, dtype)
    lengths = paddle.full([arguments["kv"][0]], arguments["kv"][1], dtype="int32")
    return lambda: attention_decode(*tensors, lengths)


def _our_layer(op: str) -> Callable[..., Callable[[], Any]]:
    def make(
        dtype: str, x: list[int], weight: list[int], grad: bool = False, residual: bool = False, **how: Any
    ) -> Any:
        import paddle

        import kernels

        paddle.seed(0)
        run = {"linear": kernels.linear, "conv2d": kernels.conv2d}[op]
        if op == "conv2d":
            how["padding"] = weight[2] // 2
        outputs = weight[1] if op == "linear" else weight[0]
        values, w, b = (paddle.randn(shape).astype(dtype) for shape in (x, weight, [outputs]))
        if grad:
            for t in (values, w, b):
                t.stop_gradient = False
            cotangent = paddle.randn([*x[:-1], outputs]).astype(dtype)
            return lambda: paddle.grad(run(values, w, b, **how), [values, w, b], cotangent)
        packed = {"linear": kernels.pack_linear, "conv2d": kernels.pack_conv2d}[op](w)
        how["residual"] = paddle.randn([*x[:-1], outputs]).astype(dtype) if residual else None
        return lambda: run(values, packed, b, **how)

    return make


# torch's side --------------------------------------------------------------------------------------------------------


def _torch_attention(dtype: str, causal: bool = False, grad: bool = False, **arguments: Any) -> Callable[[], Any]:
    import torch

    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    tensors = [torch.randn(arguments[name]).transpose(1, 2).to(kind) for name in ("q", "kv", "kv")]
    grouped = tensors[0].shape[1] != tensors[1].shape[1]

    def run() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal, enable_gqa=grouped)

    if not grad:
        return torch.no_grad()(run)
    for t in tensors:
        t.requires_grad_()
    weight = torch.randn_like(tensors[0])
    return lambda: torch.autograd.grad(run(), tensors, weight)


def _torch_layer(op: str) -> Callable[..., Callable[[], Any]]:
    def make(
        dtype: str, x: list[int], weight: list[int], grad: bool = False, residual: bool = False, act: str | None = None
    ) -> Any:
        import torch
        from torch.nn import functional

        torch.manual_seed(0)
        kind, outputs = getattr(torch, dtype), weight[1] if op == "linear" else weight[0]
        values, w, b, rest = (torch.randn(shape, dtype=kind) for shape in (x, weight, [outputs], [*x[:-1], outputs]))
        if op == "linear":
            w = w.t().contiguous()
        else:  # torch is fastest on channels-last pictures, too
            values, rest, w = (
                values.permute(0, 3, 1, 2),
                rest.permute(0, 3, 1, 2),
                w.contiguous(memory_format=torch.channels_last),
            )

        def run() -> Any:
            y = (
                functional.linear(values, w, b)
                if op == "linear"
                else functional.conv2d(values, w, b, padding=weight[2] // 2)
            )
            if act == "geglu":
                first, second = y.chunk(2, dim=-1)
                y = first * functional.gelu(second)
            elif act == "quick_gelu":
                y = y * torch.sigmoid(1.702 * y)
            return y + rest if residual else y

        if not grad:
            return torch.no_grad()(run)
        for t in (values, w, b):
            t.requires_grad_()
        return lambda: torch.autograd.grad(run(), (values, w, b), rest)

    return make


SIDES: dict[str, dict[str, Callable[..., Callable[[], Any]]]] = {
    "mixstudio": {
        "attention": _our_attention,
        "attention_decode": _our_decode,
        "linear": _our_layer("linear"),
        "conv2d": _our_layer("conv2d"),
        **{op: pointwise_rows.ours(op) for op in pointwise_rows.OPS},
    },
    "torch": {
        "attention": _torch_attention,
        "attention_decode": _torch_attention,
        "linear": _torch_layer("linear"),
        "conv2d": _torch_layer("conv2d"),
        **{op: pointwise_rows.theirs(op) for op in pointwise_rows.OPS},
    },
}


def _serve(side: str) -> None:
    """Time what is asked on standard input: one JSON line in, one line of milliseconds out."""
    if side == "torch":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    else:
        sys.path.insert(0, str(ROOT))
    made: tuple[str, Callable[[], Any]] = ("", lambda: None)
    for line in sys.stdin:
        if line != made[0]:
            ask = json.loads(line)
            made = (line, SIDES[side][ask["op"]](ask["dtype"], **ask["arguments"]))
            made[1]()
        times: list[float] = []
        while len(times) < 3 or sum(times) < SECONDS:
            begin = time.perf_counter()
            made[1]()
            times.append(time.perf_counter() - begin)
        sys.stdout.write(json.dumps([1e3 * t for t in times]) + "\n")
        sys.stdout.flush()


def _start(python: str, side: str) -> "subprocess.Popen[str]":
    threads = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count() or 1)
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_DEBUG_CPU_TYPE": "5"}
    command = [python, str(Path(__file__).resolve()), "--serve", side]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=env, cwd="/")


def _ask(server: "subprocess.Popen[str]", row: dict[str, Any]) -> list[float]:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(row) + "\n")
    server.stdin.flush()
    while line := server.stdout.readline():
        if line.startswith("["):  # anything else is a library's greeting
            return json.loads(line)
    raise RuntimeError("a side ended; run it alone with --serve to see why")


def _build() -> None:
    """Build the kernels and name those that are missing: their rows would silently time plain Paddle."""
    command = [sys.executable, "-m", "kernels.build"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in done.stdout.splitlines():
        if not line.endswith(": ready"):
            print(f"not native: {line}")


def main() -> None:
    """Print one line a row and dtype: both medians and how many times faster ours is."""
    parser = argparse.ArgumentParser(description="Single ops beside torch's.")
    parser.add_argument("words", nargs="*", help="only rows that contain all of these words")
    parser.add_argument("--serve", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return _serve(options.serve)
    _build()
    python = os.environ.get("MIXSTUDIO_REFERENCE_PYTHON")
    servers = {"mixstudio": _start(sys.executable, "mixstudio")}
    if python:
        servers["torch"] = _start(python, "torch")
    print(f"{'op':<18}{'what':<34}{'dtype':<10}{'ours ms':>9}{'torch ms':>10}{'faster':>8}")
    for row in ROWS:
        for dtype in DTYPES:
            if not all(word in f"{row['op']} {row['what']} {dtype}" for word in options.words):
                continue
            times: dict[str, list[float]] = {side: [] for side in servers}
            for _ in range(ROUNDS):
                for side, server in servers.items():
                    times[side] += _ask(server, {**row, "dtype": dtype})
                    time.sleep(SETTLE)
            ours, theirs = (statistics.median(times[s]) if s in times else float("nan") for s in ("mixstudio", "torch"))
            line = f"{row['op']:<18}{row['what']:<34}{dtype:<10}{ours:>9.2f}{theirs:>10.2f}{theirs / ours:>7.2f}x"
            print(line, flush=True)
    for server in servers.values():
        server.terminate()


if __name__ == "__main__":
    main()
