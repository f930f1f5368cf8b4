"""What is counted while answers come: the worst mistakes, calibration, thresholds, and a file that grows by parts."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothways import ConfigError, InputError
from bothways.checkpoint.labels import labels_of, said_of
from bothways.cli.charts import most_confused
from bothways.data.labelled import Example, Labels
from bothways.data.split import picked, sampled
from bothways.engine.calibration import Calibration
from bothways.engine.lines import PartialLines
from bothways.engine.mistakes import Mistake, Worst
from bothways.tasks.classify import Outcome, TextClassification
from bothways.tasks.metrics import expected_calibration_error

SCORES = st.lists(st.floats(0, 1, width=32), max_size=60)


@given(SCORES, st.integers(0, 10))
def test_the_worst_mistakes_are_the_first_of_a_stable_sort(scores: list[float], most: int) -> None:
    worst = Worst(most)
    for i, score in enumerate(scores):
        worst.add(Mistake({"row": i}, score))
    expected = sorted(range(len(scores)), key=lambda i: -scores[i])[:most]
    assert [one["row"] for one in worst.ordered()] == expected
    assert worst.count == len(scores)


def test_mistakes_that_are_not_the_worst_take_no_memory() -> None:
    worst, order = Worst(10), random.Random(0)
    tracemalloc.start()
    for _ in range(3000):
        worst.add(Mistake({"text": "x" * 10_000 + str(order.random())}, order.random()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000  # all of them have 30 MB


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=80), st.integers(1, 9))
def test_calibration_does_not_depend_on_how_answers_come(answers: list[tuple[float, bool]], size: int) -> None:
    scores, right = np.array([s for s, _ in answers]), np.array([r for _, r in answers])
    calibration = Calibration()
    for start in range(0, len(answers), size):
        calibration.add(scores[start : start + size], right[start : start + size])
    assert calibration.error == pytest.approx(expected_calibration_error(scores, right))
    bins = list(calibration.bins())
    assert sum(one.answers for one in bins) == calibration.count == len(answers)
    assert sum(one.answers * one.right for one in bins) == pytest.approx(right.sum())
    assert all(one.low - 1e-9 <= one.score <= one.high + 1e-9 for one in bins)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="no numbers"):
        Calibration().add(np.array([0.5, np.nan]), np.array([True, False]))


@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 999))
def test_the_labels_that_are_drawn_have_the_most_frequent_confusion(labels: int, most: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 9, (labels, labels))
    shown = most_confused(counts, most)
    assert shown == sorted(set(shown))
    assert len(shown) == min(labels, most)
    off = counts - np.diag(np.diag(counts))
    if 2 <= most < labels:
        assert off[np.ix_(shown, shown)].max() == off.max()


@given(st.lists(st.text("ab", max_size=3), max_size=25), st.integers(1, 30))
def test_rows_that_come_one_by_one_are_picked_as_those_of_a_list(texts: list[str], most: int) -> None:
    rows = [Example(text, None, None, f"line {i:03}") for i, text in enumerate(texts)]
    assert sampled(iter(rows), most) == list(picked(rows, most))


def test_thresholds_of_a_config_are_read_written_and_heeded() -> None:
    extras = {"id2label": {"0": "a", "1": "b"}, "label_thresholds": [0.25, 1]}
    for problem, truth, right in (
        ("multi_label_classification", np.array([1, 0]), 1.0),  # 0.3 ≥ 0.25, and 0.9 < 1
        ("single_label_classification", 0, 1.0),
    ):
        labels = labels_of({**extras, "problem_type": problem})
        assert labels.thresholds == (0.25, 1.0)
        assert labels_of(said_of(labels)) == labels
        outcomes = [Outcome(truth, np.array([0.3, 0.9], dtype=np.float32))] * 2
        task = TextClassification()
        assert task.metrics(outcomes, labels)["accuracy"] == right
        usual = Labels(labels.kind, labels.names)
        assert task.metrics(outcomes, usual)["accuracy"] == 0.0
        assert task.table(outcomes, labels)["a"].recall == 1.0
        assert task.table(outcomes, usual)["a"].recall == 0.0


@pytest.mark.parametrize("value", [[0.5], [0.5, "x"], "0.5", [True, 0.5], {"a": 1}, [0.5, float("nan")]])
def test_thresholds_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="label_thresholds must be a list of 2 numbers"):
        labels_of({"id2label": {"0": "a", "1": "b"}, "label_thresholds": value})


MADE = {"model": "m", "task": "classify"}


def begun(output: Path, **more: str) -> PartialLines:
    """Two parts written, and then an error."""
    lines = PartialLines(output, MADE | more)
    lines.add(b"one\n", 1, "d1")
    lines.add(b"two\nthree\n", 2, "d3")
    lines.__exit__(RuntimeError, RuntimeError(), None)
    return lines


def test_a_partial_file_is_gone_on_with_behind_its_last_whole_part(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    begun(output)
    with (tmp_path / "out.jsonl.partial").open("ab") as file:
        file.write(b'{"row": 4, "la')  # torn
    with PartialLines(output, MADE, resume=True) as lines:
        assert (lines.rows, lines.digest) == (3, "d3")
        lines.add(b"four\n", 1, "d4")
        assert not output.exists()
    assert output.read_bytes() == b"one\ntwo\nthree\nfour\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_what_a_kill_between_two_writes_leaves_is_gone_on_with(tmp_path: Path) -> None:
    output, said = tmp_path / "out", tmp_path / "out.partial.json"
    begun(output)
    said.unlink()  # the first part was written, but not yet said to be
    with PartialLines(output, MADE, resume=True) as lines:
        assert lines.rows == 0
        lines.add(b"anew\n", 1, "d")
    assert output.read_bytes() == b"anew\n"
    begun(output)
    with PartialLines(output, MADE, resume=True):  # whole but for its name
        pass
    assert output.read_bytes() == b"one\ntwo\nthree\n"


def test_a_partial_file_is_not_lost_or_mixed_with_another(tmp_path: Path) -> None:
    output = tmp_path / "out"
    begun(output)
    kept = (tmp_path / "out.partial").read_bytes()
    with pytest.raises(InputError, match="go on with --resume, or remove it"):
        PartialLines(output, MADE)
    with pytest.raises(InputError, match="another model \\(m, now other\\)"):
        PartialLines(output, MADE | {"model": "other"}, resume=True)
    with PartialLines(output, MADE, resume=True) as first:
        first.add(b"", 0, "d3")
        second = PartialLines(output, MADE, resume=True)
        with pytest.raises(InputError, match="another process"):
            second.add(b"x\n", 1, "x")
    assert kept == b"one\ntwo\nthree\n" == output.read_bytes()
    begun(output)
    (tmp_path / "out.partial").write_bytes(b"o")
    with pytest.raises(InputError, match="shorter than it was"):
        PartialLines(output, MADE, resume=True)


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), PartialLines(tmp_path / "out", MADE):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
