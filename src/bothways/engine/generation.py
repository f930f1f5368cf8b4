"""Texts written token after token by a decoder, alone or over another network's rows (its memory).

    begin     the prompts and the memory, computed once for each source
    step      the tokens that every row goes on with → the hidden states that the next ones are chosen by
    follow    after a step of a search: which beam each one goes on from
    keep      sources that are finished leave the batch

N sources with B rows each (beams, or texts drawn), V words.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bothways.engine.beams import Beams, Link, Step, kept
from bothways.engine.decoding import USUAL_LENGTH, Decoding
from bothways.engine.sampling import candidates, chances, draw, generators
from bothways.engine.scores import NOTHING, Place, Rules, best, check_numbers, log_top, top
from bothways.engine.shortlist import Shortlist
from bothways.errors import InputError
from bothways.nn.cache import begin, step
from bothways.nn.encoder import EncoderNetwork
from bothways.ragged import Ragged

__all__ = ["CACHED", "OnToken", "Way", "Writer", "Written", "generate"]


class State(Protocol):
    """What a network keeps between two steps."""

    def follow(self, parents: Tensor) -> None: ...

    def keep(self, sources: list[int]) -> None: ...


@dataclass(frozen=True)
class Way:
    """How hidden states come about. begin(network, prompts, memory, rows a source, room) → (state, hidden [N, width]);
    step(network, ids int64 [N, B], state) → hidden [N, B, width]."""

    begin: Callable[[EncoderNetwork, Ragged, Ragged | None, int, int], tuple[Any, Tensor]]
    step: Callable[[EncoderNetwork, Tensor, Any], Tensor]


CACHED = Way(begin, step)


@dataclass(frozen=True, eq=False)
class Writer:
    """A network that writes. head: hidden states [R, width] → scores [R, V].    vocab: V.

    end: tokens that end a text.    limit: the most tokens that it has positions for; None for no limit.
    shortlist: of the head's last product, where it pays.
    usual: tokens that are written at most where nothing is asked for, as far as there are positions.
    """

    network: EncoderNetwork
    head: nn.Module
    vocab: int
    end: tuple[int, ...]
    limit: int | None
    way: Way
    shortlist: Shortlist | None = None
    usual: int = USUAL_LENGTH


@dataclass(frozen=True)
class Written:
    """A text as tokens, without its prompt. ended: by a mark of the end, which is its last token.

    score: what a search went by; None otherwise.    log_probabilities: by the model itself of each token, if asked for.
    """

    ids: tuple[int, ...]
    ended: bool
    score: float | None = None
    log_probabilities: tuple[float, ...] | None = None


OnToken = Callable[[int, int, int], None]
"""(source, which of its texts, token), as soon as it is chosen."""


@torch.inference_mode()
def generate(
    writer: Writer,
    prompts: Ragged,
    memory: Ragged | None,
    decoding: Decoding,
    *,
    sources: Sequence[Sequence[int]] | None = None,
    numbers: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    places: Sequence[str] | None = None,
    log_probabilities: bool = False,
    on_token: OnToken | None = None,
) -> list[list[Written]]:
    """The texts of each source, `num_return_sequences` of them, best first where they are searched for.

    prompts: ids [T] of each source's first tokens, at least one.    memory: [T', width] of each source, if it has one.
    sources: ids of what each text is written from; the prompts if not given.
    numbers: what to call the sources to `on_token`; from 0 on by default.
    names: what chance is taken from, beside the seed; by default these numbers.
    places: what to call them in messages; by default "text" and their numbers.
    on_token: told of every token as it is chosen; not of searches, which know their texts at the end only.

    Raises InputError, naming the source, on prompts without tokens or room, and on scores that are no numbers.
    """
    if not len(prompts):
        return []
    _check_words(decoding, writer.vocab)
    if decoding.searches and on_token is not None:
        raise InputError("a search knows its texts at the end only: with num_beams 1 they can be told as they come")
    numbers = range(len(prompts)) if numbers is None else numbers
    names = [f"{number}" for number in numbers] if names is None else names
    places = [f"text {number}" for number in numbers] if places is None else places
    most = _lengths(writer, prompts, decoding, places)
    sources = [one.tolist() for one in prompts.unbind()] if sources is None else sources
    asked = _Asked(
        writer, decoding, prompts, memory, most, sources, numbers, names, places, log_probabilities, on_token
    )
    return _Search(asked).run() if decoding.searches else _Walk(asked).run()


@dataclass(frozen=True, eq=False)
class _Asked:
    """The arguments of `generate`. most: how many tokens each source's texts may have."""

    writer: Writer
    decoding: Decoding
    prompts: Ragged
    memory: Ragged | None
    most: Sequence[int]
    sources: Sequence[Sequence[int]]
    numbers: Sequence[int]
    names: Sequence[str]
    places: Sequence[str]
    log_probabilities: bool
    on_token: OnToken | None


