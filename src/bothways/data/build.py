"""From documents to a corpus on disk: divided into sentences, tokenised in several processes, written in shards.

The result depends on the documents and the settings alone, byte for byte: not on how many processes worked, and not on
whether a build was killed and begun again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import models

from bothways.data.corpus import INDEX, SPLITS, VERSION, Corpus, token_dtype
from bothways.data.processes import in_order
from bothways.data.readers import Source
from bothways.data.sampling import digest, draw
from bothways.data.sentences import SENTENCES, check_language, sentences, warn_of_borrowed_rules
from bothways.data.shards import PARTIAL, Block, ShardWriter, has_records, remove_records, remove_unfinished
from bothways.errors import InputError, meant
from bothways.files import make_folder, read_object, replacing, write_json
from bothways.text.formats import load_tokenizer, save_tokenizer
from bothways.text.tokenizer import Tokenizer

__all__ = ["Progress", "Settings", "as_text", "build", "tokenized"]

SHARD_TOKENS = 1 << 25
# One job of a process: enough text that handing it over costs nothing, little enough to hold one for each process.
BLOCK_CHARACTERS = 1 << 19
BEGUN = "build.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Settings:
    """What a corpus is made of, besides its documents and its tokenizer.

    sentences: a name in SENTENCES.    language: an ISO code in small letters; one without rules of its own gets a
    neighbour's or English ones, with a BorrowedRulesWarning.
    held_out: the share of documents, in [0, 1), that goes to the split "held_out": the same ones always, by their text.
    shard_tokens: a shard ends once it has so many.    seed: another seed holds out other documents.

    Raises InputError on a value that cannot be.
    """

    sentences: str = "split"
    language: str = "en"
    held_out: float = 0.01
    shard_tokens: int = SHARD_TOKENS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sentences not in SENTENCES:
            known = f"{', '.join(SENTENCES)}{meant(self.sentences, SENTENCES)}"
            raise InputError(f"sentences {self.sentences!r} is not one of {known}")
        check_language(self.language)
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out must be a share in [0, 1), got {self.held_out}")
        if self.shard_tokens < 1:
            raise InputError(f"shard_tokens must be 1 or more, got {self.shard_tokens}")


@dataclass
class Progress:
    """What has been done so far; `skipped` documents were in shards that had been finished before."""

    documents: int = 0
    duplicates: int = 0
    skipped: int = 0
    tokens: int = 0


@dataclass
class _Job:
    """Documents of one split, with their digests."""

    split: str
    texts: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    characters: int = 0


def build(
    source: Source,
    tokenizer: str | Path,
    output: str | Path,
    settings: Settings = Settings(),
    *,
    workers: int = 1,
    report: Callable[[Progress], None] | None = None,
) -> Corpus:
    """Make the folder `output` a corpus; goes on where an earlier build with the same settings was stopped.

    tokenizer: the folder of one, copied into the corpus.    workers: processes that tokenise.
    report: called now and then. Text that looks like a special token is tokenised as text.

    Raises InputError where the input cannot be read or has no text, where the folder holds something else or was begun
    with other settings, and where the input has changed since.
    """
    if workers < 1:
        raise InputError(f"workers must be 1 or more, got {workers}")
    tokenizer, folder = Path(tokenizer), Path(output)
    loaded = _loaded(tokenizer)
    files = _tokenizer_files(tokenizer, loaded)
    fingerprint = hashlib.sha256(files["tokenizer.json"]).hexdigest()
    made = {"source": _described(source), **asdict(settings), "tokenizer": fingerprint}
    if _finished(folder, made):
        return Corpus.open(folder)
    warn_of_borrowed_rules(settings.sentences, settings.language)
    fresh = not folder.exists()
    _begin(folder, made, files)
    writers = {s: ShardWriter(folder, s, token_dtype(loaded.vocab_size), settings.shard_tokens) for s in SPLITS}
    progress = Progress()
    try:
        jobs = _jobs(source, settings, writers, progress)
        make = partial(_Encoder.of, folder / "tokenizer", settings.sentences, settings.language)
        for job, block in in_order(make, jobs, workers):
            writers[job.split].append(block, job.digests)
            progress.tokens += len(block.tokens)
            if report is not None:
                report(progress)
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.discard()
        empty = not any(writer.entries for writer in writers.values())
        if fresh and empty:  # there is nothing to go on from
            shutil.rmtree(folder)
    if empty:
        raise InputError(f"{source.name}: there is no text in it")
    return _conclude(folder, made, loaded.vocab_size, writers, progress.duplicates)


def _loaded(folder: Path) -> Tokenizer:
    tokenizer = load_tokenizer(folder) if folder.is_dir() else None
    if tokenizer is None:
        raise InputError(f"{folder}: no folder with a tokenizer; make one with `bothways tokenizer train`")
    return tokenizer


def _tokenizer_files(folder: Path, tokenizer: Tokenizer) -> dict[str, bytes]:
    """A tokenizer's files as they are, or written anew if there is no tokenizer.json."""
    if (folder / "tokenizer.json").exists():
        return {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).exists()}
    with TemporaryDirectory() as anew:
        save_tokenizer(tokenizer, Path(anew))
        return {file.name: file.read_bytes() for file in Path(anew).iterdir()}


def _described(source: Source) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(source).items()}


def _finished(folder: Path, made: dict[str, Any]) -> bool:
    if not (folder / INDEX).exists():
        return False
    _same(folder, dict(Corpus.open(folder).made), made)
    _clean(folder)
    return True


