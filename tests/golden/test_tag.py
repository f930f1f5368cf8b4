"""Tokens are tagged, and entities made of them, as the pipeline of transformers does; losses are its models' losses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from small_models import SAVE_FAMILY, families_with
from small_tokenizers import MAKE, roles, small_tokenizer
from test_mlm_training import gradients_by_their_names
from test_tokenizer import NASTY

from bothways import Encoder, InputError, pipeline
from bothways.checkpoint.labels import labels_of
from bothways.data.labelled import Labels
from bothways.data.tagged import Tagged
from bothways.objectives.objective import Model
from bothways.tasks.entities import STRATEGIES
from bothways.tasks.learning import Supervised, Weighing
from bothways.tasks.tag import TokenClassification
from bothways.tasks.task import Facts
from bothways.text.windows import Windows

Save = Callable[..., Path]
NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
SIZES = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}, "seed": 1}
TEXTS = [
    *(text for text in NASTY.values() if len(text) < 90),
    "  the café  sat on\tthe 💜 mat ,\n\nit's un-able!  ",
    "Ada Lovelace met Charles Babbage in London, Zürich and 東京タワー.",
]
TASK = TokenClassification()


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    inside = text[start:end].strip()
    return (start + text[start:end].index(inside), start + text[start:end].index(inside) + len(inside))


def same_entities(text: str, ours: Any, theirs: Any) -> None:
    """The same but for the space that their offsets may have around them."""
    assert [one.keys() for one in ours] == [one.keys() for one in theirs]
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine["score"] == pytest.approx(float(expected["score"]), abs=1e-5)
        assert {type(mine["start"]), type(mine["end"])} == {int}
        assert type(mine["score"]) is float
        where = mine["start"], mine["end"]
        found = trimmed(text, expected["start"], expected["end"])
        assert where == found or (where[0] == where[1] and found[0] == found[1]), (mine, expected)
        different = ("score", "start", "end")
        assert {k: v for k, v in mine.items() if k not in different} == {
            k: v for k, v in expected.items() if k not in different
        }


def tokenizer_of(folder: Path) -> Any:
    """Transformers' own; of a family that never has one of BERT's kind, too."""
    fast = (folder / "tokenizer.json").exists()
    kind = transformers.PreTrainedTokenizerFast if fast else transformers.BertTokenizer
    return kind.from_pretrained(folder, model_input_names=["input_ids", "attention_mask"])


def compare(folder: Path, strategy: str, **options: Any) -> int:
    """How many entities there were."""
    ours = pipeline("token-classification", folder, device="cpu")
    theirs = transformers.pipeline(
        "token-classification",
        str(folder),
        tokenizer=tokenizer_of(folder),
        device="cpu",
        aggregation_strategy=strategy,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Tokenizer does not support real words"
        # Nothing is no text to a model without special tokens.
        expected = [theirs(text, **options) if tokenizer_of(folder)(text)["input_ids"] else [] for text in TEXTS]
    answers = ours(TEXTS, aggregation_strategy=strategy, **options)
    assert ours(TEXTS[0], aggregation_strategy=strategy, **options) == answers[0]
    for text, mine, one in zip(TEXTS, answers, expected, strict=True):
        same_entities(text, mine, one)
    return sum(map(len, answers))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", families_with("ForTokenClassification"))
def test_every_family_says_of_nasty_texts_what_transformers_says(save_family: Save, family: str, strategy: str) -> None:
    folder = save_family(family, kind="ForTokenClassification", max_position_embeddings=200, **SIZES)
    assert compare(folder, strategy) > 3


@pytest.fixture(scope="module", params=MAKE)
def kind(request: pytest.FixtureRequest, save_family: Save) -> Path:
    """A random small RoBERTa with each kind of tokenizer."""
    backend = small_tokenizer(request.param)
    size = backend.get_vocab_size()
    folder = save_family(
        "roberta", kind="ForTokenClassification", tokenizer=False, vocab_size=size, max_position_embeddings=300, **SIZES
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=298, **roles(request.param)
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_kind_of_tokenizer_gives_the_words_of_transformers(kind: Path, strategy: str) -> None:
    assert compare(kind, strategy) > 10
    assert compare(kind, strategy, ignore_labels=[]) > 20
    assert compare(kind, strategy, ignore_labels=["O", "PER", "B-LOC"]) > 10


@torch.inference_mode()
def test_a_long_text_is_read_in_windows_and_each_token_where_it_has_most_context(kind: Path) -> None:
    text, length, stride = " ".join([*TEXTS[:4], *TEXTS[-2:]]), 17, 5
    tokenizer = tokenizer_of(kind)
    model = transformers.RobertaForTokenClassification.from_pretrained(kind).eval()
    special = tokenizer(text, return_special_tokens_mask=True)["special_tokens_mask"]
    before, count = special.index(0), special.count(0)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text, return_offsets_mapping=True)
    head, tail = whole["input_ids"][:before], whole["input_ids"][before + count :]
    room = length - len(head) - len(tail)
    assert count > 2 * room
    best: dict[int, tuple[int, torch.Tensor]] = {}
    start = 0
    while True:
        inside = ids[start : start + room]
        scores = model(torch.tensor([[*head, *inside, *tail]])).logits[0].softmax(-1)[before:]
        for i in range(len(inside)):
            context = min(i, len(inside) - 1 - i)
            if start + i not in best or context > best[start + i][0]:
                best[start + i] = (context, scores[i])
        if start + room >= count:
            break
        start += room - stride
    answers = pipeline("token-classification", kind, device="cpu")(
        text, stride=stride, max_length=length, ignore_labels=()
    )
    assert [one["index"] for one in answers] == list(range(before, before + count))
    for i, one in enumerate(answers):
        assert one["entity"] == NAMES[int(best[i][1].argmax())]
        assert one["score"] == pytest.approx(float(best[i][1].max()), abs=1e-5)
        assert text[one["start"] : one["end"]] == text[slice(*whole["offset_mapping"][before + i])].strip()


def test_a_text_that_fits_says_the_same_whatever_the_windows(kind: Path) -> None:
    tag = pipeline("token-classification", kind, device="cpu")
    text = TEXTS[-1]
    for strategy in STRATEGIES:
        assert tag(text, aggregation_strategy=strategy, stride=3) == tag(text, aggregation_strategy=strategy)


def test_words_have_the_label_of_their_first_piece(kind: Path) -> None:
    tag = pipeline("token-classification", kind, device="cpu")
    text = TEXTS[-1]
    words = [
        (i, i + len(word)) for word in ("Ada", "Lovelace", "met", "London", "東京タワー") for i in [text.index(word)]
    ]
    tokens = tag(text, ignore_labels=[])
    answers = tag(text, words=words)
    assert answers == tag([text, ""], words=[words, []])[0]
    for (start, end), answer in zip(words, answers, strict=True):
        first = next(one for one in tokens if max(start, one["start"]) < min(end, one["end"]))
        assert answer == {"entity": first["entity"], "score": first["score"], "start": start, "end": end}


def test_a_word_without_a_token_is_outside(save_family: Save) -> None:
    folder = save_family("bert", kind="ForTokenClassification", **SIZES)
    tag = pipeline("token-classification", folder, device="cpu")
    answers = tag("cat \u200b mat", words=[(0, 3), (4, 5), (6, 9)])
    assert answers[1] == {"entity": "O", "score": 0.0, "start": 4, "end": 5}
    assert answers[2] == tag("cat mat", words=[(0, 3), (4, 7)])[1] | {"start": 6, "end": 9}
    bare = save_family("bert", kind="ForTokenClassification", num_labels=3)
    assert pipeline("token-classification", bare, device="cpu")("\u200b", words=[(0, 1)])[0]["entity"] == "LABEL_0"


# Learning

SENTENCES = [
    ("the café sat on un-able houses", ["O", "B-PER", "O", "O", "B-LOC", "I-LOC"]),
    ("dogs", ["MISC"]),
    ("the \u200b cat ran to a red house , was it doing ?", ["O", "I-PER", "B-PER", "I-PER", *["O"] * 8, "B-LOC", "O"]),
]


def rows() -> list[Tagged]:
    made = []
    for number, (text, tags) in enumerate(SENTENCES, 1):
        words, at = [], 0
        for word in text.split(" "):
            words.append((at, at + len(word)))
            at += len(word) + 1
        made.append(
            Tagged(text, tuple(words), tuple([*tags, *["O"] * len(words)][: len(words)]), f"train: line {number}")
        )
    return made


def facts_of(encoder: Encoder) -> Facts:
    assert encoder.tokenizer is not None
    return Facts(encoder.tokenizer, encoder.extras, encoder.config.longest)


def padded(folder: Path, padding: int) -> dict[str, torch.Tensor]:
    """As transformers' recipe has it: words that are split already, -100 for all but their first pieces."""
    tokenizer = tokenizer_of(folder)
    sequences = [tokenizer(row.text.split(" "), is_split_into_words=True) for row in rows()]
    labels = []
    for row, one in zip(rows(), sequences, strict=True):
        seen: set[int | None] = {None}
        own = []
        for word in one.word_ids():
            own.append(-100 if word in seen else NAMES.index((row.tags or ())[word]))
            seen.add(word)
        labels.append(own)
    longest = max(map(len, labels))

    def rectangle(lists: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*one, *[fill] * (longest - len(one))] for one in lists])

    ids = [one["input_ids"] for one in sequences]
    return {
        "input_ids": rectangle(ids, padding),
        "attention_mask": rectangle([[1] * len(one) for one in ids], 0),
        "labels": rectangle(labels, -100),
    }


