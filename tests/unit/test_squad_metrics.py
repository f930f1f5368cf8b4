"""SQuAD's measures are those of its two scripts, written here once more, one question at a time."""

from __future__ import annotations

import collections
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothways.tasks.metrics import best_null_threshold, marked, squad_metrics

PARTS = (
    "the",
    "a",
    "An",
    "cat",
    "cats",
    "Dog",
    " ",
    "  ",
    "\t",
    ".",
    "!",
    "'s",
    "-",
    "U.S.",
    "A.",
    "é",
    "猫",
    "",
    "5%",
)
TEXTS = st.lists(st.sampled_from(PARTS), max_size=6).map("".join) | st.lists(st.sampled_from(PARTS), max_size=6).map(
    " ".join
)


def normalised(text: str) -> str:
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1_of_version_1(said: str, gold: str) -> float:
    said_words, gold_words = normalised(said).split(), normalised(gold).split()
    same = sum((collections.Counter(said_words) & collections.Counter(gold_words)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(said_words), same / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def f1_of_version_2(said: str, gold: str) -> float:
    said_words, gold_words = normalised(said).split(), normalised(gold).split()
    if not said_words or not gold_words:
        return float(said_words == gold_words)
    return f1_of_version_1(said, gold)


def scored(said: str, golds: tuple[str, ...], version: int) -> tuple[float, float]:
    if version == 2:
        golds = tuple(gold for gold in golds if normalised(gold)) or ("",)
    f1 = {1: f1_of_version_1, 2: f1_of_version_2}[version]
    return max(float(normalised(said) == normalised(gold)) for gold in golds), max(f1(said, gold) for gold in golds)


GOLDS = st.lists(TEXTS, min_size=1, max_size=3).map(tuple)


@given(pairs=st.lists(st.tuples(TEXTS, GOLDS), min_size=1, max_size=6))
def test_files_whose_questions_all_have_answers_are_scored_as_by_version_1(
    pairs: list[tuple[str, tuple[str, ...]]],
) -> None:
    scores = [scored(*pair, 1) for pair in pairs]
    found = squad_metrics(pairs)
    assert found == {
        "em": pytest.approx(sum(em for em, _ in scores) / len(pairs)),
        "f1": pytest.approx(sum(f1 for _, f1 in scores) / len(pairs)),
    }


@given(pairs=st.lists(st.tuples(TEXTS | st.just(""), GOLDS | st.just(())), max_size=6), said=TEXTS)
def test_files_with_questions_that_have_none_are_scored_as_by_version_2(
    pairs: list[tuple[str, tuple[str, ...]]], said: str
) -> None:
    pairs = [*pairs, (said, ())]
    scores = [(bool(golds), *scored(said, golds, 2)) for said, golds in pairs]
    expected = {"em": sum(s[1] for s in scores) / len(pairs), "f1": sum(s[2] for s in scores) / len(pairs)}
    for name, kind in (("has_answer", True), ("no_answer", False)):
        own = [s for s in scores if s[0] == kind]
        if own:
            expected[f"{name}_em"] = sum(s[1] for s in own) / len(own)
            expected[f"{name}_f1"] = sum(s[2] for s in own) / len(own)
    assert squad_metrics(pairs) == pytest.approx(expected)


def find_best_thresh(
    scores: list[float], odds: list[float], answerable: list[bool], answered: list[bool]
) -> tuple[float, float]:
    """As in the script of version 2.0, over numbers in place of ids."""
    current = best = float(sum(1 for can in answerable if not can))
    threshold = 0.0
    for i in sorted(range(len(scores)), key=lambda i: odds[i]):
        current += scores[i] if answerable[i] else -float(answered[i])
        if current > best:
            best, threshold = current, odds[i]
    return best / len(scores), threshold


ONE = st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0, 3.5, 2e9]), *[st.booleans()] * 2)


@given(rows=st.lists(ONE, min_size=1, max_size=12))
def test_the_best_threshold_is_that_of_version_2(rows: list[tuple[float, float, bool, bool]]) -> None:
    marks, odds, answerable, answered = (list(column) for column in zip(*rows))
    assert best_null_threshold(marks, odds, answerable, answered) == find_best_thresh(marks, odds, answerable, answered)
    all_answered = [True] * len(rows)
    assert best_null_threshold(marks, odds, answerable) == find_best_thresh(marks, odds, answerable, all_answered)


def test_nothing_to_score_is_no_error() -> None:
    assert squad_metrics([]) == {"em": 0.0, "f1": 0.0}
    assert best_null_threshold([], [], []) == (0.0, 0.0)


def test_no_answer_is_right_where_there_is_none_and_nowhere_else() -> None:
    assert marked("", ())[:2] == (1.0, 1.0)
    assert marked("the", ())[:2] == (1.0, 1.0)  # as the script has it
    assert marked("cat", ())[:2] == (0.0, 0.0)
    assert marked("", ("cat",)) == (0.0, 0.0, 0.0, 0.0)
    assert marked("The cat!", ("a dog", "cat")) == (1.0, 1.0, 1.0, 1.0)
    assert marked("big cat", ("cat",))[1] == pytest.approx(2 / 3)
