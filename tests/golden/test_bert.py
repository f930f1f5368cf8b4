"""Random small BERTs of transformers give the same numbers here, whatever their shape and however they were stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from bothways import Encoder, Ragged

CLOSE = {"atol": 1e-4, "rtol": 0.0}
Save = Callable[..., Path]


def oracle(folder: Path, kind: str = "BertModel") -> torch.nn.Module:
    kinds = getattr(transformers, kind)
    return kinds.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def sequences_of_every_length(vocab: int, longest: int, types: int) -> tuple[list[Tensor], list[Tensor]]:
    """Lengths 1 to the longest, shuffled, so that each has all sorts of neighbours."""
    lengths = (torch.randperm(longest) + 1).tolist()
    ids = [torch.randint(0, vocab, (length,)) for length in lengths]
    return ids, [torch.randint(0, types, (length,)) for length in lengths]


SHAPES = {
    "one layer": {"num_hidden_layers": 1},
    "three layers": {"num_hidden_layers": 3},
    "odd head width": {"hidden_size": 28, "num_attention_heads": 4, "intermediate_size": 37},
    "uneven heads": {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 20},
    "one head": {"hidden_size": 17, "num_attention_heads": 1},
    "a head for each column": {"hidden_size": 6, "num_attention_heads": 6},
    "narrow feed-forward": {"intermediate_size": 1},
    "one token type": {"type_vocab_size": 1},
    "three token types": {"type_vocab_size": 3},
    "gelu_new": {"hidden_act": "gelu_new"},
    "gelu_pytorch_tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "relu": {"hidden_act": "relu"},
    "silu": {"hidden_act": "silu"},
    "tanh": {"hidden_act": "tanh"},
    "large epsilon": {"layer_norm_eps": 1e-2},
    "lengths beyond a vector": {"max_position_embeddings": 70},
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_hidden_states_of_every_layer_and_the_pooler_are_those_of_transformers(
    save_bert: Save, shape: dict, seed: int
) -> None:
    folder = save_bert(seed=seed, tokenizer=False, **shape)
    reference, encoder = oracle(folder), Encoder.from_pretrained(folder)
    config = reference.config
    ids, types = sequences_of_every_length(config.vocab_size, config.max_position_embeddings, config.type_vocab_size)
    with torch.inference_mode():
        output = encoder.network(Ragged.of(ids), torch.cat(types), keep=True)
        pooled = encoder.network.pooler(output.last)
        assert len(output.hidden_states) == config.num_hidden_layers + 1
        states = [Ragged(state, output.last.layout).unbind() for state in output.hidden_states]
        for i in range(len(ids)):
            expected = reference(ids[i][None], token_type_ids=types[i][None], output_hidden_states=True)
            for ours, theirs in zip(states, expected.hidden_states, strict=True):
                torch.testing.assert_close(ours[i], theirs[0], **CLOSE)
            torch.testing.assert_close(pooled[i], expected.pooler_output[0], **CLOSE)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shape", ["odd head width", "uneven heads", "one layer", "relu"])
def test_masked_language_logits_are_those_of_transformers(save_bert: Save, shape: str, tied: bool) -> None:
    folder = save_bert(kind="BertForMaskedLM", tie_word_embeddings=tied, tokenizer=False, **SHAPES[shape])
    reference, encoder = oracle(folder, "BertForMaskedLM"), Encoder.from_pretrained(folder)
    config = reference.config
    ids, types = sequences_of_every_length(config.vocab_size, config.max_position_embeddings, config.type_vocab_size)
    with torch.inference_mode():
        hidden = encoder.network(Ragged.of(ids), torch.cat(types)).last
        logits = Ragged(encoder.heads["mlm"](hidden.data), hidden.layout).unbind()
        for ours, sequence, types_of_one in zip(logits, ids, types, strict=True):
            expected = reference(sequence[None], token_type_ids=types_of_one[None]).logits[0]
            torch.testing.assert_close(ours, expected, **CLOSE)


def test_no_types_means_all_of_the_first_type(save_bert: Save) -> None:
    encoder = Encoder.from_pretrained(save_bert(tokenizer=False))
    tokens = Ragged.of([[2, 5, 3], [2, 3]])
    with torch.inference_mode():
        zeros = encoder.network(tokens, torch.zeros(5, dtype=torch.int64)).last.data
        assert torch.equal(encoder.network(tokens).last.data, zeros)


def test_types_of_pairs_reach_the_network(save_bert: Save) -> None:
    folder = save_bert(max_position_embeddings=32)
    reference, encoder = oracle(folder), Encoder.from_pretrained(folder)
    (encoded,) = encoder.tokenizer.encode(["the cat sat"], ["on the mat"])
    theirs = transformers.AutoTokenizer.from_pretrained(folder)("the cat sat", "on the mat", return_tensors="pt")
    with torch.inference_mode():
        ours = encoder.network(Ragged.of([encoded.ids]), torch.tensor(encoded.types)).last.data
        torch.testing.assert_close(ours, reference(**theirs).last_hidden_state[0], **CLOSE)


# How checkpoints are stored. Each entry rewrites the tensors of a saved BertForPreTraining-like file.

OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


def with_old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed


SPELLINGS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "as saved": lambda tensors: tensors,
    "with the prefix": lambda tensors: {f"bert.{name}": t for name, t in tensors.items()},
    "gamma and beta": with_old_names,
    "gamma and beta with the prefix": lambda ts: {f"bert.{name}": t for name, t in with_old_names(ts).items()},
    "with position_ids": lambda tensors: {**tensors, "embeddings.position_ids": torch.arange(24)[None]},
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_weight_names_loads_to_the_same_network(save_bert: Save, spell: Callable) -> None:
    folder = save_bert(tokenizer=False)
    expected = Encoder.from_pretrained(folder).network.state_dict()
    save_file(spell(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    loaded = Encoder.from_pretrained(folder).network.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_checkpoint_stored_in_another_precision_is_computed_in_fp32(save_bert: Save, dtype: torch.dtype) -> None:
    folder = save_bert(dtype=dtype, kind="BertForMaskedLM", tokenizer=False)
    reference, encoder = oracle(folder, "BertForMaskedLM"), Encoder.from_pretrained(folder)
    assert {p.dtype for p in encoder.network.parameters()} == {torch.float32}
    ids = torch.randint(0, reference.config.vocab_size, (9,))
    with torch.inference_mode():
        ours = encoder.heads["mlm"](encoder.network(Ragged.of([ids])).last.data)
        torch.testing.assert_close(ours, reference(ids[None]).logits[0], **CLOSE)


PARTS = {
    "BertModel": (True, False, ()),
    "BertForMaskedLM": (False, True, ()),
    "BertForPreTraining": (True, True, ("cls.seq_relationship.",)),
    "BertForSequenceClassification": (True, False, ("classifier.",)),
    "BertForTokenClassification": (False, False, ("classifier.",)),
    "BertForQuestionAnswering": (False, False, ("qa_outputs.",)),
    "BertForNextSentencePrediction": (True, False, ("cls.seq_relationship.",)),
}


@pytest.mark.parametrize("kind", PARTS)
def test_parts_a_checkpoint_has_are_loaded_and_weights_of_other_heads_are_reported(save_bert: Save, kind: str) -> None:
    pooler, head, unused = PARTS[kind]
    folder = save_bert(kind=kind, tokenizer=False)
    encoder = Encoder.from_pretrained(folder)
    assert (encoder.network.pooler is not None) == pooler
    assert set(encoder.heads) == ({"mlm"} if head else set())
    stored = load_file(folder / "model.safetensors")
    assert sorted(encoder.unused) == sorted(name for name in stored if unused and name.startswith(unused))
    reference = oracle(folder, kind)
    ids = torch.randint(0, encoder.config.vocab, (7,))
    with torch.inference_mode():
        theirs = getattr(reference, "bert", reference)(ids[None]).last_hidden_state[0]
        torch.testing.assert_close(encoder.network(Ragged.of([ids])).last.data, theirs, **CLOSE)


def test_a_tied_head_may_repeat_the_shared_weights_in_its_file(save_bert: Save) -> None:
    folder = save_bert(kind="BertForMaskedLM", tokenizer=False)
    tensors = load_file(folder / "model.safetensors")
    words = tensors["bert.embeddings.word_embeddings.weight"]
    repeated = {
        "cls.predictions.decoder.weight": words.clone(),
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone(),
    }
    save_file({**tensors, **repeated}, folder / "model.safetensors")
    encoder = Encoder.from_pretrained(folder)
    assert encoder.heads["mlm"].decoder.weight is encoder.network.embeddings.words.weight
    assert set(encoder.unused) <= set(repeated)


def test_keys_that_an_old_config_leaves_out_have_berts_defaults(save_bert: Save) -> None:
    folder = save_bert(tokenizer=False, max_position_embeddings=512)
    config = json.loads((folder / "config.json").read_text())
    for key in ("hidden_act", "layer_norm_eps", "type_vocab_size", "initializer_range", "max_position_embeddings"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    reference, encoder = oracle(folder), Encoder.from_pretrained(folder)
    ids = torch.randint(0, encoder.config.vocab, (30,))
    with torch.inference_mode():
        ours = encoder.network(Ragged.of([ids])).last.data
        torch.testing.assert_close(ours, reference(ids[None]).last_hidden_state[0], **CLOSE)
