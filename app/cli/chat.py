"""Talk to a language model: in a dialogue, or one question with --prompt or through a pipe.

In the dialogue /help tells the commands, Ctrl-C stops an answer, Ctrl-D ends it all.
"""

import argparse
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.catalog import Catalog
    from app.conversation import Conversation, Manner
    from app.llm_host import Loaded

HELP = """\
  /reset            forget the conversation
  /system TEXT      begin anew with this system prompt; without a text, none
  /set NAME VALUE   temperature, top_p, top_k, min_p, repetition_penalty, max_tokens, seed
  /retry            another answer to the last question
  /undo             take the last question and its answer back
  /save FILE        write the conversation as JSON
  /load FILE        go on with one that was saved
  /quit             end (Ctrl-D too)
A line that ends in \\ goes on in the next one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", "-m", default="", help="a name of `models list`, a folder, or a .gguf file")
    parser.add_argument("--adapter", "-a", metavar="FOLDER", help="a LoRA for it, as `train llm` and PEFT write them")
    parser.add_argument("--prompt", "-p", help="one question; what comes through a pipe is put after it")
    parser.add_argument("--system", "-s", default="", help="what the model is told before the conversation")
    parser.add_argument("--load", metavar="FILE", help="go on with a saved conversation")
    parser.add_argument("--json", action="store_true", help="one line of JSON per event on stdout")
    parser.add_argument("--schema", metavar="FILE", help="answer with JSON that fits this JSON schema")
    how = parser.add_argument_group("how to answer")
    how.add_argument(
        "--temperature", "-t", type=float, help="0: always the likeliest word (default: the model's own, else 0.3)"
    )
    how.add_argument("--top-p", type=float)
    how.add_argument("--top-k", type=int)
    how.add_argument("--min-p", type=float)
    how.add_argument("--repetition-penalty", type=float)
    how.add_argument("--max-tokens", type=int, help="of an answer (default 512)")
    how.add_argument("--seed", type=int)
    how.add_argument("--stop", action="append", help="end the answer before this text, also several")


@dataclass
class Talk:
    """The state of one run."""

    loaded: "Loaded"
    conversation: "Conversation"
    manner: "Manner"
    schema: Any = None
    as_json: bool = False


def run(args: argparse.Namespace) -> int:
    """Answer once, or hold a dialogue."""
    from app.environment import import_paddle

    import_paddle()
    from app.conversation import Conversation, Manner

    values = {**vars(args), "stop": tuple(args.stop) if args.stop else None}
    Manner().with_values(values)  # what cannot be is told before gigabytes are read
    conversation = Conversation.load(Path(args.load)) if args.load else Conversation()
    conversation.system = args.system or conversation.system
    schema = _schema(args.schema)
    question = _question(args.prompt)
    loaded = _loaded(args.model, args.adapter, quiet=args.json)
    manner = Manner.of_model(loaded).with_values(values)
    talk = Talk(loaded, conversation, manner, schema, args.json)
    try:
        if question is None:
            _dialogue(talk)
            return 0
        conversation.say(question)
        return 0 if _answer(talk) else 130
    finally:
        loaded.engine.stop()


def _question(prompt: str | None) -> str | None:
    """The question from --prompt and from a pipe; None for a dialogue."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
    if prompt is None and not piped and (sys.stdin is None or not sys.stdin.isatty()):
        raise ValueError("there is no question: pass --prompt, or send one through a pipe")
    return None if prompt is None and not piped else "\n\n".join(part for part in (prompt, piped) if part)


