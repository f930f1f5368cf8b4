"""Rooms import only what stands to their right, and looking at the package costs nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bothways

PACKAGE = Path(bothways.__file__).parent
ORDER = (
    *("__main__", "cli", "serve", "search", "train", "engine", "tasks", "objectives", "checkpoint", "families", "nn"),
    *("data", "text", "ragged", "pictures", "files", "errors"),
)
FORBIDDEN = [("nn", "data"), ("nn", "text")]
ORACLES = {"transformers", "sentence_transformers"}
SHAPELESS = {"utils", "helpers", "common", "misc", "util", "helper"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """The full names of all modules that are imported, at the top, in functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            up = node.level - is_package
            base = ".".join(parts[: len(parts) - up]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    """Of a module of the package; None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def breaches(source: str, module: str, is_package: bool = False) -> list[str]:
    here, found = room(module), []
    for target in imports(source, module, is_package):
        if target.split(".")[0] in ORACLES:
            found.append(f"{module} imports {target}")
        there = room(target) if target.split(".")[0] == "bothways" else None
        if there not in ORDER or here is None:
            continue
        if ORDER.index(there) < ORDER.index(here) or (here, there) in FORBIDDEN:
            found.append(f"{module} imports {target}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=map(name_of, MODULES))
def test_a_module_imports_only_from_rooms_to_its_right(path: Path) -> None:
    module = name_of(path)
    assert room(module) is None or room(module) in ORDER, f"{room(module)} has no place in the order"
    assert breaches(path.read_text(encoding="utf-8"), module, path.stem == "__init__") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bothways.nn.layers", "import bothways.engine.pipeline"),
        ("bothways.nn.layers", "def f():\n    from bothways.families import FAMILIES"),
        ("bothways.nn.layers", "from bothways.data.batch import Batch"),
        ("bothways.nn.layers", "from bothways import text"),
        ("bothways.nn.layers", "from ..cli import main"),
        ("bothways.errors", "if TYPE_CHECKING:\n    from bothways.ragged import Layout"),
        ("bothways.cli.demo", "class A:\n    def f(self):\n        import transformers.models"),
        ("bothways.engine.pipeline", "from sentence_transformers import SentenceTransformer"),
    ],
)
def test_an_import_to_the_left_is_noticed_wherever_it_hides(module: str, source: str) -> None:
    assert len(breaches(source, module)) == 1


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [path.name for path in PACKAGE.rglob("*") if path.stem in SHAPELESS] == []


def test_public_names_are_those_in_all() -> None:
    assert sorted(bothways.__all__) == list(bothways.__all__) == dir(bothways)
    assert all(getattr(bothways, name) is not None for name in bothways.__all__)


PUBLIC = [path for path in MODULES if "__all__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", PUBLIC, ids=map(name_of, PUBLIC))
def test_every_name_in_all_exists(path: Path) -> None:
    module = importlib.import_module(name_of(path))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Encodr"):
        bothways.Encodr  # noqa: B018


def loaded_after(code: str) -> set[str]:
    """The top-level packages in a fresh interpreter that ran the code."""
    report = f"{code}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "numpy", "tokenizers", "transformers", "huggingface_hub", "safetensors", "rich"}


def test_importing_the_package_imports_no_torch() -> None:
    assert loaded_after("import bothways") & HEAVY == set()


def test_looking_up_a_public_name_loads_what_it_needs() -> None:
    loaded = loaded_after("import bothways; bothways.Encoder")
    assert "torch" in loaded
    assert not loaded & ORACLES
