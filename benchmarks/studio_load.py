"""A studio under load: 8 clients post 200 jobs and cancel some at random, while somebody looks at the page.

    python benchmarks/studio_load.py [--jobs 200] [--clients 8]

Prints what became of the jobs (each must end in exactly one final state), how fast the page answered meanwhile, and the
memory of the process after a third and at the end. The model is a tiny random one; times are of this machine.
"""

import argparse
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PARAMS = {"prompt": "load", "steps": 2, "width": 64, "height": 64, "sampler": "Euler"}
FINAL = ("succeeded", "failed", "canceled")


def call(address: str, path: str, body: Any = None, method: str = "") -> Any:
    """JSON over HTTP."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"}, method=method or None)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def client(address: str, jobs: int, seed: int, ids: list[str], refused: list[int]) -> None:
    """Post, wait where the line is full, cancel a third."""
    dice = random.Random(seed)
    for _ in range(jobs):
        while True:
            try:
                made = call(
                    address, "/v1/jobs", {"kind": "generate", "params": PARAMS | {"seed": dice.randrange(2**31)}}
                )
                break
            except urllib.error.HTTPError as why:
                if why.code != 503:
                    raise
                refused.append(1)
                time.sleep(0.5)
        ids.append(made["id"])
        if dice.random() < 0.33:
            time.sleep(dice.random() * 0.3)
            call(address, f"/ui/queue/{made['id']}/cancel", {})


def memory(process: int) -> float:
    """Resident megabytes of a process (Linux)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Start a studio, load it, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as data:
        words = ["studio", "--tiny", "--no-browser", "--port", str(port), "--data", data]
        process = subprocess.Popen([sys.executable, "-m", "app.cli", *words], cwd=ROOT)
        try:
            _wait(address)
            _load(address, args, process.pid)
        finally:
            process.terminate()
            process.wait(20)


def _wait(address: str) -> None:
    for _ in range(600):
        try:
            return call(address, "/ui/queue")
        except OSError:
            time.sleep(0.2)


def _load(address: str, args: argparse.Namespace, process: int) -> None:
    ids: list[str] = []
    refused: list[int] = []
    share = args.jobs // args.clients
    begun = time.perf_counter()
    threads = [
        threading.Thread(target=client, args=(address, share, n, ids, refused), daemon=True)
        for n in range(args.clients)
    ]
    for thread in threads:
        thread.start()
    looks, sizes = [], []
    while True:
        at = time.perf_counter()
        told = call(address, "/ui/queue")
        looks.append(1000 * (time.perf_counter() - at))
        sizes.append(memory(process))
        if not told["open"] and not any(thread.is_alive() for thread in threads):
            break
        time.sleep(0.1)
    ends = Counter(call(address, f"/v1/jobs/{job}")["status"] for job in ids)
    assert set(ends) <= set(FINAL), ends
    assert sum(ends.values()) == len(set(ids)) == share * args.clients
    slow = statistics.quantiles(looks, n=20)[-1]
    print(f"{len(ids)} jobs in {time.perf_counter() - begun:.0f} s: {dict(ends)}; told to wait {len(refused)} times")
    usual = statistics.median(looks)
    print(f"the page's questions ({len(looks)}): median {usual:.0f} ms, 95 % {slow:.0f} ms, worst {max(looks):.0f} ms")
    third = sizes[len(sizes) // 3]
    print(f"memory: {third:.0f} MB after a third, {sizes[-1]:.0f} MB at the end")


if __name__ == "__main__":
    main()
