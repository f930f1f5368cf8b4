"""Every family beside transformers: the same random weights and token ids; each family in a fresh process, this file.

python benchmarks/run.py --parts families
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

from cold import reason
from machine import busy_seconds, process_seconds
from rounds import PAUSE_SECONDS, note, surroundings
from worker import installed_version, seconds
from workloads import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("bothways", "torch", "transformers")
SEED = 20
LIMIT = 512
BATCH = 32
CLOSE = 1e-4
VOCAB = 30522
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": LIMIT,
}
AFTER_PADDING = {"max_position_embeddings": LIMIT + 2, "pad_token_id": 1}
# The keys of each family's config; 6 layers of width 384, and everything else as the family's releases have it.
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": SHAPE,
    "roberta": {**SHAPE, **AFTER_PADDING, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {"vocab_size": VOCAB, "dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1536},
    "albert": {**SHAPE, "embedding_size": 128},
    "electra": {**SHAPE, "embedding_size": 128},
    "mpnet": {**SHAPE, **AFTER_PADDING, "layer_norm_eps": 1e-5},
    "deberta-v2": {
        **SHAPE,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 256,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    "modernbert": {**SHAPE, "intermediate_size": 1024, "local_attention": 128, "pad_token_id": 0},
}

Ids = list[list[int]]
Run = Callable[[], "list[Tensor]"]
"""One pass over all texts: each text's hidden states [tokens, width], in the order of the texts."""


def save_random(family: str, folder: Path) -> None:
    """A model of transformers with random weights; norms and biases random too, so that none goes unnoticed."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(SEED)
    model = AutoModel.from_config(AutoConfig.for_model(family, **CONFIGS[family]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)


def ours(folder: Path, ids: Ids) -> Run:
    """Our network as the engine runs it: batches by token budget, in streams."""
    import torch

    from bothways import Encoder, Ragged
    from bothways.data.batch import by_token_budget
    from bothways.engine.backends import BACKENDS, place
    from bothways.engine.scheduler import BATCH_TOKENS
    from bothways.engine.streams import Streams

    placement = place("cpu", "fp32")
    network = BACKENDS["eager"](Encoder.from_pretrained(folder).network, placement, share=True)
    streams = Streams(placement.device)

    def run() -> list[Tensor]:
        found: list[Any] = [None] * len(ids)

        @torch.inference_mode()
        def work(origin: list[int]) -> None:
            hidden = network(Ragged.of([ids[i] for i in origin])).last
            for i, one in zip(origin, hidden.unbind(), strict=True):
                found[i] = one

        for _ in streams.map(work, by_token_budget(list(map(len, ids)), BATCH_TOKENS["cpu"])):
            pass
        return found

    return run


def theirs(folder: Path, ids: Ids) -> Run:
    """transformers' AutoModel as its users run it: texts by falling length, 32 a batch, padded to the longest."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    padding = model.config.pad_token_id or 0

    @torch.inference_mode()
    def run() -> list[Tensor]:
        found: list[Any] = [None] * len(ids)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            width = len(ids[chosen[0]])
            tokens = torch.tensor([ids[i] + [padding] * (width - len(ids[i])) for i in chosen])
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in chosen])
            hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
            for i, one in zip(chosen, hidden, strict=True):
                found[i] = one[: len(ids[i])]
        return found

    return run


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference of any number in any text's hidden states."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def timed(runs: Sequence[Run], rounds: int) -> Iterator[tuple[list[float], float]]:
    """Each round's seconds of each run, in turn, and the cores that other processes kept busy meanwhile."""
    for number in range(rounds):
        found, start, others = [0.0] * len(runs), perf_counter(), busy_seconds() - process_seconds(os.getpid())
        for i in range(len(runs))[:: -1 if number % 2 else 1]:
            sleep(PAUSE_SECONDS)
            found[i] = seconds(runs[i])
        others = busy_seconds() - process_seconds(os.getpid()) - others
        yield found, others / (perf_counter() - start)


def compare(family: str, ids: Ids, rounds: int) -> dict[str, Any]:
    """Seconds of both sides in each round, and the largest difference of their outputs, which are compared first.

    Raises ValueError where they differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        save_random(family, Path(scratch))
        runs = ours(Path(scratch), ids), theirs(Path(scratch), ids)
        apart = difference(runs[0](), runs[1]())
    if not apart < CLOSE:
        raise ValueError(f"{family}: hidden states differ by {apart:.1e}")
    found = list(timed(runs, rounds))
    return {
        "ours": [one for (one, _), _ in found],
        "theirs": [other for (_, other), _ in found],
        "difference": apart,
        "tokens": sum(map(len, ids)),
        "disturbance": sum(cores for _, cores in found) / len(found),
        "versions": {package: installed_version(package) for package in PACKAGES},
    }


def measure(model: Path, scratch: Path, texts: list[str], threads: int, rounds: int) -> dict[str, Any]:
    """Every family's result of `compare` by name; a family that fails has the reason instead.

    model: the folder whose tokenizer makes the ids.
    """
    file = scratch / "ids.json"
    ids = [encoding.ids for encoding in load_tokenizer(model, LIMIT).encode_batch(texts)]
    file.write_text(json.dumps(ids))
    found: dict[str, Any] = {}
    for family in CONFIGS:
        note(f"families: {family}")
        command = [sys.executable, __file__, family, "--ids", str(file), "--rounds", str(rounds)]
        try:
            done = subprocess.run(command, env=surroundings(threads), check=True, capture_output=True, text=True)
            found[family] = json.loads(done.stdout.splitlines()[-1])
        except subprocess.CalledProcessError as failure:
            found[family] = reason(failure)
    return found


def ratio(result: dict[str, Any]) -> float:
    """How many times as fast as transformers we are: the median over the rounds."""
    return median(other / one for one, other in zip(result["ours"], result["theirs"], strict=True))


def main() -> None:
    """Compares one family and prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=CONFIGS)
    parser.add_argument("--ids", type=Path, required=True, help="a JSON list of each text's token ids")
    parser.add_argument("--rounds", type=int, required=True)
    arguments = parser.parse_args()
    print(json.dumps(compare(arguments.family, json.loads(arguments.ids.read_text()), arguments.rounds)))


if __name__ == "__main__":
    main()
