"""Dropout in heads: where and how much transformers' classes have in training, none in evaluation, and as asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SAVE_FAMILY
from torch import Tensor, nn

from bothways import ConfigError, Encoder, Ragged
from bothways.families import FAMILIES
from bothways.nn import heads as heads_module
from bothways.nn.heads import Classifier
from bothways.train.start import set_dropout

Save = Callable[..., Path]
KINDS = {
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "tag",
    "ForQuestionAnswering": "answer",
    "ForMultipleChoice": "choose",
}
CASES = [(family, kind) for family in FAMILIES for kind in KINDS if SAVE_FAMILY[family].kind(kind) is not None]
HIDDEN = {family: "dropout" if family == "distilbert" else "hidden_dropout_prob" for family in FAMILIES}
HIDDEN["modernbert"] = "mlp_dropout"
OWN: dict[str, Any] = {
    "classifier_dropout": 0.31,
    "classifier_dropout_prob": 0.32,
    "seq_classif_dropout": 0.33,
    "qa_dropout": 0.34,
    "cls_dropout": 0.35,
    "pooler_dropout": 0.36,
    "summary_first_dropout": 0.37,
    "summary_last_dropout": 0.38,
}
OTHERS = {"hidden_dropout": 0.39, "cls_dropout": None}


def theirs(model: nn.Module) -> list[float]:
    """The rates that a class of transformers drops with beyond its base model, in the order of a forward."""
    rates: list[float] = []
    for name, part in model.named_modules():
        if isinstance(part, nn.Dropout) and not name.startswith(f"{model.base_model_prefix}."):
            part.register_forward_hook(lambda part, given, result: rates.append(part.p))
    ids = torch.tensor([[5, 6, 7]])
    model.train()(input_ids=ids[None] if type(model).__name__.endswith("MultipleChoice") else ids)
    return [rate for rate in rates if rate]


def ours(encoder: Encoder, monkeypatch: pytest.MonkeyPatch, head: str) -> list[float]:
    rates: list[float] = []

    def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
        rates.append(p if training else 0.0)
        return x

    monkeypatch.setattr(heads_module, "dropout", dropout)
    last = encoder.network(Ragged.of([[5, 6, 7]])).last
    encoder.heads[head](last)
    found = [rate for rate in rates if rate]
    rates.clear()
    encoder.heads[head].loss(last.data, torch.zeros(3, dtype=torch.int64))
    assert [rate for rate in rates if rate] == found
    return found


@pytest.mark.parametrize("asked", ["nothing", "hidden", "own", "others"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_heads_drop_where_transformers_does(
    save_family: Save, monkeypatch: pytest.MonkeyPatch, family: str, kind: str, asked: str
) -> None:
    keys: dict[str, Any] = {"nothing": {}, "hidden": {HIDDEN[family]: 0.23}, "own": OWN, "others": OTHERS}[asked]
    folder = save_family(family, kind=kind, **keys)
    encoder = Encoder.from_pretrained(folder)
    head = encoder.heads[KINDS[kind]].train()
    expected = theirs(SAVE_FAMILY[family].kind(kind).from_pretrained(folder))
    assert ours(encoder, monkeypatch, KINDS[kind]) == expected
    head.eval()
    assert ours(encoder, monkeypatch, KINDS[kind]) == []


@pytest.mark.parametrize("rate", [0.0, 0.25])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_rate_that_is_asked_for_reaches_heads_and_is_saved(
    save_family: Save, tmp_path: Path, family: str, kind: str, rate: float
) -> None:
    encoder = Encoder.from_pretrained(save_family(family, kind=kind, **(OWN if family != "gpt2" else {})))
    head = encoder.heads[KINDS[kind]]
    assert isinstance(head, Classifier)
    before = (head.dropout, head.dense_dropout)
    set_dropout(encoder.network, None, encoder.heads)
    assert (head.dropout, head.dense_dropout) == before
    set_dropout(encoder.network, rate, encoder.heads)
    expected = tuple(None if one is None else rate for one in before)
    assert (head.dropout, head.dense_dropout) == expected
    encoder.save_pretrained(tmp_path)
    again = Encoder.from_pretrained(tmp_path).heads[KINDS[kind]]
    assert (again.dropout, again.dense_dropout) == expected


def test_in_training_scores_change_by_seed_and_undropped_ones_do_not(save_family: Save) -> None:
    encoder = Encoder.from_pretrained(save_family("roberta", kind="ForSequenceClassification"))
    head, last = encoder.heads["classify"].train(), encoder.network(Ragged.of([[5, 6, 7]] * 4)).last
    assert isinstance(head, Classifier)
    assert not torch.equal(head(last), head(last))
    rows = last.first()
    assert torch.equal(head.undropped(rows), head.eval()(last))


@pytest.mark.parametrize("wrong", [1.5, -0.1, "0.1", True])
def test_a_rate_that_cannot_be_is_one_line(save_family: Save, wrong: Any) -> None:
    folder = save_family("bert", kind="ForTokenClassification")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "classifier_dropout": wrong}))
    with pytest.raises(ConfigError, match=r"config\.json: classifier_dropout must be a number between 0 and 1"):
        Encoder.from_pretrained(folder)