def _check_words(decoding: Decoding, vocab: int) -> None:
    if decoding.num_beams > vocab:
        raise InputError(f"num_beams {decoding.num_beams} is more than the {vocab:,} words of the vocabulary")
    for name, token in decoding.words:
        if token >= vocab:
            raise InputError(f"{name} {token} is none of the {vocab:,} words of the vocabulary")


def _lengths(writer: Writer, prompts: Ragged, decoding: Decoding, places: Sequence[str]) -> list[int]:
    """How many tokens each source's texts may have. The last one needs no position: nothing follows it."""
    most = []
    for place, length in zip(places, prompts.layout.lengths):
        if not length:
            raise InputError(f"{place}: nothing to go on from; at least one token is needed")
        room = None if writer.limit is None else writer.limit - length + 1
        wanted = decoding.max_new_tokens
        if room is not None and room < max(1, wanted or 0, decoding.min_new_tokens):
            begins = f" after the {length:,} it begins with" if length > 1 else ""
            asked = max(1, wanted or 0, decoding.min_new_tokens)
            raise InputError(
                f"{place}: {asked:,} new tokens{begins} are more than the model's {writer.limit:,} positions; "
                f"at most {max(room, 0):,} have room (max_new_tokens, min_new_tokens)"
            )
        usual = max(writer.usual, decoding.min_new_tokens)
        most.append(wanted or (usual if room is None else min(usual, room)))
    return most


