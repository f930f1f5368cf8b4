"""What an objective makes of a text is what training makes of it, and what is answered is what training loses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bothways import CheckpointError, ConfigError, Encoder, InputError, TruncationWarning
from bothways.cli.lesson import ABOUT, SHOW
from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.engine.lesson import READERS, Asked, Lesson, LessonSettings, lesson
from bothways.nn.dropout import seeded
from bothways.objectives.choice import OBJECTIVES, Told, objective_of
from bothways.objectives.masking import Masking
from bothways.objectives.objective import Model
from bothways.objectives.reading import Together
from bothways.train.networks import Networks

TEXT = "The cat sat on the mat. A dog ran to the house. The house is red. The dog was blue. It ran."
USUAL = LessonSettings()
OTHER = "Un cat was unable. A red mat is a blue mat."
# objective → the model that has a head for it.
WITH_HEAD = {
    "mlm": ("bert", "ForMaskedLM"),
    "nsp": ("bert", "ForPreTraining"),
    "sop": ("albert", "ForPreTraining"),
    "causal": ("gpt2", "ForMaskedLM"),
}


@pytest.fixture(scope="module")
def encoders(save_family: Callable[..., Path]) -> dict[str, Encoder]:
    """By objective, one that has a head for it."""
    sizes: dict[str, Any] = {"max_position_embeddings": 48}
    found = {name: Encoder.from_pretrained(save_family(f, kind=kind, **sizes)) for name, (f, kind) in WITH_HEAD.items()}
    return {**found, "none": Encoder.from_pretrained(save_family("bert", **sizes))}


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Packed, Batch]]:
    """What the code of training was given, and made of it."""
    corrupt, found = Together.corrupt, []

    def spy(self: Together, packed: Packed, rng: np.random.Generator) -> Batch:
        found.append((packed, corrupt(self, packed, rng)))
        return found[-1][1]

    monkeypatch.setattr(Together, "corrupt", spy)
    return found


def asked_of(found: Lesson) -> list[Asked]:
    return [asked for one in found.sequences for asked in one.asked]


@pytest.mark.parametrize("objective", WITH_HEAD)
def test_the_losses_are_those_of_training(
    objective: str, encoders: dict[str, Encoder], trained_on: list[tuple[Packed, Batch]]
) -> None:
    encoder = encoders[objective]
    found = lesson(encoder, TEXT, objective, LessonSettings(Masking(rate=0.4)), device="cpu")
    assert found.head
    ((packed, batch),) = trained_on
    learnt = Together((OBJECTIVES[objective].build(Told(Masking(), encoder.tokenizer)),))  # type: ignore[arg-type]
    with torch.inference_mode():
        losses = learnt.loss(Model(encoder.network, encoder.heads).eval(), batch)
    part, asked = losses.losses[objective], asked_of(found)
    assert len(asked) == part.count > 0
    assert sum(one.loss or 0.0 for one in asked) == pytest.approx(float(part.total), rel=1e-4)
    right = next(float(metric.total) for metric in losses.metrics.values())
    assert sum(one.guess == one.answer for one in asked) == right
    assert all(0 < (one.probability or 0.0) <= 1 for one in asked)
    assert [len(one.tokens) for one in found.sequences] == list(packed.lengths)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_what_is_chosen_is_replaced_and_asked_for_and_all_else_is_as_it_was(
    unit: Any, encoders: dict[str, Encoder]
) -> None:
    how = set()
    for seed in range(6):
        settings = LessonSettings(Masking(rate=0.5, mask=0.4, random=0.3, unit=unit), seed=seed)
        (one,) = lesson(encoders["none"], TEXT, "mlm", settings, device="cpu").sequences
        assert " ".join(one.tokens[:8]) == "[CLS] the cat sat on the mat ."
        chosen = {asked.row: asked for asked in one.asked}
        for row, (token, seen) in enumerate(zip(one.tokens, one.seen, strict=True)):
            expected = {"mask": seen == "[MASK]", "random": seen != token, "kept": seen == token}
            assert expected[chosen[row].how or ""] if row in chosen else seen == token
            assert row not in chosen or chosen[row].answer == token
        how |= {asked.how for asked in one.asked}
        assert not {0, len(one.tokens) - 1} & chosen.keys()
    assert how == {"mask", "random", "kept"}


def test_the_same_seed_gives_the_same_and_another_one_another(encoders: dict[str, Encoder]) -> None:
    one, same, other = (lesson(encoders["mlm"], TEXT, settings=LessonSettings(seed=seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_each_token_is_asked_for_the_next(encoders: dict[str, Encoder]) -> None:
    (one,) = lesson(encoders["causal"], "the cat sat", "causal").sequences
    assert one.tokens == one.seen == ("[CLS]", "the", "cat", "sat", "[SEP]")
    assert [(asked.row, asked.answer, asked.how) for asked in one.asked] == [
        (row, token, None) for row, token in enumerate(one.tokens[1:])
    ]


SEGMENTS = {
    "nsp": LessonSettings(pair=OTHER),
    "nsp in one text": LessonSettings(),
    "sop": LessonSettings(),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_pair_is_what_its_label_says(name: str, encoders: dict[str, Encoder]) -> None:
    """Segments are whole sentences: next ones go on in their text, others do not; swapped ones end where B does."""
    labels, whole = set(), " ".join(TEXT.casefold().split())
    for seed in range(8):
        settings = LessonSettings(pair=SEGMENTS[name].pair, seed=seed)
        found = lesson(encoders["none"], TEXT, name.split()[0], settings)
        assert not found.head
        for one in (one for one in found.sequences if one.asked):
            first, second = one.segments
            (asked,) = one.asked
            labels.add(asked.answer)
            texts = whole if name != "nsp" else f"{whole}|{OTHER.casefold()}"
            follows = {"next": True, "not next": False, "in order": True, "swapped": False}[asked.answer]
            assert (f"{first} {second}" in texts) == follows
            assert (f"{second} {first}" in texts) == (asked.answer == "swapped") or name == "nsp in one text"
            assert first in texts
            assert second in texts
            assert one.types == (0,) * (one.tokens.index("[SEP]") + 1) + (1,) * (sum(one.types))
            assert asked.loss is asked.guess is asked.probability is None
    assert labels == set(READERS[name.split()[0]].classes or ())


SIZES: dict[str, Any] = {"max_position_embeddings": 48, "initializer_range": 0.5}
# Of a discriminator: its family, the class that has its head, and what else its config says.
JUDGING: dict[str, tuple[str, dict[str, Any]]] = {
    "electra": ("ForPreTraining", {}),
    "bert": ("ForTokenClassification", {"num_labels": 1}),
    "deberta-v2": ("ForTokenClassification", {"num_labels": 1}),
}


@pytest.fixture(scope="module")
def save_both(save_family: Callable[..., Path]) -> Callable[..., Path]:
    """(family, **options of the discriminator) → its folder, with the generator's in it."""

    def save(family: str, kind: str = "Model", **options: Any) -> Path:
        folder = save_family(family, kind=kind, **SIZES, **options)
        generator = Encoder.from_pretrained(save_family(family, kind="ForMaskedLM", seed=1, **SIZES))
        generator.save_pretrained(folder / "generator")
        return folder

    return save


