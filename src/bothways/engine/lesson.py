"""What an objective makes of a text: what is hidden, what is asked, and what a model answers.

The text goes the way of a corpus: cut into sentences and tokens as `corpus build` cuts it, packed as batches are, and
corrupted by the objective itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.checkpoint.generator import generator_folder, read_generator
from bothways.checkpoint.hub import resolve
from bothways.data.batch import Answers, Batch
from bothways.data.build import as_text, tokenized
from bothways.data.corpus import token_dtype
from bothways.data.packing import Packed, Packing
from bothways.data.pairs import Pairing, PairPacking
from bothways.data.sentences import SENTENCES, check_language
from bothways.engine.backends import BACKENDS, place
from bothways.errors import CheckpointError, InputError, meant
from bothways.nn.dropout import seeded
from bothways.nn.encoder import EncoderOutput
from bothways.objectives.choice import OBJECTIVES, Told, edged_of, edges_of, objective_of, pairs_of
from bothways.objectives.masking import Masking
from bothways.objectives.objective import Model
from bothways.objectives.rtd import ReplacedTokens, judges
from bothways.text.tokenizer import Tokenizer, warn_of_truncation

__all__ = ["READERS", "Asked", "Judged", "Lesson", "LessonSettings", "Reader", "Taught", "lesson"]

BUDGET = 4096  # tokens of a batch of pairs
ROWS = 256  # whose scores of a vocabulary are held at a time
# Where a text makes no pair, by what wrong segments are.
NO_PAIR = {
    "same": "nsp takes wrong segments from another sequence of the text, and each needs two sentences to be divided; "
    "give more sentences, or another text with --pair",
    "other": "neither text has two sentences that fit into a sequence; give more, or a larger --longest",
    "order": "the text has no two sentences that fit into a sequence; give more, or a larger --longest",
}

Ints = NDArray[np.int64]
Score = tuple[float, int, float]
"""The loss of the answer; the likeliest answer, and its probability."""


@dataclass(frozen=True)
class Asked:
    """One thing that is asked.

    row: the token that it is asked of.    answer: what is right: a token, or a class in words.
    how: what the model sees there: "mask", "random" or "kept"; None where the objective replaces nothing.
    loss: −log of the answer's probability.    guess, probability: the likeliest answer; all None without a head. With
    rtd it is the generator that is asked.
    """

    row: int
    answer: str
    how: str | None = None
    loss: float | None = None
    guess: str | None = None
    probability: float | None = None


@dataclass(frozen=True)
class Judged:
    """One token of which a discriminator says whether it is the one that stood there.

    token: what it is: in the place of a hidden one what the generator said.    replaced: whether the text has another.
    probability: of "replaced", as the discriminator says; None without a head.
    """

    token: str
    replaced: bool
    probability: float | None = None


@dataclass(frozen=True)
class Taught:
    """One sequence of L tokens.

    tokens: as the text has them.    seen: as the model gets them; with rtd, the generator.
    types: 0 for the first segment, 1 for the second.    segments: the texts of one or two.
    asked: in the order of rows; nothing of a sequence that is no pair.    judged: with rtd and a generator, all L.
    """

    tokens: tuple[str, ...]
    seen: tuple[str, ...]
    types: tuple[int, ...]
    segments: tuple[str, ...]
    asked: tuple[Asked, ...]
    judged: tuple[Judged, ...] = ()


@dataclass(frozen=True)
class Lesson:
    """objective: its name.    head: whether the model has a head for it.    sequences: what the text becomes.

    generator: whether the model has one; None where the objective needs none.
    """

    objective: str
    head: bool
    sequences: tuple[Taught, ...]
    generator: bool | None = None


@dataclass(frozen=True)
class LessonSettings:
    """masking: with mlm and rtd.    pair: with nsp, another document, which wrong segments are from; else they are from
    elsewhere in the text.    sentences, language: with pairs, how texts are divided (`data.sentences`).

    longest: tokens of a sequence; what the model, and its generator, takes if None, but two thirds of the text or so
    where wrong segments are from elsewhere in it.    seed: of what is left to chance.

    Raises InputError on a value that cannot be.
    """

    masking: Masking = field(default_factory=Masking)
    pair: str | None = None
    sentences: str = "split"
    language: str = "en"
    longest: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sentences not in SENTENCES:
            raise InputError(f"sentences must be one of {', '.join(SENTENCES)}, got {self.sentences!r}")
        check_language(self.language)
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"seed must be a number from 0 on, got {self.seed}")


Scores = Callable[[Any, EncoderOutput, Answers], Iterator[Score]]


@dataclass(frozen=True)
class Reader:
    """How the answers of an objective are told.

    scores: (head, output, answers) → of each answer; None where networks read more than the output of one forward.
    classes: what answers are in words; None where they are tokens.    replaces: whether tokens are.
    labels: the name that a batch has the answers by, if it is not the objective's.
    reads: whether a head of the right name is one for the objective.
    """

    scores: Scores | None
    classes: tuple[str, str] | None = None
    replaces: bool = False
    labels: str | None = None
    reads: Callable[[nn.Module], bool] = lambda head: True


@dataclass(frozen=True, eq=False)
class _Said:
    """What is said to a batch of T tokens. scores: of each answer.    ids, replaced, probabilities [T]: see Judged."""

    scores: list[Score] | None = None
    ids: Sequence[int] = ()
    replaced: Sequence[bool] = ()
    probabilities: Sequence[float] | None = None


Answerer = Callable[[Batch], _Said]


def lesson(
    model: str | Path | Encoder,
    text: str,
    objective: str = "mlm",
    settings: LessonSettings = LessonSettings(),
    *,
    device: str = "auto",
) -> Lesson:
    """See what training with an objective makes of a text, and what a model, in fp32, answers.

    >>> lesson("bert-base-uncased", "The cat sat on the mat.", "mlm", LessonSettings(seed=3)).sequences[0].asked

    objective: a name in READERS. Of a text for pairs every sequence is shown, as they are in an epoch; of one for
    another objective that is too long the first one is, with a TruncationWarning. With rtd the model's folder has the
    generator's in it; without one, or of an encoder that has no folder, the hidden tokens are shown alone.

    Raises InputError on an objective that is not known, on a text that makes no sequence or no pair, CheckpointError on
    a tokenizer without the special tokens that the objective needs, and on a generator that is not the model's.
    """
    if objective not in READERS:
        hint = meant(objective, READERS)
        raise InputError(f"objective must be one of {', '.join(READERS)}, got {objective!r}{hint}")
    encoder = model if isinstance(model, Encoder) else Encoder.from_pretrained(model)
    named = "the model" if encoder is model else f"the model at {model}"
    tokenizer = tokenizer_of(encoder, named)
    try:
        edges = edges_of([objective], tokenizer)
    except CheckpointError as error:
        raise CheckpointError(f"{named}: {error}") from None
    head, generator = _head(encoder, objective), None if model is encoder else _generator(model, encoder, objective)
    most = min(one.config.longest for one in (encoder, generator) if one is not None)
    packing = _packing(text, tokenizer, edges, objective, settings, most)
    learnt = objective_of([objective], Told(settings.masking, tokenizer))
    if generator is not None:
        assert isinstance(learnt, ReplacedTokens)
        answer = _replacer(learnt, encoder, head, generator, device, settings.seed)
    else:
        answer = _answerer(encoder, head, objective, device, share=encoder is not model)
    sequences: list[Taught] = []
    for number in range(packing.batches(0) if isinstance(packing, PairPacking) else 1):
        packed = packing(0, number)
        batch = learnt.corrupt(packed, _chance(settings.seed, number))
        sequences += _taught(packed, batch, answer(batch), objective, tokenizer)
    if (more := packing.sequences - len(sequences)) > 0:
        again = Packing.SPECIAL * more if edged_of([objective]) == "sequence" else 0
        warn_of_truncation([packing.tokens - again], 1, len(sequences[0].tokens))
    generates = None if OBJECTIVES[objective].generator is None else generator is not None
    return Lesson(objective, head is not None, tuple(sequences), generates)


def _chance(seed: int, number: int) -> np.random.Generator:
    """That of a run's first epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, (1 << 62) + number]))


