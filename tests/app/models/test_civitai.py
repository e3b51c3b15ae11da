"""Civitai: any kind of link to the right file in the right folder, with its sidecars; every refusal explained."""

import io
import json

import PIL.Image
import pytest

from app.models import add as module
from app.models import civitai
from app.models.add import Added, Options, plan, work
from app.models.civitai import Ref, parse
from app.models.sidecars import preview_of, read_info
from ppdiffusers.pipelines.event import Note


def picture() -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", (1200, 900), "teal").save(out, "JPEG")
    return out.getvalue()


def file_row(fake, tools, data, **changes):
    return {
        "id": 7,
        "name": "water.safetensors",
        "sizeKB": len(data) / 1024,
        "type": "Model",
        "primary": True,
        "metadata": {"format": "SafeTensor", "fp": "fp16", "size": "pruned"},
        "hashes": {"SHA256": tools.sha256(data).upper(), "AutoV2": tools.sha256(data)[:10].upper()},
        "downloadUrl": "https://civitai.com/api/download/models/20",
        "pickleScanResult": "Success",
        "virusScanResult": "Success",
    } | changes


def version_row(fake, files, **changes):
    return {
        "id": 20,
        "modelId": 10,
        "name": "v2",
        "baseModel": "SD 1.5",
        "trainedWords": ["water style", None, " wet "],
        "description": "<p>Paints <b>water</b>.</p><script>alert(1)</script><p>Weight 0.8</p>",
        "model": {"name": "Water", "type": "LORA", "nsfw": False, "poi": None},
        "files": files,
        "images": [
            {"url": fake.link("cdn.test", "/film.mp4"), "type": "video", "nsfwLevel": 1},
            {"url": fake.link("cdn.test", "/wild.jpeg"), "type": "image", "nsfwLevel": 8},
            {"url": fake.link("cdn.test", "/tame.jpeg"), "type": "image", "nsfwLevel": 1},
        ],
    } | changes


@pytest.fixture
def site(fake, lora, tools):
    """One LoRA at Civitai, downloaded through a signed link of its storage."""
    version = version_row(fake, [file_row(fake, tools, lora)])
    fake.add("civitai.test", "/api/v1/model-versions/20", version)
    for digest in (tools.sha256(lora).upper(), tools.sha256(lora)[:10].upper()):
        fake.add("civitai.test", f"/api/v1/model-versions/by-hash/{digest}", version)
    draft = version | {"id": 30, "status": "Draft"}
    early = version | {"id": 31, "availability": "EarlyAccess", "earlyAccessEndsAt": "2027-01-01T00:00:00Z"}
    rows = [draft, early, {**version, "availability": "Public"}]
    fake.add("civitai.test", "/api/v1/models/10", {"id": 10, "name": "Water", "type": "LORA", "modelVersions": rows})
    fake.redirect("civitai.test", "/api/download/models/20", fake.link("cdn.test", "/signed?X-Amz-Signature=s"))
    fake.add("cdn.test", "/signed", lora)
    fake.add("cdn.test", "/tame.jpeg", picture(), kind="image/jpeg")
    return fake


def run(text, settings, access, **options):
    events = list(work(text, settings, Options(**options), access))
    assert isinstance(events[-1], Added)
    return events[-1], events


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("https://civitai.com/models/10", Ref(10)),
        ("https://civitai.com/models/10/water-style", Ref(10)),
        ("civitai.com/models/10/water?modelVersionId=20", Ref(10, 20)),
        ("https://civitai.com/models/10?modelVersionId=20#x", Ref(10, 20)),
        ("https://www.civitai.com/api/v1/models/10", Ref(10)),
        ("https://civitai.com/api/v1/model-versions/20", Ref(version=20)),
        ("https://civitai.com/model-versions/20", Ref(version=20)),
        ("https://civitai.com/api/download/models/20", Ref(version=20)),
        (
            "https://civitai.com/api/download/models/20?type=Model&format=SafeTensor&fp=fp32&token=x",
            Ref(version=20, wants={"type": "Model", "format": "SafeTensor", "fp": "fp32"}),
        ),
        ("urn:air:sd1:lora:civitai:10@20", Ref(10, 20)),
        ("urn:air:sdxl:checkpoint:civitai:10", Ref(10)),
        ("civitai:10@20", Ref(10, 20)),
        ("ab" * 32, Ref(hash="AB" * 32)),
        ("0123456789", Ref(hash="0123456789")),
        ("https://huggingface.co/a/b", None),
        ("https://civitai.com.evil.org/models/10", None),
        ("owner/name", None),
        ("abcdefg", None),
    ],
)
def test_what_people_paste_is_understood(text, ref):
    assert parse(text) == ref


