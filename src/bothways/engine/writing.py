"""Pipelines that write: translation, summarization, text2text-generation and text-generation.

A text is read by an encoder and written by a decoder that attends to what it made of the text (its memory); a decoder
alone goes on from the text.
"""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bothways.checkpoint.encoder import Encoder
from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.checkpoint.hub import resolve
from bothways.data.batch import Batch, batch, by_token_budget
from bothways.engine.backends import BACKENDS, Placement, place
from bothways.engine.decoding import USUAL_LENGTH, Decoding, read_decoding
from bothways.engine.generation import CACHED, OnToken, Writer, Written, generate
from bothways.engine.parts import load, parts_of, settings_of
from bothways.engine.scheduler import BATCH_TOKENS, progress
from bothways.engine.shortlist import shortlist_of
from bothways.engine.spelling import Spelling, continued, spelt
from bothways.engine.streams import Streams
from bothways.errors import CheckpointError, InputError, TruncationWarning
from bothways.nn.layers import for_few_rows
from bothways.ragged import Ragged
from bothways.text.targets import open_ended, separated
from bothways.text.tokenizer import Cuts, Encoded, as_texts, checked_texts, cut_lengths, warn_of_truncation

__all__ = ["WRITES", "Asking", "Names", "WritingPipeline", "pipeline_of", "writing"]

WRITES = {
    "translation": "translation_text",
    "summarization": "summary_text",
    "text2text-generation": "generated_text",
    "text-generation": "generated_text",
}
"""Tasks that write, and what they call a text."""
GOES_ON = "text-generation"
# Rows that are shared out to all streams: a step of fewer takes as long as it takes to read the weights.
SHARED_FROM = 16
# Texts that are written at a time, all beams counted: each step reads the weights once for all of them.
ROWS = {"cpu": 128, "cuda": 1024}


def writing(
    model: str | Path,
    task: str | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    revision: str | None = None,
    bar: bool | None = None,
) -> WritingPipeline:
    """A pipeline on a model's folder or hub id. task: one of `WRITES`; None for the one that says least of the model:
    text2text-generation, or text-generation of a decoder alone.

    Raises ConfigError or CheckpointError on a model that cannot be loaded, or has no decoder.
    """
    folder = resolve(model, revision)
    return pipeline_of(load(folder), folder, task, device=device, precision=precision, name=str(model), bar=bar)


def pipeline_of(
    model: Encoder | EncoderDecoder,
    folder: Path,
    task: str | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    name: str | None = None,
    bar: bool | None = None,
) -> WritingPipeline:
    """A pipeline on a model that was loaded from a folder; its weights may be the model's own."""
    usual = settings_of(model, folder)
    chosen = task or (GOES_ON if isinstance(model, Encoder) else "text2text-generation")
    return WritingPipeline(
        chosen, model, device=device, precision=precision, share=True, name=name, bar=bar, usual=usual
    )


@dataclass(frozen=True)
class Asking:
    """How texts are asked for.

    prefix: what stands before each source, such as T5's "summarize: "; None: what it was trained to see there.
    separator: of a decoder alone, what stands behind each source; None: as above, "": nothing.
    truncation: whether a source that is too long is cut; else it is an error.
    full_text: whether the text that a decoder alone goes on from is given, too; None: where there is no separator.
    log_probabilities: whether those of tokens are given.
    """

    decoding: Decoding
    prefix: str | None = None
    separator: str | None = None
    truncation: bool = True
    full_text: bool | None = None
    log_probabilities: bool = False


class Names:
    """What chance is taken from: a source, and how many of the same come before it. So neither others nor their order
    matter, and a text that is given twice is written twice."""

    def __init__(self) -> None:
        self._known: Counter[bytes] = Counter()

    def of(self, source: Encoded) -> str:
        """The next one's name."""
        name = " ".join(map(str, source.ids))
        known = blake2b(name.encode(), digest_size=16).digest()  # of files of any size
        self._known[known] += 1
        return f"{name} #{self._known[known] - 1}"


