"""From parallel texts to a model that writes one from the other: `finetune_generate` sets a run up or goes on with it,
drives the loop, saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from bothways.checkpoint.encoder import Encoder
from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.data.batch import Batch
from bothways.data.labelled import Labels
from bothways.data.parallel import Parallel
from bothways.data.split import picked
from bothways.engine.decoding import Decoding, read_decoding
from bothways.engine.frozen import FrozenNetwork
from bothways.engine.parts import settings_of
from bothways.engine.streams import Streams
from bothways.engine.writing import WritingPipeline
from bothways.errors import ConfigError
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.freezing import freeze
from bothways.objectives.objective import Model
from bothways.tasks.overlap import need_overlap
from bothways.train.averaging import Average
from bothways.train.board import check_board
from bothways.train.finetune import Taught
from bothways.train.folder import Lock, begin, check_run, described
from bothways.train.history import held_out_at
from bothways.train.loop import Judged, Trainer
from bothways.train.meter import Meter
from bothways.train.networks import Networks, PairNetworks
from bothways.train.optim import OPTIMIZERS, parameter_groups
from bothways.train.plan import flops_of_token, rate_here
from bothways.train.progress import Progress
from bothways.train.rows import RowSteps, steps_over, times_of
from bothways.train.run import Keeping, Outcome, Watch, average_of, device_of, drive, leave, precision_of, set_up
from bothways.train.seq2seq_card import write_seq2seq_card
from bothways.train.seq2seq_judging import LOSS, Judging, written
from bothways.train.seq2seq_rows import Material, material_of, targets_of
from bothways.train.seq2seq_settings import Seq2SeqSettings
from bothways.train.seq2seq_start import starting_model
from bothways.train.start import set_dropout
from bothways.train.state import Restored, begun_or_restored, checkpoints
from bothways.train.states import States
from bothways.train.tables import tables_of

__all__ = ["finetune_generate", "steps_of"]

Either = Networks | PairNetworks


def finetune_generate(
    rows: Sequence[Parallel],
    held: Sequence[Parallel],
    settings: Seq2SeqSettings,
    output: Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    watch: Watch = lambda event, reading: None,
    told: Callable[[str], None] = lambda line: None,
) -> Taught:
    """Train an encoder with a decoder, or a decoder alone, on parallel texts; or go on from the newest checkpoint in
    `output`.

    A finished run leaves two folders, each a model like any other: `model`, and `best`, which did best on the rows held
    out; without an adapter of ours and a tokenizer for targets transformers loads them, too.

    rows, held: sources with their targets; none held: no evaluation.
    watch: is told of every event.    told: is told what begins with fresh weights, what stays behind, of the disk
    that the rows of a frozen encoder will take, and from which step a run goes on.
    SIGINT and SIGTERM end the run after the step at hand, with a checkpoint.

    Raises ConfigError, InputError, CheckpointError or MissingExtraError, before anything is trained or written, on
    settings that do not go together, rows that cannot be learnt from, and on an output folder that cannot be written,
    holds another run or is another process's at the time.
    """
    device = device_of(device, settings.update.precision)
    with Lock(output) as lock:
        check_run(output, settings, resume)
        if settings.run.tensorboard:
            check_board()
        if held:
            need_overlap(settings.judging.overlaps)
        rows, held = picked(rows, settings.sides.max_train_samples), picked(held, settings.sides.max_eval_samples)
        # What begins with fresh weights is no news where a checkpoint has trained ones.
        model = starting_model(settings, _silent if resume and checkpoints(output) else told)
        _check_search(model, settings)
        material = material_of(model, rows, held, settings)
        frozen = _frozen(model, material, settings, output)
        steps = _steps(material, settings, frozen)
        started = _started(model, material, steps, settings, output, resume, device)
        begin(output, settings, started, material.identity, lock, resume, told, held=material.held_identity)
        for line in _shared(started.networks, settings):
            told(line)
        if frozen is not None:
            if started.progress.step == 0:
                States.remove(output)  # of a run that was killed before its first checkpoint, maybe of other rows
            _compute(frozen, started.networks, material, device, told)
        outcome, metrics = _run(material, started, steps, settings, output, watch, device)
        if outcome.finished:
            _finish(material, started, settings, output, outcome, metrics)
        return Taught(output, outcome, Labels("single"), metrics, settings.judging.best, settings.judging.best == LOSS)


def _check_search(model: EncoderDecoder | Encoder, settings: Seq2SeqSettings) -> None:
    """Raise InputError or ConfigError on a search that else would be refused when it is asked for, after many steps."""
    beams, words = settings.judging.num_beams, (model if isinstance(model, Encoder) else model.decoder).config.vocab
    Decoding(max_new_tokens=settings.judging.max_new_tokens, num_beams=beams)
    read_decoding({}, _usual(model, settings))
    if beams > words:
        raise ConfigError(f"num_beams {beams:,} is more than the {words:,} words of the vocabulary")


def steps_of(rows: Sequence[Parallel], settings: Seq2SeqSettings) -> int:
    """How many steps a run over these rows has."""
    rows = picked(rows, settings.sides.max_train_samples)
    return _step_count(len(targets_of(rows, settings.sides.targets)), settings)


def _step_count(samples: int, settings: Seq2SeqSettings) -> int:
    return max(1, math.ceil(settings.rows.epochs * -(-samples // settings.rows.batch_size)))


def _frozen(
    model: EncoderDecoder | Encoder, material: Material, settings: Seq2SeqSettings, output: Path
) -> States | None:
    """The rows of a frozen encoder, which are not computed yet; None where it learns."""
    if settings.source.layers != 0 or isinstance(model, Encoder):
        return None
    return States.of(model.encoder.config.width, None, material.samples, output)


def _silent(line: str) -> None:
    """Tells nobody."""


def _shared(networks: Either, settings: Seq2SeqSettings) -> Iterator[str]:
    """What is to be told of word vectors that both sides have."""
    if not isinstance(networks, PairNetworks):
        return
    own, theirs = (side.embeddings.words.weight for side in (networks.pair.encoder, networks.pair.decoder))
    if own is theirs and settings.source.layers is not None:
        yield "the decoder's word vectors are the encoder's, which do not learn: --layers holds for both"
    elif own is theirs and settings.adam.encoder_lr is not None:
        yield "the decoder's word vectors are the encoder's, and learn at its rate"


def _steps(material: Material, settings: Seq2SeqSettings, frozen: States | None) -> RowSteps:
    made = partial(_batch, material)
    if frozen is not None:
        made = partial(frozen.batch, material.objective, material.samples)
    steps, seed = _step_count(len(material.lengths), settings), settings.run.seed
    return steps_over(material.lengths, made, steps, settings.rows, settings.update.warmup, seed)


def _batch(material: Material, rows: Sequence[int]) -> Batch:
    return material.objective.batch([material.samples[row] for row in rows])


def _compute(
    states: States, networks: Either, material: Material, device: torch.device, told: Callable[[str], None]
) -> None:
    assert isinstance(networks, PairNetworks)
    sequences = [one for sample in material.samples for one in sample.sequences]
    states.compute(networks.pair.encoder, None, sequences, device, told)


def _networks(model: EncoderDecoder | Encoder) -> Either:
    return Networks(model) if isinstance(model, Encoder) else PairNetworks(model)


def _started(
    model: EncoderDecoder | Encoder,
    material: Material,
    steps: RowSteps,
    settings: Seq2SeqSettings,
    output: Path,
    resume: bool,
    device: torch.device,
) -> Restored[Either]:
    """The newest whole checkpoint of a run that is resumed, or step 0."""

    def parts(made: Model) -> tuple[torch.optim.Optimizer, Average | None]:
        adam = settings.adam
        freeze(made.network, settings.source.layers)
        if made.network.pooler is not None:  # which nothing reads
            made.network.pooler.requires_grad_(False)
        own = None if adam.encoder_lr is None else (made.network, adam.encoder_lr)
        groups = parameter_groups(made.to(device), adam.weight_decay, adam.lr, encoder=own)
        return OPTIMIZERS[settings.update.optimizer](groups, adam), average_of(made, settings.update)

    read = Networks.of if isinstance(model, Encoder) else PairNetworks.of
    started: Restored[Either] = begun_or_restored(
        output, read, lambda: _networks(model), parts, steps.check_place, material.identity, resume
    )
    for network in started.model.networks:
        set_dropout(network, settings.source.dropout)
        network.filling = True
    set_up(started.model, settings.update, device)
    return started


def _run(
    material: Material,
    started: Restored[Either],
    steps: RowSteps,
    settings: Seq2SeqSettings,
    output: Path,
    watch: Watch,
    device: torch.device,
) -> tuple[Outcome, dict[str, float]]:
    """The loop, with everything that is told of it; and what the last evaluation found."""
    run, found = settings.run, dict[str, float]()
    frozen = settings.source.layers == 0 and isinstance(started.networks, PairNetworks)
    model = _frozen_model(started.model, settings) if frozen else started.model

    def judged(streams: Streams) -> Judged:
        found.clear()
        found.update(_metrics(material, started, settings, device, streams))
        best = settings.judging.best
        return Judged(dict(found), found[best] if best == LOSS else -found[best])

    trainer = Trainer(
        model,
        material.objective,
        started.optimizer,
        steps,
        judged if material.held else None,
        device,
        settings.update,
        times_of(run, steps, judged=bool(material.held)),
        started.average,
        tables_of(model, settings.update.precision == "fp16"),
    )
    meter = _meter(started.model, material, steps, device, frozen)
    keeping = Keeping(run.log_every, run.keep, run.tensorboard)
    outcome = drive(trainer, started, described(settings), material.identity, keeping, output, meter, watch)
    if outcome.finished and material.held and not found:  # resumed at its end
        with nullcontext() if started.average is None else started.average.swapped():
            judged(Streams(device))
    return outcome, found


def _frozen_model(model: Model, settings: Seq2SeqSettings) -> Model:
    """The model with what stands for its encoder, whose rows are known."""
    encoder = cast(EncoderNetwork, FrozenNetwork(model.network.config, precision_of(settings.update)))
    return Model(encoder, dict(model.heads.items()), decoder=model.decoder, adapter=model.adapter)


def _metrics(
    material: Material, started: Restored[Either], settings: Seq2SeqSettings, device: torch.device, streams: Streams
) -> dict[str, float]:
    """How good it is on the rows held out: loss and accuracy of their tokens, and what is written, measured."""
    networks = started.networks
    model = networks.pair if isinstance(networks, PairNetworks) else networks.encoder

    def write(rows: Sequence[Parallel]) -> list[str]:
        pipeline = _pipeline(model, settings, device)
        return written(pipeline, model, read_decoding({"seed": 0}, pipeline.usual), rows, settings)

    judging = Judging(started.model, material.objective, settings, write)
    judging.add(material.held, material.held_samples, streams)
    return judging.metrics()


def _pipeline(model: EncoderDecoder | Encoder, settings: Seq2SeqSettings, device: torch.device) -> WritingPipeline:
    """What writes with the model as it is now."""
    return WritingPipeline(
        "text-generation" if isinstance(model, Encoder) else "text2text-generation",
        model,
        device=str(device),
        precision="fp32" if device.type == "cpu" else settings.update.precision,
        bar=False,
        usual=_usual(model, settings),
    )


def _usual(model: EncoderDecoder | Encoder, settings: Seq2SeqSettings) -> dict[str, Any]:
    """How texts are written that are judged: as settings say, and as the model's folder did where they say nothing. One
    of each source is."""
    limit = (model if isinstance(model, Encoder) else model.decoder).config.limit
    most = settings.judging.max_new_tokens if limit is None else min(settings.judging.max_new_tokens, limit)
    asked = {"max_new_tokens": most, "num_beams": settings.judging.num_beams, "num_return_sequences": 1}
    return {**settings_of(model, None), **asked}


def _meter(model: Model, material: Material, steps: RowSteps, device: torch.device, frozen: bool) -> Meter:
    """Operations of a token of either side; of a frozen encoder's, which are not computed, none."""
    rate = rate_here(model.network.dtype or torch.float32, device)
    sources = sum(map(len, material.samples))
    length = sources / len(material.samples)
    flops = (0.0 if frozen else flops_of_token(model.network.config, length, 0.0)) * sources
    if model.decoder is not None:
        targets = sum(len(one.answer) for one in material.samples)
        flops += flops_of_token(model.decoder.config, targets / len(material.samples), 1.0) * targets
    return Meter(steps.steps, 3 * flops / sum(steps.lengths), rate)


def _finish(
    material: Material,
    started: Restored[Either],
    settings: Seq2SeqSettings,
    output: Path,
    outcome: Outcome,
    metrics: dict[str, float],
) -> None:
    """Write the models and their cards; what the run needed only while it lasted goes."""

    def card(folder: Path, networks: Either, at: Progress) -> None:
        found = metrics if networks is started.networks else held_out_at(output, at.step)
        write_seq2seq_card(folder, settings, material, networks, at, found, outcome.reading)

    read = Networks.of if isinstance(started.networks, Networks) else PairNetworks.of
    leave(started, read, output, settings.run.keep, outcome.progress, card)
    States.remove(output)
