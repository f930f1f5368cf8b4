"""Pipelines that write: the shapes of results, what a model's folder says, what cannot be read or written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import write_bert_tokenizer
from small_pairs import made

import bothways
from bothways import CheckpointError, EncoderDecoder, InputError, TruncationWarning
from bothways.checkpoint.encoder import Encoder
from bothways.cli.alignment import draw as draw_alignment
from bothways.cli.alignment import figure_of as figure_of_alignment
from bothways.cli.reach import draw as draw_reach
from bothways.cli.reach import figure_of as figure_of_reach
from bothways.engine.alignment import Alignment, _shuffled, align, source_use
from bothways.engine.decoding import Decoding, read_decoding
from bothways.engine.reach import Reach, Sight, reach
from bothways.engine.writing import WritingPipeline, writing
from bothways.nn.adapter import AdapterConfig, adapter_of
from bothways.pictures import drawing
from bothways.text.targets import open_ended, separated

TEXTS = ["the cat sat on the mat", "a dog ran", "the red house is unable to do", "a dog ran"]


@pytest.fixture(scope="module")
def bert2bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    made("bert, bert", folder, seed=1)
    write_bert_tokenizer(folder, 24)
    return folder


@pytest.fixture(scope="module")
def gpt2(save_family: Callable[..., Path]) -> Path:
    return save_family("gpt2", kind="ForMaskedLM", seed=3)


@pytest.fixture(scope="module")
def write(bert2bert: Path) -> WritingPipeline:
    return writing(bert2bert)


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("translation", "translation_text"),
        ("summarization", "summary_text"),
        ("text2text-generation", "generated_text"),
    ],
)
def test_one_text_gives_a_list_and_a_list_gives_a_list_of_those(bert2bert: Path, task: str, key: str) -> None:
    ask = bothways.pipeline(task, bert2bert)
    one = ask(TEXTS[0], max_new_tokens=6)
    assert [list(result) for result in one] == [[key]]
    several = ask(TEXTS, max_new_tokens=6, num_beams=2, num_return_sequences=2)
    assert [[list(result) for result in own] for own in several] == [[[key], [key]]] * len(TEXTS)
    assert ask(TEXTS, max_new_tokens=6)[0] == one
    assert ask([]) == []


def test_a_text_that_is_gone_on_with_comes_first(gpt2: Path) -> None:
    ask = bothways.pipeline("text-generation", gpt2)
    (whole,), (rest,) = (ask("the cat sat", max_new_tokens=5, return_full_text=full) for full in (True, False))
    assert whole["generated_text"] == "the cat sat" + rest["generated_text"]
    assert rest["generated_text"]


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 4}, {"do_sample": True, "seed": 4, "num_beams": 2}]
)
def test_a_text_depends_on_neither_its_neighbours_nor_their_order(
    write: WritingPipeline, settings: dict[str, Any]
) -> None:
    together = write(TEXTS, **settings)
    assert write(TEXTS[::-1][1:], **settings)[::-1] == together[:3]
    assert [write(text, **settings) for text in TEXTS[:3]] == together[:3]


def test_a_text_that_is_given_twice_is_drawn_twice(write: WritingPipeline) -> None:
    drawn = write(["a dog ran"] * 20, do_sample=True, seed=1, top_k=0)
    assert len({one[0]["generated_text"] for one in drawn}) > 10


def test_log_probabilities_are_told_if_asked_for(write: WritingPipeline) -> None:
    ((one,),) = write(TEXTS[:1], num_beams=2, max_new_tokens=6, log_probabilities=True)
    known = [token["log_probability"] for token in one["tokens"]]
    assert one["log_probability"] == pytest.approx(sum(known))
    assert one["mean_log_probability"] == pytest.approx(np.mean(known))
    assert one["score"] == pytest.approx(np.mean(known), abs=1e-4)


def says(folder: Path, copy: Path, **keys: Any) -> Path:
    """A copy of a model's folder whose config says these keys, too."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **keys}))
    return copy