class WritingPipeline:
    """Writes texts with a loaded model. Call it with one text or a list; the result has the same form.

    share, name, bar: as for `engine.pipeline.Pipeline`.
    usual: settings that stand where a call gives none; those of the model's files if not given.
    """

    def __init__(
        self,
        task: str,
        model: Encoder | EncoderDecoder,
        *,
        device: str = "auto",
        precision: str = "auto",
        share: bool = False,
        name: str | None = None,
        bar: bool | None = None,
        usual: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises CheckpointError where the model cannot do the task, ConfigError on settings of its files that cannot
        be; warns of those that nothing here heeds."""
        called = "the model" if name is None else f"the model at {name}"
        self.parts = parts_of(model, called)
        self._key, self._task_name, self._bar = WRITES[task], task, bar
        self._check_kind(task, called)
        self._model = repr(model) if name is None else repr(name)
        self.usual = settings_of(model, None) if usual is None else dict(usual)
        most = self._most(called)
        self._placement = place(device, precision)
        self._streams = Streams(self._placement.device)
        encoder, adapter = self.parts.encoder, self.parts.adapter
        self._encoder = None if encoder is None else self._prepared(encoder, share)
        self._adapter = None if adapter is None else self._prepared(adapter, share)
        decoder = self.parts.decoder
        self.writer = Writer(
            self._prepared(decoder, share),
            for_few_rows(self._prepared(self.parts.head, share)),
            decoder.config.vocab,
            self.parts.end,
            self.parts.limit,
            CACHED,
            shortlist_of(self.parts.head, self._placement),
            most,
        )

    def _most(self, called: str) -> int:
        """Tokens that are written where a call says nothing: as many as the folder says, which is taken out of `usual`,
        as far as there are positions. Warns where there never are so many, and has `usual` ask for no more.

        Raises InputError on what is no such number.
        """
        most, limit = Decoding(max_new_tokens=self.usual.pop("max_new_tokens", None)).max_new_tokens, self.parts.limit
        if most is not None and limit is not None and most > limit:
            warnings.warn(
                f"{called} is said to write {most:,} new tokens (max_length or max_new_tokens in its folder), but its "
                f"decoder has {limit:,} positions: texts end there",
                TruncationWarning,
                stacklevel=4,
            )
        bounds = [bound for bound in (most, limit) if bound is not None]
        least = self.usual.get("min_new_tokens")
        if type(least) is int and bounds:
            self.usual["min_new_tokens"] = min(least, *bounds)
        return most or USUAL_LENGTH

    def _check_kind(self, task: str, called: str) -> None:
        if task == GOES_ON and self.parts.encoder is not None:
            raise CheckpointError(
                f"{called} reads one text and writes another: ask for text2text-generation, not {task}"
            )
        if task != GOES_ON and self.parts.encoder is None:
            raise CheckpointError(f"{called} is a decoder alone, with no encoder to read a source: ask for {GOES_ON}")

    def _prepared(self, module: nn.Module, share: bool) -> Any:
        return BACKENDS["eager"](module, self._placement, share=share)

    def __repr__(self) -> str:
        return f"Pipeline({self._task_name!r}, {self._model}, {self._placement})"

    @property
    def placement(self) -> Placement:
        """Where it computes, and how exactly."""
        return self._placement

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        prefix: str | None = None,
        separator: str | None = None,
        truncation: bool = True,
        return_full_text: bool | None = None,
        log_probabilities: bool = False,
        on_token: OnToken | None = None,
        **settings: Any,
    ) -> Any:
        """A list for one text, with a dict for each of its `num_return_sequences`; a list of those for a list.

        prefix: what stands before each source, such as T5's "summarize: "; None: what the model was trained to see
        there by `bothways finetune generate`, if it was.
        separator: of text-generation, what stands between a text and what is written; None: as above; "" for a text
        that it is to go on with freely.
        truncation: whether a source that is too long is cut, with a TruncationWarning; else it is an error.
        return_full_text: text-generation gives the text it goes on from, too; None: unless there is a separator.
        log_probabilities: each dict has `log_probability` (the sum), `mean_log_probability`, `tokens` (each with its
        own) and, of a search, its `score`, too.
        on_token: (number of the text, which of its results, token id), told of every token as it is chosen.
        settings: those of `Decoding`; what is not given is as the model's folder says, else as `Decoding` has it.

        Raises InputError on texts that are empty, settings that cannot be or are unknown, and what has no room.
        """
        decoding = read_decoding(settings, self.usual)
        asking = Asking(decoding, prefix, separator, truncation, return_full_text, log_probabilities)
        answers = self.answers(as_texts(texts), asking, on_token=on_token)
        return answers[0] if isinstance(texts, str) else answers

    def answers(
        self,
        texts: Sequence[str],
        asking: Asking,
        *,
        places: Sequence[str] | None = None,
        cuts: Cuts | None = None,
        names: Names | None = None,
        on_token: OnToken | None = None,
    ) -> list[list[dict[str, Any]]]:
        """What is written for each text, as a call gives it.

        places: what messages call each.    cuts: counts what is cut; without it that is warned of.
        names: of chance, where texts came before these.
        """
        encoded = self.read(texts, asking.prefix, asking.truncation, asking.separator, places, cuts)
        written = self.write(encoded, asking.decoding, asking.log_probabilities, on_token, places, names)
        full = self.shown_before(asking)
        return [
            [self._shown(one, encoded[i], None if full is None else texts[i] + full) for one in own]
            for i, own in enumerate(written)
        ]

    def shown_before(self, asking: Asking) -> str | None:
        """What stands between a text that is given, too, and what is written; None where it is not given."""
        behind = self._around(asking.prefix, asking.separator)[1]
        full = not behind if asking.full_text is None else asking.full_text
        return behind if full and self.alone else None

    def _around(self, prefix: str | None, separator: str | None) -> tuple[str, str]:
        """What stands before each source and behind it. Raises InputError on a separator of an encoder–decoder, which
        needs none."""
        for name, text in (("prefix", prefix), ("separator", separator)):
            if text is not None and not isinstance(text, str):
                raise InputError(f"{name} must be a text, got {text!r:.60}")
        if separator and not self.alone:
            raise InputError("a separator is for a decoder alone; what reads a source with an encoder needs none")
        return self.parts.around.asked(prefix, separator).sides

    def spelling(self, text: str, prefix: str | None = None, separator: str | None = None) -> Spelling:
        """How to tell as text what is written for one text, as it comes: give its `more` the tokens of `on_token`."""
        before, behind = self._around(prefix, separator)
        (encoded,) = self.parts.source.encode([before + text + behind])
        return Spelling(self.parts.target, open_ended(encoded) if self.alone else [])

    def read(
        self,
        texts: Sequence[str],
        prefix: str | None = None,
        truncation: bool = True,
        separator: str | None = None,
        places: Sequence[str] | None = None,
        cuts: Cuts | None = None,
    ) -> list[Encoded]:
        """The texts as tokens. Raises InputError, naming it, on one that is empty, and on one that is too long unless
        it may be cut, with a TruncationWarning.

        prefix, separator: as for a call.    places, cuts: as for `answers`.
        """
        (before, behind), limit = self._around(prefix, separator), self.parts.source_limit
        trained = self.parts.around.longest if behind == self.parts.around.sides[1] else None
        longest = limit if trained is None else min(trained, limit)
        places = [f"text {i}" for i in range(len(texts))] if places is None else places
        for where, text in zip(places, checked_texts(texts)):
            if not text.strip():
                raise InputError(f"{where} is empty: there is nothing to {'go on from' if self.alone else 'read'}")
        encoded = separated(self.parts.source, texts, behind, longest, before)
        may_be_cut = truncation and (not self.alone or trained is not None)
        for where, one in zip(places, encoded):
            if one.dropped and not may_be_cut:
                advice = "give a shorter one" if self.alone else "give a shorter one, or let it be cut (truncation)"
                raise InputError(
                    f"{where} has {len(one) + one.dropped:,} tokens, but the model reads {longest:,} at most: {advice}"
                )
            if not len(one):
                raise InputError(f"{where}: the tokenizer makes no tokens of it")
        if cuts is None:
            warn_of_truncation(cut_lengths(encoded), len(encoded), longest)
        else:
            cuts.add(encoded)
        return encoded

    @property
    def alone(self) -> bool:
        """Whether a decoder alone goes on from the texts."""
        return self.parts.encoder is None

    def write(
        self,
        encoded: Sequence[Encoded],
        decoding: Decoding,
        log_probabilities: bool = False,
        on_token: OnToken | None = None,
        places: Sequence[str] | None = None,
        names: Names | None = None,
    ) -> list[list[Written]]:
        """What is written for each text: see `engine.generation.generate`. places, names: as for `answers`."""
        results: list[list[Written]] = [[] for _ in encoded]
        known = Names() if names is None else names
        named = [known.of(one) for one in encoded] if decoding.do_sample else None

        @torch.inference_mode()
        def work(origin: Sequence[int]) -> int:
            one = batch(encoded, origin, self._placement.device)
            found = generate(
                self.writer,
                self._prompts([encoded[i] for i in origin]),
                self.memory(one),
                decoding,
                sources=[encoded[i].ids for i in origin] if self.parts.start is not None else None,
                numbers=origin,
                names=None if named is None else [named[i] for i in origin],
                places=None if places is None else [places[i] for i in origin],
                log_probabilities=log_probabilities,
                on_token=on_token,
            )
            for i, own in zip(origin, found):
                results[i] = own
            return len(origin)

        batches = self._batches([len(one) for one in encoded], decoding)
        deque(progress(self._streams.map(work, batches), len(encoded), "texts", self._bar), maxlen=0)
        return results

    def _batches(self, lengths: Sequence[int], decoding: Decoding) -> list[list[int]]:
        """By length, so many texts at a time that both reading and writing them fill a step."""
        device = self._placement.device.type
        most = max(1, ROWS[device] // decoding.rows)
        if len(lengths) * decoding.rows >= SHARED_FROM * self._streams.count:
            most = min(most, -(-len(lengths) // self._streams.count))
        batches = by_token_budget(lengths, BATCH_TOKENS[device])
        return [one[at : at + most] for one in batches for at in range(0, len(one), most)]

    def memory(self, one: Batch) -> Ragged | None:
        """What the encoder, and the adapter behind it, make of sources; None of a decoder alone."""
        if self._encoder is None:
            return None
        memory = self._encoder(one.tokens, one.types).last
        return memory if self._adapter is None else self._adapter(memory)

    def _prompts(self, encoded: Sequence[Encoded]) -> Ragged:
        if self.parts.start is not None:
            return Ragged.of([[self.parts.start]] * len(encoded), self._placement.device)
        return Ragged.of([open_ended(one) for one in encoded], self._placement.device)

    def _shown(self, one: Written, source: Encoded, prompt: str | None) -> dict[str, Any]:
        """In the shape of transformers. prompt: what the text goes on from, if that is to be told, too."""
        ids = open_ended(source) if self.alone else []
        text = continued(self.parts.target, ids, one.ids)
        shown: dict[str, Any] = {self._key: text if prompt is None else prompt + text}
        if one.log_probabilities is None:
            return shown
        total = sum(one.log_probabilities)
        own = zip(spelt(self.parts.target, one.ids), one.log_probabilities)
        tokens = [{"token": token, "log_probability": known} for token, known in own]
        score = {} if one.score is None else {"score": one.score}
        mean = total / max(1, len(one.ids))
        return {**shown, **score, "log_probability": total, "mean_log_probability": mean, "tokens": tokens}
