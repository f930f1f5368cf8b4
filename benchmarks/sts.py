"""Quality on STS-B: Spearman's rank correlation of cosine similarities with people's scores.

python benchmarks/sts.py STS-B/test.tsv [--model FOLDER] [--precision bf16]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import bothways
from bothways.cli.demo import installed_model

SCORE, FIRST, SECOND = 4, 5, 6  # columns of GLUE's files


def read(path: Path) -> tuple[list[float], list[str], list[str]]:
    """Scores and sentence pairs of a tab-separated file, with or without a header."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row[SCORE].replace(".", "", 1).isdigit()]
    return [float(row[SCORE]) for row in rows], [row[FIRST] for row in rows], [row[SECOND] for row in rows]


def main() -> None:
    """Print the correlation in hundredths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    scores, first, second = read(arguments.data)
    encoder = bothways.SentenceEncoder(arguments.model or installed_model(), precision=arguments.precision)
    a, b = (np.asarray(encoder.encode(texts, normalize_embeddings=True)) for texts in (first, second))
    print(f"{len(scores)} pairs, Spearman {100 * spearmanr((a * b).sum(1), scores).statistic:.2f}")


if __name__ == "__main__":
    main()