def test_a_separator_that_a_decoder_alone_was_trained_with_stands_behind_every_source(
    gpt2: Path, tmp_path: Path
) -> None:
    trained, plain = writing(says(gpt2, tmp_path / "trained", bothways_separator=" is")), writing(gpt2)
    (free,) = plain("the cat is", max_new_tokens=5)
    (asked,) = trained("the cat", max_new_tokens=5)
    assert "the cat is" + asked["generated_text"] == free["generated_text"]
    whole = trained("the cat", max_new_tokens=5, return_full_text=True)
    assert whole == [free]
    assert trained("the cat is", separator="", max_new_tokens=5) == [free]
    assert plain("the cat", separator=" is", max_new_tokens=5) == [asked]
    transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "trained")


def test_a_source_is_cut_as_in_training_before_its_separator(gpt2: Path, tmp_path: Path) -> None:
    keys = {"bothways_separator": " is blue", "bothways_source_length": 12}
    write, long = writing(says(gpt2, tmp_path / "trained", **keys)), "the cat sat on " * 9
    with pytest.warns(TruncationWarning, match="cut to 12 tokens"):
        (found,) = write.read([long])
    assert len(found) <= 12
    assert [token for token, mark in zip(found.tokens, found.special) if not mark][-2:] == ["is", "blue"]
    with pytest.raises(InputError, match=r"text 0 has .* tokens, but the model reads 12 at most"):
        write.read([long], truncation=False)
    with pytest.raises(InputError, match=r"text 0 has .* tokens, but the model reads 24 at most"):
        write.read([long], separator="")  # free text is not cut: what came last would be gone
    none = writing(says(gpt2, tmp_path / "none", bothways_separator="", bothways_source_length=12))
    with pytest.warns(TruncationWarning, match="cut to 12 tokens"):  # as it was trained
        assert len(none.read([long])[0]) == 12


@pytest.mark.parametrize("most", range(5, 16))
@pytest.mark.parametrize("separator", ["", "\n", " ran to", "."])
def test_a_text_that_is_cut_keeps_its_separator_and_as_much_as_has_room(gpt2: Path, separator: str, most: int) -> None:
    tokenizer = writing(gpt2).parts.source
    texts = ["a", "the cat sat on the mat", "unable doings " * 5, "a dog ran to the red house"]
    for text, found in zip(texts, separated(tokenizer, texts, separator, most)):
        (whole,) = tokenizer.encode([text + separator])
        assert found.dropped == len(whole) - len(found)
        if len(whole) <= most:
            assert found.ids == whole.ids
            continue
        assert len(found) == most
        (behind,) = tokenizer.encode([separator]) if separator else [None]
        kept = [one for one, mark in zip(found.ids, found.special) if not mark]
        last = [] if behind is None else [one for one, mark in zip(behind.ids, behind.special) if not mark]
        assert kept[len(kept) - len(last) :] == last
        begun = [one for one, mark in zip(whole.ids, whole.special) if not mark][: len(kept) - len(last)]
        assert kept[: len(kept) - len(last)] == begun


def test_what_a_config_says_of_sources_is_checked(gpt2: Path, write: WritingPipeline, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"bothways_separator in its config\.json is 3"):
        writing(says(gpt2, tmp_path / "a", bothways_separator=3))
    with pytest.raises(CheckpointError, match=r"bothways_source_length in its config\.json is 0"):
        writing(says(gpt2, tmp_path / "b", bothways_source_length=0))
    with pytest.raises(CheckpointError, match=r"bothways_prefix in its config\.json is \['a'\]"):
        writing(says(gpt2, tmp_path / "c", bothways_prefix=["a"]))
    with pytest.raises(InputError, match="a separator is for a decoder alone"):
        write("a dog", separator=":")
    with pytest.raises(InputError, match="separator must be a text, got 3"):
        writing(gpt2)("a dog", separator=3)  # type: ignore[arg-type]


def test_a_prefix_stands_before_every_source(write: WritingPipeline) -> None:
    assert write("ran", prefix="a dog ") == write("a dog ran")


