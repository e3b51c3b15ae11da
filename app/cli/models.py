"""Models: which there are, getting more (from disk, a link, the hub, Civitai, or smollm2), checking them.

Progress goes to stderr, results to stdout: a table, or JSON with --json.
"""

import argparse
import getpass
import json
import sys
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from app.cli.progress import WIDTH, Bar

if TYPE_CHECKING:
    from app.catalog import Catalog, Model
    from app.models.access import Access

KINDS = (
    "checkpoint",
    "lora",
    "vae",
    "controlnet",
    "embedding",
    "upscaler",
    "llm",
)  # the catalogue's, without loading it
R = TypeVar("R")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A command of its own for each thing that can be done."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "examples:\n"
        "  models add smollm2                                   a small language model (93 MB)\n"
        "  models add https://civitai.com/models/4384           the newest version's best file\n"
        "  models add stabilityai/sd-vae-ft-mse                 from the hub\n"
        "  models add ~/Downloads/style.safetensors             linked into its folder\n"
        "  models verify --nan style                            header, hash, numbers\n"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="JSON on stdout")
    common.add_argument("--quiet", "-q", action="store_true", help="no progress")
    common.add_argument("--data", metavar="FOLDER", help="where models, outputs and settings lie")
    kind = argparse.ArgumentParser(add_help=False)
    kind.add_argument("--kind", choices=KINDS, default="", help="only models of this kind")
    for name, line, parents in _COMMANDS:
        sub = commands.add_parser(name, help=line, description=line, parents=[common, *([kind] if parents else [])])
        _ARGUMENTS[name](sub)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", help="file, folder, link, owner/name, Civitai page or hash, or smollm2")
    parser.add_argument("--kind", choices=KINDS, default="", help="where it goes, if that is found wrongly")
    parser.add_argument("--name", default="", help="another name for it here")
    parser.add_argument(
        "--precision", choices=("fp16", "full"), default="fp16", help="which files, where there are both"
    )
    parser.add_argument(
        "--allow-pickle", action="store_true", help="read pickles by a closed list of names, convert them"
    )
    parser.add_argument("--copy", action="store_true", help="copy files from disk instead of linking them")
    parser.add_argument("--force", action="store_true", help="keep it even if MixStudio cannot use it")
    parser.add_argument("--dry-run", "-n", action="store_true", help="only say what would happen")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", help="default: all")
    parser.add_argument("--nan", action="store_true", help="read all numbers and look for NaN and infinity")
    parser.add_argument("--quick", action="store_true", help="headers only, no hashes")


def _civitai(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("search", "identify"), help="find models by words; name files by their hash")
    parser.add_argument("words", nargs="*", help="search: what for; identify: which models (default: all)")
    parser.add_argument("--type", action="append", default=[], help="search: Checkpoint, LORA, VAE, ...; also several")
    parser.add_argument("--limit", type=int, default=20, help="search: at most so many")
    parser.add_argument("--again", action="store_true", help="identify: also those that were asked about before")


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="as `models list` has it")


