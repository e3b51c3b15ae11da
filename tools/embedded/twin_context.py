"""What all stages share: clock, averaged weights, data, logging, states, export."""

import argparse
import copy
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from compose import Library, Planner, stream
from safetensors.torch import load_file, save_file
from torch import nn
from twin_models import configs

ORDER = ["vae", "clip", "unet", "controlnet"]

TOKENIZER = ("vocab.json", "merges.txt", "special_tokens_map.json")

MINUTES = dict(vae=6.0, clip=3.0, unet=11.0, controlnet=3.0)


class Clock:
    """Progress of a stage from 0 to 1, by minutes or by steps."""

    def __init__(self, minutes: float, max_steps: int, spent: float = 0.0) -> None:
        self.total, self.max_steps, self.spent, self.t0, self.step = minutes * 60, max_steps, spent, time.time(), 0

    def elapsed(self) -> float:
        return self.spent + time.time() - self.t0

    def progress(self) -> float:
        p = self.elapsed() / max(1e-6, self.spent + self.total)
        return min(1.0, max(p, self.step / self.max_steps) if self.max_steps else p)

    def done(self) -> bool:
        return self.progress() >= 1.0


class EMA:
    def __init__(self, module: nn.Module, decay: float) -> None:
        self.p = list(module.parameters())
        self.s = [x.detach().clone().float() for x in self.p]
        self.decay, self.n = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        self.n += 1
        torch._foreach_lerp_(
            self.s, [x.detach().float() for x in self.p], 1 - min(self.decay, (1 + self.n) / (10 + self.n))
        )

    def swap(self) -> None:
        for x, s in zip(self.p, self.s, strict=False):
            t = x.data.clone()
            x.data.copy_(s)
            s.copy_(t)

    def state(self) -> dict[str, Any]:
        return {"s": self.s, "n": self.n}

    def load(self, st: dict[str, Any]) -> None:
        self.n = st["n"]
        for a, b in zip(self.s, st["s"], strict=False):
            a.copy_(b)


class Maybe:
    """torch.compile with a fall-back to plain execution when the first steps fail."""

    def __init__(self, fn: Callable[..., Any], on: bool) -> None:
        self.fn, self.calls, self.c = fn, 0, torch.compile(fn, dynamic=False) if on else None

    def __call__(self, *a: Any, **k: Any) -> Any:
        return (self.fn if self.c is None else self.c)(*a, **k)

    def drop(self) -> None:
        self.c = None


def lr_at(p: float, peak: float, warm: float = 0.03, final: float = 0.03) -> float:
    return peak * (
        p / warm if p < warm else final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (p - warm) / (1 - warm)))
    )