@pytest.mark.parametrize("name", ["bert2bert", "gpt2"])
def test_a_prefix_that_a_model_was_trained_with_stands_before_every_source(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    trained, plain = writing(says(folder, tmp_path / "trained", bothways_prefix="the cat ")), writing(folder)
    (whole,) = plain.read(["the cat sat"])
    for (found,) in (trained.read(["sat"]), trained.read(["the cat sat"], prefix=""), plain.read(["sat"], "the cat ")):
        assert found.ids == whole.ids
    own, said = (pipe.spelling(text) for pipe, text in ((trained, "sat"), (plain, "the cat sat")))
    assert [own.more(9), own.more(10)] == [said.more(9), said.more(10)]
    written = [
        pipe(text, max_new_tokens=4, return_full_text=False)
        for pipe, text in ((trained, "sat"), (plain, "the cat sat"))
    ]
    assert written[0] == written[1]


def test_what_the_folder_says_stands_where_nothing_is_said(bert2bert: Path, tmp_path: Path) -> None:
    model = EncoderDecoder.from_pretrained(bert2bert)
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "generation_config.json").read_text())
    usual = {"num_beams": 3, "max_length": 9, "min_length": 4, "no_repeat_ngram_size": 2, "early_stopping": True}
    (tmp_path / "generation_config.json").write_text(json.dumps({**said, **usual}))
    same = {"num_beams": 3, "max_new_tokens": 8, "min_new_tokens": 3, "no_repeat_ngram_size": 2, "early_stopping": True}
    assert writing(tmp_path)(TEXTS) == writing(bert2bert)(TEXTS, **same)
    assert writing(tmp_path)(TEXTS, max_new_tokens=2) == writing(bert2bert)(
        TEXTS, **{**same, "max_new_tokens": 2, "min_new_tokens": 2}
    )


def test_a_folder_that_asks_for_more_than_there_are_positions_gets_what_there_are(
    bert2bert: Path, gpt2: Path, tmp_path: Path
) -> None:
    """The user has asked for nothing, so nothing is refused; what the user asks for is."""
    for model, name in ((bert2bert, "pair"), (gpt2, "alone")):
        folder = Path(shutil.copytree(model, tmp_path / name))
        config = folder / "generation_config.json"
        said = json.loads(config.read_text()) if config.exists() else {}
        config.write_text(json.dumps({**said, "max_new_tokens": 200, "min_new_tokens": 100, "eos_token_id": 3}))
        with pytest.warns(TruncationWarning, match=r"200 new tokens \(max_length or .* its decoder has 24 positions"):
            write = writing(folder)
        room = 24 if name == "pair" else 24 - len(open_ended(write.read(["the cat sat"])[0])) + 1
        if name == "pair":
            (written,) = write.write(write.read(["the cat sat"]), read_decoding({}, write.usual))[0]
            assert len(written.ids) == room
        (written,) = write.write(write.read(["the cat sat"]), read_decoding({"min_new_tokens": 0}, write.usual))[0]
        assert written.ended or len(written.ids) == room
        with pytest.raises(InputError, match=f"200 new tokens .*at most {room} have room"):
            write("the cat sat", max_new_tokens=200)


def test_a_decoder_alone_ends_as_its_folder_says(gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2, tmp_path, dirs_exist_ok=True)
    (encoded,) = writing(gpt2).read(["the cat"])
    ((written,),) = writing(gpt2).write([encoded], Decoding(max_new_tokens=9))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [written.ids[4]]}))
    ((ended,),) = writing(tmp_path).write([encoded], Decoding(max_new_tokens=9))
    assert ended.ended
    assert ended.ids == written.ids[: written.ids.index(written.ids[4]) + 1]


def test_pieces_that_are_told_make_up_the_text(write: WritingPipeline, gpt2: Path) -> None:
    def told(ask: WritingPipeline, text: str) -> tuple[str, str]:
        spelling, pieces = ask.spelling(text), list[str]()
        answer = ask(text, return_full_text=False, on_token=lambda i, k, token: pieces.append(spelling.more(token)))
        return "".join([*pieces, spelling.rest()]), answer[0]["generated_text"]

    for ask, text in ((write, TEXTS[0]), (writing(gpt2), "the cat")):
        pieces, whole = told(ask, text)
        assert pieces == whole


