"""Calls of functions in a model's words: telling the model what it may call, and reading what it calls.

Models write calls as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Qwen and many others), as bare JSON
(Llama), or as a list after `[TOOL_CALLS]` (Mistral).
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

OPEN, CLOSE, LIST = "<tool_call>", "</tool_call>", "[TOOL_CALLS]"
_TAGGED = re.compile(rf"{OPEN}\s*(.*?)\s*(?:{CLOSE}|(?={OPEN})|$)", re.DOTALL)
Call = dict[str, Any]


def described(tools: Sequence[Mapping[str, Any]]) -> str:
    """A system message for models whose template has no place for tools."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions (JSON, one a line):\n{listed}\n"
        f'To call one, answer with nothing but {OPEN}{{"name": "...", "arguments": {{...}}}}{CLOSE}. '
        "Answer in words where no function helps."
    )


def call_schema(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON schema of a call of one of the tools."""
    functions = [tool["function"] for tool in tools]
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": f["name"]}, "arguments": f.get("parameters") or {"type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for f in functions
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


class ToolReader:
    """Text as it comes: what can be shown at once, and at the end the calls in it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)
        self._held = ""
        self._begun = False  # whether words were shown already, so that JSON further on is no call
        self._calling = False

    def push(self, text: str) -> str:
        """What is certainly not part of a call."""
        self._held += text
        if self._calling:
            return ""
        if not self._begun and (start := self._held.lstrip()):
            if start[0] in "{[":
                self._calling = True
                return ""
        elif not self._begun:
            return ""
        return self._before_a_call()

    def _before_a_call(self) -> str:
        at = self._held.find(OPEN)
        if at >= 0:
            self._calling = True
        else:
            kept = max((n for n in range(1, len(OPEN)) if self._held.endswith(OPEN[:n])), default=0)
            at = len(self._held) - kept
        shown, self._held = self._held[:at], self._held[at:]
        self._begun = self._begun or bool(shown.strip())
        return shown

    def end(self) -> tuple[str, list[Call]]:
        """The rest of the text, and the calls."""
        calls = read_calls(self._held, self.names)
        return ("", calls) if calls else (self._held, [])


def read_calls(text: str, names: frozenset[str]) -> list[Call]:
    """The calls in a text, as OpenAI writes them; none when it is something else."""
    tagged = _TAGGED.findall(text)
    found = [call for part in tagged for call in _from_json(part, None)]
    return found if tagged else _from_json(text.strip().removeprefix(LIST), names)


def _from_json(text: str, names: frozenset[str] | None) -> list[Call]:
    """One call or a list of them; `names`: the functions that bare JSON may call."""
    try:
        told = json.loads(text)
    except json.JSONDecodeError:
        return []
    calls = [_call(one, names) for one in (told if isinstance(told, list) else [told])]
    return [call for call in calls if call] if all(calls) else []


def _call(told: Any, names: frozenset[str] | None) -> Call | None:
    if not isinstance(told, dict):
        return None
    told = told.get("function") if isinstance(told.get("function"), dict) else told
    name, given = told.get("name"), told.get("arguments", told.get("parameters"))
    if not isinstance(name, str) or given is None or (names is not None and name not in names):
        return None
    arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
