"""`bothways generate` and what `inspect` says of models that write, at the prompt."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prompt import fails_with_one_line, run
from small_models import write_bert_tokenizer
from small_pairs import made

import bothways
from bothways.engine import text_lines
from bothways.engine.decoding import NAMES
from bothways.engine.generation import Way
from bothways.engine.writing import WritingPipeline
from bothways.errors import InputError

TEXTS = ("the cat sat on the mat", "a dog ran")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    made("bert, bert", folder, seed=1)
    write_bert_tokenizer(folder, 24)
    return folder


@pytest.fixture(scope="module")
def gpt2(save_family: Callable[..., Path]) -> Path:
    return save_family("gpt2", kind="ForMaskedLM", seed=3)


def test_each_text_becomes_a_line(pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    answers = bothways.pipeline("text2text-generation", pair)(list(TEXTS), max_new_tokens=6)
    assert run("generate", pair, *TEXTS, "--max-new-tokens", "6") == 0
    printed = capsys.readouterr().out
    assert printed.splitlines() == [one[0]["generated_text"] for one in answers]
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS) + "\n")
    assert run("generate", pair, "--input", tmp_path / "lines.txt", "--max-new-tokens", "6") == 0
    assert capsys.readouterr().out == printed


def test_lines_are_told_as_they_are_written(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In input order, and before what comes later is read: an empty line ends it, and is named."""
    monkeypatch.setattr(text_lines, "FIRST", 2)
    lines = [TEXTS[i % 2] + " cat" * i for i in range(5)]
    asked = bothways.pipeline("translation", pair)(lines, max_new_tokens=6)
    wanted = [one["translation_text"] for (one,) in asked]
    (tmp_path / "lines.txt").write_text("\n".join([*lines, "", "a dog"]) + "\n")
    assert run("generate", pair, "--input", tmp_path / "lines.txt", "--max-new-tokens", "6") == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines() == wanted[:4]
    assert captured.err == f"bothways: {tmp_path}/lines.txt: line 6 is empty: there is nothing to read\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert run("generate", pair, "--input", "-", "--max-new-tokens", "6") == 0
    assert capsys.readouterr().out.splitlines() == wanted
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    assert run("generate", pair, "--input", tmp_path / "lines.txt", "--max-new-tokens", "6", "--json") == 0
    printed = capsys.readouterr().out
    assert printed == json.dumps([[{"generated_text": text}] for text in wanted], ensure_ascii=False) + "\n"


