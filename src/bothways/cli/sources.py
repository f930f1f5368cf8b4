"""`bothways inspect` of what writes: whether a decoder uses its source, and which tokens each position sees."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bothways.cli.output import print_json, print_table, print_words
from bothways.errors import InputError
from bothways.files import replacing
from bothways.pictures import check_picture

if TYPE_CHECKING:
    from bothways.engine.alignment import SourceUse

__all__ = ["show_reach", "show_source_use"]

SAID = {
    "yes": "The decoder uses its source: the target is likelier with its own source than with another one.",
    "hardly": "The decoder hardly uses its source: the target is about as likely with another one.",
    "no": "The decoder does not use its source: the target is as likely with another one, or likelier.",
}


def show_source_use(
    model: str, text: str, target: str | None, device: str, json: bool, plot: Path | None, others: Sequence[str]
) -> None:
    """Score the target with three memories, print that, and draw what was looked at where that is asked for."""
    _refuse(others, "of an encoder–decoder: its attention is drawn with --plot")
    if plot is not None:
        check_picture(plot)
    from bothways.engine.alignment import align, source_use
    from bothways.engine.writing import writing

    write = writing(model, device=device, precision="fp32")
    found = source_use(write, text, target, do_sample=False)
    if plot is not None:
        from bothways.cli.alignment import draw

        with replacing(plot) as aside:
            draw(align(write, text, target, do_sample=False), aside, _short(model))
        print(f"{plot}: what each of {len(found.tokens)} written tokens looked at", file=sys.stderr)
    if json:
        over_shuffled, over_zero = found.gains
        print_json(
            {
                **{"target": found.target, "generated": found.generated, "tokens": found.tokens},
                "log_probabilities": {"true": found.true, "shuffled": found.shuffled, "zero": found.zero},
                "gain_a_token": {"over_shuffled": over_shuffled, "over_zero": over_zero},
                "uses_source": found.uses_source,
            }
        )
    else:
        _show(found)


def _show(found: SourceUse) -> None:
    memories = (found.true, found.shuffled, found.zero)
    columns = ["#", "its own", "shuffled", "zero", "token"]
    rows = [[f"{i}", *(f"{one[i]:.3f}" for one in memories), token] for i, token in enumerate(found.tokens)]
    rows.append(["", *(f"{sum(one) / len(found.tokens):.3f}" for one in memories), "mean"])
    whose = "that the model writes" if found.generated else "given"
    print_table(columns, rows, title=f"Log-probabilities of a target {whose}, by the memory it is written from")
    over_shuffled, over_zero = found.gains
    worth = (
        f"Its own source is worth {over_shuffled:+.3f} nats a token over a shuffled one, {over_zero:+.3f} over none."
    )
    for sentence in (worth, SAID[found.uses_source]):
        print_words([(sentence, "")])


def show_reach(model: str, text: str, target: str | None, path: Path, json: bool, others: Sequence[str]) -> None:
    """Measure which tokens each position sees, draw that, and print what follows."""
    _refuse(others, "with --reach, which draws what all layers together see")
    check_picture(path)
    from bothways.cli.reach import draw
    from bothways.engine.parts import is_pair, load
    from bothways.engine.reach import reach

    if target is not None and not is_pair(model):
        raise InputError("a second text says nothing with --reach, but of an encoder–decoder, whose target it is")
    with replacing(path) as aside:
        found = reach(load(model), text, target)
        draw(found, aside, _short(model))
    print(f"{path}: which tokens each position sees", file=sys.stderr)
    if json:
        print_json([{**vars(sight), "gradients": sight.gradients.tolist()} for sight in found.sights])
        return
    for sight in found.sights:
        print_words([(f"{sight.says}.", "")])


def _refuse(flags: Sequence[str], why: str) -> None:
    for flag in flags:
        raise InputError(f"{flag} says nothing {why}")


def _short(model: str) -> str:
    return "/".join(Path(model).parts[-2:])
