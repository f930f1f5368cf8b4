"""The likeliest texts, several at a time: what is kept of a search after each token (Graves 2012; transformers' rules).

All of this is bookkeeping of one source on the host; scores come from and tokens go to the network elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bothways.engine.decoding import Decoding

__all__ = ["DEAD", "Beams", "Link", "Step", "kept"]

DEAD = -1e9
"""The score of a beam that has no text, and fills a place."""


class Link(NamedTuple):
    """A token of a text that is being written, and what stands before it. log_probability: of the token."""

    token: int
    before: Link | None = None
    log_probability: float = 0.0

    def back(self) -> Iterator[Link]:
        """From the last token to the first."""
        link: Link | None = self
        while link is not None:
            yield link
            link = link.before


class Step(NamedTuple):
    """One text that might be gone on with: its score, the beam it is of, its next token and that one's own
    log-probability."""

    score: float
    parent: int
    token: int
    log_probability: float = 0.0


def kept(decoding: Decoding, ends: int) -> int:
    """How many of the best steps are looked at: so many that enough of them are no ends."""
    return max(2, 1 + ends) * decoding.num_beams


@dataclass(eq=False)
class Beams:
    """The search for one source's texts.

    most: tokens that a text may have.    end: tokens that end one.
    links: the texts that are gone on with, best first; None at a beam without one.
    finished: (score, text, whether it has its end), the best first; score: divided by the length's power. The text is
    None where none may have a token.
    open: whether something better may come.
    """

    decoding: Decoding
    most: int
    end: Collection[int]
    links: list[Link | None] = field(default_factory=lambda: [None])
    scores: list[float] = field(default_factory=lambda: [0.0])
    finished: list[tuple[float, Link | None, bool]] = field(default_factory=list)
    written: int = 0
    open: bool = True

    def advance(self, steps: Sequence[Step]) -> list[int]:
        """Go on with the best steps (best first; as many as `kept`, or all there are) → the beams they are of.

        Afterwards `links` and `scores` have `num_beams` entries.
        """
        width = self.decoding.num_beams
        self.written += 1
        links: list[Link | None] = []
        scores: list[float] = []
        parents: list[int] = []
        for rank, step in enumerate(steps):
            ended = step.token in self.end
            alive = step.score > DEAD / 2
            if ended or self.written == self.most:
                if rank < width and alive:
                    self._finish(step, ended)
            elif len(links) < width and alive:
                links.append(self._link(step))
                scores.append(step.score)
                parents.append(step.parent)
        if not links and not self.finished:
            self._give_up()
        self.open = bool(links) and self._may_improve(scores[0])
        idle = width - len(links)
        self.links, self.scores = [*links, *[None] * idle], [*scores, *[DEAD] * idle]
        return [*parents, *[0] * idle]

    def _link(self, step: Step) -> Link:
        return Link(step.token, self.links[step.parent], step.log_probability)

    def _finish(self, step: Step, ended: bool) -> None:
        score = step.score / self.written**self.decoding.length_penalty
        self.finished.append((score, self._link(step), ended))
        self.finished.sort(key=lambda one: -one[0])
        del self.finished[self.decoding.num_beams :]

    def _give_up(self) -> None:
        """No token is allowed: what there is are the texts."""
        length = max(self.written - 1, 1) ** self.decoding.length_penalty
        texts = [(s / length, one, False) for s, one in zip(self.scores, self.links) if one is not None]
        self.finished = [*texts] or [(0.0, None, False)]

    def _may_improve(self, best: float) -> bool:
        """Whether one of the texts going on may become better than the worst of enough finished ones."""
        how = self.decoding
        if len(self.finished) < how.num_beams:
            return True
        if how.early_stopping is True:
            return False
        longest = self.most if how.early_stopping == "never" and how.length_penalty > 0.0 else self.written
        return best / longest**how.length_penalty > self.finished[-1][0]