def test_a_list_of_json_is_whole_where_an_error_ends_it(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what was told until then; where that is nothing, nothing is printed."""
    monkeypatch.setattr(text_lines, "FIRST", 2)
    path = tmp_path / "lines.txt"
    for before, wanted in ((5, 4), (2, 2), (1, 0)):
        path.write_text("a dog\n" * before + "\n")
        assert run("generate", pair, "--input", path, "--max-new-tokens", "3", "--json") == 2
        captured = capsys.readouterr()
        assert captured.err == f"bothways: {path}: line {before + 1} is empty: there is nothing to read\n"
        assert len(json.loads(captured.out) if wanted else captured.out) == wanted


DRAWN = ("--do-sample", "--seed", "3", "--top-k", "0", "--max-new-tokens", "6")


@pytest.mark.parametrize(("form", "flags"), [("txt", DRAWN), ("jsonl", ("--num-beams", "2")), ("csv", ())])
def test_a_file_that_was_interrupted_is_gone_on_with(
    form: str,
    flags: tuple[str, ...],
    pair: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the same bytes, texts that come again and are drawn included."""
    monkeypatch.setattr(text_lines, "FIRST", 2)
    (tmp_path / "lines.txt").write_text("".join(f"{text}\n" for text in (*TEXTS, *TEXTS, "a red house")))
    command = ("generate", pair, "--input", tmp_path / "lines.txt", *flags, "--output")
    assert run(*command, tmp_path / f"whole.{form}") == 0
    assert "whole" in capsys.readouterr().err
    answers, calls = WritingPipeline.answers, list[int]()

    def interrupted(self: WritingPipeline, texts: Any, *about: Any, **more: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answers(self, texts, *about, **more)

    monkeypatch.setattr(WritingPipeline, "answers", interrupted)
    parts = tmp_path / f"parts.{form}"
    assert run(*command, parts) == 130
    assert "stopped after 2 rows; go on with --resume" in capsys.readouterr().err
    assert "go on with --resume, or remove it" in fails_with_one_line(capsys, *command, parts)
    other = fails_with_one_line(capsys, *command, parts, "--resume", "--prefix", "the ")
    assert "prefix" in other
    assert run(*command, parts, "--resume") == 0
    assert parts.read_bytes() == (tmp_path / f"whole.{form}").read_bytes()
    assert calls[2:] == [2, 1]  # what was written already is not written again
    if form == "txt":  # as it is printed
        assert run(*command[:-1]) == 0
        assert capsys.readouterr().out == parts.read_text()
        for name in ("plain", "plain.TXT", "plain.de"):
            assert run(*command, tmp_path / name) == 0
            assert (tmp_path / name).read_bytes() == parts.read_bytes()


def test_flags_of_files_that_do_not_go_together_are_one_line(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for flags, said in {
        ("--resume",): "--resume goes on with the file of --output",
        ("--output", tmp_path / "a.txt", "--json"): "end the name of --output in .jsonl",
        ("--output", tmp_path / "a.txt", "--stream"): "leave --output out",
        ("--output", tmp_path / "no" / "a.txt"): "there is no folder",
        (
            "--output",
            tmp_path / "a.json",
        ): "end the name in .jsonl, .ndjson, .csv, or with anything else for plain text",
        ("--output", tmp_path / "a.TSV"): "files that end in .tsv are not written",
        ("--output", tmp_path / "a.csv", "--log-probabilities"): "end the name of --output in .jsonl",
    }.items():
        assert said in fails_with_one_line(capsys, "generate", pair, "a dog", *flags)
    assert "no such file" in fails_with_one_line(capsys, "generate", pair, "--input", tmp_path / "none.txt").lower()
    (tmp_path / "none.txt").touch()
    assert "none.txt: empty" in fails_with_one_line(capsys, "generate", pair, "--input", tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a"])
def test_what_a_file_cannot_hold_is_told_before_anything_is_done(
    name: str, pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model is loaded; what its folder says, before anything is written."""
    (tmp_path / "rows.jsonl").write_text('{"source": "a dog"}\n')
    folder = saying(pair, tmp_path / "said", {"num_beams": 2, "num_return_sequences": 2})
    monkeypatch.setattr(WritingPipeline, "answers", None)
    for flags, said in {
        ("--log-probabilities",): "has one text a row: for log-probabilities, end the name of --output in .jsonl",
        ("--num-return-sequences", "2", "--num-beams", "2"): "for 2 results of each text, end the name",
    }.items():
        none = ("generate", tmp_path / "no model", "a dog", "--output", tmp_path / name)
        assert said in fails_with_one_line(capsys, *none, *flags)
    assert "2 results" in fails_with_one_line(capsys, "generate", folder, "a dog", "--output", tmp_path / name)
    if name == "a.csv":
        rows = ("--data", tmp_path / "rows.jsonl", "--output", tmp_path / name)
        assert "2 results" in fails_with_one_line(capsys, "predict", folder, *rows)


def test_json_is_what_the_pipeline_gives(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--num-beams", "3", "--num-return-sequences", "2", "--early-stopping", "never", "--log-probabilities")
    assert run("generate", pair, *TEXTS, *flags, "--json") == 0
    settings = {"num_beams": 3, "num_return_sequences": 2, "early_stopping": "never", "log_probabilities": True}
    ask = bothways.pipeline("translation", pair)
    wanted = [
        [{"generated_text": one.pop("translation_text"), **one} for one in own] for own in ask(list(TEXTS), **settings)
    ]
    assert json.loads(capsys.readouterr().out) == wanted


def test_a_text_is_printed_as_it_is_written(pair: Path, gpt2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (pair, gpt2):
        assert run("generate", model, TEXTS[0], "--max-new-tokens", "7") == 0
        whole = capsys.readouterr().out
        assert run("generate", model, TEXTS[0], "--max-new-tokens", "7", "--stream") == 0
        assert capsys.readouterr().out == whole


def test_a_folder_that_searches_is_streamed_when_told_not_to(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(pair, tmp_path, dirs_exist_ok=True)
    said = json.loads((pair / "generation_config.json").read_text())
    changed = {**said, "num_beams": 3, "num_return_sequences": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(changed))
    assert "with num_beams 1" in fails_with_one_line(capsys, "generate", tmp_path, TEXTS[0], "--stream")
    printed = []
    for folder, more in ((tmp_path, ("--num-beams", "1")), (pair, ())):
        assert run("generate", folder, TEXTS[0], "--max-new-tokens", "7", "--stream", *more) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_draws_with_a_seed_are_the_same_again(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for seed in ("1", "1", "2"):
        assert run("generate", pair, *TEXTS, "--do-sample", "--temperature", "2", "--top-k", "0", "--seed", seed) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


def test_tokens_are_printed_with_their_log_probabilities(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", pair, TEXTS[0], "--log-probabilities", "--max-new-tokens", "3") == 0
    printed = capsys.readouterr().out
    assert "log-probability  token" in printed
    assert "mean" in printed


def test_pictures_of_what_was_looked_at_and_of_what_can_be_seen(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("generate", pair, TEXTS[0], "--alignment", tmp_path / "a.png", "--max-new-tokens", "5") == 0
    assert run("inspect", pair, *TEXTS, "--plot", tmp_path / "b.png") == 0
    assert run("inspect", pair, *TEXTS, "--reach", tmp_path / "c.png") == 0
    assert "decoder, of what it wrote: no position sees a later token" in capsys.readouterr().out.replace("\n", " ")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 3


def test_inspect_says_whether_a_source_is_used(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", pair, *TEXTS) == 0
    printed = capsys.readouterr().out
    assert "Its own source is worth" in printed
    assert "uses its source" in printed or "use its source" in printed
    assert run("inspect", pair, *TEXTS, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["target"] == "a dog ran"
    assert {len(values) for values in said["log_probabilities"].values()} == {4}
    assert said["uses_source"] in ("yes", "hardly", "no")


def test_the_picture_is_of_the_text_that_was_drawn(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("bothways.cli.alignment.draw", lambda found, path, title: seen.append(found) or path.touch())
    flags = ("--do-sample", "--top-k", "0", "--log-probabilities", "--json")
    assert run("generate", pair, TEXTS[0], *flags, "--alignment", tmp_path / "a.png") == 0
    ((answer,),) = json.loads(capsys.readouterr().out)
    assert [one["token"] for one in answer["tokens"]] == list(seen[0].target)


def test_a_source_that_is_cut_is_told_once_beside_a_picture(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And is the same error as without one where it may not be cut."""
    (tmp_path / "line.txt").write_text("the cat " * 30)
    command = ("generate", pair, "--input", tmp_path / "line.txt", "--max-new-tokens", "4", "--prefix", "a ")
    picture = ("--alignment", tmp_path / "a.png")
    assert run(*command) == 0
    alone = capsys.readouterr()
    assert run(*command, *picture) == 0
    both = capsys.readouterr()
    told = f"{tmp_path}/a.png: what each of 4 tokens written and 24 read looked at\n"
    assert (both.out, both.err) == (alone.out, told + alone.err)
    assert alone.err.count("warning") == 1
    (tmp_path / "a.png").unlink()
    refused = fails_with_one_line(capsys, *command, "--no-truncation")
    assert "line.txt: line 1 has 63 tokens" in refused
    assert fails_with_one_line(capsys, *command, "--no-truncation", *picture) == refused
    assert not (tmp_path / "a.png").exists()


def test_what_takes_more_memory_than_there_is_is_one_line(
    pair: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*about: object) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("bothways.engine.writing.CACHED", Way(begin, begin))  # type: ignore[arg-type]
    assert "out of memory; give fewer" in fails_with_one_line(capsys, "generate", pair, "a dog")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("",), "text 0 is empty"),
        ((), "nothing to read: give texts"),
        (("a", "--num-beams", "200"), "num_beams 200 is more than the 104 words"),
        (("a", "--num-return-sequences", "2"), "num_return_sequences 2 is more than num_beams 1"),
        (("a", "--max-new-tokens", "99"), "99 new tokens are more than the model's 24 positions"),
        (("a", "--do-sample", "--temperature", "0"), "temperature must be above 0"),
        (("a", "--do-sample", "--top-p", "1.5"), "top_p must be above 0 and at most 1"),
        (("a", "--temperature", "0.5"), "--temperature says nothing without --do-sample"),
        (("a", "--min-p", "0.1"), "--min-p says nothing without --do-sample"),
        (("a", "--length-penalty", "2"), "--length-penalty says nothing without --num-beams 2 or more"),
        (("a", "--early-stopping", "true", "--num-beams", "1"), "--early-stopping says nothing without --num-beams 2"),
        (("the cat " * 30, "--no-truncation"), "text 0 has 62 tokens, but the model reads 24 at most"),
        (("a", "b", "--stream"), "--stream is of one text, and more are given"),
        (("a", "--stream", "--num-beams", "2"), "a search knows its texts at the end only"),
        (("a", "--alignment", "a.jpg"), "pictures are PNG files"),
    ],
)
def test_bad_input_is_one_line(
    pair: Path, flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in fails_with_one_line(capsys, "generate", pair, *flags)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"num_beams": "4"}, "num_beams must be a whole number from 1 to 4,096, got '4'"),
        ({"max_length": "200"}, "max_length must be a whole number from 2 to 1,048,576, got '200'"),
        ({"suppress_tokens": [3, -1]}, "suppress_tokens must be a list of token ids, got [3, -1]"),
        ({"bad_words_ids": [5]}, "bad_words_ids must be a list of lists of token ids, got [5]"),
        ({"forced_bos_token_id": 104}, "forced_bos_token_id has 104, which is none of the decoder's 104 words"),
        ({"forced_eos_token_id": [3, 999]}, "forced_eos_token_id has 999, which is none of the decoder's 104 words"),
        ({"do_sample": True, "min_p": 2}, "min_p must be from 0 to 1, got 2"),
    ],
)
def test_a_setting_of_the_folder_that_cannot_be_is_one_line(
    pair: Path, said: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = saying(pair, tmp_path, said)
    failed = fails_with_one_line(capsys, "generate", folder, "a dog")
    assert failed.strip() == f"bothways: {folder / 'generation_config.json'}: {told}"


def saying(pair: Path, folder: Path, said: dict[str, Any]) -> Path:
    """The model in another folder, whose `generation_config.json` says more."""
    shutil.copytree(pair, folder, dirs_exist_ok=True)
    whole = json.loads((pair / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**whole, **said}))
    return folder