def _schema(path: str | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as why:
        raise ValueError(f"{path} is not a JSON schema: {why}") from None


def _loaded(name: str, adapter: str | None, quiet: bool) -> "Loaded":
    """The model at a path, or of that name in the catalogue, with an adapter; a path may be an adapter's too."""
    from app import settings
    from app.catalog import Catalog, adapter_of
    from app.cli.progress import Bar
    from app.llm_host import LLMHost, Sizes, load

    sizes = Sizes(max_running=1, max_waiting=1)
    with Bar(quiet=quiet) as bar:

        def show(done: int, of: int, what: str) -> None:
            bar.show(done, of, "reading the model")

        path, beside = Path(name).expanduser(), Path(adapter).expanduser() if adapter else None
        catalog = Catalog(settings.load())
        host = LLMHost(catalog, sizes)
        if name and path.is_dir() and adapter_of(path):
            return load(host.base_of(path), path.stem, sizes, show, adapter=path)
        if name and (path.suffix.lower() == ".gguf" or path.is_dir()):
            return load(path, path.stem, sizes, show, adapter=beside)
        _fetch_first(catalog, name, quiet)
        try:
            if beside is None:
                return host.get(name, show)
            found, model = host.find(name)
            return load(model.path, found, sizes, show, adapter=beside)
        except KeyError as why:
            raise ValueError(str(why.args[0])) from None


def _fetch_first(catalog: "Catalog", name: str, quiet: bool) -> None:
    """At first use get SmolLM2: when it is asked for, or when there is no other model to answer."""
    from app.cli.models import follow
    from app.models import smollm2

    models = catalog.settings.models
    wished = name.lower() == smollm2.NAME or (not name and not catalog.list("llm"))
    if wished and smollm2.installed(models) is None:
        follow(smollm2.ensure(models), quiet)
        catalog.refresh()


def _answer(talk: Talk) -> bool:
    """Print an answer as it comes and keep it; False when it was stopped by Ctrl-C."""
    from mix.llm.engine import Ended

    began, said, first, end = time.monotonic(), "", 0.0, None
    stream = talk.conversation.answer(talk.loaded, talk.manner, talk.schema)
    if talk.conversation.left_out and not talk.as_json:
        sys.stderr.write(f"(the first {talk.conversation.left_out} messages have no room any more)\n")
    try:
        for event in stream:
            first = first or time.monotonic() - began
            end = event if isinstance(event, Ended) else None
            if event.text:
                said += event.text
                _print(talk, {"event": "text", "text": event.text}, event.text)
    except KeyboardInterrupt:
        stream.close()
    talk.conversation.answered(said)
    told: dict[str, Any] = {"event": "end", "reason": end.reason if end else "cancelled", "text": said}
    if end is not None:
        told |= {"prompt_tokens": end.usage.prompt, "cached_tokens": end.usage.cached}
        told["completion_tokens"] = end.usage.completion
    told |= {"first_token_s": round(first, 3), "seconds": round(time.monotonic() - began, 3)}
    _print(talk, {**told, "model": talk.loaded.name}, "\n" if end else "\n(stopped)\n")
    return end is not None


def _print(talk: Talk, event: dict[str, Any], text: str) -> None:
    if talk.as_json:
        print(json.dumps(event, ensure_ascii=False), flush=True)
    else:
        print(text, end="", flush=True)


# --- the dialogue ----------------------------------------------------------------------------------------------------


def _dialogue(talk: Talk) -> None:
    """Questions and answers until the user ends it."""
    with suppress(ImportError):  # not on Windows
        import_module("readline")  # arrow keys and history in input()
    sys.stderr.write(f"{talk.loaded.name}: say something. /help tells the commands, Ctrl-D ends.\n")
    while True:
        try:
            line = _line()
        except KeyboardInterrupt:
            sys.stderr.write("\n(Ctrl-D or /quit ends)\n")
            continue
        except EOFError:
            sys.stderr.write("\n")
            return
        try:
            if not _handle(talk, line):
                return
        except ValueError as why:  # the conversation goes on
            sys.stderr.write(f"{why}\n")


def _line() -> str:
    """One question; a line that ends in a backslash goes on in the next."""
    lines = [input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". "))
    return "\n".join(lines).strip()


def _handle(talk: Talk, line: str) -> bool:
    """Do what a line says; False ends the dialogue."""
    if not line:
        return True
    if not line.startswith("/"):
        talk.conversation.say(line)
        _try_answer(talk)
        return True
    word, _, rest = line.partition(" ")
    if word in ("/quit", "/exit", "/bye"):
        return False
    command = _COMMANDS.get(word)
    if command is None:
        raise ValueError(f"there is no command {word}; /help tells them")
    command(talk, rest.strip())
    return True


def _try_answer(talk: Talk) -> None:
    """Answer; a question that cannot be answered is taken back."""
    try:
        _answer(talk)
    except ValueError:
        talk.conversation.messages.pop()
        raise


def _reset(talk: Talk, _: str) -> None:
    talk.conversation.messages.clear()
    sys.stderr.write("forgotten\n")


def _system(talk: Talk, text: str) -> None:
    talk.conversation.system = text
    _reset(talk, "")


def _set(talk: Talk, text: str) -> None:
    from app.conversation import manner_with

    name, _, value = text.replace("=", " ").partition(" ")
    talk.manner = manner_with(talk.manner, name.replace("-", "_"), value.strip())


def _undo(talk: Talk, _: str) -> None:
    messages = talk.conversation.messages
    while messages and messages.pop()["role"] != "user":
        pass


def _retry(talk: Talk, _: str) -> None:
    messages = talk.conversation.messages
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise ValueError("there is no question yet")
    if talk.manner.seed is not None:
        talk.manner = replace(talk.manner, seed=talk.manner.seed + 1)
    _answer(talk)


def _save(talk: Talk, path: str) -> None:
    if not path:
        raise ValueError("say where: /save talk.json")
    talk.conversation.save(Path(path).expanduser(), talk.manner)
    sys.stderr.write(f"written to {path}\n")


def _load(talk: Talk, path: str) -> None:
    from app.conversation import Conversation

    talk.conversation = Conversation.load(Path(path).expanduser())
    for message in talk.conversation.messages:
        print(f"{'> ' if message['role'] == 'user' else ''}{message['content']}")


def _help(talk: Talk, _: str) -> None:
    sys.stderr.write(f"{HELP}\n")


_COMMANDS = {
    "/reset": _reset,
    "/system": _system,
    "/set": _set,
    "/undo": _undo,
    "/retry": _retry,
    "/save": _save,
    "/load": _load,
    "/help": _help,
}
