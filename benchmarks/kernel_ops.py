"""Single ops beside torch's: `MIXSTUDIO_REFERENCE_PYTHON=/path/to/python python benchmarks/kernel_ops.py [words of the rows wanted]`.

Each side is a process of its own (torch never shares one with Paddle). For every row the two are asked in turn, three times, and the
median of all calls counts. One row of the table below: op, what, arguments of the op's maker on both sides.
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

ROOT = Path(__file__).parent.parent
ROUNDS, SECONDS = 3, 0.7  # a side gets SECONDS a round, and at least three calls
SETTLE = 0.3  # the other side's OpenMP threads spin this long after their last loop
DTYPES = ("float32", "bfloat16")


def _attention(what: str, batch: int, length: int, keys: int, heads: int, groups: int, dim: int, **more: Any) -> dict[str, Any]:
    return {
        "op": "attention",
        "what": what,
        "arguments": {"q": [batch, length, heads, dim], "kv": [batch, keys, groups, dim], **more},
    }


def _decode(what: str, batch: int, keys: int, heads: int, groups: int, dim: int) -> dict[str, Any]:
    arguments = {"q": [batch, 1, heads, dim], "kv": [batch, keys, groups, dim]}
    return {"op": "attention_decode", "what": what, "arguments": arguments}


ROWS = [
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


SIDES: dict[str, dict[str, Callable[..., Callable[[], Any]]]] = {
    "mixstudio": {"attention": _our_attention, "attention_decode": _our_decode},
    "torch": {"attention": _torch_attention, "attention_decode": _torch_attention},
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
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(row) + "\n")
    server.stdin.flush()
    while line := server.stdout.readline():
        if line.startswith("["):  # anything else is a library's greeting
            return json.loads(line)
    raise RuntimeError("a side ended; run it alone with --serve to see why")


def main() -> None:
    """Print one line a row and dtype: both medians and how many times faster ours is."""
    parser = argparse.ArgumentParser(description="Single ops beside torch's.")
    parser.add_argument("words", nargs="*", help="only rows that contain all of these words")
    parser.add_argument("--serve", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return _serve(options.serve)
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