def test_other_pages_are_told(access, settings):
    with pytest.raises(ValueError, match="no model's page"):
        parse("https://civitai.com/user/somebody")


@pytest.mark.parametrize(
    "text",
    ["https://civitai.com/models/10", "urn:air:sd1:lora:civitai:10@20", "civitai.com/models/10?modelVersionId=20"],
)
def test_a_page_becomes_a_file_with_its_sidecars(site, settings, access, lora, tools, text):
    added, _ = run(text, settings, access)
    assert added.path == settings.models / "Lora" / "water.safetensors"
    assert added.path.read_bytes() == lora
    assert tools.leftovers(settings.models) == [
        "Lora/water.civitai.info",
        "Lora/water.json",
        "Lora/water.preview.png",
        "Lora/water.safetensors",
    ]
    info = read_info(added.path)
    assert info["activation text"] == "water style, wet"
    assert info["description"] == "Paints water.\nWeight 0.8"
    assert info["sd version"] == "SD 1.5"
    assert info["civitai"]["url"] == "https://civitai.com/models/10?modelVersionId=20"
    with PIL.Image.open(preview_of(added.path)) as image:
        assert image.format == "PNG"
        assert max(image.size) <= 768
    assert [s.headers.get("Authorization") for s in site.asked("/signed")] == [None]
    assert "secret" not in "".join(p.read_text(errors="ignore") for p in settings.models.rglob("*") if p.is_file())


def test_the_newest_public_version_is_taken(site, settings, access):
    assert plan("civitai.com/models/10", settings, None, access).files[0][0] == "water.safetensors"
    assert civitai.find(access, Ref(10)).id == 20  # not the draft, not early access


def test_a_hash_finds_its_file_and_nothing_is_fetched_twice(site, settings, access, lora, tools):
    first, _ = run(tools.sha256(lora)[:10], settings, access)
    second, events = run(tools.sha256(lora), settings, access)
    assert first.path == second.path
    assert any(isinstance(e, Note) and "there already" in e.text for e in events)
    assert len(site.asked("/signed")) == 1


def test_another_model_of_the_same_name_gets_another_one(site, settings, access):
    (settings.models / "Lora").mkdir(parents=True)
    (settings.models / "Lora" / "water.safetensors").write_bytes(b"mine")
    added, _ = run("civitai:10@20", settings, access)
    assert added.path.name == "water-20.safetensors"
    assert (settings.models / "Lora" / "water.safetensors").read_bytes() == b"mine"


REFUSALS = [
    (
        401,
        {"error": "Unauthorized", "message": "The creator requires you to be logged in"},
        "does not accept its token",
    ),
    (403, {"error": "Early Access", "deadline": "2027-01-01", "message": "Buy it"}, "early access.*2027-01-01"),
    (404, {"error": "Not found"}, "has nothing at"),
    (410, {"error": "Model archived, not available for download"}, "archived"),
    (429, {"error": "Too many downloads"}, "takes no more requests"),
    (503, {"error": "Overloaded"}, "disturbed"),
    (403, {"error": "Downloads disabled"}, "refuses this file"),
]


@pytest.mark.parametrize(("status", "body", "said"), REFUSALS)
def test_every_refusal_of_a_download_is_explained(site, settings, access, tools, status, body, said):
    answer = tools.Answer(json.dumps(body).encode(), status, {"Retry-After": "900"}, "application/json")
    site.add("civitai.test", "/api/download/models/20", answer)
    with pytest.raises(ValueError, match=said):
        run("civitai:10@20", settings, access)
    assert tools.leftovers(settings.models) == []


@pytest.mark.parametrize(("status", "body", "said"), [r for r in REFUSALS if r[0] in (401, 404, 429, 503)])
def test_every_refusal_of_the_interface_is_explained(site, settings, access, tools, status, body, said):
    answer = tools.Answer(json.dumps(body).encode(), status, {}, "application/json")
    site.add("civitai.test", "/api/v1/models/10", answer)
    with pytest.raises(ValueError, match=said):
        run("civitai:10", settings, access)


