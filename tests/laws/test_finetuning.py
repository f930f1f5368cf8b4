"""Fine-tuning: how rows are dealt out and how many threads there are changes nothing; every task learns; what it is
trained on is what it answers with."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight
from small_rows import ROWS, asked, chosen, scores, sentences, several, texts
from torch import Tensor

import bothways
from bothways.checkpoint.encoder import tokenizer_of
from bothways.data.batch import Batch
from bothways.data.labelled import Example
from bothways.engine.streams import Streams
from bothways.errors import InputError, MissingExtraError
from bothways.objectives.objective import Model
from bothways.tasks import TASKS
from bothways.tasks.learning import Supervised
from bothways.tasks.task import Facts
from bothways.text.windows import Windows
from bothways.train.curves import plot_curves
from bothways.train.finetune import Taught, finetune, steps_of
from bothways.train.progress import Cursor, Progress
from bothways.train.rows import RowSteps, dealt
from bothways.train.settings import UpdateSettings
from bothways.train.step import train_step
from bothways.train.tuning import (
    AdaptSettings,
    LossSettings,
    RowSettings,
    TextSettings,
    TuningAdam,
    TuningRun,
    TuningSettings,
)

Save = Callable[..., Path]
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("unmeasured")


def settings(folder: Path, **keys: Any) -> TuningSettings:
    """Those of a short run in fp32 without dropout; keys: parts in place of these."""
    usual: dict[str, Any] = {
        "adapt": AdaptSettings(str(folder), dropout=0.0),
        "rows": RowSettings(epochs=2, batch_size=8),
        "adam": TuningAdam(lr=1e-3),
        "update": UpdateSettings(precision="fp32"),
    }
    return TuningSettings(**{**usual, **keys})


def losses_of(run: Callable[..., Taught]) -> list[float]:
    found: list[float] = []
    run(watch=lambda event, reading: found.append(event.result.loss) if event.result else None)
    return found


# How rows are dealt out


def joint(rows: int, seed: int, size: int, steps: int, small: bool = False) -> RowSteps:
    lengths = [1 + number % 7 for number in range(rows)]
    made: Any = lambda some: Batch(list(some), None, ())  # noqa: E731
    return RowSteps(lengths, made, size, 9, steps, seed, small)


def read(steps: RowSteps, progress: Progress, most: int | None = None) -> list[list[list[int]]]:
    """The rows of each part of each step."""
    stream: Iterator[Any] = steps(progress)
    return [[batch.tokens for batch, _ in some] for some in islice(stream, most)]


@profile(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**63 - 1), st.integers(1, 30), st.data())
def test_each_epoch_has_every_row_once_wherever_a_run_begins(
    rows: int, size: int, seed: int, count: int, data: st.DataObject
) -> None:
    small = data.draw(st.booleans())
    steps = joint(rows, seed, size, count, small)
    whole = read(steps, Progress())
    assert len(whole) == count
    flat = [sorted(row for part in step for row in part) for step in whole]
    for start in range(0, count - steps.per_epoch + 1, steps.per_epoch):
        epoch = flat[start : start + steps.per_epoch]
        assert sorted(row for step in epoch for row in step) == list(range(rows))
        assert [len(step) for step in epoch[:-1]] == [size] * (steps.per_epoch - 1)
        assert len(epoch[-1]) == (rows - 1) % size + 1  # what is left; all, where they are fewer than a step has
    begun = data.draw(st.integers(0, count - 1))
    at = Cursor()
    for _ in range(begun):
        at = at.after(steps.per_epoch)
    assert (
        read(joint(rows, seed, size, count, small), Progress(step=begun, epoch=at.epoch, number=at.number))
        == whole[begun:]
    )
    assert len(read(steps, Progress(), 1)) == 1  # left early


def test_another_seed_and_another_epoch_have_another_order() -> None:
    one, other = (read(joint(40, seed, 40, 2), Progress()) for seed in (0, 1))
    assert one[0] != one[1]
    assert one[0] != other[0]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_parts_hold_each_row_once_and_about_as_many_tokens(lengths: list[int], budget: int) -> None:
    parts = dealt(range(len(lengths)), lengths, budget)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert len(parts) >= min(2, len(lengths))
    tokens = [sum(lengths[row] for row in part) for part in parts]
    assert max(tokens) <= budget + max(lengths) or len(parts) == len(lengths)
    assert max(tokens) - min(tokens) <= max(lengths)


WHAT: dict[str, tuple[str, str, Callable[[], list[Any]], TextSettings]] = {
    "label": ("text-classification", "accuracy", lambda: texts(12), TextSettings()),
    "pairs": ("text-classification", "accuracy", lambda: texts(12, pairs=True), TextSettings()),
    "several labels": ("text-classification", "micro_f1", lambda: several(12), TextSettings()),
    "number": ("text-classification", "pearson", lambda: scores(12), TextSettings()),
    "windows": ("text-classification", "accuracy", lambda: texts(12), TextSettings(8, "max", 1)),
    "tags": ("token-classification", "f1", lambda: sentences(12), TextSettings(9)),
    "answers": ("question-answering", "f1", lambda: asked(10, none=True), TextSettings(18, stride=2)),
    "choices": ("multiple-choice", "accuracy", lambda: chosen(10), TextSettings()),
}
"""What can be learnt: the task, its metric, rows, and how they are read; some in windows."""


@pytest.mark.parametrize("what", WHAT)
def test_gradients_do_not_depend_on_how_rows_are_dealt_out(save_bert: Save, what: str, tmp_path: Path) -> None:
    name, _, make, text = WHAT[what]
    finetune(name, make(), [], settings(save_bert(std=0.1), text=text), tmp_path)
    encoder = bothways.Encoder.from_pretrained(tmp_path / "model")
    task: Any = TASKS[name]
    model, objective = Model(encoder.network, encoder.heads), Supervised(task, task.head)
    facts = Facts(tokenizer_of(encoder), encoder.extras, encoder.config.longest)
    samples = task.samples(make(), task.labels_of(make()), facts, text.reading(), text.max_length)
    lengths = [len(sample) for sample in samples]

    def step(parts: Sequence[Sequence[int]]) -> tuple[float, dict[str, Tensor]]:
        batches = [objective.batch([samples[row] for row in part]) for part in parts]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        loss = train_step(model, objective, batches, optimizer, Streams(CPU)).loss
        return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole, gradients = step([range(len(samples))])
    assert len(gradients) > 20
    for budget in (1, 30, 10**6):
        parts = dealt(range(len(samples)), lengths, budget)
        assert len(parts) == (len(samples) if budget == 1 else 2 if budget == 10**6 else len(parts))
        loss, found = step(parts)
        assert loss == pytest.approx(whole, rel=1e-5)
        for key, gradient in gradients.items():
            torch.testing.assert_close(found[key], gradient, atol=2e-6, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("layers", [None, 0])
@pytest.mark.parametrize("kind", ROWS)
def test_a_run_does_not_depend_on_how_many_threads_there_are(
    save_bert: Save, kind: str, layers: int | None, tmp_path: Path
) -> None:
    """With dropout, bit for bit; of a frozen encoder, too."""
    task, _, make = ROWS[kind]
    folder, left = save_bert(std=0.1), []
    for threads in (1, 2) if layers is None else (1, 2, 8):
        torch.set_num_threads(threads)
        try:
            changed = settings(folder, adapt=AdaptSettings(str(folder), dropout=0.1, layers=layers))
            finetune(task, make(20, 0), make(6, 1), changed, tmp_path / str(threads))
        finally:
            torch.set_num_threads(1)
        left.append((tmp_path / str(threads) / "model" / "model.safetensors").read_bytes())
    assert len(set(left)) == 1


# What is learnt


def by_heart(folder: Path, what: str, output: Path) -> dict[str, float]:
    name, _, make, text = WHAT[what]
    rows = make()
    changed = settings(
        folder,
        text=text,
        rows=RowSettings(epochs=60, batch_size=12),
        adam=TuningAdam(lr=1e-2, weight_decay=0.0),
        run=TuningRun(evaluate_every=1000, save_every=1000),
    )
    return finetune(name, rows, rows, changed, output).metrics


@pytest.mark.parametrize("what", WHAT)
def test_every_task_learns_a_handful_of_rows_by_heart(save_bert: Save, what: str, tmp_path: Path) -> None:
    metric = WHAT[what][1]
    found = by_heart(save_bert(std=0.05), what, tmp_path)
    assert found[metric] == (pytest.approx(1.0, abs=0.01) if metric == "pearson" else 1.0), found


@pytest.mark.parametrize(
    ("family", "what"),
    [
        ("albert", "label"),
        ("deberta-v2", "pairs"),
        ("distilbert", "label"),
        ("electra", "tags"),
        ("gpt2", "label"),
        ("modernbert", "tags"),
    ],
)
def test_families_learn_with_heads_of_their_own(save_family: Save, family: str, what: str, tmp_path: Path) -> None:
    """From a bare encoder: head, and pooler where the head needs one, are fresh."""
    assert by_heart(save_family(family, std=0.05), what, tmp_path)[WHAT[what][1]] == 1.0


def logits_of(folder: Path, rows: Sequence[Example], names: Sequence[str], **options: Any) -> Tensor:
    """[rows, labels], as the pipeline gives them."""
    pipe = bothways.pipeline("text-classification", folder, device="cpu")
    found = pipe([row.text for row in rows], top_k=None, function_to_apply="none", **options)
    said = [{one["label"]: one["score"] for one in answer} for answer in found]
    return torch.tensor([[one[name] for name in names] for one in said])


def labelled(names: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


NAMES = ("place", "animal", "colour")  # not sorted: a head that knows these labels keeps its order


def uneven() -> list[Example]:
    """Rows of which some labels are rare."""
    rows = texts(36)
    return rows[:12] + [row for row in rows[12:] if row.label == "place"]


@pytest.mark.parametrize(("smoothing", "weights"), [(0.0, "none"), (0.2, "none"), (0.0, "balanced"), (0.2, "balanced")])
def test_losses_are_weighed_and_smoothed_by_torchs_formula(
    save_bert: Save, smoothing: float, weights: Any, tmp_path: Path
) -> None:
    """The first loss of a run whose step has all rows. Weights are scikit-learn's."""
    rows, folder = uneven(), save_bert(kind="BertForSequenceClassification", std=0.3, **labelled(NAMES))
    changed = settings(folder, loss=LossSettings(smoothing, weights), rows=RowSettings(1, 100, 50))
    (loss,) = losses_of(lambda **watch: finetune("text-classification", rows, [], changed, tmp_path, **watch))
    truth = torch.tensor([NAMES.index(str(row.label)) for row in rows])
    each = F.cross_entropy(logits_of(folder, rows, NAMES), truth, reduction="none", label_smoothing=smoothing)
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=truth.numpy())
    weight = torch.tensor(balanced)[truth] if weights == "balanced" else torch.ones(len(rows))
    assert weight.mean() == pytest.approx(1.0)
    assert loss == pytest.approx(float((each * weight).mean()), abs=1e-5)
    if not smoothing:
        usual = F.cross_entropy(
            logits_of(folder, rows, NAMES), truth, weight=None if weights == "none" else torch.tensor(balanced).float()
        )
        assert loss == pytest.approx(float(usual), abs=1e-5)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_texts_are_learnt_in_the_windows_that_they_are_read_in(save_bert: Save, reduce: Any, tmp_path: Path) -> None:
    """The first loss, and the metrics at the end, are of what the pipeline gives with the same windows."""
    rows, folder = texts(30), save_bert(kind="BertForSequenceClassification", std=0.3, **labelled(NAMES))
    how = {"windows": reduce, "max_length": 7, "stride": 2}
    changed = settings(folder, text=TextSettings(7, reduce, 2), rows=RowSettings(1, 100, 50))
    found = finetune("text-classification", rows, rows, changed, tmp_path / "two").metrics
    (loss,) = losses_of(lambda **watch: finetune("text-classification", rows, [], changed, tmp_path / "one", **watch))
    truth = torch.tensor([NAMES.index(str(row.label)) for row in rows])
    assert loss == pytest.approx(float(F.cross_entropy(logits_of(folder, rows, NAMES, **how), truth)), abs=1e-5)
    predicted = logits_of(tmp_path / "two" / "model", rows, NAMES, **how).argmax(1)
    assert found["accuracy"] == pytest.approx(float((predicted == truth).float().mean()))
    task: Any = TASKS["text-classification"]
    encoder = bothways.Encoder.from_pretrained(folder)
    facts = Facts(tokenizer_of(encoder), encoder.extras, 24)
    samples = task.samples(rows, task.labels_of(rows), facts, Windows(7, 2, reduce=reduce), None)
    assert max(len(sample.sequences) for sample in samples) > 2