@dataclass(frozen=True, eq=False)
class _Documents:
    """Some documents as a shard of a corpus has them, see `data.packing.Shard`."""

    tokens: NDArray[Any]
    words: NDArray[Any]
    sentences: Ints
    documents: Ints

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Tokenizer, how: str, language: str) -> _Documents:
        block = tokenized(texts, as_text(tokenizer), how, language, token_dtype(tokenizer.vocab_size))
        if not len(block.tokens):
            raise InputError("there is nothing to learn from: the text is empty")
        return cls(block.tokens, block.words, _offsets(block.sentences), _offsets(block.documents))


def _offsets(lengths: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)])


def _packing(
    text: str,
    tokenizer: Tokenizer,
    edges: tuple[int, int],
    objective: str,
    settings: LessonSettings,
    most: int,
) -> Packing:
    """What makes the batches that training would have of this text alone. most: tokens that the model takes."""
    kind = pairs_of([objective])
    if kind is not None:
        return _pairs(text, tokenizer, edges, kind, settings, most)
    shard = _Documents.of([text], tokenizer, "none", settings.language)
    longest = _checked(settings.longest, most, Packing.SPECIAL, most)
    before, after = edges
    return Packing(
        [shard],
        longest=longest,
        budget=longest,
        before=before,
        after=after,
        shuffle=False,
        filled=False,
        edges=edged_of([objective]),
    )