@pytest.mark.parametrize("family", JUDGING)
def test_what_is_replaced_and_judged_is_that_of_training(
    family: str, save_both: Callable[..., Path], trained_on: list[tuple[Packed, Batch]]
) -> None:
    kind, options = JUDGING[family]
    folder, masking = save_both(family, kind=kind, **options), Masking(rate=0.5, mask=0.6, random=0.2)
    found = lesson(folder, TEXT, "rtd", LessonSettings(masking, seed=5), device="cpu")
    ((packed, batch),) = trained_on
    (one,) = found.sequences
    both = Networks.read(folder, "none")
    assert both.encoder.tokenizer is not None
    learnt = objective_of(["rtd"], Told(masking, both.encoder.tokenizer))
    with torch.no_grad(), seeded(5):
        told = learnt.loss(both.model().eval(), batch)
    said = [token.probability or 0.0 for token in one.judged]
    flagged, replaced = np.array(said) > 0.5, np.array([token.replaced for token in one.judged])
    counts = {"replaced": replaced, "flagged": flagged, "found": flagged & replaced}
    assert {name: int(told.metrics[name].total) for name in counts} == {name: c.sum() for name, c in counts.items()}
    assert -np.log(np.where(replaced, said, 1 - np.array(said))).sum() == pytest.approx(
        float(told.losses["rtd"].total), rel=1e-3
    )
    assert sum(asked.loss or 0.0 for asked in one.asked) == pytest.approx(float(told.losses["mlm"].total), rel=1e-4)
    assert sum(asked.guess == asked.answer for asked in one.asked) == int(told.metrics["accuracy"].total)
    assert (found.head, found.generator) == (True, True)
    assert len(one.judged) == len(one.tokens) == sum(packed.lengths)
    hidden = {asked.row for asked in one.asked}
    for row, (token, judged) in enumerate(zip(one.tokens, one.judged, strict=True)):
        assert judged.replaced == (judged.token != token)
        assert row in hidden or not judged.replaced
    assert replaced.any()


