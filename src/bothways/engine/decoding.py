"""`Decoding`: how a text is written, token after token. Names and meanings are those of transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from bothways.errors import InputError, meant

__all__ = ["MOST_TOKENS", "NAMES", "USUAL_LENGTH", "Decoding", "read_decoding"]

USUAL_LENGTH = 128  # tokens that are written at most, where nothing says how many
# More cannot be meant, and would be held in memory for each row.
MOST_TOKENS, MOST_BEAMS = 1 << 20, 1 << 12
MOST_WORDS = 1 << 31


@dataclass(frozen=True)
class Decoding:
    """How a text is written.

    max_new_tokens: at most so many, the end's mark included; None: as many as the model's folder says, else 128, as far
    as the model has positions.
    min_new_tokens: no end before so many.

    num_beams: 1 for the likeliest token each time; more: the likeliest texts, searched for with so many at a time.
    length_penalty: a text's score is the sum of its log-probabilities, divided by its length to this power.
    early_stopping: True: a search ends with the first `num_beams` texts; False: when the best one going on, as long as
    it is, is no better than the worst of these; "never": when none could become so.

    do_sample: draw each token by its probability. temperature divides the scores before; then the `top_k` likeliest
    tokens are kept (0: all), of those the fewest whose probabilities make up `top_p`, and of those the ones that are at
    least `min_p` times as likely as the likeliest (0: all).
    seed: of what is drawn; None for another one each time.

    repetition_penalty: scores of tokens that were there are divided by it (negative ones multiplied; Keskar et al.
    2019, https://arxiv.org/abs/1909.05858).    no_repeat_ngram_size: no sequence of so many tokens comes twice; 0 for
    no such rule.    encoder_no_repeat_ngram_size: nor one of so many that is in the source.
    bad_words_ids: sequences of tokens that never come.    suppress_tokens: tokens that never come;
    begin_suppress_tokens: not first (behind one that is forced, not second).
    forced_bos_token_id, forced_eos_token_id: what a text's first token behind a single one (the start's mark) must be,
    and the last one possible, one of these if there are several.
    renormalize_logits: whether the probabilities of what the rules leave sum to one, in a search.
    num_return_sequences: texts for each source: the best of a search, which may have fewer, or as many drawn.

    Raises InputError, naming the setting, on what cannot be.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    renormalize_logits: bool = False
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        for name, least, most in COUNTS:
            _check_count(name, getattr(self, name), least, most)
        for name, _, _ in NUMBERS:
            _check_number(name, getattr(self, name))
        for name in SWITCHES:
            if type(getattr(self, name)) is not bool:
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r:.60}")
        self._check_tokens()
        if self.early_stopping != "never" and type(self.early_stopping) is not bool:
            raise InputError(f'early_stopping must be true, false or "never", got {self.early_stopping!r:.60}')
        for impossible, message in self._impossible():
            if impossible:
                raise InputError(message)
        for name, lowest, highest in NUMBERS:
            if not lowest <= getattr(self, name) <= highest:
                raise InputError(f"{name} must be from {lowest:g} to {highest:g}, got {getattr(self, name)!r:.60}")

    def _check_tokens(self) -> None:
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            _check_ids(name, getattr(self, name), "a list of token ids")
        words = self.bad_words_ids
        for word in words if isinstance(words, tuple) and all(words) else (None,):
            _check_ids("bad_words_ids", word, "a list of lists of token ids", words)
        if self.forced_eos_token_id is not None:
            _check_ids("forced_eos_token_id", self.ends, "a token id, or a list of such", self.forced_eos_token_id)

    def _impossible(self) -> list[tuple[bool, str]]:
        """(whether it is so, what to say)."""
        most = self.max_new_tokens
        beams, texts = self.num_beams, self.num_return_sequences
        cold = "; for the likeliest token each time leave do_sample out" if self.temperature == 0 else ""
        never = set(self.suppress_tokens)
        ends, first = set(self.ends), self.forced_bos_token_id
        return [
            (first in never, f"forced_bos_token_id {first} is one of suppress_tokens: no token could come"),
            (
                bool(ends) and ends <= never,
                f"forced_eos_token_id {self.forced_eos_token_id} is one of suppress_tokens: no token could come",
            ),
            (self.temperature <= 0, f"temperature must be above 0, got {self.temperature}{cold}"),
            (not 0 < self.top_p <= 1, f"top_p must be above 0 and at most 1, got {self.top_p}"),
            (self.repetition_penalty <= 0, f"repetition_penalty must be above 0, got {self.repetition_penalty}"),
            (
                most is not None and self.min_new_tokens > most,
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {most}",
            ),
            (
                texts > beams and (beams > 1 or not self.do_sample),
                f"num_return_sequences {texts} is more than num_beams {beams}: give more beams, or draw with do_sample"
                if beams == 1
                else f"num_return_sequences {texts} is more than num_beams {beams}: a search has no more texts",
            ),
        ]

    @property
    def searches(self) -> bool:
        """Whether several texts are followed at a time."""
        return self.num_beams > 1

    @property
    def ends(self) -> tuple[int, ...]:
        """Those that the last token possible must be one of; () for any."""
        ends = self.forced_eos_token_id
        return () if ends is None else ends if isinstance(ends, tuple) else (ends,)

    @property
    def words(self) -> Iterator[tuple[str, int]]:
        """(setting, token id) of all token ids that are said."""
        first = () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        said = {
            "forced_bos_token_id": first,
            "forced_eos_token_id": self.ends,
            "bad_words_ids": tuple(token for word in self.bad_words_ids for token in word),
            "suppress_tokens": self.suppress_tokens,
            "begin_suppress_tokens": self.begin_suppress_tokens,
        }
        return ((name, token) for name, tokens in said.items() for token in tokens)

    @property
    def rows(self) -> int:
        """How many texts of a source are written at a time."""
        return self.num_beams if self.searches else self.num_return_sequences


