"""What a line of predictions says of a row."""

from __future__ import annotations

from bothways.data.labelled import Example, Labels
from bothways.engine.prediction import ClassLines


def test_cells_have_every_label_once_where_a_threshold_decides() -> None:
    lines = ClassLines(Labels("single", ("no", "yes"), thresholds=(0.7, 0.3)), scores=2)
    answer = [{"label": "no", "score": 0.6}, {"label": "yes", "score": 0.4}]
    cells = lines.cells(lines.line(Example("a cat", None, None, "line 1"), answer))
    assert cells == {"label": "yes", "score": 0.4, "label_2": "no", "score_2": 0.6}
