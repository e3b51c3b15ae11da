"""Setting up fails for few reasons; each becomes one sentence that says what to do. Standard library only."""

import re
import sys
from pathlib import Path


class Trouble(Exception):
    """Setting up cannot go on; the message is for the user."""


# The first pattern found in pip's words decides. Network first: without it pip also claims that no version matches, at
# times with no other word about it.
PIP_TROUBLES = (
    (
        r"Temporary failure in name resolution|NewConnectionError|Name or service not known|nodename nor servname"
        r"|getaddrinfo|Network is unreachable|ConnectTimeout|ReadTimeout|Max retries exceeded|ProxyError"
        r"|Connection (refused|reset|aborted)",
        "the packages cannot be downloaded: no connection to the package index. Check the network (behind a proxy set "
        "HTTPS_PROXY) and start again; what was downloaded so far is kept by pip",
    ),
    (
        r"\(from versions: none\)(?![\s\S]*No matching distribution found for paddlepaddle)",
        "the packages cannot be downloaded: the package index does not answer or does not have them. Check the network "
        "(behind a proxy set HTTPS_PROXY) and pip's settings (`pip config list`), and start again",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "the packages cannot be downloaded: the package index's certificate was refused. Behind a company proxy, point "
        "PIP_CERT to its certificate and start again",
    ),
    (
        r"No space left on device|Errno 28|not enough space",
        "the disk is full. Free some gigabytes and start again",
    ),
    (
        r"Read-only file system|Permission denied|Errno 13|Errno 30|Access is denied",
        "pip may not write into .venv. Close programs that use it, check who owns the folder, and start again",
    ),
    (
        r"No matching distribution found for paddlepaddle",
        "PaddlePaddle has no build for this Python, operating system or processor. It needs 64-bit Python 3.10 to 3.13 "
        "on Linux, macOS or Windows; delete .venv and start launch.py with such a Python",
    ),
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES|BadZipFile|Hash mismatch|IncompleteRead",
        "a download arrived damaged. Start again; if it happens twice, run `pip cache purge` first",
    ),
)


def explain_pip(said: str) -> str:
    """One sentence for what pip printed when it failed."""
    for pattern, sentence in PIP_TROUBLES:
        if re.search(pattern, said):
            return sentence
    errors = [line.strip() for line in said.splitlines() if line.lower().lstrip().startswith("error")]
    tail = errors[-3:] or [line.strip() for line in said.splitlines() if line.strip()][-3:]
    return "pip could not install the packages. It said: " + " / ".join(tail or ["nothing"])


def explain_venv(said: str, folder: Path) -> str:
    """One sentence for why no environment could be made in `folder`."""
    if re.search(r"Read-only file system|Permission denied|Errno 13|Errno 30|Access is denied", said):
        return f"{folder} cannot be written to. Copy MixStudio to a folder that you own and start it there"
    if re.search(r"No space left on device|Errno 28", said):
        return "the disk is full. Free some gigabytes and start again"
    if re.search(r"ensurepip|No module named venv", said):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return (
            f"this Python cannot make environments. On Debian or Ubuntu: apt-get install python{version}-venv; "
            "elsewhere install Python from python.org; then start again"
        )
    tail = [line.strip() for line in said.splitlines() if line.strip()][-2:]
    return f"{sys.executable} could not make an environment in {folder}. It said: " + " / ".join(tail or ["nothing"])
