"""Every class of tokenizer, made from its own files alone, gives what transformers gives with the same files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from hypothesis import given
from hypothesis import strategies as st
from parity import FRAGMENTS, Counts, differences, first_difference, main, nasty_lines, transformers_tokenizer
from small_pairs import made
from tokenizers import ByteLevelBPETokenizer

from bothways import EncoderDecoder
from bothways.errors import InputError
from bothways.text.classes import TOKENIZERS
from bothways.text.formats import load_tokenizer, save_tokenizer
from bothways.text.tokenizer import Encoded, Tokenizer

SAME = Counts()
LINES = nasty_lines(180)
WORDS = [
    *("The", "cat's", "house,", "un-able", "(50%)…", "“Éclairs”", "cost", "£3.50", "in", "Zürich;", "我喜欢猫"),
    *("東京タワー", "ﬁne", "ｆｕｌｌ", "e\u0301", "👩\u200d👩\u200d👧", "שלום", "."),
]


def corpus() -> list[str]:
    from pydoc_data.topics import topics

    return [*topics["assignment"].splitlines(), *(f"{word} {other}" for word in WORDS for other in WORDS)]


@cache
def model(kind: str = "unigram", **options: Any) -> bytes:
    """A tiny SentencePiece model of what every line above is made of."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=written,
        model_type=kind,
        vocab_size=options.pop("vocab_size", 400),
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return written.getvalue()


@cache
def byte_pairs() -> ByteLevelBPETokenizer:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(corpus(), vocab_size=400, show_progress=False)
    return trained


def write_words(folder: Path, special: list[str]) -> None:
    letters = sorted({c for text in (*corpus(), *FRAGMENTS) for c in text if c.isprintable() and c != " "})
    pieces = [*WORDS, *(word.lower() for word in WORDS), "the", "cat", "##s", "##able", *letters]
    pieces += [f"##{letter}" for letter in letters[:200]]
    text = "\n".join(dict.fromkeys([*special, *pieces])) + "\n"
    (folder / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")


def write_byte_pairs(folder: Path, special: list[str]) -> None:
    byte_pairs().save_model(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    numbered = {token: i for i, token in enumerate([*special[:4], *vocab, *special[4:]])}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
DEBERTA = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]", "unk_piece": "[UNK]"}
XLNET = "<cls>,<sep>,<pad>,<mask>,<eod>"

WRITE: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys(
        ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"), lambda folder: write_words(folder, BERT)
    ),
    "MPNetTokenizer": lambda folder: write_words(folder, ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]),
    "RobertaTokenizer": lambda folder: write_byte_pairs(folder, ROBERTA),
    "BartTokenizer": lambda folder: write_byte_pairs(folder, ROBERTA),
    "DebertaTokenizer": lambda folder: write_byte_pairs(folder, BERT),
    "GPT2Tokenizer": lambda folder: write_byte_pairs(folder, ["<|endoftext|>"]),
    "AlbertTokenizer": lambda folder: (folder / "spiece.model").write_bytes(
        model(
            **{"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "bos_piece": "[CLS]", "eos_piece": "[SEP]"},
            control_symbols="[MASK]",
            user_defined_symbols="(,£",
        )
    ),
    "XLMRobertaTokenizer": lambda folder: (folder / "sentencepiece.bpe.model").write_bytes(model()),
    "CamembertTokenizer": lambda folder: (folder / "sentencepiece.bpe.model").write_bytes(model()),
    "DebertaV2Tokenizer": lambda folder: (folder / "spm.model").write_bytes(
        model(bos_piece="[CLS]", eos_piece="[SEP]", byte_fallback=True, vocab_size=700, **DEBERTA)
    ),
    "T5Tokenizer": lambda folder: (folder / "spiece.model").write_bytes(model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)),
    "XLNetTokenizer": lambda folder: (folder / "spiece.model").write_bytes(
        model(control_symbols=XLNET, user_defined_symbols="<eop>,.")
    ),
}

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TOKENIZERS),
    ("BertTokenizer", {"do_lower_case": False}),
    ("BertTokenizer", {"strip_accents": False, "tokenize_chinese_chars": False}),
    ("MPNetTokenizer", {"do_lower_case": False}),
    ("RobertaTokenizer", {"add_prefix_space": True, "trim_offsets": False}),
    ("GPT2Tokenizer", {"add_prefix_space": True}),
    ("AlbertTokenizer", {"do_lower_case": False, "keep_accents": True}),
    ("XLMRobertaTokenizer", {"add_prefix_space": False}),
    ("DebertaV2Tokenizer", {"do_lower_case": True, "split_by_punct": True}),
    ("DebertaV2Tokenizer", {"add_prefix_space": False}),
    ("T5Tokenizer", {"extra_ids": 3}),
    ("XLNetTokenizer", {"do_lower_case": True}),
]


