"""Whole runs on tiny models: laws of batches, masks, controls, adapters and events."""

import dataclasses

import numpy as np
import paddle
import PIL.Image
import PIL.ImageDraw
import pytest
from safetensors.numpy import save_file

from ppdiffusers.models.layers import Linear
from ppdiffusers.pipelines.adapters import Library
from ppdiffusers.pipelines.event import Image, Latents, Note, Preview, Progress
from ppdiffusers.pipelines.infotext import parse
from ppdiffusers.pipelines.request import Control, Given, Hires, Init, Mask, Refine, Request, Sampling
from ppdiffusers.pipelines.run import run
from tests.ppdiffusers.pipelines.conftest import control, tiny

FAST = Sampling(sampler="Euler", steps=3)


def request(*prompts, **changes):
    return Request(
        **{"prompts": prompts or ("a fox",), "seeds": (7,), "width": 64, "height": 64, "sampling": FAST} | changes
    )


def pictures(bundle, asked, library=None):
    return [np.asarray(e.image, np.int16) for e in run(bundle, asked, library) if isinstance(e, Image)]


def photo(width=64, height=64):
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return PIL.Image.fromarray(np.stack([columns, rows, 255 - columns], -1).astype(np.uint8))


def disc(width=64, height=64, box=(16, 16, 40, 40)):
    mask = PIL.Image.new("L", (width, height))
    PIL.ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl-base"])
def test_every_family_makes_pictures_and_the_same_ones_again(family):
    first, again = (pictures(tiny(family), request("a fox", "a bird")) for _ in range(2))
    assert [p.shape for p in first] == [(64, 64, 3)] * 2
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert np.abs(first[0] - first[1]).max() > 2


def test_a_picture_of_a_batch_is_the_picture_it_is_alone(sd15):
    together = pictures(sd15, request("a fox", "a (bird:1.3)", "[cat|dog]", seeds=(1, 2, 3)))
    alone = [
        pictures(sd15, request(p, seeds=(s,)))[0] for p, s in (("a fox", 1), ("a (bird:1.3)", 2), ("[cat|dog]", 3))
    ]
    one_by_one = pictures(sd15, request("a fox", "a (bird:1.3)", "[cat|dog]", seeds=(1, 2, 3), batch_size=1))
    for a, b, c in zip(together, alone, one_by_one, strict=True):
        assert np.abs(a - b).max() <= 1
        assert (b == c).all()


def test_a_single_seed_counts_up(sd15):
    events = [e for e in run(sd15, request("a", "a", "a", seeds=(41,))) if isinstance(e, Image)]
    assert [e.seed for e in events] == [41, 42, 43]


def test_progress_runs_once_from_nothing_to_all(sd15):
    events = list(run(sd15, request("a", "b", "c", batch_size=2, hires=Hires(scale=1.5), preview_every=1)))
    steps = [(e.step, e.of) for e in events if isinstance(e, Progress)]
    assert [s for s, _ in steps] == list(range(1, steps[-1][1] + 1))
    assert {of for _, of in steps} == {len(steps)}
    previews = [e for e in events if isinstance(e, Preview)]
    assert previews
    assert all(p.images[0].size in ((8, 8), (12, 12)) for p in previews)


def test_infotext_tells_how_to_make_the_picture_again(sd15):
    asked = request(
        "a (fox:1.2), den",
        negative_prompts=("blurry",),
        clip_skip=2,
        sampling=Sampling(sampler="DPM++ 2M Karras", steps=3),
    )
    event = next(e for e in run(sd15, asked) if isinstance(e, Image))
    told = parse(event.infotext)
    assert (told.prompt, told.negative_prompt, told.size) == ("a (fox:1.2), den", "blurry", (64, 64))
    expected = {
        "Steps": "3",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7",
        "Seed": "7",
        "Clip skip": "2",
    }
    assert expected.items() <= told.values.items()


# --- prompts
# ----------------------------------------------------------------------------------------------------------------------
# --


def test_prompt_grammar_reaches_the_picture(sd15):
    plain = pictures(sd15, request("a fox"))[0]
    for prompt in ("a (fox:1.9)", "a fox AND snow", "a [fox:bird:2]", "a [fox|bird]", "a fox BREAK snow"):
        assert np.abs(pictures(sd15, request(prompt))[0] - plain).max() > 0, prompt
    assert np.abs(pictures(sd15, request("a fox AND snow :0"))[0] - plain).max() <= 1


