"""Pictures and captions for training the embedded models.

Library  reads the pack archives into one uint8 tensor (RGBA, 256 px) on the
         training device, and the photo crops into another.
Planner  draws random compositions (which objects, where, which background)
         together with the caption that tells exactly that; pure numpy, so it
         can run in worker processes.
render   turns a plan into pictures on the device.

Run this file to look at compositions:  python compose.py --data . --sheet out.png
"""

import io
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scenes import DARK, HUES, PALETTE, SCENES, SLOTS, STYLE, UNCOUNT, plural, with_article
from word_lists import words


class Library:
    def __init__(
        self,
        data: str | Path,
        device: Any = "cpu",
        limit: int = 0,
        exclude_licence: str = "",
        photo_limit: int = 0,
        verbose: bool = True,
    ) -> None:
        data = Path(data)
        recs = [
            json.loads(line)
            for line in Path(data / "captions.jsonl").read_text(encoding="utf-8", errors="ignore").splitlines()
        ]
        photos = [
            json.loads(line)
            for line in Path(data / "photos.jsonl").read_text(encoding="utf-8", errors="ignore").splitlines()
        ]
        if exclude_licence:
            bad = re.compile(exclude_licence)
            recs = [r for r in recs if not bad.search(r["licence"])]
            photos = [r for r in photos if not bad.search(r["licence"])]
        have = {p.name for p in data.glob("pack_*.tar")}
        recs = [r for r in recs if r["archive"] in have]
        photos = [r for r in photos if r["archive"] in have]
        if limit:
            recs = [recs[i] for i in np.random.RandomState(0).permutation(len(recs))[:limit]]
            photos = photos[:: max(1, len(photos) // max(1, photo_limit or limit // 4))]
        blobs = {}
        want = {r["file"] for r in recs} | {r["file"] for r in photos}
        for name in sorted(have):
            with tarfile.open(data / name) as tf:
                for m in tf:
                    if m.name in want:
                        blobs[m.name] = tf.extractfile(m).read()

        def rgba(r: Any) -> torch.Tensor:
            return np.asarray(Image.open(io.BytesIO(blobs[r["file"]])).convert("RGBA"))

        def rgb(r: Any) -> torch.Tensor:
            return np.asarray(Image.open(io.BytesIO(blobs[r["file"]])).convert("RGB"))

        with ThreadPoolExecutor(os.cpu_count()) as ex:
            self.pictures = (
                torch.from_numpy(np.stack(list(ex.map(rgba, recs)))).permute(0, 3, 1, 2).contiguous().to(device)
            )
            self.photos = (
                torch.from_numpy(np.stack(list(ex.map(rgb, photos)))).permute(0, 3, 1, 2).contiguous().to(device)
            )
        self.recs, self.photo_recs, self.device = recs, photos, torch.device(device)
        if verbose:
            print(f"library: {len(recs)} pictures, {len(photos)} photo crops, archives {sorted(have)}", flush=True)


class Planner:
    """Random compositions; picklable (holds records, no pictures).

    alone: the share that is one large drawing in one place on a plain ground: shapes are learnt from these first.
    """

    def __init__(
        self,
        recs: list[dict[str, Any]],
        photo_recs: list[dict[str, Any]],
        split: tuple[str, ...] = ("train",),
        seed: int = 0,
        plain: bool = False,
        alone: float = 0.0,
    ) -> None:
        self.recs, self.photo_recs, self.plain, self.alone = recs, photo_recs, plain, alone
        self.pool = [i for i, r in enumerate(recs) if r["split"] in split]
        self.photo_pool = [i for i, r in enumerate(photo_recs) if r["split"] == "train"]
        byname = defaultdict(list)
        for i in self.pool:
            byname[recs[i]["name"]].append(i)
        # every object name weighs the square root of its number of drawings
        w = np.array([1 / np.sqrt(len(byname[recs[i]["name"]])) for i in self.pool])
        st = np.array(
            [
                0.35 if recs[i]["style"] == "outline" else 0.5 if recs[i]["style"] == "silhouette" else 1.0
                for i in self.pool
            ]
        )
        st *= [recs[i].get("weight", 1.0) for i in self.pool]
        self.w = np.cumsum(w * st / (w * st).sum())
        self.bystyle = defaultdict(list)
        for i in self.pool:
            if not recs[i]["opaque"]:
                self.bystyle[recs[i]["style"]].append(i)
        self.rng = np.random.default_rng(seed)

    def reseed(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self) -> dict[str, Any]:
        return self.pool[int(min(np.searchsorted(self.w, self.rng.random()), len(self.pool) - 1))]

    def colour(self, word: str, jitter: float = 12) -> Any:
        return np.clip(np.array(PALETTE[word], np.float32) + self.rng.uniform(-jitter, jitter, 3), 0, 255)

    def subject(self, rec: dict[str, Any], hue: Any = None, bare: bool = False, colour_p: float = 0.5) -> Any:
        """Noun phrase, with the colour word when one holds."""
        n = rec["name"]
        if hue:
            n = f"{hue} {n}"
        elif rec["colour"] and self.rng.random() < colour_p and rec["colour"] not in n.split():
            n = f"{rec['colour']} {n}"
        return n if bare else with_article(n, rec)

    def maybe_hue(self, rec: dict[str, Any]) -> Any:
        """(degrees, colour word) of a recolouring, or (0, None)."""
        c = rec["colour"]
        p = {
            "5": 0.3,
            "6": 0.3,
            "7": 0.3,
            "clothes": 0.3,
            "oxygen": 0.2,
            "3": 0.12,
            "vehicles": 0.3,
            "transportation": 0.3,
            "4": 0.06,
        }.get(rec["group"], 0.1)
        if c in HUES and rec["style"] not in ("photo",) and self.rng.random() < p:
            to = list(HUES)[self.rng.integers(len(HUES))]
            if to != c:
                return float(HUES[to] - HUES[c]), to
        return 0.0, None

    def background(self, recs: list[dict[str, Any]], hues: Any, even: bool = False) -> Any:
        """(array, phrase): four corner colours, horizon, stars, photo fields."""
        r = self.rng
        bg = np.zeros(20, np.float32)  # 0 kind 1..12 colours 13 horizon 14 stars 15 photo 16 zoom 17 ox 18 oy 19 blur
        light_only = any(x["style"] in ("outline", "silhouette") or x["colour"] == "black" for x in recs)
        avoid = {x["colour"] for x in recs} | {h for h in hues if h}
        words = [
            w
            for w in PALETTE
            if not (light_only and w in DARK) and w not in avoid and not any(a and a in w for a in avoid)
        ]
        u = r.random() * (0.64 if even else 1)
        if self.plain or u < 0.34:
            c = np.array([255, 255, 255], np.float32)
            bg[1:13] = np.tile(c, 4)
            bg[13] = 1.0
            return bg, (
                ""
                if self.plain or r.random() < 0.5
                else ["on a white background", "on white", "isolated on a white background"][r.integers(3)]
            )
        if u < 0.64:
            w = words[r.integers(len(words))]
            c = self.colour(w)
            bg[1:13] = np.tile(c, 4)
            bg[13] = 1.0
            return bg, [f"on a {w} background", f"{w} background", f"on a plain {w} background"][
                r.choice(3, p=[0.6, 0.25, 0.15])
            ].replace("a orange", "an orange")
        if u < 0.76:
            a, b = r.choice(len(words), 2, replace=False)
            ca, cb = self.colour(words[a]), self.colour(words[b])
            bg[1:7] = np.concatenate([ca, cb])
            bg[7:13] = np.concatenate([cb, cb])
            bg[13] = 1.0
            txt = [
                f"on a {words[a]} and {words[b]} gradient background",
                f"on a gradient background from {words[a]} to {words[b]}",
                "on a gradient background",
            ][r.integers(3)]
            return bg, txt.replace("a orange", "an orange")
        if u < 0.90:
            keys = [k for k in SCENES if not (light_only and k in ("night", "space", "sunset"))]
            k = keys[r.integers(len(keys))]
            ph, c1, c2, c3, c4, stars = SCENES[k]
            j = r.uniform(-10, 10, 3)
            bg[1:13] = np.clip(np.concatenate([np.array(c) + j for c in (c1, c2, c3, c4)]), 0, 255)
            bg[13] = r.uniform(0.5, 0.75) if k not in ("space",) else 0.5
            bg[14] = stars
            return bg, ph[r.integers(len(ph))]
        i = self.photo_pool[r.integers(len(self.photo_pool))]
        z = r.uniform(0.6, 1.0)
        bg[0], bg[15], bg[16], bg[17], bg[18] = 1, i, z, r.uniform(-(1 - z), 1 - z), r.uniform(-(1 - z), 1 - z)
        blur = r.random() < 0.5
        bg[19] = float(blur)
        cap = self.photo_recs[i].get("caption", "")
        if blur:
            return bg, "on a blurred background" if r.random() < 0.7 else "with a blurry background"
        return bg, f"in front of {cap}" if cap and r.random() < 0.8 else "on a photo background"

    def one(self, index: int | None = None, style_p: float = 0.8) -> Any:
        r = self.rng
        idx = np.full(SLOTS, -1, np.int64)
        geo = np.zeros((SLOTS, 5), np.float32)  # cx cy scale flip rotation
        hue = np.zeros(SLOTS, np.float32)
        i = self.pick() if index is None else index
        a = self.recs[i]
        if a["opaque"]:
            idx[0], geo[0] = i, (0, 0, 256 / 254, float(a["flip"] and r.random() < 0.5), 0)
            bg = np.zeros(20, np.float32)
            bg[1:13], bg[13] = 255, 1
            return idx, geo, hue, bg, self.styled(a["style"], [self.subject(a)], [a["name"]], style_p)
        alone = not self.plain and r.random() < self.alone
        u = r.random() if not (self.plain or alone) else 1.0
        countable = (
            not a["plural"]
            and a["name"].split()[-1] not in UNCOUNT
            and len(a["name"].split()) <= 2
            and a["group"] in words("3 4 5 6 7 animals food tools")
            and not re.search(r"face|with|and|person|man|woman|moon|city|night|park|sun\b", a["name"])
        )

        def flip(x: dict[str, Any]) -> float:
            return float(x["flip"] and r.random() < 0.5)

        def rot() -> float:
            return float(np.deg2rad(r.normal(0, 5))) if r.random() < 0.35 else 0.0

        if u < 0.06 and countable:
            n = int(r.integers(2, 4))
            deg, hw = self.maybe_hue(a)
            c = [(-0.46, 0.46), (-0.60, 0, 0.60)][n - 2]
            vertical = r.random() < 0.15
            for k in range(n):
                s = r.uniform(0.40, 0.46) if n == 2 else r.uniform(0.28, 0.32)
                j = r.uniform(-0.03, 0.03, 2)
                p = (c[k], 0.0) if not vertical else (0.0, c[k])
                if n == 3 and not vertical and r.random() < 0.0:
                    p = p
                idx[k], geo[k], hue[k] = i, (p[0] + j[0], p[1] + j[1], s, 0.0, 0.0), deg
            noun = plural(a["name"])
            word = hw or (a["colour"] if a["colour"] and r.random() < 0.5 else None)
            recs, phrases = [a], [f"{['two', 'three'][n - 2]} {word + ' ' if word else ''}{noun}"]
            bg, bt = self.background(recs, [hw])
            cap = self.styled(a["style"], phrases, [phrases[0]], style_p)
            return idx, geo, hue, bg, self.join(cap, bt)
        if u < 0.22:
            same = self.bystyle[a["style"]]
            j = same[r.integers(len(same))] if r.random() < 0.8 else self.pick()
            b = self.recs[j]
            if j != i and not b["opaque"] and b["name"] != a["name"]:
                rel = r.choice(["beside", "leftright", "above"], p=[0.55, 0.25, 0.2])
                s1, s2 = r.uniform(0.36, 0.48, 2)
                jit = r.uniform(-0.05, 0.05, 4)
                if rel == "above":
                    geo[0] = (jit[0], -0.48 + 0.02 * jit[1], s1, flip(a), rot())
                    geo[1] = (jit[2], 0.48 + 0.02 * jit[3], s2, flip(b), rot())
                else:
                    geo[0] = (-0.48 + 0.02 * jit[0], jit[1], s1, flip(a), rot())
                    geo[1] = (0.48 + 0.02 * jit[2], jit[3], s2, flip(b), rot())
                idx[0], idx[1] = i, j
                d1, h1 = self.maybe_hue(a)
                d2, h2 = self.maybe_hue(b)
                hue[0], hue[1] = d1, d2
                pa, pb = self.subject(a, h1), self.subject(b, h2)
                if rel == "above":
                    t = f"{pa} above {pb}" if r.random() < 0.5 else f"{pb} below {pa}"
                elif rel == "leftright":
                    t = f"{pa} on the left and {pb} on the right"
                else:
                    t = [f"{pa} and {pb}", f"{pa} next to {pb}", f"{pb} and {pa}"][r.choice(3, p=[0.5, 0.3, 0.2])]
                bg, bt = self.background([a, b], [h1, h2])
                st = a["style"] if a["style"] == b["style"] else None
                return idx, geo, hue, bg, self.join(self.styled(st, [t], [t], style_p), bt)
        deg, hw = self.maybe_hue(a) if not self.plain else (0.0, None)
        v = r.random()
        size = pos = ""
        if alone:
            s = r.uniform(0.86, 0.90)
            cx, cy = r.uniform(-0.02, 0.02, 2)
        elif self.plain or v < 0.62:
            s = r.uniform(0.66, 0.98)
            m = 1 - s
            cx, cy = r.uniform(-m, m) * 0.6, r.uniform(-m, m) * 0.6
        elif v < 0.80:
            s = r.uniform(0.30, 0.46)
            size = "small"
            cx, cy = r.uniform(-0.1, 0.1, 2)
        else:
            s = r.uniform(0.36, 0.54)
            m = 1 - s
            k = r.integers(4)
            cx, cy = [
                (-m * r.uniform(0.75, 1), r.uniform(-0.2, 0.2)),
                (m * r.uniform(0.75, 1), r.uniform(-0.2, 0.2)),
                (r.uniform(-0.2, 0.2), -m * r.uniform(0.75, 1)),
                (r.uniform(-0.2, 0.2), m * r.uniform(0.75, 1)),
            ][k]
            pos = ["on the left", "on the right", "at the top", "at the bottom"][k]
        turned = rot() if not (self.plain or alone) else 0.0
        idx[0], geo[0], hue[0] = i, (cx, cy, s, 0.0 if alone else flip(a), turned), deg
        bg, bt = self.background([a], [hw], even=alone)
        noun = self.subject(a, hw, bare=True)
        if size and r.random() < 0.7:
            noun = "small " + noun
        subj = with_article(noun, a)
        if pos and r.random() < 0.8:
            subj = f"{subj} {pos}"
            noun = f"{noun} {pos}"
        cap = self.styled(a["style"], [subj], [noun], style_p)
        if not self.plain and a["keywords"] and r.random() < 0.12:
            ks = list(r.permutation(a["keywords"])[:2])
            return idx, geo, hue, bg, self.join(cap, bt) + ", " + ", ".join(map(str, ks))
        return idx, geo, hue, bg, self.join(cap, bt)

    def styled(self, style: str, phrases: Any, bare: Any, style_p: float) -> str:
        t = " and ".join(phrases)
        if style is None or self.rng.random() > style_p:
            return t
        f = STYLE[style][self.rng.integers(len(STYLE[style]))]
        if "{bare}" in f:
            if t[:2] not in ("a ", "an") or " and " in t:
                f = STYLE[style][0]
                return f.format(t)
            return f.format(bare=bare[0])
        return f.format(t)

    def join(self, cap: str, bt: str) -> str:
        return f"{cap} {bt}" if bt and self.rng.random() < 0.75 else f"{cap}, {bt}" if bt else cap

    def batch(self, n: int, indices: Sequence[int] | None = None, style_p: float = 0.8) -> dict[str, Any]:
        out = [self.one(None if indices is None else indices[k], style_p) for k in range(n)]
        return dict(
            idx=np.stack([o[0] for o in out]),
            geo=np.stack([o[1] for o in out]),
            hue=np.stack([o[2] for o in out]),
            bg=np.stack([o[3] for o in out]),
            text=[o[4] for o in out],
        )


class PlanStream(torch.utils.data.IterableDataset):
    """Endless batches of plans with token ids, for a DataLoader with workers."""

    def __init__(self, planner: Planner, batch: int, tokenize: Callable[[list[str]], Any], seed: int = 0) -> None:
        self.planner, self.n, self.tokenize, self.seed = planner, batch, tokenize, seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        self.planner.reseed(self.seed * 1009 + (info.id if info else 0) + int(torch.initial_seed() % 99991))
        while True:
            p = self.planner.batch(self.n)
            ids = self.tokenize(p["text"])
            yield {k: torch.from_numpy(v) for k, v in p.items() if k != "text"} | {"ids": ids}


def stream(
    planner: Planner, batch: int, tokenize: Callable[[list[str]], Any], workers: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    dl = torch.utils.data.DataLoader(
        PlanStream(planner, batch, tokenize, seed),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        persistent_workers=False,
    )
    return iter(dl)


if __name__ == "__main__":
    import argparse

    from drawing import render, sheet

    ap = argparse.ArgumentParser()
    ap.add_argument("--data", default=".")
    ap.add_argument("--sheet", default="compositions.png")
    ap.add_argument("--limit", type=int, default=1500)
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    lib = Library(a.data, limit=a.limit)
    pl = Planner(lib.recs, lib.photo_recs, seed=a.seed)
    p = pl.batch(64)
    sheet(render(lib, p), p["text"], a.sheet, cell=180, line=34)
