"""What a code says: plain text, a link, a Wi-Fi login, a contact. Each function gives the text that goes into the code.

Formats: the `WIFI:` scheme as ZXing's wiki has it (escape `\\ ; , : "` with a backslash), vCard 3.0 as RFC 2426 has it
(escape `\\ , ;`, newlines as `\\n`). Scanners ask before they act on either.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

LONGEST = 2331  # bytes that version 40 holds at level M
COMFORTABLE = 200  # bytes from which a code gets so fine that a picture hardly survives
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


def text(given: str) -> str:
    """The text itself, without spaces around it. Raises ValueError when there is nothing or too much."""
    stripped = given.strip()
    if not stripped:
        raise ValueError("the code has nothing to say: give a text or a link")
    size = len(stripped.encode("utf-8"))
    if size > LONGEST:
        raise ValueError(
            f"the text has {size} bytes, a code holds at most {LONGEST}; put it on a page and use that page's link"
        )
    return stripped


def link(given: str) -> str:
    """A web address; `https://` is put before one that has no scheme. Raises ValueError when it can't be an address."""
    address = text(given)
    if any(c.isspace() for c in address):
        raise ValueError("a link has no spaces in it; write %20 instead, or choose the kind 'text'")
    if not _SCHEME.match(address) or re.match(r"[^/]+\.[^/]+:\d+(/|$)", address):  # example.com:8080 is no scheme
        address = f"https://{address}"
    parts = urlsplit(address)
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise ValueError(f"{given.strip()!r} names no host; a link looks like https://example.com/page")
    return address


@dataclass(frozen=True, kw_only=True)
class Wifi:
    """A network to join. `security` is "WPA" (also for WPA2 and WPA3), "WEP" or "nopass"."""

    name: str
    password: str = ""
    security: str = "WPA"
    hidden: bool = False

    def text(self) -> str:
        """The `WIFI:` text. Raises ValueError for a login that no device could use."""
        if not self.name:
            raise ValueError("a Wi-Fi code needs the network's name (SSID)")
        if len(self.name.encode("utf-8")) > 32:
            raise ValueError("a network's name has at most 32 bytes")
        if self.security not in ("WPA", "WEP", "nopass"):
            raise ValueError(f"Wi-Fi security is WPA, WEP or nopass, not {self.security!r}")
        if self.security == "nopass":
            login = ""
        elif not self.password:
            raise ValueError("give the network's password, or choose 'nopass' for an open network")
        elif self.security == "WPA" and not 8 <= len(self.password.encode("utf-8")) <= 64:
            raise ValueError("a WPA password has 8 to 63 characters (or 64 hexadecimal digits)")
        else:
            login = f"P:{_escaped(self.password, _WIFI)};"
        hidden = "H:true;" if self.hidden else ""
        return text(f"WIFI:T:{self.security};S:{_escaped(self.name, _WIFI)};{login}{hidden};")


@dataclass(frozen=True, kw_only=True)
class Contact:
    """A person or business card; empty fields are left out."""

    name: str
    family: str = ""  # the family name where it is known apart; `name` then is the given name
    organisation: str = ""
    title: str = ""
    phone: str = ""
    email: str = ""
    url: str = ""
    address: str = ""
    note: str = ""

    def text(self) -> str:
        """The vCard. Raises ValueError without a name or with an impossible address."""
        if not (self.name.strip() or self.family.strip()):
            raise ValueError("a contact needs a name")
        if self.email and not re.fullmatch(r"[^@\s]+@[^@\s]+", self.email.strip()):
            raise ValueError(f"{self.email!r} is no e-mail address")
        if self.phone and not re.fullmatch(r"\+?[0-9 ()./-]{3,}", self.phone.strip()):
            raise ValueError(f"{self.phone!r} is no telephone number")
        full = " ".join(part.strip() for part in (self.name, self.family) if part.strip())
        fields = {
            "ORG": self.organisation,
            "TITLE": self.title,
            "TEL": self.phone,
            "EMAIL": self.email,
            "URL": self.url,
            "NOTE": self.note,
        }
        lines = ["BEGIN:VCARD", "VERSION:3.0", f"N:{_card(self.family)};{_card(self.name)};;;", f"FN:{_card(full)}"]
        lines += [f"{key}:{_card(value)}" for key, value in fields.items() if value.strip()]
        if self.address.strip():
            lines.append(f"ADR:;;{_card(self.address)};;;;")
        return text("\n".join([*lines, "END:VCARD"]))


_WIFI = '\\;,:"'


def _escaped(value: str, special: str) -> str:
    return "".join(f"\\{c}" if c in special else c for c in value)


def _card(value: str) -> str:
    return _escaped(value.strip(), "\\;,").replace("\r\n", "\n").replace("\n", "\\n")


def advice(said: str) -> str:
    """A sentence for texts that make fine codes, else empty."""
    size = len(said.encode("utf-8"))
    if size <= COMFORTABLE:
        return ""
    return f"{size} bytes make a fine code; a shorter link leaves more of the picture"
