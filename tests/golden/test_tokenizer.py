"""Texts become the tokens, types and offsets that transformers' tokenizers give, however nasty the text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copy

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from bothways import InputError
from bothways.text.formats import load_tokenizer, save_tokenizer
from bothways.text.tokenizer import Tokenizer

NASTY = {
    "plain": "The cat sat on the mat.",
    "empty": "",
    "blanks": " \t\n  ",
    "emoji": "I 💜 it 👩‍👩‍👧‍👦 and 🇫🇷!",
    "combining accents": "café noe\u0308l Å\u030a u\u0301\u0302\u0303",
    "ready-made accents": "CAFÉ Ñandú façade ﬁn ﬀ",
    "right to left": "שלום עולם, السلام عليكم",
    "controls": "a\x00b\x01c\x7fd\ufffde\u200bf\u00adg",
    "joiners": "क्‍ष ‌ a\u200db\u2060c",
    "CJK": "我喜欢猫 and 東京タワー、한국어",
    "beyond the first plane": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠀋 𐍈",
    "odd capitals": "İstanbul STRAßE ΣΊΣΥΦΟΣ ǅ",
    "numbers and marks": "x=3.14e-10; $5,000 (50%) «quoted» – dash… ½ ²",
    "very long word": "a" * 99 + " " + "b" * 100 + " " + "c" * 101 + " " + "Donaudampfschiff" * 30,
    "special tokens in the text": "a [MASK] b[SEP]c [CLS] [mask] [PAD][UNK]",
    "line ends": "one\r\ntwo\rthree\u2028four\x85five",
    "a byte order mark": "\ufeffhello\ufeff world",
}


@pytest.fixture(scope="session", params=["tokenizer.json", "vocab.txt", "vocab.txt, cased", "vocab.txt, accents kept"])
def folder(request: pytest.FixtureRequest, minilm: Path, new_folder: Callable[[], Path]) -> Path:
    """bert-base-uncased's vocabulary in each of the forms that tokenizers come in."""
    folder = new_folder()
    source, _, how = request.param.partition(", ")
    copy(minilm / source, folder)
    options = {"cased": {"do_lower_case": False}, "accents kept": {"strip_accents": False}}.get(how, {})
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512, **options}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def ours(folder: Path) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="session")
def theirs(folder: Path) -> transformers.PreTrainedTokenizerBase:
    if (folder / "tokenizer.json").exists():
        return transformers.AutoTokenizer.from_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    options = {key: settings[key] for key in ("do_lower_case", "strip_accents") if key in settings}
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    return transformers.BertTokenizerFast(vocab={token: i for i, token in enumerate(lines)}, **options)


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_a_text_has_the_tokens_types_and_offsets_of_transformers(ours: Tokenizer, theirs, text: str) -> None:
    expected = theirs(text, return_offsets_mapping=True, return_token_type_ids=True, return_special_tokens_mask=True)
    (encoded,) = ours.encode([text])
    assert encoded.ids == expected["input_ids"]
    assert encoded.types == expected["token_type_ids"]
    assert encoded.offsets == expected["offset_mapping"]
    assert encoded.special == [bool(mask) for mask in expected["special_tokens_mask"]]
    assert len(encoded) == len(encoded.ids)
    assert encoded.dropped == 0


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_a_pair_has_the_tokens_types_and_offsets_of_transformers(ours: Tokenizer, theirs, text: str) -> None:
    for pair in ((text, "And a second text."), ("A first text.", text)):
        expected = theirs([pair], return_offsets_mapping=True, return_token_type_ids=True)
        (encoded,) = ours.encode([pair[0]], [pair[1]])
        assert encoded.ids == expected["input_ids"][0]
        assert encoded.types == expected["token_type_ids"][0]
        assert encoded.offsets == expected["offset_mapping"][0]
        assert encoded.sequences == expected.sequence_ids(0)
        assert encoded.pair


def test_skipping_offsets_changes_no_ids(ours: Tokenizer) -> None:
    texts = list(NASTY.values())
    assert [e.ids for e in ours.encode(texts, offsets=False)] == [e.ids for e in ours.encode(texts)]


