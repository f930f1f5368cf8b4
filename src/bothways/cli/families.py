"""`bothways families`: the sizes that encoders are known in, and how fast each runs here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bothways.cli.output import print_json, print_table
from bothways.errors import InputError

__all__ = ["families"]

# What a preset's row says, and the column's head. Both tables fit a terminal of 80 columns; --json has all.
SIZES = {
    "preset": "preset",
    "family": "family",
    "layers": "layers",
    "heads": "heads",
    "width": "width",
    "ffn": "ffn",
    "vocabulary": "vocab",
    "positions": "longest",
    "parameters": "params",
}
SHOWN = tuple(name for name in SIZES if name != "ffn")
TITLE = "longest: tokens of a text; params: with the pooler, without heads\n*: a size of our own, of no release"
BESIDE_SPEEDS = ("preset", "layers", "width", "parameters")
TEXTS = ("preset", "family")


def families(*presets: str, measure: bool = False, seconds: float = 3.0, json: bool = False) -> None:
    """The encoders that are known by name, with their sizes; parameters are counted with the pooler, without heads.

    Parameters
    ----------
    presets
        Those to show; all, if none is named.
    measure
        Also run each on this machine's CPU, with random weights and random texts of 64 tokens on average.
    seconds
        How long to run each, in each precision.
    json
        Print a JSON list.
    """
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds must be a number above 0, got {seconds}")
    rows = [_sizes(name) for name in _known(presets)]
    if measure:
        rows = [{**row, **speeds} for row, speeds in zip(rows, _speeds([row["preset"] for row in rows], seconds))]
    if json:
        print_json(rows)
    elif measure:
        _show_speeds(rows)
    else:
        marked = [row if row["released"] else {**row, "family": f"{row['family']}*"} for row in rows]
        cells = [[_cell(name, row[name]) for name in SHOWN] for row in marked]
        print_table([SIZES[name] for name in SHOWN], cells, text=TEXTS, title=TITLE)


def _known(presets: Sequence[str]) -> Sequence[str]:
    from bothways.families.presets import PRESETS

    for name in presets:
        if name not in PRESETS:
            raise InputError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return tuple(dict.fromkeys(presets)) or tuple(PRESETS)


def _sizes(name: str) -> dict[str, Any]:
    from bothways.families.presets import PRESETS

    preset = PRESETS[name]
    config = preset.config
    values = (config.depth, config.heads, config.width, config.ffn, config.vocab, config.longest, preset.parameters())
    return {**dict(zip(SIZES, (name, preset.family, *values))), "released": not preset.ours}


def _speeds(names: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """What measuring adds to each preset's row; a preset that cannot be measured says why.

    Raises InputError, with the first reason, where none can be.
    """
    found = []
    for number, name in enumerate(names, start=1):
        print(f"bothways: measuring {name} ({number} of {len(names)}) …", file=sys.stderr, flush=True)
        found.append(_speed(name, seconds))
    if all("left_out" in row for row in found):
        raise InputError(f"nothing could be measured: {found[0]['left_out']}")
    return found


def _speed(name: str, seconds: float) -> dict[str, Any]:
    from bothways.engine.measure import measure_apart

    try:
        return asdict(measure_apart(name, seconds))
    except InputError as error:
        return {"tokens_per_second": {}, "peak_bytes": None, "left_out": str(error)}


def _show_speeds(rows: Sequence[Mapping[str, Any]]) -> None:
    precisions = list(dict.fromkeys(p for row in rows for p in row["tokens_per_second"]))
    columns = [*(SIZES[name] for name in BESIDE_SPEEDS), *(f"{p} tok/s" for p in precisions), "peak MB"]
    cells = [[_cell(name, row[name]) for name in BESIDE_SPEEDS] for row in rows]
    for row, line in zip(rows, cells):
        line += [_number(row["tokens_per_second"].get(p)) for p in precisions] + [_number(row["peak_bytes"], 10**6)]
    print_table(columns, cells, text=TEXTS)
    for row in rows:
        if "left_out" in row:
            print(f"bothways: left out: {row['left_out']}", file=sys.stderr)


def _cell(name: str, value: Any) -> str:
    if name == "parameters":
        return f"{value / 1e6:.1f} M"
    return value if name in TEXTS else _number(value)


def _number(value: float | None, unit: int = 1) -> str:
    return "–" if value is None else f"{value / unit:,.0f}"
