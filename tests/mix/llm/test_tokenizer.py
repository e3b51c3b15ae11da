"""Tokenizers of every form, streaming text, and chat templates."""

import json
from pathlib import Path

import numpy as np
import pytest

from mix.llm.chat import render
from mix.llm.sentencepiece import build, merges_by_score, read_model
from mix.llm.text import TextStream
from mix.llm.tokenizer import AutoTokenizer, Settings, Tokenizer
from mix.llm.vocabularies import byte_level, from_gguf

GOLDENS = Path(__file__).parents[2] / "goldens"
PIECES = json.loads((GOLDENS / "llm_pieces.json").read_text(encoding="utf-8"))
KINDS = ("bpe", "unigram")


def letters():
    """GPT-2's 256 byte letters."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def small(pre="gpt-2", **settings):
    """A byte-level tokenizer with a few merges and three special tokens."""
    vocab = {letter: i for i, letter in enumerate(letters())}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w"), ("1", "2"), ("12", "3")]
    for pair in merges:
        vocab["".join(pair)] = len(vocab)
    backend = byte_level(vocab, merges, pre)
    backend.add_special_tokens(["<s>", "</s>", "<pad>"])
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | settings
    return Tokenizer(backend, Settings(**named))


# --- SentencePiece ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", range(len(PIECES["texts"])))
def test_ids_are_those_of_sentencepiece(kind, which):
    made = build(read_model((GOLDENS / f"llm_pieces_{kind}.model").read_bytes()))
    ids = PIECES[kind]["ids"][which]
    assert made.encode(PIECES["texts"][which], add_special_tokens=False).ids == ids
    want = PIECES[kind]["decoded"][which].replace(" \u2047 ", "<unk>")
    assert made.decode(ids, skip_special_tokens=False) == want


def test_a_folder_with_a_model_file_adds_bos(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes((GOLDENS / "llm_pieces_bpe.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": {"content": "</s>"}}')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("Hello world") == [1, *PIECES["bpe"]["ids"][0]]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    tokenizer.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").encode("Hello world") == tokenizer.encode("Hello world")


@pytest.mark.parametrize("cut", [0, 1, 5, 100, 3000])
def test_a_broken_model_file_is_refused(cut):
    raw = (GOLDENS / "llm_pieces_bpe.model").read_bytes()
    with pytest.raises(ValueError, match=r"tokenizer\.model"):
        read_model(raw[:cut] + b"\xff" * 12)


def test_a_gguf_vocabulary_is_the_same_tokenizer():
    vocabulary = read_model((GOLDENS / "llm_pieces_bpe.model").read_bytes())
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [p.text for p in vocabulary.pieces],
        "tokenizer.ggml.scores": [p.score for p in vocabulary.pieces],
        "tokenizer.ggml.token_type": [p.kind for p in vocabulary.pieces],
    }
    made = from_gguf(metadata, "m.gguf")
    for text, ids in zip(PIECES["texts"], PIECES["bpe"]["ids"], strict=True):
        assert made.encode(text, add_special_tokens=False).ids == ids
    assert merges_by_score(vocabulary.pieces, {p.text: i for i, p in enumerate(vocabulary.pieces)})
    with pytest.raises(ValueError, match="score"):
        from_gguf(metadata | {"tokenizer.ggml.scores": []}, "m.gguf")
    with pytest.raises(ValueError, match="token types"):
        from_gguf(metadata | {"tokenizer.ggml.token_type": [1]}, "m.gguf")
    with pytest.raises(ValueError, match="'bert'"):
        from_gguf(metadata | {"tokenizer.ggml.model": "bert"}, "m.gguf")


# --- byte-level BPE ---------------------------------------------------------------------------------------------------


def test_vocab_and_merges_files(tmp_path):
    vocab = {letter: i for i, letter in enumerate(letters())} | {"he": 256}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\n", encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("he")[0] == 256
    assert tokenizer.decode(tokenizer.encode("héhe 😀\n")) == "héhe 😀\n"
    (tmp_path / "merges.txt").write_text("h e x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="two words"):
        AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_every_rule_gives_the_text_back(pre):
    tokenizer = small(pre)
    for text in ("hello  world\n\n 123it's 12345", "日本語 naïve 😀", "\t<s>x</s>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_cut_as_each_rule_says():
    counts = {pre: len(small(pre).encode("123123")) for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2")}
    assert counts == {"gpt-2": 2, "smollm": 6, "llama-bpe": 2, "qwen2": 6}
    assert len(small("llama-bpe").encode("1231231")) == 3
    with pytest.raises(ValueError, match="'tekken'"):
        small("tekken")


def test_batches_are_padded_on_the_left():
    tokenizer = small()
    batch = tokenizer(["hell", "hello world"], padding=True, return_tensors="pd")
    ids, mask = batch.input_ids.numpy(), batch["attention_mask"].numpy()
    assert ids.shape == mask.shape
    assert ids[0, 0] == tokenizer.pad_token_id
    assert mask[0].tolist() == [0] * (ids.shape[1] - 1) + [1]
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == ["hell", "hello world"]
    with pytest.raises(ValueError, match="padding=True"):
        tokenizer(["a", "bb"], return_tensors="np")
    assert tokenizer("hello", truncation=True, max_length=1).input_ids == tokenizer.encode("hell")


@pytest.mark.parametrize("wrong", [3, None, b"bytes", "\ud800"])
def test_what_is_not_text_is_refused(wrong):
    with pytest.raises(ValueError, match="text"):
        small().encode(wrong)


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        AutoTokenizer.from_pretrained(tmp_path / "x")
    with pytest.raises(ValueError, match="no tokenizer"):
        AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="not a tokenizer"):
        AutoTokenizer.from_pretrained(tmp_path)


# --- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["hello wörld", "😀😀 a", "日本語", "\n\n", "plain"])
def test_a_stream_never_shows_half_a_character(text):
    tokenizer = small()
    stream = tokenizer.stream()
    parts = [stream.push(i) for i in tokenizer.encode(text)]
    assert not any("\ufffd" in part for part in parts)
    assert "".join(parts) + stream.end() == text


def test_bytes_that_never_become_a_character_come_at_the_end():
    tokenizer = small()
    stream = TextStream(tokenizer)
    first, *_ = tokenizer.encode("😀")
    assert stream.push(first) == ""
    assert stream.end() == "\ufffd"
    assert stream.end() == ""


def test_sentencepiece_streams_with_its_spaces():
    tokenizer = Tokenizer(build(read_model((GOLDENS / "llm_pieces_bpe.model").read_bytes())), Settings())
    ids = tokenizer.encode("the kernels of 😀 the kernels")
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) == "the kernels of 😀 the kernels"


# --- chat -------------------------------------------------------------------------------------------------------------

TEMPLATE = """{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}{{ raise_exception('system must be first') }}{% endif %}
{{- '<s>' + message['role'] + ': ' + message['content'] | trim + '</s>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"""
TALK = [{"role": "user", "content": " hello "}, {"role": "assistant", "content": "hell"}]


def test_a_conversation_becomes_a_prompt():
    tokenizer = small(templates={"default": TEMPLATE})
    text = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert text == "<s>user: hello</s>\n<s>assistant: hell</s>\n<s>assistant: "
    ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids) == text
    several = tokenizer.apply_chat_template([TALK, TALK[:1]], padding=True, return_tensors="np")
    assert several.input_ids.shape[0] == 2
    assert several.attention_mask[1, 0] == 0


def test_what_transformers_offers_templates_is_there():
    render_one = lambda template, **known: render(template, TALK, **known)  # noqa: E731
    assert render_one("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'
    assert render_one("{{ strftime_now('%Y') }}") == f"{np.datetime64('now')}"[:4]
    assert render_one("{% for m in messages %}{% break %}{% endfor %}x") == "x"
    assert render_one("{% generation %}said{% endgeneration %}") == "said"
    assert render_one("{{ tools }}{{ bos_token }}", bos_token="B") == "NoneB"
    assert render_one("{% if true %}\n  x\n{% endif %}\n") == "  x\n"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}",
        "{{ 1 + ",
        "{% nonsense %}",
        "{{ raise_exception('no') }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ ().__class__.__bases__[0].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10000000000) %}x{% endfor %}",
        "{{ messages[9].content.x.y }}",
    ],
)
def test_a_bad_template_is_a_value_error(template):
    with pytest.raises(ValueError, match="chat template"):
        render(template, TALK)


