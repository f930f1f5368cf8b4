"""The files of tokenizers: read as their own library reads them, refused in one line where they are damaged."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import FRAGMENTS, nasty_lines
from tokenizers import normalizers

from bothways.errors import BothwaysError, CheckpointError, ConfigError, InputError
from bothways.text.classes import TOKENIZERS
from bothways.text.formats import load_tokenizer
from bothways.text.pieces import BPE, CONTROL, UNIGRAM, USER_DEFINED, Piece, checked_charsmap, read_pieces

SENTENCES = [
    "The cat sat on the mat (twice).",
    "Zürich costs £3.50 – ﬁne!",
    "我喜欢猫 ｆｕｌｌ 1,000",
    "un able e\u0301 …",
] * 9


@cache
def trained(kind: str = "unigram", **options: Any) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 90, **options},
    )
    return written.getvalue()


def processor(data: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=data)


def saved(folder: Path, data: bytes, name: str = "spiece.model") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


KINDS = {
    "unigram": trained(),
    "symbols": trained(control_symbols="<a>,<b>", user_defined_symbols="(,£"),
    "BPE": trained("bpe"),
    "bytes": trained("bpe", byte_fallback=True, vocab_size=400),
    **{rule: trained(normalization_rule_name=rule) for rule in ("nfkc", "nfkc_cf", "nmt_nfkc_cf", "identity")},
}


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_pieces_are_those_that_sentencepiece_reads(data: bytes, tmp_path: Path) -> None:
    pieces, theirs = read_pieces(saved(tmp_path, data)), processor(data)
    numbers = range(theirs.get_piece_size())
    assert [piece.text for piece in pieces.pieces] == [theirs.id_to_piece(i) for i in numbers]
    assert [piece.score for piece in pieces.pieces] == [theirs.get_score(i) for i in numbers]
    assert [piece.kind == CONTROL for piece in pieces.pieces] == [theirs.is_control(i) for i in numbers]
    assert pieces.unknown == theirs.unk_id()


def test_what_a_file_says_about_itself(tmp_path: Path) -> None:
    symbols = read_pieces(saved(tmp_path, KINDS["symbols"]))
    assert [piece.text for piece in symbols.pieces if piece.kind == USER_DEFINED] == ["(", "£"]
    assert (symbols.algorithm, symbols.byte_fallback) == (UNIGRAM, False)
    full = read_pieces(saved(tmp_path, KINDS["bytes"]))
    assert (full.algorithm, full.byte_fallback) == (BPE, True)
    assert read_pieces(saved(tmp_path, KINDS["identity"])).charsmap is None


def test_the_character_map_normalises_as_sentencepiece_does(tmp_path: Path) -> None:
    charsmap = read_pieces(saved(tmp_path, KINDS["unigram"])).charsmap
    assert charsmap is not None
    ours, theirs = normalizers.Precompiled(charsmap), processor(KINDS["unigram"])
    # Accents heaped on one letter are where the two part, since the backend looks up a letter with all its accents.
    for text in [*(f for f in FRAGMENTS if f != "u\u0301\u0302\u0303"), *SENTENCES]:
        # The blanks at the ends and in runs are not the map's affair.
        assert ours.normalize_str(text).split() == theirs.normalize(text).replace("▁", " ").split()


@pytest.mark.parametrize("name", ["AlbertTokenizer", "T5Tokenizer"])
@pytest.mark.parametrize("kind", ["BPE", "bytes"])
def test_a_model_trained_as_bpe_is_run_as_bpe(name: str, kind: str, tmp_path: Path) -> None:
    saved(tmp_path, KINDS[kind])
    settings = {"tokenizer_class": name, "do_lower_case": False, "keep_accents": True, "pad_token": "<s>"}
    special = {"cls_token": "<s>", "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, **special}))
    tokenizer, theirs = load_tokenizer(tmp_path), processor(KINDS[kind])
    assert tokenizer is not None
    for text in [*SENTENCES[:4], "the  cats  sat", "matmatmat"]:
        (encoded,) = tokenizer.encode([text])
        assert [i for i, special in zip(encoded.ids, encoded.special) if not special] == theirs.encode(text)


# What is damaged


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def piece(text: bytes, score: bytes = b"\0\0\0\0", kind: int = 1) -> bytes:
    return field(1, field(1, text) + b"\x15" + score + field(3, kind))


UNK = piece(b"<unk>", kind=2)
TRIE = bytes(1024)
BROKEN = {
    "an empty file": b"",
    "no unknown piece": piece(b"a"),
    "two unknown pieces": UNK + UNK,
    "words": UNK + field(2, field(3, 3)),
    "cut in a field": UNK + b"\x0a\x7fab",
    "cut in a number": UNK + b"\xff\xff",
    "an endless number": UNK + b"\xff" * 40,
    "a group": UNK + b"\x0b",
    "a number for a piece": UNK + b"\x08\x01",
    "bytes for an algorithm": UNK + field(2, field(3, b"ab")),
    "a piece that is not UTF-8": UNK + piece(b"\xff"),
    "a piece of nothing": UNK + piece(b""),
    "a score that is none": UNK + piece(b"a", b"\0\0\xc0\x7f"),
    "an infinite score": UNK + piece(b"a", b"\0\0\x80\x7f"),
    "a short score": UNK + field(1, field(1, b"a") + field(2, b"\0")),
    "a huge trie": UNK + field(3, field(2, b"\xff\xff\xff\xff" + TRIE)),
    "a short map": UNK + field(3, field(2, b"\0\0")),
    "a map that leads outside": UNK + field(3, field(2, (1024).to_bytes(4, "little") + b"\x00\xff\xff\x00" * 256)),
    "a replacement outside": UNK + field(3, field(2, (1024).to_bytes(4, "little") + b"\x00\x01\x00\x00" * 256)),
    "replacements that are not UTF-8": UNK + field(3, field(2, (1024).to_bytes(4, "little") + TRIE + b"\xff")),
    "HTML": b"<!DOCTYPE html><html><body>Not found</body></html>",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_damaged_model_is_refused_by_name(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"spiece\.model: not a SentencePiece model that can be read: .") as info:
        read_pieces(saved(tmp_path, data))
    assert "\n" not in str(info.value)


def test_a_whole_little_model_is_not_refused(tmp_path: Path) -> None:
    read = read_pieces(saved(tmp_path, UNK + piece(b"a") + field(9, 5) + field(3, field(2, b""))))
    assert read.pieces == (Piece("<unk>", 0.0, 2), Piece("a", 0.0))


def test_a_model_that_is_a_folder_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pieces(tmp_path)
    with (tmp_path / "spiece.model").open("wb") as file:
        file.truncate(1 << 28)
    with pytest.raises(CheckpointError, match="too many"):
        read_pieces(tmp_path / "spiece.model")


def loads_or_is_refused(folder: Path, name: str) -> None:
    with suppress(BothwaysError):
        tokenizer = load_tokenizer(folder, default=name)
        assert tokenizer is not None
        for one in tokenizer.encode(nasty_lines(60)):
            assert len(one.ids) == len(one.types) == len(one.offsets)


@pytest.mark.parametrize("name", ["AlbertTokenizer", "XLMRobertaTokenizer", "DebertaV2Tokenizer", "T5Tokenizer"])
def test_any_damage_to_a_model_is_refused_or_harmless(name: str, new_folder: Callable[[], Path]) -> None:
    data = KINDS["unigram"]
    # Half of the damage where the pieces and settings are, half in the character map.
    places = st.one_of(st.integers(0, 2200), st.integers(0, len(data) - 1))
    (file,) = TOKENIZERS[name].files
    folder = new_folder()

    @settings(max_examples=40)
    @given(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8), st.integers(0, len(data)))
    def run(edits: list[tuple[int, int]], length: int) -> None:
        damaged = bytearray(data)
        for place, value in edits:
            damaged[place] = value
        saved(folder, bytes(damaged[: length if length % 4 == 0 else None]), file)
        loads_or_is_refused(folder, name)

    run()


@given(st.binary(min_size=1024, max_size=1024), st.binary(max_size=20))
def test_a_character_map_that_is_taken_can_be_followed(units: bytes, text: bytes) -> None:
    # Small offsets, so that some of the maps are sound.
    quiet = bytes(byte if i % 4 < 2 else 0 for i, byte in enumerate(units))
    try:
        charsmap = checked_charsmap((1024).to_bytes(4, "little") + quiet + text)
    except ValueError:
        return
    for fragment in FRAGMENTS:
        normalizers.Precompiled(charsmap).normalize_str(fragment)


def test_a_character_map_of_a_tokenizer_json_that_leads_outside_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path, KINDS["unigram"])
    tokenizer = load_tokenizer(whole.parent, default="T5Tokenizer")
    assert tokenizer is not None
    description = json.loads(tokenizer.backend.to_str())
    good = description["normalizer"]
    map_outside = b64encode((1024).to_bytes(4, "little") + b"\x00\xff\xff\x00" * 256).decode()
    bad = {"type": "Precompiled", "precompiled_charsmap": map_outside}
    for normalizer in (bad, {"type": "Sequence", "normalizers": [good, bad]}):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**description, "normalizer": normalizer}))
        with pytest.raises(ConfigError, match=r"tokenizer\.json: .* its character map points outside"):
            load_tokenizer(tmp_path)


PAIRS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6}
BAD_PAIRS: dict[str, tuple[Any, str, str]] = {
    "no ids": ({"a": "b"}, "", "vocab.json: each token must have its id"),
    "negative ids": ({**PAIRS, "c": -1}, "", "vocab.json: each token must have its id"),
    "empty": ({}, "", "vocab.json"),
    "no special tokens": ({"a": 0}, "", "<s>, </s> are not in the vocabulary"),
    "a list": (["a"], "", "vocab.json: an object was expected"),
    "unknown pieces": (PAIRS, "#version: 0.2\na b\na c\n", "merges.txt: line 3 merges pieces"),
    "one piece": (PAIRS, "ab\n", "merges.txt: line 1 merges pieces"),
}


@pytest.mark.parametrize(("vocab", "merges", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_damaged_byte_pairs_are_refused_by_name(vocab: Any, merges: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(BothwaysError, match=message):
        load_tokenizer(tmp_path, default="RobertaTokenizer")


BAD_SETTINGS: dict[str, tuple[str, Any, str]] = {
    "a decoder of strings": ("tokenizer_config.json", {"added_tokens_decoder": {"3": "a"}}, "added_tokens_decoder"),
    "a decoder without ids": ("tokenizer_config.json", {"added_tokens_decoder": {"a": {}}}, "added_tokens_decoder"),
    "added tokens without ids": ("added_tokens.json", {"a": "b"}, "each token must have its id"),
    "a list of added tokens": ("added_tokens.json", ["a"], "an object was expected"),
    "a map of nothing": ("special_tokens_map.json", 3, "an object was expected"),
    "half a switch": ("tokenizer_config.json", {"add_prefix_space": "half"}, "add_prefix_space must be true or false"),
}


@pytest.mark.parametrize(("file", "content", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_settings_that_mean_nothing_are_refused_by_name(file: str, content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(PAIRS))
    (tmp_path / "merges.txt").write_text("a b\n")
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message) as info:
        load_tokenizer(tmp_path, default="RobertaTokenizer")
    assert file in str(info.value)


@pytest.mark.parametrize("token", ["[a:b]", "$A", "$B:1", "a b"])
def test_a_special_token_may_look_like_a_part_of_a_template(token: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(f"[UNK]\n[SEP]\n{token}\nc\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"cls_token": token}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode(["c"], ["c c"])[0].tokens == [token, "c", "[SEP]", "c", "c", "[SEP]"]


@pytest.mark.parametrize("count", [-1, 10**9, True, "3", None])
def test_sentinels_beyond_reason_are_refused(count: Any, tmp_path: Path) -> None:
    saved(tmp_path, KINDS["unigram"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": count}))
    with pytest.raises(ConfigError, match="extra_ids must be a number up to 10,000"):
        load_tokenizer(tmp_path, default="T5Tokenizer")


# Which files are read


def test_a_class_that_nobody_knows_is_read_as_the_default(tmp_path: Path) -> None:
    saved(tmp_path, KINDS["unigram"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "OurOwnTokenizer"}))
    tokenizer = load_tokenizer(tmp_path, default="T5Tokenizer")
    assert tokenizer is not None
    assert tokenizer.encode(["the cat"])[0].tokens[-1] == "</s>"
    assert load_tokenizer(tmp_path) is None


def test_a_class_is_known_with_and_without_fast(tmp_path: Path) -> None:
    saved(tmp_path, KINDS["unigram"])
    for name in ("T5Tokenizer", "T5TokenizerFast"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
        assert load_tokenizer(tmp_path) is not None


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_folder_without_the_files_of_its_class_has_no_tokenizer(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    assert load_tokenizer(tmp_path) is None


# Windows


@pytest.fixture
def words(minilm: Path) -> Any:
    return load_tokenizer(minilm)


def test_windows_say_whose_they_are_and_lose_nothing(words: Any) -> None:
    texts = ["one two three four five six", "", "seven", "eight nine ten eleven"]
    windows = words.encode(texts, max_length=5, stride=1)
    assert [w.text for w in windows] == [0, 0, 0, 1, 2, 3, 3]
    assert [w.dropped for w in windows] == [0] * 7
    assert all(len(w) <= 5 for w in windows)
    for i, text in enumerate(texts):
        covered = [text[a:b] for w in windows if w.text == i for (a, b), s in zip(w.offsets, w.special) if not s]
        assert list(dict.fromkeys(covered)) == text.split()


def test_texts_that_are_not_cut_keep_their_place(words: Any) -> None:
    assert [one.text for one in words.encode(["a", "b", "c"])] == [0, 1, 2]


@pytest.mark.parametrize(("limit", "stride"), [(5, 3), (5, 100), (5, -1), (None, 0), (2, 0)])
def test_windows_that_would_not_move_on_are_refused(words: Any, limit: int | None, stride: int) -> None:
    with pytest.raises(InputError):
        words.encode(["one two three four"], max_length=limit, stride=stride)


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("counts", [(3, 9), (9, 3), (4, 4), (5, 4), (9, 9), (0, 9), (1, 1)])
@pytest.mark.parametrize("limit", [7, 8, 9, 10, 12])
def test_windows_of_pairs_are_made_or_refused_and_never_end_the_process(
    words: Any, strategy: str, counts: tuple[int, int], limit: int, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = ("a " * counts[0], "b " * counts[1])
    for stride in range(limit):
        try:
            windows = words.encode([first], [second], max_length=limit, stride=stride, strategy=strategy)
        except InputError:
            continue
        assert all(len(window) <= limit for window in windows)
    assert "panicked" not in capfd.readouterr().err
