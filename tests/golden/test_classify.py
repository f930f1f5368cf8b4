"""Texts are classified, and classifying is learnt, as by transformers: the same answers, losses and gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from small_models import SAVE_FAMILY, families_with
from test_mlm_training import gradients_by_their_names, without_dropout
from torch import Tensor

from bothways import Encoder, InputError, TruncationWarning, pipeline
from bothways.checkpoint.encoder import tokenizer_of
from bothways.data.labelled import Example, Labels
from bothways.engine.streams import Streams
from bothways.nn.heads import Classifier
from bothways.objectives.objective import Model
from bothways.tasks import TASKS, Facts
from bothways.tasks.classify import TextClassification, class_weights
from bothways.tasks.learning import Supervised, Weighing
from bothways.text.windows import Windows
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.step import train_step

Save = Callable[..., Path]
CLOSE = 1e-5
TASK = TASKS["text-classification"]
assert isinstance(TASK, TextClassification)
KIND = "ForSequenceClassification"
FAMILIES = families_with(KIND)
PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
# Of every length up to what the models take, and some of one length.
TEXTS = [
    "the cat sat on the mat.",
    "a dog",
    "",
    "was un able ! do the house red?",
    "x",
    "the red cat ran to the blue house",
    "dogs ran.",
    "the mat is blue",
]
SECONDS = ["is it?", "was", "the dog ran to the mat !", "blue", "a cat is a cat", "no", "the house", "dog"]


def labels_for(kind: str) -> tuple[list[Any], dict[str, Any]]:
    """A label for each text, and what a config says of them."""
    if kind == "regression":
        return [0.5 * i - 1.25 for i in range(len(TEXTS))], {"num_labels": 1}
    names = ["bad", "good", "so-so", "none"]
    sets = [tuple(names[j] for j in range(4) if (5 * i + 3) >> j & 1) for i in range(len(TEXTS))]
    values = sets if kind == "multi" else [names[(3 * i + i // 4) % 4] for i in range(len(TEXTS))]
    return values, {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def saved(save_family: Save, family: str, kind: str, **sizes: Any) -> Path:
    """A model without dropout, with room for two types of tokens where it has types at all."""
    config = SAVE_FAMILY[family].config()
    types = {"type_vocab_size": 2} if getattr(config, "type_vocab_size", 0) else {}
    # Without padding transformers takes one text at a time; and dropout has other names there.
    padding = {"pad_token_id": 0, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
    padding = padding if family == "gpt2" else {}
    problem = {"problem_type": PROBLEMS[kind], **labels_for(kind)[1]}
    sizes = {"max_position_embeddings": 40, **types, **padding, **problem, **sizes}
    return without_dropout(save_family(family, kind=KIND, **sizes))


def examples(kind: str, pairs: bool = False) -> list[Example]:
    labels, _ = labels_for(kind)
    return [
        Example(text, SECONDS[i] if pairs else None, labels[i], f"rows.csv: line {i + 2}")
        for i, text in enumerate(TEXTS)
    ]


def learnt(folder: Path, rows: Sequence[Example], windows: Windows | None = None) -> tuple[Encoder, list[Any], Labels]:
    encoder = Encoder.from_pretrained(folder)
    facts = Facts(tokenizer_of(encoder, "it"), encoder.extras, encoder.config.longest)
    labels = TASK.labels_of(rows, facts.labels)
    return encoder, TASK.samples(rows, labels, facts, windows, None), labels


def targets(kind: str, labels: Labels, rows: Sequence[Example]) -> Tensor:
    numbers = [labels.number(row) for row in rows]
    if kind == "multi":
        return torch.tensor([[float(i in own) for i in range(4)] for own in numbers])
    return torch.tensor(numbers)


@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_all_gradients_are_those_of_transformers(
    save_family: Save, family: str, kind: str, pairs: bool, tmp_path: Path
) -> None:
    folder, rows = saved(save_family, family, kind), examples(kind, pairs)
    their_kind = SAVE_FAMILY[family].kind(KIND)
    encoder, samples, labels = learnt(folder, rows)
    model, objective = Model(encoder.network, encoder.heads).train(), Supervised(TASK, "classify")
    batches = [objective.batch(samples[:5]), objective.batch(samples[5:])]
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=0.0))
    result = train_step(model, objective, batches, optimizer, Streams(torch.device("cpu")))
    theirs = their_kind.from_pretrained(folder).train()
    inputs = transformers.BertTokenizer.from_pretrained(folder)(
        TEXTS, SECONDS if pairs else None, padding=True, return_tensors="pt"
    )
    if not encoder.config.types:
        inputs.pop("token_type_ids", None)
    said = theirs(**inputs, labels=targets(kind, labels, rows))
    said.loss.backward()
    assert result.loss == pytest.approx(float(said.loss.detach()), rel=CLOSE)
    ours = gradients_by_their_names(encoder, tmp_path / "gradients", their_kind)
    expected = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    furthest = max(float((ours[key].detach() - gradient).abs().max()) for key, gradient in expected.items()) / largest
    print(f"{family}, {kind}: loss {result.loss - float(said.loss.detach()):.1e}, gradients {furthest:.1e}")
    assert furthest < CLOSE
    if kind == "single":
        right = (said.logits.argmax(1) == targets(kind, labels, rows)).float().mean()
        assert result.means["accuracy"] == pytest.approx(float(right))


@pytest.fixture(scope="module")
def bert(save_family: Save) -> Path:
    return saved(save_family, "bert", "single", max_position_embeddings=16)


def test_smoothing_and_class_weights_are_those_of_the_formulas(bert: Path) -> None:
    rows = examples("single")
    encoder, samples, labels = learnt(bert, rows)
    truth = targets("single", labels, rows)
    weights = class_weights(truth.tolist(), 4, [1.0, 2.0, 4.0, 8.0])
    objective = Supervised(TASK, "classify", Weighing(0.1, weights))
    batch, model = objective.batch(samples), Model(encoder.network, encoder.heads).eval()
    part = objective.loss(model, batch).losses["classify"]
    head = encoder.heads["classify"]
    logs = head(encoder.network(batch.tokens, batch.types).last).detach().log_softmax(1)
    losses = [weights[y] * -(0.9 * float(row[y]) + 0.1 * float(row.mean())) for row, y in zip(logs, truth.tolist())]
    assert float(part.total.detach()) == pytest.approx(sum(losses), rel=1e-5)
    assert part.count == len(rows)
    assert np.mean([weights[y] for y in truth]) == pytest.approx(1)
    assert weights[3] == pytest.approx(8 * weights[0])


def test_balanced_weights_give_each_label_the_same_share() -> None:
    numbers = [0, 0, 0, 0, 0, 0, 1, 2, 2]
    weights = class_weights(numbers, 3)
    totals = [sum(weights[y] for y in numbers if y == label) for label in range(3)]
    assert totals == pytest.approx([3.0, 3.0, 3.0])
    for wrong in ([1.0], [1.0, 0.0, 1.0], [1.0, math.nan, 1.0]):
        with pytest.raises(InputError, match="class weights must be 3"):
            class_weights(numbers, 3, wrong)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_windows_are_learnt_as_they_are_read(bert: Path, reduce: Any) -> None:
    rows = examples("single")
    windows = Windows(length=7, stride=3, reduce=reduce)
    encoder, samples, labels = learnt(bert, rows, windows)
    assert {len(sample.sequences) for sample in samples} >= {1, 2, 3}
    assert [sample.cut for sample in samples] == [0] * len(rows)
    objective = Supervised(TASK, "classify", Weighing(reduce=reduce))
    order = [5, 0, 3, 2, 1, 4, 7, 6]
    batch = objective.batch([samples[i] for i in order])
    result = objective.loss(Model(encoder.network, encoder.heads).eval(), batch)
    logits = []
    for i in order:
        alone = [torch.tensor(one.ids) for one in samples[i].sequences]
        parts = [encoder.heads["classify"](encoder.network(_one(ids)).last)[0] for ids in alone]
        logits.append(torch.stack(parts).mean(0) if reduce == "mean" else torch.stack(parts).amax(0))
    truth = targets("single", labels, [rows[i] for i in order])
    expected = F.cross_entropy(torch.stack(logits), truth, reduction="sum")
    torch.testing.assert_close(result.losses["classify"].total, expected, rtol=1e-5, atol=1e-5)
    firsts = batch.labels["classify"].rows
    assert firsts is not None
    assert batch.tokens.data[firsts].tolist() == [2] * len(rows)
    assert (firsts.diff() > 0).all()
    pipe = pipeline("text-classification", bert, device="cpu")
    answers = pipe.answers(TASK.request_of([rows[i] for i in order], windows, None))
    best = [labels.names.index(answer[0]["label"]) for answer in answers]
    assert best == torch.stack(logits).argmax(1).tolist()
    said = pipe([TEXTS[i] for i in order], top_k=None, windows=reduce, stride=3, max_length=7)
    assert said == answers


def _one(ids: Tensor) -> Any:
    from bothways import Ragged

    return Ragged.of([ids])


# Answers


def same(ours: Any, theirs: Any) -> None:
    assert [one["label"] for one in ours] == [one["label"] for one in theirs]
    assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-5)
    assert all(type(one["score"]) is float for one in ours)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_and_pairs_get_the_answers_of_transformers(save_family: Save, family: str, kind: str) -> None:
    folder = saved(save_family, family, kind)
    ours = pipeline("text-classification", folder, device="cpu")
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    if not ours._config.types:  # or such a model would be given types that it does not have
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    theirs = transformers.pipeline("text-classification", str(folder), tokenizer=tokenizer, device="cpu")
    for mine, text in zip(ours(TEXTS, top_k=None), TEXTS, strict=True):
        same(mine, theirs(text, top_k=None))
    dicts = [{"text": first, "text_pair": second} for first, second in zip(TEXTS, SECONDS)]
    expected = [theirs(one, top_k=None) for one in dicts]
    for answers in (ours(TEXTS, text_pair=SECONDS, top_k=None), ours(dicts, top_k=None)):
        for mine, other in zip(answers, expected, strict=True):
            same(mine, other)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("top_k", [1, 2, 9, None])
def test_scores_are_made_as_asked(bert: Path, function: str, top_k: int | None) -> None:
    theirs = transformers.pipeline("text-classification", str(bert), device="cpu")
    ours = pipeline("text-classification", bert, device="cpu")
    for text in TEXTS[:3]:
        options = {"function_to_apply": function, "top_k": top_k}
        same(ours(text, **options), theirs(text, **options))


def test_one_label_alone_gets_a_sigmoid_as_by_transformers(save_family: Save) -> None:
    folder = save_family("bert", kind=KIND, num_labels=1)
    theirs = transformers.pipeline("text-classification", str(folder), device="cpu")
    same(pipeline("text-classification", folder, device="cpu")(TEXTS[0]), theirs(TEXTS[0], top_k=1))


def test_one_input_gives_one_answer_and_a_list_a_list(bert: Path) -> None:
    ask = pipeline("text-classification", bert, device="cpu")
    (one,) = ask(TEXTS[0])
    assert one.keys() == {"label", "score"}
    assert ask([TEXTS[0]]) == [[one]]
    assert ask({"text": TEXTS[0]}) == [one]
    assert ask([{"text": TEXTS[0]}, TEXTS[0]]) == [[one], [one]]
    assert ask(TEXTS[0], text_pair="dog") == ask({"text": TEXTS[0], "text_pair": "dog"})
    assert ask([]) == []
    assert ask([], windows="max") == []
    with pytest.warns(TruncationWarning, match="cut to 16 tokens"):
        ask("the cat " * 30)
    assert ask("a dog", windows="mean") == ask("a dog")


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        ("a", {"top_k": 0}, "top_k must be a whole number"),
        ("a", {"top_k": True}, "top_k must be a whole number"),
        ("a", {"max_length": "8"}, "max_length must be a whole number"),
        ("a", {"max_length": 17}, "between 1 and the model's 16 positions"),
        ("a", {"max_length": 17, "windows": "mean"}, "longer than the 16"),
        ("a", {"function_to_apply": "tanh"}, "softmax, sigmoid, none"),
        ("a", {"function_to_apply": ["softmax"]}, "softmax, sigmoid, none"),
        ("a", {"windows": "median"}, "windows must be one of mean, max"),
        ("a", {"windows": 8}, "windows must be one of mean, max"),
        ("a", {"stride": 3}, "stride is for windows"),
        ("a", {"stride": 1.5, "windows": "mean"}, "stride must be a whole number"),
        ("a", {"stride": 14, "windows": "mean"}, "windows must move on"),
        ("a", {"text_pair": ["b", "c"]}, "1 texts need as many second texts"),
        ("a", {"text_pair": 3}, "int"),
        (["a", "b"], {"text_pair": ["b", None]}, "text 1 is not a string but NoneType"),
        ([{"text": "a", "text_pair": "b"}, "c"], {}, "text 1 has no second text"),
        ([{"text": "a"}], {"text_pair": ["b"]}, "not both"),
        ([{"premise": "a"}], {}, "text 0 must have the keys text and perhaps text_pair, got premise"),
        ({"text": "a", "text_pairs": "b"}, {}, "text_pairs"),
        ([("a", "b")], {}, "text 0 is not a string but tuple"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(bert: Path, inputs: Any, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        pipeline("text-classification", bert, device="cpu")(inputs, **options)
    assert "\n" not in str(caught.value)


# Labelled rows


def row(label: Any, text: str = "a dog", pair: str | None = None, line: int = 2) -> Example:
    return Example(text, pair, label, f"rows.csv: line {line}")


@pytest.mark.parametrize(
    ("labels", "rows", "says"),
    [
        (Labels("single", ("bad", "good")), [row("goood")], "line 2, column 'label': unknown label 'goood'; did you"),
        (Labels("single", ("LABEL_0", "LABEL_1")), [row("1")], "known are LABEL_0, LABEL_1"),
        (Labels("single", ("bad", "good")), [row(("bad", "good"))], "several labels, where one is expected"),
        (Labels("single", ("LABEL_0",)), [row("1")], "single label, LABEL_0"),
        (Labels("single", ("yes", "yes")), [row("yes")], "two labels with the name 'yes'"),
        (Labels("multi", ("bad", "good")), [row(("bad", "god"))], "unknown label 'god'"),
        (Labels("regression"), [row("1.5"), row(math.nan, line=3)], "line 3, column 'label': nan"),
        (Labels("regression"), [row("good")], "'good' is not a number"),
        (Labels("regression", ("x", "y")), [row(1.0)], "gives 2 numbers"),
        (Labels("single", ("bad", "good")), [], "no labelled rows"),
        (None, [row("good"), row("good")], "all 2 rows have the label 'good'"),
        (None, [], "no rows"),
    ],
    ids=str,
)
def test_labels_that_cannot_be_learnt_are_refused(labels: Labels | None, rows: list[Example], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TASK.labels_of(rows, labels)


def test_a_row_that_has_no_room_is_named(bert: Path) -> None:
    long = "the cat sat on the mat and ran to the red house"
    rows = [row("bad", pair="dog"), row("good", long, long, line=7)]
    with pytest.raises(InputError, match=r"rows.csv: line 7: pair 0: 16 tokens"):
        learnt(bert, rows, Windows())
    with pytest.raises(InputError, match="line 7 has no second text"):
        learnt(bert, [row("bad", pair="dog"), row("good", line=7)])
    facts = Facts(tokenizer_of(Encoder.from_pretrained(bert), "it"), {}, 16)
    for length, says in ((17, "between 1 and the model's 16"), (2, "^a limit of 2 tokens")):
        with pytest.raises(InputError, match=says):
            TASK.samples([row("bad")], Labels("single", ("bad", "good")), facts, None, length)


def test_tokens_that_are_cut_are_counted(bert: Path) -> None:
    _, samples, _ = learnt(bert, [row("bad"), row("good", "the cat " * 20)])
    assert [sample.cut for sample in samples] == [0, 40 - 14]
    assert [len(sample) for sample in samples] == [4, 16]


@pytest.mark.parametrize("kind", PROBLEMS)
def test_rows_are_evaluated_by_what_the_pipeline_says(save_family: Save, kind: str) -> None:
    pipe = pipeline("text-classification", saved(save_family, "bert", kind), device="cpu")
    rows = examples(kind, pairs=True)
    labels = TASK.labels_of(rows, pipe._facts.labels)
    answers = pipe.answers(TASK.request_of(rows, None, None))
    outcomes = [TASK.outcome(*one, labels) for one in zip(rows, answers, strict=True)]
    metrics = TASK.metrics(outcomes, labels)
    assert TASK.best(labels) in metrics
    scores = {one["label"]: one["score"] for one in answers[2]}
    expected = [scores[name] for name in labels.names]
    np.testing.assert_array_equal(outcomes[2].scores, np.array(expected, dtype=np.float32))
    if kind == "single":
        right = sum(answer[0]["label"] == row.label for answer, row in zip(answers, rows))
        assert metrics["accuracy"] == pytest.approx(right / len(rows))
        assert TASK.confusion(outcomes, labels).trace() == right
    if kind == "multi":
        said = [{one["label"] for one in answer if one["score"] >= 0.5} for answer in answers]
        assert metrics["accuracy"] == np.mean([set(row.label) == own for row, own in zip(rows, said)])  # type: ignore[arg-type]
    if kind == "regression":
        truth = [row.label for row in rows]
        assert metrics["pearson"] == pytest.approx(np.corrcoef(truth, [a[0]["score"] for a in answers])[0, 1])  # type: ignore[list-item]
    if kind != "regression":
        assert list(TASK.table(outcomes, labels)) == list(labels.names)
        with pytest.raises(InputError, match="is on one side only"):
            TASK.outcome(rows[0], answers[0], Labels(labels.kind, (*labels.names[:3], "other")))


def test_scores_that_are_no_numbers_are_refused() -> None:
    labels = Labels("single", ("bad", "good"))
    answer = [{"label": "bad", "score": math.nan}, {"label": "good", "score": 0.5}]
    outcomes = [TASK.outcome(row("bad"), answer, labels)]
    with pytest.raises(InputError, match="scores of 1 of 1 rows are no numbers"):
        TASK.metrics(outcomes, labels)
    with pytest.raises(InputError, match="no rows to measure"):
        TASK.metrics([], labels)


def test_labels_a_config_cannot_have_are_refused_before_anything_is_computed(bert: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"problem_type": "guessing"}))
    from bothways import ConfigError

    with pytest.raises(ConfigError, match="problem_type must be one of"):
        pipeline("text-classification", tmp_path, device="cpu")("a dog")


def test_smoothing_and_weights_are_not_for_numbers(save_family: Save) -> None:
    encoder, samples, _ = learnt(saved(save_family, "bert", "regression"), examples("regression"))
    assert isinstance(encoder.heads["classify"], Classifier)
    objective = Supervised(TASK, "classify", Weighing(smoothing=0.1))
    with pytest.raises(InputError, match="for labels, not for numbers"):
        objective.loss(Model(encoder.network, encoder.heads), objective.batch(samples))