# Stopped and resumed


@pytest.mark.parametrize(
    "adapt", [{"lora_rank": 2, "lora_dropout": 0.1}, {"layers": 0, "pooling": "mean"}, {"layers": 1, "dropout": 0.1}]
)
def test_an_adapted_encoder_goes_on_as_if_it_had_not_been_stopped(
    save_bert: Save, adapt: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_bert(std=0.1)
    changed = settings(
        folder, adapt=AdaptSettings(str(folder), **adapt), update=UpdateSettings(precision="fp32", ema=0.5)
    )

    def run(output: Path, **options: Any) -> Taught:
        return finetune("text-classification", texts(20), texts(6), changed, output, **options)

    def stop(event: Any, reading: Any) -> None:
        if event.kind == "step" and event.progress.step == 2:
            signal.raise_signal(signal.SIGINT)

    assert run(tmp_path / "whole").outcome.finished
    assert not run(tmp_path / "parts", watch=stop).outcome.finished
    assert run(tmp_path / "parts", resume=True).outcome.finished
    for name in ("model", "best"):
        whole, parts = (tmp_path / one / name / "model.safetensors" for one in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def test_hidden_states_that_a_killed_run_left_are_not_taken_for_those_of_other_rows(
    save_bert: Save, tmp_path: Path
) -> None:
    """They are as many: one a row."""
    folder = save_bert(std=0.3)
    changed = settings(folder, adapt=AdaptSettings(str(folder), dropout=0.0, layers=0))
    rows = texts(12)

    def run(output: Path) -> bytes:
        finetune("text-classification", rows, [], changed, output)
        return (output / "model" / "model.safetensors").read_bytes()

    whole = run(tmp_path / "whole")
    killed = tmp_path / "killed"
    killed.mkdir()
    width = bothways.Encoder.from_pretrained(folder).config.width
    np.full((len(rows), width), 7.0, np.float32).tofile(killed / "states.f32")
    assert run(killed) == whole


def test_a_run_is_not_resumed_with_labels_in_another_order(save_bert: Save, tmp_path: Path) -> None:
    folder, rows = save_bert(), texts(12)
    known = replace(TASKS["text-classification"].labels_of(rows), names=NAMES)  # type: ignore[attr-defined]
    finetune("text-classification", rows, [], settings(folder), tmp_path, labels=known)
    other = replace(known, names=tuple(reversed(NAMES)))
    with pytest.raises(InputError, match="its rows were others than these"):
        finetune("text-classification", rows, [], settings(folder), tmp_path, labels=other, resume=True)


def test_metrics_that_cannot_be_computed_are_told_before_anything_is(
    save_bert: Save, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = save_bert()
    for name, rows, library in (
        ("text-classification", texts(12), "sklearn"),
        ("token-classification", sentences(12), "seqeval.metrics.sequence_labeling"),
    ):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, library, None)
            with pytest.raises(MissingExtraError, match="metrics"):
                finetune(name, rows, rows, settings(folder), tmp_path / "run")
        assert not (tmp_path / "run").exists()


# What heads are kept


def test_a_head_that_pools_as_is_said_is_kept(save_bert: Save, tmp_path: Path) -> None:
    folder = save_bert(kind="BertForSequenceClassification", **labelled(NAMES))
    for pooling, fresh in (("cls", False), ("mean", True)):
        told: list[str] = []
        changed = settings(folder, adapt=AdaptSettings(str(folder), dropout=0.0, pooling=pooling))
        finetune("text-classification", texts(12), [], changed, tmp_path / pooling, told=told.append)
        assert any("fresh: head classify" in line for line in told) == fresh


def test_the_card_says_how_a_text_is_pooled_when_that_came_with_the_encoder(save_bert: Save, tmp_path: Path) -> None:
    folder = save_bert(kind="BertForSequenceClassification", classifier_pooling="mean", **labelled(NAMES))
    finetune("text-classification", texts(12), [], settings(folder), tmp_path)
    assert "only bothways gives its answers" in (tmp_path / "model" / "README.md").read_text()


def test_labels_of_rows_that_are_not_learnt_from_count_too(save_bert: Save, tmp_path: Path) -> None:
    rows = texts(12)
    some = [row for row in rows if row.label != "place"]
    taught = finetune("text-classification", some, rows, settings(save_bert()), tmp_path, every=rows)
    assert taught.labels.names == ("animal", "colour", "place")


@pytest.mark.parametrize("kind", ROWS)
def test_a_head_for_the_same_labels_is_kept(save_bert: Save, kind: str, tmp_path: Path) -> None:
    """And with it the numbers of its labels; at a learning rate of 0 the model stays as it was."""
    task, ending, make = ROWS[kind]
    names = {"classify": NAMES, "tag": ("I-PLACE", "B-ANIMAL", "O", "B-PLACE")}.get(kind)
    folder = save_bert(kind=f"Bert{ending}", **({} if names is None else labelled(names)))
    changed = settings(folder, adam=TuningAdam(lr=0.0, weight_decay=0.0))
    taught = finetune(task, make(20, 0), make(6, 1), changed, tmp_path)
    assert taught.labels.names == (names or ())
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_a_head_for_other_labels_is_not_kept(save_bert: Save, tmp_path: Path) -> None:
    folder = save_bert(kind="BertForSequenceClassification", **labelled(("place", "animal", "food")))
    told: list[str] = []
    finetune("text-classification", texts(12), [], settings(folder), tmp_path, told=told.append)
    assert told == ["fresh: head classify; left behind: head classify"]


def test_labels_that_are_said_keep_their_order(save_bert: Save, tmp_path: Path) -> None:
    folder = save_bert(kind="BertForSequenceClassification", **labelled(NAMES))
    known = replace(TASKS["text-classification"].labels_of(texts(12)), names=tuple(reversed(NAMES)))  # type: ignore[attr-defined]
    taught = finetune("text-classification", texts(12), [], settings(folder), tmp_path, labels=known)
    assert taught.labels == known
    assert bothways.Encoder.from_pretrained(tmp_path / "model").extras["id2label"]["0"] == "colour"


def test_a_run_of_fewer_steps_than_are_logged_ends_well(
    save_bert: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to draw then."""
    monkeypatch.setattr("bothways.train.run.plot_curves", plot_curves)
    taught = finetune("text-classification", texts(8), [], settings(save_bert()), tmp_path)
    assert taught.outcome.finished
    assert taught.metrics == {}
    assert (tmp_path / "model").is_dir()
    assert not (tmp_path / "curves.png").exists()


def test_all_labels_are_known_where_few_rows_are_used(save_bert: Save, tmp_path: Path) -> None:
    """Those that no picked row has, too: rows to evaluate on may have them."""
    changed = settings(save_bert(), text=TextSettings(max_train_samples=2, max_eval_samples=7))
    taught = finetune("text-classification", texts(30), texts(12, 1), changed, tmp_path)
    assert taught.labels.names == ("animal", "colour", "place")
    assert taught.outcome.progress.step == steps_of(30, changed) == 2
    assert taught.metrics["accuracy"] * 7 == pytest.approx(round(taught.metrics["accuracy"] * 7))


def test_states_that_another_run_left_are_not_learnt_from(save_bert: Save, tmp_path: Path) -> None:
    """Of the same size, in a folder that has no checkpoint yet."""
    first, other = save_bert(seed=1), save_bert(seed=2)
    left = []

    class Ended(Exception):
        """As if the process were killed."""

    def end(event: Any, reading: Any) -> None:
        raise Ended

    def frozen(folder: Path, output: Path, **watch: Any) -> None:
        adapt = AdaptSettings(str(folder), layers=0)
        finetune("text-classification", texts(12), [], settings(folder, adapt=adapt), output, **watch)

    with pytest.raises(Ended):
        frozen(first, tmp_path / "run", watch=end)
    (tmp_path / "run" / "metrics.jsonl").unlink(missing_ok=True)  # of few steps nothing is on the disk yet
    for output in ("run", "anew"):
        frozen(other, tmp_path / output)
        left.append((tmp_path / output / "model" / "model.safetensors").read_bytes())
    assert left[0] == left[1]
