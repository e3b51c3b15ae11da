"""Downloads: what is right arrives, what is wrong never has a model's name, what was cut goes on."""

import logging

import pytest

from app.models import fetch as module
from app.models.access import is_public, load_tokens, save_token, secrets_path, shown
from app.models.fetch import fetch, sweep
from ppdiffusers.pipelines.event import Note, Progress

TOKENLESS = {"evil.test", "cdn.test", "files.test"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(module, "_pause", lambda seconds, done, wanted: iter(()))


def run(wanted, access):
    return list(fetch(wanted, access))


def test_a_file_arrives_whole_and_tells_its_progress(fake, access, wanted, lora, tools):
    want = wanted(fake.add("files.test", "/x", lora), sha256=tools.sha256(lora), size=len(lora))
    events = run(want, access)
    assert want.target.read_bytes() == lora
    assert tools.leftovers(want.target.parent) == ["x.safetensors"]
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert last.step == last.of == len(lora)
    assert "x.safetensors" in last.note


PAGE = b"<!doctype html><html><head><title>Sign in to Civitai</title></head><body>...</body></html>"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"body": PAGE, "kind": "text/html; charset=utf-8"}, 'a web page \\("Sign in to Civitai"\\)'),
        ({"body": PAGE}, "looks like an HTML"),
        (
            {"body": b'{"error":"The creator requires you to be logged in"}', "kind": "application/json"},
            "to be logged in",
        ),
        ({"body": b'{"error":"no"}'}, "JSON text"),
        ({"body": b'{"error":"no"}', "status": 401, "kind": "application/json"}, "wants a login"),
        ({"body": b"", "status": 200}, "damaged|no safetensors"),
        ({"body": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"}, "Git LFS pointer"),
        ({"body": b"\x00" * 200}, "no safetensors file"),
        ({"body": b"gone", "status": 410}, "archived"),
        ({"body": b"", "status": 404}, "has nothing at /x"),
        ({"body": b"", "status": 503}, "disturbed"),
        ({"body": b"", "status": 418}, "status 418"),
    ],
)
def test_what_is_no_model_never_becomes_one(fake, access, wanted, tools, answer, said):
    want = wanted(fake.add("files.test", "/x", **answer))
    with pytest.raises(ValueError, match=said):
        run(want, access)
    assert tools.leftovers(want.target.parent.parent) == []


def test_a_truncated_body_goes_on_where_it_stopped(fake, access, wanted, lora, tools):
    url = fake.add("files.test", "/x", tools.Answer(lora, etag='"v1"', cut=20_000))
    events = run(wanted(url, sha256=tools.sha256(lora)), access)
    assert [s.headers.get("Range") for s in fake.asked("/x")] == [None, "bytes=20000-"]
    assert fake.asked("/x")[1].headers["If-Range"] == '"v1"'
    assert any(isinstance(e, Note) and "trying again" in e.text for e in events)
    assert wanted(url).target.read_bytes() == lora


