"""CLIP's tokenizer: the ids of transformers for a list of awkward texts, folders of checkpoints, and laws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppdiffusers.prompt.tokenizer import (
    ASSETS,
    BOS,
    EOS,
    OPENCLIP_PAD,
    CLIPTokenizer,
    read_merges,
    vocabulary,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens" / "prompt_tokens.json").read_text(encoding="utf-8"))
TEXTS = GOLDEN["texts"]
MERGES = read_merges((ASSETS / "merges.txt").read_text(encoding="utf-8"))
SMALL = MERGES[: GOLDEN["small_merges"]]
CLIP = CLIPTokenizer.clip()


def write_folder(folder: Path, merges: list[tuple[str, str]], **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(merges)), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_clip_has_its_well_known_ids() -> None:
    assert len(CLIP) == 49408
    assert (CLIP.bos, CLIP.eos, CLIP.pad, CLIP.comma) == (49406, 49407, 49407, 267)
    assert CLIP.ids("a photo of a cat") == [320, 1125, 539, 320, 2368]


@pytest.mark.parametrize("which", range(len(TEXTS)), ids=lambda i: repr(TEXTS[i][:20]))
def test_ids_are_those_of_transformers(which: int) -> None:
    assert CLIP.ids(TEXTS[which]) == GOLDEN["clip"][which]


def test_rows_are_those_of_transformers() -> None:
    assert CLIP.rows(TEXTS) == GOLDEN["rows"]


def test_a_folder_with_another_vocabulary(tmp_path: Path) -> None:
    small = CLIPTokenizer.from_pretrained(write_folder(tmp_path / "tokenizer", SMALL).parent, "tokenizer")
    assert len(small) == len(SMALL) + 514
    assert [small.ids(text) for text in TEXTS] == GOLDEN["small"]


@pytest.mark.parametrize("pairs", [True, False])
def test_a_folder_with_tokenizer_json(tmp_path: Path, pairs: bool) -> None:
    merges = SMALL if pairs else [" ".join(pair) for pair in SMALL]
    model = {"type": "BPE", "vocab": vocabulary(SMALL), "merges": merges, "end_of_word_suffix": "</w>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    small = CLIPTokenizer.from_pretrained(tmp_path)
    assert [small.ids(text) for text in TEXTS] == GOLDEN["small"]


def test_openclip_pads_with_zero_and_still_reads_the_word(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, SMALL, pad_token=OPENCLIP_PAD)
    for tokenizer in (CLIPTokenizer.clip(pad=OPENCLIP_PAD), CLIPTokenizer.from_pretrained(folder)):
        (row,) = tokenizer.rows(["!"], length=6)
        assert row == [tokenizer.bos, 256, tokenizer.eos, 0, 0, 0]


def test_special_tokens_map_and_words_added_later(tmp_path: Path) -> None:
    write_folder(tmp_path, SMALL)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!"}}), encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<my-cat>": 2514, EOS: 2513}), encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer.pad == 0
    assert tokenizer.ids("a <my-cat>") == [*tokenizer.ids("a"), 2514]


def test_folders_that_do_not_work_say_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no tokenizer"):
        CLIPTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="not a CLIP tokenizer"):
        CLIPTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="not valid JSON"):
        CLIPTokenizer.from_pretrained(tmp_path)
    write_folder(tmp_path, SMALL, pad_token="[PAD]")
    with pytest.raises(ValueError, match=r"no '\[PAD\]'"):
        CLIPTokenizer.from_pretrained(tmp_path)
    write_folder(tmp_path, SMALL, added_tokens_decoder={"9999": {"content": "<x>"}})
    with pytest.raises(ValueError, match="do not continue"):
        CLIPTokenizer.from_pretrained(tmp_path)


def test_a_row_too_long_is_an_error() -> None:
    with pytest.raises(ValueError, match="76 tokens do not fit"):
        CLIP.row([1] * 76)


@given(text=st.text(max_size=40))
def test_any_text_has_ids_in_the_vocabulary(text: str) -> None:
    assert all(0 <= number < len(CLIP) for number in CLIP.ids(text))


@given(text=st.lists(st.from_regex(r"[a-z]{1,12}", fullmatch=True), max_size=8).map(" ".join))
def test_words_survive_the_way_there_and_back(text: str) -> None:
    assert CLIP.decode([CLIP.bos, *CLIP.ids(text), CLIP.eos]) == text


def test_bos_in_a_text_is_the_token() -> None:
    assert CLIP.ids(BOS + "a") == [CLIP.bos, 320]
