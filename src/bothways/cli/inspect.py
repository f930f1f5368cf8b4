"""`bothways inspect`: what a model sees in a text."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from bothways.cli.heatmap import draw
from bothways.cli.lesson import ObjectiveFlags, show_lesson
from bothways.cli.output import print_json, print_table, shorten
from bothways.errors import InputError
from bothways.files import replacing
from bothways.pictures import check_picture

if TYPE_CHECKING:
    from bothways.engine.inspect import Inspection

__all__ = ["inspect"]

# Of a longer text a table shows so many first and last tokens.
FIRST, LAST = 48, 16
# Attention weights that are printed as JSON at most: 12 heads of 512 tokens; each takes some 80 bytes on its way.
MOST_PRINTED = 1 << 22
# Tokens that a token looks at most: so many are shown.
MOST_LOOKED_AT = 3


def inspect(
    model: str,
    text: str,
    text2: str | None = None,
    /,
    *,
    layer: int | None = None,
    head: str | None = None,
    device: str = "auto",
    json: bool = False,
    plot: Path | None = None,
    reach: Path | None = None,
    flags: Annotated[ObjectiveFlags, Parameter(name="*")] = ObjectiveFlags(),  # noqa: B008 (frozen)
) -> None:
    """Tokens of a text (or a pair), what each looks at in one layer, and how the hidden states change; of an
    encoder–decoder, whether what it writes hangs on its source; with --objective, what pretraining makes of the text;
    with --reach, which tokens each position sees.

    Parameters
    ----------
    model
        A folder or a hub id.
    text
        The text.
    text2
        The second text of a pair; of an encoder–decoder, the target (what it writes itself, if none is given).
    layer
        Whose attention: 0 for the first one, -1 for the last one, which it is by default.
    head
        A number, "mean" or "all", which it is by default (the table shows the mean of several).
    device
        auto, cpu or cuda.
    json
        Print everything as JSON.
    plot
        A file that ends in .png, to draw attention and hidden states to (needs the extra "plot"); of an
        encoder–decoder, what each written token looked at in the source.
    reach
        A file that ends in .png, to draw which tokens each position sees, measured by gradients, and nothing else.
    """
    others = {"a second text": text2, "--layer": layer, "--head": head, "--plot": plot, "--reach": reach}
    flags.check(others)
    if reach is not None:
        from bothways.cli.sources import show_reach

        said = {"--layer": layer, "--head": head, "--plot": plot}
        show_reach(model, text, text2, reach, json, [name for name, value in said.items() if value is not None])
    elif flags.objective is None and _writes_from_a_source(model):
        from bothways.cli.sources import show_source_use

        said = {"--layer": layer, "--head": head}
        show_source_use(model, text, text2, device, json, plot, [n for n, value in said.items() if value is not None])
    elif flags.objective is None:
        _inspect(model, (text, text2), layer, "all" if head is None else head, device, json, plot)
    elif _writes_from_a_source(model):
        raise InputError("--objective says nothing of an encoder–decoder: it is of networks that are pretrained alone")
    else:
        show_lesson(model, text, flags, device, json)


def _writes_from_a_source(model: str) -> bool:
    """Whether it is an encoder–decoder."""
    from bothways.engine.parts import is_pair

    return is_pair(model)


def _inspect(
    model: str,
    texts: tuple[str, str | None],
    layer: int | None,
    head: str,
    device: str,
    json: bool,
    plot: Path | None,
) -> None:
    which = _head(head)

    def look() -> Inspection:
        from bothways.engine.inspect import inspect as look_at

        most = MOST_PRINTED if json else None
        return look_at(model, *texts, layer=layer, head=which, device=device, most_weights=most)

    if plot is None:
        seen = look()
    else:
        check_picture(plot)
        with replacing(plot) as aside:
            seen = look()
            draw(seen, aside, "/".join(Path(model).parts[-2:]))
        print(f"{plot}: attention and hidden states of {len(seen)} tokens", file=sys.stderr)
    if json:
        print_json(_plain(seen))
    else:
        _show(seen)


def _head(head: str) -> int | Literal["mean"] | None:
    """None for all of them."""
    if head == "mean":
        return "mean"
    if head == "all":
        return None
    try:
        return int(head)
    except ValueError:
        raise InputError(f'--head must be a number, "mean" or "all", got {head!r}') from None


def _plain(seen: Inspection) -> dict[str, Any]:
    """The fields of an inspection, arrays as lists."""
    values = {field.name: getattr(seen, field.name) for field in fields(seen)}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in values.items()}


def _show(seen: Inspection) -> None:
    rows = range(len(seen))
    shown = [*rows] if len(seen) <= FIRST + LAST else [*rows[:FIRST], *rows[-LAST:]]
    left_out = (
        f", of which the first {FIRST} and the last {LAST} are shown (--json has all)" if shown != [*rows] else ""
    )
    columns = ["#", "position", "id", "segment", "characters", "token", "text"]
    print_table(columns, [_token(seen, i) for i in shown], title=f"{len(seen):,} tokens{left_out}")
    whose = f"head {seen.heads[0]}" if len(seen.heads) == 1 else f"mean of {len(seen.heads)} heads"
    whose = "mean of all heads" if seen.heads == ("mean",) else whose
    columns = ["#", "token", "looks most at (#, token, weight)"]
    print_table(columns, [_looks(seen, i) for i in shown], title=f"Attention of layer {seen.layer}, {whose}")
    columns = ["after layer", "mean norm", "least", "most", "cos before", "cos embedded", "cos last"]
    title = (
        "Hidden states after each layer: their norms over the tokens, and how alike they\n"
        "are (mean cosine) to the layer before, the embeddings and the last layer"
    )
    print_table(columns, [_layer(seen, i) for i in range(len(seen.norms))], title=title, text=())


def _token(seen: Inspection, i: int) -> list[str]:
    start, end = seen.offsets[i]
    where = "–" if seen.special[i] else f"{start}–{end}"
    return [
        f"{i}",
        f"{seen.positions[i]}",
        f"{seen.ids[i]}",
        f"{seen.segments[i]}",
        where,
        seen.tokens[i],
        seen.texts[i],
    ]


def _looks(seen: Inspection, i: int) -> list[str]:
    weights = seen.attention[:, i].mean(0)
    # What a token cannot see, since it comes later or is too far, has no weight at all.
    most = [j for j in weights.argsort(kind="stable")[::-1][:MOST_LOOKED_AT] if weights[j] > 0.0]
    return [f"{i}", _readable(seen, i), "   ".join(f"{j} {_readable(seen, j)} {weights[j]:.3f}" for j in most)]


def _readable(seen: Inspection, i: int) -> str:
    """What a token covers, short enough for three in a line; vocabularies of bytes spell their tokens oddly."""
    return shorten(seen.texts[i].strip() or seen.tokens[i])


def _layer(seen: Inspection, i: int) -> list[str]:
    norms, like = seen.norms[i], seen.similarity[i]
    before = f"{like[i - 1]:.3f}" if i else "–"
    cells = [f"{norms.mean():.2f}", f"{norms.min():.2f}", f"{norms.max():.2f}", before]
    return [f"{i - 1}" if i else "embedded", *cells, f"{like[0]:.3f}", f"{like[-1]:.3f}"]