@pytest.mark.parametrize("kind", ["linear", "bottleneck", "resample"])
def test_what_an_adapter_makes_of_the_source_is_read(bert2bert: Path, tmp_path: Path, kind: str) -> None:
    model = EncoderDecoder.from_pretrained(bert2bert)
    adapter = adapter_of(AdapterConfig(kind, 32, 32, inner=8, rows=4))  # type: ignore[arg-type]
    assert adapter is not None
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(0.0, 0.3)
    parts = {name: getattr(model, name) for name in ("encoder", "decoder", "head", "family", "marks", "tokenizer")}
    adapted = EncoderDecoder(**parts, adapter=adapter, target_tokenizer=model.tokenizer, extras=model.extras)
    adapted.save_pretrained(tmp_path)
    found = writing(tmp_path)
    assert found(TEXTS) == WritingPipeline("text2text-generation", adapted)(TEXTS)
    seen = align(found, TEXTS[0], max_new_tokens=5)
    assert seen.weights.shape[2] == (4 if kind == "resample" else len(seen.source))


# What cannot be


def test_an_empty_source_is_named(write: WritingPipeline, gpt2: Path) -> None:
    with pytest.raises(InputError, match="text 1 is empty: there is nothing to read"):
        write(["a", " "])
    with pytest.raises(InputError, match="text 0 is empty: there is nothing to go on from"):
        writing(gpt2)("")
    with pytest.raises(InputError, match="a text or a list of texts was expected"):
        write(3)  # type: ignore[arg-type]


