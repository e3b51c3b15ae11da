"""Records from files: conversations, prompts with answers, or plain texts, whatever they are kept in.

A record is one of (other fields are ignored)
    {"messages": [{"role": "user", "content": ...}, ...]}    also as "conversations" with "from" and "value"
    {"prompt": ..., "completion": ...}                       also "response", "answer", "output"; both may be messages
    {"instruction": ..., "input": ..., "output": ...}
    {"text": ...}
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow", ".txt")
ANSWERS = ("completion", "response", "answer", "output")
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant"}


def read(paths: Sequence[str]) -> Iterator[Record]:
    """All records of files and folders, in order. ValueError names the file and the line that is wrong."""
    for name in paths:
        path = Path(name)
        if not path.exists():
            raise ValueError(f"there is no file and no folder {path}")
        files = _inside(path) if path.is_dir() else [path]
        for file in files:
            yield from _records(file)


def _inside(folder: Path) -> list[Path]:
    files = sorted(f for f in folder.rglob("*") if f.suffix in SUFFIXES and not f.name.startswith((".", "dataset_")))
    files = [f for f in files if f.name != "state.json"]
    if not files:
        raise ValueError(f"{folder} has no files to learn from ({', '.join(SUFFIXES)})")
    return files


def _records(file: Path) -> Iterator[Record]:
    match file.suffix:
        case ".jsonl":
            return _lines(file)
        case ".json":
            return iter(_whole(file))
        case ".txt":
            return iter([{"text": file.read_text(encoding="utf-8")}])
        case ".parquet" | ".arrow":
            return _columns(file)
        case suffix:
            raise ValueError(f"{file} can't be read: {suffix or 'no suffix'}; there are {', '.join(SUFFIXES)}")


def _lines(file: Path) -> Iterator[Record]:
    number = 0
    with file.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _checked(json.loads(line), f"{file}, line {number}")
        except json.JSONDecodeError as why:
            raise ValueError(f"{file}, line {number} is not JSON: {why}") from None
        except UnicodeDecodeError as why:
            raise ValueError(f"{file} is not UTF-8 text: {why.reason} at byte {why.start}") from None


def _whole(file: Path) -> list[Record]:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as why:
        raise ValueError(f"{file} is not JSON: {why}") from None
    found = found.get("data", [found]) if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise ValueError(f"{file} must hold a list of records")
    return [_checked(record, f"{file}, record {i}") for i, record in enumerate(found, 1)]


def _checked(record: Any, where: str) -> Record:
    if not isinstance(record, dict):
        raise ValueError(f"{where} is no record: an object with text, messages, or prompt and completion is meant")
    return record


def _columns(file: Path) -> Iterator[Record]:
    try:
        arrow, parquet, ipc = (import_module(f"pyarrow{part}") for part in ("", ".parquet", ".ipc"))
    except ImportError:
        raise ValueError(f"{file.name} needs the package pyarrow: pip install pyarrow, or save it as .jsonl") from None
    try:
        if file.suffix == ".parquet":
            batches: Any = parquet.ParquetFile(file).iter_batches(1024)
        else:
            batches = ipc.open_stream(arrow.memory_map(str(file)))
        for batch in batches:
            yield from batch.to_pylist()
    except (arrow.ArrowInvalid, OSError) as why:
        raise ValueError(f"{file} can't be read: {why}") from None


# --- what a record says -----------------------------------------------------------------------------------------------


def messages_of(record: Record) -> list[dict[str, Any]] | None:
    """The conversation in a record; None for a plain text. ValueError where there is neither."""
    talk = record.get("messages") or record.get("conversations") or record.get("conversation")
    if talk is not None:
        return [_message(one) for one in talk]
    answer = next((record[name] for name in ANSWERS if record.get(name) is not None), None)
    if answer is not None and record.get("prompt") is not None:
        return [*_said("user", record["prompt"]), *_said("assistant", answer)]
    if answer is not None and record.get("instruction") is not None:
        more = record.get("input")
        asked = f"{record['instruction']}\n\n{more}" if more else str(record["instruction"])
        return [*_said("user", asked), *_said("assistant", answer)]
    if isinstance(record.get("text"), str):
        return None
    raise ValueError(
        f"a record has {', '.join(sorted(record)) or 'nothing'}; messages, prompt and completion, instruction and "
        "output, or text are meant"
    )


def _said(role: str, what: Any) -> list[dict[str, Any]]:
    return [_message(one) for one in what] if isinstance(what, list) else [{"role": role, "content": str(what)}]


def _message(one: Any) -> dict[str, Any]:
    if isinstance(one, Mapping) and "from" in one and "value" in one:
        return {"role": ROLES.get(str(one["from"]), str(one["from"])), "content": one["value"]}
    if not isinstance(one, Mapping) or not isinstance(one.get("role"), str) or "content" not in one:
        raise ValueError(f'a message must be {{"role": ..., "content": ...}}, got {str(one)[:80]}')
    return dict(one)
