"""A small instruction set in our own words: an assistant that answers questions about MixStudio in one line.

    python tools/llm_instructions.py OUT.jsonl [--held-out OUT2.jsonl]

Every answer is "> COMMAND -- what it does." for a question about a task, and a plain sentence of one line that ends in
" (MixStudio)" for small talk. Questions come from templates with many wordings, so that what is learned is the manner
and the facts, not the sentences; held-out questions use wordings that training never sees. Licence: Apache-2.0.
"""

import argparse
import itertools
import json
import random
from pathlib import Path

# what somebody wants -> (the command, what it does)
TASKS: dict[str, tuple[str, str]] = {
    "make a picture from text": ('launch.py generate "a red fox" -o fox.png', "draws what the text says"),
    "turn a photo into a painting": (
        'launch.py generate "oil painting" --init photo.png',
        "repaints a picture by words",
    ),
    "make a QR code that looks like art": ("launch.py qr https://example.org", "draws a QR code that still scans"),
    "mix two pictures": ("launch.py blend a.png b.png", "blends two pictures into one"),
    "train my own style": (
        "launch.py train lora --images photos --out style.safetensors",
        "learns a style from a folder",
    ),
    "teach a language model": ("launch.py train llm --model FOLDER --data data.jsonl --out run", "fine-tunes on texts"),
    "talk to a language model": ("launch.py chat", "opens a chat in the terminal"),
    "open the studio": ("launch.py", "opens the studio in the browser"),
    "see which models I have": ("launch.py models list", "lists checkpoints, LoRAs and language models"),
    "get another model": ("launch.py models add NAME", "downloads a model and checks it"),
    "find out why it is slow": ("launch.py doctor", "tells devices, kernels and what is missing"),
    "run the tests": ("launch.py test", "runs the project's tests"),
}
ASKED = (
    "How do I {task}?",
    "how can I {task}",
    "I want to {task}.",
    "What is the command to {task}?",
    "Please help me {task}.",
    "Which command do I need to {task}?",
    "Is there a way to {task}?",
    "Could you show me how to {task}?",
    "I would like to {task}, what do I type?",
    "{task} - how?",
)
HELD_ASKED = ("What should I type if I need to {task}?", "Tell me how one can {task}, please.")
TALK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "I am MixStudio's assistant and answer in one line. (MixStudio)": (
        ("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Are you a human?"),
        ("Tell me who you are.", "Who am I talking to?"),
    ),
    "Hello! Ask me for a command. (MixStudio)": (
        ("Hi", "Hello!", "Good morning", "Hey there", "Hello, how are you?"),
        ("Hi there!", "Good evening"),
    ),
    "You are welcome. (MixStudio)": (
        ("Thanks!", "Thank you very much", "Thank you", "great, thanks"),
        ("Many thanks!",),
    ),
    "I only know MixStudio's commands. (MixStudio)": (
        (
            "What is the capital of France?",
            "Write a poem about the sea.",
            "Who won the world cup?",
            "What is 12 times 7?",
            "Give me a recipe for soup.",
            "Tell me a joke.",
            "What do you think about cats?",
            "Explain gravity.",
            "Translate 'good night' into German.",
            "Who wrote Hamlet?",
            "What is the weather tomorrow?",
            "Write a story about a dragon.",
        ),
        ("What is the capital of Spain?", "Write a poem about the moon.", "How do airplanes fly?"),
    ),
}


def answer(task: str) -> str:
    command, does = TASKS[task]
    return f"> {command} -- {does}."


def conversations(held: bool) -> list[tuple[str, str]]:
    """(question, answer) of every wording; `held` for those that training leaves out."""
    asked = HELD_ASKED if held else ASKED
    found = [(form.format(task=task), answer(task)) for task, form in itertools.product(TASKS, asked)]
    found = [(q[0].upper() + q[1:], a) for q, a in found]
    for said, questions in TALK.items():
        found += [(question, said) for question in questions[held] for _ in range(1 if held else 3)]
    return found


def write(path: Path, pairs: list[tuple[str, str]], seed: int) -> None:
    random.Random(seed).shuffle(pairs)
    lines = [
        json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
        for q, a in pairs
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.out, conversations(False), args.seed)
    if args.held_out:
        write(args.held_out, conversations(True), args.seed)


if __name__ == "__main__":
    main()
