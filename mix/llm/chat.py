"""Conversations to prompts by a model's own template: Jinja in a sandbox, with what transformers offers templates."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]
LONGEST_TEMPLATE = 1_000_000


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`, which marks the assistant's words for training: kept as they are."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def refuse(message: str) -> None:
    """`raise_exception(...)` of templates."""
    raise jinja2.TemplateError(message)


def strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@lru_cache(maxsize=16)
def compiled(template: str) -> jinja2.Template:
    """The template, ready to render; ValueError says where it is wrong."""
    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(
            f"the chat template has {len(template):,} characters, at most {LONGEST_TEMPLATE:,} are accepted"
        )
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = to_json
    cast(dict[str, Any], env.globals).update(raise_exception=refuse, strftime_now=strftime_now)
    try:
        return env.from_string(template)
    except (jinja2.TemplateError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        raise ValueError(f"the chat template is not valid{where}: {error}") from None


def render(template: str, messages: Sequence[Message], add_generation_prompt: bool = False, **known: Any) -> str:
    """The prompt that `template` makes of messages ({"role", "content"}); `known` are further names for it.

    ValueError when the messages are not ones, when the template refuses them, or when it is broken.
    """
    for message in cast(Sequence[Any], messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f'a message must be {{"role": ..., "content": ...}}; got {message!r}')
    known.setdefault("tools", None)
    known.setdefault("documents", None)
    try:
        return compiled(template).render(
            messages=[dict(m) for m in messages], add_generation_prompt=add_generation_prompt, **known
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from None
    except (TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError, ValueError) as error:
        raise ValueError(f"the chat template fails on these messages ({type(error).__name__}: {error})") from None
