"""A tiny chat model with a byte tokenizer, as a Hugging Face folder, and hosts and servers over it."""

from contextlib import contextmanager
from types import SimpleNamespace

import paddle
from fastapi import FastAPI
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel

from app.catalog import Catalog
from app.llm_host import LLMHost, Sizes
from app.rest import openai
from app.settings import Settings
from mix.llm.model import CausalLM
from mix.llm.tokenizer import Settings as TokenizerSettings
from mix.llm.tokenizer import Tokenizer
from mix.llm.vocabularies import byte_level
from tests.app.conftest import serving as serving_application

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'nobody' %}{{ raise_exception('who is nobody?') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
CONFIG = {
    "model_type": "llama", "vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True, "eos_token_id": 257, "initializer_range": 0.4, "hidden_act": "silu",
}  # fmt: skip


def tokenizer():
    letters = sorted(ByteLevel.alphabet())
    backend = byte_level({letter: i for i, letter in enumerate(letters)}, [])
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return Tokenizer(backend, TokenizerSettings(bos_token="<s>", eos_token="</s>", templates={"default": TEMPLATE}))


def write(folder, seed=7, **changes):
    """The model in a folder of its own."""
    folder.mkdir(parents=True)
    state = paddle.get_rng_state()
    paddle.seed(seed)
    try:
        model = CausalLM.from_config(CONFIG | changes)
    finally:
        paddle.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def host(data, **sizes):
    return LLMHost(Catalog(Settings(data=data)), Sizes(memory=1 << 22, **sizes))


@contextmanager
def serving(models):
    """The address of a live server over a host."""
    application = FastAPI()
    application.include_router(openai.router(SimpleNamespace(llms=models)))
    with serving_application(application) as port:
        yield f"http://127.0.0.1:{port}/v1"
