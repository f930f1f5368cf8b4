"""Which task a model answers: told by its heads, or by --kind; and how its texts are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bothways.cli.rows import KINDS
from bothways.errors import CheckpointError, InputError, meant

if TYPE_CHECKING:
    from bothways.checkpoint.encoder import Encoder
    from bothways.checkpoint.encoder_decoder import EncoderDecoder
    from bothways.engine.evaluation import Reading
    from bothways.engine.pipeline import Pipeline

__all__ = ["WRITE", "asked_of", "kind_of", "loaded_as", "reading_of"]


WRITE = "generate"
"""What models do that have a decoder, by the word for it on the command line."""


def loaded_as(model: str, kind: str | None) -> tuple[str, Encoder | EncoderDecoder]:
    """The kind of task that is said, or that the model is for, and the model.

    Raises InputError on an unknown kind, and CheckpointError where the model does not say, or cannot do it.
    """
    from bothways.checkpoint.encoder import Encoder
    from bothways.engine.parts import load, writes

    _check(kind)
    loaded = load(model)
    if kind == WRITE and not writes(loaded):
        raise CheckpointError(
            f"{model}: has no decoder, so it writes nothing; train one with `bothways finetune generate`"
        )
    if kind == WRITE or (kind is None and writes(loaded) and not _asked_in(loaded)):
        return WRITE, loaded
    if not isinstance(loaded, Encoder):
        raise CheckpointError(f"{model}: writes texts, and does nothing else; leave --kind out, or say --kind {WRITE}")
    return kind_of(loaded, model, kind), loaded


def _asked_in(model: Encoder | EncoderDecoder) -> bool:
    """Whether it has a head for one of KINDS."""
    return any(kind in getattr(model, "heads", {}) for kind in KINDS)


def asked_of(encoder: Encoder, model: str, kind: str, precision: str, device: str) -> Pipeline:
    """A pipeline for a kind of task, without a bar of its own. model: what it is called."""
    from bothways.engine.pipeline import Pipeline

    task = KINDS[kind].task
    return Pipeline(task, encoder, device=device, precision=precision, share=True, name=model, bar=False)


def kind_of(encoder: Encoder, model: str, kind: str | None) -> str:
    """The kind of task that is said, or that the model has the only head for. Raises InputError on an unknown one,
    CheckpointError where the heads do not say."""
    _check(kind)
    if kind is not None:
        return kind
    there = [one for one in KINDS if one in encoder.heads]
    if len(there) == 1:
        return there[0]
    if there:
        raise CheckpointError(f"{model}: has heads for {', '.join(there)}; say which with --kind")
    others = f" (it has {', '.join(encoder.heads)})" if encoder.heads else ""
    raise CheckpointError(
        f"{model}: no head for {', '.join(KINDS)}{others}; train one with `bothways finetune`, or ask with "
        "`bothways evaluate --probe` what the encoder knows"
    )


def _check(kind: str | None) -> None:
    known = (*KINDS, WRITE)
    if kind is not None and kind not in known:
        raise InputError(f"unknown kind {kind!r:.60}{meant(kind, known, '; known: ' + ', '.join(known))}")


def reading_of(
    kind: str, windows: Literal["mean", "max"] | None, stride: int | None, max_length: int | None
) -> Reading:
    """How texts are read. Raises InputError on what the task does not do."""
    from bothways.engine.evaluation import Reading
    from bothways.text.windows import Windows

    if max_length is not None and max_length < 1:
        raise InputError(f"--max-length must be at least 1, got {max_length}")
    if windows is not None and kind != "classify":
        why = "are not read in windows" if kind == "choose" else "are read in windows anyway, with --stride"
        raise InputError(f"--windows is for classification; {KINDS[kind].title} {why}")
    if stride is not None and kind == "choose":
        raise InputError("--stride is for texts read in windows; questions with choices are not")
    if stride is not None and kind == "classify" and windows is None:
        raise InputError("--stride is for windows; say --windows mean or --windows max with it")
    if windows is None and stride is None:
        return Reading(None, max_length)
    return Reading(Windows(None, stride, reduce=windows or "mean"), max_length)