def test_what_is_no_text_and_no_folder_is_named(write: WritingPipeline) -> None:
    with pytest.raises(InputError, match="text 1 is not a string but int"):
        write(["a dog ran", 5])  # type: ignore[list-item]
    with pytest.raises(InputError, match="prefix must be a text, got 3"):
        write("a dog ran", prefix=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a model's folder or hub id was expected, not dict"):
        bothways.pipeline("translation", {})  # type: ignore[call-overload]


def test_a_source_that_is_too_long_is_cut_and_that_is_said_or_refused(write: WritingPipeline, gpt2: Path) -> None:
    long = "the cat sat " * 20
    with pytest.warns(TruncationWarning, match=r"cut to 24 tokens \(it had 62\)"):
        write(long)
    with pytest.raises(InputError, match="text 1 has 62 tokens, but the model reads 24 at most"):
        write(["a", long], truncation=False)
    with pytest.raises(InputError, match="text 0 has 62 tokens"):
        writing(gpt2)(long)


def test_settings_that_cannot_be_are_refused(write: WritingPipeline) -> None:
    for settings, said in (
        ({"num_beams": 1000}, "num_beams 1000 is more than the 104 words"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences 3 is more than num_beams 2"),
        ({"max_new_tokens": 25}, "25 new tokens are more than the model's 24 positions"),
        ({"do_sample": True, "temperature": 0.0}, "temperature must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"num_beans": 2}, "num_beams"),
    ):
        with pytest.raises(InputError, match=said):
            write("a dog", **settings)


def test_a_model_of_another_kind_is_refused(bert2bert: Path, gpt2: Path, save_bert: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="has no decoder"):
        bothways.pipeline("translation", save_bert(kind="BertForMaskedLM"))
    with pytest.raises(CheckpointError, match="is a decoder alone"):
        bothways.pipeline("summarization", gpt2)
    with pytest.raises(CheckpointError, match="ask for text2text-generation"):
        bothways.pipeline("text-generation", bert2bert)
    with pytest.raises(InputError, match="unknown task"):
        bothways.pipeline("writing", bert2bert)


def test_scores_that_are_no_numbers_are_told(bert2bert: Path) -> None:
    model = EncoderDecoder.from_pretrained(bert2bert)
    with torch.no_grad():
        dict(model.decoder.named_parameters())["layers.1.ffn.down.bias"][0] = float("nan")
    for settings in ({}, {"num_beams": 2}, {"do_sample": True}):
        with pytest.raises(InputError, match="text 0: the model's scores of token 1 are no numbers"):
            WritingPipeline("translation", model)("a dog", **settings)


# Whether a source is used, and what is seen


def test_a_decoder_that_does_not_look_does_not_use_its_source(bert2bert: Path, tmp_path: Path) -> None:
    model = EncoderDecoder.from_pretrained(bert2bert)
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if ".cross.out." in name:
                parameter.zero_()
    found = source_use(WritingPipeline("translation", model), TEXTS[0], TEXTS[1])
    assert found.true == found.shuffled == found.zero
    assert found.uses_source == "no"


def test_shuffled_sources_are_other_words_between_the_same_special_tokens(write: WritingPipeline) -> None:
    (encoded,) = write.read(["the cat sat on the mat"])
    drawn = [_shuffled(encoded, write, seed) for seed in range(50)]
    special = {write.parts.source.id_of(role) for role in write.parts.source.special}
    for ids in drawn:
        assert (ids[0], ids[-1], len(ids)) == (encoded.ids[0], encoded.ids[-1], len(encoded))
        assert not special & set(ids[1:-1])
    assert len({one for ids in drawn for one in ids}) > 60
    assert drawn[0] == _shuffled(encoded, write, 0) != drawn[1]


def test_log_probabilities_of_a_target_are_those_of_a_forward(bert2bert: Path, write: WritingPipeline) -> None:
    model = EncoderDecoder.from_pretrained(bert2bert)
    assert model.tokenizer is not None
    found = source_use(write, TEXTS[0], TEXTS[1])
    source, target = (one.ids for one in model.tokenizer.encode(TEXTS[:2]))
    memory = model.memory(bothways.Ragged.of([source]))
    rows = model.decoder(bothways.Ragged.of([[model.marks.start, *target[1:-1]]]), memory=memory).last.data
    wanted = model.head(rows).log_softmax(1).gather(1, torch.tensor(target[1:])[:, None])[:, 0]
    assert found.true == pytest.approx(wanted.tolist(), abs=1e-5)
    assert found.tokens == ("a", "dog", "ran", "[SEP]")
    assert not found.generated
    assert source_use(write, TEXTS[0], max_new_tokens=4).generated


def test_what_written_tokens_looked_at_are_weights_that_sum_to_one(write: WritingPipeline, tmp_path: Path) -> None:
    seen = align(write, TEXTS[0], TEXTS[1])
    assert seen.source[:2] == ("[CLS]", "the")
    assert seen.weights.shape == (2, 4, len(seen.source))
    np.testing.assert_allclose(seen.weights.sum(2), 1.0, atol=1e-5)
    draw_alignment(seen, tmp_path / "seen.png", "model")
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")


def test_an_encoder_sees_all_and_a_decoder_nothing_later(
    bert2bert: Path, gpt2: Path, save_bert: Callable[..., Path], tmp_path: Path
) -> None:
    (encoder,) = reach(Encoder.from_pretrained(save_bert()), TEXTS[0]).sights
    assert encoder.seen.all()
    (alone,) = reach(Encoder.from_pretrained(gpt2), TEXTS[0]).sights
    np.testing.assert_array_equal(alone.seen, np.tril(np.ones_like(alone.seen)))
    both = reach(EncoderDecoder.from_pretrained(bert2bert), TEXTS[0], TEXTS[1])
    read, across, own = both.sights
    assert read.seen.all()
    assert across.seen.all()
    assert across.rows == own.rows == ("[CLS]", "a", "dog", "ran")
    np.testing.assert_array_equal(own.seen, np.tril(np.ones_like(own.seen)))
    assert "does not go on" in encoder.says
    assert "what comes next" in alone.says
    draw_reach(both, tmp_path / "seen.png", "model")
    (itself,) = writing(bert2bert)(TEXTS[0], log_probabilities=True)
    alone = reach(EncoderDecoder.from_pretrained(bert2bert), TEXTS[0]).sights[2]
    assert list(alone.rows[1:]) == [one["token"] for one in itself["tokens"]][:-1]


def test_a_decoder_alone_is_measured_with_a_text_that_goes_on(gpt2: Path, save_bert: Callable[..., Path]) -> None:
    closing = Encoder.from_pretrained(save_bert()).tokenizer
    (sight,) = reach(replace(Encoder.from_pretrained(gpt2), tokenizer=closing), "a dog ran").sights
    assert sight.what == "decoder alone"
    assert sight.rows == sight.columns == ("[CLS]", "a", "dog", "ran")  # no [SEP], as it is when generate writes


def seen_of(what: str, rows: tuple[str, ...], columns: tuple[str, ...]) -> Sight:
    return Sight(what, rows, columns, rows == columns, np.ones((len(rows), len(columns)), np.float32))


@pytest.mark.parametrize(("read", "written"), [(3, 9), (14, 5), (60, 40)])
def test_panels_of_what_is_seen_begin_at_one_height_and_hide_nothing(read: int, written: int) -> None:
    source, target = (tuple(f"token{'n' * i}" for i in range(count)) for count in (read, written))
    sights = seen_of("encoder", source, source), seen_of("decoder, of the source", target, source)
    with drawing():
        figure = figure_of_reach(Reach((*sights, seen_of("decoder, of what it wrote", target, target))), "a/model")
        renderer = figure.canvas.get_renderer()
        *panels, _ = figure.axes
        boxes = [axis.get_window_extent(renderer) for axis in panels]
        outer = [axis.get_tightbbox(renderer) for axis in figure.axes]
        assert len({round(box.y1) for box in boxes}) == 1
        cells = [
            size / count
            for box, (across, down) in zip(boxes, ((read, read), (read, written), (written, written)))
            for size, count in ((box.width, across), (box.height, down))
        ]
        assert max(cells) == pytest.approx(min(cells), rel=1e-3)
        assert all(one.x1 < other.x0 for one, other in pairwise(outer))
        whole = figure.bbox
        for box in (*outer, *(text.get_window_extent(renderer) for text in figure.texts)):
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1


@pytest.mark.parametrize(("depth", "maps"), [(1, 1), (3, 4)])
def test_what_one_layer_looked_at_is_drawn_once(depth: int, maps: int) -> None:
    weights = np.full((depth, 2, 3), 1 / 3, np.float32)
    with drawing():
        figure = figure_of_alignment(Alignment(("a", "b", "c"), ("d", "e"), weights), "a/model")
        assert sum(bool(axis.images) for axis in figure.axes) == maps


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}, {"no_repeat_ngram_size": 2}]
)
def test_a_gpu_writes_the_same(bert2bert: Path, gpt2: Path, settings: dict[str, Any]) -> None:
    for folder in (bert2bert, gpt2):
        here, there = (writing(folder, device=device, precision="fp32") for device in ("cpu", "cuda"))
        assert there(TEXTS, max_new_tokens=9, **settings) == here(TEXTS, max_new_tokens=9, **settings)


