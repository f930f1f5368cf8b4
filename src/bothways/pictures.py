"""What every picture has in common (extra `plot`): matplotlib set up quietly, and texts that can be drawn."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bothways.errors import InputError, MissingExtraError
from bothways.files import check_place

__all__ = ["EDGES", "caption", "check_picture", "drawing"]

EDGES = "#bbbbbb"  # the colour of axes
# Fonts with letters that matplotlib's own has not; those that are installed are used.
FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Hiragino Sans", "PingFang SC", "Microsoft YaHei", "MS Gothic", "Malgun Gothic"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Bengali", "Noto Sans Tamil", "Segoe UI Symbol"),
)


def check_picture(path: Path) -> None:
    """Before anything is computed for a picture: raise InputError unless its name ends in .png and its folder is there,
    and MissingExtraError unless matplotlib is there.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: pictures are PNG files; end the name in .png")
    check_place(path)
    _check_drawing()


def _check_drawing() -> None:
    if find_spec("matplotlib") is None:
        raise MissingExtraError('a picture needs matplotlib; say: pip install "bothways[plot]"')


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib with fonts for many scripts, no markup in labels, and no talk of letters that no font here has.

    Raises MissingExtraError where there is no matplotlib.
    """
    _check_drawing()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*(Glyph|glyph|Matplotlib currently does not support)")
        import matplotlib
        from matplotlib.font_manager import fontManager

        installed = {font.name for font in fontManager.ttflist}
        fonts = ["DejaVu Sans", *(name for name in FONTS if name in installed)]
        looks: Any = {"font.family": fonts, "text.parse_math": False, "axes.titlesize": 10, "axes.edgecolor": EDGES}
        with matplotlib.rc_context(looks):
            yield


def caption(text: str) -> str:
    """The text on one line, without characters that have no shape."""
    return "".join(c if c.isprintable() else " " for c in text)
