"""`make parity DATA=folder`: real vocabularies under DATA/vocab tokenize real and nasty lines as transformers does.

Each is tried as it came, as a tokenizer.json beside a tokenizer_config.json whose options and tokens contradict it, and
as one beside a config of no class; and each `.model` file against sentencepiece, on the real lines.

DATA/vocab/<name>/ holds a vocabulary's files as on the hub; every other text file under DATA gives lines. Prints a
table and exits with 1 if anything differs. The tests use the same oracle on vocabularies that they train themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import sentencepiece
import transformers
from tokenizers import pre_tokenizers

from bothways.text.backends import mapped
from bothways.text.backends import sentencepiece as build_sentencepiece
from bothways.text.formats import load_tokenizer, save_tokenizer
from bothways.text.pieces import read_pieces
from bothways.text.tokenizer import Tokenizer

CLASSES = {
    "albert": "AlbertTokenizer",
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v": "DebertaV2Tokenizer",
    "deberta": "DebertaTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "gpt2": "GPT2Tokenizer",
    "mdeberta": "DebertaV2Tokenizer",
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlnet": "XLNetTokenizer",
}
"""The class of a vocabulary by the beginning of its name, where no tokenizer_config.json says."""

AGAINST: dict[str, dict[str, Any]] = {
    "BertTokenizer": {"strip_accents": False, "tokenize_chinese_chars": False},
    "DistilBertTokenizer": {"do_lower_case": False},
    "ElectraTokenizer": {"do_lower_case": False},
    "MPNetTokenizer": {"do_lower_case": False},
    "AlbertTokenizer": {"do_lower_case": False, "keep_accents": True},
    "CamembertTokenizer": {"add_prefix_space": False},
    "DebertaTokenizer": {"add_prefix_space": True},
    "DebertaV2Tokenizer": {"do_lower_case": True, "split_by_punct": True},
    "GPT2Tokenizer": {"add_prefix_space": True},
    "RobertaTokenizer": {"add_prefix_space": True, "trim_offsets": False},
    "T5Tokenizer": {"extra_ids": 100},
    "XLMRobertaTokenizer": {"add_prefix_space": False},
    "XLNetTokenizer": {"do_lower_case": True},
}
"""What a tokenizer_config.json says, by class, that the vocabulary's own tokenizer.json does not."""