class Context:
    def __init__(self, a: argparse.Namespace) -> None:
        self.a = a
        self.dev = torch.device(a.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.cuda = self.dev.type == "cuda"
        self.out = Path(a.out)
        self.model = self.out / "model"
        for d in ("model", "state", "sheets"):
            (self.out / d).mkdir(parents=True, exist_ok=True)
        self.vcfg, self.ccfg, self.ucfg = configs(a.smoke, a)
        self.minutes, self.until = dict(MINUTES), a.until
        for kv in filter(None, a.minutes.split(",")):
            k, v = kv.split("=")
            self.minutes[k] = float(v)
        self.compile_on = a.compile if a.compile is not None else (self.cuda and not a.smoke)
        self.stage = ""
        self.max_steps = a.max_steps or (4 if a.smoke else 0)
        torch.manual_seed(a.seed)
        if self.cuda:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        t = time.time()
        self.lib = Library(
            a.data, self.dev, limit=a.limit or (160 if a.smoke else 0), exclude_licence=a.exclude_licence
        )
        self.log(f"data ready in {time.time() - t:.1f}s on {self.dev}, {self.lib.pictures.nbytes / 1e9:.2f} GB")
        from transformers import CLIPTokenizer

        src = self.model / "tokenizer" if (self.model / "tokenizer/vocab.json").exists() else Path(a.data) / "tokenizer"
        self.tok = CLIPTokenizer.from_pretrained(src)
        self.vocab = len(json.loads(Path(src / "vocab.json").read_text(encoding="utf-8")))
        if src != self.model / "tokenizer":  # stages that run side by side find it there
            self.tok.save_pretrained(self.model / "tokenizer")
            for f in TOKENIZER:  # newer tokenizers save tokenizer.json alone
                shutil.copyfile(src / f, self.model / "tokenizer" / f)
        self.mpath = self.out / "metrics.json"
        self.metrics = json.loads(Path(self.mpath).read_text(encoding="utf-8")) if self.mpath.exists() else {}
        self.workers = a.workers if a.workers >= 0 else 0 if a.smoke else min(12, max(1, (os.cpu_count() or 2) - 2))

    @property
    def compile(self) -> bool:
        return self.compile_on and self.stage in self.a.compile_stages.split(",")

    def log(self, s: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {s}", flush=True)
        with open(self.out / "train.log", "a") as f:
            f.write(s + "\n")

    def note(self, stage: str, **kw: Any) -> None:
        if self.mpath.exists():  # stages may run side by side
            self.metrics = json.loads(self.mpath.read_text(encoding="utf-8"))
        self.metrics.setdefault(stage, {}).update(kw)
        self.mpath.write_text(json.dumps(self.metrics, indent=1))
        self.log(f"{stage} metrics: {kw}")

    def clock(self, stage: str, spent: float = 0.0) -> Clock:
        """A clock of the stage's minutes, or to the second that --until names."""
        minutes = max(0.05, (self.until - time.time()) / 60) if self.until else self.minutes[stage]
        return Clock(minutes, self.max_steps, spent)

    def wait(self, *names: str) -> None:
        """Until other processes have written these parts of the model."""
        began = time.time()
        while not all(self.have(name) for name in names):
            if time.time() - began > self.a.wait:
                raise SystemExit(f"{self.stage}: no {' and '.join(names)} in {self.model} after {self.a.wait:.0f} s")
            time.sleep(0.5)

    def cast(self) -> torch.autocast:
        return torch.autocast("cuda", torch.bfloat16, enabled=self.cuda)

    def tokens(self, texts: list[str], n: int = 77) -> torch.Tensor:
        return torch.tensor(
            self.tok(texts, padding="max_length", truncation=True, max_length=n)["input_ids"], dtype=torch.int16
        )

    def planner(
        self, split: tuple[str, ...] = ("train",), seed: int = 0, plain: bool = False, alone: float = 0.0
    ) -> Planner:
        return Planner(self.lib.recs, self.lib.photo_recs, split, seed + self.a.seed, plain=plain, alone=alone)

    def plans(self, batch: int, seed: int = 0, n: int = 77) -> Iterator[dict[str, Any]]:
        alone = self.a.alone if self.stage in ("unet", "controlnet") else 0.0
        planner = self.planner(seed=seed, alone=alone)
        return stream(planner, batch, lambda t: self.tokens(t, n), self.workers, seed)

    def save_state(
        self,
        stage: str,
        clock: Clock,
        ema: EMA,
        opts: list[torch.optim.Optimizer],
        modules: list[nn.Module],
        extra: dict[str, Any] | None = None,
    ) -> None:
        if self.a.no_state:
            return
        p = self.out / "state" / f"{stage}.pt"
        torch.save(
            dict(
                step=clock.step,
                spent=clock.elapsed(),
                ema=ema.state(),
                opts=[o.state_dict() for o in opts],
                modules=[m.state_dict() for m in modules],
                extra=extra or {},
            ),
            str(p) + ".tmp",
        )
        os.replace(str(p) + ".tmp", p)

    def load_state(
        self, stage: str, ema: EMA, opts: list[torch.optim.Optimizer], modules: list[nn.Module]
    ) -> tuple[int, float]:
        p = self.out / "state" / f"{stage}.pt"
        if not (self.a.resume and p.exists()):
            return 0, 0.0
        st = torch.load(p, map_location=self.dev, weights_only=False)
        for m, s in zip(modules, st["modules"], strict=False):
            m.load_state_dict(s)
        for o, s in zip(opts, st["opts"], strict=False):
            o.load_state_dict(s)
        ema.load(st["ema"])
        self.log(f"{stage}: resumed at step {st['step']}")
        return st["step"], st["spent"]

    def export(self, module: nn.Module, name: str, prefix: str = "") -> None:
        """float16 weights in the model's folder; prefix: what every key begins with, whoever wrote it."""
        m = copy.deepcopy(module).to("cpu", torch.float16).to(memory_format=torch.contiguous_format)
        new = self.out / f"{name}.new"  # whole at once: other processes may wait for it
        m.save_pretrained(new, safe_serialization=True)
        if prefix:  # transformers' newer versions leave the classic "text_model." out
            file = new / "model.safetensors"
            named = {k if k.startswith(prefix) else prefix + k: v for k, v in load_file(file).items()}
            save_file(named, file, metadata={"format": "pt"})
        shutil.rmtree(self.model / name, ignore_errors=True)
        new.rename(self.model / name)

    def have(self, name: str) -> bool:
        return (self.model / name / "config.json").exists()


def adamw(
    ctx: Context, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.99), wd: float = 0.01
) -> torch.optim.AdamW:
    return torch.optim.AdamW(params, lr=lr, betas=betas, weight_decay=wd, fused=ctx.cuda)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((-10 * torch.log10(((a - b) ** 2).flatten(1).mean(1).clamp_min(1e-8))).mean())