def test_inspections_know_the_prefix_that_a_model_was_trained_with(bert2bert: Path, gpt2: Path, tmp_path: Path) -> None:
    """It is read with the text, and stays before the texts that a source is compared with: it is not what is said."""
    pair, alone = (says(one, tmp_path / one.name, bothways_prefix="the cat ") for one in (bert2bert, gpt2))
    plain, trained = EncoderDecoder.from_pretrained(bert2bert), EncoderDecoder.from_pretrained(pair)
    ours, theirs = reach(trained, "sat on"), reach(plain, "the cat sat on")
    for one, other in zip(ours.sights, theirs.sights, strict=True):
        assert (one.rows, one.columns) == (other.rows, other.columns)
        assert np.array_equal(one.gradients, other.gradients)
    (own,), (free,) = (
        reach(Encoder.from_pretrained(alone), "sat").sights,
        reach(Encoder.from_pretrained(gpt2), "the cat sat").sights,
    )
    assert own.rows == free.rows
    write = writing(pair)
    (encoded,) = write.read(["sat on a mat"])
    kept = [i for i, (_, end) in enumerate(encoded.offsets) if end <= len("the cat ")]
    assert len(kept) == 4  # and both special tokens
    for seed in range(3):
        shuffled = _shuffled(encoded, write, seed)
        assert [shuffled[i] for i in kept] == [encoded.ids[i] for i in kept]
        assert shuffled != encoded.ids