def write(folder: Path, name: str, **config: Any) -> Path:
    WRITE[name](folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **config}))
    return folder


Both = tuple[Tokenizer, Any]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: " ".join([case[0], *case[1]]))
def both(request: pytest.FixtureRequest, new_folder: Callable[[], Path]) -> Both:
    """The same files as loaded here and there."""
    name, config = request.param
    folder = write(new_folder(), name, model_max_length=512, **config)
    return load_tokenizer(folder), transformers_tokenizer(folder, name)


def assert_same(ours: Tokenizer, theirs: Any, texts: list[str], *rest: Any, **limits: Any) -> None:
    found = differences(ours, theirs, texts, *rest, **limits)
    assert found == SAME, first_difference(ours, theirs, texts)


def test_every_class_is_tried() -> None:
    assert set(WRITE) == set(TOKENIZERS)


def test_nasty_texts_and_pairs(both: Both) -> None:
    assert_same(*both, LINES)
    assert_same(*both, LINES, LINES[::-1])


def test_cut_texts_and_pairs(both: Both) -> None:
    assert_same(*both, LINES, max_length=8)
    assert_same(*both, LINES, LINES[::-1], max_length=10)


@pytest.mark.parametrize(("limit", "stride"), [(8, 0), (12, 7)])
def test_windows(both: Both, limit: int, stride: int) -> None:
    assert_same(*both, LINES, max_length=limit, stride=stride)


def test_windows_of_second_texts(both: Both) -> None:
    """But for the types of later windows, which transformers leaves as they were before the template."""
    limits: dict[str, Any] = {"max_length": 40, "stride": 5, "strategy": "only_second"}
    first = ["what (it)?"] * len(LINES)
    found = differences(*both, first, LINES, **limits)
    assert replace(found, types=0) == SAME
    windows = both[0].encode(first, LINES, **limits)
    types = [{(s, t) for s, t in zip(w.sequences, w.types) if s is not None} for w in windows]
    assert all(own <= types[number] for own, number in zip(types, first_windows(windows)))
    assert len(windows) > len(LINES)
    assert_same(*both, LINES, ["what (it)?"] * len(LINES), max_length=40, stride=5, strategy="only_first")


def first_windows(windows: list[Encoded]) -> list[int]:
    """Of each window, the number of its text's first."""
    firsts = {window.text: i for i, window in reversed(list(enumerate(windows)))}
    return [firsts[window.text] for window in windows]


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_any_text(both: Both, text: str) -> None:
    assert_same(*both, [text])


@given(st.lists(st.sampled_from([*FRAGMENTS, *WORDS]), max_size=8).map("".join))
def test_any_nasty_text(both: Both, text: str) -> None:
    assert_same(*both, [text])


def test_special_tokens_by_role_and_back_to_text(both: Both) -> None:
    ours, theirs = both
    roles = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
    named = {role: getattr(theirs, f"{role}_token_id") for role in roles}
    assert {role: ours.id_of(role) for role in roles} == named
    assert ours.vocab_size == len(theirs)
    for line in LINES[:60]:
        ids = ours.encode([line])[0].ids
        for skip in (False, True):
            expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special=skip) == expected


@pytest.mark.parametrize("typed", [False, True], ids=["alone", "beside a config.json"])
def test_a_saved_tokenizer_is_the_same_here_and_in_transformers(both: Both, tmp_path: Path, typed: bool) -> None:
    ours, theirs = both
    save_tokenizer(ours, tmp_path)
    if typed:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert_same(ours, transformers_tokenizer(tmp_path), LINES, LINES[::-1])
    again = load_tokenizer(tmp_path)
    assert_same(again, theirs, LINES)
    assert (again.special, again.max_length) == (ours.special, ours.max_length)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_folder_that_names_no_class_is_read_as_its_model_says_and_saved_with_it(name: str, tmp_path: Path) -> None:
    WRITE[name](tmp_path)
    ours, theirs = load_tokenizer(tmp_path, default=name), transformers_tokenizer(tmp_path, name)
    assert_same(ours, theirs, LINES[:100])
    (tmp_path / "saved").mkdir()
    save_tokenizer(ours, tmp_path / "saved")
    assert_same(ours, transformers_tokenizer(tmp_path / "saved"), LINES[:100])