@pytest.mark.parametrize("prompt", ["", "word " * 3000, "((((", "<lora:", "[a:b:nan]", "\x00 \U0001f600"])
def test_odd_prompts_make_pictures(sd15, prompt):
    asked = request(prompt, sampling=Sampling(sampler="Euler", steps=1))
    assert len(pictures(sd15, asked)) == 1


def test_a_guidance_of_one_needs_no_negative_prompt(sd15):
    one = dataclasses.replace(FAST, cfg_scale=1.0)
    with_negative = pictures(sd15, request(sampling=one, negative_prompts=("bird",)))[0]
    assert (pictures(sd15, request(sampling=one))[0] == with_negative).all()


# --- pictures and masks
# -------------------------------------------------------------------------------------------------------------


def test_strength_zero_keeps_the_picture(sd15):
    kept = pictures(sd15, request(init=Init(image=photo(), strength=0.0)))[0]
    other = pictures(sd15, request("something else", init=Init(image=photo(), strength=0.0)))[0]
    assert (kept == other).all()


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_a_picture_of_another_size_is_fitted(sd15, fit):
    assert pictures(sd15, request(init=Init(image=photo(100, 40), fit=fit)))[0].shape == (64, 64, 3)


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("content", ["original", "fill", "latent noise", "latent nothing"])
def test_inpainting_keeps_the_bits_outside_the_mask(channels, content):
    bundle = tiny("sd15", in_channels=channels)
    mask = Mask(image=disc(), blur=0, content=content)
    result = pictures(bundle, request(init=Init(image=photo(), strength=0.8), mask=mask))[0]
    outside = np.asarray(disc()) == 0
    assert (result[outside] == np.asarray(photo(), np.int16)[outside]).all()
    assert np.abs(result - np.asarray(photo(), np.int16)).max() > 0


def test_only_the_masked_region_is_worked_on_at_full_size(sd15):
    image, mask = photo(200, 120), disc(200, 120, (150, 10, 190, 60))
    asked = request(init=Init(image=image), mask=Mask(image=mask, only_masked=True, padding=8, blur=2))
    result = pictures(sd15, asked)[0]
    assert result.shape == (120, 200, 3)
    changed = np.abs(result - np.asarray(image, np.int16)).max(axis=-1) > 0
    assert changed.any()
    assert not changed[:, :130].any()


def test_a_mask_of_another_size_is_scaled_and_an_empty_one_refused(sd15):
    asked = request(init=Init(image=photo()), mask=Mask(image=disc(128, 128, (32, 32, 80, 80)), blur=0))
    assert pictures(sd15, asked)[0].shape == (64, 64, 3)
    with pytest.raises(ValueError, match="the mask is empty"):
        pictures(sd15, request(init=Init(image=photo()), mask=Mask(image=PIL.Image.new("L", (64, 64)))))


def test_an_inpainting_model_makes_pictures_from_text_and_pix2pix_asks_for_one():
    assert len(pictures(tiny("sd15", in_channels=9), request())) == 1
    pix2pix = tiny("sd15", in_channels=8)
    assert len(pictures(pix2pix, request(init=Init(image=photo(), strength=1.0)))) == 1
    with pytest.raises(ValueError, match="InstructPix2Pix"):
        pictures(pix2pix, request())


# --- controls, second pass, refiner
# -------------------------------------------------------------------------------------------------


def test_controls_act_where_they_should(sd15):
    plain = pictures(sd15, request())[0]

    def with_control(**options):
        return pictures(sd15, request(controls=(Control(model=control(), image=photo(), **options),)))[0]

    assert (with_control(weight=0.0) == plain).all()
    assert (with_control(start=1.0) == plain).all()
    strong = with_control(weight=2.0)
    assert np.abs(strong - plain).max() > 0
    for mode in ("prompt", "control"):
        assert np.abs(with_control(weight=2.0, mode=mode) - strong).max() > 0
    half = with_control(weight=1.0)
    two = (Control(model=control(), image=photo()), Control(model=control(), image=photo(), weight=1.0))
    assert np.abs(pictures(sd15, request(controls=two))[0] - strong).max() <= 1
    assert np.abs(half - strong).max() > 0


def test_a_control_of_another_family_is_refused(sd15):
    with pytest.raises(ValueError, match="made for another model family"):
        pictures(sd15, request(controls=(Control(model=control("sdxl-base"), image=photo()),)))


