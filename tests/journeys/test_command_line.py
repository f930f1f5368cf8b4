"""What a user does at the prompt, on real text: results on stdout, one line on stderr when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prompt import fails_with_one_line, run
from rich.cells import cell_len

import bothways
from bothways.cli.demo import python_reference
from bothways.cli.main import main


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    texts = [text for _, text in python_reference()[:60]]
    path.write_text("\n".join([*texts, "", "last line without an end"]), encoding="utf-8")
    return path


def test_the_lines_of_a_file_become_the_rows_of_a_matrix(minilm: Path, lines: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npy"
    assert run("embed", minilm, "--input", lines, "--output", output) == 0
    vectors = np.load(output)
    texts = lines.read_text(encoding="utf-8").split("\n")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, bothways.SentenceEncoder(minilm).encode(texts))
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.npy"]


def test_texts_on_the_command_line_become_json(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", minilm, "one", "zwei", "--json", "--normalize", "--truncate-dim", "8") == 0
    vectors = np.array(json.loads(capsys.readouterr().out))
    assert vectors.shape == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_windows_line_ends_and_a_byte_order_mark_are_not_part_of_a_text(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "dos.txt").write_bytes("\ufeffhello\r\nworld\r\n".encode())
    assert run("embed", minilm, "--input", tmp_path / "dos.txt", "--output", tmp_path / "dos.npy") == 0
    plain = bothways.SentenceEncoder(minilm).encode(["hello", "world"])
    np.testing.assert_array_equal(np.load(tmp_path / "dos.npy"), plain)


def test_similarity_prints_the_matrix(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ("What is the capital of France?", "Paris is the capital city of France.")
    assert run("similarity", minilm, *texts) == 0
    assert "0.824" in capsys.readouterr().out
    assert run("similarity", minilm, *texts, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["texts"] == list(texts)
    assert answer["matrix"][0][1] == pytest.approx(0.824, abs=1e-3)


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("count", [2, 6, 13, 30])
def test_a_matrix_of_many_texts_comes_in_parts_and_the_texts_below(
    minilm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, count: int, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run("similarity", minilm, *(f"猫 {i}" for i in range(count))) == 0
    out = capsys.readouterr().out
    assert max(map(cell_len, out.splitlines())) <= columns
    assert out.count("1.000") == count
    named = [line.split() for line in out.splitlines() if "猫" in line]
    assert [(words[0], words[-1]) for words in named] == [(f"{i + 1}", f"{i}") for i in range(count)]


def test_fill_mask_prints_candidates(tiny_masked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fill-mask", tiny_masked, "the [MASK] sat", "[MASK] [MASK]", "--top-k", "3", "--json") == 0
    one, two = json.loads(capsys.readouterr().out)
    assert len(one) == 3
    assert [len(candidates) for candidates in two] == [3, 3]
    assert run("fill-mask", tiny_masked, "the [MASK] sat") == 0
    assert one[0]["token_str"] in capsys.readouterr().out


@pytest.fixture(scope="module")
def tiny_answering(save_bert: Callable[..., Path]) -> Path:
    return save_bert("BertForQuestionAnswering")


def test_answer_shows_answers_in_their_places(
    tiny_answering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = "the cat sat on the mat, a dog ran to the red house\nis it blue?"
    asked = ("answer", tiny_answering, "--question", "the house?")
    assert run(*asked, "--context", context, "--top-k", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["answer"] for one in found] == [context[one["start"] : one["end"]] for one in found]
    assert len(found) == 3
    (tmp_path / "context.txt").write_text(context)
    assert run(*asked, "--context-file", tmp_path / "context.txt", "--json", "--max-answer-len", "1") == 0
    (word,) = [json.loads(capsys.readouterr().out)["answer"]]
    assert run(*asked, "--context", context, "--max-answer-len", "1") == 0
    shown = capsys.readouterr().out
    assert "the house?" in shown
    assert f"[{word}]" in shown
    assert run(*asked, "--context", context, "--top-k", "999", "--handle-impossible-answer") == 0
    assert "(none)" in capsys.readouterr().out


def test_fill_mask_scores_targets(tiny_masked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = ["--target", "cat", "--target", "unable"]
    assert run("fill-mask", tiny_masked, "the [MASK] sat", *targets, "--json") == 0
    ((first, second),) = json.loads(capsys.readouterr().out)
    assert {first["token_str"], second["token_str"]} == {"cat", "unable"}
    assert run("fill-mask", tiny_masked, "the [MASK] sat", *targets) == 0
    assert "unable" in capsys.readouterr().out
    assert run("fill-mask", tiny_masked, "the [MASK] sat", "--pieces", "2") == 0


@pytest.fixture(scope="module")
def classifier(save_bert: Callable[..., Path]) -> Path:
    """It knows of cats and dogs, though it has learnt nothing."""
    return save_bert(kind="BertForSequenceClassification", id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})


def test_classify_prints_labels_best_first(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("classify", classifier, "the cat sat", "a dog", "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert answers == bothways.pipeline("text-classification", classifier)(["the cat sat", "a dog"], top_k=None)
    assert run("classify", classifier, "the cat sat", "--top-k", "1") == 0
    out = capsys.readouterr().out
    assert f"{answers[0][0]['score']:.4f}" in out
    assert answers[0][0]["label"] in out.split()
    assert answers[0][1]["label"] not in out.replace("the cat sat", "").split()


def test_classify_reads_pairs_and_windows(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, ask = ["the cat sat", "a dog"], bothways.pipeline("text-classification", classifier)
    seconds = ["on the mat", "ran"]
    pairs = [word for second in seconds for word in ("--text-pair", second)]
    assert run("classify", classifier, *texts, *pairs, "--json") == 0
    assert json.loads(capsys.readouterr().out) == ask(texts, text_pair=seconds, top_k=None)
    assert run("classify", classifier, *texts, *pairs) == 0
    assert "on the mat" in capsys.readouterr().out
    long = "the cat sat on the mat. " * 9
    assert run("classify", classifier, long, "--windows", "max", "--stride", "3", "--json") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == [ask(long, windows="max", stride=3, top_k=None)]
    assert "stride is for windows" in fails_with_one_line(capsys, "classify", classifier, "a", "--stride", "3")
    assert "as many second texts" in fails_with_one_line(capsys, "classify", classifier, *texts, "--text-pair", "b")
    assert "no text given" in fails_with_one_line(capsys, "classify", classifier)


def test_classify_says_which_head_is_missing(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no classification head" in fails_with_one_line(capsys, "classify", minilm, "a text")


def test_choose_prints_the_best_choice_first(
    save_bert: Callable[..., Path], minilm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chooser = save_bert(kind="BertForMultipleChoice")
    words = ("the cat sat on", "the mat", "a blue house", "dogs")
    assert run("choose", chooser, *words, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == bothways.pipeline("multiple-choice", chooser)(question=words[0], choices=list(words[1:]))
    assert run("choose", chooser, *words) == 0
    shown = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[:1] in ("0", "1")]
    assert shown[0][1].strip() == words[1 + answer["label"]]
    assert [score for score, _ in shown] == [f"{score:.4f}" for score in sorted(answer["scores"], reverse=True)]
    assert "at least two choices" in fails_with_one_line(capsys, "choose", chooser, *words[:2])
    assert "has no multiple-choice head" in fails_with_one_line(capsys, "choose", minilm, *words)


def test_tag_prints_entities(
    tiny_tagger: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    texts = "the café sat  on the mat", "a dog was un able " * 20
    assert run("tag", tiny_tagger, *texts, "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    tag = bothways.pipeline("token-classification", tiny_tagger)
    assert answers == tag(list(texts), aggregation_strategy="simple")
    assert answers[1][-1]["end"] > 300
    assert run("tag", tiny_tagger, texts[0]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == texts[0]
    assert lines[2].split() == ["start", "end", "score", "entity", "text"]
    found = answers[0][0]
    where = [str(found["start"]), str(found["end"]), f"{found['score']:.4f}", found["entity_group"]]
    assert lines[4].split()[:4] == where
    assert texts[0][found["start"] : found["end"]] in lines[4]
    assert max(map(cell_len, lines)) <= 80
    tokens = ["--aggregation-strategy", "none", "--stride", "3", "--max-length", "9"]
    assert run("tag", tiny_tagger, texts[1], *tokens, "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer == tag(texts[1], stride=3, max_length=9)
    assert run("tag", tiny_tagger, texts[1], *tokens) == 0


def test_inspect_shows_tokens_attention_and_layers_in_80_columns(
    tiny_masked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("inspect", tiny_masked, "The 猫 was unable.", "dogs", "--layer", "-1", "--head", "-1") == 0
    out = capsys.readouterr().out
    assert "11 tokens" in out
    assert "##able" in out
    assert "Attention of layer 1, head 3" in out
    assert "embedded" in out
    assert max(map(cell_len, out.splitlines())) <= 80


def test_json_of_too_many_weights_is_refused_before_they_are_computed(
    tiny_masked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bothways.cli.inspect.MOST_PRINTED", 16)
    assert run("inspect", tiny_masked, "the cat", "--json", "--head", "0") == 0
    capsys.readouterr()
    assert "--head N" in fails_with_one_line(capsys, "inspect", tiny_masked, "the cat", "--json")
    assert run("inspect", tiny_masked, "the cat") == 0


def test_inspect_gives_machines_everything(tiny_masked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", tiny_masked, "The cat", "--json") == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["tokens"] == ["[CLS]", "the", "cat", "[SEP]"]
    assert seen["texts"] == ["", "The", "cat", ""]
    assert seen["heads"] == [0, 1, 2, 3]
    assert np.shape(seen["attention"]) == (4, 4, 4)
    assert np.shape(seen["norms"]) == (3, 4)
    assert np.shape(seen["similarity"]) == (3, 3)


def test_a_long_text_is_shown_from_both_ends(base_sized_masked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", base_sized_masked, "cat " * 600) == 0
    captured = capsys.readouterr()
    assert "512 tokens, of which the first 48 and the last 16 are shown" in captured.out
    assert "the text was cut to 512 tokens" in captured.err
    assert len(captured.out.splitlines()) < 180


@pytest.mark.parametrize(
    ("model", "text", "head"),
    [
        ("tiny_masked", "", "1"),
        ("tiny_masked", "the cat sat on $5 and _x_^2 猫 \x1b[31m", "all"),
        ("tiny_masked", "the cat sat on $5 and _x_^2 猫 \x1b[31m", "mean"),
        ("base_sized_masked", "the cat sat on the mat " * 20, "all"),
    ],
)
def test_a_plot_is_a_picture_and_nothing_else_is_said(
    model: str,
    text: str,
    head: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    pytest.importorskip("matplotlib")
    assert run("inspect", request.getfixturevalue(model), text, "--head", head, "--plot", tmp_path / "seen.png") == 0
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [file.name for file in tmp_path.iterdir()] == ["seen.png"]
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("plot", ["no/such/folder/seen.png", "."])
def test_a_picture_that_cannot_be_written_gives_one_line(
    tiny_masked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], plot: str
) -> None:
    pytest.importorskip("matplotlib")
    error = fails_with_one_line(capsys, "inspect", tiny_masked, "the cat", "--plot", tmp_path / plot)
    assert str(tmp_path) in error


def test_a_plot_without_its_extra_names_the_line_to_install_it(
    tiny_masked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bothways.pictures.find_spec", lambda name: None)
    error = fails_with_one_line(capsys, "inspect", tiny_masked, "the cat", "--plot", tmp_path / "seen.png")
    assert 'pip install "bothways[plot]"' in error
    assert list(tmp_path.iterdir()) == []


def test_truncation_is_reported(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", minilm, "word " * 20, "short", "--max-seq-length", "8", "--json") == 0
    error = capsys.readouterr().err
    assert "1 of 2 texts were cut to 8 tokens (the longest had 22)" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "nonsense"),
        (["embed", "{minilm}", "--json", "--precison", "fp32", "text"], "precison"),
        (["embed", "{minilm}", "text"], "--output"),
        (["embed", "{minilm}", "--output", "{tmp}/v.npy"], "--input"),
        (["embed", "{minilm}", "--input", "{tmp}/nothing.txt", "--output", "{tmp}/v.npy"], "nothing.txt"),
        (["embed", "{minilm}", "--input", "{tmp}/empty.txt", "--output", "{tmp}/v.npy"], "empty.txt"),
        (["embed", "{minilm}", "--input", "{tmp}/latin.txt", "--output", "{tmp}/v.npy"], "line 2"),
        (["embed", "{minilm}", "--input", "{tmp}", "--output", "{tmp}/v.npy"], "{tmp}"),
        (["embed", "{minilm}", "text", "--output", "{tmp}/no/such/folder/v.npy"], "v.npy"),
        (["embed", "{minilm}", "text", "--output", "{tmp}"], "{tmp}"),
        (["embed", "{tmp}/no-model", "text", "--json"], "no-model"),
        (["embed", "{tmp}", "text", "--json"], "config.json"),
        (["embed", "{minilm}", "text", "--json", "--precision", "int8"], "int8"),
        (["embed", "{minilm}", "text", "--json", "--precision", "fp8"], "fp8"),
        (["embed", "{minilm}", "text", "--json", "--device", "tpu"], "tpu"),
        (["embed", "{minilm}", "text", "--json", "--batch-tokens", "0"], "batch_tokens"),
        (["embed", "{minilm}", "text", "--json", "--max-seq-length", "-3"], "max_seq_length"),
        (["embed", "{minilm}", "text", "--json", "--prompt-name", "query"], "query"),
        (["similarity", "{minilm}", "alone"], "two texts"),
        (["fill-mask", "{minilm}", "the [MASK] sat"], "no masked-language head"),
        (["fill-mask", "{masked}", "no mask here"], "[MASK]"),
        (["fill-mask", "{masked}", "the [MASK] sat", "--top-k", "0"], "top_k"),
        (["fill-mask", "{masked}"], "text"),
        (["fill-mask", "{masked}", "the [MASK] sat", "--target", "☃"], "'☃'"),
        (["fill-mask", "{masked}", "the [MASK] sat", "--target", "cat", "--pieces", "2"], "not both"),
        (["fill-mask", "{masked}", "the [MASK] sat", "--pieces", "0"], "pieces"),
        (["answer", "{minilm}", "--question", "a?", "--context", "a"], "no question-answering head"),
        (["answer", "{minilm}", "--context", "a"], "question"),
        (["answer", "{minilm}", "--question", "a?"], "--context-file"),
        (["answer", "{minilm}", "--question", "a?", "--context", "a", "--context-file", "b.txt"], "either"),
        (["answer", "{minilm}", "--question", "a?", "--context-file", "{tmp}/b.txt"], "no such file"),
        (["tag", "{masked}", "the cat"], "no tagging head"),
        (["tag", "{tagger}"], "no text given"),
        (["tag", "{tagger}", "the cat", "--aggregation-strategy", "avarage"], "did you mean average?"),
        (["tag", "{tagger}", "the cat", "--stride", "40"], "a stride of 40"),
        (["inspect", "{masked}", "the cat", "--layer", "2"], "from 0 to 1"),
        (["inspect", "{masked}", "the cat", "--head", "-5"], "from 0 to 3"),
        (["inspect", "{masked}", "the cat", "--head", "some"], '"mean" or "all"'),
        (["inspect", "{tmp}", "the cat"], "config.json"),
        (["inspect", "{masked}"], "TEXT is missing; usage: bothways inspect MODEL TEXT …"),
        (["inspect", "{masked}", "--reach", "a.png"], "usage: bothways inspect MODEL TEXT …"),
        (["convert", "{tmp}", "--output", "{tmp}/out"], "pytorch_model.bin"),
        (["demo", "--model", "{tmp}/no-model"], "no-model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_wrong_usage_and_bad_input_give_one_line_and_exit_code_2(
    arguments: list[str],
    says: str,
    minilm: Path,
    tiny_masked: Path,
    tiny_tagger: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes(b"fine\nna\xefve\n")
    before = sorted(tmp_path.iterdir())
    places = {"minilm": minilm, "masked": tiny_masked, "tagger": tiny_tagger, "tmp": tmp_path}
    error = fails_with_one_line(capsys, *(argument.format(**places) for argument in arguments))
    assert says.format(**places) in error
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "out"] == before, "something was left behind"


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    with pytest.raises(bothways.CheckpointError):
        main(["embed", str(tmp_path / "no-model"), "text", "--json", "--debug"])


def test_the_demo_searches_the_python_manual(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = python_reference()[:80]
    monkeypatch.setattr("bothways.cli.demo.python_reference", lambda: passages)
    assert run("demo") == 0
    out = capsys.readouterr().out
    assert "80 paragraphs" in out
    assert "tokens/s" in out
    assert out.count("“") == 3
    assert "0.824" in out
    assert all(f"bothways {name}" in out for name in ("similarity", "embed", "inspect", "families"))


def test_the_python_reference_is_worth_searching() -> None:
    passages = python_reference()
    assert len(passages) > 500
    assert len({text for _, text in passages}) == len(passages)


def test_a_pickle_is_converted_once_and_then_loads(tiny_masked: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    for file in tiny_masked.iterdir():
        if file.suffix != ".safetensors":
            (old / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(tiny_masked / "model.safetensors"), old / "pytorch_model.bin")
    with pytest.raises(bothways.CheckpointError, match="bothways convert"):
        bothways.Encoder.from_pretrained(old)
    assert run("convert", old, "--output", new) == 0
    text = "the [MASK] sat"
    assert bothways.pipeline("fill-mask", new)(text) == bothways.pipeline("fill-mask", tiny_masked)(text)


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "boom"),)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Bomb()}))
    fails_with_one_line(capsys, "convert", tmp_path, "--output", tmp_path / "out")
    assert not (tmp_path / "boom").exists()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_help_is_quick_because_torch_stays_out() -> None:
    script = """
