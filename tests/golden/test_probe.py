"""The probe against scikit-learn called directly on transformers' hidden states; and its laws."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bothways import Encoder, InputError, MissingExtraError
from bothways.data.labelled import Example, Labels
from bothways.engine.probe import PAIRS, STRENGTHS, FrozenFeatures, ProbeResult, ProbeSettings, probe
from bothways.tasks.metrics import classification_metrics, regression_metrics

ANIMALS, PLACES = ("cat", "dog", "猫"), ("on the mat", "to the house", "to a red house", "on a blue mat")


def rows(count: int, seed: int, pairs: bool = False) -> list[Example]:
    """Sentences labelled with the animal that did it."""
    chance = random.Random(seed)
    found = []
    for i in range(count):
        animal, place = chance.choice(ANIMALS), chance.choice(PLACES)
        text = f"{chance.choice(('the', 'a'))} {animal} {chance.choice(('sat', 'ran'))} {place} {i % 97}"
        second = f"{animal} was {place}" if pairs else None
        found.append(Example(text, second, animal, f"row {i}"))
    return found


def scored(examples: list[Example]) -> list[Example]:
    return [replace(e, label=len(e.text) / 3 + (e.label == "cat") + i % 5 / 10) for i, e in enumerate(examples)]


@pytest.fixture(scope="module")
def folder(save_bert: Callable[..., Path]) -> Path:
    return save_bert(max_position_embeddings=40)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder.from_pretrained(folder)


def ask(encoder: Encoder, train: list[Example], held: list[Example] | None, **options: Any) -> ProbeResult:
    batch_tokens = options.pop("batch_tokens", None)
    features = FrozenFeatures(encoder, ProbeSettings(**options), batch_tokens=batch_tokens)
    return probe(features, train, held, Labels.of(train))


@torch.inference_mode()
def transformers_states(
    folder: Path, texts: list[str], pairs: list[str] | None, pooling: str, layer: int | str = -1
) -> np.ndarray:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    found = []
    for i, text in enumerate(texts):
        encoded = tokenizer(text, None if pairs is None else pairs[i], return_tensors="pt")
        every = torch.cat(model(**encoded, output_hidden_states=True).hidden_states)
        states = every.mean(0) if layer == "mean" else every[layer]
        found.append((states.mean(0) if pooling == "mean" else states[0]).numpy())
    return np.stack(found)


def transformers_features(folder: Path, examples: list[Example], pairs: str, pooling: str) -> np.ndarray:
    texts, seconds = [e.text for e in examples], [e.text_pair or "" for e in examples]
    if examples[0].text_pair is None:
        return transformers_states(folder, texts, None, pooling)
    joint = transformers_states(folder, texts, seconds, pooling)
    u, v = (transformers_states(folder, side, None, pooling) for side in (texts, seconds))
    return {
        "together": joint,
        "apart": np.hstack([u, v, abs(u - v), u * v]),
        "both": np.hstack([joint, u, v, abs(u - v), u * v]),
    }[pairs]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("pairs", ["", *PAIRS])
def test_features_are_those_of_transformers(folder: Path, encoder: Encoder, pairs: str, pooling: str) -> None:
    examples = rows(9, 1, pairs=bool(pairs))
    settings = ProbeSettings(pooling=pooling, pairs=pairs or None)
    expected = transformers_features(folder, examples, pairs, pooling)
    np.testing.assert_allclose(FrozenFeatures(encoder, settings).of(examples), expected[None], atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "given"), [("last", [2]), (0, [0]), (1, [1]), ("mean", ["mean"]), ("best", [0, 1, 2])]
)
def test_each_layer_is_that_of_transformers(
    folder: Path, encoder: Encoder, layer: int | str, given: list[int | str]
) -> None:
    examples = rows(9, 1)
    features = FrozenFeatures(encoder, ProbeSettings(layer=layer))
    expected = [transformers_states(folder, [e.text for e in examples], None, "mean", one) for one in given]
    np.testing.assert_allclose(features.of(examples), np.stack(expected), atol=1e-5)
    assert list(features.layers) == [None if one == "mean" else one for one in given]


def test_the_best_layer_is_the_one_that_held_out_training_rows_are_read_off_best(encoder: Encoder) -> None:
    """Labels for the evaluation alone to be surprised by: they say nothing about the choice."""
    train = rows(150, 15)
    surprising = [replace(e, label=ANIMALS[ANIMALS.index(str(e.label)) - 1]) for e in rows(50, 16)]
    best = ask(encoder, train, rows(50, 16), layer="best")
    (run,) = best.runs
    assert ask(encoder, train, rows(50, 16), layer=run.layer).means == best.means
    assert ask(encoder, train, surprising, layer="best").runs[0].layer == run.layer
    assert best.width == encoder.config.width


def test_layers_that_are_not_there_are_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"layer must be between 0 \(the embeddings\) and the model's 2, got 3"):
        FrozenFeatures(encoder, ProbeSettings(layer=3))
    with pytest.raises(InputError, match="unknown layer 'first'; known: last, mean, best, or a number"):
        ProbeSettings(layer="first")


@pytest.mark.parametrize("paired", [False, True])
def test_labels_are_read_off_as_scikit_learn_reads_them(folder: Path, encoder: Encoder, paired: bool) -> None:
    train, held = rows(120, 2, paired), rows(60, 3, paired)
    result = ask(encoder, train, held)
    x, asked = (transformers_features(folder, part, "apart", "mean") for part in (train, held))
    truth = [e.label for e in held]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=result.runs[0].strength, max_iter=200))
    predicted = model.fit(x, [e.label for e in train]).predict(asked)
    assert result.means == pytest.approx(
        {
            "accuracy": accuracy_score(truth, predicted),
            "macro_f1": f1_score(truth, predicted, average="macro"),
            "mcc": matthews_corrcoef(truth, predicted),
        },
        abs=0.02,
    )
    assert result.means["accuracy"] > (result.majority or 0) + 0.2
    assert (result.rows, result.evaluated, result.width) == (120, 60, x.shape[1])


def test_numbers_are_read_off_as_scikit_learn_reads_them(folder: Path, encoder: Encoder) -> None:
    train, held = scored(rows(120, 4)), scored(rows(60, 5))
    result = ask(encoder, train, held)
    x, asked = (transformers_features(folder, part, "", "mean") for part in (train, held))
    model = make_pipeline(StandardScaler(), Ridge(alpha=1 / result.runs[0].strength))
    predicted = model.fit(x, [float(e.label) for e in train]).predict(asked)  # type: ignore[arg-type]
    truth = [float(e.label) for e in held]  # type: ignore[arg-type]
    expected = {"pearson": pearsonr(truth, predicted)[0], "spearman": spearmanr(truth, predicted)[0]}
    assert result.means == pytest.approx(expected, abs=1e-3)
    assert result.means["pearson"] > 0.5
    assert result.majority is None


@pytest.mark.parametrize("make", [rows, lambda n, seed: scored(rows(n, seed)), lambda n, seed: rows(n, seed, True)])
def test_neither_the_order_of_rows_nor_the_size_of_batches_changes_a_bit(encoder: Encoder, make: Any) -> None:
    train, held = make(90, 6), make(30, 7)
    shuffled = random.Random(8).sample(train, len(train))
    for evaluation in (held, None):
        expected = ask(encoder, train, evaluation)
        assert ask(encoder, shuffled, evaluation and evaluation[::-1], batch_tokens=40) == expected


def test_each_seed_keeps_other_rows_aside(encoder: Encoder) -> None:
    result = ask(encoder, rows(100, 9), None, seeds=3)
    assert [run.seed for run in result.runs] == [0, 1, 2]
    assert result.rows + result.evaluated == 100
    assert len({run.metrics["accuracy"] for run in result.runs}) > 1
    assert result.means["accuracy"] == pytest.approx(np.mean([run.metrics["accuracy"] for run in result.runs]))
    assert result.spreads["accuracy"] == pytest.approx(np.std([run.metrics["accuracy"] for run in result.runs]))
    assert {run.strength for run in result.runs} <= set(STRENGTHS)


def test_a_row_of_every_label_that_has_two_is_kept_aside(encoder: Encoder) -> None:
    rare = [Example(f"the {ANIMALS[i // 4 % 3]} {i // 4} ran {i}", None, f"rare {i // 4}", "") for i in range(40)]
    alone = Example("a bird sang", None, "alone", "")
    result = ask(encoder, [*(replace(e, label="common") for e in rows(60, 17)), *rare, alone], None, seeds=2)
    assert (result.evaluated, result.asked, len(result.labels.names)) == (12 + 10, 11, 12)
    assert result.means["macro_f1"] < result.means["accuracy"] < 1.0


def test_with_rows_to_evaluate_on_all_others_are_learnt_from_whatever_the_seed(encoder: Encoder) -> None:
    result = ask(encoder, rows(60, 18), rows(30, 19), seeds=3)
    assert (result.rows, result.evaluated) == (60, 30)
    by_choice = {(run.layer, run.strength): run.metrics for run in result.runs}
    assert all(run.metrics == by_choice[run.layer, run.strength] for run in result.runs)


@pytest.mark.parametrize(("offset", "scale"), [(1.7e9, 1.0), (0.0, 1e-12), (-1e6, 1e3), (0.0, 1e39), (1e100, 1e90)])
def test_neither_the_size_of_scores_nor_where_they_begin_matters(encoder: Encoder, offset: float, scale: float) -> None:
    train, held = scored(rows(90, 20)), scored(rows(40, 21))
    expected = ask(encoder, train, held).means
    moved = [[replace(e, label=offset + scale * float(e.label)) for e in part] for part in (train, held)]  # type: ignore[arg-type]
    assert ask(encoder, *moved).means == pytest.approx(expected, abs=0.02)  # other rows are held out


def test_scores_that_cannot_be_computed_with_are_refused(encoder: Encoder) -> None:
    train = scored(rows(40, 22))
    for most in (1.5e308, 1e200):
        far = [replace(e, label=i / 39 * most) for i, e in enumerate(train)]
        with pytest.raises(InputError, match=rf"scores from 0 to {most:g} cannot be computed with".replace("+", r"\+")):
            ask(encoder, far, None)
    with pytest.raises(InputError, match=r"scores from .* to 1e\+200 cannot be computed with .*; scale them"):
        ask(encoder, train, [replace(train[0], label=1e200)])


def test_a_causal_model_is_not_asked_for_its_first_token(save_family: Callable[..., Path]) -> None:
    encoder = Encoder.from_pretrained(save_family("gpt2"))
    with pytest.raises(InputError, match="'cls' takes the first token, which in a causal model has seen no other"):
        FrozenFeatures(encoder, ProbeSettings(pooling="cls"))
    for pooling in ("mean", "lasttoken"):
        assert ask(encoder, rows(60, 23), None, pooling=pooling, layer="best").means["accuracy"] > 0.5


def test_the_encoder_is_left_as_it_was_and_may_go_on_being_trained(folder: Path) -> None:
    encoder = Encoder.from_pretrained(folder)
    encoder.network.train()
    before = {name: p.clone() for name, p in encoder.network.named_parameters()}
    features = FrozenFeatures(encoder, ProbeSettings())
    examples = rows(5, 10)
    first = features.of(examples)
    assert encoder.network.training
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in encoder.network.named_parameters())
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(features.of(examples), first)


def test_what_the_probe_cannot_do_is_said(encoder: Encoder) -> None:
    train = rows(40, 11)
    mixed = [*train, *rows(1, 12, pairs=True)]
    with pytest.raises(InputError, match="row 0: two texts, other than in the rows before"):
        ask(encoder, mixed, None)
    with pytest.raises(InputError, match="row 0: one text, other than in the rows before"):
        ask(encoder, rows(2, 12, pairs=True) + train, None)
    with pytest.raises(InputError, match=r"row 1, column 'label': unknown label 'fish'"):
        ask(encoder, train, [train[0], Example("a fish", None, "fish", "row 1")])
    with pytest.raises(InputError, match="one label a row"):
        ask(encoder, [replace(e, label=(str(e.label),)) for e in train], None)
    with pytest.raises(InputError, match="pairs 'both' needs two texts a row"):
        ask(encoder, train, None, pairs="both")
    many = [replace(e, label=f"label {i // 2}") for i, e in enumerate(rows(2002, 12))]
    with pytest.raises(InputError, match="column 'label': 1,001 labels are more than the 1,000"):
        ask(encoder, many, None)
    with pytest.raises(InputError, match="too few"):
        ask(encoder, rows(4, 13), None)
    with pytest.raises(InputError, match="no rows"):
        probe(FrozenFeatures(encoder, ProbeSettings()), [], None, Labels.of(train))
    for options, words in (
        ({"pooling": "first"}, "unknown pooling 'first'; known: cls"),
        ({"pairs": "side"}, "unknown pairs 'side'; known: together"),
        ({"seeds": 0}, "seeds"),
        ({"max_length": 41}, "max_length must be between 1 and the model's 40"),
        ({"batch_tokens": 0}, "batch_tokens"),
    ):
        with pytest.raises(InputError, match=words):
            ask(encoder, train, None, **options)


def test_without_scikit_learn_the_line_that_installs_it_is_said(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"bothways\[metrics\]"):
        ask(encoder, rows(40, 14), None)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30))
def test_metrics_of_labels_are_those_of_their_definitions(drawn: list[tuple[int, int]]) -> None:
    truth, predicted = (np.array(side) for side in zip(*drawn))
    found = classification_metrics(truth, predicted)
    scores = []
    for label in set(truth):
        hits = sum((truth == label) & (predicted == label))
        scores.append(2 * hits / (sum(truth == label) + sum(predicted == label)))
    assert found["accuracy"] == pytest.approx(np.mean(truth == predicted))
    assert found["macro_f1"] == pytest.approx(np.mean(scores))
    assert -1 <= found["mcc"] <= 1
    assert classification_metrics(truth, truth)["macro_f1"] == 1.0


def test_metrics_of_constants_are_nought() -> None:
    assert regression_metrics(np.array([1.0, 2.0, 3.0]), np.ones(3)) == {"pearson": 0.0, "spearman": 0.0}
    assert classification_metrics(np.array([0, 1, 1]), np.zeros(3))["mcc"] == 0.0
    assert regression_metrics(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 9.0]))["spearman"] == pytest.approx(1.0)
