"""A run as its folder tells of it, and what a picture shows of it: as values, not as pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bothways import ConfigError, InputError
from bothways.train.curves import COLOURS, Panel, _limits, _look, draw, panels, plot_curves, smoothed, title_of
from bothways.train.history import LOSSES, History, Point, best_of, differing, read_history, unique_names

Write = Callable[..., Path]
SETTINGS = {"model": {"preset": "bert-mini", "start": None}, "objective": {"objectives": ["mlm"]}, "step": {"steps": 8}}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """(name, *rows, settings) → a run's folder with that log."""

    def written(name: str, *rows: Any, settings: Any = SETTINGS) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if settings is not None:
            (folder / "settings.json").write_text(json.dumps(settings))
        return folder

    return written


def step(number: int, **means: float | None) -> dict[str, Any]:
    return {"step": number, "tokens": 10 * number, "loss": 1.0, "lr": 0.1, "gradient": 2.0, **means}


def held(number: int, **means: float | None) -> dict[str, Any]:
    return {"step": number, "held_out": means}


MLM = [
    step(1, mlm=9.0, accuracy=0.0),
    {**step(2, mlm=800.0), "skipped": True},
    step(3, mlm=None, accuracy=math.inf),
    step(3, mlm=10**400, accuracy=-1e101),
    step(4, mlm=5.0, accuracy=0.3),
    held(4, mlm=6.0, accuracy=0.2, pseudo_perplexity=math.exp(6.0)),
    step(8, mlm=4.0, accuracy=0.4),
    held(8, mlm=7.0, accuracy=0.1, pseudo_perplexity=math.exp(7.0)),
]
NSP = [step(4, mlm=5.0, nsp=0.6, accuracy=0.3, nsp_accuracy=0.7), held(6, mlm=3.0, nsp=0.5, nsp_accuracy=0.8)]
CAUSAL = [step(4, causal=5.0, accuracy=0.5), held(4, causal=4.0, accuracy=0.6, perplexity=math.exp(4.0))]


def test_a_run_is_told_by_its_log_and_settings(write: Write) -> None:
    folder = write("run", *MLM)
    (folder / "checkpoints" / "step-00000004").mkdir(parents=True)
    save_file({"a": np.zeros((3, 4)), "b": np.zeros(5)}, folder / "checkpoints" / "step-00000004" / "model.safetensors")
    run = read_history(folder)
    assert (run.objectives, run.model, run.parameters) == (("mlm",), "bert-mini", 17)
    assert (run.steps, run.tokens, run.planned) == (8, 80, 8)
    assert run.training["mlm"] == (Point(1, 10, 9.0), Point(4, 40, 5.0), Point(8, 80, 4.0))
    assert run.held_out["mlm_accuracy"] == (Point(4, 40, 0.2), Point(8, 80, 0.1))
    assert set(run.held_out) == {"mlm", "mlm_accuracy", "pseudo_perplexity"}


def test_without_settings_the_log_tells_the_objectives(write: Write) -> None:
    run = read_history(write("run", *NSP, settings=None))
    assert (run.objectives, run.model, run.parameters, run.planned) == (("mlm", "nsp"), None, None, None)
    odd = read_history(write("odd", *NSP, settings={"model": 3, "step": {"steps": "many"}, "objective": {}}))
    assert (odd.objectives, odd.model, odd.planned) == (("mlm", "nsp"), None, None)


def test_tokens_of_an_evaluation_that_does_not_say_them_are_in_proportion(write: Write) -> None:
    early, late = (held(number, mlm=1.0) for number in (2, 12))
    run = read_history(write("run", early, step(4, mlm=1.0), {**held(6, mlm=1.0), "tokens": 100}, late))
    assert [point.tokens for point in run.held_out["mlm"]] == [20, 100, 280]
    assert read_history(write("none", held(5, mlm=1.0))).held_out["mlm"] == (Point(5, 0, 1.0),)


