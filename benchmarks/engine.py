"""The engine under load beside static batching: requests of mixed lengths that arrive at random (Poisson).

    python benchmarks/engine.py MODEL [--users 1 4 16] [--requests 24] [--seed 1]

MODEL is a .gguf file or a Hugging Face folder. "N users" means that requests come N times as often as one alone would
take. Static batching is our own `stream` over whoever waits when the batch before is done: nobody joins it on the way,
and it ends with its longest answer. A third row has the same requests one after the other. Told are tokens a second
over all, the time to the first token (TTFT), the time between further ones (TPOT), and how many answers have exactly
the tokens that the request gets alone. With MIXSTUDIO_LLAMA_SERVER=http://127.0.0.1:8080 a running llama.cpp server is
measured with the same requests. Results go to benchmarks/data/engine.csv.
"""

import argparse
import csv
import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
DATA = ROOT / "benchmarks" / "data" / "engine.csv"
TEXT = (ROOT / "docs" / "training.md", ROOT / "docs" / "generate.md")
MOST = 16  # requests computed at once


@dataclass
class Asked:
    """One request and what became of it; times are seconds from the beginning."""

    ids: list[int]
    new: int
    at: float = 0.0
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def workload(tokenizer: Any, count: int, seed: int) -> list[Asked]:
    """Pieces of text of 8 to 300 tokens, answers of 8 to 96."""
    dice = np.random.default_rng(seed)
    ids = [i for file in TEXT for i in tokenizer.encode(file.read_text(encoding="utf-8"))]
    made = []
    for _ in range(count):
        length, start = int(np.exp(dice.uniform(np.log(8), np.log(300)))), int(dice.integers(0, len(ids) - 300))
        made.append(Asked(ids[start : start + length], int(dice.integers(8, 97))))
    return made


def arrivals(asked: list[Asked], gap: float, seed: int) -> list[Asked]:
    """The same requests at random times with that mean gap."""
    at = np.cumsum(np.random.default_rng(seed).exponential(gap, len(asked)))
    return [Asked(a.ids, a.new, float(t)) for a, t in zip(asked, at, strict=True)]


def config_for(new: int) -> Any:
    from mix.llm.sampling import GenerationConfig

    return GenerationConfig(max_new_tokens=new)


# --- ways to serve ---------------------------------------------------------------------------------------------------


def one_by_one(model: Any, asked: list[Asked]) -> None:
    """In the order of arrival, each alone."""
    began = time.perf_counter()
    for a in asked:
        time.sleep(max(0.0, a.at - (time.perf_counter() - began)))
        for event in model.stream([a.ids], generation_config=config_for(a.new)):
            if hasattr(event, "id"):
                a.times.append(time.perf_counter() - began)
                a.tokens.append(event.id)


def static(model: Any, asked: list[Asked]) -> None:
    """Batches of whoever waits."""
    began, waiting = time.perf_counter(), list(asked)
    while waiting:
        now = time.perf_counter() - began
        batch = [a for a in waiting if a.at <= now][:MOST]
        if not batch:
            time.sleep(max(0.0, waiting[0].at - now))
            continue
        waiting = [a for a in waiting if a not in batch]
        for event in model.stream([a.ids for a in batch], generation_config=config_for(max(a.new for a in batch))):
            if hasattr(event, "id") and len(batch[event.row].tokens) < batch[event.row].new:
                batch[event.row].times.append(time.perf_counter() - began)
                batch[event.row].tokens.append(event.id)


def engine(model: Any, asked: list[Asked]) -> None:
    """Ours."""
    from mix.llm.engine import Engine, Request

    def listener(a: Asked) -> Callable[[object], None]:
        def listen(event: object) -> None:
            if hasattr(event, "id"):
                a.times.append(time.perf_counter() - began)
                a.tokens.append(event.id)
            else:
                done.release()

        return listen

    done = threading.Semaphore(0)
    serving = Engine(model, None, blocks=1024, max_running=MOST, max_waiting=10_000).start()
    began = time.perf_counter()
    for a in asked:
        time.sleep(max(0.0, a.at - (time.perf_counter() - began)))
        serving.submit(Request(ids=a.ids, config=config_for(a.new)), listener(a))
    for _ in asked:
        done.acquire()
    serving.stop()


def llama_server(address: str) -> Callable[[object, list[Asked]], None]:
    """llama.cpp's own server; its tokens are not compared, only timed."""

    def ask(a: Asked, began: float) -> None:
        body = {
            "prompt": a.ids,
            "n_predict": a.new,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        told = urllib.request.Request(
            f"{address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(told, timeout=600) as answer:
            for line in answer:
                if line.startswith(b"data: ") and not json.loads(line[6:]).get("stop"):
                    a.times.append(time.perf_counter() - began)
                    a.tokens.append(-1)

    def run(_: object, asked: list[Asked]) -> None:
        began, callers = time.perf_counter(), []
        for a in asked:
            time.sleep(max(0.0, a.at - (time.perf_counter() - began)))
            callers.append(threading.Thread(target=ask, args=(a, began)))
            callers[-1].start()
        for caller in callers:
            caller.join()

    return run


# --- measuring -------------------------------------------------------------------------------------------------------


def told(way: str, users: int, asked: list[Asked], alone: list[list[int]]) -> dict[str, object]:
    """One row of the table."""
    first = [(a.times[0] - a.at) * 1000 for a in asked]
    between = [gap * 1000 for a in asked for gap in np.diff(a.times)]
    each = [(a.times[-1] - a.times[0]) / max(len(a.times) - 1, 1) * 1000 for a in asked if len(a.times) > 1]
    span = max(a.times[-1] for a in asked) - asked[0].at
    return {
        "way": way,
        "users": users,
        "requests": len(asked),
        "tokens_per_s": round(sum(len(a.tokens) for a in asked) / span, 1),
        "ttft_p50_ms": round(float(np.percentile(first, 50))),
        "ttft_p99_ms": round(float(np.percentile(first, 99))),
        "tpot_p50_ms": round(float(np.percentile(each, 50)), 1),
        "tpot_p99_ms": round(float(np.percentile(each, 99)), 1),
        "gap_p99_ms": round(float(np.percentile(between, 99)), 1),
        "same_tokens": sum(a.tokens == want for a, want in zip(asked, alone, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    from app.environment import import_paddle

    import_paddle()
    from mix.llm import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(args.model), AutoTokenizer.from_pretrained(args.model)
    asked = workload(tokenizer, args.requests, args.seed)
    one_by_one(model, asked[:2])  # warm
    calm = [Asked(a.ids, a.new) for a in asked]
    one_by_one(model, calm)
    alone, gap = [a.tokens for a in calm], calm[-1].times[-1] / len(calm)
    ways: dict[str, Callable] = {"one by one": one_by_one, "static batches": static, "engine": engine}
    if server := os.environ.get("MIXSTUDIO_LLAMA_SERVER"):
        ways["llama.cpp server"] = llama_server(server)
    rows = []
    for users in args.users:
        for name, way in ways.items():
            coming = arrivals(asked, gap / users, args.seed + users)
            way(model, coming)
            rows.append(told(name, users, coming, alone))
            print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    with DATA.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