def test_rtd_is_shown_as_far_as_there_are_networks_for_it(
    save_both: Callable[..., Path], save_family: Callable[..., Path]
) -> None:
    def shown(model: Path | Encoder, seed: int = 0) -> Lesson:
        return lesson(model, TEXT, "rtd", LessonSettings(Masking(rate=0.5), seed=seed), device="cpu")

    both = save_both("electra", kind="ForPreTraining")
    assert shown(both) == shown(both) != shown(both, seed=1)
    for bare in (save_family("electra", kind="ForPreTraining", **SIZES), Encoder.from_pretrained(both)):
        alone = shown(bare)
        assert (alone.head, alone.generator, alone.sequences[0].judged) == (True, False, ())
        assert [replace(a, loss=None, guess=None, probability=None) for a in asked_of(shown(both))] == asked_of(alone)
    for headless in (save_both("bert"), save_both("bert", kind="ForTokenClassification", num_labels=5)):
        found = shown(headless)
        assert (found.head, found.generator) == (False, True)
        assert {judged.probability for judged in found.sequences[0].judged} == {None}
        assert any(judged.replaced for judged in found.sequences[0].judged)
    short = lesson(both, TEXT, "rtd", LessonSettings(Masking(rate=1e-9))).sequences[0]
    assert (short.asked, len(short.judged)) == ((), len(short.tokens))
    Encoder.from_pretrained(both).save_pretrained(both / "generator")
    with pytest.raises(CheckpointError, match=r"generator: no electra model with a head mlm, as the generator .* must"):
        shown(both)


def test_every_objective_of_the_table_is_shown() -> None:
    assert READERS.keys() == SHOW.keys() <= OBJECTIVES.keys()
    assert {name for names in ABOUT.values() for name in names} <= READERS.keys()


def test_a_long_text_is_cut_for_words_and_comes_in_sequences_for_pairs(encoders: dict[str, Encoder]) -> None:
    with pytest.warns(TruncationWarning, match=r"the text was cut to 48 tokens \(it had 114\)") as told:
        (one,) = lesson(encoders["mlm"], TEXT * 4).sequences
    assert len(one.tokens) == 48
    assert told[0].filename == __file__
    with pytest.warns(TruncationWarning, match=r"the text was cut to 4 tokens \(it had 30\)"):
        assert len(lesson(encoders["causal"], TEXT, "causal", LessonSettings(longest=5)).sequences[0].tokens) == 4
    found = lesson(encoders["sop"], " ".join([TEXT] * 4), "sop")
    assert len(found.sequences) > 2
    assert all(len(one.tokens) <= 48 for one in found.sequences)


def test_what_cannot_be_learnt_from_is_refused(encoders: dict[str, Encoder], save_family: Callable[..., Path]) -> None:
    def refused(text: str, objective: str, settings: LessonSettings = USUAL, model: str = "none") -> str:
        with pytest.raises((InputError, CheckpointError)) as error:
            lesson(encoders[model], text, objective, settings)
        return str(error.value)

    assert "got 'mln'; did you mean mlm?" in refused(TEXT, "mln")
    assert "the text is empty" in refused(" ", "mlm")
    assert "give more sentences, or another text with --pair" in refused("The cat sat.", "nsp")
    assert "neither text has two sentences" in refused("The cat.", "nsp", LessonSettings(pair="A dog."))
    assert "the text has no two sentences" in refused("The cat sat.", "sop")
    assert "longest must be from 3 to the 48 tokens" in refused(TEXT, "mlm", LessonSettings(longest=2))
    assert "longest must be from 4 to the 48 tokens" in refused(TEXT, "sop", LessonSettings(longest=49))
    with pytest.raises(InputError, match="language must be a code in small letters, such as en or de-at, got 'german'"):
        LessonSettings(language="german")
    with pytest.raises(InputError, match="sentences must be one of split"):
        LessonSettings(sentences="words")
    with pytest.raises(InputError, match="seed must be a number from 0 on"):
        LessonSettings(seed=-1)
    with pytest.raises(ConfigError, match="rate must be above 0"):
        LessonSettings(Masking(rate=1.0))
    untyped = save_family("bert", kind="ForPreTraining", type_vocab_size=1)
    with pytest.raises(InputError, match="one token type: it cannot tell segments apart"):
        lesson(untyped, TEXT, "nsp")
    whole = encoders["none"]
    assert whole.tokenizer is not None
    special = {role: token for role, token in whole.tokenizer.special.items() if role != "mask"}
    with pytest.raises(CheckpointError, match="the model: the tokenizer has no mask token"):
        lesson(replace(whole, tokenizer=replace(whole.tokenizer, special=special)), TEXT)
