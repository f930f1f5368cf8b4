"""What a fine-tuning run is told: plain values, each with the default that a first run should have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bothways.errors import ConfigError
from bothways.text.windows import Windows
from bothways.train.optim import AdamSettings
from bothways.train.settings import UpdateSettings, check_least, check_momentum, check_one_of, check_seed, check_share

__all__ = [
    "AdaptSettings",
    "LossSettings",
    "RowSettings",
    "TextSettings",
    "TuningAdam",
    "TuningRun",
    "TuningSettings",
]


@dataclass(frozen=True)
class AdaptSettings:
    """model: the encoder to begin with, a folder or an id on the hub.

    layers: how many of its last layers are trained; 0 freezes it, so that its hidden states are computed once and only
    the head is trained on them; if not given, all are trained, and its embeddings.
    lora_rank: train maps of this rank beside those of the encoder instead of its own weights (LoRA, arXiv:2106.09685);
    0 for none. They are merged into them in the model that is left.    lora_alpha: their weight, times the rank.
    lora_dropout: of what they read.    lora_parts: beside which maps: attention, or all.
    dropout: from 0 to less than 1; the encoder's own if it is not given.
    pooling: what a text's head reads: cls, mean or max of the last hidden states; the family's own if it is not given.
    """

    model: str = ""
    layers: int | None = None
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_parts: Literal["attention", "all"] = "attention"
    dropout: float | None = None
    pooling: str | None = None

    def __post_init__(self) -> None:
        check_least(0, layers=self.layers, lora_rank=self.lora_rank)
        check_share(lora_dropout=self.lora_dropout, dropout=self.dropout or 0.0)
        check_one_of("lora_parts", self.lora_parts, ("attention", "all"))
        if self.pooling is not None:
            check_one_of("pooling", self.pooling, ("cls", "mean", "max"))
        if not self.lora_alpha > 0:
            raise ConfigError(f"lora_alpha must be more than 0, got {self.lora_alpha}")
        if self.lora_rank and self.layers is not None:
            raise ConfigError("lora_rank and layers are both given; a run has one of them")


@dataclass(frozen=True)
class TextSettings:
    """max_length: tokens of a text, or of a window; what the encoder takes if it is not given.

    windows: how a text that is too long is read: cut (the usual for whole texts, and told), or in windows whose scores
    are put together by their mean or max. Tags and answers are always read in windows.
    stride: tokens that a window shares with the one before; a quarter of it if not given.
    max_train_samples, max_eval_samples: rows that are used at most, picked from all over the file.
    held_out: the share of the rows that is kept apart to evaluate on, where there is no file for that.
    """

    max_length: int | None = None
    windows: Literal["cut", "mean", "max"] = "cut"
    stride: int | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    held_out: float = 0.1

    def __post_init__(self) -> None:
        check_least(
            1,
            max_length=self.max_length,
            max_train_samples=self.max_train_samples,
            max_eval_samples=self.max_eval_samples,
        )
        check_least(0, stride=self.stride)
        check_one_of("windows", self.windows, ("cut", "mean", "max"))
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out must be more than 0 and less than 1, got {self.held_out}")

    def reading(self) -> Windows | None:
        """How texts are read in windows, where it is said that they are."""
        if self.windows == "cut":
            return None if self.stride is None else Windows(self.max_length, self.stride)
        return Windows(self.max_length, self.stride, reduce=self.windows)


@dataclass(frozen=True)
class LossSettings:
    """smoothing: the share of each label's certainty that all labels get.

    class_weights: none, or balanced: rows of rare labels weigh more, by how rare they are.
    """

    smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"

    def __post_init__(self) -> None:
        check_share(smoothing=self.smoothing)
        check_one_of("class_weights", self.class_weights, ("none", "balanced"))


@dataclass(frozen=True)
class RowSettings:
    """epochs: how often each row is learnt from; a share of an epoch will do.    batch_size: rows of a step.

    batch_tokens: tokens computed at a time, about (memory against speed); a step has at least two parts, but of
    heads that pool a frozen encoder's states.
    """

    epochs: float = 3.0
    batch_size: int = 32
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        check_least(1, batch_size=self.batch_size, batch_tokens=self.batch_tokens)
        if not 0 < self.epochs < 1e6:
            raise ConfigError(f"epochs must be more than 0, got {self.epochs}")


@dataclass(frozen=True)
class TuningAdam(AdamSettings):
    """lr: the highest learning rate.    beta1, beta2, eps: of the moments.    weight_decay: of matrices.

    momentum: of Muon, which has AdamW's other settings for what is no hidden matrix.
    layer_decay: each layer's rate is so many times that of the layer above it (arXiv:1801.06146); 1 for the same.
    head_lr: the head's rate; lr if it is not given.
    """

    lr: float = 5e-5
    beta2: float = 0.999
    eps: float = 1e-8
    layer_decay: float = 1.0
    head_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay must be more than 0 and at most 1, got {self.layer_decay}")
        check_least(0, head_lr=self.head_lr)


@dataclass(frozen=True)
class TuningRun:
    """seed: of fresh weights, order and dropout.    log_every: steps.

    evaluate_every, save_every: steps; 0 for once an epoch.    patience: so many evaluations without a better one end
    the run; 0: none do.    keep: newest checkpoints that stay, beside the best one.
    tensorboard: write what TensorBoard shows, too, into `tensorboard/` (extra `tensorboard`).
    """

    seed: int = 0
    log_every: int = 10
    evaluate_every: int = 0
    save_every: int = 0
    patience: int = 0
    keep: int = 1
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_least(0, evaluate_every=self.evaluate_every, save_every=self.save_every, patience=self.patience)
        check_least(1, log_every=self.log_every, keep=self.keep)
        check_seed(self.seed)


@dataclass(frozen=True)
class TuningSettings:
    """A whole run."""

    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    text: TextSettings = field(default_factory=TextSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    rows: RowSettings = field(default_factory=RowSettings)
    adam: TuningAdam = field(default_factory=TuningAdam)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    run: TuningRun = field(default_factory=TuningRun)

    def __post_init__(self) -> None:
        check_momentum(self.adam, self.update)