def _begin(folder: Path, made: dict[str, Any], tokenizer: dict[str, bytes]) -> None:
    """Note what is being built; or find that it is what was begun, if a shard of that is there."""
    make_folder(folder)
    others = sorted(path.name for path in folder.iterdir() if path.suffix != PARTIAL)
    if others and BEGUN not in others:
        raise InputError(f"{folder}: not empty ({others[0]}, …); give a new folder")
    if has_records(folder):
        _same(folder, read_object(folder / BEGUN), made)
    else:
        remove_unfinished(folder)
    write_json(folder / BEGUN, made)
    make_folder(folder / "tokenizer")
    for name in set(TOKENIZER_FILES).difference(tokenizer):
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    for name, data in tokenizer.items():
        with replacing(folder / "tokenizer" / name) as aside:
            aside.write_bytes(data)


def _same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key, value in now.items():
        if before.get(key) != value:
            said = f"{key} was {before.get(key)!r:.200}, now {value!r:.200}"
            raise InputError(f"{folder}: begun with other settings ({said}); give the same ones or another folder")


def _jobs(source: Source, settings: Settings, writers: dict[str, ShardWriter], progress: Progress) -> Iterator[_Job]:
    """The documents that are still to be done, in order, without duplicates."""
    seen: set[bytes] = set()
    pending = {split: _Job(split) for split in SPLITS}
    for text in source.documents():
        key = digest(text)
        progress.documents += 1
        if key in seen:
            progress.duplicates += 1
            continue
        seen.add(key)
        split = "held_out" if draw(key, settings.seed) < settings.held_out else "train"
        if writers[split].skips(key):
            progress.skipped += 1
            continue
        job = pending[split]
        job.texts.append(text)
        job.digests.append(key)
        job.characters += len(text)
        if job.characters >= BLOCK_CHARACTERS:
            yield job
            pending[split] = _Job(split)
    yield from (job for job in pending.values() if job.texts)


@dataclass(frozen=True)
class _Encoder:
    """Documents to tokens, in whatever process."""

    backend: Backend
    how: str
    language: str
    dtype: str

    @classmethod
    def of(cls, folder: Path, how: str, language: str) -> _Encoder:
        tokenizer = _loaded(folder)
        return cls(as_text(tokenizer), how, language, token_dtype(tokenizer.vocab_size))

    def __call__(self, job: _Job) -> Block:
        return tokenized(job.texts, self.backend, self.how, self.language, self.dtype)


def tokenized(documents: Iterable[str], backend: Backend, how: str, language: str, dtype: str) -> Block:
    """Documents as tokens, as a corpus has them.

    backend: from `as_text`.    how, language: see `data.sentences`.    dtype: of the ids.
    All but the first sentence of a document stand behind a space, as in running text, where pieces differ.
    """
    texts, counts = [], []
    for document in documents:
        found = sentences(document, how, language)
        texts += [sentence if i == 0 else f" {sentence}" for i, sentence in enumerate(found)]
        counts.append(len(found))
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    owner = np.repeat(np.arange(len(counts)), counts)
    ids = [i for encoding in encodings for i in encoding.ids]
    return Block(
        tokens=np.array(ids, dtype=dtype),
        words=_word_begins([e.word_ids for e in encodings], lengths),
        sentences=lengths[lengths > 0],
        documents=np.bincount(owner[lengths > 0], minlength=len(counts)).astype(np.int64),
    )


def as_text(tokenizer: Tokenizer) -> Backend:
    """The tokenizer with an eye for text alone: an article that says [SEP] does not end a sentence.

    Unigram finds special tokens a second time, among its pieces, so there they get names that no text has.
    """
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    if isinstance(backend.model, models.Unigram):
        model = json.loads(backend.to_str())["model"]
        special = {t.content for t in backend.get_added_tokens_decoder().values() if t.special}
        special.discard(tokenizer.special.get("unk", ""))
        pieces = [(f"\0{piece}" if piece in special else piece, score) for piece, score in model["vocab"]]
        backend.model = models.Unigram(pieces, model["unk_id"], model.get("byte_fallback", False))
    return backend


def _word_begins(words: list[list[int | None]], lengths: np.ndarray) -> np.ndarray:
    """uint8 [T]: 1 where a token is of another word than the one before it."""
    numbers = np.array([-1 if word is None else word for sentence in words for word in sentence], dtype=np.int64)
    begins = np.ones(len(numbers), np.uint8)
    begins[1:] = (numbers[1:] != numbers[:-1]) | (numbers[1:] < 0)
    begins[np.cumsum(lengths[lengths > 0])[:-1]] = 1
    return begins


def _conclude(
    folder: Path, made: dict[str, Any], vocab_size: int, writers: dict[str, ShardWriter], duplicates: int
) -> Corpus:
    """Write the index, and remove what only an unfinished build needs."""
    entries = {split: writer.entries for split, writer in writers.items()}
    kept = sum(entry["documents"] for shards in entries.values() for entry in shards)
    index = {
        "version": VERSION,
        "fingerprint": made["tokenizer"],
        "vocab_size": vocab_size,
        "dtype": token_dtype(vocab_size),
        "dropped": {"duplicates": duplicates, "empty": sum(writer.read for writer in writers.values()) - kept},
        "made": made,
        "splits": entries,
    }
    write_json(folder / INDEX, index)
    _clean(folder)
    return Corpus.open(folder)


def _clean(folder: Path) -> None:
    remove_records(folder)
    (folder / BEGUN).unlink(missing_ok=True)