def test_a_batch_is_encoded_as_each_of_its_texts_alone(ours: Tokenizer) -> None:
    texts = list(NASTY.values())
    together = ours.encode(texts, max_length=12)
    for text, encoded in zip(texts, together, strict=True):
        (alone,) = ours.encode([text], max_length=12)
        assert (alone.ids, alone.types, alone.offsets) == (encoded.ids, encoded.types, encoded.offsets)
        assert alone.dropped == encoded.dropped


@pytest.mark.parametrize("limit", [3, 4, 7, 20, 500])
@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_a_text_is_cut_as_transformers_cuts_it_and_the_loss_is_counted(
    ours: Tokenizer, theirs, text: str, limit: int
) -> None:
    (encoded,) = ours.encode([text], max_length=limit)
    (whole,) = ours.encode([text])
    assert encoded.ids == theirs(text, truncation=True, max_length=limit)["input_ids"]
    assert encoded.dropped == len(whole) - len(encoded)


WORDS = "one two three four five six seven eight nine ten eleven twelve"
SIDE = {"only_first": 0, "only_second": 1}
PAIRS = [(WORDS, "a b c"), ("a b c", WORDS), (WORDS, WORDS), ("a", "b"), (WORDS + " " + WORDS, WORDS)]


@pytest.mark.parametrize("limit", [6, 9, 14, 15, 16, 200])
@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
def test_a_pair_is_cut_as_transformers_cuts_it_and_the_loss_is_counted(minilm: Path, strategy: str, limit: int) -> None:
    ours, theirs = load_tokenizer(minilm), transformers.AutoTokenizer.from_pretrained(minilm)
    for first, second in PAIRS:
        (whole,) = ours.encode([first], [second])
        lost = max(0, len(whole) - limit)
        if lost and strategy != "longest_first" and whole.sequences.count(SIDE[strategy]) <= lost:
            continue
        (encoded,) = ours.encode([first], [second], max_length=limit, strategy=strategy)
        expected = theirs(first, second, truncation=strategy, max_length=limit, return_token_type_ids=True)
        assert encoded.ids == expected["input_ids"]
        assert encoded.types == expected["token_type_ids"]
        assert encoded.dropped == lost


@pytest.mark.parametrize(("strategy", "pair"), [("only_first", ("a b c", WORDS)), ("only_second", (WORDS, "a b c"))])
def test_a_side_too_short_to_be_cut_is_one_clear_error(minilm: Path, strategy: str, pair: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=strategy):
        load_tokenizer(minilm).encode([pair[0]], [pair[1]], max_length=9, strategy=strategy)


def test_padding_and_truncation_baked_into_a_tokenizer_file_are_not_obeyed(minilm: Path) -> None:
    baked = json.loads((minilm / "tokenizer.json").read_text(encoding="utf-8"))
    assert baked["truncation"] is not None
    assert baked["padding"] is not None
    tokenizer = load_tokenizer(minilm)
    short, long = tokenizer.encode(["hi", "word " * 700])
    assert (len(short), len(long)) == (3, 702)


def test_a_limit_of_one_call_does_not_linger_into_the_next(ours: Tokenizer) -> None:
    assert len(ours.encode([WORDS], max_length=5)[0]) == 5
    assert len(ours.encode([WORDS])[0]) == 14


def test_the_cat_sat_on_the_mat(minilm: Path) -> None:
    (encoded,) = load_tokenizer(minilm).encode(["The cat sat on the mat."])
    assert encoded.ids == [101, 1996, 4937, 2938, 2006, 1996, 13523, 1012, 102]
    assert encoded.tokens == ["[CLS]", "the", "cat", "sat", "on", "the", "mat", ".", "[SEP]"]


def test_special_tokens_have_their_ids(minilm: Path) -> None:
    tokenizer = load_tokenizer(minilm)
    roles = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
    assert {role: tokenizer.id_of(role) for role in roles} == roles
    assert tokenizer.id_of("bos") is None
    assert tokenizer.vocab_size == 30522
    assert tokenizer.max_length == 512


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None