def _pairs(
    text: str,
    tokenizer: Tokenizer,
    edges: tuple[int, int],
    kind: Literal["next", "order"],
    settings: LessonSettings,
    most: int,
) -> PairPacking:
    texts = [text] if settings.pair is None else [text, settings.pair]
    shard = _Documents.of(texts, tokenizer, settings.sentences, settings.language)
    negatives: Literal["other", "same"] = "same" if settings.pair is None else "other"
    less = len(shard.tokens) * 2 // 3 + PairPacking.SPECIAL
    usual = min(most, less) if (kind, negatives) == ("next", "same") else most
    longest = _checked(settings.longest, usual, PairPacking.SPECIAL, most)
    try:
        return PairPacking(
            Pairing(kind, negatives),
            [shard],
            longest=longest,
            budget=max(longest, BUDGET),
            before=edges[0],
            after=edges[1],
            seed=settings.seed,
            shuffle=False,
            filled=False,
        )
    except InputError:
        raise InputError(f"no pair can be made: {NO_PAIR['order' if kind == 'order' else negatives]}") from None


def _checked(longest: int | None, usual: int, special: int, most: int) -> int:
    longest = usual if longest is None else longest
    if not special < longest <= most:
        raise InputError(
            f"longest must be from {special + 1} to the {most:,} tokens that the model takes, got {longest}"
        )
    return longest


def _head(encoder: Encoder, objective: str) -> str | None:
    """The name of the head that the objective is learnt with; None where the model has none."""
    named = [name for name in OBJECTIVES[objective].heads if name in encoder.heads]
    return next((name for name in named if READERS[objective].reads(encoder.heads[name])), None)


def _generator(model: str | Path | Encoder, encoder: Encoder, objective: str) -> Encoder | None:
    """The one beside the encoder, where the objective needs one and it is there."""
    head = OBJECTIVES[objective].generator
    if head is None or isinstance(model, Encoder):
        return None
    folder = generator_folder(resolve(model))
    return None if folder is None else read_generator(folder, encoder, head)


def _answerer(encoder: Encoder, name: str | None, objective: str, device: str, share: bool) -> Answerer:
    """What the model says to the questions of a batch; nothing where it has no head for them."""
    scores = READERS[objective].scores
    if name is None or scores is None:
        return lambda batch: _Said()
    if OBJECTIVES[objective].pairs is not None and encoder.config.types == 1:
        raise InputError(f"the model has a head for {objective}, but one token type: it cannot tell segments apart")
    placement = place(device, "fp32")
    network = BACKENDS["eager"](encoder.network, placement, share=share)
    head = BACKENDS["eager"](encoder.heads[name], placement, share=share)

    @torch.inference_mode()
    def answer(batch: Batch) -> _Said:
        there = batch.to(placement.device)
        return _Said(list(scores(head, network(there.tokens, there.types), there.labels[objective])))

    return answer


def _replacer(
    learnt: ReplacedTokens, encoder: Encoder, name: str | None, generator: Encoder, device: str, seed: int
) -> Answerer:
    """What a generator puts in the place of hidden tokens, and what the model, if it has a head, says of all tokens.

    It is the code of training, which wants its own layers; both encoders are ours alone.
    """
    where = place(device, "fp32").device
    heads = {} if name is None else {name: encoder.heads[name]}
    model = Model(encoder.network, heads, Model(generator.network, generator.heads)).eval().to(where)
    assert model.generator is not None
    words = model.generator.heads["mlm"]

    @torch.inference_mode()
    def answer(batch: Batch) -> _Said:
        there = batch.to(where)
        with seeded(seed):
            proposal = learnt.propose(model, there)
        scores = list(_of_rows(words, proposal.states, there.labels["mlm"].values))
        said = None if name is None else learnt.judge(model, there, proposal.ids).double().sigmoid().tolist()
        return _Said(scores, proposal.ids.tolist(), proposal.replaced.tolist(), said)

    return answer


