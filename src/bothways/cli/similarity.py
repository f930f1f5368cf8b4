"""`bothways similarity`: a matrix of how alike texts are."""

from __future__ import annotations

from bothways.cli.output import print_json, print_table
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
    """The texts, numbered, beside their similarities."""
    numbers = [str(i + 1) for i in range(len(texts))]
    rows = [[n, *(f"{x:.3f}" for x in row), text] for n, row, text in zip(numbers, matrix, texts)]
    print_table(["", *numbers, "text"], rows)
