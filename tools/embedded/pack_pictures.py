"""From a file to a picture of the pack: cut free, trimmed, scaled, hashed, judged."""

import io
import os
import random
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pack_lists import COLOURS, MARGIN, SIZE
from PIL import Image

Image.MAX_IMAGE_PIXELS = None


def dominant_colour(rgb: np.ndarray, alpha: np.ndarray) -> str:
    """Colour word when one hue fills at least 55 % of the picture, else ''."""
    a = alpha > 128
    n = a.sum()
    if n < 400:
        return ""
    px = rgb[a].astype(np.float32) / 255
    mx, mn = px.max(1), px.min(1)
    d = mx - mn
    sat = np.where(mx > 0, d / np.maximum(mx, 1e-6), 0)
    r, g, b = px[:, 0], px[:, 1], px[:, 2]
    dd = np.maximum(d, 1e-6)
    hue = np.where(mx == r, ((g - b) / dd) % 6, np.where(mx == g, (b - r) / dd + 2, (r - g) / dd + 4)) * 60
    col = (sat > 0.35) & (mx > 0.30)
    best, share = "", 0.0
    for name, lo, hi in COLOURS:
        m = col & ((hue >= lo) & (hue < hi) if lo < hi else (hue >= lo) | (hue < hi))
        s = m.sum() / n
        if s > share:
            best, share = name, s
            val, sa = float(np.median(mx[m])), float(np.median(sat[m]))
    grey = {
        "black": (mx < 0.28).sum() / n,
        "white": ((sat < 0.12) & (mx > 0.88)).sum() / n,
        "grey": ((sat < 0.15) & (mx >= 0.28) & (mx <= 0.88)).sum() / n,
    }
    k = max(grey, key=grey.get)
    if grey[k] > share and grey[k] >= 0.6:
        return k
    if share < 0.55:
        return ""
    if (best == "orange" and val < 0.74) or (best == "red" and val < 0.6 and sa < 0.62):
        return "brown"
    if best in ("red", "pink") and sa < 0.55 and val > 0.85:
        return "pink"
    return best