@pytest.mark.parametrize("upscaler", ["Latent", "Latent (nearest)", "Latent (bicubic)", "Lanczos", "Nearest"])
def test_the_second_pass_enlarges(sd15, upscaler):
    asked = request(hires=Hires(scale=1.5, strength=0.6, upscaler=upscaler, prompt="another"))
    assert pictures(sd15, asked)[0].shape == (96, 96, 3)


@pytest.mark.parametrize("only_masked", [False, True])
@pytest.mark.parametrize("channels", [4, 9])
def test_a_second_pass_keeps_the_bits_outside_the_mask_too(channels, only_masked):
    mask = Mask(image=disc(), blur=0, only_masked=only_masked, padding=4)
    asked = request(init=Init(image=photo()), mask=mask, hires=Hires(scale=1.5))
    result = pictures(tiny("sd15", in_channels=channels), asked)[0]
    outside = np.asarray(disc()) == 0
    assert (result[outside] == np.asarray(photo(), np.int16)[outside]).all()
    assert np.abs(result - np.asarray(photo(), np.int16)).max() > 0


def test_the_picture_to_start_from_is_encoded_once(monkeypatch):
    bundle, calls = tiny("sd15"), []
    encode = type(bundle).encode
    monkeypatch.setattr(type(bundle), "encode", lambda self, pixels: calls.append(1) or encode(self, pixels))
    assert len(pictures(bundle, request("a", "b", "c", batch_size=1, init=Init(image=photo())))) == 3
    assert len(calls) == 1


def test_the_refiner_takes_over(sd15):
    base, refiner = tiny("sdxl-base"), tiny("sdxl-refiner")
    plain = pictures(base, request())[0]
    refined = pictures(base, request(refine=Refine(bundle=refiner, switch_at=0.5)))[0]
    assert np.abs(refined - plain).max() > 0
    alone = pictures(refiner, request(init=Init(image=photo(), strength=0.5)))[0]
    assert alone.shape == (64, 64, 3)


def test_large_pictures_are_decoded_in_tiles(sd15):
    events = list(run(sd15, request(tile=32)))
    assert any("tile" in e.text for e in events if isinstance(e, Note))
    whole, tiled = pictures(sd15, request())[0], np.asarray(events[-1].image, np.int16)
    assert tiled.shape == whole.shape


# --- adapters
# ----------------------------------------------------------------------------------------------------------------------
# -


@pytest.fixture
def library(tmp_path, sd15):
    draw, tensors = np.random.default_rng(3), {}
    for name, layer in sd15.unet.named_sublayers():
        if isinstance(layer, Linear) and "attn" in name:
            inner, out = layer.weight.shape
            key = "lora_unet_" + name.replace(".", "_")
            tensors[f"{key}.lora_down.weight"] = draw.normal(size=(2, inner)).astype(np.float32)
            tensors[f"{key}.lora_up.weight"] = draw.normal(size=(out, 2)).astype(np.float32)
    save_file(tensors, tmp_path / "style.safetensors", {"ss_output_name": "my style"})
    return Library.of_folders(tmp_path)


def test_tags_count_for_their_own_picture_of_a_batch(sd15, library):
    plain, styled = pictures(sd15, request("a fox", "a fox <lora:style:0.8>", seeds=(7, 7)), library)
    assert (plain == pictures(sd15, request("a fox"))[0]).all()
    assert np.abs(styled - plain).max() > 0
    assert (styled == pictures(sd15, request("a fox <lora:my style:0.8>"), library)[0]).all()


def test_adapters_are_read_once_for_their_pictures_and_every_batch_is_counted(sd15, library):
    tagged = "a fox <lora:style:0.8>"
    events = list(run(sd15, request(tagged, tagged, tagged, "a fox", batch_size=2), library))
    assert len([e for e in events if isinstance(e, Note) and e.text.startswith("style: ")]) == 1
    steps = [(e.step, e.of) for e in events if isinstance(e, Progress)]
    assert [step for step, _ in steps] == list(range(1, steps[-1][1] + 1))


def test_tags_may_change_over_the_steps(sd15, library):
    early = pictures(sd15, request("a fox <lora:style:1@0,0@1>"), library)[0]
    plain, full = (pictures(sd15, request(f"a fox {tag}"), library)[0] for tag in ("", "<lora:style:1>"))
    assert np.abs(early - plain).max() > 0
    assert np.abs(early - full).max() > 0


