"""The chat command: one question, a pipe, a dialogue, and what cannot be."""

import io
import json

import pytest

from app.cli import main
from tests.app.rest import tiny_llm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_llm.write(tmp_path_factory.mktemp("chat") / "tiny"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def chat(capsys, monkeypatch, *words, pipe=""):
    monkeypatch.setattr("sys.stdin", io.StringIO(pipe))
    code = main(["chat", *words])
    return code, *capsys.readouterr()


def test_one_question_and_its_events(capsys, monkeypatch, folder):
    words = ("--model", folder, "-t", "0", "--max-tokens", "6")
    code, plain, _ = chat(capsys, monkeypatch, *words, "-p", "hello")
    assert code == 0
    code, out, _ = chat(capsys, monkeypatch, *words, "--json", pipe="hello\n")
    events = [json.loads(line) for line in out.splitlines()]
    assert "".join(e["text"] for e in events if e["event"] == "text") + "\n" == plain
    end = events[-1]
    assert (end["event"], end["reason"], end["completion_tokens"], end["model"]) == ("end", "length", 6, "tiny")
    assert end["text"] + "\n" == plain


def test_a_schema_holds_the_answer(capsys, monkeypatch, folder, tmp_path):
    pytest.importorskip("llguidance")
    (tmp_path / "s.json").write_text('{"enum": ["red", "blue"]}')
    code, out, _ = chat(capsys, monkeypatch, "--model", folder, "-p", "x", "--schema", str(tmp_path / "s.json"))
    assert (code, json.loads(out) in ("red", "blue")) == (0, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-p", "x", "-t", "-1"), "temperature"),
        (("-p", "x", "--schema", "nowhere.json"), "not a JSON schema"),
        ((), "no question"),
        (("-p", "x", "--load", "nowhere.json"), "not a saved conversation"),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys, monkeypatch, folder, words, says):
    code, _, said = chat(capsys, monkeypatch, "--model", folder, *words)
    assert code == 1
    assert says in said


def test_a_dialogue_with_commands(capsys, monkeypatch, folder, tmp_path):
    saved = tmp_path / "talk.json"
    said = ["/system be kind", "hel\\", "lo", "/retry", "/set temperature 9", "/nonsense", f"/save {saved}", "/undo"]
    lines = iter([*said, "/retry", "/help", "/reset", f"/load {saved}", "/quit"])
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    assert main(["chat", "--model", folder, "-t", "0", "--max-tokens", "5"]) == 0
    out, said = capsys.readouterr()
    told = json.loads(saved.read_text())
    assert told["system"] == "be kind"
    assert told["messages"][0] == {"role": "user", "content": "hel\nlo"}
    assert len(told["messages"]) == 2
    assert "> hel\nlo" in out
    for sentence in ("temperature is 9", "no command /nonsense", "no question yet", "/save FILE", "forgotten"):
        assert sentence in said


def test_ctrl_c_stops_an_answer_and_not_the_program(capsys, monkeypatch, folder):
    lines, printed = iter(["tell me", "/quit"]), []

    def interrupt(*text, **_):
        printed.append(text)
        if len(printed) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    monkeypatch.setattr("builtins.print", interrupt)
    assert main(["chat", "--model", folder, "-t", "0", "--max-tokens", "300"]) == 0
    assert printed[-1] == ("\n(stopped)\n",)
