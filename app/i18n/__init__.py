"""The studio's words in other languages: catalogues keyed by the English text, one file a part of the studio."""

import json
from functools import cache
from pathlib import Path

LANGUAGES = {"en": "English", "zh": "中文"}


@cache
def catalogue(language: str) -> dict[str, str]:
    """English text -> text in `language`, from every `<language>*.json` beside this file."""
    words: dict[str, str] = {}
    for file in sorted(Path(__file__).parent.glob(f"{language}*.json")):
        words |= json.loads(file.read_text(encoding="utf-8"))
    return words


def translate(text: str, language: str) -> str:
    """The text in a language; the English one where the catalogue does not have it."""
    return text if language == "en" else catalogue(language).get(text, text)


def preferred(accept: str) -> str:
    """The language for a browser's Accept-Language header."""
    for part in accept.lower().split(","):
        code = part.split(";")[0].strip()[:2]
        if code in LANGUAGES:
            return code
    return "en"
