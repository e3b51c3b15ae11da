"""What half-written words may become."""

import os
from pathlib import Path

import pytest

from app.catalog import Model
from app.completion import Completion


@pytest.fixture
def completion(studio, data):
    (data / "tags").mkdir()
    (data / "tags" / "words.csv").write_text(
        'long_hair,0,5000,"/lh,longhair"\nlong_sleeves,0,9000,\nsmile_(object),0,70,\nvery_long_hair,0,800,\nfox\n\n"bad",x,y\n'
    )
    (data / "wildcards" / "animals").mkdir(parents=True)
    (data / "wildcards" / "animals" / "small.txt").write_text("fox\n")
    return Completion(studio)


def texts(completion, word):
    return [one.text for one in completion.find(word)]


def test_tags_by_use_beginnings_first(completion):
    assert texts(completion, "long") == ["long sleeves", "long hair", "very long hair"]
    assert texts(completion, "LONG_H") == ["long hair", "very long hair"]
    assert texts(completion, "longhair") == ["long hair"]
    assert texts(completion, "l") == []
    assert texts(completion, "nothing like it") == []
    (one,) = completion.find("smile")
    assert one.insert == r"smile \(object\)"


def test_loras_bring_their_words(completion, studio, monkeypatch):
    said = {"activation text": "in ink", "preferred weight": 0.8}
    known = [
        Model(kind="lora", name=name, path=Path(name), size=1, changed=0, problem=problem, info=info)
        for name, problem, info in (("ink", "", said), ("pixel-art", "", {}), ("pixels", "broken", {}))
    ]
    monkeypatch.setattr(studio.catalog, "list", lambda kind="": known if kind == "lora" else [])
    assert texts(completion, "<") == ["ink", "pixel-art"]
    assert texts(completion, "<lora:pix") == ["pixel-art"]
    (one,) = completion.find("ink")
    assert (one.insert, one.comma) == ("in ink <lora:ink:0.8>", False)


def test_wildcards(completion):
    assert texts(completion, "__") == ["__animals/small__"]
    assert texts(completion, "__sma") == ["__animals/small__"]
    assert texts(completion, "__x") == []


def test_a_changed_list_is_read_again(completion, data):
    assert texts(completion, "owl") == []
    path = data / "tags" / "more.csv"
    path.write_text("owl,0,3\n")
    assert texts(completion, "owl") == ["owl"]
    path.write_text("owlet\n")
    os.utime(path, ns=(1, 1))
    assert texts(completion, "owl") == ["owlet"]


def test_no_lists_and_strange_words(studio):
    completion = Completion(studio)
    for word in ("", "<", "__", "a", "((((", "x" * 1000, "\x00"):
        assert completion.find(word) == []