FRAGMENTS = [
    *("a", "B", "the ", "Wörter", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2009", "\u3000", "\u2028", "\x85", "."),
    *("…", "--", "—", "``", "''", '"', "'s", "(", ")", "£", "€5", "1,000.5", "½", "²", "x" * 130, "##ing", "▁", "▁▁"),
    *("👩‍👩‍👧‍👦", "💜", "🇫🇷", "👍🏽", "e\u0301", "é", "Å\u030a", "u\u0301\u0302\u0303", "ﬁ", "İ", "ß", "ǅ", "Σς"),
    *("שלום", "السلام", "\u202eabc\u202c", "\x00", "\x01", "\x7f", "\u200b", "\u200c", "\u200d", "\u00ad", "\ufeff"),
    *("\ufffd", "\ufffe", "क्‍ष", "ไทย", "한국어", "ｆｕｌｌ", "１２", "我喜欢猫", "東京タワー", "、", "𝔘𝔫𝔦", "𠀋", "𐍈"),
    *("[CLS]", "[SEP]", "[MASK]", " [MASK] ", "[mask]", "[UNK]", "[PAD]", "<s>", "</s>", "<pad>", "<mask>", " <mask>"),
    *("<MASK>", "<unk>", "<cls>", "<sep>", "<eop>", "<eod>", "<extra_id_0>", "<|endoftext|>", "<0x41>", "<s>NOTUSED"),
]


def nasty_lines(count: int, seed: int = 0) -> list[str]:
    """Lines of what tokenizers trip over, in random order and company."""
    source = random.Random(seed)
    drawn = ["".join(source.choices(FRAGMENTS, k=source.randint(1, 12))) for _ in range(count)]
    return ["", " ", " \t\n ", *FRAGMENTS, *drawn][:count]


def real_lines(data: Path, count: int, seed: int = 0) -> list[str]:
    """About `count` lines, each file of text under `data` giving its share, spread over the file."""
    files = sorted(path for path in data.rglob("*") if path.is_file() and data / "vocab" not in path.parents)
    by_file = [lines for path in files if (lines := _lines(path))]
    share = count // max(1, len(by_file)) + 1
    spread = [line for lines in by_file for line in lines[:: max(1, len(lines) // share)][:share]]
    random.Random(seed).shuffle(spread)
    return spread


def _lines(path: Path, most: int = 1 << 24) -> list[str]:
    with path.open("rb") as file:
        data = file.read(most)
    if b"\0" in data[:4096] or path.suffix in {".zst", ".gz", ".parquet"}:
        return []
    lines = data.decode("utf-8", errors="replace").split("\n")
    if path.suffix == ".jsonl":
        lines = [text for line in lines[:-1] for text in _strings(json.loads(line))]
    return [line for line in lines if line.strip()]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


@contextmanager
def reading_models() -> Iterator[None]:
    """Lets transformers read `.model` files where protobuf, which it does that with, is not installed.

    Our reader then stands in for it; that this one is right, its own tests check against sentencepiece.
    """
    if find_spec("google") and find_spec("google.protobuf"):
        yield
        return
    stand_in = lambda *_: SimpleNamespace(ModelProto=_Model)  # noqa: E731
    with (
        patch("transformers.convert_slow_tokenizer.import_protobuf", stand_in),
        patch("transformers.convert_slow_tokenizer.requires_backends", lambda *_: None),
    ):
        yield


class _Model:
    """As much of sentencepiece's ModelProto as transformers looks at."""

    def ParseFromString(self, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=".model") as file:
            file.write(data)
            file.flush()
            read = read_pieces(Path(file.name))
        self.pieces = [SimpleNamespace(piece=p.text, score=p.score, type=p.kind) for p in read.pieces]
        self.trainer_spec = SimpleNamespace(unk_id=read.unknown, model_type=read.algorithm)
        self.normalizer_spec = SimpleNamespace(precompiled_charsmap=read.charsmap or b"")


def transformers_tokenizer(folder: Path, name: str = "AutoTokenizer") -> Any:
    """The oracle: the folder's tokenizer as transformers loads it."""
    with reading_models():
        return getattr(transformers, name).from_pretrained(folder)


def differences(
    ours: Tokenizer, theirs: Any, texts: list[str], pairs: list[str] | None = None, **limits: Any
) -> Counts:
    """How many texts (or pairs) differ in ids, offsets, types or special-token masks; limits as for encode."""
    options = {"return_overflowing_tokens": "stride" in limits, **limits}
    if "max_length" in limits:
        options["truncation"] = options.pop("strategy", "longest_first")
    expected = theirs(
        *([texts] if pairs is None else [texts, pairs]),
        return_offsets_mapping=True,
        return_token_type_ids=True,
        return_special_tokens_mask=True,
        **options,
    )
    encoded = ours.encode(texts, pairs, **limits)
    wanted = list(zip(*(expected[key] for key in ("input_ids", "offset_mapping", "token_type_ids", *MASK))))
    counts = Counts(abs(len(wanted) - len(encoded)))
    for (ids, offsets, types, mask), one in zip(wanted, encoded):
        counts.ids += ids != one.ids
        counts.offsets += [tuple(pair) for pair in offsets] != one.offsets
        counts.types += types != one.types or mask != [int(special) for special in one.special]
    if "stride" in limits and [one.text for one in encoded] != list(expected["overflow_to_sample_mapping"]):
        counts.ids += 1
    return counts


MASK = ("special_tokens_mask",)


@dataclass
class Counts:
    """Of texts that differ."""

    ids: int = 0
    offsets: int = 0
    types: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other))))


def first_difference(ours: Tokenizer, theirs: Any, texts: list[str]) -> str:
    for text in texts:
        if any(astuple(differences(ours, theirs, [text]))):
            (one,) = ours.encode([text])
            other = theirs(text, return_offsets_mapping=True)
            tokens = theirs.convert_ids_to_tokens(other["input_ids"])
            return f"{text!r:.200}\n  ours   {one.tokens} {one.offsets}\n  theirs {tokens} {other['offset_mapping']}"
    return "none in single texts"


def compared(ours: Tokenizer, theirs: Any, lines: list[str]) -> Counts:
    """Single texts, pairs, cut ones, and windows of both."""
    second = [*lines[1:], ""]
    total = differences(ours, theirs, lines) + differences(ours, theirs, lines, second)
    total += differences(ours, theirs, lines, max_length=16)
    total += differences(ours, theirs, lines, max_length=24, stride=5)
    short = ["what is it?"] * len(lines)
    return total + differences(ours, theirs, short, lines, max_length=32, stride=8, strategy="only_second")


@dataclass(frozen=True)
class Case:
    """Files of a tokenizer, and what its tokenizer_config.json says where it does not come with one."""

    name: str
    kind: str
    files: list[Path]
    settings: dict[str, Any]
    as_json: bool = False
    """Whether its tokenizer.json, made from the files if need be, is all that is kept of them."""