def _token(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", choices=("civitai", "huggingface"))
    parser.add_argument("--forget", action="store_true", help="delete it")


_COMMANDS = (  # name, help, whether --kind narrows it
    ("list", "which models there are", True),
    ("add", "get a model", False),
    ("verify", "whether models are sound: header, hash, numbers", True),
    ("info", "what is known about a model", True),
    ("civitai", "search Civitai, or ask it what files are", True),
    ("remove", "move a model to the trash (models/.trash)", True),
    ("token", "keep a token for downloads that want a login; read from the keyboard or a pipe", False),
)
_ARGUMENTS = {
    **{"list": lambda parser: None, "add": _add, "verify": _verify, "info": _name},
    **{"civitai": _civitai, "remove": _name, "token": _token},
}


def run(args: argparse.Namespace) -> int:
    """0 when it was done and, for verify, everything was sound."""
    from app.environment import import_paddle

    if args.command != "token":
        import_paddle()
    return _RUN[args.command](args)


class BytesBar(Bar):
    """Progress in bytes: the note has the numbers, so a terminal gets bar and note, a log the note now and then."""

    def show(self, step: int, of: int, note: str = "") -> None:
        """Redraw, as often as the work tells."""
        if self.quiet:
            return
        if self.live:
            bar = "#" * round(WIDTH * step / max(of, 1))
            sys.stderr.write(f"\r\033[K[{bar:<{WIDTH}}] {note[:100]}")
            sys.stderr.flush()
        elif time.monotonic() - self._said > 10 or (step == of and note != self._note):
            sys.stderr.write(f"{note}\n")
            self._note, self._said = note, time.monotonic()


def follow(work: Generator[Any, None, R], quiet: bool) -> tuple[R, list[Any]]:
    """Show progress and notes of a generator to its end; (what it returns, its other events)."""
    others: list[Any] = []
    with BytesBar(quiet) as bar:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return end.value, others
            if hasattr(event, "step"):
                bar.show(event.step, event.of, event.note)
            elif hasattr(event, "warning"):
                bar.note(event.text, event.warning)
            else:
                others.append(event)


def _print(rows: Any) -> None:
    print(json.dumps(rows, indent=2, ensure_ascii=False, default=str))


def _open(args: argparse.Namespace) -> "tuple[Catalog, Access]":
    from app import settings
    from app.catalog import Catalog
    from app.models.access import Access

    loaded = settings.load(args.data)
    for trouble in loaded.troubles:
        sys.stderr.write(f"warning: {trouble}\n")
    return Catalog(loaded), Access.of(loaded)


def _find(catalog: "Catalog", name: str, kind: str) -> "Model":
    """One model by name, of any kind. ValueError with what there is, or which kinds have that name."""
    kinds, found = (kind,) if kind else KINDS, []
    for one in kinds:
        try:
            found.append(catalog.find(one, name))
        except KeyError:
            continue
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{name} is the name of a {' and a '.join(m.kind for m in found)}; say which with --kind")
    there = ", ".join(m.name for m in catalog.list(kind)[:12]) or "none yet"
    raise ValueError(f"there is no model {name!r}; there are: {there}")


def _list(args: argparse.Namespace) -> int:
    from app.catalog import as_json

    catalog, _ = _open(args)
    models = catalog.list(args.kind)
    if args.json:
        _print([as_json(model) for model in models])
        return 0
    if not models:
        print(f"no models yet; put them below {catalog.settings.models}, or get one: models add smollm2")
    width = max((len(model.name) for model in models), default=0)
    for model in sorted(models, key=lambda m: KINDS.index(m.kind) if m.kind in KINDS else 99):
        base = model.family or str(model.info.get("sd version", ""))
        tail = f"  ! {model.problem}" if model.problem else "  (embedded)" if model.embedded else ""
        print(f"{model.kind:<11} {model.name:<{width}}  {_size(model.size):>9}  {base:<12}{tail}".rstrip())
    return 0


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _run_add(args: argparse.Namespace) -> int:
    from app.models.add import Options, plan, work

    catalog, access = _open(args)
    if args.name and len(args.what) > 1:
        raise ValueError("--name is for one model at a time")
    options = Options(
        allow_pickle=args.allow_pickle,
        precision=args.precision,
        kind=args.kind,
        name=args.name,
        copy=args.copy,
        force=args.force,
    )
    results: list[Any] = []
    for what in args.what:
        if args.dry_run:
            planned = plan(what, catalog.settings, options, access)
            results.append({**_plan_json(planned), "what": what})
            continue
        _, added = follow(work(what, catalog.settings, options, access), args.quiet or args.json)
        results += [asdict(one) for one in added]
        if not args.json:
            print("\n".join(map(str, added)))
    if args.json:
        _print(results)
    elif args.dry_run:
        print("\n".join(_plan_text(row) for row in results))
    return 0


def _plan_json(planned: Any) -> dict[str, Any]:
    same = ("source", "title", "kind", "folder", "notes", "size")
    return {name: getattr(planned, name) for name in same} | {"files": dict(planned.files)}


def _plan_text(row: dict[str, Any]) -> str:
    files = "\n".join(f"  {_size(size) if size else 'size unknown':>12}  {name}" for name, size in row["files"].items())
    notes = "".join(f"\n  {note}" for note in row["notes"])
    return f"{row['title']}\n  into {row['folder'] or 'the folder of its kind'}, {_size(row['size'])}{notes}\n{files}"


def _run_verify(args: argparse.Namespace) -> int:
    from app.models.keep import verify

    catalog, _ = _open(args)
    models = [_find(catalog, name, args.kind) for name in args.name] or catalog.list(args.kind)
    reports = []
    for model in models:
        report, _ = follow(verify(model, args.nan, not args.quick), args.quiet or args.json)
        reports.append(report)
        if not args.json:
            said = "; ".join(report.problems) or f"sound ({', '.join(report.checked)})"
            print(f"{report.kind:<11} {report.name}: {said}")
    if args.json:
        _print([asdict(report) | {"sound": report.sound} for report in reports])
    return 0 if all(report.sound for report in reports) else 1


def _run_info(args: argparse.Namespace) -> int:
    from app.catalog import as_json
    from app.models.sidecars import read_info

    catalog, _ = _open(args)
    model = _find(catalog, args.name, args.kind)
    told = as_json(model) | {"info": read_info(model.path, header=True)}
    if args.json:
        _print(told)
        return 0
    for name in ("name", "kind", "family", "path", "hash", "preview", "problem"):
        if told[name]:
            print(f"{name:<12} {told[name]}")
    print(f"{'size':<12} {_size(model.size)}")
    for name, value in told["info"].items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for key, text in rows:
            print(f"{f'{name} {key}'.strip()}: {text}")
    return 0


def _run_civitai(args: argparse.Namespace) -> int:
    from app.models import civitai
    from app.models.keep import identify_all

    catalog, access = _open(args)
    if args.action == "identify":
        models = [_find(catalog, name, args.kind) for name in args.words] or catalog.list(args.kind)
        found, _ = follow(identify_all(models, access, args.again or bool(args.words)), args.quiet or args.json)
        if args.json:
            _print([{"name": model.name, "path": model.path, "title": title or None} for model, title in found])
        elif not found:
            print("nothing to ask about: every file has been looked up before (--again asks again)")
        return 0
    if not args.words:
        raise ValueError("say what to search for, for example: models civitai search watercolor --type LORA")
    rows = civitai.search(access, " ".join(args.words), args.type, args.limit)
    if args.json:
        _print(rows)
    for row in () if args.json else rows:
        print(f"{row['link']:<36} {row['type']:<17} {row['base']:<14} {row['downloads']:>9,}  {row['name']}")
    return 0


def _run_remove(args: argparse.Namespace) -> int:
    from app.models.places import to_trash

    catalog, _ = _open(args)
    model = _find(catalog, args.name, args.kind)
    place = to_trash(catalog.settings, model.path)
    if args.json:
        _print({"name": model.name, "trash": place})
    else:
        print(f"{model.name} is in {place}")
    return 0


def _run_token(args: argparse.Namespace) -> int:
    from app import settings
    from app.models.access import save_token, secrets_path

    folder: Path = settings.data_folder(args.data)
    typed = sys.stdin.isatty()
    token = "" if args.forget else getpass.getpass(f"{args.service} token: ") if typed else sys.stdin.readline()
    if not args.forget and not token.strip():
        raise ValueError("no token was given")
    save_token(folder, args.service, token)
    print(f"{'forgotten' if args.forget else 'kept'} in {secrets_path(folder)}")
    return 0


_RUN = {
    **{"list": _list, "add": _run_add, "verify": _run_verify, "info": _run_info},
    **{"civitai": _run_civitai, "remove": _run_remove, "token": _run_token},
}
