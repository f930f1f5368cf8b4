"""The files of tokenizers: read as their own library reads them, refused in one line where they are damaged."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import FRAGMENTS, nasty_lines
from tokenizers import models, normalizers

from bothways import Encoder
from bothways.errors import BothwaysError, CheckpointError, ConfigError, InputError
from bothways.text.classes import TOKENIZERS
from bothways.text.formats import load_tokenizer
from bothways.text.guard import guarded
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
    "an id of 5,000 digits": (
        "tokenizer_config.json",
        {"added_tokens_decoder": {"1" * 5000: {"content": "a"}}},
        "added_tokens_decoder",
    ),
    "letters for tokens": ("tokenizer_config.json", {"extra_special_tokens": "ab"}, "extra_special_tokens must be a l"),
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


# What the Rust side does not survive

LONG = b"a" * 300_000
INSERT = {"type": "Replace", "pattern": {"Regex": "x*"}}
HOSTILE = {
    "a piece of any length": UNK + piece(LONG),
    "a piece just too long": UNK + piece(b"a" * 513),
    "a replacement of any length": UNK + field(3, field(2, (1024).to_bytes(4, "little") + TRIE + b"a" * 257 + b"\0")),
    "more pieces than there are": UNK + piece(b"a") * 1000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_model_beyond_all_measure_is_refused(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bothways.text.pieces.MOST_PIECES", 1000)  # a million takes its time
    with pytest.raises(CheckpointError, match=r"more than [0-9,]+"):
        read_pieces(saved(tmp_path, data))


def test_pieces_that_are_merges_in_too_many_ways_are_refused(tmp_path: Path) -> None:
    pieces = b"".join(piece(b"a" * n) + piece(b"b" + b"a" * n) for n in range(1, 512)) + piece(b"b")
    more = b"".join(piece(c.encode() + b"a" * n) for c in "cdefghijklmnopqr" for n in range(512))
    saved(tmp_path, UNK + pieces + more + field(2, field(3, 2)))
    with pytest.raises(CheckpointError, match="merges of each other in more than"):
        load_tokenizer(tmp_path, default="T5Tokenizer")


def unigram(folder: Path, **parts: Any) -> Path:
    """A tokenizer.json of a few pieces, with some of its parts replaced."""
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["▁", -2.0]]}
    parts = {"model": model, "normalizer": None, "pre_tokenizer": None, "decoder": None, **parts}
    rest = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps({**rest, **parts}))
    return folder


def test_the_little_tokenizer_json_is_sound(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(unigram(tmp_path))
    assert tokenizer is not None
    assert tokenizer.encode(["aa"])[0].ids == [1, 1]


LONG_PIECES = {
    "Unigram": {"unk_id": 0, "vocab": [["<unk>", 0.0], [LONG.decode(), -1.0]]},
    "WordPiece": {"unk_token": "a", "max_input_chars_per_word": 9, "vocab": {"a": 0, LONG.decode(): 1}},
}


@pytest.mark.parametrize("kind", LONG_PIECES)
def test_a_tokenizer_json_with_a_piece_of_any_length_does_not_end_the_process(kind: str, tmp_path: Path) -> None:
    unigram(tmp_path, model={"type": kind, "continuing_subword_prefix": "##", **LONG_PIECES[kind]})
    program = f"from pathlib import Path; from bothways.text.formats import *; load_tokenizer(Path({str(tmp_path)!r}))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "ConfigError" in ended.stderr
    assert "piece 1 has 300,000 characters, more than 512" in ended.stderr


BEYOND = {
    "around a text": {"type": "BertProcessing", "sep": ["[SEP]", 999_999], "cls": ["[CLS]", 1]},
    "between two": {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "x", "type_id": 0}}],
        "special_tokens": {"x": {"id": "x", "ids": [999_999], "tokens": ["x"]}},
    },
}


@pytest.mark.parametrize("finish", BEYOND.values(), ids=BEYOND)
def test_ids_that_a_post_processor_makes_up_are_refused(finish: Any, save_bert: Callable[..., Path]) -> None:
    folder = save_bert()
    (folder / "vocab.txt").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    unigram(folder, post_processor=finish)
    with pytest.raises(CheckpointError, match=r"puts the id 999,999 around texts, but the model has only [0-9,]+ rows"):
        Encoder.from_pretrained(folder)


BAD_JSON: dict[str, tuple[Any, str]] = {
    "no object": ([], "an object was expected under model"),
    "scores that are none": ({"vocab": [["a", float("nan")]], "unk_id": 0}, "pieces with their scores was expected"),
    "pieces without scores": ({"vocab": [["a"]], "unk_id": 0}, "pieces with their scores was expected"),
    "no unknown piece": ({"vocab": [["a", 0.0]]}, "unk_id must be the place of a piece, got None"),
    "an unknown piece outside": ({"vocab": [["a", 0.0]], "unk_id": 9}, "unk_id must be the place of a piece, got 9"),
    "nothing": ({"vocab": [], "unk_id": 0}, "unk_id must be the place of a piece"),
}


@pytest.mark.parametrize(("model", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_a_damaged_vocabulary_of_a_tokenizer_json_is_refused_by_name(model: Any, message: str, tmp_path: Path) -> None:
    unigram(tmp_path, model={"type": "Unigram", **model} if model else model)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    with pytest.raises(ConfigError, match=message) as info:
        load_tokenizer(tmp_path)
    assert "tokenizer.json" in str(info.value)


@pytest.mark.parametrize("merge", ["ab", ["a"], 3, "a b c"])
def test_a_damaged_merge_of_a_tokenizer_json_is_refused_by_name(merge: Any, tmp_path: Path) -> None:
    unigram(tmp_path, model={"type": "BPE", "vocab": PAIRS, "merges": [merge]})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    with pytest.raises(ConfigError, match=r"tokenizer\.json: a merge must be of two pieces"):
        load_tokenizer(tmp_path)


def replacing(text: str, by: str, times: int) -> dict[str, Any]:
    one = {"type": "Replace", "pattern": {"String": text}, "content": by}
    return {"type": "Sequence", "normalizers": [one] * times}


GROWING: dict[str, dict[str, Any]] = {
    "replacements": {"normalizer": replacing("a", "a" * 10, 9)},
    "patterns that match nothing": {
        "normalizer": {"type": "Sequence", "normalizers": [{**INSERT, "content": "ab"} for _ in range(9)]}
    },
    "letters for bytes": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False}] * 30}
    },
    "the way back": {"decoder": {"type": "Sequence", "decoders": replacing("a", "a" * 10, 9)["normalizers"]}},
    "a nest": {"normalizer": {"type": "Sequence", "normalizers": [replacing("a", "a" * 10, 1)] * 5}},
}


@pytest.mark.parametrize("parts", GROWING.values(), ids=GROWING)
def test_a_tokenizer_json_that_makes_texts_grow_without_end_is_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json: .*times as long, more than 64 times"):
        load_tokenizer(unigram(tmp_path, **parts))


def test_replacements_that_keep_a_text_its_length_may_be_many(tmp_path: Path) -> None:
    assert load_tokenizer(unigram(tmp_path, normalizer=replacing("ab", "cd", 40))) is not None


PANICS: dict[str, dict[str, Any]] = {
    "chunks of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "a pattern without end": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(x+x+)+y"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
}


@pytest.mark.parametrize("parts", PANICS.values(), ids=PANICS)
def test_a_panic_of_the_rust_side_is_one_line(parts: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(unigram(tmp_path, **parts))
    assert tokenizer is not None
    for _ in range(2):
        with pytest.raises(InputError, match=r"^cannot tokenize: "):
            tokenizer.encode(["x" * 40])
    assert json.loads(tokenizer.to_json())["truncation"] is None


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_stays_one(raised: type[BaseException]) -> None:
    with pytest.raises(raised), guarded(InputError):
        raise raised


def test_ids_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(unigram(tmp_path))
    assert tokenizer is not None
    with pytest.raises(InputError, match="cannot make text of these ids"):
        tokenizer.decode([-1])


@pytest.mark.parametrize(("file", "size"), [("tokenizer.json", 1 << 26), ("tokenizer_config.json", 1 << 22)])
def test_a_description_that_is_too_large_is_refused_before_it_is_parsed(file: str, size: int, tmp_path: Path) -> None:
    with (unigram(tmp_path) / file).open("wb") as written:
        written.truncate(size + 1)
    with pytest.raises(ConfigError, match=rf"{file}: more than {size:,} bytes"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_is_saved_without_what_another_thread_cuts_to(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(unigram(tmp_path))
    assert tokenizer is not None
    stop = threading.Event()

    def encode() -> None:
        while not stop.is_set():
            tokenizer.encode(["a" * 2000], max_length=7)

    with ThreadPoolExecutor() as threads:
        running = threads.submit(encode)
        texts = [tokenizer.to_json() for _ in range(300)]
        stop.set()
        running.result()
    assert all(json.loads(text)["truncation"] is None for text in texts)


# Which files are read


def test_blanks_at_the_ends_of_lines_of_a_vocabulary_are_no_part_of_it(tmp_path: Path) -> None:
    text = "[UNK] \n[CLS]\t\n[SEP]\u00a0\r\nb\u3000\nc\x1f\n"
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8", newline="")
    ours, theirs = load_tokenizer(tmp_path), models.WordPiece.read_file(str(tmp_path / "vocab.txt"))
    assert ours is not None
    pieces = ours.backend.get_vocab(with_added_tokens=False)
    assert pieces == theirs == {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "b": 3, "c\x1f": 4}


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_class_that_nobody_knows_is_refused_without_a_tokenizer_json(file: str, tmp_path: Path) -> None:
    saved(tmp_path, KINDS["unigram"])
    (tmp_path / file).write_text(json.dumps({"tokenizer_class": "BertJapaneseTokenizer"}))
    with pytest.raises(ConfigError, match="the tokenizer class BertJapaneseTokenizer is not known"):
        load_tokenizer(tmp_path, default="T5Tokenizer")


@pytest.mark.parametrize("name", ["PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_class_that_says_nothing_is_read_as_the_default(name: str, tmp_path: Path) -> None:
    saved(tmp_path, KINDS["unigram"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
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