@pytest.mark.parametrize("text", ["\ud800", "fine\udfffnot"])
def test_half_a_surrogate_pair_is_refused(both: Both, text: str) -> None:
    with pytest.raises(InputError, match="half of a surrogate pair"):
        both[0].encode([text])


# Tokens named by the files beside a vocabulary

MASK = {"content": "<blank>", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False}
ENTITY = {"content": "[ENT]", "lstrip": False, "rstrip": True, "normalized": True, "single_word": True}
BESIDE: dict[str, dict[str, dict[str, Any]]] = {
    "a mask with flags in the map": {"special_tokens_map.json": {"mask_token": MASK, "pad_token": "[P]"}},
    "the map against the config": {
        "tokenizer_config.json": {"mask_token": "<blank>", "unk_token": "[UNK]"},
        "special_tokens_map.json": {"mask_token": MASK},
    },
    "further tokens": {
        "tokenizer_config.json": {"mask_token": "<blank>", "additional_special_tokens": ["[ENT]"]},
        "added_tokens.json": {"<blank>": 5001, "[ent]": 5000, "[ENT]": 5002},
    },
    "a decoder": {
        "tokenizer_config.json": {
            "mask_token": "<blank>",
            "extra_special_tokens": ["<other>"],
            "added_tokens_decoder": {"5000": ENTITY, "6000": {**MASK, "special": True}},
        },
        "special_tokens_map.json": {"pad_token": "[not read]"},
    },
    "objects in the config": {"tokenizer_config.json": {"mask_token": {"__type": "AddedToken", **MASK}}},
}
WITH_THEM = ["a <blank> b", "x<blank>y", "[ENT] [ent]  [Ent]", "the[ENT]cat [ENT] cat", "<other><pad>[P]", *FRAGMENTS]


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_named_beside_the_vocabulary(name: str, beside: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    WRITE[name](tmp_path)
    for file, content in beside.items():
        (tmp_path / file).write_text(json.dumps(content))
    ours, theirs = load_tokenizer(tmp_path, default=name), transformers_tokenizer(tmp_path, name)
    assert_same(ours, theirs, WITH_THEM)
    assert ours.vocab_size == len(theirs)
    assert ours.id_of("mask") == theirs.mask_token_id
    (tmp_path / "saved").mkdir()
    save_tokenizer(ours, tmp_path / "saved")
    assert_same(load_tokenizer(tmp_path / "saved"), theirs, WITH_THEM)
    assert_same(ours, transformers_tokenizer(tmp_path / "saved"), WITH_THEM)


# A tokenizer.json beside settings that say otherwise


def write_json_of(folder: Path, name: str, **config: Any) -> None:
    """The tokenizer.json of a class with these options, and nothing beside it."""
    made = folder / "made"
    made.mkdir()
    tokenizer = load_tokenizer(write(made, name, **config))
    assert tokenizer is not None
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")


AGAINST: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((name, {}, {}) for name in TOKENIZERS),
    *((name, config, {}) for name, config in CASES if config),
    *((name, {}, config) for name, config in CASES if config),
    ("BertTokenizer", {"do_lower_case": False}, {"strip_accents": False}),
    ("ElectraTokenizer", {"do_lower_case": False}, {"do_lower_case": True, "tokenize_chinese_chars": False}),
    ("DebertaTokenizer", {}, {"add_prefix_space": True}),
    ("RobertaTokenizer", {"trim_offsets": False}, {"add_prefix_space": True}),
    ("DebertaV2Tokenizer", {"split_by_punct": True}, {"do_lower_case": True}),
]


