"""Models with heads are evaluated, and predict for files, at the prompt: every kind of row, kills, and mistakes."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as theirs
import torch
import transformers
from prompt import fails_with_one_line, run
from seqeval.metrics import classification_report

from bothways import pipeline
from bothways.checkpoint.encoder import Encoder
from bothways.tasks.metrics import squad_metrics

Save = Callable[..., Path]
WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "ran", "to", "house", "red", "blue", "is", "was", "able"]
LABELS = ["bad", "good", "so-so"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def names(labels: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def some_text(r: random.Random, most: int = 9) -> str:
    return " ".join(r.choices(WORDS, k=r.randint(1, most)))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert run("evaluate", *arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def their_logits(folder: Path, rows: Sequence[dict[str, Any]]) -> torch.Tensor:
    """transformers' own, a text or a pair at a time."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat(
            [
                model(**tokenizer(*row["texts"], return_tensors="pt", truncation=True, max_length=24)).logits
                for row in rows
            ]
        )


@pytest.fixture(scope="module")
def single(save_bert: Save) -> Path:
    keys = {"std": 0.5, "problem_type": "single_label_classification", **names(LABELS)}
    return save_bert(kind="BertForSequenceClassification", **keys)


@pytest.fixture(scope="module")
def multi(save_bert: Save) -> Path:
    keys = {"std": 0.3, "problem_type": "multi_label_classification", **names(["a", "b", "c", "d"])}
    return save_bert(kind="BertForSequenceClassification", **keys)


@pytest.fixture(scope="module")
def answerer(save_bert: Save) -> Path:
    return save_bert(kind="BertForQuestionAnswering", max_position_embeddings=48, std=0.4)


@pytest.fixture(scope="module")
def single_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r = random.Random(1)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    return write(path, [{"text": some_text(r), "label": r.choice(LABELS)} for _ in range(120)])


