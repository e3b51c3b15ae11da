"""The hub: exactly the needed files of a repository, at one commit, checked one by one, and whole or not at all."""

import hashlib
import json

import pytest

from app.models import hub
from app.models.add import ORIGIN, Added, Options, plan, work
from app.models.hub import Entry, Source, parse

COMMIT = "c" * 40
VAE = {"_class_name": "AutoencoderKL", "latent_channels": 4}


def git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def repo(fake, tools):
    """Publish a repository: {path: bytes}; large files (weights) as the hub keeps them, behind a signed link."""

    def publish(files, name="owner/name", page=100):
        rows = []
        for path, data in files.items():
            large = path.endswith((".safetensors", ".gguf", ".bin"))
            row = {"type": "file", "path": path, "size": len(data), "oid": git(data)}
            rows.append(row | ({"lfs": {"oid": tools.sha256(data), "size": len(data)}} if large else {}))
            where = f"/{name}/resolve/{COMMIT}/{path}"
            if large:
                fake.redirect("hub.test", where, fake.link("cdn.test", f"/blob/{path}"))
                fake.add("cdn.test", f"/blob/{path}", tools.Answer(data, etag=f'"{git(data)}"'))
            else:
                fake.add("hub.test", where, data, kind="text/plain")
        fake.add("hub.test", f"/api/models/{name}/revision/main", {"sha": COMMIT})
        tree = f"/api/models/{name}/tree/{COMMIT}"
        pages = [rows[i : i + page] for i in range(0, len(rows), page)] or [[]]

        def listing(handler):
            number = int(handler.path.rpartition("cursor=")[2]) if "cursor=" in handler.path else 0
            nearer = {"Link": f'<{fake.link("hub.test", tree)}?recursive=true&cursor={number + 1}>; rel="next"'}
            last = number + 1 >= len(pages)
            return tools.Answer(json.dumps(pages[number]).encode(), 200, {} if last else nearer, "application/json")

        fake.add("hub.test", tree, listing)
        return fake

    return publish


def run(text, settings, access, **options):
    events = list(work(text, settings, Options(**options), access))
    assert isinstance(events[-1], Added)
    return events[-1]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("owner/name", Source("owner/name")),
        ("hf:owner/name", Source("owner/name")),
        ("owner/name@v1.0", Source("owner/name", "v1.0")),
        ("owner/name/unet", Source("owner/name", "main", "unet")),
        ("owner/name@refs/pr/3", Source("owner/name", "refs/pr/3")),
        ("owner/name@dev/sub/x.safetensors", Source("owner/name", "dev", "sub/x.safetensors")),
        ("https://huggingface.co/owner/name", Source("owner/name")),
        ("https://huggingface.co/owner/name/tree/main/vae", Source("owner/name", "main", "vae")),
        ("https://huggingface.co/owner/name/blob/v2/a/x.gguf", Source("owner/name", "v2", "a/x.gguf")),
        (
            "https://huggingface.co/owner/name/resolve/main/x.safetensors?download=true",
            Source("owner/name", "main", "x.safetensors"),
        ),
        ("https://example.org/owner/name", None),
        ("just-a-word", None),
        ("../name", None),
        ("owner/..", None),
    ],
)
def test_names_and_addresses(text, source):
    assert parse(text) == source


def test_a_folder_arrives_whole_with_its_origin(repo, settings, access, tools, lora):
    files = {"config.json": json.dumps(VAE).encode(), "diffusion_pytorch_model.safetensors": lora, "README.md": b"x"}
    fake = repo(files, page=1)
    added = run("owner/name", settings, access)
    assert added.path == settings.models / "VAE" / "name"
    assert tools.leftovers(settings.models) == [
        f"VAE/name/{ORIGIN}",
        "VAE/name/config.json",
        "VAE/name/diffusion_pytorch_model.safetensors",
    ]
    origin = json.loads((added.path / ORIGIN).read_text())
    assert (origin["source"], origin["revision"]) == ("owner/name", COMMIT)
    asked = {s.host: s.headers.get("Authorization") for s in fake.seen}
    assert asked == {"hub.test": "Bearer hub-secret", "cdn.test": None}


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("config.json", {"model_type": "clip"}, "no model that MixStudio can use"),
        ("config.json", {"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel, which"),
        ("model_index.json", {"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}, "without a UNet"),
    ],
)
def test_what_we_cannot_use_is_refused_before_the_weights(repo, settings, access, lora, name, config, said):
    fake = repo({name: json.dumps(config).encode(), "model.safetensors": lora, "vae/model.safetensors": lora})
    with pytest.raises(ValueError, match=said):
        run("owner/name", settings, access)
    assert not any("/blob/" in s.path for s in fake.seen)


def test_the_plan_knows_the_folder(repo, settings, access, lora):
    repo({"config.json": json.dumps(VAE).encode(), "diffusion_pytorch_model.safetensors": lora})
    planned = plan("owner/name", settings, None, access)
    assert (planned.kind, planned.folder) == ("vae", settings.models / "VAE")
    assert planned.size == len(lora) + len(json.dumps(VAE))


@pytest.mark.parametrize("wrong", ["sha256", "git"])
def test_a_wrong_hash_leaves_no_folder(repo, settings, access, lora, tools, wrong):
    fake = repo({"config.json": json.dumps(VAE).encode(), "diffusion_pytorch_model.safetensors": lora})
    if wrong == "sha256":
        fake.add("cdn.test", "/blob/diffusion_pytorch_model.safetensors", lora[:-1] + b"x")
    else:
        fake.add(
            "hub.test",
            f"/owner/name/resolve/{COMMIT}/config.json",
            json.dumps(VAE).replace("4", "5").encode(),
            kind="text/plain",
        )
    with pytest.raises(ValueError, match="promised"):
        run("owner/name", settings, access)
    assert not (settings.models / "VAE").exists()


def test_a_snapshot_goes_on_after_a_cancel(repo, settings, access, lora, tools):
    fake = repo({"config.json": json.dumps(VAE).encode(), "diffusion_pytorch_model.safetensors": lora})
    going = work("owner/name", settings, Options(), access)
    while not fake.asked("/blob/diffusion_pytorch_model.safetensors"):
        next(going)
    going.close()
    assert not (settings.models / "VAE").exists()
    run("owner/name", settings, access)
    assert len(fake.asked(f"/owner/name/resolve/{COMMIT}/config.json")) == 3  # looked at twice, fetched once


@pytest.mark.parametrize(
    "path", ["../evil.json", "/etc/x.json", "a/../../x.json", "a\\..\\x.json", "C:/x.json", "a//b.json"]
)
def test_paths_that_lead_out_are_refused(repo, settings, access, tools, path):
    repo({"config.json": b"{}", path: b"{}"})
    with pytest.raises(ValueError, match="not safe"):
        run("owner/name", settings, access)
    assert tools.leftovers(settings.data.parent) == []


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "private or gated"), (403, "accept its terms"), (404, "does not exist"), (503, "disturbed")],
)
def test_refusals_are_explained(fake, settings, access, tools, status, said):
    answer = tools.Answer(b'{"error":"Access to model owner/name is restricted"}', status, kind="application/json")
    fake.add("hub.test", "/api/models/owner/name/revision/main", answer)
    with pytest.raises(ValueError, match=said):
        plan("owner/name", settings, None, access)