def _of_words(head: Any, output: EncoderOutput, answers: Answers) -> Iterator[Score]:
    """Of a head over the vocabulary, which sees the rows that are asked about."""
    return _of_rows(head, head.states(output, answers.rows), answers.values)


def _of_rows(head: Any, states: Tensor, answers: Tensor) -> Iterator[Score]:
    """states [M, width], answers [M]."""
    for rows, values in zip(states.split(ROWS), answers.split(ROWS)):
        yield from _best(head(rows), values)


def _of_pairs(head: Any, output: EncoderOutput, answers: Answers) -> Iterator[Score]:
    """Of a head over sequences, which are asked about at their first rows."""
    assert answers.rows is not None
    starts = torch.tensor(output.last.layout.starts, device=answers.rows.device)
    yield from _best(head(output.last)[torch.searchsorted(starts, answers.rows)], answers.values)


def _best(logits: Tensor, values: Tensor) -> Iterator[Score]:
    """logits [M, classes], values [M]."""
    logs = logits.float().log_softmax(-1)
    likeliest = logs.max(-1)
    losses = -logs.gather(-1, values[:, None])[:, 0]
    yield from zip(losses.tolist(), likeliest.indices.tolist(), likeliest.values.exp().tolist())


READERS: dict[str, Reader] = {
    "mlm": Reader(_of_words, replaces=True),
    "nsp": Reader(_of_pairs, ("next", "not next")),
    "sop": Reader(_of_pairs, ("in order", "swapped")),
    "causal": Reader(_of_words),
    "rtd": Reader(None, replaces=True, labels="mlm", reads=judges),
}


def _taught(packed: Packed, batch: Batch, said: _Said, objective: str, tokenizer: Tokenizer) -> Iterator[Taught]:
    """The sequences of a batch, in its order."""
    asked, judged = list(_asked(packed, batch, said.scores, objective, tokenizer)), _judged(said, tokenizer)
    seen = batch.tokens.data.numpy()
    types = np.zeros(len(seen), np.int64) if packed.types is None else packed.types
    ends = np.cumsum(packed.lengths)
    for start, end in zip((ends - packed.lengths).tolist(), ends.tolist()):
        rows = slice(start, end)
        text = [_text(packed.ids[rows], packed.special[rows] | (types[rows] != side), tokenizer) for side in (0, 1)]
        yield Taught(
            _spelt(packed.ids[rows], tokenizer),
            _spelt(seen[rows], tokenizer),
            tuple(types[rows].tolist()),
            tuple(text[: 1 + int(types[rows].max())]),
            tuple(replace(one, row=one.row - start) for one in asked if start <= one.row < end),
            judged[rows],
        )


def _asked(
    packed: Packed, batch: Batch, scores: list[Score] | None, objective: str, tokenizer: Tokenizer
) -> Iterator[Asked]:
    """What is asked of rows of the batch."""
    reader, seen = READERS[objective], batch.tokens.data
    answers = batch.labels[reader.labels or objective]
    assert answers.rows is not None

    def word(value: int) -> str:
        return _spelt([value], tokenizer)[0] if reader.classes is None else reader.classes[value]

    for i, (row, value) in enumerate(zip(answers.rows.tolist(), answers.values.tolist())):
        how = _how(int(packed.ids[row]), int(seen[row]), tokenizer) if reader.replaces else None
        one = Asked(row, word(value), how)
        if scores is not None:
            loss, guess, probability = scores[i]
            one = replace(one, loss=loss, guess=word(guess), probability=probability)
        yield one


def _judged(said: _Said, tokenizer: Tokenizer) -> tuple[Judged, ...]:
    """Of all tokens of the batch; of none where nothing was replaced."""
    probabilities = [None] * len(said.ids) if said.probabilities is None else said.probabilities
    return tuple(map(Judged, _spelt(said.ids, tokenizer), said.replaced, probabilities))


def _how(there: int, seen: int, tokenizer: Tokenizer) -> str:
    if seen == there:
        return "kept"
    return "mask" if seen == tokenizer.id_of("mask") else "random"


def _spelt(ids: Sequence[int] | Ints, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Ids as the vocabulary spells them."""
    return tuple(tokenizer.backend.id_to_token(int(i)) or f"#{i}" for i in ids)


def _text(ids: Ints, without: NDArray[np.bool_], tokenizer: Tokenizer) -> str:
    return tokenizer.decode(ids[~without].tolist()).strip()
