"""GPT-2's row: next tokens with transformers' loss and gradients, by rows that see nothing later; its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_models import SAVE_FAMILY
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

import bothways
from bothways import Encoder, Ragged
from bothways.checkpoint.names import plan
from bothways.cli.main import main
from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.engine.streams import Streams
from bothways.errors import CheckpointError, ConfigError
from bothways.objectives.causal import CausalLanguageModelling, edges
from bothways.objectives.objective import Model
from bothways.objectives.reading import Together
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.settings import ModelSettings, PretrainSettings
from bothways.train.start import starting_encoder
from bothways.train.step import StepResult, evaluate, train_step

Save = Callable[..., Path]
OBJECTIVE = Together((CausalLanguageModelling(),))
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "embd_pdrop": 0.0}
LENGTHS = (20, 17, 17, 9, 5, 3, 2, 1)
SPECIAL = 2


def packed(lengths: Sequence[int], vocab: int = 50, seed: int = 0) -> Packed:
    ids = np.random.default_rng(seed).integers(5, vocab, sum(lengths))
    ends = np.cumsum(lengths)
    special = np.isin(np.arange(len(ids)), [*(ends - 1), *(ends - lengths)])
    ids[special] = SPECIAL
    return Packed(ids, ~special, special, tuple(lengths))


def batch(lengths: Sequence[int], vocab: int = 50, seed: int = 0) -> Batch:
    return OBJECTIVE.corrupt(packed(lengths, vocab, seed), np.random.default_rng(0))


def fresh(folder: Path) -> Model:
    encoder = Encoder.from_pretrained(folder)
    return Model(encoder.network, encoder.heads).train()


def step(model: Model, batches: Sequence[Batch], lr: float = 0.0) -> StepResult:
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.01), AdamSettings(lr=lr))
    return train_step(model, OBJECTIVE, batches, optimizer, Streams(torch.device("cpu")), seed=7, clip=1e9)


def gradients(model: Model) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_bits(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name in some if not some[name].equal(others[name])] == []


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_each_row_but_a_sequences_last_is_asked_for_the_token_behind_it(lengths: list[int]) -> None:
    made = packed([length + 2 for length in lengths] + [1])
    expected, start = [], 0
    for length in made.lengths:
        expected += [(row, made.ids[row + 1]) for row in range(start, start + length - 1)]
        start += length
    asked = OBJECTIVE.corrupt(made, np.random.default_rng(0))
    answers = asked.labels["causal"]
    assert answers.rows is not None
    assert list(zip(answers.rows.tolist(), answers.values.tolist())) == expected
    assert asked.tokens.data.tolist() == made.ids.tolist()
    assert OBJECTIVE.counts(asked) == {"causal": len(expected)}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_loss_and_all_gradients_are_those_of_transformers(save_family: Save, tied: bool) -> None:
    """Ragged here, padded there."""
    folder = save_family("gpt2", kind="ForMaskedLM", tie_word_embeddings=tied, **NO_DROPOUT)
    encoder = Encoder.from_pretrained(folder)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).train()
    asked = batch(LENGTHS, encoder.config.vocab)
    result = step(Model(encoder.network, encoder.heads).train(), [asked])

    def rectangle(x: Tensor, fill: int) -> Tensor:
        rows = list(x.split(list(asked.tokens.layout.lengths)))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)

    ids = asked.tokens.data
    mask, labels = rectangle(torch.ones_like(ids), 0), rectangle(ids, -100)
    said = theirs(input_ids=rectangle(ids, 0), attention_mask=mask, labels=labels)
    said.loss.backward()
    assert result.loss == pytest.approx(said.loss.item(), rel=1e-5)
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    ours = {
        name if module is not encoder.network else f"transformer.{name}": part
        for module, rule in plan(encoder.family, encoder.network, encoder.heads)
        for name, part in rule.parts(module.get_parameter(rule.ours).grad).items()
    }
    assert ours.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5 * largest, rtol=0, msg=name)


def test_no_row_sees_a_later_one(save_family: Save) -> None:
    network = Encoder.from_pretrained(save_family("gpt2", max_position_embeddings=80)).network
    ids = torch.randint(0, network.config.vocab, (80,))
    with torch.inference_mode():
        whole = network(Ragged.of([ids])).last.data
        for length in (1, 2, 17, 33, 79):
            begun = network(Ragged.of([ids[:length]])).last.data
            torch.testing.assert_close(begun, whole[:length], atol=1e-5, rtol=0)


def test_micro_batches_give_the_gradients_of_one_batch(save_family: Save) -> None:
    folder = save_family("gpt2", kind="ForMaskedLM", **NO_DROPOUT)
    one, many = fresh(folder), fresh(folder)
    parts = [packed(lengths, seed=seed) for seed, lengths in enumerate([[24, 20], [3], [1], [7, 6, 2]])]
    names = ("ids", "words", "special")
    joined = Packed(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in names),
        tuple(length for part in parts for length in part.lengths),
    )
    rng = np.random.default_rng(0)
    whole = step(one, [OBJECTIVE.corrupt(joined, rng)])
    split = step(many, [OBJECTIVE.corrupt(part, rng) for part in parts])
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)
    assert split.means["accuracy"] == whole.means["accuracy"]
    expected = gradients(one)
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in gradients(many).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5 * largest, rtol=0, msg=name)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_steps_have_the_same_bits_on_two_threads_and_with_activations_computed_again(
    save_family: Save, dtype: torch.dtype | None
) -> None:
    folder = save_family("gpt2", kind="ForMaskedLM")
    batches = [batch(lengths, seed=seed) for seed, lengths in enumerate([[20, 20, 13], [24, 9, 9, 5], [7, 6]])]
    found = []
    before = torch.get_num_threads()
    try:
        for threads, again in ((1, False), (2, False), (2, True)):
            torch.set_num_threads(threads)
            model = fresh(folder)
            model.network.dtype, model.network.checkpointing = dtype, again
            assert step(model, batches, lr=1e-3).applied
            found.append((gradients(model), dict(model.named_parameters())))
    finally:
        torch.set_num_threads(before)
    for some in found[1:]:
        assert_same_bits(found[0][0], some[0])
        assert_same_bits(found[0][1], some[1])


def test_one_batch_is_learned_by_heart(save_family: Save) -> None:
    """But for what no prefix tells apart: each sequence has a first word of its own."""
    model = fresh(save_family("gpt2", kind="ForMaskedLM", std=0.05, **NO_DROPOUT))
    made = packed([20, 15, 9])
    made.ids[[0, 20, 35]] = [5, 6, 7]
    asked = OBJECTIVE.corrupt(made, np.random.default_rng(0))
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=5e-3, weight_decay=0.0))
    streams = Streams(torch.device("cpu"))
    for number in range(150):
        train_step(model, OBJECTIVE, [asked], optimizer, streams, seed=number, clip=1.0)
    means = evaluate(model, OBJECTIVE, [asked], streams)
    assert means["accuracy"] == 1.0
    assert means["causal"] < 0.05


# Its tokenizer


TEXTS = [
    "Hello world",
    " Hello  world ",
    "\n\t don't  stop\r\n",
    "naïve café – 猫 👩\u200d👧 e\u0301",
    "<|endoftext|>",
    "a<|endoftext|> b",
    "1234 5,678.90!?",
    "",
]


@pytest.fixture
def gpt2(save_family: Save) -> Path:
    """A folder with the files that OpenAI's GPT-2 has: vocab.json and merges.txt, and nothing that says more."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["Hello world, the world stops; don't stop!"] * 9, vocab_size=300, show_progress=False)
    folder = save_family("gpt2", kind="ForMaskedLM", tokenizer=False, vocab_size=320, max_position_embeddings=60)
    trained.save_model(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({**vocab, "<|endoftext|>": len(vocab)}))
    return folder


