"""A trained tokenizer has the form of its model's, agrees with transformers, and its report counts what it says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics as pages

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from bothways import InputError
from bothways.data.sampling import Sample, digest, draw, measure
from bothways.text.formats import load_tokenizer, save_tokenizer
from bothways.text.tokenizer import Tokenizer
from bothways.text.training import KINDS, fit, rare_characters, train

NASTY = [
    "The quick brown fox, isn't it?",
    "",
    "  two  spaces\tand\na tab \n\n",
    "naïve café ﬁne ½ e\u0301 Ünïcödé 你好 Ὀδυσσεύς",
    "emoji 👩‍👩‍👧 and zero\u200bwidth \u00a0 \x07",
    "[MASK] <mask> [SEP] </s> <pad> <lang>",
    "a" * 300,
]


@cache
def texts() -> tuple[str, ...]:
    return tuple(pages[name] + " naïve café 你好 Ὀδυσσεύς" for name in sorted(pages)[:40])


@cache
def characters() -> Counter[str]:
    return measure(texts()).characters


@cache
def trained(kind: str) -> Tokenizer:
    return train(texts(), kind, 1500, characters=characters(), special=["<lang>"], max_length=64)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def saved(new_folder: Callable[[], Path]) -> Callable[[str], Path]:
    @cache
    def save(kind: str) -> Path:
        folder = new_folder()
        save_tokenizer(trained(kind), folder)
        return folder

    return save


@pytest.fixture(scope="session")
def theirs(saved: Callable[[str], Path]) -> Callable[[str], transformers.PreTrainedTokenizerBase]:
    return cache(lambda kind: transformers.AutoTokenizer.from_pretrained(saved(kind)))


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs"])), pair=st.booleans())
def test_transformers_loads_it_and_gives_the_same_tokens(theirs, kind: str, text: str, pair: bool) -> None:
    expected = theirs(kind)(text, "and more" if pair else None, return_offsets_mapping=True, return_token_type_ids=True)
    (encoded,) = trained(kind).encode([text], ["and more"] if pair else None)
    assert encoded.ids == expected["input_ids"]
    assert encoded.offsets == expected["offset_mapping"]
    assert encoded.types == expected["token_type_ids"]


def test_transformers_reads_its_special_tokens_and_its_length(theirs, kind: str) -> None:
    other = theirs(kind)
    assert other.model_max_length == 64
    assert {role: getattr(other, f"{role}_token_id") for role in KINDS[kind].special} == {
        role: trained(kind).id_of(role) for role in KINDS[kind].special
    }
    assert "<lang>" in other.all_special_tokens
    assert trained(kind).backend.token_to_id("<lang>") == 5


def test_what_is_loaded_is_what_was_saved(saved: Callable[[str], Path], kind: str) -> None:
    loaded = load_tokenizer(saved(kind))
    assert loaded is not None
    assert (loaded.special, loaded.max_length) == (trained(kind).special, 64)
    for text in (*NASTY, *texts()[:5]):
        assert loaded.encode([text])[0].ids == trained(kind).encode([text])[0].ids


def test_the_vocabulary_has_the_size_that_was_asked_for(kind: str) -> None:
    assert trained(kind).vocab_size == 1500
    assert list(dict.fromkeys(KINDS[kind].special.values())) == [trained(kind).backend.id_to_token(i) for i in range(5)]


def test_training_twice_gives_the_same_file(kind: str) -> None:
    again = train(texts(), kind, 1500, characters=characters(), special=["<lang>"], max_length=64)
    if kind == "unigram":  # whose scores are sums over threads, in whatever order
        assert set(again.backend.get_vocab()) == set(trained(kind).backend.get_vocab())
    else:
        assert again.backend.to_str() == trained(kind).backend.to_str()


def test_templates_are_those_of_the_models() -> None:
    def tokens(kind: str) -> list[str]:
        return [t for t in trained(kind).encode(["a"], ["b"])[0].tokens if t.strip("▁Ġ ") not in ("a", "b")]

    assert tokens("wordpiece") == tokens("unigram") == ["[CLS]", "[SEP]", "[SEP]"]
    assert tokens("bpe") == ["<s>", "</s>", "</s>", "</s>"]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_mask_takes_the_space_before_it_where_the_models_own_does(kind: str) -> None:
    mask = KINDS[kind].special["mask"]
    before, after = (trained(kind).encode([text])[0].ids for text in (f"the {mask}", f"the{mask}"))
    assert before == after


def test_case_is_kept_or_dropped_as_asked(kind: str, tmp_path: Path) -> None:
    for lowercase in (True, False):
        tokenizer = train(texts(), kind, 600, characters=characters(), lowercase=lowercase)
        same = tokenizer.encode(["THE Class"])[0].ids == tokenizer.encode(["the class"])[0].ids
        assert same == lowercase
        save_tokenizer(tokenizer, tmp_path)
        other = transformers.AutoTokenizer.from_pretrained(tmp_path)
        for text in (*NASTY, texts()[0]):
            assert other(text)["input_ids"] == tokenizer.encode([text])[0].ids
    assert trained("wordpiece").config["do_lower_case"] is True


def test_a_vocabulary_smaller_than_the_alphabet_is_refused_with_the_least_size(kind: str) -> None:
    said = set()
    for size in (1, 50, 100):
        with pytest.raises(InputError, match="alphabet") as caught:
            train(texts(), kind, size, characters=characters())
        said.add(re.search(r"--vocab-size (\d+) is the least", str(caught.value))[1])
    (least,) = map(int, said)
    assert train(texts(), kind, least, characters=characters()).vocab_size == least
    with pytest.raises(InputError, match=f"--vocab-size {least} is the least"):
        train(texts(), kind, least - 1, characters=characters())


@pytest.mark.parametrize("nothing", [[], [""], [" \n "]])
def test_no_text_is_refused(kind: str, nothing: list[str]) -> None:
    with pytest.raises(InputError, match="no text"):
        train(nothing, kind, 1000, characters=measure(nothing).characters)
    with pytest.raises(InputError, match="no text"):
        train(nothing, kind, 1000, characters={"a": 1})


@pytest.mark.parametrize("name", ["vocab_size", "max_length", "min_frequency"])
@pytest.mark.parametrize("number", [-1, 0, 1 << 40])
def test_numbers_that_cannot_be_are_refused(name: str, number: int) -> None:
    with pytest.raises(InputError, match=f"{name} must be from 1"):
        train(texts(), "bpe", **{"vocab_size": 500, "characters": characters(), name: number})


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="'char' is not one of wordpiece, bpe, unigram"):
        train(texts(), "char", 1000, characters={})


def test_an_error_of_the_reader_reaches_the_user_as_it_was(kind: str) -> None:
    def broken() -> Iterator[str]:
        yield "some text"
        raise InputError("a.txt: line 2 is not UTF-8")

    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        train(broken(), kind, 1000, characters={"a": 1})


def test_rare_characters_are_the_rarest_that_coverage_lets_go() -> None:
    counts = {"a": 900, "é": 60, "你": 30, "好": 9, "~": 1}
    assert rare_characters(counts, 1.0) == frozenset()
    assert rare_characters(counts, 0.99) == {"好"}  # ASCII is kept
    assert rare_characters(counts, 0.96) == {"好", "你"}
    assert rare_characters({}, 0.5) == frozenset()


def test_rare_characters_get_no_piece_and_leave_words_alone() -> None:
    documents = ["hello world] wo^rld -"] * 999 + ["wor你ld"]
    tokenizer = train(documents, "unigram", 30, characters=measure(documents).characters)
    assert not [piece for piece in tokenizer.backend.get_vocab() if "你" in piece]
    assert {"w", "]", "^", "-"} <= set(tokenizer.backend.get_vocab())


def test_the_report_counts_words_pieces_and_unknowns(vocab: list[str], new_folder: Callable[[], Path]) -> None:
    folder = new_folder()
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    report = fit(tokenizer, ["The cat sat.", "The able doing, Ὀδ"])  # doing = do ##ing
    assert (report.words, report.kept_whole) == (7, 5 / 7)
    assert report.fertility == 8 / 7
    assert (report.tokens, report.unknown) == (10, 1 / 10)
    assert report.characters_per_token == (12 + 18) / 10
    assert report.scripts == {
        "latin": {"words": 6, "kept_whole": 5 / 6, "fertility": 7 / 6, "unknown": 0.0},
        "greek": {"words": 1, "kept_whole": 0.0, "fertility": 1.0, "unknown": 1.0},
    }
    with pytest.raises(InputError, match="no words"):
        fit(tokenizer, ["… !"])


def test_the_report_on_real_text_is_plausible(kind: str) -> None:
    report = fit(trained(kind), texts())
    assert report.unknown < 0.01
    assert 0.5 < report.kept_whole < 1
    assert 1 < report.fertility < 2
    json.dumps(report.scripts)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True), st.randoms())
def test_a_sample_does_not_depend_on_the_order(documents: list[str], random) -> None:
    one = Sample(documents, share=0.5, held_out=0.3)
    chosen = set(one)
    shuffled = random.sample(documents, len(documents))
    other = Sample(shuffled, share=0.5, held_out=0.3)
    assert set(other) == chosen
    assert set(one.aside) == set(other.aside)
    assert not chosen & set(one.aside)
    assert (one.documents, one.bytes) == (len(chosen), sum(len(text.encode()) for text in chosen))


def test_shares_come_out_about_as_asked_and_seeds_differ() -> None:
    documents = [f"document {i}" for i in range(4000)]
    sample = Sample(documents, share=0.25, held_out=0.1)
    assert len(list(sample)) == pytest.approx(900, rel=0.1)
    assert len(sample.aside) == pytest.approx(400, rel=0.15)
    assert all(draw(digest(text), 0) < 0.1 for text in sample.aside)
    other = Sample(documents, share=0.25, held_out=0.1, seed=1)
    assert set(other) != set(sample)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_measuring_counts_documents_bytes_and_characters(documents: list[str]) -> None:
    size = measure(documents)
    whole = "".join(documents)
    assert (size.documents, size.bytes) == (len(documents), len(whole.encode()))
    assert size.characters == Counter(whole)
