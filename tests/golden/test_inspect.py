"""What `inspect` shows is what transformers computes with: attention weights and hidden states of every family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import bothways
from bothways.families import FAMILIES

TEXT = "the cat sat on the red mat, was it un able ? a dog ran to the blue house!"
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 60,
}
DISTANCES = {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}
MARKS = {"pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 3}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", "Bert", SHAPE),
    "roberta": ("roberta", "Roberta", {**SHAPE, "type_vocab_size": 1}),
    "xlm-roberta": ("xlm-roberta", "XLMRoberta", {**SHAPE, "type_vocab_size": 1}),
    "camembert": ("camembert", "Camembert", {**SHAPE, "type_vocab_size": 1}),
    "distilbert": (
        "distilbert",
        "DistilBert",
        {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 60},
    ),
    "albert": ("albert", "Albert", {**SHAPE, "embedding_size": 12}),
    "albert in groups": (
        "albert",
        "Albert",
        {**SHAPE, "num_hidden_layers": 5, "embedding_size": 32, "num_hidden_groups": 3},
    ),
    "electra": ("electra", "Electra", {**SHAPE, "embedding_size": 12}),
    "mpnet": ("mpnet", "MPNet", SHAPE),
    "deberta-v2 without distances": ("deberta-v2", "DebertaV2", SHAPE),
    "deberta-v2 as v3": (
        "deberta-v2",
        "DebertaV2",
        {
            **SHAPE,
            **DISTANCES,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
    ),
    "deberta-v2 with a convolution": (
        "deberta-v2",
        "DebertaV2",
        {**SHAPE, **DISTANCES, "pos_att_type": ["c2p"], "max_relative_positions": 7, "conv_kernel_size": 3},
    ),
    "gpt2": ("gpt2", "GPT2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 60}),
    "modernbert": ("modernbert", "ModernBert", {**SHAPE, **MARKS, "num_hidden_layers": 4, "local_attention": 8}),
}


@torch.no_grad()
def saved(folder: Path, case: str, vocab: list[str]) -> Path:
    """A random small model of transformers, with the words of the tests' vocabulary."""
    _, name, options = CASES[case]
    config = getattr(transformers, f"{name}Config")(vocab_size=len(vocab), **options)
    model = getattr(transformers, f"{name}Model")(config)
    generator = torch.Generator().manual_seed(0)
    for weight, parameter in model.named_parameters():
        parameter.normal_(0.0, 0.15, generator=generator)
        if "orm.weight" in weight or weight.partition("ln_")[2].endswith("weight"):
            parameter.add_(1.0)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def test_every_family_has_its_case() -> None:
    assert {family for family, *_ in CASES.values()} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_attention_and_norms_are_those_of_transformers(
    case: str, new_folder: Callable[[], Path], vocab: list[str]
) -> None:
    folder = saved(new_folder(), case, vocab)
    encoder = bothways.Encoder.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    layers = len(encoder.config.order)
    seen = [bothways.inspect(encoder, TEXT, layer=layer) for layer in range(layers)]
    with torch.inference_mode():
        theirs = model(torch.tensor([seen[0].ids]), output_attentions=True, output_hidden_states=True)
    assert len(theirs.attentions) == layers
    for one, attention in zip(seen, theirs.attentions, strict=True):
        np.testing.assert_allclose(one.attention, attention[0].numpy(), atol=1e-5, rtol=0)
        np.testing.assert_allclose(one.attention.sum(-1), 1.0, atol=1e-5)
    states = torch.stack(theirs.hidden_states)[:, 0]
    np.testing.assert_allclose(seen[0].norms, states.norm(dim=-1).numpy(), atol=1e-4, rtol=1e-5)
    cosines = torch.nn.functional.cosine_similarity(states[:, None], states[None], dim=-1)
    np.testing.assert_allclose(seen[0].similarity, cosines.mean(-1).numpy(), atol=1e-5, rtol=0)
    kept = [cosines[i, i + 1].numpy() for i in range(layers)]
    np.testing.assert_allclose(seen[0].kept, np.stack(kept), atol=1e-5, rtol=0)


def test_a_pair_has_its_segments(new_folder: Callable[[], Path], vocab: list[str]) -> None:
    folder = saved(new_folder(), "bert", vocab)
    seen = bothways.inspect(folder, "the cat sat.", "a dog ran!", layer=1, head=2)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)("the cat sat.", "a dog ran!", return_tensors="pt")
    assert list(seen.ids) == theirs["input_ids"][0].tolist()
    assert list(seen.segments) == theirs["token_type_ids"][0].tolist()
    with torch.inference_mode():
        attention = model(**theirs, output_attentions=True).attentions[1][0, 2]
    np.testing.assert_allclose(seen.attention[0], attention.numpy(), atol=1e-5, rtol=0)


def test_the_rows_of_roberta_start_at_two(new_folder: Callable[[], Path], vocab: list[str]) -> None:
    folder = saved(new_folder(), "roberta", vocab)
    assert bothways.inspect(folder, "the cat").positions == (2, 3, 4, 5)


def test_a_literal_padding_token_of_roberta_stands_at_its_row_and_is_not_counted(
    new_folder: Callable[[], Path], vocab: list[str]
) -> None:
    folder = saved(new_folder(), "roberta", vocab)
    seen = bothways.inspect(folder, "the ☃ cat")  # [UNK] has the number that is RoBERTa's <pad>
    assert (seen.ids[2], seen.positions) == (1, (2, 3, 1, 4, 5))


@pytest.mark.parametrize("case", ["modernbert", "deberta-v2 as v3", "bert"])
def test_positions_count_from_zero_where_no_row_is_padding(
    case: str, new_folder: Callable[[], Path], vocab: list[str]
) -> None:
    assert bothways.inspect(saved(new_folder(), case, vocab), "the ☃").positions == (0, 1, 2, 3)