def test_decoding_is_that_of_transformers(ours: Tokenizer, theirs) -> None:
    for text in NASTY.values():
        (encoded,) = ours.encode([text])
        for skip in (False, True):
            expected = theirs.decode(encoded.ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(encoded.ids, skip_special=skip) == expected


def test_saved_and_loaded_again_it_is_the_same_tokenizer(ours: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(ours, tmp_path)
    again = load_tokenizer(tmp_path)
    texts = list(NASTY.values())
    assert [e.ids for e in again.encode(texts)] == [e.ids for e in ours.encode(texts)]
    assert (again.special, again.max_length) == (ours.special, ours.max_length)


def test_special_tokens_of_other_names_are_found(minilm: Path, tmp_path: Path) -> None:
    names = {"unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    mask = {"mask_token": {"content": "<mask>", "lstrip": False, "rstrip": False, "normalized": False}}
    (tmp_path / "vocab.txt").write_text("\n".join([*names.values(), "<mask>", "a", "b"]) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(mask))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(["a <mask> q b"])[0].tokens == ["<s>", "a", "<mask>", "<unk>", "b", "</s>"]


SURROGATES = ["\ud800", "fine\udfffnot", "\ud83d \ude00"]


@pytest.mark.parametrize("text", SURROGATES)
def test_half_a_surrogate_pair_is_refused_by_place(minilm: Path, text: str) -> None:
    place = next(i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff")
    with pytest.raises(InputError, match=f"text 1: character {place} is half of a surrogate pair"):
        load_tokenizer(minilm).encode(["fine", text])
    with pytest.raises(InputError, match="surrogate"):
        load_tokenizer(minilm).encode(["fine"], [text])


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["a", "b"], float("nan")])
def test_what_is_not_a_text_is_refused_by_its_number(minilm: Path, text: object) -> None:
    with pytest.raises(InputError, match=f"text 1 is not a string but {type(text).__name__}"):
        load_tokenizer(minilm).encode(["fine", text])


def test_a_limit_without_room_for_a_token_is_refused(minilm: Path) -> None:
    tokenizer = load_tokenizer(minilm)
    with pytest.raises(InputError, match="2 tokens leaves no room"):
        tokenizer.encode(["a"], max_length=2)
    with pytest.raises(InputError, match="3 tokens leaves no room"):
        tokenizer.encode(["a"], ["b"], max_length=3)


def test_as_many_second_texts_as_first_ones_are_needed(minilm: Path) -> None:
    with pytest.raises(InputError, match="2 texts need as many second texts, got 1"):
        load_tokenizer(minilm).encode(["a", "b"], ["c"])


CHARACTERS = st.characters(exclude_categories=("Cs",))
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=40),
    st.text(st.sampled_from("aB é\u0301\u200d💜猫ß İ.-[]##\x00\n"), max_size=40),
)


@given(TEXTS)
def test_offsets_are_what_the_token_covers(minilm: Path, text: str) -> None:
    """In order, inside the text, apart from each other; and a token's own letters are in the characters it covers."""
    tokenizer = load_offset_tokenizer(minilm)
    (encoded,) = tokenizer.encode([text])
    end_of_last = 0
    for token, (start, end), special in zip(encoded.tokens, encoded.offsets, encoded.special):
        if special:
            assert (start, end) == (0, 0)
            continue
        assert end_of_last <= start < end <= len(text)
        end_of_last = end
        piece = text[start:end]
        if piece.isascii() and token != "[UNK]":
            cleaned = "".join(c for c in piece if c.isprintable())
            assert token.removeprefix("##") == cleaned.lower() or token == cleaned


@given(TEXTS)
def test_no_visible_ascii_character_is_left_out_of_the_offsets(minilm: Path, text: str) -> None:
    (encoded,) = load_offset_tokenizer(minilm).encode([text])
    covered = {i for start, end in encoded.offsets for i in range(start, end)}
    visible = {i for i, c in enumerate(text) if c.isascii() and c.isprintable() and c != " "}
    assert visible <= covered


LOADED: dict[Path, Tokenizer] = {}


def load_offset_tokenizer(folder: Path) -> Tokenizer:
    if folder not in LOADED:
        LOADED[folder] = load_tokenizer(folder)
    return LOADED[folder]
