"""`bothways convert`: the only door for pickled checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["convert"]


def convert(model: Path, /, *, output: Path) -> None:
    """Turn a folder with pytorch_model.bin into one with model.safetensors.

    Pickles in several files (pytorch_model.bin.index.json) and in the folders of sentence-transformers' modules are
    converted too. They are opened in a process of its own and with torch's weights-only reader, which runs no code.

    Parameters
    ----------
    model
        The folder with pytorch_model.bin; it is left as it is.
    output
        The folder to make; config and tokenizer files are copied over.
    """
    from bothways.checkpoint.convert import convert_folder

    count = convert_folder(model, output)
    print(f"{output}: {count} tensors in safetensors", file=sys.stderr)
