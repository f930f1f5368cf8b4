"""`bothways plan`: what a pretraining run will take, before it is spent."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bothways.cli.kinds import Config
from bothways.cli.output import print_json, print_table

if TYPE_CHECKING:
    from bothways.train.plan import Plan

__all__ = ["plan"]

Rest = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def plan(config: Config, /, *flags: Rest, json: bool = False) -> None:
    """Parameters, operations, memory and time of a pretraining run. A few steps are tried; nothing is written.

    Parameters
    ----------
    config
        The TOML file or recipe that `bothways pretrain` would be given.
    flags
        Keys as flags, as for `bothways pretrain`.
    json
        Print a JSON object.
    """
    from bothways.cli.settings import read_settings
    from bothways.train.pretrain import plan as plan_run

    settings, where = read_settings(config, flags, "plan")
    found = plan_run(settings, where.device)
    if json:
        print_json(asdict(found))
    else:
        print_table(["", ""], _rows(found))


def _rows(found: Plan) -> list[list[str]]:
    memory = (found.state_bytes + found.activation_bytes) / 1e9
    pairs = (
        []
        if found.paired is None
        else [["pairs", f"{found.paired:.0%} of the sequences; the others stay single segments"]]
    )
    return [
        ["parameters", f"{found.parameters:,} with heads"],
        ["tokens", f"{found.tokens:,}: the corpus {found.epochs:.2f} times"],
        *pairs,
        ["warmup", f"{found.warmup:,} (steps in which the learning rate rises)"],
        ["operations", f"{found.flops:.2e}"],
        [
            "memory",
            f"about {memory:.2f} GB: {found.state_bytes / 1e9:.2f} for weights and optimizer, the rest to compute",
        ],
        ["speed", f"{found.tokens_per_second:,.0f} tokens/s here, {found.rate:.0%} of the matrix-product rate"],
        ["time", f"{timedelta(seconds=round(found.seconds))} (hours:minutes:seconds)"],
    ]