def test_without_a_token_the_sentence_says_where_to_get_one(site, settings, access, tools):
    site.add("civitai.test", "/api/download/models/20", tools.Answer(b"{}", 401, kind="application/json"))
    with pytest.raises(ValueError, match="models token civitai"):
        run("civitai:10@20", settings, tools.replace(access, tokens={}))


def test_a_dead_link_is_asked_for_by_number(site, settings, access, lora, tools):
    real = site.routes["civitai.test", "/api/download/models/20"]
    gone = tools.Answer(b'{"error":"gone"}', 404, kind="application/json")
    site.add("civitai.test", "/api/download/models/20", lambda handler: real if "fileId=7" in handler.path else gone)
    added, _ = run("civitai:10@20", settings, access)
    assert added.path.read_bytes() == lora


def test_a_page_in_place_of_the_file_leaves_nothing(site, settings, access, tools):
    site.add("cdn.test", "/signed", b"<html><title>Login</title></html>", kind="text/html")
    with pytest.raises(ValueError, match="a web page"):
        run("civitai:10@20", settings, access)
    assert tools.leftovers(settings.models) == []


def choose(fake, tools, rows, **how):
    version = civitai.read_version(version_row(fake, [file_row(fake, tools, b"x", **row) for row in rows]))
    return civitai.choose(version, how.pop("ref", Ref(version=20)), **how)


ROWS = [
    {"id": 1, "name": "full.safetensors", "metadata": {"format": "SafeTensor", "fp": "fp32", "size": "full"}},
    {"id": 2, "name": "half.safetensors", "primary": False},
    {
        "id": 3,
        "name": "old.ckpt",
        "primary": False,
        "metadata": {"format": "PickleTensor", "fp": "fp16", "size": "pruned"},
    },
    {"id": 4, "name": "data.zip", "type": "Training Data", "metadata": {"format": "Other", "fp": None, "size": None}},
]


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({}, "half.safetensors"),
        ({"precision": "full"}, "full.safetensors"),
        ({"ref": Ref(version=20, wants={"fp": "fp32"})}, "full.safetensors"),
        ({"ref": Ref(version=20, wants={"size": "pruned", "format": "SafeTensor"})}, "half.safetensors"),
        ({"ref": Ref(version=20, wants={"fileid": "1"})}, "full.safetensors"),
        ({"ref": Ref(version=20, wants={"fileid": "3"}), "pickles": True}, "old.ckpt"),
    ],
)
def test_the_right_file_is_chosen(fake, tools, how, name):
    assert choose(fake, tools, ROWS, **how).name == name


def test_files_that_are_not_taken(fake, tools):
    with pytest.raises(ValueError, match="only pickles"):
        choose(fake, tools, ROWS[2:3])
    with pytest.raises(ValueError, match="no such file"):
        choose(fake, tools, ROWS, ref=Ref(version=20, wants={"fileid": "99"}))
    with pytest.raises(ValueError, match="found a danger"):
        choose(fake, tools, [{"virusScanResult": "Danger"}])
    with pytest.raises(ValueError, match="no such file"):
        choose(fake, tools, [])


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../../evil.safetensors", "evil.safetensors"),
        ("..\\..\\evil.safetensors", "evil.safetensors"),
        ("/etc/cron.d/x.safetensors", "x.safetensors"),
        ("C:\\Windows\\x.safetensors", "x.safetensors"),
        ("a\x00b\u202e.safetensors", "ab.safetensors"),
        (".hidden.safetensors", "hidden.safetensors"),
        ("CON.safetensors", "model-CON.safetensors"),
        ("水.safetensors", "水.safetensors"),
        ("x" * 400 + ".safetensors", "x" * 138 + ".safetensors"),
    ],
)
def test_names_from_strangers_stay_in_the_folder(site, settings, access, lora, tools, name, kept):
    rows = [file_row(site, tools, lora, name=name)]
    site.add("civitai.test", "/api/v1/model-versions/20", version_row(site, rows))
    added, _ = run("civitai:10@20", settings, access)
    assert added.path.parent == settings.models / "Lora"
    assert added.path.name.replace("_", "") == kept
    outside = [p for p in settings.data.parent.rglob("*") if p.is_file() and settings.models not in p.parents]
    assert outside == []


