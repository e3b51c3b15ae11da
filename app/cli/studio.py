"""Open the studio in the browser: pictures from words, art QR codes, blends, the gallery, models, settings.

It answers on this machine alone. `--listen` opens it to the network and asks for a login or a token.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.studio import Studio

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
    "brave-browser",
)
PLACES = (  # where they lie on systems that do not put them on the path
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
    r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--port", type=int, default=7860, help="default 7860; the next free one where it is taken")
    parser.add_argument("--listen", action="store_true", help="answer the whole network; needs --auth or --token")
    parser.add_argument("--auth", default="", metavar="USER:PASSWORD", help="ask for this login")
    parser.add_argument("--token", default="", help="let programs in with this token (Authorization: Bearer)")
    parser.add_argument("--host-name", action="append", default=[], metavar="NAME", help="a name it is reached under")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument(
        "--desktop", action="store_true", help="open it in a window of its own (Chromium, Chrome, Edge)"
    )
    parser.add_argument("--data", metavar="FOLDER", help="where models, outputs and settings lie")
    parser.add_argument("--tiny", action="store_true", help="a tiny random model, to try the page without a real one")


def run(args: argparse.Namespace) -> int:
    """Bind, build, serve."""
    from app.security import policy
    from app.server import Address, bind, prepare

    begun = time.monotonic()
    secret = args.token or os.environ.get("MIXSTUDIO_TOKEN", "")
    login = args.auth or os.environ.get("MIXSTUDIO_AUTH", "")
    rules = policy(login, secret, args.host_name, args.listen)
    if not 0 < args.port < 65536:
        raise ValueError(f"--port is between 1 and 65535, not {args.port}")
    listening, port = bind(Address(host="0.0.0.0" if args.listen else "127.0.0.1", port=args.port), _tell)
    prepare()
    studio = _open(args)
    studio.confined = bool(args.listen or args.host_name)
    from app.server import make, serve

    app = make(studio, rules)
    address = f"http://127.0.0.1:{port}"

    def ready() -> None:
        took = time.monotonic() - begun
        _tell(f"MixStudio is ready at {address} ({took:.1f} s). Stop it with Ctrl+C.")
        if args.listen:
            _tell(f"It also answers the network on port {port}, with the login.")
        for trouble in studio.settings.troubles:
            _tell(trouble)
        if not args.no_browser:
            threading.Thread(target=show, args=(address, args.desktop), daemon=True).start()

    try:
        serve(app, listening, ready)
    finally:
        studio.close()
    return 0


def _open(args: argparse.Namespace) -> "Studio":
    from app.environment import import_paddle

    import_paddle()
    from app.studio import Studio

    if not args.tiny:
        return Studio.open(args.data)
    from app import settings
    from app.demo import add_tiny

    folder = settings.data_folder(args.data)
    return Studio.open(folder, model=add_tiny(folder), dtype="float32")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(address: str, desktop: bool = False) -> None:
    """Open a browser at the address: a window of its own where `desktop` asks for one and a browser can do it."""
    if desktop:
        if (found := find_browser()) is not None:
            profile = Path.home() / ".cache" / "mixstudio" / "window"
            command = [
                found,
                f"--app={address}",
                f"--user-data-dir={profile}",
                "--no-first-run",
                "--window-size=1360,900",
            ]
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return
        _tell("no Chromium, Chrome or Edge was found for a window of its own; the usual browser opens instead")
    if not webbrowser.open(address):
        _tell(f"no browser could be opened; go to {address}")


def find_browser() -> str | None:
    """A browser that can show a page as a window."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    places = (os.path.expandvars(place) for place in PLACES)
    return next((place for place in places if Path(place).is_file()), None)
