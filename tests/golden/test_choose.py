"""Choosing, and learning it, gives transformers' scores, losses and gradients, for any number of choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import SAVE_FAMILY, families_with
from test_mlm_training import gradients_by_their_names, without_dropout
from torch import Tensor

from bothways import Encoder, InputError, TruncationWarning, pipeline
from bothways.checkpoint.encoder import tokenizer_of
from bothways.data.choices import Choice
from bothways.data.labelled import Labels
from bothways.engine.streams import Streams
from bothways.objectives.objective import Model
from bothways.tasks import TASKS, Facts
from bothways.tasks.choose import MultipleChoice
from bothways.tasks.learning import Supervised, Weighing
from bothways.text.windows import Windows
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.step import train_step

Save = Callable[..., Path]
CLOSE = 1e-5
KIND = "ForMultipleChoice"
FAMILIES = families_with(KIND)
TASK = TASKS["multiple-choice"]
assert isinstance(TASK, MultipleChoice)
QUESTIONS = ["the cat sat on", "a dog ran to the", "was it", "", "the red house is"]
# Of 2 to 5 choices, and of unequal lengths.
CHOICES = [
    ["the mat.", "a blue dog ran to the house"],
    ["house", "un able", "mat", "x"],
    ["the cat?", "red", "on the mat , is it ?"],
    ["a", "the", "cats", "dogs", "do !"],
    ["blue", "the house", "sat on the mat"],
]


def saved(save_family: Save, family: str) -> Path:
    """A model without dropout, with room for two types of tokens where it has types at all."""
    types = {"type_vocab_size": 2} if getattr(SAVE_FAMILY[family].config(), "type_vocab_size", 0) else {}
    return without_dropout(save_family(family, kind=KIND, **types))


@pytest.fixture(scope="module")
def bert(save_family: Save) -> Path:
    return saved(save_family, "bert")


def rows_of(choices: Sequence[Sequence[str]]) -> list[Choice]:
    """Each with another right choice."""
    return [
        Choice(question, tuple(own), (2 * i + 1) % len(own), f"rows.jsonl: line {i + 1}")
        for i, (question, own) in enumerate(zip(QUESTIONS, choices))
    ]


def learnt(folder: Path, rows: Sequence[Choice], max_length: int | None = None) -> tuple[Encoder, list[Any]]:
    encoder = Encoder.from_pretrained(folder)
    facts = Facts(tokenizer_of(encoder, "it"), encoder.extras, encoder.config.longest)
    return encoder, TASK.samples(rows, TASK.labels_of(rows), facts, None, max_length)


def their_inputs(folder: Path, choices: Sequence[Sequence[str]], types: bool) -> dict[str, Tensor]:
    """[questions, choices, tokens], for equal numbers of choices."""
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    questions = [question for question, own in zip(QUESTIONS, choices) for _ in own]
    said = tokenizer(questions, [one for own in choices for one in own], padding=True, return_tensors="pt")
    inputs = {key: value.view(len(choices), -1, value.shape[-1]) for key, value in said.items()}
    return inputs if types else {key: value for key, value in inputs.items() if key != "token_type_ids"}


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_all_gradients_are_those_of_transformers(save_family: Save, family: str, tmp_path: Path) -> None:
    folder, choices = saved(save_family, family), [(own * 2)[:4] for own in CHOICES]
    rows, kind = rows_of(choices), SAVE_FAMILY[family].kind(KIND)
    encoder, samples = learnt(folder, rows)
    model, objective = Model(encoder.network, encoder.heads).train(), Supervised(TASK, "choose")
    batches = [objective.batch(samples[:3]), objective.batch(samples[3:])]
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=0.0))
    result = train_step(model, objective, batches, optimizer, Streams(torch.device("cpu")))
    theirs, labels = kind.from_pretrained(folder).train(), torch.tensor([row.label for row in rows])
    said = theirs(**their_inputs(folder, choices, bool(encoder.config.types)), labels=labels)
    said.loss.backward()
    assert result.loss == pytest.approx(float(said.loss.detach()), rel=CLOSE)
    assert result.means["accuracy"] == pytest.approx(float((said.logits.argmax(1) == labels).float().mean()))
    ours = gradients_by_their_names(encoder, tmp_path / "gradients", kind)
    expected = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    # What shifts all scores alike has no gradient but rounding: it is measured by the largest of all.
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    furthest = max(float((ours[key].detach() - gradient).abs().max()) for key, gradient in expected.items()) / largest
    print(f"{family}: loss {result.loss - float(said.loss.detach()):.1e}, gradients {furthest:.1e}")
    assert furthest < CLOSE


def test_each_question_has_its_own_number_of_choices(bert: Path) -> None:
    rows = rows_of(CHOICES)
    encoder, samples = learnt(bert, rows)
    objective = Supervised(TASK, "choose")
    model = Model(encoder.network, encoder.heads).eval()
    parts = [objective.loss(model, objective.batch([one])).losses["choose"] for one in samples]
    together = objective.loss(model, objective.batch([samples[i] for i in (3, 1, 4, 0, 2)])).losses["choose"]
    assert together.count == 5
    assert float(together.total.detach()) == pytest.approx(sum(float(part.total.detach()) for part in parts), rel=1e-5)
    firsts = objective.batch(samples).labels["choose"].rows
    starts = np.cumsum([0, *(len(sample) for sample in samples)])[:-1]
    assert firsts is not None
    assert firsts.tolist() == starts.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(save_family: Save, family: str) -> None:
    folder = saved(save_family, family)
    choose = pipeline("multiple-choice", folder, device="cpu")
    answers = choose(question=QUESTIONS, choices=CHOICES)
    model = SAVE_FAMILY[family].kind(KIND).from_pretrained(folder).eval()
    for i, (answer, own) in enumerate(zip(answers, CHOICES, strict=True)):
        inputs = transformers.BertTokenizer.from_pretrained(folder)(
            [QUESTIONS[i]] * len(own), own, padding=True, return_tensors="pt"
        )
        if not choose._config.types:
            inputs.pop("token_type_ids")
        with torch.inference_mode():
            expected = model(**{key: value[None] for key, value in inputs.items()}).logits[0].softmax(0)
        assert answer["scores"] == pytest.approx(expected.tolist(), abs=CLOSE)
        assert answer["label"] == int(expected.argmax())


def test_one_question_gives_one_answer_and_a_list_a_list(bert: Path) -> None:
    choose = pipeline("multiple-choice", bert, device="cpu")
    answer = choose(question=QUESTIONS[0], choices=CHOICES[0])
    assert answer.keys() == {"label", "scores"}
    assert sum(answer["scores"]) == pytest.approx(1)
    assert choose([QUESTIONS[0]], [CHOICES[0]]) == [answer]
    assert choose(QUESTIONS[0], tuple(CHOICES[0])) == answer
    assert choose([], []) == []


def test_of_what_is_too_long_the_question_is_cut_first(bert: Path) -> None:
    long, choices = "the cat sat on the mat " * 3, ["a dog ran to the house", "blue"]
    choose = pipeline("multiple-choice", bert, device="cpu")
    with pytest.warns(TruncationWarning, match=r"2 of 2 texts were cut to 16 tokens"):
        answer = choose(long, choices, max_length=16)
    _, (sample,) = learnt(bert, [Choice(long, tuple(choices), 0, "line 1")], max_length=16)
    tokenizer = choose.tokenizer
    texts = [tokenizer.decode(one.ids, skip_special=True) for one in sample.sequences]  # type: ignore[union-attr]
    assert texts == ["the cat sat on the mat the a dog ran to the house", f"{'the cat sat on the mat ' * 2}blue"]
    assert [len(one) for one in sample.sequences] == [16, 16]
    assert sample.cut == (18 - 7) + (18 - 12)
    kept = [" ".join(long.split()[:count]) for count in (7, 12)]
    alone = [choose._predict(_round(tokenizer.encode([q], [c])))[0] for q, c in zip(kept, choices)]
    assert answer["scores"] == torch.stack(alone).softmax(0).tolist()


def _round(encoded: Any) -> Any:
    from bothways.tasks import Round

    return Round(encoded)


def test_of_a_choice_without_room_a_part_stays(bert: Path) -> None:
    choice = "the cat sat on the mat and ran to the red house , is it ?"
    for question in ("a dog ran to the house", ""):
        with pytest.warns(TruncationWarning, match="cut to 10 tokens"):
            pipeline("multiple-choice", bert, device="cpu")(question, [choice, "dog"], max_length=10)
        _, (sample,) = learnt(bert, [Choice(question, (choice, "dog"), 0, "line 1")], max_length=10)
        sides = [one.sequences for one in sample.sequences]  # type: ignore[union-attr]
        assert sides[0].count(1) >= 4
        assert sides[1].count(1) == 1
        assert sample.cut > 0


@pytest.mark.parametrize(
    ("question", "choices", "says"),
    [
        (3, [["a", "b"]], "not int: 3"),
        ("q", "ab", "the choices of question 0 are not a list but str"),
        ("q", ["a"], "question 0 has 1 of the choices that it needs, at least 2"),
        ("q", [], "question 0 has 0 of the choices"),
        ("q", ["a", None], "choice 1 of question 0 is not a string but NoneType"),
        ("q", [["a", "b"]], "choice 0 of question 0 is not a string but list"),
        (["q", "r"], [["a", "b"]], "2 questions need as many lists of choices, got 1"),
        (["q", "r"], [["a", "b"], ["a"]], "question 1 has 1 of the choices"),
        (["q", None], [["a", "b"], ["a", "b"]], "question 1 is not a string but NoneType"),
        (["q"], {"q": ["a", "b"]}, "not dict"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(bert: Path, question: Any, choices: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        pipeline("multiple-choice", bert, device="cpu")(question=question, choices=choices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 25, "8", True])
def test_a_length_that_is_none_is_refused(bert: Path, length: Any) -> None:
    with pytest.raises(InputError, match="max_length must be"):
        pipeline("multiple-choice", bert, device="cpu")("q", ["a", "b"], max_length=length)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (Choice("q", ("a", "b"), None, "f: line 3"), "f: line 3: no label"),
        (Choice("q", ("a", "b"), 2, "f: line 3"), "f: line 3: choice 2 is right, but there are 2"),
        (Choice("q", ("a", "b"), -1, "f: line 3"), "f: line 3: choice -1"),
        (Choice("q", ("a",), 0, "f: line 3"), "f: line 3: 1 of the choices"),
    ],
)
def test_rows_that_cannot_be_learnt_are_refused(row: Choice, says: str) -> None:
    good = Choice("q", ("a", "b"), 0, "f: line 2")
    for labels in (None, Labels("single")):
        with pytest.raises(InputError, match=says):
            TASK.labels_of([good, row], labels)
    with pytest.raises(InputError, match="no questions"):
        TASK.labels_of([])


def test_what_is_not_for_choices_is_refused(bert: Path) -> None:
    encoder, samples = learnt(bert, rows_of(CHOICES))
    objective = Supervised(TASK, "choose", Weighing(smoothing=0.1))
    with pytest.raises(InputError, match="for labels, not for choices"):
        objective.loss(Model(encoder.network, encoder.heads), objective.batch(samples))
    with pytest.raises(InputError, match="not read in windows"):
        TASK.request_of(rows_of(CHOICES), Windows(), None)


def test_rows_are_evaluated_by_what_the_pipeline_says(bert: Path) -> None:
    pipe, rows = pipeline("multiple-choice", bert, device="cpu"), rows_of(CHOICES)
    labels = TASK.labels_of(rows)
    answers = pipe.answers(TASK.request_of(rows, None, None))
    assert answers == pipe(QUESTIONS, CHOICES)
    outcomes = [TASK.outcome(*one, labels) for one in zip(rows, answers, strict=True)]
    right = np.mean([answer["label"] == row.label for answer, row in zip(answers, rows)])
    assert TASK.metrics(outcomes, labels) == {TASK.best(labels): pytest.approx(right)}
    with pytest.raises(InputError, match="no questions to measure"):
        TASK.metrics([], labels)
    broken = TASK.outcome(rows[0], {"label": 0, "scores": [math.nan, math.nan]}, labels)
    with pytest.raises(InputError, match="scores of 1 of 1 questions are no numbers"):
        TASK.metrics([broken], labels)