def test_the_tokenizer_of_vocab_and_merges_adds_nothing_around_a_text(gpt2: Path) -> None:
    ours, theirs = Encoder.from_pretrained(gpt2).tokenizer, transformers.AutoTokenizer.from_pretrained(gpt2)
    assert ours is not None
    for text, encoded in zip(TEXTS, ours.encode(TEXTS)):
        assert encoded.ids == theirs(text)["input_ids"]
        assert not any(encoded.special)
    assert ours.id_of("mask") is None


def test_saved_and_loaded_by_transformers_it_says_the_same(gpt2: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(gpt2)
    encoder.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert encoder.tokenizer is not None
    for text, encoded in zip(TEXTS[:4], encoder.tokenizer.encode(TEXTS[:4])):
        assert encoded.ids == theirs(text)["input_ids"]
        with torch.inference_mode():
            rows = encoder.heads["causal"](encoder.network(Ragged.of([encoded.ids])).last.data)
            torch.testing.assert_close(rows, model(torch.tensor([encoded.ids])).logits[0], atol=1e-4, rtol=0)


def test_a_sequence_begins_and_ends_with_what_the_tokenizer_has(gpt2: Path, save_bert: Save) -> None:
    tokenizer = Encoder.from_pretrained(gpt2).tokenizer
    assert tokenizer is not None
    end = tokenizer.id_of("eos")
    assert edges(tokenizer) == (end, end)
    berts = Encoder.from_pretrained(save_bert()).tokenizer
    assert berts is not None
    assert edges(berts) == (berts.id_of("cls"), berts.id_of("sep"))


def test_a_tokenizer_without_any_such_token_is_refused(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Encoder.from_pretrained(gpt2).tokenizer
    assert tokenizer is not None
    monkeypatch.setattr(type(tokenizer), "id_of", lambda self, role: None)
    with pytest.raises(CheckpointError, match="no bos or cls or eos token"):
        edges(tokenizer)


# Its files


def test_a_file_as_openai_released_it(save_family: Save, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Without the prefix, with each layer's causal mask as a weight; the config says it is a language model."""
    folder = save_family("gpt2", kind="ForMaskedLM", tokenizer=False)
    expected = Encoder.from_pretrained(folder)
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(folder / "model.safetensors").items()}
    masks = {f"h.{i}.attn.bias": torch.ones(24, 24).tril()[None, None] for i in range(2)}
    masks["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    save_file({**tensors, **masks}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    encoder = Encoder.from_pretrained(tmp_path)
    assert set(encoder.heads) == {"causal"}
    assert set(encoder.unused) == set(masks)
    assert encoder.heads["causal"].decoder.weight is encoder.network.embeddings.words.weight
    assert_same_bits(encoder.network.state_dict(), expected.network.state_dict())
    encoder.save_pretrained(tmp_path / "saved")
    assert Encoder.from_pretrained(tmp_path / "saved").unused == ()
    assert not recwarn


def test_an_inner_width_of_null_is_four_times_the_width() -> None:
    from bothways.families.family import config_from_hf
    from bothways.families.gpt2 import GPT2

    config: dict[str, Any] = SAVE_FAMILY["gpt2"].config(hidden_size=12, n_inner=None).to_dict()
    assert config["n_inner"] is None
    assert config_from_hf(GPT2, config)[0].ffn == 48
    assert config_from_hf(GPT2, {key: value for key, value in config.items() if key != "n_inner"})[0].ffn == 48


# What it is not for


def test_masked_words_are_refused_in_a_line(gpt2: Path) -> None:
    with pytest.raises(CheckpointError, match="no masked-language head"):
        bothways.pipeline("fill-mask", gpt2, device="cpu")
    tokenizer = Encoder.from_pretrained(gpt2).tokenizer
    assert tokenizer is not None
    with pytest.raises(ConfigError, match="gpt2 models have no head for it, only for causal; families with one: "):
        starting_encoder(PretrainSettings(ModelSettings("gpt2-tiny")), tokenizer)


def test_inspect_shows_attention_to_what_came_before(gpt2: Path) -> None:
    seen = bothways.inspect(gpt2, "Hello world, don't stop the world")
    assert len(seen) > 5
    assert np.triu(seen.attention, 1).max() == 0.0
    np.testing.assert_allclose(seen.attention.sum(-1), 1.0, atol=1e-5)


def test_the_table_of_inspect_names_no_later_token(gpt2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", str(gpt2), "Hello world", "--head", "mean"])
    lines = capsys.readouterr().out.partition("looks most at")[2].splitlines()
    first, second = (next(line.split() for line in lines if line.split()[:1] == [number]) for number in "01")
    assert first[2:] == ["0", first[1], "1.000"]
    assert len(second) == 2 + 2 * 3
