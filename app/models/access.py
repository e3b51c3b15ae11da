"""Which hosts may be asked for models, under which addresses, and who is shown which token.

A link comes from anywhere, and a server may redirect anywhere: so every hop is checked anew. The host must be listed,
the protocol https, and the address a public one; the address that was checked is the one that is connected to, so that
a name which answers differently the second time (DNS rebinding) gains nothing. A token goes to its own host only.
"""

import ipaddress
import json
import os
import socket
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app.settings import Settings
from ppdiffusers.weights.write import replacing

CIVITAI = "https://civitai.com"
HUB = "https://huggingface.co"
# `*.` stands for any names before it. Both services hand out signed links to the hosts of their storage; the last one
# is Civitai's own account at its storage provider, so its number must stand here in full.
HOSTS = (
    *("huggingface.co", "*.huggingface.co", "*.hf.co"),
    *("civitai.com", "*.civitai.com"),
    "civitai-delivery-worker-prod.5ac0637cfd0766c97916cefa3764fbdf.r2.cloudflarestorage.com",
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SERVICES = ("civitai", "huggingface")


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises OSError."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def environment_proxy(url: httpx.URL) -> str:
    """The proxy that the environment names for a link; "" for none. It then resolves names, and is trusted to."""
    if urllib.request.proxy_bypass(url.host):
        return ""
    proxies = urllib.request.getproxies()
    return proxies.get(url.scheme) or proxies.get("all") or ""


@dataclass(frozen=True)
class Access:
    """What downloads may do. `hosts` are allowed beside the known ones; `private_hosts` (a mirror in the house) may
    also have private addresses and speak plain http. `tokens` are by service.
    """

    hosts: tuple[str, ...] = ()
    private_hosts: tuple[str, ...] = ()
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    civitai: str = CIVITAI
    hub: str = HUB
    resolve: Callable[[str, int], list[str]] = resolve
    proxy: Callable[[httpx.URL], str] = environment_proxy
    timeout: float = 30.0  # seconds without a byte

    @classmethod
    def of(cls, settings: Settings) -> "Access":
        """As the settings, the environment and the file of secrets have it."""
        private = tuple(os.environ.get("MIXSTUDIO_PRIVATE_HOSTS", "").replace(",", " ").split())
        hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
        hosts = (*settings.download_hosts, httpx.URL(hub).host)
        return cls(hosts, private, load_tokens(settings.data), hub=hub)

    def check(self, link: str | httpx.URL) -> httpx.URL:
        """The link if it may be followed; ValueError with a sentence if not."""
        try:
            url = httpx.URL(link)
        except (httpx.InvalidURL, TypeError):
            raise ValueError("this is not a link") from None
        if url.userinfo:
            raise ValueError(f"links with a name and password in them are not followed ({url.host})")
        if not url.host or not any(matches(url.host, p) for p in (*HOSTS, *self.hosts, *self.private_hosts)):
            raise ValueError(
                f"{url.host or shown(url)} is not among the hosts that models may come from; if you trust it, add it "
                "to `download_hosts` in the settings"
            )
        if url.scheme != "https" and not (url.scheme == "http" and self.is_private(url.host)):
            raise ValueError(f"{shown(url)} is not a https link; anybody on the way could change the file")
        return url

    def is_private(self, host: str) -> bool:
        """Whether the settings allow this host to be in the house."""
        return any(matches(host, pattern) for pattern in self.private_hosts)

    def addresses(self, url: httpx.URL) -> list[str]:
        """The addresses to connect to, each checked; [] where a proxy does that. ValueError with a sentence."""
        if self.proxy(url):
            return []
        try:
            found = self.resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
        except OSError as why:
            raise ConnectionFailed(f"{url.host} was not found ({why.strerror or why}); is there a network?") from None
        if not self.is_private(url.host) and (inside := [a for a in found if not is_public(a)]):
            raise ValueError(
                f"{url.host} leads to {inside[0]}, an address of this machine or its own network; it is not followed"
            )
        return found

    def service(self, url: httpx.URL) -> str:
        """Whose host this is: "civitai", "huggingface" or ""."""
        for name, home in (("civitai", self.civitai), ("huggingface", self.hub)):
            if (url.scheme, url.host, url.port) == (httpx.URL(home).scheme, httpx.URL(home).host, httpx.URL(home).port):
                return name
        return ""

    def credentials(self, url: httpx.URL) -> dict[str, str]:
        """The header with the token of exactly this host; {} for every other."""
        token = self.tokens.get(self.service(url), "")
        return {"Authorization": f"Bearer {token}"} if token else {}


class ConnectionFailed(ValueError):
    """The network, not the answer, was at fault: trying again may help."""


def matches(host: str, pattern: str) -> bool:
    """`*.x.org` fits any host below x.org, anything else only itself."""
    pattern = pattern.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def is_public(address: str) -> bool:
    """Whether an address is on the open internet; wrapped IPv4 addresses are looked into."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def shown(link: str | httpx.URL) -> str:
    """A link as it may be shown and kept: without what comes after `?`, where tokens and signatures stand."""
    try:
        url = httpx.URL(link)
    except (httpx.InvalidURL, TypeError):
        return "this link"
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}{url.path}"


# --- tokens ---


def secrets_path(data: Path) -> Path:
    """The one file with tokens; readable by its owner only, and nowhere else are they written."""
    return data / "secrets.json"


def load_tokens(data: Path) -> dict[str, str]:
    """The tokens of the environment (CIVITAI_TOKEN, HF_TOKEN), else of the file of secrets, else of `hf auth login`."""
    found: dict[str, str] = {}
    with suppress(OSError, ValueError):
        kept = json.loads(secrets_path(data).read_text(encoding="utf-8"))
        found = {name: kept[name] for name in SERVICES if isinstance(kept.get(name), str)}
    told = {
        "civitai": os.environ.get("CIVITAI_TOKEN") or os.environ.get("CIVITAI_API_TOKEN"),
        "huggingface": os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"),
    }
    found |= {name: value for name, value in told.items() if value}
    if not found.get("huggingface"):
        found["huggingface"] = _hub_login()
    return {name: clean for name, value in found.items() if (clean := value.strip()).isascii() and clean.isprintable()}


def _hub_login() -> str:
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    path = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip()
    return ""


def save_token(data: Path, service: str, token: str) -> None:
    """Keep a token; "" forgets it. ValueError for an unknown service or a token that cannot be one."""
    if service not in SERVICES:
        raise ValueError(f"there is no service {service!r}; there are {' and '.join(SERVICES)}")
    token = token.strip()
    if not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise ValueError("a token is one word of plain letters and digits; copy it again")
    kept: dict[str, str] = {}
    with suppress(OSError, ValueError):
        kept = json.loads(secrets_path(data).read_text(encoding="utf-8"))
    kept = {name: value for name, value in (kept | {service: token}).items() if value}
    with replacing(secrets_path(data)) as file:
        with suppress(OSError, AttributeError):
            os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps(kept, indent=2).encode())