def vocabularies(folder: Path) -> Iterator[Case]:
    """Every vocabulary in every form; one that comes with a tokenizer.json and with other files is tried in both."""
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        kind = next((CLASSES[start] for start in sorted(CLASSES, reverse=True) if path.name.startswith(start)), None)
        if kind is None:
            print(f"{path.name}: no class known by that name; left out", file=sys.stderr)
            continue
        files = sorted(path.iterdir())
        plain = [file for file in files if file.name != "tokenizer.json"]
        cased = {} if "uncased" in path.name or not path.name.startswith("bert") else {"do_lower_case": False}
        settings = {"tokenizer_class": kind, **cased}
        yield Case(path.name, kind, files, settings)
        if len(files) > len(plain) > 0:
            yield Case(f"{path.name}, vocabulary files", kind, plain, settings)
        against = {"tokenizer_class": kind, **AGAINST[kind], **TOKENS}
        yield Case(f"{path.name}, config against json", kind, files, against, as_json=True)
        generic = {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS}
        yield Case(f"{path.name}, generic", kind, files, generic, as_json=True)


TOKENS = {"mask_token": "1,000", "additional_special_tokens": ["the", "x"]}
"""Special tokens that no vocabulary has; of what is in many a line."""


def check(case: Case, lines: list[str]) -> Counts:
    with tempfile.TemporaryDirectory() as place:
        folder, saved = Path(place, "as it came"), Path(place, "saved")
        folder.mkdir()
        saved.mkdir()
        for file in case.files:
            shutil.copy(file, folder)
        if case.as_json:
            keep_json(folder, case)
        if not (folder / "tokenizer_config.json").exists():
            (folder / "tokenizer_config.json").write_text(json.dumps(case.settings))
        ours, theirs = load_tokenizer(folder), transformers_tokenizer(folder)
        assert ours is not None, f"{case.name}: no tokenizer in {[file.name for file in case.files]}"
        counts = compared(ours, theirs, lines)
        save_tokenizer(ours, saved)
        total = counts + differences(ours, transformers_tokenizer(saved), lines)
        if any(astuple(total)):
            print(f"{case.name}: {first_difference(ours, theirs, lines)}", file=sys.stderr)
        return total


def keep_json(folder: Path, case: Case) -> None:
    """Leave nothing in the folder but a tokenizer.json."""
    if not (folder / "tokenizer.json").exists():
        made = load_tokenizer(folder, default=case.kind)
        assert made is not None, f"{case.name}: no tokenizer in {[file.name for file in case.files]}"
        (folder / "tokenizer.json").write_text(made.to_json(), encoding="utf-8")
    for file in folder.iterdir():
        if file.name != "tokenizer.json":
            file.unlink()


def check_pieces(path: Path, lines: list[str]) -> Counts:
    """Whether a `.model` file, read by us and run as it stands, gives the ids that sentencepiece gives."""
    theirs, pieces = sentencepiece.SentencePieceProcessor(model_file=str(path)), read_pieces(path)
    vocab = [(piece.text, piece.score) for piece in pieces.pieces]
    words = pre_tokenizers.WhitespaceSplit()
    ours = build_sentencepiece(pieces, vocab, pieces.unknown, mapped(pieces), split=words)
    counts = Counts(ids=int([theirs.id_to_piece(i) for i in range(len(vocab))] != [text for text, _ in vocab]))
    for line in lines:
        if ours.encode(line).ids != theirs.encode(line):
            if not counts.ids:
                print(f"{path}: {line!r:.200}\n  ours {ours.encode(line).tokens}", file=sys.stderr)
                print(f"  sentencepiece {theirs.encode(line, out_type=str)}", file=sys.stderr)
            counts.ids += 1
    return counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--lines", type=int, default=5000, help="real lines; a fifth as many nasty ones come on top")
    parser.add_argument("--only", default="", help="vocabularies whose name begins so")
    options = parser.parse_args(arguments)
    transformers.utils.logging.set_verbosity_error()
    real = real_lines(options.data, options.lines)
    lines = real + nasty_lines(options.lines // 5)
    print(f"{'vocabulary':<44}{'lines':>8}{'ids':>8}{'offsets':>9}{'types':>8}{'seconds':>9}   (how many differ)")
    checks = [(case.name, lines, partial(check, case, lines)) for case in vocabularies(options.data / "vocab")]
    plain = [line for line in real if line.isascii() and line.isprintable()]
    models = sorted(options.data.rglob("*.model"))
    checks += [(f"{path.parent.name}/{path.name}", plain, partial(check_pieces, path, plain)) for path in models]
    differ = False
    for name, tried, run in sorted(checks, key=itemgetter(0)):
        if name.startswith(options.only):
            start = time.monotonic()
            counts = run()
            differ |= any(astuple(counts))
            row = f"{len(tried):>8,}{counts.ids:>8,}{counts.offsets:>9,}{counts.types:>8,}"
            print(f"{name:<44}{row}{time.monotonic() - start:>9.1f}", flush=True)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
