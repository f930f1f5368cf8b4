"""`bothways pretrain`: an encoder from shards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from bothways.cli.keys import keys_told
from bothways.cli.kinds import Config
from bothways.cli.output import print_json
from bothways.errors import InputError

if TYPE_CHECKING:
    from bothways.train.run import Outcome

__all__ = ["app"]

app = App(name="pretrain", help_epilogue=keys_told(), help_format="plaintext")
Rest = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


@app.default
def pretrain(config: Config, /, *flags: Rest, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Pretrain an encoder as a TOML file or a recipe says; any key of it can be given as a flag too, which wins.

    On the way it shows loss, accuracy of predicted tokens, tokens a second, the share of the machine's
    matrix-product rate that this is, and the time left. `run/metrics.jsonl` has the numbers; --tensorboard
    writes them for TensorBoard too.

    At the end `run/model` is the model and `run/best` the one with the lowest held-out loss.

    Interrupted (Ctrl-C, SIGTERM), it saves and exits with 130; say --resume to go on.

    Parameters
    ----------
    config
        A TOML file of the keys below, or the name of a recipe: `bothways recipes` lists them.
    flags
        Keys as flags: --steps 1000 --lr 3e-4.
    json
        Print at the end what the run came to, as a JSON object; also of a run that was stopped.
    """
    from bothways.cli.settings import read_settings
    from bothways.cli.training import show, tell_of_no_run
    from bothways.train.pretrain import pretrain as run

    settings, where = read_settings(config, flags)
    if where.resume:
        tell_of_no_run(where.output)
    with show(settings.step.steps) as watch:
        outcome = run(
            settings,
            where.output,
            resume=where.resume,
            device=where.device,
            watch=watch,
            told=lambda line: print(f"bothways: {line}", file=sys.stderr),
        )
    if json:
        print_json(_told(outcome, where.output))
    if outcome.stopped:
        spike = ", or a spike" if settings.update.spike else ""
        raise InputError(
            f"{where.output}: the loss or gradient of step {outcome.progress.step} is not a finite number{spike}; "
            "its batches are in nonfinite.json; go on with --resume --nonfinite skip, or start anew with a lower --lr"
        )
    if not outcome.finished:
        print(
            f"bothways: stopped and saved after step {outcome.progress.step}; go on with --resume and the same flags",
            file=sys.stderr,
        )
        raise KeyboardInterrupt
    if not json:
        print(f"{where.output / 'model'}: {_figures(outcome)}")


def _told(outcome: Outcome, output: Path) -> dict[str, Any]:
    """What a run came to, for machines. held_out: the means of the newest evaluation, and its step."""
    from bothways.train.history import METRICS, read_metrics

    at, speed = outcome.progress, outcome.reading
    held = [{"step": row["step"], **row["held_out"]} for row in read_metrics(output / METRICS) if "held_out" in row]
    return {
        "outcome": "finished" if outcome.finished else "not finite" if outcome.stopped else "interrupted",
        "steps": at.step,
        "skipped": at.skipped,
        "tokens": at.tokens,
        "held_out": held[-1] if held else None,
        "best": None if at.best_loss is None else {"step": at.best_step, "loss": at.best_loss},
        "tokens_per_second": None if speed is None else speed.tokens_per_second,
        "matrix_rate_share": None if speed is None else speed.share,
        "folder": str(output),
    }


def _figures(outcome: Outcome) -> str:
    """What a finished run came to, in a line."""
    at = outcome.progress
    best = "" if at.best_loss is None else f", best held-out loss {at.best_loss:.4f} at step {at.best_step:,}"
    speed = "" if (last := outcome.reading) is None else f"; {last.tokens_per_second:,.0f} tokens/s, "
    share = "" if last is None else f"{last.share:.0%} of the matrix rate"
    skipped = f" ({at.skipped:,} skipped)" if at.skipped else ""
    return f"{at.step:,} steps{skipped}, {at.tokens:,} tokens{best}{speed}{share}"