def test_messages_and_templates_that_are_missing():
    tokenizer = small()
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.apply_chat_template(TALK)
    with pytest.raises(ValueError, match="role"):
        tokenizer.apply_chat_template(["hello"], chat_template=TEMPLATE)
    with pytest.raises(ValueError, match="system must be first"):
        tokenizer.apply_chat_template([*TALK, {"role": "system", "content": ""}], chat_template=TEMPLATE)


def test_named_templates_and_jinja_files(tmp_path):
    tokenizer = small(templates={"default": "d", "tool_use": "t {{ tools | length }}"})
    assert tokenizer.apply_chat_template(TALK, tokenize=False) == "d"
    assert tokenizer.apply_chat_template(TALK, tools=[{"name": "x"}], tokenize=False) == "t 1"
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.settings.templates == tokenizer.settings.templates
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(TALK, tokenize=False) == "from the file"


# --- constraints ------------------------------------------------------------------------------------------------------


def written(mask, tokenizer, seed, most=200):
    """What random scores write under a mask, until it is complete or the end token is drawn."""
    random, ids = np.random.default_rng(seed), []
    while not mask.finished and len(ids) < most:
        token = int(mask.apply(random.standard_normal(len(tokenizer)).astype(np.float32)).argmax())
        mask.accept(token)
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(5))
def test_random_scores_under_a_rule_keep_to_it(seed):
    import re

    constrain = pytest.importorskip("mix.llm.constrain")
    pytest.importorskip("llguidance", reason="the optional package llguidance is not installed")
    tokenizer = small()
    assert re.fullmatch(r"[0-9]{3}-[a-f]{2}", written(constrain.regex(tokenizer, r"\d{3}-[a-f]{2}"), tokenizer, seed))
    assert written(constrain.choice(tokenizer, ["yes", 'no "x"\n']), tokenizer, seed) in ("yes", 'no "x"\n')
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["kind", "n"],
        "additionalProperties": False,
    }
    made = json.loads(written(constrain.json_schema(tokenizer, schema), tokenizer, seed, 2000))
    assert made["kind"] in ("a", "b")
    assert 0 <= made["n"] <= 99


@pytest.mark.parametrize("wrong", ["{", '{"type": "banana"}', "[1]", '{"$ref": "http://x.invalid/y"}'])
def test_an_invalid_schema_is_a_value_error(wrong):
    pytest.importorskip("llguidance", reason="the optional package llguidance is not installed")
    from mix.llm.constrain import choice, json_schema, regex

    with pytest.raises(ValueError, match=r"schema|constraint"):
        json_schema(small(), wrong)
    with pytest.raises(ValueError, match="constraint"):
        regex(small(), "(a")
    with pytest.raises(ValueError, match="choices"):
        choice(small(), [])
