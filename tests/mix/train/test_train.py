"""Laws of training: packs are their texts, stopped runs are whole runs, answers alone are learned."""

import importlib.util
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix.llm.loading import AutoModelForCausalLM
from mix.llm.tokenizer import AutoTokenizer
from mix.peft import LoRAConfig, LoRAModel, PrefixConfig, PrefixModelForCausalLM, load_adapter
from mix.train.config import DataConfig, TrainConfig
from mix.train.data import messages_of, read
from mix.train.examples import encode
from mix.train.loop import run
from mix.train.loss import batch_loss, recomputing
from mix.train.packing import IGNORED, Batch, Batches, best_fit, packed, padded
from ppdiffusers.training.draws import Draws
from ppdiffusers.training.event import Saved, TrainStep

spec = importlib.util.spec_from_file_location("train_test_small", Path(__file__).with_name("small.py"))
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)


@pytest.fixture
def folder(tmp_path):
    small.write(tmp_path / "model")
    small.data(tmp_path)
    return tmp_path


def examples(tmp_path, count=12):
    records = read([str(small.data(tmp_path, count))])
    return [e for made in encode(records, small.tokenizer(), DataConfig(paths=("x",), length=128)) for e in made]


def steps(events):
    return [(e.step, e.loss, e.norm, e.rate) for e in events if isinstance(e, TrainStep)]


def models():
    """Every way of training, each with something that moves already."""
    yield "full", small.model()
    lora = LoRAModel(small.model(), LoRAConfig(r=3, target_modules="all-linear"))
    for p in lora.trainable_parameters().values():
        p.set_value(p + 0.05)
    yield "lora", lora
    yield "dora", LoRAModel(small.model(), LoRAConfig(r=3, use_dora=True, modules_to_save=["lm_head"]))
    yield "prefix", PrefixModelForCausalLM(small.model(), PrefixConfig(num_virtual_tokens=3))


def trained(model):
    return model.trainable_parameters() if hasattr(model, "trainable_parameters") else dict(model.named_parameters())


def loss_and_grads(model, batch):
    model.train()
    loss = batch_loss(model, batch)
    loss.backward()
    grads = {name: p.grad.numpy() for name, p in trained(model).items() if p.grad is not None}
    for p in trained(model).values():
        p.clear_gradient(False)
    return float(loss), grads


def alike(ours, theirs, near):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.abs(ours[name] - theirs[name]).max() <= near * max(np.abs(theirs[name]).max(), 1e-3), name


# --- packing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "lora", "dora", "prefix"])
def test_a_pack_has_the_loss_and_the_gradients_of_its_texts(kind, tmp_path):
    model, chosen = dict(models())[kind], examples(tmp_path, 5)
    loss, grads = loss_and_grads(model, packed(chosen))
    padded_loss, padded_grads = loss_and_grads(model, padded(chosen))
    assert loss == pytest.approx(padded_loss, rel=1e-5)
    alike(grads, padded_grads, 1e-4)
    counts = [packed([e]).learned for e in chosen]
    alone = [loss_and_grads(model, packed([e])) for e in chosen]
    assert loss == pytest.approx(
        sum(n * one for n, (one, _) in zip(counts, alone, strict=True)) / sum(counts), rel=1e-5
    )
    summed = {n: sum(c * g[n] for c, (_, g) in zip(counts, alone, strict=True)) / sum(counts) for n in grads}
    alike(grads, summed, 1e-4)


def test_the_loss_is_the_one_that_the_model_tells():
    model = small.model()
    ids = paddle.to_tensor(np.random.RandomState(0).randint(0, 250, (2, 9)))
    labels = np.full((2, 9), IGNORED)
    labels[:, :-1] = ids.numpy()[:, 1:]
    batch = Batch(ids.numpy(), labels)
    assert float(batch_loss(model, batch)) == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-5)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(50, 90))
def test_best_fit_places_every_text_once_and_wastes_little(lengths, room):
    rows = best_fit(lengths, room)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= room for row in rows)
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // room) * 1.5 + 1


def test_a_text_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="9 tokens"):
        best_fit([3, 9], 8)


@pytest.mark.parametrize("pack", [True, False])
def test_every_epoch_has_every_text_in_another_order(pack, tmp_path):
    chosen = examples(tmp_path, 20)
    batches = Batches(chosen, Draws(1), pack=pack, tokens=160, batch=3)
    first, second = batches.epoch(0), batches.epoch(1)
    for epoch in (first, second):
        assert sorted(i for row in epoch for i in row) == list(range(len(chosen)))
    assert first != second
    again = Batches(chosen, Draws(1), pack=pack, tokens=160, batch=3)
    assert again.members(len(first)) == second[0]
    assert batches.count(2) == len(first) + len(second)
    assert batches.count(0.5) == round(0.5 * len(first))


