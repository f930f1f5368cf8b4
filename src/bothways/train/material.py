"""What a run is taught with: a corpus, its tokenizer, an objective, batches of both splits. All of it is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from bothways.data.corpus import Corpus, sha256
from bothways.data.packing import Packing
from bothways.data.pairs import Pairing, PairPacking
from bothways.errors import CheckpointError, InputError
from bothways.objectives.choice import Told, edged_of, edges_of, objective_of, pairs_of
from bothways.objectives.objective import PretrainingObjective
from bothways.text.formats import load_tokenizer
from bothways.text.tokenizer import Tokenizer
from bothways.train.settings import PretrainSettings

__all__ = ["Material", "material_of"]

HELD_OUT_TOKENS = 4096  # of a batch, whatever batches are trained on: the same sequences with the same masks


@dataclass(frozen=True, eq=False)
class Material:
    """corpus, and its tokenizer; objective: with the tokenizer's special tokens; train, held: packings."""

    corpus: Corpus
    tokenizer: Tokenizer
    objective: PretrainingObjective
    train: Packing
    held: Packing


def material_of(settings: PretrainSettings) -> Material:
    """Open what the settings name. Every file of the corpus is read once, to compare its checksum.

    Raises InputError, ConfigError or CheckpointError, naming the file, on damage, a tokenizer that the shards were not
    made with or that lacks special tokens, ids it does not have, an empty split, and budgets smaller than a sequence.
    """
    corpus = Corpus.open(settings.corpus.corpus)
    tokenizer = _tokenizer(corpus)
    train, held = _packings(settings, corpus, tokenizer)
    corpus.verify()
    _check_ids(corpus, tokenizer)
    told = Told(settings.masking, tokenizer, settings.objective.rtd_weight)
    return Material(corpus, tokenizer, objective_of(settings.objective.objectives, told), train, held)


def _tokenizer(corpus: Corpus) -> Tokenizer:
    path = corpus.tokenizer_folder / "tokenizer.json"
    if sha256(path) != corpus.fingerprint:
        raise CheckpointError(f"{path}: not the tokenizer that the shards were made with; build the corpus again")
    tokenizer = load_tokenizer(corpus.tokenizer_folder)
    if tokenizer is None:
        raise CheckpointError(f"{corpus.tokenizer_folder}: no tokenizer here; build the corpus again")
    return tokenizer


def _packings(settings: PretrainSettings, corpus: Corpus, tokenizer: Tokenizer) -> tuple[Packing, Packing]:
    before, after = _edges(settings, corpus, tokenizer)
    longest = settings.corpus.longest
    budget = min(settings.step.batch_tokens, max(longest, settings.step.batch))
    held = corpus.splits["held_out"]
    if not held.documents:
        advice = "build the corpus with --held-out, from several documents"
        raise InputError(f"{settings.corpus.corpus}: the held-out split is empty; {advice}")
    packing = _packing_of(settings)
    with _told_of(settings, "train"):
        train = packing(
            corpus.splits["train"].shards,
            longest=longest,
            budget=budget,
            before=before,
            after=after,
            seed=settings.run.seed,
        )
    _check_stages(settings, train)
    with _told_of(settings, "held-out"):
        held_out = packing(
            held.shards,
            longest=longest,
            budget=max(longest, HELD_OUT_TOKENS),
            before=before,
            after=after,
            shuffle=False,
            filled=False,
        )
    return train, held_out


def _check_stages(settings: PretrainSettings, train: Packing) -> None:
    """The sequences of each stage can be packed, too. Only pairs may fail at other lengths than the shortest."""
    stages = settings.corpus.stages
    for first, longest in stages if isinstance(train, PairPacking) else stages[:1]:
        with _told_of(
            settings, "train", "" if longest == stages[-1][1] else f" (longest is {longest} from step {first})"
        ):
            train.cut_to(longest)


def _edges(settings: PretrainSettings, corpus: Corpus, tokenizer: Tokenizer) -> tuple[int, int]:
    """What every sequence begins and ends with."""
    try:
        return edges_of(settings.objective.objectives, tokenizer)
    except CheckpointError as error:
        raise CheckpointError(f"{corpus.tokenizer_folder}: {error}") from None


@contextmanager
def _told_of(settings: PretrainSettings, split: str, when: str = "") -> Iterator[None]:
    """What cannot be packed is said with the split that it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{settings.corpus.corpus}: {split} split: {error}{when}") from None


def _packing_of(settings: PretrainSettings) -> Callable[..., Packing]:
    """What makes the batches that the objectives need: of single segments, or of pairs."""
    names = settings.objective.objectives
    kind = pairs_of(names)
    if kind is None:
        return partial(Packing, edges=edged_of(names))
    return partial(PairPacking, Pairing(kind, settings.objective.negatives))


def _check_ids(corpus: Corpus, tokenizer: Tokenizer) -> None:
    """No id is beyond the vocabulary, whatever made the shards."""
    for shard in (shard for split in corpus.splits.values() for shard in split.shards):
        if (largest := int(shard.tokens.max())) >= tokenizer.vocab_size:
            beyond = f"the id {largest:,}, but the tokenizer has {tokenizer.vocab_size:,} entries"
            raise InputError(f"{shard.path('tokens')}: has {beyond}; build the corpus again")