def test_a_cancelled_download_keeps_its_part_and_the_next_goes_on(fake, access, wanted, lora, tools, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    big = lora * 20  # several pieces; only its hash makes it sound
    want = wanted(fake.add("files.test", "/x", tools.Answer(big, etag='"v1"')), "x.bin2", sha256=tools.sha256(big))
    work = fetch(want, access)
    next(work)
    work.close()
    assert tools.leftovers(want.target.parent) == ["x.bin2.part", "x.bin2.part.json"]
    had = (want.target.parent / "x.bin2.part").stat().st_size
    assert 0 < had < len(big)
    run(want, access)
    assert fake.asked("/x")[-1].headers["Range"] == f"bytes={had}-"
    assert want.target.read_bytes() == big


@pytest.mark.parametrize("etag", ['"v2"', "none"])
def test_a_file_that_changed_on_the_server_begins_anew(fake, access, wanted, lora, tools, etag):
    url = fake.add("files.test", "/x", tools.Answer(b"{" * 30_000, etag='"v1"', cut=10_000))
    want = wanted(url, "x.dat")
    work = fetch(want, access)
    while not isinstance(next(work), Note):
        pass
    work.close()
    assert (want.target.parent / "x.dat.part").stat().st_size == 10_000
    fake.add("files.test", "/x", tools.Answer(lora, etag=etag))
    run(want, access)
    assert want.target.read_bytes() == lora


def test_a_resumed_file_whose_hash_is_wrong_is_not_kept(fake, access, wanted, lora, tools):
    want = wanted(fake.add("files.test", "/x", tools.Answer(lora, etag="none", cut=30_000)), sha256="0" * 64)
    with pytest.raises(ValueError, match="nothing was kept"):
        run(want, access)
    assert tools.leftovers(want.target.parent) == []


@pytest.mark.parametrize("known", [{"size": 5}, {"sha256": "ab" * 32}, {"git": "12" * 20}])
def test_another_size_or_hash_than_promised_is_refused(fake, access, wanted, lora, tools, known):
    want = wanted(fake.add("files.test", "/x", lora), **known)
    with pytest.raises(ValueError, match=r"promised|should have"):
        run(want, access)
    assert tools.leftovers(want.target.parent) == []


def test_a_header_that_promises_more_than_there_is_is_refused(fake, access, wanted, lora, tools):
    want = wanted(fake.add("files.test", "/x", lora[:-100]))
    with pytest.raises(ValueError, match="truncated"):
        run(want, access)
    assert tools.leftovers(want.target.parent) == []


def test_a_body_without_end_stops_at_the_promised_size(fake, access, wanted, lora):
    want = wanted(fake.add("files.test", "/x", lora + b"x" * 100_000, chunked=True), size=len(lora))
    with pytest.raises(ValueError, match="sends more than"):
        run(want, access)
    assert not want.target.exists()


def test_a_body_of_unknown_length_is_taken(fake, access, wanted, lora):
    want = wanted(fake.add("files.test", "/x", lora, chunked=True))
    run(want, access)
    assert want.target.read_bytes() == lora


def test_a_full_disk_is_told_before(fake, access, wanted, lora, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("U", (), {"free": 1000})())
    with pytest.raises(ValueError, match="make room"):
        run(wanted(fake.add("files.test", "/x", lora)), access)


def test_too_many_requests_wait_as_told_or_say_so(fake, access, wanted, lora, tools):
    answers = [tools.Answer(b"", 429, {"Retry-After": "1"}), tools.Answer(lora)]
    want = wanted(fake.add("files.test", "/x", lambda handler: answers.pop(0)))
    assert any(isinstance(e, Note) and "in 1 s" in e.text for e in run(want, access))
    later = wanted(fake.add("files.test", "/y", tools.Answer(b"", 429, {"Retry-After": "7200"})), "y.safetensors")
    with pytest.raises(ValueError, match="in 7200 seconds"):
        run(later, access)


def test_what_is_there_already_is_not_fetched_again(fake, access, wanted, lora, tools):
    want = wanted(fake.add("files.test", "/x", lora), sha256=tools.sha256(lora))
    run(want, access)
    run(want, access)
    assert len(fake.asked("/x")) == 1
    with pytest.raises(ValueError, match="there already"):
        run(wanted(want.url, sha256="0" * 64), access)


# --- where it may go ---


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("https://example.org/x.safetensors", "not among the hosts"),
        ("https://huggingface.co.evil.org/x", "not among the hosts"),
        ("https://evilhuggingface.co/x", "not among the hosts"),
        ("https://127.0.0.1/x", "not among the hosts"),
        ("https://[::1]/x", "not among the hosts"),
        ("https://huggingface.co@evil.org/x", "name and password"),
        ("http://huggingface.co/x", "not a https link"),
        ("file:///etc/passwd", "not among the hosts"),
        ("ftp://huggingface.co/x", "not a https link"),
        ("https://evil.test/x", "10.0.0.7"),
        ("https://meta.test/x", "169.254.169.254"),
        ("https://mixed.test/x", "127.0.0.1"),
        ("", "not among the hosts"),
    ],
)
def test_links_that_are_not_followed(access, wanted, link, said):
    with pytest.raises(ValueError, match=said):
        run(wanted(link), access)


