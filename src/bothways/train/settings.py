"""What a pretraining run is told: plain values, each with the default that a first run should have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from bothways.data.pairs import NEGATIVES, Negatives
from bothways.errors import ConfigError, meant
from bothways.nn.sharing import SHARINGS, Sharing
from bothways.objectives.choice import OBJECTIVES, check_objectives
from bothways.objectives.masking import Masking
from bothways.objectives.rtd import RTD_WEIGHT
from bothways.train.heeded import ONLY_WITH, heeds
from bothways.train.optim import OPTIMIZERS, AdamSettings
from bothways.train.schedule import SCHEDULES

__all__ = [
    "CorpusSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "PretrainSettings",
    "RunSettings",
    "StepSettings",
    "UpdateSettings",
    "check_least",
    "check_momentum",
    "check_one_of",
    "check_seed",
    "check_share",
    "names_in",
]

PRECISIONS = ("fp32", "bf16", "fp16")
PRESET = "bert-mini"
MOST_WARMUP = 10_000
MOST_GENERATOR = 1024  # times as wide, or as deep; usual is less than once
MOST_WORKERS = 64
SHORTEST = 3  # tokens of a sequence


def check_one_of(key: str, value: str, known: Iterable[str]) -> None:
    """Raises ConfigError, with the nearest that is known, on a value that is none of them."""
    if value not in known:
        raise ConfigError(f"{key} must be one of {', '.join(known)}, got {value!r}{meant(value, known)}")


def names_in(given: Iterable[str]) -> tuple[str, ...]:
    """Names that are given each by itself, or several with commas between them."""
    names = (name.strip() for some in given for name in some.split(","))
    return tuple(name for name in names if name)


def check_least(least: float, **values: float | None) -> None:
    """Raises ConfigError on a value, by its key, that is given and lower."""
    for key, value in values.items():
        if value is not None and not value >= least:
            raise ConfigError(f"{key} must be at least {least}, got {value}")


def check_share(**values: float) -> None:
    """Raises ConfigError on a value, by its key, that is no share of less than all."""
    for key, value in values.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{key} must be 0 or more and less than 1, got {value}")


def check_seed(seed: int) -> None:
    """Raises ConfigError on what is no seed."""
    if not 0 <= seed < 1 << 63:
        raise ConfigError(f"seed must be 0 or more and less than 2^63, got {seed}")


def _check_within(key: str, warmup: float, steps: int) -> None:
    if not 0 <= warmup <= steps:
        raise ConfigError(f"{key} must be between 0 and the {steps} steps, got {warmup}")


def _check_above_0(key: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ConfigError(f"{key} must be more than 0, got {value}")


def _check_finite(key: str, value: float) -> None:
    if not math.isfinite(value):
        raise ConfigError(f"{key} must be a finite number, got {value}; 0 stands for none")


def _check_not_negative(values: Mapping[str, int]) -> None:
    for key, value in values.items():
        if value < 0:
            raise ConfigError(f"{key} must be 0 or more, got {value}")


def _check_rise(key: str, most: int, start: int, warmup: int) -> None:
    """From `start` (0: not at all) to `most` in some steps."""
    _check_not_negative({f"{key}_start": start, f"{key}_warmup": warmup})
    if not 0 <= start <= most:
        raise ConfigError(f"{key}_start must be between 0 and {key} {most}, got {start}")
    if start == most:
        raise ConfigError(f"{key}_start {start} changes nothing: {key} is as many; say fewer, or leave it out")
    if bool(start) != bool(warmup):
        given, other = (f"{key}_start", f"{key}_warmup") if start else (f"{key}_warmup", f"{key}_start")
        raise ConfigError(f"{given} says nothing without {other}; give both or none")


@dataclass(frozen=True)
class ModelSettings:
    """preset: a name that `bothways families` lists (bert-mini if nothing is said); its vocabulary becomes the
    tokenizer's.    start: instead of a preset, an encoder to go on from: its folder, or its id on the hub.

    dropout: from 0 to less than 1; that of the preset or of the encoder if it is not given.
    generator_width, generator_depth: with rtd, the size of the generator, as shares of the discriminator's. Those of
    the preset if they are not given (electra-small: 1/4 as wide; deberta-v3-base: half as deep); for others 1/4 as
    wide, or half as deep where a family's word vectors must be as wide as its hidden states.
    """

    preset: str | None = None
    start: str | None = None
    dropout: float | None = None
    generator_width: float | None = None
    generator_depth: float | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.start is not None:
            raise ConfigError(f"preset {self.preset!r} and start {self.start!r} are both given; a run has one of them")
        if self.start is not None and not self.start:
            raise ConfigError("start must be a folder or an id on the hub, got ''")
        if self.preset is None and self.start is None:
            object.__setattr__(self, "preset", PRESET)
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be 0 or more and less than 1, got {self.dropout}")
        for name in ("generator_width", "generator_depth"):
            share = getattr(self, name)
            _check_above_0(name, share)
            if share is not None and share > MOST_GENERATOR:
                raise ConfigError(f"{name} must be at most {MOST_GENERATOR} times the encoder's, got {share:g}")


@dataclass(frozen=True)
class CorpusSettings:
    """corpus: a folder that `bothways corpus build` wrote.    longest: tokens of a sequence, special ones included.

    longest_start, longest_warmup: training begins with sequences of at most longest_start tokens (0: of longest at
    once), and doubles that at equal intervals until, after longest_warmup steps, it is longest: sequence length warmup
    (Li et al. 2022, https://arxiv.org/abs/2108.06084). Steps have as many tokens as ever, so more and shorter
    sequences.
    workers: threads that prepare batches, up to 64; 0 prepares each where it is needed.
    """

    corpus: Path = Path("shards")
    longest: int = 128
    longest_start: int = 0
    longest_warmup: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        _check_not_negative({"longest_start": self.longest_start, "workers": self.workers})
        if self.workers > MOST_WORKERS:
            raise ConfigError(f"workers must be at most {MOST_WORKERS}, got {self.workers}")
        for name, length in (("longest", self.longest), ("longest_start", self.longest_start or SHORTEST)):
            if length < SHORTEST:
                raise ConfigError(f"{name} must be at least {SHORTEST}: two special tokens and one more, got {length}")
        _check_rise("longest", self.longest, self.longest_start, self.longest_warmup)

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """(first step, tokens of a sequence at most), in order, with the longest last."""
        lengths = [self.longest_start << i for i in range(self.longest.bit_length()) if self.longest_start]
        shorter = [length for length in lengths if length < self.longest]
        begun = [(i * self.longest_warmup // len(shorter), length) for i, length in enumerate(shorter)]
        return (*begun, (self.longest_warmup if shorter else 0, self.longest))


@dataclass(frozen=True)
class ObjectiveSettings:
    """objectives: what is learnt: mlm (masked words), with nsp (next sentences) or sop (their order) beside it if one
    likes, "mlm,nsp"; or, alone, causal (next tokens) or rtd (which tokens a smaller network, the generator, replaced).

    negatives: with nsp, where a segment that is not the next one is from: "other" documents, or the "same" one.
    rtd_weight: with rtd, of the discriminator's loss; that of the generator, which learns masked words, is 1.
    sharing: with rtd, of the embeddings of both networks: tied (the same, as in ELECTRA), disentangled (the
    discriminator's are the generator's and a shift of its own, as in DeBERTa-v3), or none; if not given, disentangled
    for deberta-v2 models, else tied.
    """

    objectives: tuple[str, ...] = ("mlm",)
    negatives: Negatives = "other"
    rtd_weight: float = RTD_WEIGHT
    sharing: Sharing | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", names_in(self.objectives))
        check_objectives(self.objectives)
        object.__setattr__(self, "objectives", tuple(name for name in OBJECTIVES if name in self.objectives))
        if self.negatives not in NEGATIVES:
            raise ConfigError(f"negatives must be one of {', '.join(NEGATIVES)}, got {self.negatives!r}")
        _check_above_0("rtd_weight", self.rtd_weight)
        if self.sharing is not None:
            check_one_of("sharing", self.sharing, SHARINGS)


@dataclass(frozen=True)
class StepSettings:
    """steps: how many.    step_tokens: tokens of one.
    batch_tokens: tokens computed at a time, at most (memory against speed); a step has as many equal batches as it
    takes.
    step_tokens_start, step_tokens_warmup: the first step has the batches that step_tokens_start tokens take (0: all at
    once), and whole batches are added until, after step_tokens_warmup steps, it is step_tokens: batch size warmup.
    """

    steps: int = 10_000
    step_tokens: int = 4096
    batch_tokens: int = 2048
    step_tokens_start: int = 0
    step_tokens_warmup: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "step_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        _check_rise("step_tokens", self.step_tokens, self.step_tokens_start, self.step_tokens_warmup)
        _check_within("step_tokens_warmup", self.step_tokens_warmup, self.steps)
        if self.step_tokens_start and self.batches(0) == self.batches(self.steps):
            raise ConfigError(
                f"step_tokens_start {self.step_tokens_start} changes nothing: it takes as many batches of {self.batch} "
                "as a whole step; say less, or a lower batch_tokens"
            )

    def batches(self, step: int) -> int:
        """Batches of a step, counted from 0."""
        most = -(-self.step_tokens // self.batch_tokens)
        if not self.step_tokens_start or step >= self.step_tokens_warmup:
            return most
        fewest = -(-self.step_tokens_start // self.batch)
        return fewest + (most - fewest) * step // self.step_tokens_warmup

    @property
    def tokens(self) -> int:
        """Of the whole run, about."""
        rising = min(self.steps, self.step_tokens_warmup)
        batches = sum(self.batches(step) for step in range(rising)) + (self.steps - rising) * self.batches(rising)
        return batches * self.batch

    @property
    def batch(self) -> int:
        """Tokens of a batch."""
        return -(-self.step_tokens // self.batches(self.steps))


@dataclass(frozen=True)
class UpdateSettings:
    """optimizer: a name in OPTIMIZERS: adamw, muon (for large steps) or stable-adamw (which goes with clip = 0).
    schedule: a name in SCHEDULES: linear, cosine, wsd (warmup, stable, decay) or constant.
    warmup: steps in which the learning rate rises, or, below 1, a share of all steps; if not given, 6 % of all steps
    (as for RoBERTa-large, https://arxiv.org/abs/1907.11692), and at most 10,000.
    clip: the longest gradient; 0 for any.    precision: fp32, bf16, or fp16 on a GPU.
    checkpointing: compute activations again on the way back, for less memory.
    compile: let torch's compiler fuse what a layer does after attention; for GPUs (see `train.compiling`).
    nonfinite: what a loss or gradient that is no number does: stop (its batch is saved), or skip that step and say so.
    spike: a gradient so many times as long as the mean of those before is treated like that, too; 0 for none.
    ema: decay of an average of the weights over the steps, such as 0.999; 0 for none. It is what is evaluated, and what
    the finished run leaves as its model and its best; checkpoints have it beside the weights.
    """

    optimizer: str = "adamw"
    schedule: str = "linear"
    warmup: float | None = None
    clip: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    checkpointing: bool = False
    compile: bool = False
    nonfinite: Literal["stop", "skip"] = "stop"
    spike: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        check_one_of("optimizer", self.optimizer, OPTIMIZERS)
        check_one_of("schedule", self.schedule, SCHEDULES)
        check_one_of("precision", self.precision, PRECISIONS)
        if self.nonfinite not in ("stop", "skip"):
            raise ConfigError(f"nonfinite must be stop or skip, got {self.nonfinite!r}")
        _check_finite("spike", self.spike)
        _check_finite("clip", self.clip)
        if self.spike != 0 and not self.spike > 1:
            raise ConfigError(f"spike must be more than 1, or 0 for none, got {self.spike}")
        if not self.clip >= 0:
            raise ConfigError(f"clip must be 0 or more, got {self.clip}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be 0 or more and less than 1, got {self.ema}")
        if self.warmup is not None:
            self._check_warmup(self.warmup)

    def _check_warmup(self, warmup: float) -> None:
        """Whole steps from 1 on."""
        if not 0 <= warmup < math.inf:
            raise ConfigError(f"warmup must be 0 or more, got {warmup}")
        if warmup >= 1 and warmup != int(warmup):
            raise ConfigError(f"warmup must be a whole number of steps, or a share of them below 1, got {warmup}")
        object.__setattr__(self, "warmup", warmup if 0 < warmup < 1 else int(warmup))

    def rising(self, steps: int) -> int:
        """Of so many steps, those in which the learning rate rises, given or not."""
        if self.warmup is None:
            return min(MOST_WARMUP, -(-steps * 6 // 100))
        return math.ceil(steps * self.warmup) if self.warmup < 1 else int(self.warmup)


@dataclass(frozen=True)
class RunSettings:
    """seed: of weights, order, masks and dropout.    log_every, evaluate_every, save_every: steps.

    evaluate_tokens: of the held-out split, at most.    keep: newest checkpoints that stay, beside the best one.
    tensorboard: write what TensorBoard shows, too, into `tensorboard/` (extra `tensorboard`).
    """

    seed: int = 0
    log_every: int = 10
    evaluate_every: int = 500
    evaluate_tokens: int = 200_000
    save_every: int = 500
    keep: int = 2
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("log_every", "evaluate_every", "evaluate_tokens", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_seed(self.seed)


def check_momentum(adam: AdamSettings, update: UpdateSettings) -> None:
    """Raises ConfigError on a momentum that is given and that no optimizer heeds."""
    if adam.momentum != AdamSettings.momentum and update.optimizer != "muon":
        raise ConfigError(f"momentum says something only with muon, and optimizer is {update.optimizer}; leave it out")


@dataclass(frozen=True)
class PretrainSettings:
    """A whole run."""

    model: ModelSettings = field(default_factory=ModelSettings)
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    masking: Masking = field(default_factory=Masking)
    adam: AdamSettings = field(default_factory=AdamSettings)
    step: StepSettings = field(default_factory=StepSettings)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    run: RunSettings = field(default_factory=RunSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)

    def __post_init__(self) -> None:
        if self.update.warmup is not None:
            _check_within("warmup", self.update.warmup, self.step.steps)
        _check_within("longest_warmup", self.corpus.longest_warmup, self.step.steps)
        if self.step.step_tokens < self.corpus.longest:
            sequence = f"one sequence of {self.corpus.longest}; say more, or a lower longest"
            raise ConfigError(f"step_tokens {self.step.step_tokens} is less than {sequence}")
        self._check_batch()
        for part in (self.model, self.masking, self.objective):
            self._check_heeded(part)
        check_momentum(self.adam, self.update)

    def _check_batch(self) -> None:
        """A step's equal batches hold a sequence each: else a step would have more tokens than it shall."""
        tokens, longest, batches = self.step.step_tokens, self.corpus.longest, self.step.batches(self.step.steps)
        if self.step.batch < longest <= self.step.batch_tokens:
            fewer = -(-tokens // (batches - 1))
            raise ConfigError(
                f"step_tokens {tokens} in batches of at most {self.step.batch_tokens} are {batches} of "
                f"{self.step.batch}, less than one sequence of {longest}; "
                f"say step_tokens = {batches * longest}, or batch_tokens = {fewer}"
            )

    def heeds(self, key: str) -> bool:
        """Whether a key says something of these objectives."""
        return heeds(key, self.objective.objectives)

    def _check_heeded(self, part: ModelSettings | Masking | ObjectiveSettings) -> None:
        """No key is given that none of the objectives heeds."""
        for key in fields(part):
            if getattr(part, key.name) != key.default and not self.heeds(key.name):
                needed = f"{' or '.join(ONLY_WITH[key.name])}, and objectives is {','.join(self.objective.objectives)}"
                raise ConfigError(f"{key.name} says something only with {needed}; leave it out")
