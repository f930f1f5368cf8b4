"""BLEU, chrF and ROUGE: what their libraries say, and by hand where that is short; bad input is one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from bothways.errors import InputError, MissingExtraError
from bothways.tasks.overlap import OVERLAPS, Overlaps, References


def measured(texts: Sequence[str], references: References, names: Sequence[str]) -> dict[str, float]:
    found = Overlaps(names)
    found.add(texts, references)
    return found.values()


TEXTS = ["the cat sat on the mat", "a dog runs", "Er läuft schnell nach Hause ."]
RIGHT = [["the cat is on the mat"], ["the dog runs fast", "a dog is running"], ["Er läuft schnell nach Hause ."]]


def test_bleu_and_chrf_are_those_of_sacrebleu_with_all_references() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    streams = [[right[0] for right in RIGHT], [right[1] if len(right) > 1 else None for right in RIGHT]]
    found = measured(TEXTS, RIGHT, ("bleu", "chrf"))
    assert found == {
        "bleu": pytest.approx(BLEU().corpus_score(TEXTS, streams).score),
        "chrf": pytest.approx(CHRF().corpus_score(TEXTS, streams).score),
    }
    first = measured(TEXTS, [right[:1] for right in RIGHT], ("bleu",))["bleu"]
    assert first != pytest.approx(found["bleu"])  # the second reference counts


@pytest.mark.parametrize("size", [1, 2])
def test_texts_that_come_some_at_a_time_are_measured_as_all_together(size: int) -> None:
    found = Overlaps(tuple(OVERLAPS))
    for at in range(0, len(TEXTS), size):
        found.add(TEXTS[at : at + size], RIGHT[at : at + size])
    found.add([], [])
    assert found.values() == measured(TEXTS, RIGHT, tuple(OVERLAPS))
    with pytest.raises(InputError, match="text 3 has no reference"):
        found.add(["a"], [[]])


def test_bleu_by_hand() -> None:
    """Matches of 1 to 4 words: 4 of 5, 2 of 4, 1 of 3, none of 2, which sacrebleu makes half a match; no shorter."""
    expected = 100 * (4 / 5 * 2 / 4 * 1 / 3 * (0.5 / 2)) ** 0.25
    assert measured(["a b c e d"], [["a b c d f"]], ("bleu",))["bleu"] == pytest.approx(expected)


def test_rouge_by_hand_takes_the_best_reference_and_stems() -> None:
    found = measured(["the dogs ran home"], [["nothing alike", "the dog ran"]], ("rouge",))
    assert found == {
        "rouge1": pytest.approx(2 * (3 / 4) * 1 / (3 / 4 + 1)),
        "rouge2": pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1)),
        "rougeL": pytest.approx(2 * (3 / 4) * 1 / (3 / 4 + 1)),
    }
    both = measured(["the dogs ran home", "x"], [["the dog ran"], ["y"]], ("rouge",))
    assert both["rouge1"] == pytest.approx(found["rouge1"] / 2)


def test_right_texts_are_perfect_and_empty_ones_nothing() -> None:
    right = [["a dog runs home again"], ["two cats sit on a mat"]]
    best = measured([one for (one,) in right], right, tuple(OVERLAPS))
    assert list(best) == ["bleu", "chrf", "rouge1", "rouge2", "rougeL"]
    assert [round(value, 6) for value in best.values()] == [100, 100, 1, 1, 1]
    assert set(measured(["", ""], right, tuple(OVERLAPS)).values()) == {0.0}


@pytest.mark.parametrize(
    ("texts", "references", "names", "said"),
    [
        ([], [], ("bleu",), "no texts to measure"),
        (["a"], [["a"], ["b"]], ("bleu",), "1 texts cannot be compared with references of 2"),
        (["a", "b"], [["a"], []], ("rouge",), "text 1 has no reference"),
        (["a"], [["a"]], ("blue",), "unknown metric 'blue'; known: bleu, chrf, rouge"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    texts: list[str], references: list[list[str]], names: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        measured(texts, references, names)


@pytest.mark.parametrize(("name", "library"), [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rouge", "rouge_score")])
def test_a_missing_library_is_told_with_what_installs_it(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=r'pip install "bothways\[metrics\]"'):
        measured(["a"], [["a"]], (name,))