def test_settings_of_the_folder_that_nothing_heeds_are_told_once(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    neutral = {"typical_p": 1.0, "num_beam_groups": 1, "diversity_penalty": 0.0, "sequence_bias": None}
    assert run("generate", saying(pair, tmp_path / "neutral", neutral), *TEXTS, "--max-new-tokens", "3") == 0
    assert capsys.readouterr().err == ""
    said = {"num_beam_groups": 2, "diversity_penalty": 0.5, "typical_p": 0.9, "num_beams": 2}
    folder = saying(pair, tmp_path / "said", said)
    assert run("generate", folder, *TEXTS, "--max-new-tokens", "3") == 0
    told = "not heeded here: diversity_penalty, num_beam_groups, typical_p"
    assert capsys.readouterr().err == f"bothways: warning: {folder / 'generation_config.json'}: {told}\n"


def test_a_null_in_the_folder_says_nothing(
    pair: Path, gpt2: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As transformers has it: what is said by default stands, and so does what says the same in another way."""
    nulls = dict.fromkeys((*NAMES, "typical_p", "num_beam_groups", "stop_strings"))
    for model in (pair, gpt2):
        for said, flags in (({"do_sample": True}, ("--seed", "1")), ({"max_length": 9, "min_length": 7}, ())):
            told = []
            for more in ({}, nulls):
                folder = saying(model, tmp_path / f"{model.name} {len(flags)}", {**more, **said})
                assert run("generate", folder, *TEXTS, *flags, "--json") == 0
                told.append(capsys.readouterr())
            assert told[0] == told[1]


def test_a_folder_that_draws_writes_the_same_file_twice_and_can_be_told_not_to(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    draws = saying(pair, tmp_path / "draws", {"do_sample": True, "top_k": 0, "temperature": 3.0, "max_new_tokens": 9})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"source": text}) + "\n" for text in TEXTS))
    (tmp_path / "lines.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    for name in ("a", "b"):
        rows = ("--data", tmp_path / "rows.jsonl", "--output", tmp_path / f"{name}.jsonl")
        assert run("predict", draws, *rows) == 0
        assert run("generate", draws, "--input", tmp_path / "lines.txt", "--output", tmp_path / f"{name}.txt") == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()
    plain = saying(pair, tmp_path / "plain", {"max_new_tokens": 9})
    capsys.readouterr()
    written = []
    for model, flags in ((plain, ()), (draws, ("--no-do-sample",)), (draws, ("--seed", "1"))):
        assert run("generate", model, *TEXTS, *flags) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] != written[2]


def test_a_least_length_above_the_greatest_is_told_and_bounded(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = saying(pair, tmp_path / "said", {"max_length": 5, "min_length": 9})
    assert run("generate", folder, "a dog", "--log-probabilities", "--json") == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)[0][0]["tokens"]) == 4
    assert "min_length (or min_new_tokens) is more than max_length" in captured.err


def test_what_the_folder_forbids_does_not_come(pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ("a dog", "--max-new-tokens", "8", "--log-probabilities", "--json")
    assert run("generate", pair, *flags) == 0
    usual = [token["token"] for token in json.loads(capsys.readouterr().out)[0][0]["tokens"]]
    words = (pair / "vocab.txt").read_text().split("\n")
    folder = saying(pair, tmp_path, {"suppress_tokens": [words.index(usual[0])]})
    assert run("generate", folder, *flags) == 0
    assert usual[0] not in [token["token"] for token in json.loads(capsys.readouterr().out)[0][0]["tokens"]]


def test_a_model_that_cannot_write_is_one_line(
    pair: Path, gpt2: Path, save_bert: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "has no decoder" in fails_with_one_line(capsys, "generate", save_bert(kind="BertForMaskedLM"), "a")
    path = tmp_path / "a.png"
    assert "a decoder alone reads no source" in fails_with_one_line(capsys, "generate", gpt2, "a", "--alignment", path)
    config = json.loads((pair / "config.json").read_text())
    config.pop("decoder_start_token_id")
    config["decoder"].pop("decoder_start_token_id", None)
    for name in ("model.safetensors", "vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(pair / name)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "decoder_start_token_id" in fails_with_one_line(capsys, "generate", tmp_path, "a")


@pytest.mark.parametrize("beams", [(), ("--num-beams", "2", "--num-return-sequences", "2")], ids=["greedy", "beams"])
def test_where_no_token_may_come_the_text_is_empty_and_no_line_is_lost(
    pair: Path, beams: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    end = json.loads((pair / "generation_config.json").read_text())["eos_token_id"]
    ends = [end] if isinstance(end, int) else end
    forced = {"forced_eos_token_id": ends, "begin_suppress_tokens": ends, "renormalize_logits": True}
    folder, flags = saying(pair, tmp_path / "model", forced), ("--max-new-tokens", "1", *beams)
    assert run("generate", folder, *TEXTS, *flags) == 0
    assert capsys.readouterr().out.splitlines() == ["", ""]
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS) + "\n")
    lines = tmp_path / "texts.jsonl"
    assert run("generate", folder, "--input", tmp_path / "lines.txt", "--output", lines, *flags) == 0
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [one["text"] for one in told] == ["", ""]
    assert all(("texts" in one) == bool(beams) for one in told)
    capsys.readouterr()
    picture = ("--alignment", tmp_path / "a.png")
    assert "writes nothing for this text" in fails_with_one_line(capsys, "generate", folder, "a", *flags, *picture)


def test_what_is_forced_and_never_may_come_is_refused(
    pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = saying(pair, tmp_path, {"forced_bos_token_id": 7, "suppress_tokens": [7, 8]})
    assert "forced_bos_token_id 7 is one of suppress_tokens" in fails_with_one_line(capsys, "generate", folder, "a dog")


def test_numbers_that_are_none_give_no_verdict(pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Finite weights, whose products are not."""
    model = bothways.EncoderDecoder.from_pretrained(pair)
    with torch.no_grad():
        for layer in model.decoder.layers:
            for part in (layer.ffn.up, layer.ffn.down):
                part.weight *= 1e30
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.tsv").write_text("source\ttarget\nthe cat\ta dog\n")
    for command in (
        ("inspect", tmp_path / "model", *TEXTS),
        ("inspect", tmp_path / "model", *TEXTS, "--json"),
        ("inspect", tmp_path / "model", *TEXTS, "--reach", tmp_path / "a.png"),
        ("generate", tmp_path / "model", TEXTS[0]),
    ):
        assert "are no numbers (NaN or infinite)" in fails_with_one_line(capsys, *command)
    assert run("evaluate", tmp_path / "model", "--data", tmp_path / "rows.tsv", "--metrics", "none") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "are no numbers (NaN or infinite)" in captured.err
    assert not (tmp_path / "a.png").exists()


def test_sight_of_a_text_that_is_cut_is_told(pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = ("--reach", tmp_path / "a.png")
    assert run("inspect", pair, "the cat " * 30, "a dog", *picture) == 0
    assert "was cut to 24 tokens" in capsys.readouterr().err
    assert "the text is empty" in fails_with_one_line(capsys, "inspect", pair, " ", "a dog", *picture)


def test_an_objective_and_python_say_what_they_are_of(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails_with_one_line(capsys, "inspect", pair, TEXTS[0], "--objective", "mlm")
    assert "--objective says nothing of an encoder–decoder" in said
    for model in (pair, bothways.EncoderDecoder.from_pretrained(pair)):
        with pytest.raises(InputError, match="inspect looks at a single network"):
            bothways.inspect(model, TEXTS[0])
