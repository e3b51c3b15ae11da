"""The page is built, every word has its Chinese, and its listeners do what they say - without a browser."""

import ast
import io
import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo
from starlette.testclient import TestClient

from app.i18n import catalogue, preferred, translate
from app.server import make
from app.ui import app as page
from app.ui import fill, parts, render
from app.ui.create_parts import picture_and_mask

UI = Path(page.__file__).parent
COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7, "steps": 24, "cfg": 6.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1,
            "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sub\\dream.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 640, "height": 512, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a castle", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["4", 1]}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "ink.safetensors", "strength_model": 0.7, "model": ["4", 0]},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def studio(lasting_studio):
    return lasting_studio


@pytest.fixture(scope="module")
def application(studio):
    """The guarded application, its page under construction, and the blocks it became."""
    made, built = [], []
    patch = pytest.MonkeyPatch()
    first, build = parts.Page.__init__, page.build
    patch.setattr(parts.Page, "__init__", lambda self, *a, **k: (first(self, *a, **k), made.append(self))[0])
    patch.setattr(page, "build", lambda studio: built.append(build(studio)) or built[0])
    whole = make(studio)
    patch.undo()
    return whole, made[0], built[0]


@pytest.fixture
def built(application):
    return application[1:]


@pytest.fixture(scope="module")
def client(application):
    with TestClient(application[0], base_url="http://127.0.0.1:7860") as opened:
        yield opened


def spoken_words() -> set[str]:
    """The English words that the page's own sources say at run time."""
    found = set()
    for file in UI.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("say", "both", "translate", "t") and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return {word for word in found if re.search("[A-Za-z]{2}", word)}


def test_every_word_has_its_chinese(built):
    ui, _ = built
    missing = sorted(word for word in ui.words | spoken_words() if word and word not in catalogue("zh"))
    assert not missing, f"add these to app/i18n/zh*.json: {json.dumps(missing, ensure_ascii=False)}"


def test_translations_keep_their_places():
    for english, chinese in catalogue("zh").items():
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", chinese)), english


def test_every_component_that_is_filled_in_has_a_name_and_an_id(built):
    _, blocks = built
    filled = ("textbox", "dropdown", "slider", "number", "checkbox", "radio", "image", "imageeditor", "button")
    wrong = [
        f"{block.get_block_name()} {getattr(block, 'label', '')!r}"
        for block in blocks.blocks.values()
        if block.get_block_name() in filled and block.visible is True
        and not (block.elem_id and (getattr(block, "label", None) or getattr(block, "value", None)))
    ]  # fmt: skip
    assert not wrong


def test_listeners_that_show_no_progress_set_no_status_either(built):
    _, blocks = built
    wide = [fn for fn in blocks.fns.values() if fn.show_progress == "hidden" and len(fn.outputs) > 3]
    assert wide
    assert [fn.name for fn in wide if fn.show_progress_on != []] == []  # seconds at every event, see parts.QUIET


def test_ids_are_given_once(built):
    _, blocks = built
    ids = [block.elem_id for block in blocks.blocks.values() if getattr(block, "elem_id", None)]
    assert len(ids) == len(set(ids)), sorted({i for i in ids if ids.count(i) > 1})


def test_gradio_clients_find_names_and_no_forms(built):
    _, blocks = built
    public = [fn.api_name for fn in blocks.fns.values() if fn.api_visibility == "public"]
    assert set(public) == {"generate", "blend", "qr", "job", "png_info"}


def test_switching_the_language_changes_words_and_no_values(built):
    ui, blocks = built
    found, updates = ui.speaking(blocks)
    told = dict(zip((block.elem_id for block in found), updates("zh"), strict=True))
    assert told["create_prompt"]["label"] == "提示词"
    assert "value" not in told["create_prompt"]
    assert told["create_go"]["value"] == "生成"
    assert [label for label, _ in told["create_mode"]["choices"]] == ["仅文字", "从图片开始", "局部重画"]
    back = dict(zip((block.elem_id for block in found), updates("en"), strict=True))
    assert back["create_prompt"]["label"] == "Prompt"


@pytest.mark.parametrize(
    ("accept", "language"), [("zh-CN,zh;q=0.9", "zh"), ("de,zh;q=0.5", "zh"), ("de", "en"), ("", "en")]
)
def test_the_browser_is_asked_for_its_language(accept, language):
    assert preferred(accept) == language
    assert translate("Generate", language) == ("生成" if language == "zh" else "Generate")


def test_what_was_remembered_is_checked(built):
    fields = built[0].forms["create"]
    told = {
        "prompt": "x",
        "steps": 10**9,
        "sampler": "no such",
        "width": "wide",
        "mode": "picture",
        "hires": 1,
        "styles": [],
    }
    updates = dict(zip(fields, parts.restored(fields, json.dumps(told)), strict=True))
    kept = {key for key, update in updates.items() if "value" in update}
    assert kept == {"prompt", "mode", "styles"}
    assert len(parts.restored(fields, "not json")) == len(fields)
    assert len(parts.restored(fields, "[1]")) == len(fields)


