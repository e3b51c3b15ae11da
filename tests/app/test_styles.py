"""Styles: the WebUI's table as it is, an old one, and what is none."""

import pytest

from app.styles import BUILT_IN, Style, apply, load, merge, parse, save


def test_a_table_of_the_webui_comes_through(tmp_path):
    found = [Style("a", 'red, "big" {prompt}', "bad\nworse"), Style("水", "", "x")]
    save(tmp_path / "styles.csv", found)
    assert load(tmp_path / "styles.csv") == found
    assert load(tmp_path / "none.csv") == list(BUILT_IN)


def test_old_tables_and_marks_at_their_start():
    assert parse(b"name,text\r\na,red\r\n,nothing\r\n", "x") == [Style("a", "red")]
    assert parse(b"\xef\xbb\xbfname,prompt,negative_prompt\na,b,c\n", "x") == [Style("a", "b", "c")]
    assert parse(b"name,prompt,negative_prompt\na\nb,1,2,3,4\n", "x") == [Style("a"), Style("b", "1", "2")]


@pytest.mark.parametrize(
    "data",
    [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"name,prompt\na," + b"x" * 200_000, b"name,prompt\n" + b"x" * 5_000_000],
)
def test_what_is_no_table_is_told(data):
    with pytest.raises(ValueError, match=r"styles\.csv (has|cannot be read)"):
        parse(data, "styles.csv")


def test_theirs_take_the_place_of_ours():
    assert merge([Style("a", "1"), Style("b", "2")], [Style("a", "3"), Style("c", "4")]) == [
        Style("a", "3"),
        Style("b", "2"),
        Style("c", "4"),
    ]


def test_styles_go_around_or_behind_the_words():
    known = [Style("around", "a {prompt} b"), Style("behind", "c", "d")]
    assert apply(["around", "behind"], "x", "", known) == ("a x b, c", "d")
    with pytest.raises(ValueError, match="no style 'z'"):
        apply(["z"], "x", "", known)