@pytest.mark.parametrize(
    ("type_", "folder"),
    [
        *(("LORA", "Lora"), ("LoCon", "Lora"), ("DoRA", "Lora"), ("Checkpoint", "Stable-diffusion"), ("VAE", "VAE")),
        *(("TextualInversion", "embeddings"), ("Controlnet", "ControlNet"), ("Upscaler", "ESRGAN")),
    ],
)
def test_the_folder_follows_the_type(site, settings, access, lora, tools, type_, folder):
    row = version_row(site, [file_row(site, tools, lora)], model={"name": "Water", "type": type_})
    site.add("civitai.test", "/api/v1/model-versions/20", row)
    assert plan("civitai:10@20", settings, None, access).folder == settings.models / folder
    added, events = run("civitai:10@20", settings, access)
    assert added.path.parent.name == "Lora"  # what it really is wins
    assert any(isinstance(e, Note) and "goes where those are" in e.text for e in events) == (folder != "Lora")


def test_what_we_cannot_use_is_refused_before_the_download(site, settings, access, lora, tools):
    site.add(
        "civitai.test",
        "/api/v1/model-versions/20",
        version_row(site, [file_row(site, tools, lora)], baseModel="Flux.1 D"),
    )
    with pytest.raises(ValueError, match=r"Flux\.1 D, which MixStudio cannot run"):
        run("civitai:10@20", settings, access)
    row = version_row(site, [file_row(site, tools, lora)], model={"name": "W", "type": "Wildcards"})
    site.add("civitai.test", "/api/v1/model-versions/20", row)
    with pytest.raises(ValueError, match="Wildcards"):
        run("civitai:10@20", settings, access)
    assert site.asked("/signed") == []


NULLS = [{}, [], None, 5, "x", {"id": None}, {"id": True}, {"id": -1}]


@pytest.mark.parametrize("content", NULLS)
def test_json_that_is_no_version_is_refused(site, settings, access, content):
    site.add("civitai.test", "/api/v1/model-versions/20", content)
    with pytest.raises(ValueError, match="no model version"):
        run("civitai:10@20", settings, access)


def test_nulls_in_a_version_do_no_harm(site, settings, access, lora, tools):
    keys = ("name", "description", "trainedWords", "images", "baseModel", "modelId")
    row = version_row(site, [None, file_row(site, tools, lora, metadata=None, pickleScanResult=None)])
    site.add("civitai.test", "/api/v1/model-versions/20", row | dict.fromkeys(keys))
    added, _ = run("civitai:10@20", settings, access)
    assert added.path.is_file()
    assert preview_of(added.path) is None


def test_a_bad_preview_does_not_stop_the_model(site, settings, access):
    site.add("cdn.test", "/tame.jpeg", b"<html>", kind="text/html")
    added, _ = run("civitai:10@20", settings, access)
    assert read_info(added.path)["activation text"]
    assert preview_of(added.path) is None


def test_searching(site, access):
    rows = [
        {"id": 10, "name": "Water", "type": "LORA", "modelVersions": [{"id": 20, "baseModel": None}], "stats": None},
        None,
    ]
    site.add("civitai.test", "/api/v1/models", {"items": rows, "metadata": {}})
    found = civitai.search(access, "wet paint & more", ["lora"], 5)
    assert [row["id"] for row in found] == [10]
    assert "query=wet%20paint%20%26%20more&limit=5&nsfw=false&types=LORA" in site.seen[-1].path
    with pytest.raises(ValueError, match="no type"):
        civitai.search(access, "x", ["Poses"])


def test_plan_writes_nothing(site, settings, access):
    planned = plan("civitai:10@20", settings, None, access)
    assert (planned.source, planned.kind, planned.title) == ("civitai", "lora", "Water v2")
    assert not settings.models.exists()
    assert module.ACCEPTED


def test_what_civitai_found_is_shown_as_text():
    from app.ui.models_search import listed

    row = {
        "link": '"><script>x</script>',
        "name": "<img src=x onerror=y>",
        "type": "LORA",
        "base": "",
        "creator": "<b>",
        "downloads": 0,
    }
    shown = listed([row])
    assert "<script" not in shown
    assert "<img" not in shown
    assert "LORA · &lt;b&gt;" in shown
    assert listed([]) == ""
