"""Answers are those of the definition, computed naively; losses and gradients are transformers'."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SAVE_FAMILY, families_with
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from bothways import Encoder, InputError, Ragged, pipeline
from bothways.data.labelled import Labels
from bothways.data.questions import Question
from bothways.engine.pipeline import Pipeline
from bothways.errors import ConfigError, TruncationWarning
from bothways.objectives.objective import Model
from bothways.tasks.answer import Answered, QuestionAnswering
from bothways.tasks.contexts import Reading
from bothways.tasks.learning import Supervised
from bothways.tasks.task import Facts
from bothways.text.tokenizer import Encoded, Tokenizer
from bothways.text.windows import Windows

Save = Callable[..., Path]
TASK = QuestionAnswering()
WORDS = ("the", "a", "cat", "dog", "sat", "on", "mat", "ran", "house", "red", "blue", "unable", "zebra", ",", "café")


def some_text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


CONTEXTS = [some_text(words, words) for words in (1, 2, 7, 30, 90, 31)]
QUESTIONS = [f"{some_text(n, n)}?" for n in (1, 3, 2, 1, 4, 6)]


def written(folder: Path, **keys: Any) -> Path:
    """With these keys in its config."""
    place = folder / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **keys}))
    return folder


@pytest.fixture(scope="module")
def folder(save_family: Save) -> Path:
    return save_family("bert", kind="ForQuestionAnswering", max_position_embeddings=40, std=0.4)


@pytest.fixture(scope="module")
def answer(folder: Path) -> Pipeline:
    return pipeline("question-answering", folder, device="cpu")


def naive(
    encoder: Encoder, question: str, context: str, length: int, stride: int, longest: int, null: bool
) -> list[dict[str, Any]]:
    """All answers, best first, by the definition: every pair of tokens of every window."""
    ids_of = lambda text: encoder.tokenizer.encode([text])[0].ids[1:-1]  # noqa: E731
    cls, sep = (encoder.tokenizer.id_of(role) for role in ("cls", "sep"))
    asked, text = ids_of(question), ids_of(context)
    offsets = encoder.tokenizer.encode([context])[0].offsets[1:-1]
    room = length - len(asked) - 3
    best: dict[tuple[int, int], float] = {}
    nulls = []
    for begin in itertools.count(0, room - stride):
        part = text[begin : begin + room]
        ids = [cls, *asked, sep, *part, sep]
        types = torch.tensor([0] * (len(asked) + 2) + [1] * (len(part) + 1))
        with torch.inference_mode():
            hidden = encoder.network(Ragged.of([ids]), types).last
            scores = encoder.heads["answer"](hidden).double()
        rows = [0, *range(len(asked) + 2, len(ids) - 1)]
        starts, ends = scores[rows].softmax(0).T.tolist()
        nulls.append(starts[0] * ends[0])
        for i in range(len(part)):
            for j in range(i, min(len(part), i + longest)):
                span = offsets[begin + i][0], offsets[begin + j][1]
                best[span] = max(best.get(span, 0.0), starts[i + 1] * ends[j + 1])
        if begin + room >= len(text):
            break
    found = [{"score": s, "start": a, "end": b, "answer": context[a:b]} for (a, b), s in best.items()]
    found += [{"score": min(nulls), "start": 0, "end": 0, "answer": ""}] if null else []
    return sorted(found, key=lambda one: -one["score"])


def same(ours: Any, theirs: Any) -> None:
    ours, theirs = ([one] if isinstance(one, dict) else one for one in (ours, theirs))
    assert [{**one, "score": None} for one in ours] == [{**one, "score": None} for one in theirs]
    np.testing.assert_allclose([a["score"] for a in ours], [a["score"] for a in theirs], rtol=1e-4)


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize(("length", "stride", "longest"), [(40, 10, 15), (24, 0, 3), (20, 4, 1), (384, None, 100)])
def test_answers_are_those_of_a_naive_search(
    folder: Path, answer: Pipeline, length: int, stride: int | None, longest: int, null: bool
) -> None:
    encoder = Encoder.from_pretrained(folder)
    for question, context in zip(QUESTIONS, CONTEXTS):
        options = {"max_seq_len": length, "doc_stride": stride, "max_answer_len": longest}
        tokens = len(encoder.tokenizer.encode([question])[0]) - 2
        width = min(40, length)
        shared = min(128, (width - tokens - 3) // 2) if stride is None else stride
        expected = naive(encoder, question, context, width, shared, longest, null)
        for count in (1, 4, 37):
            found = answer(question=question, context=context, top_k=count, handle_impossible_answer=null, **options)
            assert isinstance(found, dict) == (count == 1)
            same(found, expected[:count])


def test_inputs_come_in_the_forms_that_transformers_took(answer: Pipeline) -> None:
    one = answer(question=QUESTIONS[0], context=CONTEXTS[3])
    other = answer(question=QUESTIONS[1], context=CONTEXTS[3])
    assert one["answer"] == CONTEXTS[3][one["start"] : one["end"]]
    assert answer({"question": QUESTIONS[0], "context": CONTEXTS[3], "id": "7"}) == one
    assert answer([{"question": QUESTIONS[0], "context": CONTEXTS[3]}]) == [one]
    assert answer(question=QUESTIONS[:2], context=CONTEXTS[3]) == [one, other]
    assert answer(question=QUESTIONS[:2], context=[CONTEXTS[3]] * 2) == [one, other]
    assert answer(question=QUESTIONS[0], context=CONTEXTS[3:5])[0] == one
    assert answer([]) == []
    assert len(answer(question=QUESTIONS[0], context="cat", top_k=5)) == 1


def test_an_answer_is_the_same_bits_alone_and_among_others_however_short_their_rooms(answer: Pipeline) -> None:
    options = {"top_k": 3, "handle_impossible_answer": True}
    expected = [answer(question=q, context=c, **options) for q, c in zip(QUESTIONS, CONTEXTS)]
    assert answer(question=QUESTIONS, context=CONTEXTS, **options) == expected
    assert answer(question=QUESTIONS[::-1], context=CONTEXTS[::-1], **options) == expected[::-1]


def test_a_long_question_is_cut_and_that_is_told(answer: Pipeline) -> None:
    question = some_text(12, 3)
    with pytest.warns(TruncationWarning, match="1 of 2 questions were cut to 4 tokens"):
        found = answer(question=[question, "a cat?"], context=CONTEXTS[3], max_question_len=4)
    tokens = answer.tokenizer.encode([question])[0]
    assert found[0] == answer(question=question[: tokens.offsets[4][1]], context=CONTEXTS[3])
    with pytest.raises(InputError, match=r"input 1: a question of \d+ tokens leaves no room for the context"):
        answer(question=["a cat?", some_text(60, 1)], context="the cat")


def test_a_threshold_in_the_config_says_when_there_is_no_answer(folder: Path, save_family: Save) -> None:
    said = pipeline("question-answering", folder, device="cpu")(
        question=QUESTIONS[2], context=CONTEXTS[3], top_k=999, handle_impossible_answer=True
    )
    none = next(one for one in said if not one["answer"])["score"]
    best = next(one for one in said if one["answer"])["score"]
    other = save_family("bert", kind="ForQuestionAnswering", max_position_embeddings=40, std=0.4)
    for threshold, held_back in ((none / best, False), (none / best * 0.999, True), (0, True), (1e9, False)):
        pipe = pipeline("question-answering", written(other, null_threshold=threshold), device="cpu")
        found = pipe(question=QUESTIONS[2], context=CONTEXTS[3], top_k=4)
        assert (found[0]["answer"] == "") == held_back
        assert pipe(question=QUESTIONS[2], context=CONTEXTS[3]) == found[0]
        assert all(
            one["answer"]
            for one in pipe({"question": QUESTIONS[2], "context": CONTEXTS[3]}, top_k=4, handle_impossible_answer=False)
        )
    pipe = pipeline("question-answering", written(other, null_threshold="much"), device="cpu")
    with pytest.raises(ConfigError, match="null_threshold"):
        pipe(question=QUESTIONS[2], context=CONTEXTS[3])


# Characters and tokens, whatever the tokenizer

LETTERS = [*"abcdefgh", "é", "猫"]
NASTY = [
    "💜",
    "👩‍👧",
    "e\u0301",
    "u\u0301\u0302",
    "  ",
    " ",
    "\n",
    "\t",
    "the",
    " cat",
    "Dog",
    "ﬁ",
    "İ",
    "猫",
    ".",
    "▁",
    "é",
]


def wordpiece() -> Backend:
    pieces = ["[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "dog", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    made = Backend(models.WordPiece({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return made


def byte_level(trim: bool, around: bool) -> Backend:
    made = Backend(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["[CLS]", "[SEP]"] if around else []
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(["the cat sat on a dog and the cat ran"] * 9, trainer)
    if around:
        ends = ("[SEP]", made.token_to_id("[SEP]")), ("[CLS]", made.token_to_id("[CLS]"))
        made.post_processor = processors.RobertaProcessing(*ends, trim_offsets=trim, add_prefix_space=False)
    elif trim:
        made.post_processor = processors.ByteLevel(trim_offsets=True)
    return made


def unigram() -> Backend:
    pieces = ["<unk>", "[CLS]", "[SEP]", "▁", "▁the", "▁cat", "s", "dog", *LETTERS, "T", "D", "o", "."]
    made = Backend(models.Unigram([(piece, -float(i)) for i, piece in enumerate(dict.fromkeys(pieces))], 0, False))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


MADE: dict[str, Callable[[], Backend]] = {
    "WordPiece": wordpiece,
    "byte-level": lambda: byte_level(False, True),
    "byte-level, trimmed": lambda: byte_level(True, True),
    "byte-level, nothing around": lambda: byte_level(False, False),
    "byte-level, nothing around, trimmed": lambda: byte_level(True, False),
    "Unigram": unigram,
}


@cache
def facts_of(kind: str, longest: int = 12) -> Facts:
    special = {} if "nothing" in kind else {"cls": "[CLS]", "sep": "[SEP]"}
    return Facts(Tokenizer(MADE[kind](), special), {}, longest)


def covered(window: Encoded, first: int, last: int) -> tuple[int, int]:
    return window.offsets[first][0], window.offsets[last][1]


@pytest.mark.parametrize("kind", MADE)
@settings(max_examples=40)
@given(data=st.data())
def test_an_answers_ends_are_the_first_and_the_last_token_that_have_its_characters(kind: str, data: Any) -> None:
    context = "".join(data.draw(st.lists(st.sampled_from(NASTY), min_size=1, max_size=30)))
    start = data.draw(st.integers(0, len(context) - 1))
    text = context[start : data.draw(st.integers(start + 1, len(context)))]
    row = Question("q", "a cat", context, ((start, text),), "file: row 3")
    facts = facts_of(kind)
    if not context.strip():
        return
    (whole,) = facts.tokenizer.encode([context])
    tokens = [o for o, side in zip(whole.offsets, whole.sequences) if side == 0]
    hits = [i for i, (a, b) in enumerate(tokens) if a < b and a < start + len(text) and b > start]
    if not hits:
        with pytest.raises(InputError, match="file: row 3: no"):
            TASK.samples([row], Labels("single"), facts, None, None)
        return
    (sample,) = TASK.samples([row], Labels("single"), facts, Windows(stride=2), None)
    assert sample.cut == 0
    somewhere = False
    for window, (first, last) in zip(sample.sequences, sample.answer, strict=True):
        has = [window.start + place for place in range(window.sequences.count(1))]
        if hits[0] in has and hits[-1] in has:
            assert window.sequences[first] == window.sequences[last] == 1
            assert covered(window, first, last) == (tokens[hits[0]][0], tokens[hits[-1]][1])
            somewhere = True
        else:
            assert (first, last) == (0, 0)
    assert somewhere or len(sample.sequences) > 1


@pytest.mark.parametrize("kind", MADE)
@settings(max_examples=40)
@given(
    parts=st.lists(st.sampled_from(NASTY), min_size=1, max_size=30), seed=st.integers(0, 99), count=st.integers(1, 9)
)
def test_answers_are_what_the_context_has_there_without_blanks_and_none_comes_twice(
    kind: str, parts: list[str], seed: int, count: int
) -> None:
    facts, context = facts_of(kind), "".join(parts)
    if not context.strip():
        return
    request = TASK.request(question="a cat", context=context, top_k=count, max_answer_len=5)
    assert request.read is not None
    try:
        windows = request.read(request, facts)
    except InputError as error:
        assert "nothing in the context is a token" in str(error)  # noqa: PT017
        return
    rng = np.random.default_rng(seed)
    rounds = TASK.rounds(request, windows, facts)
    next(rounds)
    try:
        rounds.send([rng.normal(size=(len(window), 2)).astype(np.float32) for window in windows])
    except InputError as error:
        assert "have no characters" in str(error)  # noqa: PT017
        return
    except StopIteration as done:
        (found,) = done.value
    found = [found] if count == 1 else found
    for one in found:
        assert one["answer"] == context[one["start"] : one["end"]] == one["answer"].strip() != ""
    assert len({(one["start"], one["end"]) for one in found}) == len(found)
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert all(max(window.types) <= 1 for window in windows)
    assert len({tuple(zip(window.sequences, window.types)) and window.types[-1] for window in windows}) == 1


@pytest.mark.parametrize("kind", MADE)
def test_windows_have_the_question_in_each_and_all_of_the_context(kind: str) -> None:
    facts, context = facts_of(kind, 14), "the cat  sat on a dog, and the cats ran 💜 to the dog"
    (whole,) = facts.tokenizer.encode([context])
    expected = [i for i, side in zip(whole.ids, whole.sequences) if side == 0]
    (read,) = Reading(stride=2)(["a cat"], [context], ["input 0"], facts)
    assert len(read.windows) > 1
    seen: dict[int, int] = {}
    for window in read.windows:
        own = [i for i, side in zip(window.ids, window.sequences) if side == 1]
        assert len(window) <= 14
        assert [i for i, s in zip(window.ids, window.sequences) if s == 0] == facts_question(facts)
        assert [(s, t) for s, t in zip(window.sequences, window.types) if s is not None] == [
            pair for pair in zip(read.windows[0].sequences, read.windows[0].types) if pair[0] == 0
        ] + [(1, dict(zip(read.windows[0].sequences, read.windows[0].types))[1])] * len(own)
        seen |= {window.start + place: token for place, token in enumerate(own)}
    assert [seen[i] for i in range(len(expected))] == expected


def facts_question(facts: Facts) -> list[int]:
    (asked,) = facts.tokenizer.encode(["a cat"])
    return [i for i, side in zip(asked.ids, asked.sequences) if side == 0]


# Learning


ROWS = [
    Question("1", "the cat?", CONTEXTS[4], ((CONTEXTS[4].index("house"), "house"),), "rows: 1"),
    Question("2", "a dog?", "the red dog ran", ((4, "red dog"), (8, "dog")), "rows: 2"),
    Question("3", "a blue mat?", CONTEXTS[3], (), "rows: 3"),
]
CLOSE = {"atol": 1e-6, "rtol": 1e-5}


def without_dropout(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    zero = {key: 0.0 for key, value in config.items() if "drop" in key and isinstance(value, float)}
    return written(folder, **zero)


@torch.no_grad()
def gradients_by_their_names(encoder: Encoder, folder: Path, kind: Any) -> dict[str, Tensor]:
    """Gradients saved in the place of weights, and read back by transformers."""
    for parameter in Model(encoder.network, encoder.heads).parameters():
        parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    encoder.save_pretrained(folder)
    return dict(kind.from_pretrained(folder).named_parameters())


@pytest.mark.parametrize("family", families_with("ForQuestionAnswering"))
def test_losses_and_gradients_are_those_of_transformers(save_family: Save, tmp_path: Path, family: str) -> None:
    sizes = {"type_vocab_size": 2} if family in ("camembert", "roberta", "xlm-roberta") else {}
    folder = without_dropout(save_family(family, kind="ForQuestionAnswering", **sizes))
    kind = SAVE_FAMILY[family].kind("ForQuestionAnswering")
    theirs = kind.from_pretrained(folder).train()
    encoder = Encoder.from_pretrained(folder)
    assert encoder.tokenizer is not None
    facts = Facts(encoder.tokenizer, encoder.extras, encoder.config.longest)
    samples = TASK.samples(ROWS, TASK.labels_of(ROWS), facts, None, None)
    objective = Supervised(TASK, "answer")
    batch = objective.batch(samples)
    found = objective.loss(Model(encoder.network, encoder.heads).train(), batch).losses["answer"]
    assert found.count == objective.counts(batch)["answer"] == sum(len(s.sequences) for s in samples) > 4
    (found.total / found.count).backward()
    losses = []
    for window, (start, end) in zip(
        [w for s in samples for w in s.sequences], [a for s in samples for a in s.answer], strict=True
    ):
        keys = {"input_ids": torch.tensor([window.ids]), "attention_mask": torch.ones(1, len(window))}
        keys |= {"token_type_ids": torch.tensor([window.types])} if encoder.config.types else {}
        said = theirs(**keys, start_positions=torch.tensor([start]), end_positions=torch.tensor([end]))
        losses.append(said.loss)
    expected_loss = torch.stack(losses).mean()
    expected_loss.backward()
    torch.testing.assert_close(found.total / found.count, expected_loss, **CLOSE)
    ours = gradients_by_their_names(encoder, tmp_path / "gradients", kind)
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert len(expected) > 15
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name].detach(), gradient, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


def test_what_is_learnt_is_answered_and_measured(save_family: Save, tmp_path: Path) -> None:
    """Four questions by heart, one without an answer."""
    encoder = Encoder.from_pretrained(without_dropout(save_family("bert", kind="ForQuestionAnswering", std=0.05)))
    assert encoder.tokenizer is not None
    facts = Facts(encoder.tokenizer, encoder.extras, encoder.config.longest)
    context = "the red dog ran to the house, on a blue mat sat the cat"  # two windows of 24 tokens
    rows = [
        Question("1", "dog?", context, ((context.index("to"), "to the house"),), "rows: 1"),
        Question("2", "cat?", context, ((context.index("on"), "on a blue mat"), (0, "the")), "rows: 2"),
        Question("3", "zebra?", context, (), "rows: 3"),
        Question("4", "mat?", "café on the mat", ((5, "on the mat"),), "rows: 4"),
    ]
    labels = TASK.labels_of(rows)
    objective = Supervised(TASK, "answer")
    batch = objective.batch(TASK.samples(rows, labels, facts, None, None))
    model = Model(encoder.network, encoder.heads).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(200):
        told = objective.loss(model, batch)
        optimizer.zero_grad()
        told.losses["answer"].total.backward()
        optimizer.step()
        if told.losses["answer"].total < 0.05 * told.losses["answer"].count:
            break
    pipe = Pipeline("question-answering", encoder, device="cpu")
    answers = pipe.answers(TASK.request_of(rows, None, None))
    assert all(isinstance(one, Answered) for one in answers)
    outcomes = [TASK.outcome(row, one, labels) for row, one in zip(rows, answers)]
    measured = TASK.metrics(outcomes, labels)
    assert measured["em"] == measured["f1"] == measured["has_answer_f1"] == measured["no_answer_f1"] == 1.0
    assert measured["best_f1"] == 1.0
    assert TASK.best(labels) in measured
    encoder.extras["null_threshold"] = measured["best_threshold"]
    encoder.save_pretrained(tmp_path / "learnt")
    read = pipeline("question-answering", tmp_path / "learnt", device="cpu")
    found = read([{"question": row.question, "context": row.context} for row in rows])
    assert [one["answer"] for one in found] == ["to the house", "on a blue mat", "", "on the mat"]
    answerable = [rows[i] for i in (0, 1, 3)]
    outcomes = [
        TASK.outcome(r, one, labels)
        for r, one in zip(answerable, pipe.answers(TASK.request_of(answerable, None, None)))
    ]
    assert TASK.metrics(outcomes, labels) == {"em": 1.0, "f1": 1.0}


def test_rows_that_cannot_be_learnt_from_are_named(folder: Path, save_family: Save) -> None:
    encoder = Encoder.from_pretrained(folder)
    assert encoder.tokenizer is not None
    facts = Facts(encoder.tokenizer, {}, 24)
    unknown = Question("5", "the cat?", "the cat", None, "rows: 5")
    with pytest.raises(InputError, match="rows: 5: no answers are given"):
        TASK.labels_of([*ROWS, unknown])
    with pytest.raises(InputError, match="rows: 3: none of 1 questions has an answer"):
        TASK.labels_of([ROWS[2]])
    with pytest.raises(InputError, match="no rows"):
        TASK.labels_of([])
    with pytest.raises(InputError, match="3 labels"):
        TASK.labels_of(ROWS, Labels("single", ("a", "b", "c")))
    with pytest.raises(InputError, match="rows: 6: no token has any of the answer's characters: ' ' at 3"):
        TASK.samples([Question("6", "a", "the cat", ((3, " "),), "rows: 6")], Labels("single"), facts, None, None)
    with pytest.raises(InputError, match="rows: 7: the context is empty"):
        TASK.samples([Question("7", "a", " \n", (), "rows: 7")], Labels("single"), facts, None, None)
    bare = facts_of("byte-level, nothing around")
    with pytest.raises(InputError, match=r"rows: 3: the question has no answer, but .* no \[CLS\]"):
        TASK.samples([ROWS[2]], Labels("single"), bare, None, None)
    assert TASK.samples(ROWS[:2], Labels("single"), facts, None, None)[0].answer.count((0, 0)) > 1
    assert math.isclose(sum(TASK.losses.values()), 1.0)
