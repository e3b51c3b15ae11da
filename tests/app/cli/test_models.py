"""`models` on the command line: tables and JSON, exit codes, and tokens that never show."""

import io
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.cli import main


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXSTUDIO_DATA", str(tmp_path / "data"))
    for name in ("CIVITAI_TOKEN", "CIVITAI_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("app.catalog.EMBEDDED", tmp_path / "none")
    return tmp_path / "data"


@pytest.fixture
def file(tmp_path):
    base = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {f"{base}.lora_down.weight": (4, 768), f"{base}.lora_up.weight": (320, 4)}
    save_file({k: np.ones(s, "float32") for k, s in shapes.items()}, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def test_from_nothing_to_the_trash(data, file, capsys):
    assert main(["models", "list"]) == 0
    assert "no models yet" in capsys.readouterr().out
    assert main(["models", "add", str(file), "--dry-run"]) == 0
    assert "lora for sd15" in capsys.readouterr().out
    assert not (data / "models").exists()
    assert main(["models", "add", str(file)]) == 0
    assert "style (lora for sd15, 2 tensors) is in" in capsys.readouterr().out
    assert main(["models", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["kind"], row["name"], row["family"]) for row in rows] == [("lora", "style", "sd15")]
    assert main(["models", "info", "style"]) == 0
    assert "sd15" in capsys.readouterr().out
    assert main(["models", "verify", "--nan"]) == 0
    assert "style: sound (header, numbers)" in capsys.readouterr().out
    assert main(["models", "remove", "style"]) == 0
    assert main(["models", "list", "--json"]) == 0
    assert capsys.readouterr().out.endswith("[]\n")


def test_what_is_wrong_ends_with_a_sentence(data, file, capsys):
    assert main(["models", "add", "/no/such/file.safetensors"]) == 1
    assert "there is no file or folder" in capsys.readouterr().err
    assert main(["models", "info", "nothing"]) == 1
    assert "there is no model 'nothing'" in capsys.readouterr().err
    assert main(["models", "civitai", "search"]) == 1
    with pytest.raises(SystemExit):
        main(["models"])
    main(["models", "add", str(file), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["kind"] == "lora"
    (data / "models" / "Lora" / "style.safetensors").unlink()
    (data / "models" / "Lora" / "style.safetensors").write_bytes(b"<!doctype html>")
    assert main(["models", "verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["sound"] is False


def test_tokens_come_from_a_pipe_and_never_show(data, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("very-secret\n"))
    assert main(["models", "token", "civitai"]) == 0
    assert "very-secret" not in "".join(capsys.readouterr())
    assert json.loads((data / "secrets.json").read_text()) == {"civitai": "very-secret"}
    assert main(["models", "token", "civitai", "--forget"]) == 0
    assert json.loads((data / "secrets.json").read_text()) == {}


@pytest.mark.parametrize(("name", "fetched"), [("", True), ("smollm2", True), ("SmolLM2", True), ("another", False)])
def test_the_first_talk_fetches_the_small_model(data, monkeypatch, name, fetched):
    from app import settings
    from app.catalog import Catalog
    from app.cli import chat
    from app.models import smollm2

    asked = []
    monkeypatch.setattr(smollm2, "ensure", lambda models: iter(asked.append(models) or ()))
    chat._fetch_first(Catalog(settings.load()), name, quiet=True)
    assert asked == ([data / "models"] if fetched else [])
