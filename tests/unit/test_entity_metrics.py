"""Entities are counted as seqeval counts them, and as one would by hand."""

from __future__ import annotations

import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, classification_report

from bothways.errors import InputError, MissingExtraError
from bothways.tasks.metrics import entity_metrics

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-A-B", "I-A-B"]
ODD = [*TAGS, "NOUN", "B", "I", "E-PER", "S-LOC", "-", "."]


def sentences(tags: list[str]) -> st.SearchStrategy[list[list[tuple[str, str]]]]:
    """Sentences of (true, predicted) tags."""
    tag = st.sampled_from(tags)
    return st.lists(st.lists(st.tuples(tag, tag), max_size=7), max_size=4)


def sides(pairs: list[list[tuple[str, str]]]) -> tuple[list[list[str]], list[list[str]]]:
    return [[one for one, _ in s] for s in pairs], [[one for _, one in s] for s in pairs]


def spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """Entities: B- begins one, I- goes on with the same kind or begins one."""
    found, begun = [], None
    for i, tag in enumerate([*tags, "O"]):
        kind = tag[2:]
        if begun is not None and not (tag.startswith("I-") and kind == begun[0]):
            found.append((*begun, i))
            begun = None
        if tag != "O" and begun is None:
            begun = (kind, i)
    return set(found)


@given(sentences(TAGS))
def test_an_entity_is_right_where_kind_and_both_ends_are(pairs: list[list[tuple[str, str]]]) -> None:
    truth, found = sides(pairs)
    true = {(i, *span) for i, tags in enumerate(truth) for span in spans(tags)}
    said = {(i, *span) for i, tags in enumerate(found) for span in spans(tags)}
    metrics = entity_metrics(truth, found)

    def expected(true: set, said: set) -> dict[str, float]:
        right = len(true & said)
        precision, recall = right / len(said) if said else 0.0, right / len(true) if true else 0.0
        both = precision + recall
        return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / both if both else 0.0}

    for name, value in expected(true, said).items():
        assert metrics[name] == pytest.approx(value)
    kinds = {span[1] for span in true | said}
    assert {name.partition("/")[2] for name in metrics if "/" in name} == kinds
    for kind in kinds:
        own_true, own_said = ({span for span in side if span[1] == kind} for side in (true, said))
        for name, value in expected(own_true, own_said).items():
            assert metrics[f"{name}/{kind}"] == pytest.approx(value)
        assert metrics[f"support/{kind}"] == len(own_true)


@given(sentences(ODD))
def test_metrics_are_seqevals_and_nothing_warns(pairs: list[list[tuple[str, str]]]) -> None:
    truth, found = sides(pairs)
    metrics = entity_metrics([tuple(tags) for tags in truth], found)
    assert all(type(value) is float for value in metrics.values())
    if not any(truth):
        assert set(metrics.values()) == {0.0}
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, found))
        report = classification_report(truth, found, output_dict=True, zero_division=0)
    averages = ("micro avg", "macro avg", "weighted avg")
    for kind, row in report.items():
        if kind == "micro avg":
            assert [metrics[n] for n in ("precision", "recall", "f1")] == [*row.values()][:3]
        elif kind not in averages:
            assert [metrics[f"{n}/{kind}"] for n in ("precision", "recall", "f1", "support")] == [*row.values()]


def test_sentences_of_other_lengths_are_refused() -> None:
    for found in ([["O"]], [["O", "O"], ["O"]]):
        with pytest.raises(InputError, match="lengths differ"):
            entity_metrics([["O", "O"]], found)


def test_without_seqeval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqeval.metrics.sequence_labeling", None)
    with pytest.raises(MissingExtraError, match=r'pip install "bothways\[metrics\]"'):
        entity_metrics([["O"]], [["O"]])