@pytest.mark.parametrize("pairs", [False, True])
def test_labels_are_judged_as_scikit_learn_judges_what_transformers_says(
    single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pairs: bool
) -> None:
    r = random.Random(2)
    rows = [{"texts": [some_text(r) for _ in range(1 + pairs)], "label": r.choice(LABELS)} for _ in range(90)]
    named = [{**dict(zip(("sentence1", "sentence2"), row["texts"])), "label": row["label"]} for row in rows]
    data = write(tmp_path / "rows.jsonl", named)
    found = evaluated(capsys, single, "--data", data, "--output", tmp_path / "out")
    truth = [LABELS.index(row["label"]) for row in rows]
    scores = their_logits(single, rows).softmax(1).numpy()
    said = scores.argmax(1)
    assert len(set(said.tolist())) > 1
    assert found["task"] == "classify"
    assert found["metrics"]["accuracy"] == pytest.approx(theirs.accuracy_score(truth, said))
    assert found["metrics"]["macro_f1"] == pytest.approx(theirs.f1_score(truth, said, average="macro"))
    assert found["metrics"]["mcc"] == pytest.approx(theirs.matthews_corrcoef(truth, said))
    each = theirs.precision_recall_fscore_support(truth, said, zero_division=0)
    for i, label in enumerate(LABELS):
        own = [found["labels"][label][name] for name in ("precision", "recall", "f1", "support")]
        assert own == pytest.approx([column[i] for column in each])
    with (tmp_path / "out" / "per_label.csv").open(encoding="utf-8", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == LABELS
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told == found
    assert sum(one["answers"] for one in found["calibration"]) == len(rows)
    # The mistakes: all that are wrong, the surest first.
    wrong = sorted((i for i in range(len(rows)) if said[i] != truth[i]), key=lambda i: -scores[i].max())
    mistakes = lines_of(tmp_path / "out" / "mistakes.jsonl")
    assert [one["score"] for one in mistakes] == pytest.approx([float(scores[i].max()) for i in wrong], abs=1e-5)
    assert {one["place"] for one in mistakes} == {f"{data}: line {i + 1}" for i in wrong}
    for one in mistakes:
        i = int(one["place"].rpartition(" ")[2]) - 1
        assert [one["text"], *([one["text_pair"]] if pairs else [])] == rows[i]["texts"]
        assert (one["truth"], one["answer"]) == (rows[i]["label"], LABELS[said[i]])
    for picture in ("confusion.png", "reliability.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_several_labels_are_judged_tuned_and_the_thresholds_heeded(
    multi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    r = random.Random(3)
    rows = [{"texts": [some_text(r)], "labels": [x for x in "abcd" if r.random() < 0.4]} for _ in range(80)]
    data = write(tmp_path / "rows.jsonl", [{"text": row["texts"][0], "labels": row["labels"]} for row in rows])
    folder = Path(shutil.copytree(multi, tmp_path / "model"))
    found = evaluated(capsys, folder, "--data", data)
    truth = np.array([[x in row["labels"] for x in "abcd"] for row in rows])
    said = their_logits(multi, rows).sigmoid().numpy() >= 0.5
    for name in ("micro", "macro"):
        expected = theirs.f1_score(truth, said, average=name, zero_division=0)
        assert found["metrics"][f"{name}_f1"] == pytest.approx(expected)
    assert run("evaluate", folder, "--data", data) == 0
    assert "tuned on these rows" in capsys.readouterr().out
    assert run("evaluate", folder, "--data", data, "--tune-thresholds", "--save", "--output", tmp_path / "out") == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["label_thresholds"] == found["tuned"]["thresholds"]
    assert config.keys() - {"label_thresholds"} == json.loads((multi / "config.json").read_text()).keys()
    again = evaluated(capsys, folder, "--data", data)
    assert again["metrics"]["macro_f1"] == pytest.approx(found["tuned"]["metrics"]["macro_f1"])
    assert again["metrics"]["macro_f1"] > found["metrics"]["macro_f1"]
    for own in found["tuned"]["labels"]:
        assert again["labels"][own["label"]]["f1"] == pytest.approx(own["tuned_f1"])
    transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    # What is predicted is what was judged.
    assert run("predict", folder, "--data", data, "--output", tmp_path / "p.jsonl", "--all-scores") == 0
    lines = lines_of(tmp_path / "p.jsonl")
    decided = np.array([[x in line["labels"] for x in "abcd"] for line in lines])
    assert theirs.f1_score(truth, decided, average="macro") == pytest.approx(again["metrics"]["macro_f1"])
    assert [{one["label"] for one in line["scores"]} for line in lines] == [set("abcd")] * len(rows)


def test_the_threshold_of_two_labels_is_tuned_and_heeded(
    save_bert: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_bert(kind="BertForSequenceClassification", std=0.4, **names(["no", "yes"]))
    r = random.Random(4)
    data = write(tmp_path / "rows.jsonl", [{"text": some_text(r), "label": r.choice(["no", "yes"])} for _ in range(70)])
    found = evaluated(capsys, folder, "--data", data, "--tune-thresholds", "--save")
    again = evaluated(capsys, folder, "--data", data)
    (yes,) = found["tuned"]["labels"]
    assert again["labels"]["yes"]["f1"] == pytest.approx(yes["tuned_f1"])
    assert yes["tuned_f1"] >= yes["f1"]
    assert again["metrics"]["mcc"] == pytest.approx(found["tuned"]["metrics"]["mcc"])
    assert run("predict", folder, "--data", data, "--output", tmp_path / "p.csv") == 0
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        said = [row["label"] for row in csv.DictReader(file)]
    truth = [row["label"] for row in lines_of(data)]
    assert theirs.accuracy_score(truth, said) == pytest.approx(again["metrics"]["accuracy"])


def test_numbers_are_judged_by_correlation_and_the_furthest_off_are_mistakes(
    save_bert: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_bert(kind="BertForSequenceClassification", num_labels=1, problem_type="regression")
    r = random.Random(5)
    rows = [{"texts": [some_text(r)], "score": r.uniform(-1, 1)} for _ in range(40)]
    data = write(tmp_path / "rows.jsonl", [{"text": row["texts"][0], "score": row["score"]} for row in rows])
    found = evaluated(capsys, folder, "--data", data, "--output", tmp_path / "out", "--mistakes", "3")
    said, truth = their_logits(folder, rows)[:, 0].numpy(), np.array([row["score"] for row in rows])
    assert found["metrics"]["pearson"] == pytest.approx(np.corrcoef(said, truth)[0, 1], abs=1e-5)
    mistakes = lines_of(tmp_path / "out" / "mistakes.jsonl")
    assert [one["score"] for one in mistakes] == pytest.approx(sorted(abs(said - truth))[:-4:-1], abs=1e-5)
    assert not (tmp_path / "out" / "confusion.png").exists()


def test_entities_are_judged_as_seqeval_judges_what_transformers_tags(
    tiny_tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    r = random.Random(6)
    kinds = [["B-PER", "I-PER", "O"], ["O", "B-LOC"], ["B-LOC", "I-LOC", "I-LOC"], ["O"]]
    sentences = [some_text(r, 6).split() for _ in range(50)]
    truth = [[tag for _ in words for tag in r.choice(kinds)][: len(words)] for words in sentences]
    parts = ["\n".join(f"{w} {t}" for w, t in zip(words, tags)) for words, tags in zip(sentences, truth)]
    data = tmp_path / "test.conll"
    data.write_text("\n\n".join(parts) + "\n")
    model = transformers.AutoModelForTokenClassification.from_pretrained(tiny_tagger).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(tiny_tagger)
    said = []
    for words in sentences:
        inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        best = model(**inputs).logits[0].argmax(-1).tolist()
        of = inputs.word_ids()
        said.append([TAGS[best[of.index(i)]] for i in range(len(words))])
    found = evaluated(capsys, tiny_tagger, "--data", data, "--output", tmp_path / "out")
    report = classification_report(truth, said, output_dict=True, zero_division=0)
    for kind in ("PER", "LOC"):
        expected = [report[kind][name] for name in ("precision", "recall", "f1-score", "support")]
        own = [found["labels"][kind][name] for name in ("precision", "recall", "f1", "support")]
        assert own == pytest.approx(expected)
    assert found["metrics"]["f1"] == pytest.approx(report["micro avg"]["f1-score"])
    assert sum(one["answers"] for one in found["calibration"]) == sum(map(len, truth))
    first = lines_of(tmp_path / "out" / "mistakes.jsonl")[0]
    assert first["answer"] != first["truth"]
    assert first["score"] == max(one["score"] for one in first["wrong"])
    # Predicted: entities as the pipeline has them, or a tag for each word.
    for flags in ((), ("--aggregation-strategy", "words")):
        assert run("predict", tiny_tagger, "--data", data, "--output", tmp_path / "p.jsonl", *flags) == 0
        lines = lines_of(tmp_path / "p.jsonl")
        assert [line["row"] for line in lines] == list(range(1, 51))
        if flags:
            assert [line["tags"] for line in lines] == said
            assert [line["words"] for line in lines] == sentences
        else:
            texts = [line["text"] for line in lines]
            expected = pipeline("token-classification", tiny_tagger)(texts, aggregation_strategy="simple")
            assert [line["entities"] for line in lines] == expected


def test_plain_tags_have_a_confusion(save_bert: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_bert(kind="BertForTokenClassification", **names(["DET", "NOUN", "VERB"]))
    r = random.Random(7)
    words = [(word, r.choice(["DET", "NOUN", "VERB"])) for word in r.choices(WORDS, k=60)]
    data = tmp_path / "pos.conll"
    data.write_text("".join(f"{w}\t{t}\n" + "\n" * (i % 6 == 5) for i, (w, t) in enumerate(words)))
    found = evaluated(capsys, folder, "--data", data, "--output", tmp_path / "out")
    assert {name: one["support"] for name, one in found["labels"].items()} == {
        tag: sum(t == tag for _, t in words) for tag in ("DET", "NOUN", "VERB")
    }
    assert (tmp_path / "out" / "confusion.png").exists()


def squad(path: Path, r: random.Random, without: bool) -> list[tuple[str, tuple[str, ...]]]:
    """A file of SQuAD's form, and for each question its id and the right answers."""
    paragraphs, golds = [], []
    for i in range(30):
        context, answers = f"{some_text(r, 40)} mat", []
        if not (without and i % 3 == 0):
            word = r.choice([word for word in context.split() if word not in ("a", "the")])  # which count for nothing
            answers = [{"text": word, "answer_start": context.index(word)}]
        asked = {"id": f"q{i}", "question": f"{some_text(r, 4)}?", "answers": answers, "is_impossible": not answers}
        paragraphs.append({"context": context, "qas": [asked]})
        golds.append((f"q{i}", tuple(one["text"] for one in answers)))
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "it", "paragraphs": paragraphs}]}))
    return golds


def test_answers_are_judged_by_squads_measures_and_their_threshold_is_kept(
    answerer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(answerer, tmp_path / "model"))
    golds = squad(tmp_path / "dev.json", random.Random(8), without=True)
    found = evaluated(capsys, folder, "--data", tmp_path / "dev.json", "--tune-null-threshold", "--save")
    threshold = json.loads((folder / "config.json").read_text())["null_threshold"]
    assert threshold == found["metrics"]["best_threshold"]
    again = evaluated(capsys, folder, "--data", tmp_path / "dev.json", "--output", tmp_path / "out")
    assert again["metrics"]["f1"] == pytest.approx(found["metrics"]["best_f1"])
    assert again["metrics"]["f1"] > found["metrics"]["f1"]
    flags = ("--output", tmp_path / "p.jsonl", "--squad-predictions", tmp_path / "preds.json")
    assert run("predict", folder, "--data", tmp_path / "dev.json", *flags) == 0
    said = json.loads((tmp_path / "preds.json").read_text())
    assert list(said) == [key for key, _ in golds]
    expected = squad_metrics([(said[key], right) for key, right in golds])
    assert expected == {name: pytest.approx(again["metrics"][name]) for name in expected}
    for line in lines_of(tmp_path / "p.jsonl"):
        assert line["answer"] == said[line["id"]]
        assert 0 <= line["score"] <= 1
    scores = {line["id"]: line["score"] for line in lines_of(tmp_path / "p.jsonl")}
    mistakes = lines_of(tmp_path / "out" / "mistakes.jsonl")
    assert mistakes
    assert all(one["score"] == scores[one["id"]] for one in mistakes)


def test_choices_are_judged_and_predicted(save_bert: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_bert(kind="BertForMultipleChoice")
    r = random.Random(9)
    rows = [
        {"question": some_text(r), "choices": [some_text(r) for _ in range(r.randint(2, 4))], "label": r.randrange(2)}
        for _ in range(30)
    ]
    data = write(tmp_path / "rows.jsonl", rows)
    found = evaluated(capsys, folder, "--data", data)
    expected = pipeline("multiple-choice", folder)([r["question"] for r in rows], [r["choices"] for r in rows])
    right = [one["label"] == row["label"] for one, row in zip(expected, rows)]
    assert found["metrics"]["accuracy"] == pytest.approx(sum(right) / len(right))
    assert run("predict", folder, "--data", data, "--output", tmp_path / "p.jsonl") == 0
    assert lines_of(tmp_path / "p.jsonl") == [{"row": i, **one} for i, one in enumerate(expected, start=1)]
    assert run("predict", folder, "--data", data, "--output", tmp_path / "p.csv") == 0
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert [{"label": int(c["label"]), "scores": json.loads(c["scores"])} for c in cells] == expected


def test_labels_are_predicted_as_the_pipeline_says_them(
    single: Path, single_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [row["text"] for row in lines_of(single_rows)]
    every = pipeline("text-classification", single)(texts, top_k=None)
    write(tmp_path / "texts.jsonl", [{"text": text} for text in texts])  # without labels
    for flags, shown in (((), 0), (("--top-k", "2"), 2), (("--all-scores",), 3)):
        output = tmp_path / "p.jsonl"
        assert run("predict", single, "--data", tmp_path / "texts.jsonl", "--output", output, *flags) == 0
        more = [{"scores": one[:shown]} if shown else {} for one in every]
        assert lines_of(output) == [{"row": i, **o[0], **m} for i, (o, m) in enumerate(zip(every, more), start=1)]
    assert run("predict", single, "--data", single_rows, "--output", tmp_path / "p.csv", "--all-scores") == 0
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert [float(row["score of good"]) for row in cells] == [
        next(one["score"] for one in own if one["label"] == "good") for own in every
    ]
    assert list(tmp_path.glob("*.partial*")) == []


def test_texts_that_are_cut_are_told_once(
    single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bothways.engine.prediction.ROWS_AT_A_TIME", 2)
    monkeypatch.setattr("bothways.engine.evaluation.ROWS_AT_A_TIME", 2)
    rows = [{"text": "cat " * n, "label": "bad"} for n in (3, 30, 40, 5, 25, 22, 23)]
    data = write(tmp_path / "rows.jsonl", rows)
    told = "bothways: warning: 4 of 7 texts were cut to 24 tokens at most (the longest had 42)"
    for command in (("evaluate", single), ("predict", single, "--output", tmp_path / "p.jsonl")):
        assert run(*command, "--data", data) == 0
        assert [line for line in capsys.readouterr().err.splitlines() if "were cut" in line] == [told]
    assert run("evaluate", single, "--data", data, "--windows", "max", "--stride", "2") == 0
    assert "were cut" not in capsys.readouterr().err


SLOW = """
import sys, time
import bothways.engine.prediction as prediction
from bothways.cli.main import main
prediction.ROWS_AT_A_TIME = 10
write = prediction.PartialLines.add
def slow(self, *part):
    write(self, *part)
    time.sleep(0.05)
prediction.PartialLines.add = slow
main(sys.argv[1:])
"""


def test_a_killed_prediction_goes_on_to_the_same_bytes(
    single: Path, single_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, partial = tmp_path / "p.jsonl", tmp_path / "p.jsonl.partial"
    flags = ("--data", single_rows, "--all-scores")
    assert run("predict", single, *flags, "--output", tmp_path / "whole.jsonl") == 0
    command = [sys.executable, "-c", SLOW, "predict", *map(str, (single, *flags, "--output", output))]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "p.jsonl.partial.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not output.exists()
    done = json.loads((tmp_path / "p.jsonl.partial.json").read_text())["rows"]
    assert 0 < done < 120
    with partial.open("ab") as file:
        file.write(b'{"row": 77, "lab')
    capsys.readouterr()
    assert "go on with --resume" in fails_with_one_line(capsys, "predict", single, *flags, "--output", output)
    assert run("predict", single, *flags, "--output", output, "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["resumed_after"] == done
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not partial.exists()


@pytest.fixture
def stopped(
    single: Path,
    single_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[Path, tuple[str | Path, ...]]:
    """A file that Ctrl-C left after 40 rows, and the flags that it is gone on with; it is told how."""
    import bothways.engine.prediction as prediction

    add, output = prediction.PartialLines.add, tmp_path / "p.csv"

    def adding(self: Any, *part: Any) -> None:
        if self.rows == 40:
            raise KeyboardInterrupt
        add(self, *part)

    monkeypatch.setattr(prediction, "ROWS_AT_A_TIME", 20)
    with monkeypatch.context() as patched:
        patched.setattr(prediction.PartialLines, "add", adding)
        assert run("predict", single, "--data", single_rows, "--output", output) == 130
    assert "stopped after 40 rows; go on with --resume" in capsys.readouterr().err
    return output, ("--output", output, "--resume")


def test_an_interrupted_prediction_goes_on_to_the_same_bytes(
    single: Path, single_rows: Path, stopped: tuple[Path, tuple[str | Path, ...]], tmp_path: Path
) -> None:
    output, flags = stopped
    assert run("predict", single, "--data", single_rows, *flags) == 0
    assert run("predict", single, "--data", single_rows, "--output", tmp_path / "whole.csv") == 0
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_only_the_same_is_gone_on_with(
    single: Path,
    single_rows: Path,
    stopped: tuple[Path, tuple[str | Path, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, flags = stopped
    kept = (tmp_path / "p.csv.partial").read_bytes()
    other = Path(shutil.copytree(single, tmp_path / "other"))
    encoder = Encoder.from_pretrained(other)
    with torch.no_grad():
        next(iter(encoder.heads["classify"].parameters())).flatten()[0] += 1e-4
    encoder.save_pretrained(other)
    rows = lines_of(single_rows)
    changed = write(tmp_path / "changed.jsonl", [*rows[:39], {**rows[39], "text": "a cat"}, *rows[40:]])
    fewer = write(tmp_path / "fewer.jsonl", rows[:30])
    capsys.readouterr()

    def fails(*arguments: str | Path) -> str:
        assert run("predict", *arguments, *flags) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "another model" in fails(other, "--data", single_rows)
    assert "another answers" in fails(single, "--data", single_rows, "--all-scores")
    for data in (changed, fewer):
        assert "the rows that are done were others" in fails(single, "--data", data)
    assert (tmp_path / "p.csv.partial").read_bytes() == kept
    assert not output.exists()
    shutil.copytree(single, tmp_path / "moved")  # the same model, elsewhere
    assert run("predict", tmp_path / "moved", "--data", single_rows, *flags) == 0


def test_a_line_that_cannot_be_read_costs_no_line_before_it(
    single: Path, single_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bothways.engine.prediction.ROWS_AT_A_TIME", 8)
    good = single_rows.read_text().splitlines()
    data, output = tmp_path / "rows.jsonl", tmp_path / "p.jsonl"
    # What guesses are made from is read first.
    monkeypatch.setattr("bothways.data.table.SAMPLE_ROWS", 5)
    data.write_text("\n".join([*good[:20], "{broken", *good[20:]]) + "\n")
    assert run("predict", single, "--data", data, "--output", output) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "rows.jsonl: line 21" in said
    assert "(the 16 rows before are done; go on with --resume)" in said
    data.write_text("\n".join(good) + "\n")
    assert run("predict", single, "--data", data, "--output", output, "--resume") == 0
    assert len(lines_of(output)) == len(good)


def test_what_is_wrong_is_said_in_one_line(
    single: Path,
    answerer: Path,
    tiny_tagger: Path,
    tiny_masked: Path,
    single_rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, output = ("--data", single_rows), ("--output", tmp_path / "p.jsonl")

    def said(*arguments: str | Path) -> str:
        capsys.readouterr()
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        *before, last = captured.err.splitlines()
        assert all(line.startswith(f"bothways: {tmp_path}") for line in before)
        return last

    for command in (("evaluate",), ("predict", *output)):
        assert "no head for classify, tag, answer, choose (it has mlm)" in said(*command, tiny_masked, *data)
        assert "has no tagging head" in said(*command, single, *data, "--kind", "tag")
        assert "did you mean tag?" in said(*command, single, *data, "--kind", "tagg")
        assert "say where the rows are" in said(*command, single)
        assert "no such file" in said(*command, single, "--data", tmp_path / "absent.csv")
        assert "--windows is for classification" in said(*command, tiny_tagger, *data, "--windows", "mean")
        assert "say --windows mean" in said(*command, single, *data, "--stride", "3")
    wrong = write(tmp_path / "wrong.jsonl", [{"text": "a", "label": "good"}, {"text": "b", "label": "god"}])
    told = said("evaluate", single, "--data", wrong)
    assert f"{wrong}: line 2" in told
    assert "unknown label 'god'; did you mean 'good'?" in told
    assert "--seeds goes with --probe" in said("evaluate", single, *data, "--seeds", "2")
    assert "not for --probe" in said("evaluate", single, *data, "--probe", "--max-samples", "2")
    assert "--eval" in said("evaluate", single, *data, "--eval", single_rows)
    assert "--save goes with" in said("evaluate", single, *data, "--save")
    assert "several labels, or one of two" in said("evaluate", single, *data, "--tune-thresholds")
    assert "for questions" in said("evaluate", single, *data, "--tune-null-threshold")
    assert "--max-samples must not be 0" in said("evaluate", single, *data, "--max-samples", "0")
    assert ".jsonl or .csv" in said("predict", single, *data, "--output", tmp_path / "p.txt")
    assert "there is no folder" in said("predict", single, *data, "--output", tmp_path / "no" / "p.csv")
    assert "csv is for classify and choose" in said("predict", tiny_tagger, *data, "--output", tmp_path / "p.csv")
    assert "--squad-predictions is for answer" in said("predict", single, *data, *output, "--squad-predictions", "x")
    assert "--top-k must be at least 1" in said("predict", single, *data, *output, "--top-k", "0")
    squad(tmp_path / "dev.json", random.Random(0), without=False)
    flags = ("--data", tmp_path / "dev.json", "--tune-null-threshold", "--save")
    folder = shutil.copytree(answerer, tmp_path / "model")
    before = (tmp_path / "model" / "config.json").read_bytes()
    assert "nothing is saved" in said("evaluate", folder, *flags)
    assert (tmp_path / "model" / "config.json").read_bytes() == before
    assert not (tmp_path / "p.jsonl.partial").exists()


def test_as_many_rows_as_are_said_are_evaluated_on(
    single: Path, single_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(capsys, single, "--data", single_rows, "--max-samples", "30")
    assert found["rows"] == 30
    turned = write(tmp_path / "turned.jsonl", lines_of(single_rows)[::-1])
    again = evaluated(capsys, single, "--data", turned, "--max-samples", "30")
    assert again["metrics"] == pytest.approx(found["metrics"])