# --- pictures and their words ---


def test_the_mask_has_the_pictures_size():
    background = PIL.Image.new("RGBA", (120, 80), "red")
    layer = PIL.Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    layer.paste((255, 200, 0, 255), (10, 10, 20, 20))
    image, mask = picture_and_mask({"background": background, "layers": [layer], "composite": None})
    assert image.size == mask.size == (120, 80)
    assert mask.getbbox() == (20, 20, 40, 40)
    assert set(np.unique(np.asarray(mask))) == {0, 255}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "Choose the picture"),
        ({"background": None, "layers": []}, "Choose the picture"),
        ({"background": PIL.Image.new("RGB", (8, 8)), "layers": []}, "Paint over"),
        ({"background": PIL.Image.new("RGB", (8, 8)), "layers": [PIL.Image.new("RGBA", (8, 8))]}, "Paint over"),
    ],
)
def test_a_missing_picture_or_paint_is_told(value, words):
    with pytest.raises(ValueError, match=words):
        picture_and_mask(value)


def test_infotext_becomes_the_forms_fields():
    told = fill.fields_of(
        "castle\nNegative prompt: fog\nSteps: 17, Sampler: DPM++ 2M Karras, CFG scale: 5.5, Seed: 4711, Size: 256x320, "
        "Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: Latent, Clip skip: 2"
    )
    assert told["prompt"], told["negative_prompt"] == ("castle", "fog")
    assert (told["sampler"], told["schedule"]) == ("DPM++ 2M", "Karras")
    assert (told["steps"], told["cfg_scale"], told["seed"], told["clip_skip"]) == (17, 5.5, 4711, 2)
    assert (told["width"], told["height"]) == (256, 320)
    assert (told["hires"], told["hires_scale"], told["hires_strength"]) == (True, 2.0, 0.4)
    assert fill.choose(told, "seed") == {"seed": 4711}
    assert fill.choose(told, "remix")["seed"] == -1
    assert set(fill.choose(told, "prompt")) == {"prompt", "negative_prompt"}


def test_comfyui_graphs_are_read():
    image = PIL.Image.new("RGB", (8, 8))
    image.info["prompt"] = json.dumps(COMFY)
    told = fill.fields_of(fill.settings_of(image))
    assert told["prompt"] == "a castle <lora:ink:0.7>"
    assert told["negative_prompt"] == "fog"
    assert (told["sampler"], told["schedule"], told["steps"]) == ("DPM++ 2M", "Karras", 24)
    assert (told["width"], told["height"], told["model"], told["seed"]) == (640, 512, "dream", 7)


@pytest.mark.parametrize(
    "graph", ["", "[]", "{", '{"1": 3}', '{"3": {"inputs": {"positive": ["3", 0], "negative": ["3", 0], "steps": []}}}']
)
def test_broken_graphs_harm_nobody(graph):
    fill.comfy(graph)


def test_what_comes_from_outside_is_escaped(studio):
    entry = studio.store.save(
        PIL.Image.new("RGB", (8, 8)), '<img src=x onerror="a">\nSteps: 1, Sampler: Euler, Seed: 1', 1
    )
    for html in (render.tile(entry, True, True), render.stage([entry], entry.id), render.text(entry.infotext)):
        assert "<img src=x" not in html
        assert 'onerror="a"' not in html


# --- over HTTP ---


def saved(studio, text="", size=(40, 30)):
    return studio.store.save(PIL.Image.new("RGB", size, "teal"), text, 1)


def test_pictures_are_served_by_number(studio, client):
    entry = saved(studio, "hello\nSteps: 1, Sampler: Euler, Seed: 1, Size: 40x30", (800, 600))
    whole = client.get(f"/pictures/{entry.id}")
    assert whole.headers["content-type"] == "image/png"
    assert PIL.Image.open(io.BytesIO(whole.content)).info["parameters"].startswith("hello")
    thumb = client.get(f"/pictures/{entry.id}/thumb")
    assert max(PIL.Image.open(io.BytesIO(thumb.content)).size) == 360
    assert "attachment" in client.get(f"/pictures/{entry.id}?download=1").headers["content-disposition"]


@pytest.mark.parametrize(
    "path",
    [
        "/pictures/999999", "/pictures/x", "/pictures/..%2f..%2fetc%2fpasswd", "/studio/..%2f..%2fpyproject.toml",
        "/previews/lora/..%2f..%2f..%2fetc%2fpasswd", "/gradio_api/file=/etc/passwd", "/file=/etc/passwd",
        "/gradio_api/file=../../pyproject.toml", "/gradio_api/file=http://127.0.0.1:22/",
        "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
    ],
)  # fmt: skip
def test_no_other_file_is_served(client, path):
    answer = client.get(path)
    assert 400 <= answer.status_code < 500
    assert b"root:" not in answer.content
    assert client.get("/ui/queue").status_code == 200