# --- recomputing and accumulating -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "lora", "prefix"])
def test_layers_that_compute_again_give_the_same_gradients(kind, tmp_path):
    model, batch = dict(models())[kind], packed(examples(tmp_path, 5))
    loss, grads = loss_and_grads(model, batch)
    with recomputing(getattr(model, "base_model", model)):
        again = loss_and_grads(model, batch)
    assert again[0] == loss
    alike(again[1], grads, 1e-6)


def test_two_batches_are_one_of_twice_the_size(folder):
    once = small.config(folder, out=str(folder / "a"), steps=3, data={"pack": False, "batch": 4})
    twice = small.config(folder, out=str(folder / "b"), steps=3, accumulate=2, data={"pack": False, "batch": 2})
    for one, two in zip(steps(run(once)), steps(run(twice)), strict=True):
        assert two[1] == pytest.approx(one[1], rel=1e-4)
        assert two[2] == pytest.approx(one[2], rel=1e-3)


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "lora", "lora": {"r": 4, "lora_dropout": 0.2, "loraplus_lr_ratio": 4.0}},
        {"method": "full", "rate": 0.003, "accumulate": 2, "average": 0.9, "dtype": "bfloat16"},
        {"method": "prefix", "prefix": {"num_virtual_tokens": 4, "prefix_projection": True}, "recompute": True},
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(folder, settings):
    whole = small.config(folder, out=str(folder / "whole"), **settings)
    parts = small.config(folder, out=str(folder / "parts"), **settings)
    expected = steps(run(whole))
    seen = []
    with closing(run(parts)) as events:
        for event in events:
            seen += steps([event])
            if len(seen) == 3:
                break
    assert (folder / "parts.run" / "state").is_dir()
    seen += steps(run(parts))
    assert seen == expected
    assert result(folder / "whole") == result(folder / "parts")
    logged = [json.loads(line) for line in (folder / "parts.run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in logged] == [1, 2, 3, 4, 5, 6]
    assert (folder / "parts.run" / "loss.png").is_file()


def result(out):
    return next(out.glob("*model.safetensors")).read_bytes()


def test_a_folder_of_another_run_is_refused(folder):
    list(run(small.config(folder, steps=1)))
    with pytest.raises(ValueError, match="rate"):
        list(run(small.config(folder, steps=1, rate=0.02)))
    (folder / "data.jsonl").write_text('{"text": "other words"}\n')
    with pytest.raises(ValueError, match="texts"):
        list(run(small.config(folder, steps=1)))


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_a_run_learns_looks_and_saves_what_others_read(folder):
    settings = {"steps": 30, "evaluate_every": 15, "prompts": ["red0"], "answer": 8, "rate": 0.01}
    events = list(run(small.config(folder, method="full", data={"held_out": 4}, **settings)))
    losses = [e.loss for e in events if isinstance(e, TrainStep)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    looked = [e for e in events if type(e).__name__ == "Evaluated"]
    assert [e.step for e in looked] == [15, 30]
    assert looked[1].loss < looked[0].loss
    assert looked[0].answers[0][0] == "red0"
    assert [e.final for e in events if isinstance(e, Saved) and e.kind == "result"] == [True]
    model = AutoModelForCausalLM.from_pretrained(folder / "out")
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "red0"}], add_generation_prompt=True)["input_ids"]
    said = model.generate(paddle.to_tensor([ids]), max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(said[0, len(ids) :], skip_special_tokens=True).strip() == looked[1].answers[0][1]


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_an_adapter_comes_out_as_peft_has_it(folder, method):
    list(run(small.config(folder, method=method, steps=2, prefix={"num_virtual_tokens": 4})))
    model = load_adapter(AutoModelForCausalLM.from_pretrained(folder / "model"), folder / "out")
    assert isinstance(model, LoRAModel if method == "lora" else PrefixModelForCausalLM)
    plain = AutoModelForCausalLM.from_pretrained(folder / "model")
    ids = paddle.to_tensor([[1, 2, 3]])
    assert bool((model(ids).logits != plain(ids).logits).any())


# --- data -------------------------------------------------------------------------------------------------------------


def test_only_answers_are_learned_up_to_their_end():
    tokenizer, config = small.tokenizer(), DataConfig(paths=("x",))
    talk = [("user", "héllo"), ("assistant", "fine"), ("user", "more"), ("assistant", "çe vrai")]
    record = {"messages": [{"role": role, "content": text} for role, text in talk]}
    ((example,),) = encode([record], tokenizer, config)
    assert tokenizer.decode(example.ids[example.learned]) == "fine<|end|>çe vrai<|end|>"
    ((everything,),) = encode([record], tokenizer, DataConfig(paths=("x",), answers_only=False))
    assert everything.learned.all()
    assert (everything.ids == example.ids).all()
    batch = packed([example])
    assert batch.learned == int(example.learned.sum())
    assert [tokenizer.decode([i]) for i in batch.labels[0][batch.labels[0] != IGNORED]][-1] == "<|end|>"


def test_long_texts_come_in_pieces_and_end_once():
    tokenizer = small.tokenizer()
    ((a, b, c),) = encode([{"text": "x" * 25}], tokenizer, DataConfig(paths=("x",), length=10))
    assert [len(e) for e in (a, b, c)] == [10, 10, 6]
    assert c.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "a", "completion": "b"}, [("user", "a"), ("assistant", "b")]),
        ({"instruction": "a", "input": "", "output": "b"}, [("user", "a"), ("assistant", "b")]),
        ({"instruction": "a", "input": "i", "output": "b"}, [("user", "a\n\ni"), ("assistant", "b")]),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            [("user", "a"), ("assistant", "b")],
        ),
        ({"prompt": [{"role": "system", "content": "s"}], "response": "b"}, [("system", "s"), ("assistant", "b")]),
    ],
)
def test_records_of_many_kinds_are_conversations(record, said):
    assert [(m["role"], m["content"]) for m in messages_of(record)] == said


