"""Steps of learning to write one text from another, ours and transformers': the workload "writing" of finetuning.py.

Both load one folder, a pair of the encoder and a decoder of its shape, and learn the sentence that comes next.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

from plain_loop import CLIP, WEIGHT_DECAY, PlainLoop, shuffled
from workloads import load_tokenizer, sentences

SEED = 20
ROWS, LEARNING_RATE = 64, 5e-5
LONGEST = 64  # tokens of a sentence
PAIR = "pair"


def followed(model: Path) -> list[dict[str, str]]:
    """Sentences of the language reference, each with the next one."""
    tokenizer = load_tokenizer(model, 512)
    short = [one for one in sentences() if len(tokenizer.encode(one).ids) <= LONGEST]
    return [{"source": one, "target": other} for one, other in pairwise(short)]


def write_pair(model: Path, folder: Path) -> None:
    """The encoder and a fresh decoder, as both sides load them."""
    from bothways.train.seq2seq_settings import Seq2SeqSettings, SourceSettings
    from bothways.train.seq2seq_start import starting_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = starting_model(Seq2SeqSettings(SourceSettings(str(model))), lambda line: None)
        pair.save_pretrained(folder / PAIR)


class Ours:
    """Steps of a run of `bothways finetune generate`."""

    def __init__(self, folder: Path, rows: list[dict[str, str]]) -> None:
        import torch

        from bothways.checkpoint.encoder_decoder import EncoderDecoder
        from bothways.data.parallel import Parallel
        from bothways.engine.streams import Streams
        from bothways.train.networks import PairNetworks
        from bothways.train.optim import OPTIMIZERS, parameter_groups
        from bothways.train.progress import Progress
        from bothways.train.rows import RowSteps
        from bothways.train.run import set_up
        from bothways.train.seq2seq_rows import material_of
        from bothways.train.seq2seq_settings import Seq2SeqAdam, Seq2SeqSettings, SmoothingSettings
        from bothways.train.tables import tables_of

        adam = Seq2SeqAdam(lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        settings = Seq2SeqSettings(smoothing=SmoothingSettings(0.0), adam=adam)
        pair = EncoderDecoder.from_pretrained(folder / PAIR)
        texts = [Parallel(row["source"], (row["target"],), f"row {i}") for i, row in enumerate(rows)]
        material = material_of(pair, texts, [], settings)
        self.objective, samples = material.objective, material.samples
        self.model = PairNetworks(pair).model()
        set_up(self.model, settings.update, torch.device("cpu"))
        for network in self.model.networks:
            network.filling = True
        self.optimizer = OPTIMIZERS["adamw"](parameter_groups(self.model, WEIGHT_DECAY, LEARNING_RATE), adam)
        self.tables = tables_of(self.model)

        def batch_of(numbers: Any) -> Any:
            return self.objective.batch([samples[number] for number in numbers])

        steps = RowSteps(material.lengths, batch_of, ROWS, settings.rows.batch_tokens, 1 << 30, SEED)
        self.batches = steps(Progress())
        self.model.train()
        self.streams, self.number = Streams(torch.device("cpu")), 0

    def step(self) -> tuple[int, float]:
        """One step: its real tokens, of both sides, and its loss."""
        from bothways.train.step import train_step

        some = [batch for batch, _ in next(self.batches)]
        self.number += 1
        result = train_step(
            self.model,
            self.objective,
            some,
            self.optimizer,
            self.streams,
            seed=self.number << 8,
            clip=CLIP,
            tables=self.tables,
        )
        return result.tokens, result.loss


def plain_loop(folder: Path, rows: list[dict[str, str]]) -> PlainLoop:
    """transformers' EncoderDecoderModel."""
    import torch
    import transformers

    warnings.simplefilter("ignore", FutureWarning)  # of how models before 4.12 were trained
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / PAIR)
    pair = transformers.EncoderDecoderModel.from_pretrained(folder / PAIR)
    sources, targets = (tokenizer([row[side] for row in rows])["input_ids"] for side in ("source", "target"))
    start = pair.config.decoder_start_token_id
    pairs = [(source, target[target[0] == start :]) for source, target in zip(sources, targets)]

    def inputs(some: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
        padded = tokenizer.pad({"input_ids": [source for source, _ in some]}, return_tensors="pt")
        longest = max(len(target) for _, target in some)
        labels = torch.tensor([[*target, *[-100] * (longest - len(target))] for _, target in some])
        return {**padded, "labels": labels}

    return PlainLoop(pair, map(inputs, shuffled(pairs, ROWS, SEED)), LEARNING_RATE)