@pytest.mark.parametrize("family", families_with("ForTokenClassification"))
def test_loss_and_all_gradients_are_those_of_transformers(save_family: Save, family: str, tmp_path: Path) -> None:
    folder = save_family(family, kind="ForTokenClassification", max_position_embeddings=40, **SIZES)
    kind = SAVE_FAMILY[family].kind("ForTokenClassification")
    encoder, theirs = Encoder.from_pretrained(folder), kind.from_pretrained(folder).eval()
    samples = TASK.samples(rows(), labels_of(encoder.extras), facts_of(encoder), None, None)
    objective = Supervised(TASK, "tag")
    batch = objective.batch(samples)
    keys = padded(folder, theirs.config.pad_token_id or 0)
    assert objective.counts(batch) == {"tag": int((keys["labels"] >= 0).sum())}
    result = objective.loss(Model(encoder.network, encoder.heads).eval(), batch)
    loss = result.losses["tag"].total / result.losses["tag"].count
    loss.backward()
    said = theirs(**keys)
    said.loss.backward()
    assert loss.item() == pytest.approx(said.loss.item(), rel=1e-5)
    right = (said.logits.argmax(-1) == keys["labels"]).sum()
    assert int(result.metrics["accuracy"].total) == int(right)
    ours = gradients_by_their_names(encoder, tmp_path / "gradients", kind)
    expected = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for key, gradient in expected.items():
        torch.testing.assert_close(ours[key].detach(), gradient, atol=1e-5 * largest, rtol=0, msg=key)