def test_a_list_that_goes_on_elsewhere_is_refused(fake, settings, access, tools):
    fake.add("hub.test", "/api/models/owner/name/revision/main", {"sha": COMMIT})
    away = tools.Answer(b"[]", 200, {"Link": '<https://huggingface.co.evil.org/x>; rel="next"'}, "application/json")
    fake.add("hub.test", f"/api/models/owner/name/tree/{COMMIT}", away)
    with pytest.raises(ValueError, match="another host"):
        plan("owner/name", settings, None, access)


def chosen(*paths, source=None, **how):
    files = [Entry(path, 10) for path in paths]
    return {e.path for e in hub.choose(source or Source("o/n"), COMMIT, files, **how).files}


PIPELINE = (
    *(
        "model_index.json",
        "README.md",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"),
    *("unet/diffusion_pytorch_model.bin", "unet/diffusion_flax_model.msgpack", "unet/model.onnx"),
    *("vae/config.json", "vae/diffusion_pytorch_model.safetensors", "safety_checker/model.safetensors"),
    *("text_encoder/config.json", "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors", "v1-5.ckpt"),
    *("v1-5-pruned.safetensors", "text_encoder/openvino_model.bin"),
)
SMALL = {p for p in PIPELINE if p.endswith((".json", ".txt"))}


def test_of_a_pipeline_each_network_once():
    half = {"unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"}
    assert chosen(*PIPELINE) == SMALL | half | {"text_encoder/model.fp16.safetensors"}
    full = {"unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"}
    assert chosen(*PIPELINE, precision="full") == SMALL | full | {"text_encoder/model.safetensors"}


def test_of_a_language_model_shards_and_tokenizer():
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
    small = ("config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja", "tokenizer.model")
    rest = ("original/consolidated.00.pth", "pytorch_model.bin", "modeling_x.py", "onnx/model.onnx", ".gitattributes")
    assert chosen(*shards, *small, *rest) == {*shards, *small}


def test_pickles_only_when_allowed():
    files = ("config.json", "pytorch_model.bin")
    with pytest.raises(ValueError, match="only pickles"):
        chosen(*files)
    assert chosen(*files, pickles=True) == set(files)


def test_of_many_gguf_files_one():
    files = [f"m-{q}.gguf" for q in ("IQ2_XS", "Q2_K", "Q4_K_M", "Q8_0", "F16")]
    assert chosen("README.md", *files, "mmproj-F16.gguf") == {"m-Q4_K_M.gguf"}
    assert chosen("m.gguf") == {"m.gguf"}
    with pytest.raises(ValueError, match=r"say which: o/n/a\.gguf, o/n/b\.gguf"):
        chosen("a.gguf", "b.gguf")
    assert chosen("x/a.gguf", source=Source("o/n", "main", "x/a.gguf")) == {"x/a.gguf"}


def test_of_single_files_the_only_one():
    assert chosen("README.md", "pytorch_lora_weights.safetensors") == {"pytorch_lora_weights.safetensors"}
    with pytest.raises(ValueError, match="2 models; say which"):
        chosen("a.safetensors", "b.safetensors")
    with pytest.raises(ValueError, match="no model that MixStudio reads"):
        chosen("README.md", "model.onnx")


def test_a_lora_is_named_after_its_repository(repo, settings, access, lora):
    repo({"pytorch_lora_weights.safetensors": lora, "README.md": b"x"})
    assert run("owner/name", settings, access).path == settings.models / "Lora" / "name.safetensors"


def test_one_named_file(repo, settings, access, lora):
    repo({"a.safetensors": lora, "b.safetensors": lora})
    assert run("owner/name/b.safetensors", settings, access).path == settings.models / "Lora" / "b.safetensors"