def test_the_best_is_the_lowest_loss_and_the_highest_share(write: Write) -> None:
    run = read_history(write("run", *MLM))
    told = {metric: best_of(metric, curve) for metric, curve in run.held_out.items()}
    assert {metric: (best.value, best.step) for metric, best in told.items() if best} == {
        "mlm": (6.0, 4),
        "mlm_accuracy": (0.2, 4),
        "pseudo_perplexity": (pytest.approx(math.exp(6.0)), 4),
    }
    assert best_of("replaced", run.held_out["mlm"]) is None


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("", "no step is logged yet"),
        ('{"step": 1}\n{"step": 2\n{"step": 3}\n', "line 2 is not JSON"),
        ('{"step": "x"}\n', "damaged"),
        ('{"step": -1}\n', "damaged"),
        ('{"step": 1, "tokens": null}\n', "damaged"),
        ('{"step": 1, "held_out": [1]}\n', "damaged"),
        ('{"step": 7, "mlm": "low"}\n', 'mlm is "low" at step 7'),
        ('{"step": 7, "held_out": {"mlm": {}}}\n', "mlm is {} at step 7"),
        ('{"step": 1' + "0" * 5000 + "}\n\n", "line 1 is not JSON"),
        ("[" * 100_000 + "\n\n", "line 1 is not JSON"),
        ("nothing like a log\n\n", "line 1 is not JSON"),
    ],
)
def test_a_log_that_is_no_log_is_one_line(tmp_path: Path, log: str, says: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(log)
    with pytest.raises(InputError) as error:
        read_history(tmp_path)
    assert says in str(error.value)
    assert str(tmp_path / "metrics.jsonl") in str(error.value)


def test_a_log_or_settings_that_cannot_be_read_are_one_line(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no such file; name the folder of a run"):
        read_history(tmp_path)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_history(tmp_path)
    folder = write("run", *MLM)
    (folder / "settings.json").write_text("{")
    with pytest.raises(ConfigError, match=r"settings.json: not JSON"):
        read_history(folder)
    monkeypatch.setattr("bothways.train.history.MOST_LOG_BYTES", 100)
    with pytest.raises(InputError, match="more than 100 bytes"):
        read_history(folder)


def test_weights_that_are_not_whole_leave_the_parameters_unknown(write: Write) -> None:
    folder = write("run", *MLM)
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(b"\0" * 9)
    assert read_history(folder).parameters is None


def test_names_are_as_long_as_it_takes_to_tell_them_apart() -> None:
    folders = [Path(name) for name in ("/a/x/run", "/b/x/run", "/a/other", "/b/y/run")]
    assert unique_names(folders) == ["a/x/run", "b/x/run", "other", "y/run"]


def test_runs_held_out_otherwise_are_told(write: Write) -> None:
    one, two = (
        read_history(write(f"{rate}", *MLM, settings={"masking": {"rate": rate, "unit": "word"}, "run": 3}))
        for rate in (0.15, 0.4)
    )
    assert differing([one, two, read_history(write("none", *MLM, settings=None))]) == {"rate": [0.15, 0.4]}


def test_a_corpus_is_known_by_what_it_is_not_by_where_it_lies(write: Write) -> None:
    places = {"here": "a", "moved": "a", "other": "b"}
    runs = {
        name: read_history(write(name, *MLM, settings={"corpus": {"corpus": name, "identity": identity}}))
        for name, identity in places.items()
    }
    assert differing([runs["here"], runs["moved"]]) == {}
    assert differing(runs.values()) == {"corpus": ["a", "b"]}


def test_runs_that_write_are_compared_by_the_rows_held_out_and_how_they_are_asked(write: Write) -> None:
    rows = step(1, words=3.0), held(1, loss=2.5, bleu=16.0)

    def run(name: str, identity: str, held_out: str, beams: int = 1) -> Any:
        corpus = {"identity": identity, "held": held_out}
        settings = {"source": {"model": f"models/{name}"}, "corpus": corpus, "judging": {"num_beams": beams}}
        return read_history(write(name, *rows, settings=settings))

    first = run("first", "a", "h")
    assert first.model == "from first"
    assert differing([first, run("of other rows", "b", "h")]) == {}
    assert differing([first, run("held apart otherwise", "a", "i")]) == {"corpus": ["h", "i"]}
    assert differing([first, run("searched", "a", "h", 4)]) == {"num_beams": [1, 4]}


def test_pairs_are_other_sequences_than_single_texts(write: Write) -> None:
    assert differing([read_history(write(name, *MLM, settings=None)) for name in ("a", "b")]) == {}
    runs = [read_history(write("single", *MLM, settings=None)), read_history(write("pairs", *NSP, settings=None))]
    assert differing(runs) == {"sequences": ["single", "pairs"]}


def shown(*panels: Panel) -> dict[str, list[str]]:
    return {panel.metric: [line.run for line in panel.lines] for panel in panels}


def test_what_runs_share_is_in_one_panel_and_a_loss_of_one_in_its_own(write: Write) -> None:
    runs = {name: read_history(write(name, *rows)) for name, rows in {"a": MLM, "b": NSP, "c": CAUSAL}.items()}
    drawn = panels(runs)
    assert shown(*drawn) == {"mlm": ["a", "b"], "nsp": ["b"], "causal": ["c"], "mlm_accuracy": ["a", "b"]}
    assert [line.number for line in drawn[0].lines] == [0, 1]
    (nsp,) = drawn[1].lines
    assert (nsp.training, nsp.held_out) == (((4, 0.6),), ((6, 0.5),))
    assert panels(runs, "tokens")[1].lines[0].held_out == ((60, 0.5),)
    assert shown(*panels({"b": runs["b"]})) == {key: ["b"] for key in ("mlm", "nsp", "nsp_accuracy", "mlm_accuracy")}
    told = {"rtd": 0.2, "flagged": 0.1, "found": 0.1, "rtd_recall": 0.5}
    found = read_history(write("rtd", step(1, **told), held(1, **told)))
    assert shown(*panels({"d": found})) == {"rtd": ["d"], "rtd_recall": ["d"]}


def test_what_a_generator_s_words_come_to_is_not_beside_an_encoder_s(write: Write) -> None:
    told = {"rtd": 0.2, "mlm": 5.0, "accuracy": 0.2, "pseudo_perplexity": math.exp(5.0)}
    runs = {"a": read_history(write("a", *MLM)), "d": read_history(write("d", step(4, **told), held(4, **told)))}
    assert set(runs["d"].held_out) == {"rtd", "generator", "generator_accuracy", "generator_perplexity"}
    losses = {key: names for key, names in shown(*panels(runs)).items() if key in LOSSES}
    assert losses == {"mlm": ["a"], "rtd": ["d"], "generator": ["d"]}
    bare = read_history(write("bare", step(4, **told), settings=None))
    assert bare.objectives == ("rtd",)


def test_what_a_run_does_not_heed_is_no_difference(write: Write) -> None:
    def run(name: str, objectives: list[str], negatives: str, rate: float = 0.15) -> History:
        said = {"objective": {"objectives": objectives, "negatives": negatives}, "masking": {"rate": rate}}
        return read_history(write(name, *MLM, settings=said))

    plain, pairs = run("plain", ["mlm"], "other"), run("pairs", ["mlm", "nsp"], "same")
    assert differing([plain, pairs]) == {"sequences": ["single", "pairs"]}
    assert differing([pairs, run("others", ["mlm", "nsp"], "other")]) == {"negatives": ["same", "other"]}
    assert differing([plain, run("next", ["causal"], "other", rate=0.3)]) == {}
    assert differing([plain, run("more", ["mlm"], "other", rate=0.3)]) == {"rate": [0.15, 0.3]}
    assert [title_of(one) for one in ("mlm", "nsp_accuracy", "replaced_share")] == [
        *("masked words: loss", "next sentences: accuracy", "replaced share")
    ]


def test_what_is_learnt_of_writing_is_one_panel_a_metric(write: Write) -> None:
    found = read_history(write("w", step(1, words=3.0, accuracy=0.1), held(1, loss=2.5, accuracy=0.2, bleu=16.0)))
    drawn = {panel.metric: panel.lines[0] for panel in panels({"w": found})}
    assert {name: (len(one.training), len(one.held_out)) for name, one in drawn.items()} == {
        **{"words": (1, 1), "words_accuracy": (1, 1)},
        "bleu": (0, 1),
    }


@given(st.lists(st.floats(-1e3, 1e3), max_size=200))
def test_smoothing_is_the_mean_of_what_is_around(values: list[float]) -> None:
    reach = math.ceil(len(values) / 30)
    found = smoothed(tuple(enumerate(values)))
    assert [x for x, _ in found] == list(range(len(values)))
    expected = [np.mean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]
    np.testing.assert_allclose([y for _, y in found], expected, atol=1e-9)


def test_a_loss_may_begin_above_the_picture_and_a_single_dot_is_in_it(write: Write) -> None:
    rows = [step(1, mlm=100.0), *(step(number, mlm=5.0) for number in range(2, 100)), held(99, mlm=4.0)]
    (panel, *_) = panels({"run": read_history(write("run", *rows))})
    limits = _limits(panel)
    assert limits["bottom"] < 4.0
    assert 5.0 < limits["top"] < 6.0
    assert _look(0)["marker"] not in ("", "None", None)


def test_runs_look_different() -> None:
    looks = [tuple(sorted(_look(number).items())) for number in range(4 * len(COLOURS))]
    assert len(set(looks)) == len(looks)


def test_a_picture_of_any_name_is_drawn_whole_or_not_at_all(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ["_hidden", "$x^2", "猫" * 30]
    runs = {name: read_history(write(name, *(MLM if i % 2 else CAUSAL))) for i, name in enumerate(names)}
    draw(panels(runs), tmp_path / "seen.png", "tokens")
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    assert plot_curves(write("run", *NSP)) == tmp_path / "run" / "curves.png"
    nothing = write("nothing", step(1, mlm=None))
    assert plot_curves(nothing) is None
    assert not (nothing / "curves.png").exists()