def test_labels_are_smoothed_and_rows_weigh_what_their_label_says(save_family: Save) -> None:
    encoder = Encoder.from_pretrained(save_family("bert", kind="ForTokenClassification", **SIZES))
    samples = TASK.samples(rows(), labels_of(encoder.extras), facts_of(encoder), None, None)
    classes = (0.5, 1.5, 1.0, 2.0, 3.0, 0.25)
    objective = Supervised(TASK, "tag", Weighing(smoothing=0.1, classes=classes))
    batch = objective.batch(samples)
    model = Model(encoder.network, encoder.heads).eval()
    total = objective.loss(model, batch).losses["tag"].total
    answers = batch.labels["tag"]
    logits = encoder.heads["tag"](encoder.network(batch.tokens).last)[answers.rows]
    expected = sum(
        classes[gold] * (0.9 * F.cross_entropy(one, gold) - 0.1 * one.log_softmax(-1).mean())
        for one, gold in zip(logits, answers.values, strict=True)
    )
    torch.testing.assert_close(total, torch.as_tensor(expected))


@pytest.mark.parametrize("stride", [None, 0, 2])
def test_long_sentences_become_windows_in_which_each_word_is_learnt_once(save_family: Save, stride: int | None) -> None:
    encoder = Encoder.from_pretrained(save_family("bert", kind="ForTokenClassification", **SIZES))
    facts, labels = facts_of(encoder), labels_of(encoder.extras)
    (short,) = TASK.samples(rows()[2:], labels, facts, None, None)
    (sample,) = TASK.samples(rows()[2:], labels, facts, Windows(8, stride), None)
    assert len(short.sequences) == 1
    assert len(sample.sequences) > 2
    ids = [i for one in sample.sequences for i in one.ids]
    assert [(ids[row], number) for row, number in sample.answer] == [
        (short.sequences[0].ids[row], number) for row, number in short.answer
    ]
    again = TASK.samples(rows()[2:], labels, facts, None if stride is None else Windows(stride=stride), 8)
    assert again[0].answer == sample.answer
    batch = Supervised(TASK, "tag").batch([short, sample, short])
    assert batch.groups is not None
    assert batch.groups.lengths == (1, len(sample.sequences), 1)
    answers = batch.labels["tag"]
    assert answers.rows is not None
    words = len(short.answer)
    assert len(answers.values) == 3 * words
    spoken = batch.tokens.data[answers.rows].view(3, words)
    assert torch.equal(spoken[0], spoken[1])
    assert torch.equal(spoken[0], spoken[2])


