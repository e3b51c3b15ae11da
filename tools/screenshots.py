"""Pictures of the studio for the docs: every tab, in light and dark, at a desk's and a phone's width.

    python tools/screenshots.py                    into docs/images/
    python tools/screenshots.py --out /tmp/look    somewhere else

A studio is started on a data folder of its own, filled with pictures by the models that come with MixStudio; where they
are not there, with the photos of `assets/photos`, and a tiny random model runs. Needs playwright and Chromium.
"""

import argparse
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL.Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
TABS = {
    "create": "Create",
    "qr": "Art QR",
    "blend": "Blend",
    "chat": "Chat",
    "gallery": "Gallery",
    "models": "Models",
    "settings": "Settings",
}
MAKING = ("create", "qr", "blend")
LARGEST = 200_000  # bytes
PROMPTS = ("a lighthouse at dusk", "wild flowers in a meadow", "an old street in the rain", "mountains over a lake")


def fill(data: Path) -> None:
    """A gallery that looks like one: pictures by the embedded model, or the photos where there is none."""
    from app import environment

    environment.prepare()
    from app.requests import GenerateParams
    from app.studio import Studio

    if not (ROOT / "assets" / "models").is_dir():
        fill_with_photos(data)
        return
    with Studio.open(data) as studio:
        told = studio.runtime.about().examples[:12]
        for seed, prompt in enumerate(told, start=1):
            studio.submit(GenerateParams(prompt=prompt, seed=seed)).wait(120)
        for entry in studio.store.find(limit=3):
            studio.store.favour(entry.id)


def fill_with_photos(data: Path) -> None:
    """The photos of assets/photos, with words that say what they show."""
    from app.store import Store

    store = Store(data / "outputs")
    photos = sorted(p for p in (ROOT / "assets" / "photos").rglob("*") if p.suffix.lower() in (".png", ".jpg", ".webp"))
    for number, path in enumerate(photos[:14]):
        with PIL.Image.open(path) as image:
            small = image.convert("RGB")
        small.thumbnail((512, 512))
        words = path.stem.replace("-", " ").replace("_", " ") or PROMPTS[number % len(PROMPTS)]
        text = f"{words}\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: {1000 + number}, "
        entry = store.save(small, text + f"Size: {small.width}x{small.height}", 1000 + number)
        if number % 5 == 2:
            store.favour(entry.id)
    store.close()


@contextmanager
def studio(data: Path) -> Iterator[str]:
    """A running studio's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tiny = [] if (ROOT / "assets" / "models").is_dir() else ["--tiny"]
    words = ["studio", "--no-browser", "--port", str(port), "--data", str(data), *tiny]
    process = subprocess.Popen([sys.executable, "-m", "app.cli", *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/ui/queue", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def shoot(browser: Any, address: str, out: Path, dark: bool, phone: bool, language: str) -> list[Path]:
    """All tabs in one manner; gives the files."""
    size = {"width": 390, "height": 844} if phone else {"width": 1360, "height": 900}
    context = browser.new_context(
        viewport=size, color_scheme="dark" if dark else "light", locale="zh-CN" if language == "zh" else "en-GB"
    )
    page = context.new_page()
    page.set_default_timeout(180_000)
    page.goto(address)
    page.wait_for_selector("#create_go", timeout=180_000)
    page.wait_for_timeout(1500)
    end = "".join(f"-{word}" for word, on in (("phone", phone), ("dark", dark), (language, language != "en")) if on)
    files = []
    plain = not (phone or dark) and language == "en" and (ROOT / "assets" / "models").is_dir()
    for tab in TABS:
        if open_tab(page, tab):
            if plain and tab in MAKING:  # a random model's noise would show nothing
                make(page, tab)
            page.wait_for_timeout(1200)
            files.append(keep(page.screenshot(), out / f"{tab}{end}.webp"))
    context.close()
    return files


def open_tab(page: Any, tab: str) -> bool:
    """Show a tab, also one that a narrow screen keeps in the menu; False where there is none."""
    button = page.locator(f"#tab_{tab}-button")
    if button.count():
        button.first.click()
        return True
    kept = page.locator("#tabs > .tab-wrapper .overflow-dropdown button", has_text=TABS[tab])
    if not kept.count():
        return False
    page.locator("#tabs > .tab-wrapper .overflow-menu > button").first.click()
    kept.first.click()
    return True


def make(page: Any, tab: str) -> None:
    """One result made on that tab, so that its stage is not empty."""
    page.locator({"create": "#create_example", "qr": "#qr_example", "blend": "#blend_examples"}[tab]).click()
    if tab == "create":
        page.fill("#create_seed input", "1")
    if tab == "qr":
        page.fill("#qr_text textarea, #qr_text input", "https://www.paddlepaddle.org.cn")
    page.wait_for_timeout(1500)
    page.locator(f"#{tab}_go").click()
    page.locator(f"#{tab}_status").get_by_text("Done").first.wait_for(timeout=300_000)
    page.wait_for_timeout(800)


def keep(data: bytes, path: Path) -> Path:
    """A screenshot as WebP, small enough for a repository."""
    image = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    for quality in (88, 75, 60, 45):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=6)
        if buffer.tell() <= LARGEST:
            break
    path.write_bytes(buffer.getvalue())
    return path


def main() -> None:
    """Start, fill, shoot, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    args.out.mkdir(parents=True, exist_ok=True)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as tool:
        fill(Path(folder))
        browser = tool.chromium.launch(executable_path=found, args=["--no-sandbox"])
        with studio(Path(folder)) as address:
            for dark, phone, language in (
                (False, False, "en"),
                (True, False, "en"),
                (False, True, "en"),
                (False, False, "zh"),
            ):
                for file in shoot(browser, address, args.out, dark, phone, language):
                    print(f"{file.name}  {file.stat().st_size // 1000} KB")
        browser.close()


if __name__ == "__main__":
    main()
