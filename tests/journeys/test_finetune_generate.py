"""What a user does who trains a model to write one text from another, at the prompt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from prompt import fails_with_one_line, run
from small_rows import reversed_texts

import bothways
from bothways.train import seq2seq, seq2seq_judging

Save = Callable[..., Path]
SHORT = ("--precision", "fp32", "--batch-size", "8", "--epochs", "2", "--log-every", "1", "--max-new-tokens", "12")

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.fixture(scope="module")
def encoder(save_bert: Save) -> Path:
    return save_bert(std=0.05, seed=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same rows as a table, as two files, and as SciTLDR has them."""
    folder = tmp_path_factory.mktemp("parallel")
    for name, rows in (("train", reversed_texts(24)), ("held", reversed_texts(8, 1))):
        sides = {"en": [row.source for row in rows], "de": [row.targets[0] for row in rows]}
        for side, texts in sides.items():
            (folder / f"{name}.{side}").write_text("".join(f"{text}\n" for text in texts))
        pairs = list(zip(*sides.values()))
        (folder / f"{name}.tsv").write_text("".join(f"{one}\t{other}\n" for one, other in [("en", "de"), *pairs]))
        listed = [{"source": one.split(), "target": [other, one]} for one, other in pairs]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    return folder


def test_a_table_two_files_and_lists_make_the_same_model(
    encoder: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = {
        "tsv": (f"{files}/train.tsv", "--eval", f"{files}/held.tsv"),
        "two": (f"{files}/train.en", "--train-target", f"{files}/train.de"),
        "jsonl": (f"{files}/train.jsonl", "--eval", f"{files}/held.jsonl"),
    }
    told, weights = {}, set()
    for name, (train, *more) in ways.items():
        held = ("--eval", f"{files}/held.en", "--eval-target", f"{files}/held.de") if name == "two" else ()
        output = tmp_path / name
        named = ("--metrics", "bleu,chrf", "--metrics", "rouge") if name == "two" else ()
        flags = ("--train", train, *more, *held, *named, "--output", output, *SHORT, "--json")
        assert run("finetune", "generate", "--model", encoder, *flags) == 0
        captured = capsys.readouterr()
        told[name] = json.loads(captured.out)
        weights.add((output / "model" / "model.safetensors").read_bytes())
        said = {"tsv": "source 'en', target 'de'", "two": "train.de", "jsonl": "source 'source', target 'target'"}
        assert said[name] in captured.err
        assert "fresh: a bert decoder of 2 layers × 32" in captured.err
    assert len(weights) == 1
    assert list(told["tsv"]["metrics"]) == ["loss", "accuracy", "bleu", "chrf", "rouge1", "rouge2", "rougeL"]
    assert told["tsv"]["metrics"] == told["two"]["metrics"]
    assert told["jsonl"]["metrics"]["chrf"] >= told["tsv"]["metrics"]["chrf"]  # the source is right there, too
    assert told["tsv"]["best_metric"] == "loss"
    best = told["tsv"]["runs"][0]["best"]
    assert best["loss"] == min(row["held_out"]["loss"] for row in logged(tmp_path / "tsv") if "held_out" in row)


def logged(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_the_model_is_asked_at_the_prompt_and_transformers_loads_it(
    encoder: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--train", f"{files}/train.tsv", "--output", tmp_path, *SHORT, "--metrics", "none", "--depth", "1")
    assert run("finetune", "generate", "--model", encoder, *flags) == 0
    capsys.readouterr()
    assert run("generate", tmp_path / "model", "a dog", "--max-new-tokens", "5") == 0
    ours = capsys.readouterr().out.strip()
    pipe = bothways.pipeline("text2text-generation", tmp_path / "model", device="cpu")
    assert ours == pipe("a dog", max_new_tokens=5)[0]["generated_text"].strip()
    theirs = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "model")
    assert theirs.config.decoder.num_hidden_layers == 1
    card = (tmp_path / "model" / "README.md").read_text()
    assert "transformers.EncoderDecoderModel.from_pretrained" in card
    assert "| family | bert |" in card


@pytest.mark.parametrize("alone", [False, True])
def test_evaluate_finds_again_what_the_run_found_and_generate_writes_what_it_judged(
    alone: bool,
    encoder: Path,
    save_family: Save,
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In parts as in one, with the prefix that it was trained with and, of a decoder alone, the separator, and no
    other."""
    start = save_family("gpt2", kind="LMHeadModel", std=0.1) if alone else encoder
    more = ("--separator", " is", "--max-source-length", "9") if alone else ("--adapter", "resample")
    more = (*more, "--prefix", "the cat ")
    rows = ("--train", f"{files}/train.tsv", "--eval", f"{files}/held.tsv", "--output", tmp_path / "run")
    assert run("finetune", "generate", "--model", start, *rows, *SHORT, *more, "--json") == 0
    wanted = json.loads(capsys.readouterr().out)["metrics"]
    model = tmp_path / "run" / "model"
    monkeypatch.setattr(seq2seq_judging, "ROWS_AT_A_TIME", 3)
    ways = {
        "tsv": ("--data", f"{files}/held.tsv", "--source", "en", "--target", "de"),
        "two": ("--data", f"{files}/held.en", "--data-target", f"{files}/held.de", "--output", tmp_path / "told"),
    }
    for way in ways.values():
        assert run("evaluate", model, *way, "--max-new-tokens", "12", "--json") == 0
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        assert (found["task"], found["rows"]) == ("generate", 8)
        assert found["metrics"] == pytest.approx(wanted, rel=1e-5)
        assert list(found["metrics"]) == list(wanted)
    assert json.loads((tmp_path / "told" / "metrics.json").read_text()) == found
    texts = [json.loads(line) for line in (tmp_path / "told" / "texts.jsonl").read_text().splitlines()]
    assert [one["source"] for one in texts] == (files / "held.en").read_text().splitlines()
    assert texts[1]["place"] == f"{files}/held.en: line 2"
    assert run("generate", model, "--input", f"{files}/held.en", "--max-new-tokens", "12") == 0
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [one["text"] for one in texts]
    assert run("predict", model, "--data", f"{files}/held.tsv", "--source", "en", "--output", tmp_path / "a.jsonl") == 0
    assert run("generate", model, "--input", f"{files}/held.en", "--output", tmp_path / "b.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[1])["row"] == 2
    sources = (files / "held.en").read_text().splitlines()
    numbered = [json.dumps({"source": text, "target": i}) + "\n" for i, text in enumerate(sources)]
    (tmp_path / "numbered.jsonl").write_text("".join(numbered))  # targets that are none, and that it does not need
    assert run("predict", model, "--data", tmp_path / "numbered.jsonl", "--output", tmp_path / "c.jsonl") == 0
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()
    before = ("--prefix", "a mat on ", "--output")
    data = ("--data", f"{files}/held.tsv", "--source", "en")
    assert run("predict", model, *data, *before, tmp_path / "d.jsonl") == 0
    assert run("generate", model, "--input", f"{files}/held.en", *before, tmp_path / "e.jsonl") == 0
    assert (tmp_path / "d.jsonl").read_bytes() == (tmp_path / "e.jsonl").read_bytes()
    none = ("evaluate", model, *ways["tsv"], "--metrics", "none", "--max-samples", "3")
    assert run(*none, "--output", tmp_path / "none") == 0
    printed = capsys.readouterr().out
    assert "3 rows." in printed
    assert "BLEU" not in printed
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["metrics.json"]
    assert "with --metrics none none are" in fails_with_one_line(capsys, *none, "--num-beams", "2")
    assert "It reads each source with 'the cat ' before it" in (model / "README.md").read_text()


def test_flags_of_other_models_are_one_line(
    encoder: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], save_bert: Save
) -> None:
    flags = ("--train", f"{files}/train.tsv", "--output", tmp_path / "run", *SHORT, "--metrics", "none")
    assert run("finetune", "generate", "--model", encoder, *flags) == 0
    capsys.readouterr()
    model, held, lines = tmp_path / "run" / "model", f"{files}/held.tsv", f"{files}/held.en"
    labels = save_bert(kind="BertForSequenceClassification")
    for command, said in {
        ("evaluate", model, "--data", lines): "name the file of their targets with --data-target",
        ("evaluate", model, "--data", held, "--num-beams", "0"): "num_beams must be",
        ("predict", model, "--data", held, "--output", tmp_path / "a.csv", "--question", "en"): "--question is not for",
        ("predict", model, "--data", held, "--label", "de", "--output", tmp_path / "a.jsonl"): "leave --text-pair and",
        ("evaluate", model, "--data", held, "--tune-thresholds"): "--tune-thresholds is not for a model that writes",
        ("evaluate", model, "--data", held, "--max-length", "5"): "say --max-source-length",
        ("evaluate", model, "--data", held, "--text", "en"): "are --source and --target: leave --text",
        ("evaluate", model, "--data", held, "--metrics", "blue"): "metrics must be one of bleu, chrf, rouge, none",
        ("evaluate", model, "--data", held, "--source", "fr"): "has no column 'fr'",
        ("evaluate", model, "--data", held, "--kind", "classify"): "writes texts, and does nothing else",
        ("evaluate", encoder, "--data", held, "--kind", "generate"): "has no decoder, so it writes nothing",
        ("evaluate", labels, "--data", held, "--num-beams", "2"): "--num-beams is for a model that writes",
        ("evaluate", labels, "--data", held, "--source", "en"): "--source is for a model that writes",
        ("predict", model, "--data", lines, "--output", tmp_path / "a.csv"): f"generate {model} --input {lines}",
        ("predict", model, "--data", held, "--output", tmp_path / "a.csv", "--top-k", "2"): "--top-k is for classify",
        (
            "predict",
            labels,
            "--data",
            held,
            "--output",
            tmp_path / "a.csv",
            "--prefix",
            "a",
        ): "--prefix is for generate",
    }.items():
        assert run(*command) == 2
        captured = capsys.readouterr()
        assert said in captured.err.splitlines()[-1], command
        assert captured.out == ""


def test_an_adapter_is_told_on_the_card(encoder: Path, files: Path, tmp_path: Path) -> None:
    flags = ("--train", f"{files}/train.tsv", "--output", tmp_path, *SHORT, "--metrics", "none")
    assert run("finetune", "generate", "--model", encoder, *flags, "--adapter", "resample", "--layers", "0") == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "transformers does not know its adapter" in card
    assert "| kind | resample |" in card
    assert (tmp_path / "model" / "adapter" / "config.json").exists()


class Killed(BaseException):
    """As if the process were."""


def test_a_run_that_is_killed_goes_on_from_its_checkpoint(
    encoder: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same bits, from rows of a frozen encoder that are still there."""

    def tune(output: Path, *flags: str) -> int:
        rows = ("--train", f"{files}/train.tsv", "--eval", f"{files}/held.tsv", "--output", output)
        return run("finetune", "generate", "--model", encoder, *rows, *SHORT, "--layers", "0", *flags)

    assert tune(tmp_path / "whole", "--save-every", "2") == 0
    measure, calls = seq2seq._metrics, []

    def dying(*arguments: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 1:
            raise Killed
        return measure(*arguments)

    monkeypatch.setattr(seq2seq, "_metrics", dying)
    with pytest.raises(Killed):
        tune(tmp_path / "parts", "--save-every", "2")
    assert (tmp_path / "parts" / "states.f32").exists()
    assert tune(tmp_path / "parts", "--save-every", "2", "--resume") == 0
    for name in ("model", "best"):
        whole, parts = (tmp_path / one / name / "model.safetensors" for one in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def test_what_cannot_be_is_one_line(
    encoder: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.de").write_text("eins\nzwei\n")
    (tmp_path / "empty.tsv").write_text("en\tde\na\tb\n\tc\n")

    def fails(*flags: str | Path) -> str:
        command = ("finetune", "generate", "--output", tmp_path / "run", *SHORT, *flags)
        assert run(*command) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.strip().splitlines()[-1]

    model = ("--model", encoder)
    said = fails(*model, "--train", f"{files}/train.en", "--train-target", tmp_path / "short.de")
    assert said == (
        f"bothways: {files}/train.en has 24 lines, {tmp_path}/short.de 2: their lines must go together, one with one"
    )
    assert "empty.tsv: line 3: its source ('en') is empty" in fails(*model, "--train", tmp_path / "empty.tsv")
    assert "name the file of their sources" in fails(*model, "--train-target", tmp_path / "short.de")
    alone = fails(*model, "--train", f"{files}/train.en")
    assert "train.en: its name does not say what it is: of lines of sources, name the file of their targets" in alone
    assert "with --train-target; of a table, give --format" in alone
    held = fails(*model, "--train", f"{files}/train.tsv", "--eval", f"{files}/held.en")
    assert "held.en: its name does not say" in held
    assert "--eval-target" in held
    assert "say where the rows are" in fails(*model)
    assert "model is missing" in fails("--train", f"{files}/train.tsv")
    unknown = fails_with_one_line(capsys, "finetune", "generate", *model, "--adaptor", "linear")
    assert "unknown flag --adaptor; did you mean adapter?" in unknown
    assert not (tmp_path / "run").exists()


def test_each_command_tells_its_own_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("finetune", "--help") == 0
    told = capsys.readouterr().out
    assert "bothways finetune classify --help" in " ".join(told.split())
    assert "lora_rank" not in told
    assert run("finetune", "classify", "--help") == 0
    told = capsys.readouterr().out
    assert "lora_rank" in told
    assert "target_tokenizer" not in told


def test_every_key_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("finetune", "generate", "--help") == 0
    told = capsys.readouterr().out
    for key in ("encoder_lr", "adapter_rows", "target_tokenizer", "train_target", "smoothing", "num_beams", "resume"):
        assert f"{key}" in told, key