import sys
from bothways.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_hardly_anything_is_imported_before_ctrl_c_has_its_answer() -> None:
    script = "import sys; old = set(sys.modules); import bothways.__main__; print(*sorted(set(sys.modules) - old))"
    environment = {**os.environ, "PYTHONPATH": str(Path(bothways.__file__).parents[1])}
    command = [sys.executable, "-S", "-c", script]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["__future__", "bothways", "bothways.__main__", "bothways.errors"]


def test_ctrl_c_exits_with_130_and_leaves_nothing(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("some words to embed, again and again\n" * 200_000, encoding="utf-8")
    command = ["embed", minilm, "--input", tmp_path / "lines.txt", "--output", tmp_path / "v.npy"]
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job may not
    script = f"{heeds}; from bothways.__main__ import run; run()"
    process = subprocess.Popen([sys.executable, "-c", script, *command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".v.npy.*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == "bothways: interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["lines.txt"]


def test_converting_imports_nothing_from_the_current_folder(
    tiny_masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    (tmp_path / "old" / "1_Pooling").mkdir(parents=True)
    (tmp_path / "old" / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "old" / "config.json").write_text("{}")
    (tmp_path / "old" / "code.py").write_text("")
    torch.save(load_file(tiny_masked / "model.safetensors"), tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "old" / "random.py").write_text(f"import os; os.mkdir({str(tmp_path / 'boom')!r})")
    monkeypatch.chdir(tmp_path / "old")
    assert run("convert", ".", "--output", "../new") == 0
    assert not (tmp_path / "boom").exists()
    copied = sorted(str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file())
    assert copied == ["1_Pooling/config.json", "config.json", "model.safetensors"]


def test_a_local_folder_never_leads_to_the_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modules = [{"idx": 0, "name": "0", "path": "evil", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    error = fails_with_one_line(capsys, "embed", tmp_path, "text", "--json")
    assert "config.json: no such file" in error


def test_only_regular_files_are_written_to(minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    fails_with_one_line(capsys, "embed", minilm, "text", "--output", tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "real.npy").write_bytes(b"")
    (tmp_path / "link.npy").symlink_to(tmp_path / "real.npy")
    assert run("embed", minilm, "text", "--output", tmp_path / "link.npy") == 0
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "real.npy").shape == (1, 384)


@pytest.mark.parametrize("model", ["x" * 5000, "~no-such-user/model", "a/b/c"])
def test_what_cannot_be_a_folder_is_refused_in_one_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    fails_with_one_line(capsys, "embed", model, "text", "--json")


def test_python_m_bothways_is_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "bothways", "--version"], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == bothways.__version__


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_standard_output_gives_one_line(minilm: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "bothways", "embed", minilm, "text", "--json"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("bothways: standard output cannot be written")
    assert result.stderr.count("\n") == 1


def test_a_reader_that_has_what_it_wanted_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "bothways", "--help"]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "some/file"), "bothways: some/file: Permission denied\n"),
        (OSError(12, "Cannot allocate memory"), "bothways: Cannot allocate memory (--debug shows where)\n"),
        (BrokenPipeError(32, "Broken pipe"), "bothways: Broken pipe (--debug shows where)\n"),  # to another process
    ],
)
def test_an_error_of_a_file_is_not_laid_to_standard_output(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("bothways.cli.main.app", fail)
    assert fails_with_one_line(capsys, "demo") == said


def test_texts_cannot_steer_the_terminal(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("similarity", minilm, "a\x1b[31mred\ttext", "b\nc") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "b c" in out


def test_numbers_in_a_table_are_never_broken(
    minilm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert run("similarity", minilm, *(f"text number {i}" for i in range(9))) == 0
    assert capsys.readouterr().out.count("1.000") == 9


def test_a_text_that_starts_with_a_dash_comes_after_two(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "put -- before" in fails_with_one_line(capsys, "similarity", minilm, "-5 degrees", "cold")
    assert run("similarity", minilm, "--", "-5 degrees", "- cold") == 0
