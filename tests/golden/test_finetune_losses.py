"""Fine-tuning is transformers' loop: with the same rows in the same order, and no dropout, it has the same losses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from small_rows import asked, chosen, scores, sentences, several, texts
from torch import Tensor

from bothways.data.labelled import Example
from bothways.data.questions import Question
from bothways.data.tagged import Tagged
from bothways.train.finetune import finetune
from bothways.train.progress import Cursor
from bothways.train.rows import RowSteps
from bothways.train.schedule import learning_rate
from bothways.train.settings import UpdateSettings
from bothways.train.tuning import AdaptSettings, RowSettings, TextSettings, TuningAdam, TuningRun, TuningSettings

Save = Callable[..., Path]
Inputs = Callable[[Sequence[Any]], dict[str, Any]]
STEPS, SIZE, SEED = 50, 8, 3

pytestmark = pytest.mark.usefixtures("unmeasured")


def order(rows: int, steps: int, size: int) -> list[list[int]]:
    """The rows of each step."""
    dealer = RowSteps([1] * rows, lambda some: None, size, 1, steps, SEED)  # type: ignore[arg-type, return-value]
    at, found = Cursor(), []
    for _ in range(steps):
        found.append(dealer.rows(at).tolist())
        at = at.after(dealer.per_epoch)
    return found


def ours(task: str, folder: Path, rows: Sequence[Any], output: Path, lr: float, size: int = SIZE, **text: Any) -> Any:
    """The losses of a run's first steps, and its model's folder."""
    settings = TuningSettings(
        AdaptSettings(str(folder), dropout=0.0),
        TextSettings(**text),
        rows=RowSettings(epochs=STEPS * size / len(rows), batch_size=size, batch_tokens=100),
        adam=TuningAdam(lr=lr),
        update=UpdateSettings(precision="fp32", warmup=5),
        run=TuningRun(seed=SEED, save_every=1000),
    )
    losses: list[float] = []
    taught = finetune(
        task,
        rows,
        [],
        settings,
        output,
        watch=lambda event, reading: losses.append(event.result.loss) if event.result else None,
    )
    assert taught.outcome.finished
    return losses[:STEPS], len(losses)


def loss_of(model: Any, inputs: dict[str, Any]) -> Tensor:
    """The model's own loss. That of answers would be over padding, too, and so depend on what is in a batch together:
    there padding is left out, and the rest is their formula."""
    if "start_positions" not in inputs:
        return model(**inputs).loss
    golds = [inputs.pop(name) for name in ("start_positions", "end_positions")]
    found, padding = model(**inputs), inputs["attention_mask"] == 0
    logits = [one.masked_fill(padding, -torch.inf) for one in (found.start_logits, found.end_logits)]
    return sum(map(F.cross_entropy, logits, golds), torch.zeros(())) / 2


def theirs(model: Any, inputs: Inputs, rows: Sequence[Any], lr: float, steps: int, size: int = SIZE) -> list[float]:
    """The loop that everyone writes, after transformers' examples."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
    known = {id(parameter) for parameter in plain}
    decaying = [p for p in model.parameters() if id(p) not in known]
    groups = [{"params": decaying, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    losses = []
    for step, numbers in enumerate(order(len(rows), STEPS, size)):
        for group in optimizer.param_groups:
            group["lr"] = lr * learning_rate(step, steps, 5, "linear")
        loss = loss_of(model, inputs([rows[number] for number in numbers]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def of_texts(tokenizer: Any, names: Sequence[str]) -> Inputs:
    def answer(label: Any) -> Any:
        if isinstance(label, tuple):
            return [float(name in label) for name in names]
        return names.index(label) if names else label

    def inputs(rows: Sequence[Example]) -> dict[str, Any]:
        seconds = None if rows[0].text_pair is None else [row.text_pair for row in rows]
        encoded = tokenizer([row.text for row in rows], seconds, padding=True, truncation=True, return_tensors="pt")
        return {**encoded, "labels": torch.tensor([answer(row.label) for row in rows])}

    return inputs


def of_words(tokenizer: Any, names: Sequence[str]) -> Inputs:
    """Each word's label stands at its first piece; -100 everywhere else."""

    def inputs(rows: Sequence[Tagged]) -> dict[str, Any]:
        words = [[row.text[start:end] for start, end in row.words] for row in rows]
        encoded = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
        labels = torch.full_like(encoded.input_ids, -100)
        for i, row in enumerate(rows):
            before = None
            for place, word in enumerate(encoded.word_ids(i)):
                if word is not None and word != before:
                    labels[i, place] = names.index((row.tags or ())[word])
                before = word
        return {**encoded, "labels": labels}

    return inputs


def of_questions(tokenizer: Any, length: int, stride: int) -> Inputs:
    """Windows as in the example of question answering: the first row where the answer is not all in a window."""

    def inputs(rows: Sequence[Question]) -> dict[str, Any]:
        encoded = tokenizer(
            [row.question for row in rows],
            [row.context for row in rows],
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=True,
            return_tensors="pt",
        )
        starts, ends = [], []
        for i, (row, offsets) in enumerate(zip(encoded.pop("overflow_to_sample_mapping"), encoded["offset_mapping"])):
            first, last = 0, 0
            for character, answer in rows[row].answers or ():
                sides, end = encoded.sequence_ids(i), character + len(answer)
                context = [place for place, side in enumerate(sides) if side == 1]
                if offsets[context[0]][0] <= character and offsets[context[-1]][1] >= end:
                    first = next(p for p in context if offsets[p][0] <= character < offsets[p][1])
                    last = next(p for p in context if offsets[p][0] < end <= offsets[p][1])
            starts.append(first)
            ends.append(last)
        encoded.pop("offset_mapping")
        return {**encoded, "start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}

    return inputs


def of_choices(tokenizer: Any) -> Inputs:
    """All questions have as many choices, since transformers takes rectangles."""

    def inputs(rows: Sequence[Any]) -> dict[str, Any]:
        count = len(rows[0].choices)
        first = [row.question for row in rows for _ in row.choices]
        encoded = tokenizer(first, [one for row in rows for one in row.choices], padding=True, return_tensors="pt")
        shaped = {key: value.view(len(rows), count, -1) for key, value in encoded.items()}
        return {**shaped, "labels": torch.tensor([row.label for row in rows])}

    return inputs


def assert_equal(folder: Path, kind: str, task: str, rows: Sequence[Any], make: Any, output: Path, lr: float) -> float:
    """The largest difference of the losses."""
    found, steps = ours(task, folder, rows, output, lr, **({"max_length": 20, "stride": 3} if make is None else {}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, kind).from_pretrained(folder)
    inputs = of_questions(tokenizer, 20, 3) if make is None else make(tokenizer)
    expected = theirs(model, inputs, rows, lr, steps)
    assert len(found) == len(expected) == STEPS
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert max(expected) - min(expected) > 0.05  # something was learnt
    return float(np.abs(np.subtract(found, expected)).max())


ANIMALS = ("animal", "colour", "place")
TAGS = ("O", "B-ANIMAL", "B-PLACE", "I-PLACE")


def three(count: int) -> list[Any]:
    """Questions of three choices."""
    return [row for row in chosen(3 * count) if len(row.choices) == 3][:count]


def labelled(names: Sequence[str], problem: str | None = None) -> dict[str, Any]:
    said = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return said | ({} if problem is None else {"problem_type": problem})


# What is learnt: the ending of transformers' class, keys of its config, the task, rows, and what it is fed with.
CASES: dict[str, tuple[str, dict[str, Any], str, Callable[[], list[Any]], Any]] = {
    "label": (
        "ForSequenceClassification",
        labelled(ANIMALS),
        "text-classification",
        lambda: texts(52),
        lambda tokenizer: of_texts(tokenizer, ANIMALS),
    ),
    "pairs": (
        "ForSequenceClassification",
        labelled(ANIMALS),
        "text-classification",
        lambda: texts(52, pairs=True),
        lambda tokenizer: of_texts(tokenizer, ANIMALS),
    ),
    "several labels": (
        "ForSequenceClassification",
        labelled(ANIMALS, "multi_label_classification"),
        "text-classification",
        lambda: several(52),
        lambda tokenizer: of_texts(tokenizer, ANIMALS),
    ),
    "number": (
        "ForSequenceClassification",
        labelled(("LABEL_0",), "regression"),
        "text-classification",
        lambda: scores(52),
        lambda tokenizer: of_texts(tokenizer, ()),
    ),
    "tags": (
        "ForTokenClassification",
        labelled(TAGS),
        "token-classification",
        lambda: sentences(52),
        lambda tokenizer: of_words(tokenizer, TAGS),
    ),
    "answers": ("ForQuestionAnswering", {}, "question-answering", lambda: asked(52, none=True, words=12), None),
    "choices": ("ForMultipleChoice", {}, "multiple-choice", lambda: three(52), of_choices),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", CASES)
def test_fifty_losses_are_those_of_transformers(save_bert: Save, case: str, tmp_path: Path) -> None:
    """On the pieces of a small model: epochs whose last step is short, warmup, decay, clipping, windows."""
    kind, keys, task, rows, make = CASES[case]
    folder = save_bert(kind=f"Bert{kind}", std=0.1, **keys)
    assert_equal(folder, f"Bert{kind}", task, rows(), make, tmp_path / "run", 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["label", "pairs", "tags", "answers"])
def test_fifty_losses_of_a_real_model_are_those_of_transformers(minilm: Path, case: str, tmp_path: Path) -> None:
    kind, keys, task, rows, make = CASES[case]
    folder = tmp_path / "model"
    config = transformers.AutoConfig.from_pretrained(minilm, **keys)
    getattr(transformers, f"Bert{kind}").from_pretrained(minilm, config=config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (minilm / name).is_file():
            shutil.copy(minilm / name, folder / name)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    most = assert_equal(folder, f"Bert{kind}", task, rows(), make, tmp_path / "run", 5e-5)
    print(f"{case}: largest difference {most:.1e}")