class _Batch:
    """Sources that are still being written, in one state of the network."""

    def __init__(self, asked: _Asked) -> None:
        writer, decoding, prompts = asked.writer, asked.decoding, asked.prompts
        self.asked, self.writer, self.decoding = asked, writer, decoding
        self.count = decoding.rows
        self.rules = Rules(decoding, writer.end)
        self.sources = list(range(len(prompts)))
        self.written = 0
        self.device = prompts.data.device
        self._tokens = _rows_of(prompts.unbind(), self.device) if self.rules.reads else None
        self._sources = _rows_of(asked.sources, self.device) if self.rules.sources else None
        self.chance = _chance(asked) if decoding.do_sample else []
        room = max(asked.most) - 1
        self.state, self.hidden = writer.way.begin(writer.network, prompts, asked.memory, self.count, room)

    def place(self, rows: int) -> Place:
        """Where `rows` rows of each source are."""
        lengths, most = self.asked.prompts.layout.lengths, self.asked.most
        first = [i for i, source in enumerate(self.sources) if lengths[source] == 1 and not self.written]
        last = [i for i, source in enumerate(self.sources) if most[source] == self.written + 1]
        begin = [i for i, source in enumerate(self.sources) if self.written == self._forced(lengths[source])]
        sources = None if self._sources is None else self._sources.expand(-1, rows, -1).flatten(0, 1)
        return Place(self.written, self._rows(first, rows), self._rows(last, rows), self._rows(begin, rows), sources)

    def _forced(self, length: int) -> int:
        """How many tokens are forced behind a prompt of so many."""
        return 1 if length == 1 and self.decoding.forced_bos_token_id is not None else 0

    def _rows(self, places: list[int], rows: int) -> Tensor | None:
        """int64, of the sources at these places in the batch; None for none."""
        if not places:
            return None
        starts = torch.tensor(places, device=self.device)[:, None] * rows
        return (starts + torch.arange(rows, device=self.device)).flatten()

    def ruled(self, scores: Tensor, rows: int) -> None:
        """Change scores [N · rows, V] by the rules."""
        if self.rules.any:
            tokens = None if self._tokens is None else self._tokens.expand(-1, rows, -1).flatten(0, 1)
            self.rules(scores, tokens, self.place(rows))

    def go_on(self, ids: list[list[int]], parents: list[list[int]] | None, staying: list[int]) -> None:
        """The next hidden states, of the sources that stay (by their places in the batch).

        ids: [staying, B], the tokens that their rows go on with.    parents: which rows these go on from; None: their
        own.
        """
        stays = len(staying) < len(self.sources)
        if stays:
            self.state.keep(staying)
            self.sources = [self.sources[i] for i in staying]
            if self._sources is not None:
                self._sources = self._sources[torch.tensor(staying, device=self.device)]
        numbers = torch.tensor(ids, dtype=torch.int64, device=self.device)
        if self._tokens is not None:
            tokens = self._tokens[torch.tensor(staying, device=self.device)] if stays else self._tokens
            tokens = tokens.expand(-1, self.count, -1)
            if parents is not None:
                order = torch.tensor(parents, dtype=torch.int64, device=self.device)
                tokens = tokens.gather(1, order[..., None].expand_as(tokens))
            self._tokens = torch.cat([tokens, numbers[..., None]], 2)
        if parents is not None and self.written > 1 and any(one != self._own for one in parents):
            self.state.follow(torch.tensor(parents, dtype=torch.int64, device=self.device))
        self.hidden = self.writer.way.step(self.writer.network, numbers, self.state)

    @property
    def _own(self) -> list[int]:
        return list(range(self.count))

    def logits(self) -> Tensor:
        """float32 [R, V], of the rows there are."""
        rows = self.hidden if self.hidden.dim() == 2 else self.hidden.flatten(0, 1)
        scores = self.writer.head(rows)
        assert isinstance(scores, Tensor)
        return scores.float()

    def check(self, values: Sequence[float], rows: int) -> None:
        """Raise InputError, naming the source, where the largest scores of rows are no numbers."""
        for row, value in enumerate(values):
            if value != value or value == float("inf"):
                place = self.asked.places[self.sources[row // rows]]
                check_numbers(value, f"{place}: the model's scores of token {self.written + 1}")


def _rows_of(texts: Sequence[Sequence[int] | Tensor], device: torch.device) -> Tensor:
    """int64 [N, 1, L]: texts of ids, with nothing before the shorter ones."""
    longest = max(map(len, texts))
    rows = torch.full((len(texts), 1, longest), NOTHING, dtype=torch.int64, device=device)
    for row, text in zip(rows, texts):
        row[0, longest - len(text) :] = torch.as_tensor(text, device=device)
    return rows


def _chance(asked: _Asked) -> list[torch.Generator]:
    """Of each row; of a search, of each source."""
    decoding = asked.decoding
    seed = secrets.randbits(63) if decoding.seed is None else decoding.seed
    each = 1 if decoding.searches else decoding.rows
    return generators(seed, [f"{name} {k}" for name in asked.names for k in range(each)])


class _Walk(_Batch):
    """One token after the other, the likeliest or a drawn one."""

    def __init__(self, asked: _Asked) -> None:
        super().__init__(asked)
        self.end = frozenset(asked.writer.end)
        self.ids: list[list[list[int]]] = [[[] for _ in range(self.count)] for _ in self.sources]
        self.log_probabilities: list[list[list[float]]] = [[[] for _ in one] for one in self.ids]
        self.ended = [[False] * self.count for _ in self.ids]
        self.over = [[False] * self.count for _ in self.ids]

    def run(self) -> list[list[Written]]:
        while True:
            tokens, known = self._choose()
            self.written += 1
            self._note(tokens, known)
            staying = [i for i, source in enumerate(self.sources) if not all(self.over[source])]
            if not staying:
                break
            self.go_on([tokens[i] for i in staying], None, staying)
        return [[self._text(i, k) for k in range(self.count)] for i in range(len(self.ids))]

    def _choose(self) -> tuple[list[list[int]], list[list[float]] | None]:
        """The next token of every row [N, B], and its log-probability."""
        found = self._found_at_once()
        if found is not None:
            return found, None
        logits = self.logits()
        if len(logits) < len(self.sources) * self.count:  # the first ones, which all rows of a source share
            logits = logits.repeat_interleave(self.count, 0)
        whole = logits.logsumexp(1) if self.asked.log_probabilities else None
        plain = logits.clone() if self.asked.log_probabilities and self.rules.any else logits
        self.ruled(logits, self.count)
        if self.decoding.do_sample:
            values, tokens = self._drawn(logits)
        else:
            values, tokens = best(logits)
        largest = values.tolist()
        self.check(largest, self.count)
        self._stop(largest)
        shape = len(self.sources), self.count
        chosen: list[list[int]] = tokens.view(shape).tolist()
        if whole is None:
            return chosen, None
        return chosen, (plain.gather(1, tokens[:, None])[:, 0] - whole).view(shape).tolist()

    def _found_at_once(self) -> list[list[int]] | None:
        """The next token of every row [N, 1], where neither scores nor draws are asked for, and a shortlist tells."""
        if self.writer.shortlist is None or self.decoding.do_sample or self.asked.log_probabilities:
            return None
        forbidden = self.rules.forbidden(self.place(1))
        if forbidden is None:
            return None
        rows = self.writer.head.reading(self.hidden.flatten(0, -2))  # type: ignore[operator]
        found = self.writer.shortlist.best(rows, forbidden)
        return None if found is None else found[1][:, None].tolist()

    def _drawn(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        values, columns = candidates(logits, self.decoding)
        rows = [self.chance[source * self.count + k] for source in self.sources for k in range(self.count)]
        places = draw(values, chances(rows, 1)[:, 0])[:, None]
        tokens = places if columns is None else columns.gather(1, places)
        return values.amax(1), tokens[:, 0]

    def _stop(self, largest: Sequence[float]) -> None:
        """Rows for which no token is allowed are over."""
        for row, value in enumerate(largest):
            if value == -float("inf"):
                self.over[self.sources[row // self.count]][row % self.count] = True

    def _note(self, tokens: list[list[int]], known: list[list[float]] | None) -> None:
        for i, source in enumerate(self.sources):
            for k, token in enumerate(tokens[i]):
                if self.over[source][k]:
                    continue
                self.ids[source][k].append(token)
                if known is not None:
                    self.log_probabilities[source][k].append(known[i][k])
                if self.asked.on_token is not None:
                    self.asked.on_token(self.asked.numbers[source], k, token)
                self.ended[source][k] = token in self.end
                self.over[source][k] = self.ended[source][k] or self.written == self.asked.most[source]

    def _text(self, source: int, k: int) -> Written:
        known = tuple(self.log_probabilities[source][k]) if self.asked.log_probabilities else None
        return Written(tuple(self.ids[source][k]), self.ended[source][k], None, known)


class _Search(_Batch):
    """The likeliest texts, `num_beams` of each source at a time."""

    def run(self) -> list[list[Written]]:
        beams = [Beams(self.decoding, most, frozenset(self.writer.end)) for most in self.asked.most]
        scores = torch.zeros(len(beams), 1, device=self.device)
        while True:
            steps = self._steps(scores)
            self.written += 1
            parents = [beams[source].advance(own) for source, own in zip(self.sources, steps)]
            staying = [i for i, source in enumerate(self.sources) if beams[source].open]
            if not staying:
                break
            going = [beams[self.sources[i]] for i in staying]
            scores = torch.tensor([one.scores for one in going], device=self.device)
            ids = [[0 if link is None else link.token for link in one.links] for one in going]
            self.go_on(ids, [parents[i] for i in staying], staying)
        return [[self._text(*one) for one in b.finished[: self.decoding.num_return_sequences]] for b in beams]

    def _steps(self, scores: Tensor) -> list[list[Step]]:
        """The best steps of each source, whose texts have these scores [N, B]: one at first, then `num_beams`."""
        rows, logits = scores.shape[1], self.logits()
        count = kept(self.decoding, len(self.writer.end))
        forbidden = None if self.decoding.do_sample else self.rules.forbidden(self.place(rows))
        if forbidden is not None and not (forbidden and self.decoding.renormalize_logits):
            values, columns = log_top(logits, count, forbidden)
            total, parents, tokens = _among(values, columns, scores, count)
            own = total - scores.gather(1, parents)
        else:
            known = logits.log_softmax(1)
            plain = known.clone() if self.asked.log_probabilities else known
            self.ruled(known, rows)
            if self.decoding.renormalize_logits and not self.decoding.do_sample:
                known = _renormalised(known)
            if self.decoding.do_sample:
                total, parents, tokens = self._drawn(known, scores, count)
            else:
                total, parents, tokens = _among(*top(known, count), scores, count)
            own = plain.view(len(scores), -1).gather(1, parents * plain.shape[1] + tokens)
        lists = [one.tolist() for one in (total, parents, tokens, *([own] if self.asked.log_probabilities else []))]
        self.check([one[0] for one in lists[0]], 1)
        return [[Step(*one) for one in zip(*source)] for source in zip(*lists)]

    def _drawn(self, known: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """As the best, but with noise that makes them drawn without putting back (Kool et al. 2019,
        https://arxiv.org/abs/1903.06059); in the order of their scores."""
        values, columns = candidates(known, self.decoding, least=max(1, len(self.writer.end)) + 1)
        if self.decoding.renormalize_logits:
            values = _renormalised(values)
        if columns is None:
            columns = torch.arange(values.shape[1], device=values.device).expand_as(values)
        total = (values.view(*scores.shape, -1) + scores[..., None]).flatten(1)
        noise = chances([self.chance[source] for source in self.sources], total.shape[1]).to(total.device)
        noisy = total - (-noise.clamp(min=1e-300).log()).log().float()
        at = torch.topk(noisy, min(count, total.shape[1])).indices
        total, order = total.gather(1, at).sort(1, descending=True)
        at = at.gather(1, order)
        return total, at // values.shape[1], columns.reshape(len(scores), -1).gather(1, at)

    def _text(self, score: float, link: Link | None, ended: bool) -> Written:
        links = [] if link is None else list(link.back())[::-1]
        known = tuple(one.log_probability for one in links) if self.asked.log_probabilities else None
        return Written(tuple(one.token for one in links), ended, score, known)


def _renormalised(known: Tensor) -> Tensor:
    """Log-probabilities that sum to one in each row [R, C], but where no word is allowed."""
    return known.log_softmax(1).masked_fill_(known.amax(1, keepdim=True) == -torch.inf, -torch.inf)


def _among(values: Tensor, columns: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best steps of each source among those of its texts.

    values, columns [N · B, C]: best log-probabilities of next tokens, and these.    scores [N, B]: of the texts.
    → their scores, the texts they are of, and the tokens, all [N, count], or fewer where there are no more.
    """
    total = (values.view(*scores.shape, -1) + scores[..., None]).flatten(1)
    if scores.shape[1] == 1:
        return total, torch.zeros_like(columns), columns
    total, at = torch.topk(total, min(count, total.shape[1]))
    return total, at // values.shape[1], columns.reshape(len(scores), -1).gather(1, at)
