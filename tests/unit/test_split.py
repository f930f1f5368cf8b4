"""What is kept apart to evaluate on goes by what rows say; labels keep their shares; nothing is on both sides."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothways import InputError
from bothways.data.choices import Choice
from bothways.data.labelled import Example
from bothways.data.questions import Question
from bothways.data.split import held_apart
from bothways.data.tagged import Tagged

LABELS = st.one_of(
    st.sampled_from("abc"), st.floats(0, 1), st.lists(st.sampled_from("abc"), max_size=2).map(tuple), st.none()
)
ROWS = st.lists(st.tuples(st.text("xyz", max_size=3), LABELS), min_size=2, max_size=40)


def rows(*labels: str) -> list[Example]:
    return [Example(f"text {i}", None, label, f"line {i}") for i, label in enumerate(labels)]


@given(drawn=ROWS, share=st.floats(0.01, 0.99), salt=st.text(max_size=2), order=st.randoms())
def test_every_row_is_on_one_side_whatever_their_order(
    drawn: list[tuple[str, object]], share: float, salt: str, order: Random
) -> None:
    examples = [Example(text, None, label, f"line {i}") for i, (text, label) in enumerate(drawn)]  # type: ignore[arg-type]
    if len({example.text for example in examples}) < 2:
        with pytest.raises(InputError, match="rows of the same text, of which none can be kept apart"):
            held_apart(examples, share, salt)
        return
    train, held = held_apart(examples, share, salt)
    assert train
    assert held
    assert sorted(e.place for e in train + held) == sorted(e.place for e in examples)
    assert not {e.text for e in train} & {e.text for e in held}
    assert held_apart(order.sample(examples, len(examples)), share, salt) == (train, held)


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=4), share=st.floats(0.05, 0.6), salt=st.text(max_size=2)
)
def test_each_label_gets_its_share(counts: list[int], share: float, salt: str) -> None:
    examples = rows(*(label for label, count in zip("abcd", counts) for _ in range(count)))
    if len(examples) < 2:
        return
    train, held = held_apart(examples, share, salt)
    assert len(held) == min(max(round(share * len(examples)), 1), len(examples) - 1)
    if sum(counts) - len(counts) < len(held):
        return
    assert {e.label for e in train} == {e.label for e in examples}
    if min(counts) >= 20:
        found = Counter(e.label for e in held)
        assert all(abs(found[label] - share * count) <= 1.5 for label, count in zip("abcd", counts))


def test_another_salt_keeps_others_apart() -> None:
    examples = rows(*"ab" * 50)
    assert held_apart(examples, salt="1") != held_apart(examples, salt="2")
    assert held_apart(examples, salt="1") == held_apart(examples, salt="1")


def test_other_kinds_of_examples_are_kept_apart_too() -> None:
    asked = [Question(str(i), f"why {i}?", f"context {i // 5}", ((0, "c"),), f"row {i}") for i in range(50)]
    train, held = held_apart(asked, 0.2)
    assert len(held) == 10
    assert not {question.context for question in train} & {question.context for question in held}
    tagged = [Tagged(f"w {i}", ((0, 1),), ("O",), f"line {i}") for i in range(20)]
    choices = [Choice(f"q {i}", ("a", "b"), 0, f"line {i}") for i in range(20)]
    assert [len(side) for side in (*held_apart(tagged), *held_apart(choices))] == [18, 2, 18, 2]


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError, match="1 row, of which none can be kept apart"):
        held_apart(rows("a"))
    with pytest.raises(InputError, match="0 rows"):
        held_apart(rows())
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match=f"above 0 and below 1, got {share}"):
            held_apart(rows("a", "b"), share)