@pytest.mark.parametrize(
    "to", ["https://evil.test/x", "https://example.org/x", "http://evil.test/x", "//example.org/x"]
)
def test_every_redirect_is_checked(fake, access, wanted, tools, to):
    want = wanted(fake.redirect("files.test", "/x", to))
    with pytest.raises(ValueError, match=r"redirects elsewhere|10\.0\.0\.7"):
        run(want, access)
    assert tools.leftovers(want.target.parent) == []


def test_redirects_end(fake, access, wanted):
    with pytest.raises(ValueError, match="redirects more than"):
        run(wanted(fake.redirect("files.test", "/x", "/x")), access)


def test_the_checked_address_is_the_one_that_is_used(fake, access, wanted, lora, tools):
    """A name that answers with a public address first and a private one later gains nothing: it is asked once."""
    answers = [["127.0.0.1"], ["10.0.0.7"]]
    asked = []

    def resolve(host, port):
        asked.append(host)
        return answers.pop(0)

    want = wanted(fake.add("files.test", "/x", lora))
    run(want, tools.replace(access, resolve=resolve))
    assert asked == ["files.test"]
    assert want.target.read_bytes() == lora


def test_a_token_goes_to_its_own_host_only(fake, access, wanted, lora, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, logger="httpx")
    fake.add("cdn.test", "/signed", lora)
    fake.redirect("civitai.test", "/dl", fake.link("cdn.test", "/signed?X-Signature=very-secret"))
    url = fake.redirect("files.test", "/x", fake.link("civitai.test", "/dl"))
    run(wanted(url + "?token=typed-secret"), access)
    assert [(s.host, s.headers.get("Authorization")) for s in fake.seen] == [
        ("files.test", None),
        ("civitai.test", "Bearer civitai-secret"),
        ("cdn.test", None),
    ]
    assert "typed-secret" not in fake.seen[0].path
    assert "HTTP Request" in caplog.text
    assert "secret" not in caplog.text
    assert "secret" not in repr(access)


def test_a_redirect_to_the_login_page_is_explained(fake, access, wanted, tools):
    url = fake.redirect("civitai.test", "/api/download/models/1", "/login?returnUrl=/x")
    with pytest.raises(ValueError, match="models token civitai"):
        run(wanted(url), tools.replace(access, tokens={}))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((a, True) for a in ("93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822")),
        *((a, False) for a in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0")),
        *(
            (a, False)
            for a in ("::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::")
        ),
        *((a, False) for a in ("100.64.0.1", "224.0.0.1", "255.255.255.255", "::")),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(address) is public


def test_tokens_are_kept_for_the_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nowhere"))
    for name in ("CIVITAI_TOKEN", "CIVITAI_API_TOKEN", "HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    save_token(tmp_path, "civitai", " abc \n")
    assert load_tokens(tmp_path) == {"civitai": "abc"} | (
        {"huggingface": ""} if "huggingface" in load_tokens(tmp_path) else {}
    )
    assert secrets_path(tmp_path).stat().st_mode & 0o077 == 0
    with pytest.raises(ValueError, match="one word"):
        save_token(tmp_path, "civitai", "a b")
    with pytest.raises(ValueError, match="no service"):
        save_token(tmp_path, "github", "a")
    save_token(tmp_path, "civitai", "")
    assert not load_tokens(tmp_path).get("civitai")


def test_links_are_shown_without_what_is_secret():
    assert shown("https://civitai.com/api/download/models/1?token=abc") == "https://civitai.com/api/download/models/1"
    assert shown("https://user:word@civitai.com/x?y#z") == "https://civitai.com/x"


def test_old_parts_are_swept(tmp_path, fake, access, wanted):
    for name in ("a.part", "a.part.json", "b.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    assert sweep(tmp_path) == []
    assert sweep(tmp_path, older=-1) == ["a.part"]
    assert [p.name for p in tmp_path.iterdir()] == ["b.safetensors"]


def test_one_file_is_downloaded_once_at_a_time(fake, access, wanted, lora, tools, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    want = wanted(fake.add("files.test", "/x", lora))
    work = fetch(want, access)
    next(work)
    with pytest.raises(ValueError, match="already"):
        run(want, access)
    work.close()
