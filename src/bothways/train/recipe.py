"""Recipes: settings of whole runs by name, as papers have them. `recipes/` has a file a family.

What stands above a file's tables holds for each of its recipes; a table is what one recipe has of its own.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from bothways.errors import ConfigError, meant

__all__ = ["RECIPES", "recipe"]

# In the order in which they are listed.
RECIPES: dict[str, tuple[str, ...]] = {
    "bert": ("bert-tiny", "bert-mini", "bert-small", "bert-medium", "bert-base", "bert-large"),
    "roberta": ("roberta-tiny", "roberta-mini", "roberta-base", "roberta-large"),
    "albert": ("albert-tiny", "albert-mini", "albert-base", "albert-large", "albert-xlarge"),
    "electra": ("electra-tiny", "electra-mini", "electra-small", "electra-base", "electra-large"),
    "deberta-v3": (
        "deberta-v3-tiny",
        "deberta-v3-mini",
        "deberta-v3-xsmall",
        "deberta-v3-small",
        "deberta-v3-base",
        "deberta-v3-large",
    ),
    "modernbert": ("modernbert-tiny", "modernbert-mini", "modernbert-small", "modernbert-base", "modernbert-large"),
    "gpt2": ("gpt2-tiny", "gpt2-mini", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"),
    "bothways": ("bothways-tiny", "bothways-mini", "bothways-small", "bothways-base"),
}


def recipe(name: str) -> str:
    """A recipe as the TOML that `bothways pretrain` takes, with what there is to say of it.

    Raises ConfigError on a name that is not known.
    """
    for file, names in RECIPES.items():
        if name in names:
            common, tables = _parts(file)
            return f"{common}\n{tables[name]}"
    known = [one for names in RECIPES.values() for one in names]
    raise ConfigError(f"recipe {name!r} is not known{meant(name, known)}; bothways recipes lists them")


@cache
def _parts(file: str) -> tuple[str, dict[str, str]]:
    """What all recipes of a file have in common, and each one's own lines."""
    text = (files("bothways.train") / "recipes" / f"{file}.toml").read_text(encoding="utf-8")
    common, *tables = text.split("\n[")
    return common, {name: lines.lstrip("\n") for name, _, lines in (table.partition("]\n") for table in tables)}
