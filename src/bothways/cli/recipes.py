"""`bothways recipes`: settings of whole runs by name."""

from __future__ import annotations

from typing import Any

from bothways.cli.output import print_json, print_table

__all__ = ["recipes"]

COLUMNS = {
    "recipe": "recipe",
    "objectives": "objectives",
    "optimizer": "optimizer",
    "longest": "longest",
    "step_tokens": "a step",
    "steps": "steps",
    "tokens": "tokens",
}
TITLE = "longest: tokens of a sequence; a step: its tokens; tokens: of the whole run"
TEXTS = ("recipe", "objectives", "optimizer")


def recipes(name: str | None = None, /, *, json: bool = False) -> None:
    """The recipes that `bothways pretrain NAME` knows; or one of them as a file to begin from.

    Parameters
    ----------
    name
        The recipe to print as TOML: `bothways recipes bert-mini > pretrain.toml`.
    json
        Print a JSON list; of one recipe, a JSON object.
    """
    from bothways.train.recipe import RECIPES, recipe

    if name is not None:
        text = recipe(name)
        print_json(_keys(text)) if json else print(text, end="")
        return
    rows = [_row(one) for names in RECIPES.values() for one in names]
    if json:
        print_json(rows)
    else:
        cells = [[_cell(row[name]) for name in COLUMNS] for row in rows]
        print_table(list(COLUMNS.values()), cells, text=TEXTS, title=TITLE)


def _keys(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def _row(name: str) -> dict[str, Any]:
    from bothways.train.recipe import recipe

    keys = _keys(recipe(name))
    tokens = keys["step_tokens"] * keys["steps"]
    values = {**keys, "recipe": name, "objectives": ",".join(keys["objectives"]), "tokens": tokens}
    return {column: values[column] for column in COLUMNS}


def _cell(value: str | int) -> str:
    """A number as short as it can be said to three digits."""
    if isinstance(value, str):
        return value
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= 10 * unit or value == unit:
            return f"{value / unit:.0f} {letter}"
        if value >= unit and letter != "k":
            return f"{value / unit:.1f} {letter}"
    return f"{value:,}"
