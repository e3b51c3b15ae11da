"""The command line: a table of commands, each in a module of its own that is imported only when asked for."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from app import __version__, environment

# command -> (module, one line of help). A module gives add_arguments(parser) and run(args) -> exit code, and imports
# Paddle inside run, so that help stays instant. Words that its parser does not know are an error, unless it sets
# PASSES_ON = True: then run finds them in args.rest.
COMMANDS = {
    "studio": ("app.cli.studio", "the studio in the browser; what starts without a command"),
    "generate": ("app.cli.generate", "make pictures from text, or from a picture and text, with your checkpoint"),
    "qr": ("app.cli.qr", "a QR code that is a picture, checked by several readers before it is handed over"),
    "blend": ("app.cli.blend", "two photos made one, with a prompt if you like; or a strip from one to the other"),
    "chat": ("app.cli.chat", "talk to a language model, in a dialogue or through a pipe"),
    "train": ("app.cli.train", "a LoRA from your pictures, or a language model on your texts; also whole models"),
    "models": ("app.cli.models", "which models there are; get more, check them, look them up"),
    "doctor": ("app.cli.doctor", "what is installed, which device and kernels are used, and why others are not"),
    "test": ("app.cli.test", "run the project's tests (arguments go to pytest)"),
}
DEFAULT = "studio"

LAUNCHER = """
options of launch.py, before the command:
  --gpu       install the GPU build of Paddle for the CUDA found (remembered)
  --cpu       go back to the CPU build
"""


def _overview(prog: str) -> str:
    width = max(map(len, COMMANDS)) + 2
    rows = "\n".join(f"  {name:<{width}}{line}" for name, (_, line) in COMMANDS.items())
    tail = LAUNCHER if "launch.py" in prog else ""
    return (
        f"usage: {prog} [COMMAND] [options]\n\nMixStudio: a multimodal generation studio on PaddlePaddle.\n\n"
        f"commands:\n{rows}\n{tail}\n`{prog} COMMAND --help` tells the options of a command.\n"
    )


def main(argv: Sequence[str] | None = None, prog: str = "mixstudio") -> int:
    """Run one command; 0 success, 1 the command failed, 2 it was called wrongly, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-h"], ["--help"]):
        print(_overview(prog), end="")
        return 0
    if words[:1] == ["--version"]:
        print(f"mixstudio {__version__}")
        return 0
    if not words or words[0].startswith("-"):  # options without a command are the studio's
        words.insert(0, DEFAULT)
    if words[0] not in COMMANDS:
        print(f"{prog}: there is no command {words[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(words[0], words[1:], prog)


def _run(name: str, words: Sequence[str], prog: str) -> int:
    """One command of the table with its arguments; what a user can put right ends as a sentence."""
    module = import_module(COMMANDS[name][0])
    parser = argparse.ArgumentParser(prog=f"{prog} {name}", description=module.__doc__)
    module.add_arguments(parser)
    args, args.rest = parser.parse_known_args(words)
    if args.rest and not getattr(module, "PASSES_ON", False):
        parser.error(f"unrecognized arguments: {' '.join(args.rest)}")
    try:
        environment.prepare()
        return module.run(args)
    except (ValueError, OSError) as why:  # anything else is ours and keeps its traceback
        print(f"{prog} {name}: {why}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog} {name}: interrupted", file=sys.stderr)
        return 130
