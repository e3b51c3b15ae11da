"""Files are recognised by their headers: real ones of every family, and whatever our own models would save."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppdiffusers.models.config import (
    CROSS_DOWN,
    CROSS_UP,
    PLAIN_DOWN,
    PLAIN_UP,
    SD15,
    SD21,
    SDXL,
    SDXL_REFINER,
    CLIPTextConfig,
    ControlNetConfig,
    UNetConfig,
    VAEConfig,
)
from ppdiffusers.weights.adapters import adapter_kind, lora_family
from ppdiffusers.weights.detect import CONFIGS_KEY, detect
from ppdiffusers.weights.entries import entries_of
from ppdiffusers.weights.load import MODELS
from ppdiffusers.weights.names import controlnet_ldm_names, spell_by
from ppdiffusers.weights.plan import as_stored
from ppdiffusers.weights.save import ldm_spelling
from tests.ppdiffusers.weights.test_names import header, shapes

REAL = {
    "sd15": ("sd15", SD15),
    "sd21": ("sd2", SD21),
    "sdxl": ("sdxl-base", SDXL),
    "refiner": ("sdxl-refiner", SDXL_REFINER),
}
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints(name):
    family, preset = REAL[name]
    found = detect(shapes(name), name=f"{name}.safetensors")
    assert (found.kind, found.family) == ("checkpoint", family)
    assert found.prediction_type == ("v" if name == "sd21" else "eps")
    for part, one in found.parts.items():
        config = getattr(preset, part)
        assert one.config == (replace(config, sample_size=512) if name == "sd21" and part == "vae" else config), part


@pytest.mark.parametrize(("name", "preset"), [("sd15", SD15), ("sd21", SD21), ("sdxl", SDXL)])
def test_real_controlnets(name, preset):
    found = detect(shapes(f"controlnet_{name}"))
    assert (found.kind, found.family) == ("controlnet", f"controlnet-{name.replace('sd21', 'sd2')}")
    assert found.parts["controlnet"].config == preset.controlnet
    bare = {key.removeprefix("control_model."): shape for key, shape in shapes(f"controlnet_{name}").items()}
    assert detect(bare).parts["controlnet"].config == preset.controlnet


def with_channels(name, channels):
    given = shapes(name)
    return given | {FIRST: (given[FIRST][0], channels, 3, 3)}


@pytest.mark.parametrize(
    ("name", "channels", "family"),
    [
        ("sd15", 9, "sd15-inpaint"),
        ("sd15", 8, "sd15-pix2pix"),
        ("sd21", 9, "sd2-inpaint"),
        ("sdxl", 9, "sdxl-inpaint"),
        ("sdxl", 8, "sdxl-pix2pix"),
    ],
)
def test_other_inputs_are_other_families(name, channels, family):
    found = detect(with_channels(name, channels))
    assert found.family == family
    assert found.prediction_type == "eps"
    assert found.parts["unet"].config.in_channels == channels


def only(name, prefix, kept=""):
    return {kept + key.removeprefix(prefix): shape for key, shape in shapes(name).items() if key.startswith(prefix)}


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_a_lone_vae(prefix):
    found = detect(only("sd15", "first_stage_model.", prefix), name="vae-ft-mse-840000.safetensors")
    assert (found.kind, found.family, [*found.parts]) == ("vae", None, ["vae"])
    assert found.parts["vae"].config == SD15.vae
    named = detect(only("sdxl", "first_stage_model.", prefix), name="sdxl_vae.safetensors")
    assert named.parts["vae"].config == SDXL.vae


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_lone_unet(name, prefix):
    found = detect(only(name, "model.diffusion_model.", prefix), name=name)
    assert (found.kind, found.family) == ("unet", REAL[name][0])
    assert found.parts["unet"].config == REAL[name][1].unet


@pytest.mark.parametrize("name", REAL)
def test_diffusers_names_in_one_file(name):
    ours = {}
    for _, shape, keys in header(name).values():
        for key in (k for k in keys if k.startswith("unet/")):
            ours[key.removeprefix("unet/")] = tuple(shape)
    found = detect(ours)
    assert (found.kind, found.parts["unet"].config) == ("unet", REAL[name][1].unet)


def test_averages_alone_are_enough_and_are_used_when_asked_for():
    from ppdiffusers.weights.ema import flatten

    plain = shapes("sd15")
    averaged = {flatten(key): shape for key, shape in plain.items() if key.startswith("model.diffusion_model.")}
    alone = {key: shape for key, shape in plain.items() if not key.startswith("model.diffusion_model.")} | averaged
    assert detect(alone).parts["unet"].config == SD15.unet
    assert detect(alone).aliases[FIRST] == flatten(FIRST)
    assert detect(plain | averaged).aliases == {}
    assert detect(plain | averaged, use_ema=True).aliases[FIRST] == flatten(FIRST)
    with pytest.raises(ValueError, match="no averaged"):
        detect(plain, use_ema=True)


@pytest.mark.parametrize(
    ("metadata", "name", "expected"),
    [
        ({}, "v2-1_768-ema-pruned.safetensors", "v"),
        ({}, "v2-1_512-ema-pruned.safetensors", "eps"),
        ({}, "512-base-ema.ckpt", "eps"),
        ({}, "sd_turbo.safetensors", "eps"),
        ({"global_step": "875000"}, "model.ckpt", "eps"),
        ({"modelspec.prediction_type": "epsilon"}, "x.safetensors", "eps"),
        ({"modelspec.predict_key": "v"}, "x-base.safetensors", "v"),
        ({}, "some_merge.safetensors", "v"),
    ],
)
def test_what_stable_diffusion_2_predicts(metadata, name, expected):
    found = detect(shapes("sd21"), metadata, name)
    assert found.prediction_type == expected
    if not metadata:
        assert found.parts["unet"].config.sample_size == (96 if expected == "v" else 64)


def test_v_prediction_of_xl_is_marked_by_an_empty_tensor():
    assert detect(shapes("sdxl") | {"v_pred": (0,), "ztsnr": (0,)}).prediction_type == "v"
    assert detect(shapes("sdxl"), name="noob_vpred.safetensors").prediction_type == "v"


# --- small files ------------------------------------------------------------------------------------------------------

A = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("given", "algorithm", "family"),
    [
        ({f"{A}.lora_down.weight": (4, 768), f"{A}.lora_up.weight": (320, 4), f"{A}.alpha": ()}, "lora", "sd15"),
        ({f"{A}.lora_down.weight": (4, 1024), f"{A}.lora_up.weight": (320, 4)}, "lora", "sd2"),
        ({f"{A}.lora_down.weight": (4, 2048), f"{A}.lora_up.weight": (320, 4)}, "lora", "sdxl"),
        ({f"{A}.hada_w1_a": (320, 4), f"{A}.hada_w1_b": (4, 768)}, "loha", "sd15"),
        ({f"{A}.lokr_w1": (4, 4), f"{A}.lokr_w2": (80, 192)}, "lokr", None),
        ({f"{A}.dora_scale": (1, 768), f"{A}.lora_down.weight": (4, 768)}, "dora", "sd15"),
        ({"lora_unet_conv_in.lora_down.weight": (4, 4, 3, 3)}, "locon", None),
        ({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 2048)}, "lora", "sdxl"),
        ({"base_model.model.x.attn2.to_k.lora_A.default.weight": (4, 768)}, "lora", "sd15"),
        ({"x.attn2.processor.to_k_lora.down.weight": (4, 768)}, "lora", "sd15"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 1280)}, "lora", "sdxl"),
        ({"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (4, 768)}, "lora", "sd15"),
        ({f"{A}.on_input": (), f"{A}.weight": (320,)}, "ia3", None),
        ({f"{A}.diff": (320, 768)}, "full", None),
    ],
)
def test_kinds_of_lora(given, algorithm, family):
    found = detect(given)
    assert (found.kind, found.algorithm, found.family) == ("lora", algorithm, family)


@pytest.mark.parametrize("name", [*REAL, "controlnet_sd15"])
def test_models_are_no_lora(name):
    assert adapter_kind(shapes(name)) is None
    assert lora_family({}) is None


@pytest.mark.parametrize(
    ("given", "family"),
    [
        ({"emb_params": (4, 768)}, "sd15"),
        ({"emb_params": (4, 1024)}, "sd2"),
        ({"string_to_param.*": (2, 768), "string_to_token.*": ()}, "sd15"),
        ({"<cat>": (768,)}, "sd15"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "sdxl"),
    ],
)
def test_textual_inversions(given, family):
    found = detect(given)
    assert (found.kind, found.family) == ("textual_inversion", family)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": (1,), "b.weight": (2,)}, "Looked for .* It has a, b.weight"),
        ({}, "It has nothing"),
        ({"double_blocks.0.img_attn.qkv.weight": (3, 3)}, "looks like FLUX"),
        ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (3, 3)}, "looks like Stable Diffusion 3"),
        ({"model.layers.0.self_attn.q_proj.weight": (3, 3)}, "looks like a language model"),
        ({"image_proj.latents": (1, 2), "ip_adapter.1.to_k_ip.weight": (3, 3)}, "looks like an IP-Adapter"),
    ],
)
def test_strangers_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        detect(given, name="x.safetensors")


def test_unsupported_variants_are_named():
    with pytest.raises(ValueError, match="reads 5 channels; supported are 4"):
        detect(with_channels("sd21", 5))
    unclip = shapes("sd21") | {"model.diffusion_model.label_emb.0.0.weight": (1280, 2048)}
    with pytest.raises(ValueError, match="unCLIP"):
        detect(unclip)
    with pytest.raises(ValueError, match="EDM"):
        detect(shapes("sdxl") | {"edm_mean": (1, 4, 1, 1)})


def test_an_incomplete_file_is_a_sentence():
    given = shapes("sd15")
    del given["model.diffusion_model.out.2.weight"]
    with pytest.raises(ValueError, match=r"not complete: 'out\.2\.weight' is missing"):
        detect(given)
    with pytest.raises(ValueError, match="not complete"):
        detect(shapes("sd15") | {FIRST: ()})


# --- laws -------------------------------------------------------------------------------------------------------------

WIDTHS = st.sampled_from([64, 128, 192])


@st.composite
def unets(draw) -> UNetConfig:
    levels = draw(st.integers(1, 4))
    crosses = draw(st.lists(st.booleans(), min_size=levels, max_size=levels))
    linear = draw(st.booleans())
    widths = tuple(draw(WIDTHS) for _ in range(levels))
    layers = tuple(draw(st.integers(1, 3)) for _ in range(levels))
    depths = [draw(st.integers(1, 3)) if cross else None for cross in crosses]
    depths[-1] = depths[-1] or draw(st.integers(1, 3))  # the mid block has this depth
    said = {depth for depth in depths if depth}
    plain = said.pop() if len(said) == 1 else 1
    depths = tuple(depth or plain for depth in depths)
    pooled = linear and draw(st.booleans())
    return UNetConfig(
        in_channels=draw(st.sampled_from([4, 9])),
        block_out_channels=widths,
        down_block_types=tuple(CROSS_DOWN if cross else PLAIN_DOWN for cross in crosses),
        up_block_types=tuple(CROSS_UP if cross else PLAIN_UP for cross in reversed(crosses)),
        layers_per_block=layers[0] if len(set(layers)) == 1 else layers,
        transformer_layers_per_block=depths[0] if len(set(depths)) == 1 else depths,
        attention_head_dim=tuple(width // 64 for width in widths) if linear else 8,
        cross_attention_dim=draw(st.sampled_from([32, 768])),
        use_linear_projection=linear,
        upcast_attention=linear and not pooled,
        addition_embed_type="text_time" if pooled else None,
        addition_time_embed_dim=256 if pooled else None,
        projection_class_embeddings_input_dim=320 if pooled else None,
        time_cond_proj_dim=draw(st.sampled_from([None, 16])),
    )


def saved(name, config, spell=as_stored):
    return {key: entry.shape for key, entry in entries_of(MODELS[name].empty(config), spell).items()}


@settings(max_examples=12, deadline=None)
@given(config=unets(), ldm=st.booleans())
def test_a_saved_unet_is_recognised_as_itself(config, ldm):
    model = MODELS["unet"].empty(config)
    spell = ldm_spelling("sd15", "unet", model) if ldm else as_stored
    found = detect({key: entry.shape for key, entry in entries_of(model, spell).items()})
    assert found.kind == "unet"
    assert replace(found.parts["unet"].config, sample_size=None) == config


@settings(max_examples=6, deadline=None)
@given(unet=unets(), hint=st.sampled_from([(16, 32, 96, 256), (16, 32)]), ldm=st.booleans())
def test_a_saved_controlnet_is_recognised_as_itself(unet, hint, ldm):
    config = ControlNetConfig.from_unet(unet, in_channels=4, conditioning_embedding_out_channels=hint)
    spell = spell_by(controlnet_ldm_names(config).under("control_model.")) if ldm else as_stored
    assert detect(saved("controlnet", config, spell)).parts["controlnet"].config == config


@settings(max_examples=8, deadline=None)
@given(
    widths=st.lists(st.sampled_from([32, 64]), min_size=1, max_size=4),
    layers=st.integers(1, 3),
    latent=st.sampled_from([4, 16]),
    quant=st.booleans(),
    ldm=st.booleans(),
)
def test_a_saved_vae_is_recognised_as_itself(widths, layers, latent, quant, ldm):
    config = VAEConfig(
        block_out_channels=tuple(widths),
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=layers,
        latent_channels=latent,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )
    spell = ldm_spelling("sd15", "vae", MODELS["vae"].empty(config)) if ldm else as_stored
    assert detect(saved("vae", config, spell)).parts["vae"].config == config


@settings(max_examples=6, deadline=None)
@given(width=st.sampled_from([64, 128]), layers=st.integers(1, 4), vocabulary=st.integers(10, 100))
def test_a_saved_text_encoder_is_recognised_as_itself(width, layers, vocabulary):
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )
    found = detect(saved("text_encoder", config))
    assert (found.kind, found.parts["text_encoder"].config) == ("text_encoder", config)


def test_recorded_configs_win_over_rules():
    config = replace(SD15.unet, attention_head_dim=5, norm_num_groups=16)
    metadata = {CONFIGS_KEY: json.dumps({"unet": config.to_dict()})}
    assert detect(shapes("sd15"), metadata).parts["unet"].config == config
    with pytest.raises(ValueError, match="metadata cannot be read"):
        detect(shapes("sd15"), {CONFIGS_KEY: "{"})