def test_rows_are_predicted_and_compared_as_the_metrics_want_it(save_family: Save) -> None:
    tag = pipeline("token-classification", save_family("bert", kind="ForTokenClassification", **SIZES), device="cpu")
    labels = TASK.labels_of(rows())
    answers = tag.answers(TASK.request_of(rows(), Windows(stride=1), 9))
    outcomes = [TASK.outcome(row, answer, labels) for row, answer in zip(rows(), answers, strict=True)]
    for row, (truth, found) in zip(rows(), outcomes, strict=True):
        assert truth == row.tags
        expected = tag(row.text, words=row.words, stride=1, max_length=9)
        assert found == tuple(one["entity"] for one in expected)
    metrics = TASK.metrics(outcomes, labels)
    assert 0 <= metrics[TASK.best(labels)] <= 1
    perfect = TASK.metrics([(truth, truth) for truth, _ in outcomes], labels)
    assert perfect["f1"] == perfect["accuracy"] == perfect["f1/LOC"] == 1.0
    assert perfect["support/LOC"] == 2.0


def plain(*tags: str) -> Tagged:
    return Tagged("a" * len(tags), tuple((i, i + 1) for i in range(len(tags))), tags, "pos.conll: line 7")


def test_plain_tags_are_counted_right_or_wrong() -> None:
    labels = TASK.labels_of([plain("NOUN", "VERB"), plain("ADJ")])
    assert labels == Labels("single", ("ADJ", "NOUN", "VERB"), "tag")
    assert TASK.best(labels) == "accuracy"
    outcomes = [(("NOUN", "VERB"), ("NOUN", "NOUN")), (("ADJ", "ADJ"), ("ADJ", "ADJ"))]
    assert TASK.metrics(outcomes, labels) == pytest.approx({"accuracy": 0.75, "macro_f1": (1 + 2 / 3 + 0) / 3})
    assert TASK.metrics([((), ())], labels) == {"accuracy": 0.0, "macro_f1": 0.0}


def test_labels_are_sorted_behind_the_one_for_outside() -> None:
    labels = TASK.labels_of(rows())
    assert labels.names == ("O", "B-LOC", "B-PER", "I-LOC", "I-PER", "MISC")
    assert TASK.best(labels) == "f1"
    assert TASK.labels_of(rows(), Labels("single", NAMES)).names == NAMES
    assert TASK.labels_of([plain("O")], labels) == labels


@pytest.mark.parametrize(
    ("given", "known", "says"),
    [
        ([plain("B-PRE")], NAMES, r"pos.conll: line 7: unknown tag 'B-PRE'; did you mean B-PER\?"),
        ([plain("zzz")], NAMES, "unknown tag 'zzz'; known are O, B-PER"),
        ([plain("O", "O"), plain("O")], None, "line 7: all 3 words have the tag 'O'"),
        ([plain()], None, "no words"),
        ([], None, "no rows"),
        ([Tagged("a", ((0, 1),), None, "x: line 2")], None, "x: line 2: no tags"),
        ([Tagged("a", ((0, 1),), ("O", "O"), "x: line 2")], None, "x: line 2: 1 words need as many tags, got 2"),
    ],
)
def test_tags_that_cannot_be_learnt_are_refused(given: list[Tagged], known: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        TASK.labels_of(given, None if known is None else Labels("single", known))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"aggregation_strategy": "fist"}, "unknown aggregation_strategy 'fist'; did you mean first?"),
        ({"aggregation_strategy": None}, "unknown aggregation_strategy None"),
        ({"stride": 22}, "a stride of 22 needs a larger max_length than 24"),
        ({"stride": -1}, "stride must be 0 or more tokens, got -1"),
        ({"stride": 1.5}, "stride must be a whole number, got 1.5"),
        ({"max_length": 25}, "windows of 25 tokens are longer than the 24 that the model takes"),
        ({"max_length": 2}, "a limit of 2 tokens leaves no room"),
        ({"max_length": True}, "max_length must be a whole number"),
        ({"ignore_labels": [3]}, "ignore_labels must be names"),
        ({"ignore_labels": None}, "NoneType"),
        ({"words": [(0, 99)]}, "text 0: no word from 0 to 99 in 7 characters"),
        ({"words": [(2, 2)]}, "text 0: no word from 2 to 2"),
        ({"words": [3]}, "words must be (start, end)"),
        ({"words": [(0, 1)], "aggregation_strategy": "first"}, "not both"),
        ({"aggregation": "first"}, "did you mean aggregation_strategy?"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(save_family: Save, options: dict[str, Any], says: str) -> None:
    tag = pipeline("token-classification", save_family("bert", kind="ForTokenClassification"), device="cpu")
    with pytest.raises(InputError) as caught:
        tag("the cat", **options)
    assert says in str(caught.value)
    assert tag([], **{}) == []
