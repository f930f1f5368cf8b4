"""`bothways similarity`: a matrix of how alike texts are."""

from __future__ import annotations

from bothways.cli.output import BETWEEN, LEAST_TEXT, print_json, print_table, printable, terminal_width
from bothways.errors import InputError

__all__ = ["similarity"]


def similarity(model: str, /, *texts: str, precision: str = "auto", device: str = "auto", json: bool = False) -> None:
    """How alike each text is to each other one, by the model's own measure (most often the cosine).

    Parameters
    ----------
    model
        A folder (sentence-transformers' or a plain encoder's) or a hub id.
    texts
        Two or more texts.
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print the matrix as JSON.
    """
    if len(texts) < 2:
        raise InputError(f"two texts or more are needed, got {len(texts)}")
    from bothways.engine.sentence import SentenceEncoder

    encoder = SentenceEncoder(model, precision=precision, device=device)
    vectors = encoder.encode(list(texts))
    matrix = encoder.similarity(vectors, vectors).tolist()
    if json:
        print_json({"measure": encoder.similarity_fn_name, "texts": list(texts), "matrix": matrix})
    else:
        show_matrix(texts, matrix)


def show_matrix(texts: tuple[str, ...] | list[str], matrix: list[list[float]]) -> None:
    """The texts, numbered, beside their similarities; below them where they have no room there.

    A matrix that is too wide for the terminal comes in several parts, each with some of its columns.
    """
    numbers = [str(i + 1) for i in range(len(texts))]
    rows = [[f"{x:.3f}" for x in row] for row in matrix]
    widest = max(len(cell) for row in rows for cell in row) + BETWEEN
    room = terminal_width() - len(numbers[-1]) - BETWEEN
    if widest * len(texts) + LEAST_TEXT <= room:
        print_table(["", *numbers, "text"], [[n, *row, text] for n, row, text in zip(numbers, rows, texts)])
        return
    most = max(1, room // widest)
    for start in range(0, len(texts), most):
        part = slice(start, start + most)
        print_table(["", *numbers[part]], [[n, *row[part]] for n, row in zip(numbers, rows)], text=())
    print()
    for number, text in zip(numbers, texts):
        print(f"{number:>{len(numbers[-1])}}  {printable(text)}")