def test_a_link_that_leads_out_of_the_outputs_is_not_followed(studio, client, tmp_path):
    secret = tmp_path / "secret.png"
    PIL.Image.new("RGB", (9, 9)).save(secret)
    entry = saved(studio)
    entry.path.unlink()
    entry.path.symlink_to(secret)
    assert client.get(f"/pictures/{entry.id}").status_code == 404
    assert client.get(f"/pictures/{entry.id}/thumb").status_code == 404


def test_the_page_and_what_makes_it_installable(client):
    home = client.get("/")
    assert home.status_code == 200
    assert "MixStudio" in home.text
    manifest = client.get("/manifest.json").json()
    assert manifest["name"] == "MixStudio"
    assert all(client.get(icon["src"]).status_code == 200 for icon in manifest["icons"])
    assert client.get("/favicon.ico").status_code == 200


def test_the_interface_is_described(client):
    assert "/openapi.json" in client.get("/docs").text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/jobs", "/sdapi/v1/txt2img"} <= set(paths)


def test_the_queue_is_told_and_changed(studio, client):
    gone = client.post("/ui/queue/none/cancel")
    assert gone.status_code == 404
    assert "there is no job" in gone.json()["detail"]
    told = client.get("/ui/queue", headers={"accept-language": "zh"}).json()
    assert told["title"] == "队列"


HUGE = PngInfo()
HUGE.add_text("parameters", "x" * 5_000_000, zip=True)


def png(size=(8, 8), info=None) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompt": "x" * 10_000_000}, "prompt"),
        ({"width": -64}, "width"),
        ({"width": 100_000, "height": 100_000}, "width"),
        ({"steps": 0}, "steps"),
        ({"sampler": "no such sampler"}, "no such sampler"),
        ({"init_image": "bm8gcGljdHVyZQ=="}, "not a picture"),
        ({"init_image": "file:///etc/passwd"}, "base64"),
        ({"init_image": "http://127.0.0.1/x.png"}, "link is not followed"),
        ({"unknown_field": 1}, "unknown_field"),
    ],
)
def test_hostile_requests_get_a_sentence(client, values, words):
    answer = client.post("/v1/jobs?wait=120", json={"kind": "generate", "params": values})
    if answer.status_code < 400:  # what only the sampler's table can tell fails as a job
        assert answer.json()["status"] == "failed"
    assert answer.status_code < 500
    assert words in answer.text
    assert client.get("/ui/queue").status_code == 200


def test_picture_bombs_are_refused(client):
    import base64
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    for data in (huge, png(info=HUGE), b"\xff\xd8\xff\xe0broken", png((64, 64))[:70]):
        image = base64.b64encode(data).decode()
        answer = client.post("/v1/jobs", json={"kind": "generate", "params": {"init_image": image}})
        assert 400 <= answer.status_code < 500, answer.text
        assert "picture" in answer.text or "megapixels" in answer.text


def test_models_that_come_later_are_offered_in_every_language(built, studio, tiny_checkpoint):
    ui, _ = built
    later = studio.settings.data / "models" / "Stable-diffusion" / "later"
    later.symlink_to(tiny_checkpoint, target_is_directory=True)
    try:
        studio.catalog.refresh()
        told = dict(zip((menu.component.elem_id for menu in ui.menus), ui.offered("zh"), strict=True))
    finally:
        later.unlink()
        studio.catalog.refresh()
    assert [value for _, value in told["create_model"]["choices"]] == ["later", "tiny"]
    assert told["qr_model"]["choices"][0] == ("默认模型", "")


def test_an_art_qr_picture_fills_the_art_qr_form(built):
    told = (
        "a (red:1.2) apple\nNegative prompt: text\nSteps: 12, Sampler: DPM++ 2M, CFG scale: 4, Seed: 5, Size: 512x512, "
        'QR text: "https://example.org/?a=1, b", QR strength: 0.35, QR error correction: Q, QR version: 4, QR mask: 2, '
        "QR shape: dot, QR quiet zone: 3, QR scale: 0.6, QR place: 0.25 0.75, QR follows picture: no"
    )
    fields = fill.qr_fields_of(told)
    assert (fields["content"], fields["text"]) == ("link", "https://example.org/?a=1, b")
    assert (fields["prompt"], fields["negative_prompt"]) == ("a (red:1.2) apple", "text")
    assert (fields["place_x"], fields["place_y"], fields["follow"]) == (0.25, 0.75, False)
    form = built[0].forms["qr"]
    unfit = [key for key, value in fields.items() if key in form and not parts.fits(form[key], value)]
    assert not unfit
    assert set(fields) <= set(form)
    assert fill.qr_fields_of("a fox\nSteps: 1, Seed: 2") == {}


def test_the_language_button_names_the_other_language(built):
    """Names of languages are in their own words everywhere, so no switch may write over the button's."""
    ui, blocks = built
    assert "language_toggle" not in [block.elem_id for block in ui.speaking(blocks)[0]]
