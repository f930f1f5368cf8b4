"""`bothways embed`: texts, or the lines of a file, to vectors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bothways.cli.output import print_json
from bothways.errors import InputError
from bothways.files import read_lines, replacing

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["embed"]


def embed(
    model: str,
    /,
    *texts: str,
    input: Path | None = None,
    output: Path | None = None,
    normalize: bool = False,
    prompt_name: str | None = None,
    max_seq_length: int | None = None,
    batch_tokens: int | None = None,
    truncate_dim: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """One vector for each text, or for each line of a file; row i of the result is line i.

    Parameters
    ----------
    model
        A folder (sentence-transformers' or a plain encoder's) or a hub id.
    texts
        The texts, if they are not in a file.
    input
        A UTF-8 file with a text on each line, empty ones too; /dev/stdin for standard input.
    output
        Where to write the vectors: float32 [texts, width], in numpy's .npy format.
    normalize
        Scale each vector to length 1.
    prompt_name
        One of the model's prompts, put before each text.
    max_seq_length
        Tokens a text may have (by default, what the model's folder says).
    batch_tokens
        Tokens computed at a time: memory against speed; the vectors do not depend on it.
    truncate_dim
        Keep the first so many numbers of each vector.
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print the vectors as JSON lists.
    """
    lines = _texts(texts, input)
    if output is None and not json:
        raise InputError("say where the vectors shall go: --output vectors.npy, or --json to print them")

    def vectors() -> np.ndarray | Tensor:
        from bothways.engine.sentence import SentenceEncoder

        encoder = SentenceEncoder(model, precision=precision, device=device)
        if max_seq_length is not None:
            encoder.max_seq_length = max_seq_length
        return encoder.encode(
            lines,
            prompt_name=prompt_name,
            batch_tokens=batch_tokens,
            normalize_embeddings=normalize,
            truncate_dim=truncate_dim,
        )

    if output is None:
        print_json(vectors().tolist())
        return
    import numpy as np

    with replacing(output) as aside, aside.open("wb") as file:
        matrix = vectors()
        np.save(file, matrix)
    if json:
        print_json(matrix.tolist())
    print(f"{output}: {matrix.shape[0]:,} vectors of {matrix.shape[1]}", file=sys.stderr)


def _texts(texts: tuple[str, ...], path: Path | None) -> list[str]:
    if texts and path is not None:
        raise InputError("give texts or --input, not both")
    if texts:
        return list(texts)
    if path is None:
        raise InputError("nothing to embed: give texts, or a file with --input")
    lines = read_lines(path)
    if not any(lines):
        raise InputError(f"{path}: empty; a text on each line was expected")
    return lines
