"""What a run is told that learns to write one text from another: plain values, each with a default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from bothways.errors import ConfigError
from bothways.nn.activations import ACTIVATIONS
from bothways.tasks.overlap import OVERLAPS, ROUGES
from bothways.train.optim import AdamSettings
from bothways.train.settings import UpdateSettings, check_least, check_momentum, check_one_of, check_share, names_in
from bothways.train.tuning import RowSettings, TuningRun

__all__ = [
    "AdapterSettings",
    "DecoderSettings",
    "JudgingSettings",
    "Seq2SeqAdam",
    "Seq2SeqSettings",
    "SidesSettings",
    "SmoothingSettings",
    "SourceSettings",
]


@dataclass(frozen=True)
class SourceSettings:
    """model: what to begin with, a folder or an id on the hub: an encoder, one with a decoder, or a decoder alone
    (GPT-2), which goes on from the source.

    fresh_encoder: give the encoder fresh weights, in its shape and with its tokenizer.
    layers: how many of the encoder's last layers are trained; 0 freezes it, so that its rows are computed once and kept
    on disk while the run lasts; if not given, all are trained, and its embeddings.
    dropout: from 0 to less than 1, of encoder and decoder; their own if it is not given.
    """

    model: str = ""
    fresh_encoder: bool = False
    layers: int | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        check_least(0, layers=self.layers)
        check_share(dropout=self.dropout or 0.0)
        if self.fresh_encoder and self.layers is not None:
            raise ConfigError("fresh_encoder and layers are both given; fresh weights that do not learn are of no use")


@dataclass(frozen=True)
class DecoderSettings:
    """decoder: fresh, in the sizes below; copy, the encoder's own layers with fresh attention to the source; or the
    folder of a model with a decoder, whose decoder it is. If not given, the model's own if it has one, else fresh.

    depth, width, heads, ffn: of a fresh one; the encoder's if not given.
    target_tokenizer: a folder or an id on the hub, if targets have a tokenizer of their own.
    """

    decoder: str = ""
    depth: int | None = None
    width: int | None = None
    heads: int | None = None
    ffn: int | None = None
    target_tokenizer: str | None = None

    def __post_init__(self) -> None:
        check_least(1, depth=self.depth, width=self.width, heads=self.heads, ffn=self.ffn)
        sized = [name for name in ("depth", "width", "heads", "ffn") if getattr(self, name) is not None]
        if sized and self.decoder not in ("", "fresh"):
            raise ConfigError(f"{sized[0]} is of a fresh decoder, but decoder is {self.decoder}; leave one of them out")


@dataclass(frozen=True)
class AdapterSettings:
    """adapter: what stands between encoder and decoder: none, linear, bottleneck or resample. If not given, none where
    their widths are equal, else linear.

    adapter_inner, adapter_act: of a bottleneck, its narrow width (64) and its activation (gelu).
    adapter_rows, adapter_heads: of resampling, how many rows each source becomes (32), and heads of its attention (4).
    """

    adapter: Literal["none", "linear", "bottleneck", "resample"] | None = None
    adapter_inner: int | None = None
    adapter_act: str | None = None
    adapter_rows: int | None = None
    adapter_heads: int | None = None

    def __post_init__(self) -> None:
        if self.adapter is not None:
            check_one_of("adapter", self.adapter, ("none", "linear", "bottleneck", "resample"))
        if self.adapter_act is not None:
            check_one_of("adapter_act", self.adapter_act, tuple(ACTIVATIONS))
        check_least(
            1, adapter_inner=self.adapter_inner, adapter_rows=self.adapter_rows, adapter_heads=self.adapter_heads
        )
        for key, kind in OF_KINDS.items():
            if getattr(self, key) is not None and self.adapter != kind:
                asked = "is not given" if self.adapter is None else f"is {self.adapter}"
                raise ConfigError(f"{key} is of a {kind} adapter, but adapter {asked}; leave one of them out")

    @property
    def sizes(self) -> dict[str, Any]:
        """Those that are given, by the names of `nn.adapter.AdapterConfig`."""
        said = {key.removeprefix("adapter_"): getattr(self, key) for key in OF_KINDS}
        return {name: value for name, value in said.items() if value is not None}


# Which kind of adapter a setting is of.
OF_KINDS = {
    "adapter_inner": "bottleneck",
    "adapter_act": "bottleneck",
    "adapter_rows": "resample",
    "adapter_heads": "resample",
}


@dataclass(frozen=True)
class SidesSettings:
    """max_source_length: tokens of a source; what the encoder takes if not given. What is longer is cut, and told.
    max_target_length: tokens of a target; what the decoder takes if not given, and then no longer one may come.
    targets: which are learnt of several that are right: first, all, or joined, which makes one of them.
    prefix: what stands before each source, such as T5's "summarize: "; what the model was trained with, if not given.
    separator: what stands between source and target for a decoder alone; its own if it was trained with one, else a
    line's end, if not given.
    max_train_samples, max_eval_samples: rows that are used at most, picked from all over the file.
    held_out: the share of the rows that is kept apart to evaluate on, where there is no file for that.
    """

    max_source_length: int | None = None
    max_target_length: int | None = None
    targets: Literal["first", "all", "joined"] = "first"
    prefix: str | None = None
    separator: str | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    held_out: float = 0.1

    def __post_init__(self) -> None:
        check_least(
            1,
            max_source_length=self.max_source_length,
            max_target_length=self.max_target_length,
            max_train_samples=self.max_train_samples,
            max_eval_samples=self.max_eval_samples,
        )
        check_one_of("targets", self.targets, ("first", "all", "joined"))
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out must be more than 0 and less than 1, got {self.held_out}")


@dataclass(frozen=True)
class SmoothingSettings:
    """smoothing: the share of each target token that all of the vocabulary gets alike."""

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_share(smoothing=self.smoothing)


@dataclass(frozen=True)
class Seq2SeqAdam(AdamSettings):
    """lr: the highest learning rate.    beta1, beta2, eps: of the moments.    weight_decay: of matrices.

    momentum: of Muon, which has AdamW's other settings for what is no hidden matrix.
    encoder_lr: the encoder's rate; lr if it is not given.
    """

    lr: float = 3e-4
    encoder_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(0, encoder_lr=self.encoder_lr)


@dataclass(frozen=True)
class JudgingSettings:
    """metrics: of the texts that are written for the rows held out: bleu and chrf, from 0 to 100, rouge, from 0 to 1
    (extra `metrics`), "bleu,chrf"; none for the loss and the accuracy of tokens alone, which are much faster.
    best: which one says what is best: loss, accuracy, bleu, chrf, rouge1, rouge2 or rougeL.
    num_beams: of these texts; 1 for the likeliest token each time.    max_new_tokens: of each.
    """

    metrics: tuple[str, ...] = ("bleu", "chrf", "rouge")
    best: str = "loss"
    num_beams: int = 1
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", names_in(self.metrics))
        check_least(1, num_beams=self.num_beams, max_new_tokens=self.max_new_tokens)
        for name in self.overlaps:
            check_one_of("metrics", name, (*OVERLAPS, "none"))
        given = [one for name in self.overlaps for one in (ROUGES if name == "rouge" else (name,))]
        check_one_of("best", self.best, ("loss", "accuracy", *given))

    @property
    def overlaps(self) -> tuple[str, ...]:
        """The metrics that there are, by their names in OVERLAPS."""
        return () if self.metrics == ("none",) else self.metrics


@dataclass(frozen=True)
class Seq2SeqSettings:
    """A whole run."""

    source: SourceSettings = field(default_factory=SourceSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    sides: SidesSettings = field(default_factory=SidesSettings)
    smoothing: SmoothingSettings = field(default_factory=SmoothingSettings)
    rows: RowSettings = field(default_factory=RowSettings)
    adam: Seq2SeqAdam = field(default_factory=Seq2SeqAdam)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    run: TuningRun = field(default_factory=TuningRun)
    judging: JudgingSettings = field(default_factory=JudgingSettings)

    def __post_init__(self) -> None:
        check_momentum(self.adam, self.update)
        if self.source.layers == 0 and self.adam.encoder_lr is not None:
            raise ConfigError(
                "encoder_lr is given, but layers is 0, and the encoder does not learn; leave one of them out"
            )