def test_files_are_found_and_broken_ones_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "1"}\n\n{"text": "2"}\n')
    (tmp_path / "b.json").write_text('[{"text": "3"}]')
    (tmp_path / "c.txt").write_text("4")
    (tmp_path / "state.json").write_text("{}")
    assert [r["text"] for r in read([str(tmp_path)])] == ["1", "2", "3", "4"]
    (tmp_path / "d.jsonl").write_text('{"text": "1"}\n{broken\n')
    with pytest.raises(ValueError, match=r"d\.jsonl, line 2"):
        list(read([str(tmp_path / "d.jsonl")]))
    with pytest.raises(ValueError, match="no file"):
        list(read([str(tmp_path / "nothing")]))
    (tmp_path / "e.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"pyarrow|can't be read"):
        list(read([str(tmp_path / "e.parquet")]))
    with pytest.raises(ValueError, match=r"record 1: .*prompt and completion"):
        list(encode([{"words": 1}], small.tokenizer(), DataConfig(paths=("x",))))
    with pytest.raises(ValueError, match="no message of the assistant"):
        list(encode([{"messages": [{"role": "user", "content": "a"}]}], small.tokenizer(), DataConfig(paths=("x",))))


def test_columns_of_parquet_and_of_the_datasets_library(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra `parquet`)")
    from pyarrow import ipc, parquet

    talks = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}] for i in range(2500)]
    table = arrow.table({"messages": talks, "extra": list(range(2500))})
    parquet.write_table(table, tmp_path / "talks.parquet")
    found = list(read([str(tmp_path / "talks.parquet")]))
    assert [messages_of(record) for record in found] == talks
    folder = tmp_path / "saved"  # as datasets' save_to_disk leaves it
    folder.mkdir()
    for name in ("state.json", "dataset_info.json"):
        (folder / name).write_text("{}")
    with ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=700)
    assert [messages_of(record) for record in read([str(folder)])] == talks
    (tmp_path / "talks.parquet").write_bytes((tmp_path / "talks.parquet").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"talks\.parquet can't be read"):
        list(read([str(tmp_path / "talks.parquet")]))


def test_configs_come_from_json_and_go_back():
    config = TrainConfig.from_dict(
        {"model": "m", "out": "o", "data": {"paths": "d"}, "lora": {"r": 4}, "adamw": {"clip": 0}}
    )
    assert config.data.paths == ("d",)
    assert config.lora.r == 4
    assert TrainConfig.from_dict(config.to_dict()) == config
    for wrong, said in (
        ({"datas": 1}, "datas"),
        ({"lora": {"rank": 1}}, "lora.rank"),
        ({"rate": "fast"}, "rate"),
        ({"data": 3}, "data"),
    ):
        with pytest.raises(ValueError, match=said):
            TrainConfig.from_dict({"model": "m", "out": "o", "data": {"paths": ["d"]}} | wrong)
    with pytest.raises(ValueError, match="train a LoRA"):
        TrainConfig.from_dict({"model": "m", "out": "o", "data": {"paths": ["d"]}, "method": "full", "dtype": "stored"})


def test_another_process_reads_events_as_lines(folder):
    settings = small.config(folder, steps=2).to_dict()
    (folder / "config.json").write_text(json.dumps(settings))
    words = [sys.executable, "-m", "mix.train", str(folder / "config.json"), "--set", "rate=0.001", "--set", "lora.r=2"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["step"] for e in events if e["event"] == "trainstep"] == [1, 2]
    assert events[-1]["event"] == "saved"
    assert LoRAConfig.from_dict(json.loads((folder / "out" / "adapter_config.json").read_text())).r == 2
    again = subprocess.run([*words, "--set", "steps=no"], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert again.returncode == 1
    assert "steps" in again.stderr