COUNTS: tuple[tuple[str, int, int], ...] = (
    ("max_new_tokens", 1, MOST_TOKENS),
    ("min_new_tokens", 0, MOST_TOKENS),
    ("num_beams", 1, MOST_BEAMS),
    ("top_k", 0, MOST_WORDS),
    ("seed", 0, (1 << 64) - 1),
    ("no_repeat_ngram_size", 0, MOST_TOKENS),
    ("encoder_no_repeat_ngram_size", 0, MOST_TOKENS),
    ("forced_bos_token_id", 0, MOST_WORDS),
    ("num_return_sequences", 1, MOST_BEAMS),
)
# Beyond these, powers and scores of fp32 overflow.
NUMBERS: tuple[tuple[str, float, float], ...] = (
    ("length_penalty", -32.0, 32.0),
    ("temperature", 1e-6, 1e6),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 1e-6, 1e6),
)
MAY_BE_ABSENT = ("max_new_tokens", "seed", "forced_bos_token_id")
SWITCHES = ("do_sample", "renormalize_logits")


def _check_count(name: str, value: Any, least: int, most: int) -> None:
    if value is None and name in MAY_BE_ABSENT:
        return
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{name} must be a whole number from {least} to {most:,}, got {value!r:.60}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise InputError(f"{name} must be a number, got {value!r:.60}")


def _check_ids(name: str, ids: Any, expected: str, said: Any = None) -> None:
    """said: what the whole setting is, if not these ids."""
    if not isinstance(ids, tuple) or any(type(one) is not int or not 0 <= one <= MOST_WORDS for one in ids):
        raise InputError(f"{name} must be {expected}, got {_as_lists(ids if said is None else said)!r:.60}")


def _as_lists(value: Any) -> Any:
    return [_as_lists(one) for one in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(one) for one in value) if isinstance(value, list) else value


def read_decoding(given: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> Decoding:
    """Settings by name, with lists where `Decoding` has tuples. None is not given.

    usual: those of the model's folder, which stand where nothing is given.

    Raises InputError on a name that is none, saying which may have been meant, and on values that cannot be.
    """
    for name in given:
        if name not in NAMES:
            raise InputError(f"there is no setting {name!r:.60}{meant(name, NAMES, '; there are ' + ', '.join(NAMES))}")
    said = {name: value for name, value in given.items() if value is not None}
    settings = {**(usual or {}), **said}
    most, least = said.get("max_new_tokens"), settings.get("min_new_tokens")
    if type(most) is int and type(least) is int and "min_new_tokens" not in said:
        settings["min_new_tokens"] = min(least, most)
    return Decoding(**{name: _as_tuples(value) for name, value in settings.items()})


NAMES = tuple(field.name for field in fields(Decoding))