@pytest.mark.parametrize(("name", "made", "said"), AGAINST)
@pytest.mark.parametrize("kind", ["named", "of the model", "generic"])
def test_a_tokenizer_json_beside_a_config(
    name: str, made: dict[str, Any], said: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    write_json_of(tmp_path, name, **made)
    named = {"named": name, "generic": "PreTrainedTokenizerFast"}.get(kind)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**({"tokenizer_class": named} if named else {}), **said})
    )
    if kind == "of the model":
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "tokenizer_class": name}))
    ours, theirs = load_tokenizer(tmp_path), transformers_tokenizer(tmp_path)
    assert_same(ours, theirs, LINES, LINES[::-1])
    assert_same(ours, theirs, LINES, max_length=8)
    (tmp_path / "saved").mkdir()
    save_tokenizer(ours, tmp_path / "saved")
    assert_same(load_tokenizer(tmp_path / "saved"), theirs, LINES)
    assert_same(ours, transformers_tokenizer(tmp_path / "saved"), LINES)


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("name", [*TOKENIZERS, "PreTrainedTokenizerFast"])
def test_tokens_named_beside_a_tokenizer_json(name: str, beside: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    if name == "CamembertTokenizer" and "unk_token" in beside.get("tokenizer_config.json", {}):
        pytest.skip("transformers takes id 0 for unknown pieces where unk_token is a new name; we what the file says")
    write_json_of(tmp_path, name if name in TOKENIZERS else "BertTokenizer")
    for file, content in beside.items():
        (tmp_path / file).write_text(json.dumps(content))
    settings = {"tokenizer_class": name, **beside.get("tokenizer_config.json", {})}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = load_tokenizer(tmp_path), transformers_tokenizer(tmp_path)
    assert_same(ours, theirs, WITH_THEM, WITH_THEM[::-1])
    assert ours.vocab_size == len(theirs)
    assert ours.id_of("mask") == theirs.mask_token_id
    (tmp_path / "saved").mkdir()
    save_tokenizer(ours, tmp_path / "saved")
    assert_same(load_tokenizer(tmp_path / "saved"), theirs, WITH_THEM)
    assert_same(ours, transformers_tokenizer(tmp_path / "saved"), WITH_THEM)


def test_a_model_that_its_class_does_not_know_is_taken_as_written_with_a_warning(tmp_path: Path) -> None:
    write_json_of(tmp_path, "RobertaTokenizer")
    expected = load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    with pytest.warns(UserWarning, match="has a BPE model, but BertTokenizer is WordPiece: taken as written"):
        ours = load_tokenizer(tmp_path)
    assert [one.ids for one in ours.encode(LINES)] == [one.ids for one in expected.encode(LINES)]


def test_a_modernbert_is_taken_as_written_whatever_class_it_names(tmp_path: Path) -> None:
    write_json_of(tmp_path, "BertTokenizer", do_lower_case=False)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "modernbert"}))
    assert_same(load_tokenizer(tmp_path), transformers_tokenizer(tmp_path), LINES)


# The script behind `make parity`


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, kind in (("bert-tiny", "BertTokenizer"), ("xlnet-tiny", "XLNetTokenizer")):
        (tmp_path / "vocab" / name).mkdir(parents=True)
        WRITE[kind](tmp_path / "vocab" / name)
    (tmp_path / "lines.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (tmp_path / "more.jsonl").write_text(json.dumps({"text": ["The house", 3]}) + "\n")
    return tmp_path


def test_parity_prints_a_row_for_each_vocabulary(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(data), "--lines", "20"]) == 0
    rows = [line.rsplit(maxsplit=5)[:5] for line in capsys.readouterr().out.splitlines()[1:]]
    forms = ("", ", config against json", ", generic")
    names = [f"{name}{form}" for name in ("bert-tiny", "xlnet-tiny") for form in forms]
    assert [(name, *counts) for name, _, *counts in rows] == [
        (name, "0", "0", "0") for name in (*names, "xlnet-tiny/spiece.model")
    ]


def test_parity_notices_a_difference(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_tokenizer(data / "vocab" / "xlnet-tiny", default="XLNetTokenizer")
    # What is only made to get at its tokenizer.json, and so is asked for by class, stays right.
    monkeypatch.setattr("parity.load_tokenizer", lambda folder, **of: load_tokenizer(folder, **of) if of else other)
    assert main([str(data), "--lines", "20", "--only", "bert"]) == 1


@pytest.mark.parametrize(("name", "vocab"), [("t5", "T5Tokenizer"), ("bart", "BartTokenizer")])
@pytest.mark.parametrize("form", ["files", "tokenizer.json"])
def test_an_encoder_decoders_own_files_are_its_tokenizer(name: str, vocab: str, form: str, tmp_path: Path) -> None:
    """Where no config names a class, as in the folders of many released ones."""
    made(name, tmp_path, vocab_size=2000)
    WRITE[vocab](tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    if form == "tokenizer.json":
        for file in TOKENIZERS[vocab].files:
            (tmp_path / file).unlink()
        theirs.save_pretrained(tmp_path)
    tokenizer = EncoderDecoder.from_pretrained(tmp_path).tokenizer
    assert tokenizer is not None
    for text in ("The cat sat on the mat.", "Zürich 50% <extra_id_3> and", ""):
        assert tokenizer.encode([text])[0].ids == theirs(text)["input_ids"]