def test_a_tag_without_a_file_is_told_never_silent(sd15, library):
    notes = [
        e
        for e in run(sd15, request("a fox <lora:nowhere:1> <hypernet:x:1>"), library)
        if isinstance(e, Note) and e.warning
    ]
    assert "'nowhere' was not found" in notes[0].text
    assert "hypernet" in notes[1].text


def test_words_of_a_tag_without_a_meaning_are_told(sd15, library):
    events = run(sd15, request("a fox <lora:style:1:lbw=OUTALL>"), library)
    assert any("lbw=OUTALL is not understood" in e.text for e in events if isinstance(e, Note))


def test_sdxl_has_its_own_table_of_aligned_steps():
    from ppdiffusers.pipelines.passes import choice_for

    sampling = Sampling(sampler="Euler", schedule="Align Your Steps", steps=10)
    plain, xl = (choice_for(sampling, xl=flag).sigmas(tiny("sd15").schedule, 10) for flag in (False, True))
    assert len(plain) == len(xl) == 11
    assert plain != xl


def test_clip_skip_counts_as_in_diffusers():
    from ppdiffusers.pipelines.pipeline import StableDiffusionPipeline, StableDiffusionXLPipeline

    for pipe, counts in (
        (StableDiffusionPipeline(tiny("sd15")), {None: 1, 0: 1, 1: 2}),
        (StableDiffusionXLPipeline(tiny("sdxl-base")), {None: 1, 0: 2, 1: 3}),
    ):
        assert {skip: pipe.request("a", 64, 64, clip_skip=skip).clip_skip for skip in counts} == counts


def test_stopping_in_the_middle_restores_the_weights(sd15, library):
    before = {k: v.numpy().tobytes() for k, v in sd15.unet.state_dict().items()}
    events = run(sd15, request("a fox <lora:style:1>"), library)
    for event in events:
        if isinstance(event, Progress) and event.note == "denoising":
            break
    assert {k: v.numpy().tobytes() for k, v in sd15.unet.state_dict().items()} != before
    events.close()
    assert {k: v.numpy().tobytes() for k, v in sd15.unet.state_dict().items()} == before


# --- what callers give and get
# ------------------------------------------------------------------------------------------------------


def test_latents_and_encoded_texts_can_be_given_and_latents_be_taken(sd15):
    noise = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32))
    text = paddle.ones([1, 77, 32])
    asked = request(
        "", given=Given(latents=noise, prompt_embeds=text, negative_prompt_embeds=text * 0), output="latent"
    )
    events = list(run(sd15, asked))
    assert isinstance(events[-1], Latents)
    assert events[-1].latents.shape == [1, 4, 8, 8]
    with pytest.raises(ValueError, match="need negative_prompt_embeds"):
        list(run(sd15, request("", given=Given(prompt_embeds=text))))


def test_weights_that_are_no_numbers_are_told(sd15):
    layer = sd15.unet.conv_out.bias
    before = layer.numpy()
    layer.set_value(np.full_like(before, np.nan))
    try:
        with pytest.raises(ValueError, match="values that are not numbers"):
            pictures(sd15, request())
    finally:
        layer.set_value(before)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"width": 65}, "width must be a multiple of 8, at least 64, got 65; try 64"),
    ({"height": 0}, "height must be a multiple of 8"),
    ({"width": 80000, "height": 80000}, "more than"),
    ({"prompts": ()}, "at least one prompt"),
    ({"seeds": (1, 2)}, "need as many seeds"),
    ({"mask": Mask(image=disc())}, "needs the picture"),
    ({"clip_skip": 0}, "clip skip"),
    ({"output": "webp"}, "output is"),
])  # fmt: skip
def test_bad_requests_are_refused_with_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        request(**change)


@pytest.mark.parametrize(("kind", "options", "sentence"), [
    (Sampling, {"steps": 0}, "steps must be between 1"),
    (Sampling, {"cfg_scale": float("nan")}, "CFG scale"),
    (Init, {"image": photo(), "strength": 1.5}, "denoising strength"),
    (Mask, {"image": disc(), "content": "water"}, "masked content"),
    (Hires, {"scale": 0.5}, "hires scale"),
    (Control, {"model": None, "image": None, "start": 0.6, "end": 0.5}, "acts between 0 and 1"),
])  # fmt: skip
def test_bad_options_are_refused_with_a_sentence(kind, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(**options)


def test_an_unknown_sampler_is_refused_with_near_names(sd15):
    with pytest.raises(ValueError, match="DPM\\+\\+ 2M"):
        pictures(sd15, request(sampling=Sampling(sampler="DPM+ 2M", steps=2)))
