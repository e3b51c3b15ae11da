"""Textual inversion files of every kind, and those that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ppdiffusers.prompt.embedding import collect, fit, read_embedding

SD1, SD2, SDXL, REFINER = {"clip_l": 768}, {"clip_h": 1024}, {"clip_l": 768, "clip_g": 1280}, {"clip_g": 1280}


def vectors(n: int, width: int) -> np.ndarray:
    return np.arange(n * width, dtype=np.float32).reshape(n, width)


def saved(folder: Path, name: str, **tensors: np.ndarray) -> Path:
    save_file(tensors, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def test_webui_safetensors(tmp_path: Path) -> None:
    file = read_embedding(saved(tmp_path, "easy", emb_params=vectors(8, 768)))
    embedding = fit(file, SD1)
    assert (embedding.names, embedding.count) == (("easy",), 8)
    np.testing.assert_array_equal(embedding.vectors[0], vectors(8, 768))


GOLDENS = Path(__file__).parents[2] / "goldens"


@pytest.mark.parametrize("name", ["prompt_embedding_webui", "prompt_embedding_held"])
def test_pickles_of_trainers(name: str) -> None:
    embedding = fit(read_embedding(GOLDENS / f"{name}.pt"), {"clip_l": 4})
    assert embedding.names == (name,)
    np.testing.assert_array_equal(embedding.vectors[0], vectors(2, 4))


def test_pickle_of_diffusers() -> None:
    embedding = fit(read_embedding(GOLDENS / "prompt_embedding_diffusers.bin"), {"clip_l": 4})
    assert embedding.names == ("prompt_embedding_diffusers", "<cat-toy>")
    np.testing.assert_array_equal(embedding.vectors[0], vectors(2, 4)[1:])


def test_diffusers_file_has_two_names_and_may_be_one_vector(tmp_path: Path) -> None:
    file = read_embedding(saved(tmp_path, "learned_embeds", **{"<my-cat>": vectors(1, 1024)[0]}))
    embedding = fit(file, SD2)
    assert (embedding.names, embedding.count) == (("learned_embeds", "<my-cat>"), 1)


@pytest.mark.parametrize("keys", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_sdxl(tmp_path: Path, keys: tuple[str, str]) -> None:
    file = read_embedding(saved(tmp_path, "xl", **{keys[0]: vectors(2, 768), keys[1]: vectors(2, 1280)}))
    assert [array.shape for array in fit(file, SDXL).vectors] == [(2, 768), (2, 1280)]
    assert [array.shape for array in fit(file, REFINER).vectors] == [(2, 1280)]
    with pytest.raises(ValueError, match=r"'xl' is for SDXL .* width 768; it is not used"):
        fit(file, SD1)


@pytest.mark.parametrize(("width", "model"), [(768, SD2), (768, SDXL), (1024, SD1), (1280, SD1), (99, SD1)])
def test_the_wrong_width_is_a_notice(tmp_path: Path, width: int, model: dict[str, int]) -> None:
    good = saved(tmp_path, "good", clip_l=vectors(1, 768), clip_g=vectors(1, 1280))
    found, notices = collect([saved(tmp_path, "bad", emb_params=vectors(1, width)), good], model)
    assert len(notices) == 2 - len(found)
    assert "the embedding 'bad' is for" in notices[0]
    assert "it is not used" in notices[0]


def test_files_that_are_something_else(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    notices = collect(
        [
            saved(tmp_path, "lora", a=vectors(1, 768), b=vectors(1, 768)),
            saved(tmp_path, "conv", emb_params=np.zeros((2, 2, 2), np.float32)),
            saved(tmp_path, "empty", emb_params=np.zeros((0, 768), np.float32)),
            saved(tmp_path, "long", emb_params=vectors(76, 768)),
            saved(tmp_path, "nan", emb_params=vectors(1, 768) * np.float32("nan")),
            saved(tmp_path, "uneven", clip_l=vectors(1, 768), clip_g=vectors(2, 1280)),
            broken,
        ],
        SDXL,
    )[1]
    wanted = [
        "no textual inversion",
        "no textual inversion",
        "no textual inversion",
        "room for 75",
        "NaN",
        "vectors",
        "",
    ]
    assert len(notices) == len(wanted)
    assert all(word in notice for word, notice in zip(wanted, notices, strict=True))


def test_two_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [saved(folder, "x", emb_params=vectors(1, 768)) for folder in (tmp_path, tmp_path / "b")]
    found, notices = collect(paths, SD1)
    assert len(found) == 1
    assert "two embeddings named 'x'" in notices[0]