def dhash(im: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Difference hash of brightness on grey, with a coarse colour signature."""
    bg = Image.new("RGB", im.size, (128, 128, 128))
    bg.paste(im, mask=im.getchannel("A"))
    g = np.asarray(bg.convert("L").resize((17, 16), Image.BILINEAR), np.int16)
    bits = (g[:, 1:] > g[:, :-1]).ravel()
    c = np.asarray(bg.resize((4, 4), Image.BILINEAR), np.int16).ravel()
    return np.packbits(bits), c


def fit(im: Image.Image, allow_opaque: bool = False, min_side: int = 0) -> tuple[Image.Image | None, str]:
    """Trim by alpha, scale into SIZE with MARGIN; None when unusable."""
    im = im.convert("RGBA")
    a = np.asarray(im.getchannel("A"))
    ys, xs = np.where(a > 10)
    if len(ys) < 60:
        return None, "empty"
    x0, x1, y0, y1 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
    w, h = x1 - x0, y1 - y0
    if max(w, h) < min_side:
        return None, "small"
    if max(w, h) / max(1, min(w, h)) > 3.6:
        return None, "aspect"
    im = im.crop((x0, y0, x1, y1))
    s = (SIZE - 2 * MARGIN) / max(w, h)
    nw, nh = max(1, round(w * s)), max(1, round(h * s))
    # premultiplied resize, so that colour under alpha 0 never bleeds in
    arr = np.asarray(im, np.float32)
    arr[..., :3] *= arr[..., 3:] / 255
    chans = [
        Image.fromarray(np.ascontiguousarray(arr[..., i])).resize((nw, nh), Image.LANCZOS if s < 1 else Image.BICUBIC)
        for i in range(4)
    ]
    out = np.stack([np.asarray(c) for c in chans], -1)
    al = np.clip(out[..., 3:], 0, 255)
    rgb = np.where(al > 0, out[..., :3] * 255 / np.maximum(al, 1), 255)
    out = np.concatenate([np.clip(rgb, 0, 255), al], -1).round().astype(np.uint8)
    canvas = np.zeros((SIZE, SIZE, 4), np.uint8)
    canvas[..., :3] = 255
    oy, ox = (SIZE - nh) // 2, (SIZE - nw) // 2
    canvas[oy : oy + nh, ox : ox + nw] = out
    return Image.fromarray(canvas), ""


def white_to_alpha(im: Image.Image) -> Image.Image:
    """Alpha for a picture on white: white connected to the border is removed."""
    from PIL import ImageDraw

    im = im.convert("RGB")
    w, h = im.size
    a = np.asarray(im, np.int16)
    edge = np.concatenate([a[0], a[-1], a[:, 0], a[:, -1]])
    if ((edge > 238).all(1)).mean() < 0.97:
        return None
    near = (a > 236).all(2)
    mark = Image.fromarray((near * 255).astype(np.uint8))
    pad = Image.new("L", (w + 2, h + 2), 255)
    pad.paste(mark, (1, 1))
    ImageDraw.floodfill(pad, (0, 0), 100)
    bgm = np.asarray(pad)[1:-1, 1:-1] == 100
    from PIL import ImageFilter

    al = (
        Image.fromarray(((~bgm) * 255).astype(np.uint8))
        .filter(ImageFilter.MinFilter(3))
        .filter(ImageFilter.GaussianBlur(0.8))
    )
    out = im.convert("RGBA")
    out.putalpha(al)
    return out


def has_pointer(im: Image.Image) -> bool:
    """True for drawings with a magenta or blue arrow that points at a part."""
    hsv = np.asarray(im.convert("HSV").resize((128, 128)), np.int16)
    h, s, v = hsv[..., 0] * 360 / 255, hsv[..., 1], hsv[..., 2]
    for lo, hi in ((310, 335), (193, 208)):
        m = (h > lo) & (h < hi) & (s > 205) & (v > 190)
        if 90 < m.sum() < 1400:
            ys, xs = np.where(m)
            y0, y1, x0, x1 = np.percentile(ys, 4), np.percentile(ys, 96), np.percentile(xs, 4), np.percentile(xs, 96)
            area = (y1 - y0 + 1) * (x1 - x0 + 1)
            if area < 3400 and m.sum() / area > 0.3:
                return True
    return False


def flat_share(arr: np.ndarray) -> float:
    """Share of the picture's inside without any local change: high in drawings, low in photographs."""
    g = arr[..., :3].astype(np.float32).mean(2)
    dx, dy = np.abs(np.diff(g, axis=1))[:-1], np.abs(np.diff(g, axis=0))[:, :-1]
    m = (arr[..., 3] > 250)[:-1, :-1]
    return float(((dx < 1.0) & (dy < 1.0) & m).sum() / max(1, m.sum()))


def work(task: tuple[Any, ...]) -> Any:
    source, kind, payload, meta = task
    try:
        opaque = False
        if kind in ("svg", "svgfile"):
            import resvg_py

            kw = dict(svg_string=payload) if kind == "svg" else dict(svg_path=payload)
            im = Image.open(
                io.BytesIO(
                    bytes(
                        resvg_py.svg_to_bytes(width=320, height=320, skip_system_fonts=True, **kw)
                        if kind == "svg"
                        else resvg_py.svg_to_bytes(width=320, **kw)
                    )
                )
            )
            im = im.convert("RGBA")
            out, why = fit(im)
        elif kind == "jpg":
            im = Image.open(payload)
            if has_pointer(im):
                return None, "pointer arrow", source
            cut = white_to_alpha(im)
            if cut is not None:
                out, why = fit(cut, min_side=110)
            else:
                im = im.convert("RGB")
                s = min(im.size)
                if s < 120 or max(im.size) / s > 2:
                    return None, "small", source
                im = im.crop(
                    ((im.width - s) // 2, (im.height - s) // 2, (im.width + s) // 2, (im.height + s) // 2)
                ).resize((SIZE, SIZE), Image.LANCZOS)
                out, why, opaque = im.convert("RGBA"), "", True
        else:
            im = Image.open(payload)
            if kind == "oc" and max(im.size) > 3000:
                im.thumbnail((1500, 1500))
            im = im.convert("RGBA")
            if kind == "oc":
                al = np.asarray(im.getchannel("A"))
                if (al > 250).mean() > 0.985:
                    cut = white_to_alpha(im)
                    if cut is None:
                        return None, "opaque", source
                    im = cut
            out, why = fit(im, min_side=118 if source in ("oxygen", "tuxpaint") else 140 if kind == "oc" else 0)
        if out is None:
            return None, why, source
        arr = np.asarray(out)
        if kind == "oc":  # thin black line work carries no colour; drop most of it
            m = arr[..., 3] > 128
            if m.mean() < 0.05:
                return None, "thin", source
            ys, xs = np.where(m)
            if m.sum() / ((ys.max() - ys.min() + 1) * (xs.max() - xs.min() + 1)) > 0.97:
                return None, "rectangle", source
            px = arr[m][:, :3].astype(np.int16)
            if ((px.max(1) - px.min(1)) > 40).mean() < 0.03:
                meta = dict(
                    meta,
                    style="silhouette"
                    if (px.max(1) < 80).mean() > 0.6
                    else "outline"
                    if (px.min(1) > 215).mean() > 0.45
                    else "clip art",
                )
        if source == "tuxpaint":
            meta = dict(meta, style="clip art" if flat_share(arr) > 0.45 else meta["style"])
        col = dominant_colour(arr[..., :3], arr[..., 3]) if source != "openmoji-black" else ""
        if meta.get("group") in (0, 1) or re.search(
            r"\b(red|orange|yellow|green|cyan|blue|purple|pink|brown|black|white|grey|gray|golden?|silver)\b",
            meta["name"],
        ):
            col = ""
        if kind == "oc" and col == "black" and "/food/" in payload:  # pictograms with a bar code
            return None, "pictogram", source
        hsh, sig = dhash(out)
        buf = io.BytesIO()
        out.save(buf, "WEBP", quality=76, alpha_quality=60, method=4)
        return (
            dict(meta=meta, source=source, data=buf.getvalue(), colour=col, opaque=opaque, h=hsh, sig=sig),
            "",
            source,
        )
    except Exception as e:  # a broken file is skipped and counted
        return None, "error " + type(e).__name__, source


def photo_work(args: tuple[Any, ...]) -> Any:
    path, licence, pkg, caption, ident, want = args
    try:
        if path.endswith(".svg"):
            return []
        im = Image.open(path)
        im = im.convert("RGBA") if im.mode in ("P", "LA", "RGBA") else im.convert("RGB")
        rng = random.Random(ident)
        W, H = im.size
        out = []
        tries = 0
        hashes = []
        while len(out) < want and tries < want * 4:
            tries += 1
            lo = min(W, H, 256)
            hi = min(W, H)
            side = int(lo * (hi / lo) ** rng.choice([0.15, 0.5, 0.85, 1.0, rng.random()]))
            if side < 160:
                break
            x, y = rng.randint(0, W - side), rng.randint(0, H - side)
            c = im.crop((x, y, x + side, y + side))
            if c.mode == "RGBA":
                a = np.asarray(c.getchannel("A"))
                if (a < 250).mean() > 0.25:
                    continue
                bg = Image.new("RGB", c.size, rng.choice([(120, 170, 220), (30, 40, 80), (230, 170, 120)]))
                bg.paste(c, mask=c.getchannel("A"))
                c = bg
            c = c.resize((SIZE, SIZE), Image.LANCZOS)
            g = np.asarray(c.convert("L"), np.float32)
            if g.std() < 6 and rng.random() > 0.05:
                continue
            sm = np.asarray(c.convert("L").resize((12, 12), Image.BILINEAR), np.float32)
            if any(np.abs(sm - h).mean() < 5 for h in hashes):
                continue
            hashes.append(sm)
            buf = io.BytesIO()
            c.save(buf, "WEBP", quality=74, method=4)
            cap = caption if side > 0.55 * min(W, H) else ""
            out.append(
                dict(data=buf.getvalue(), source=pkg, licence=licence, caption=cap, origin=os.path.basename(path))
            )
        return out
    except Exception as e:
        sys.stderr.write(f"photo {path}: {e}\n")
        return []


def make_sheets(
    folder: Path,
    lines: list[dict[str, Any]],
    photos: list[dict[str, Any]],
    blobs: dict[str, bytes],
    n: int = 12,
    cell: int = 112,
) -> None:
    """Contact sheets with names, for looking at."""
    from PIL import ImageDraw

    os.makedirs(folder, exist_ok=True)
    by = defaultdict(list)
    for row in lines:
        by[row["source"]].append((row["file"], row["name"] + (" [" + row["colour"] + "]" if row["colour"] else "")))
    for p in photos:
        by["photos"].append((p["file"], p["origin"][:14] + "|" + p["caption"]))
    for s, v in by.items():
        v = random.Random(3).sample(v, min(len(v), n * n))
        sheet = Image.new("RGB", (n * cell, ((len(v) + n - 1) // n) * (cell + 14)), (205, 215, 205))
        dr = ImageDraw.Draw(sheet)
        for i, (f, nm) in enumerate(v):
            im = Image.open(io.BytesIO(blobs[f])).convert("RGBA").resize((cell - 4, cell - 4))
            x, y = (i % n) * cell, (i // n) * (cell + 14)
            sheet.paste(im, (x + 2, y + 2), im.getchannel("A"))
            dr.text((x + 2, y + cell - 1), nm[:20], fill=(0, 0, 0))
        sheet.save(os.path.join(folder, f"{s}.png"))
