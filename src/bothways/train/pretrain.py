"""From shards to an encoder: `pretrain` sets a run up or goes on with it, drives the loop, saves and reports."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bothways.checkpoint.encoder import Encoder
from bothways.data.corpus import Corpus, sha256
from bothways.data.packing import Packing
from bothways.errors import CheckpointError, ConfigError, InputError, MissingExtraError
from bothways.families import FAMILIES
from bothways.families.presets import PRESETS
from bothways.files import make_folder, read_object, write_json
from bothways.nn.config import EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.layers import initialise
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Model
from bothways.text.formats import load_tokenizer
from bothways.text.tokenizer import Tokenizer
from bothways.train.averaging import Average
from bothways.train.loop import Event, Trainer
from bothways.train.optim import OPTIMIZERS, parameter_groups
from bothways.train.plan import Plan, plan_of
from bothways.train.report import MetricsLog, plot_curves, write_card, write_failure
from bothways.train.settings import PretrainSettings
from bothways.train.state import Progress, checkpoints, prune, restore, save_checkpoint

__all__ = ["Outcome", "plan", "pretrain"]

SETTINGS = "settings.json"
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """How a run ended. finished: it took its last step.    stopped: a number was not finite.

    Neither: it was asked to stop, and has saved.
    """

    progress: Progress
    finished: bool
    stopped: bool


def pretrain(
    settings: PretrainSettings,
    output: Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    watch: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Train an encoder on a corpus, from fresh weights or from the newest whole checkpoint in `output`.

    watch: is told of every event.    SIGINT and SIGTERM end the run after the step at hand, with a checkpoint.

    Raises ConfigError, InputError or CheckpointError, before anything is trained, on settings that do not go together,
    a corpus of another tokenizer, an output folder that cannot be written, or one that holds a run already.
    """
    device = _device(device, settings.step.precision)
    corpus = Corpus.open(settings.corpus.corpus)
    tokenizer = _tokenizer(corpus)
    objective = _objective(settings, tokenizer)
    train, held = _packings(settings, corpus, tokenizer)
    _check_output(output, settings, resume)
    started = restore(output, lambda model: _parts(settings, model.to(device))) if resume else None
    if started is None:
        encoder = _fresh(settings, tokenizer)
        model = Model(encoder.network, encoder.heads)
        (optimizer, average), progress = _parts(settings, model.to(device)), Progress()
    else:
        encoder, model, optimizer, progress = started.encoder, started.model, started.optimizer, started.progress
        average = started.average
    encoder.network.dtype = PRECISIONS[settings.step.precision]
    encoder.network.checkpointing = settings.step.checkpointing
    trainer = Trainer(
        model, objective, optimizer, train, held, device, settings.corpus, settings.step, settings.run, average
    )
    log = MetricsLog(output, settings.run.log_every, progress.step)
    described = _plain(asdict(settings))

    def save(at: Progress) -> None:
        save_checkpoint(output, encoder, optimizer, at, described, average)
        prune(output, settings.run.keep, at)

    try:
        outcome = _drive(trainer, progress, log, save, watch, output)
    finally:
        log.close()
    if outcome.finished:
        prune(output, settings.run.keep, outcome.progress)  # a run killed at its end may not have come to it
        with nullcontext() if average is None else average.swapped():
            encoder.save_pretrained(output / "model")
        write_card(output / "model", f"{settings.model.preset}, pretrained", _facts(settings, corpus, outcome.progress))
        with suppress(MissingExtraError):  # no picture without matplotlib
            plot_curves(output)
    return outcome


def plan(settings: PretrainSettings, device: torch.device | str = "cpu") -> Plan:
    """What `pretrain` with these settings will take. Raises what `pretrain` raises; nothing is written."""
    corpus = Corpus.open(settings.corpus.corpus)
    tokenizer = _tokenizer(corpus)
    train, _ = _packings(settings, corpus, tokenizer)
    encoder = _fresh(settings, tokenizer)
    encoder.network.dtype = PRECISIONS[settings.step.precision]
    encoder.network.checkpointing = settings.step.checkpointing
    model = Model(encoder.network, encoder.heads).to(device)
    return plan_of(settings, model, _objective(settings, tokenizer), train, torch.device(device))


def _drive(
    trainer: Trainer,
    progress: Progress,
    log: MetricsLog,
    save: Callable[[Progress], None],
    watch: Callable[[Event], None],
    output: Path,
) -> Outcome:
    """Run the loop until its end, a number that is not finite, or a signal."""
    with _asked_to_stop() as asked:
        for event in trainer.events(progress, asked.is_set):
            progress = event.progress
            log.add(event)
            watch(event)
            if event.kind == "stop":
                write_failure(output, event)
                return Outcome(progress, finished=False, stopped=True)
            if event.kind == "save":
                save(progress)
    return Outcome(progress, finished=progress.step >= trainer.step.steps, stopped=False)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; the second SIGINT interrupts as always."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _device(device: torch.device | str, precision: str) -> torch.device:
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise ConfigError(f"device {str(device)!r} is not one that is here; cpu always is") from None
    if precision == "fp16" and place.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return place


def _tokenizer(corpus: Corpus) -> Tokenizer:
    path = corpus.tokenizer_folder / "tokenizer.json"
    if sha256(path) != corpus.fingerprint:
        raise CheckpointError(f"{path}: not the tokenizer that the shards were made with; build the corpus again")
    tokenizer = load_tokenizer(corpus.tokenizer_folder)
    if tokenizer is None:
        raise CheckpointError(f"{corpus.tokenizer_folder}: no tokenizer here; build the corpus again")
    missing = [role for role in ("cls", "sep", "mask") if tokenizer.id_of(role) is None]
    if missing:
        raise CheckpointError(f"{corpus.tokenizer_folder}: the tokenizer has no {', '.join(missing)} token")
    return tokenizer


def _objective(settings: PretrainSettings, tokenizer: Tokenizer) -> MaskedLanguageModelling:
    mask = tokenizer.id_of("mask")
    assert mask is not None
    special = {tokenizer.id_of(role) for role in tokenizer.special}
    known = frozenset(i for i in special if i is not None)
    return MaskedLanguageModelling(tokenizer.vocab_size, mask, known, settings.masking)


def _packings(settings: PretrainSettings, corpus: Corpus, tokenizer: Tokenizer) -> tuple[Packing, Packing]:
    before, after = tokenizer.id_of("cls"), tokenizer.id_of("sep")
    assert before is not None
    assert after is not None
    longest, budget = settings.corpus.longest, settings.step.batch_tokens
    held = corpus.splits["held_out"]
    if not held.documents:
        raise InputError(f"{settings.corpus.corpus}: the held-out split is empty; build the corpus with --held-out")
    train = Packing(
        corpus.splits["train"].shards,
        longest=longest,
        budget=budget,
        before=before,
        after=after,
        seed=settings.run.seed,
    )
    return train, Packing(held.shards, longest=longest, budget=budget, before=before, after=after, shuffle=False)


def _check_output(output: Path, settings: PretrainSettings, resume: bool) -> None:
    """The folder can be written to, and holds no other run."""
    make_folder(output)
    described, place = _plain(asdict(settings)), output / SETTINGS
    if checkpoints(output) and not resume:
        raise InputError(f"{output}: holds a run already; say --resume to go on with it, or name another folder")
    if resume and checkpoints(output):
        changed = _changed(read_object(place), described)
        if changed:
            raise ConfigError(f"{place}: the run to be resumed has other settings: {', '.join(changed)}")
    write_json(place, described)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that change what is computed and are not the same.

    How often is saved or shown may change, and what is done with numbers that are not finite. A setting that there was
    not yet when the run began is at its default.
    """
    free = {"workers", "log_every", "save_every", "keep", "corpus", "nonfinite"}
    default = _plain(asdict(PretrainSettings()))
    was = {part: {**default[part], **before.get(part, {})} for part in now}
    return [
        f"{key} was {was[part][key]!r}, now {now[part][key]!r}"
        for part in now
        for key in now[part]
        if key not in free and was[part][key] != now[part][key]
    ]


def _fresh(settings: PretrainSettings, tokenizer: Tokenizer) -> Encoder:
    """An encoder with fresh weights, the same for the same seed."""
    name = settings.model.preset
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is not known; bothways families lists them")
    preset = PRESETS[name]
    family = FAMILIES[preset.family]
    config = _counted_from_padding(replace(preset.config, vocab=tokenizer.vocab_size), tokenizer)
    if settings.model.dropout is not None:
        config = replace(config, dropout=settings.model.dropout, attention_dropout=settings.model.dropout)
    if settings.corpus.longest > config.longest:
        raise ConfigError(f"longest {settings.corpus.longest} is more than the {config.longest} tokens {name} takes")
    extras: dict[str, Any] = {"pad_token_id": tokenizer.id_of("pad")} if tokenizer.id_of("pad") is not None else {}
    generator = torch.Generator().manual_seed(settings.run.seed)
    network = EncoderNetwork(config, pooler=False)
    initialise(network, config.init_std, generator)
    heads = {"mlm": family.heads["mlm"].build(network, extras, ())}
    shared = {id(parameter) for parameter in network.parameters()}
    for part in heads["mlm"].modules():
        own = list(part.parameters(recurse=False))
        if own and not any(id(parameter) in shared for parameter in own):
            initialise(part, config.init_std, generator)
    return Encoder(network, family, tokenizer, heads, extras)


def _counted_from_padding(config: EncoderConfig, tokenizer: Tokenizer) -> EncoderConfig:
    """The config with positions behind this tokenizer's padding id, for families that count them from there."""
    positions, pad = config.positions, tokenizer.id_of("pad")
    if pad is None or not isinstance(positions, LearnedPositions) or not positions.offset:
        return config
    count = positions.count - positions.offset + pad + 1
    return replace(config, positions=replace(positions, count=count, offset=pad + 1))


def _parts(settings: PretrainSettings, model: Model) -> tuple[torch.optim.Optimizer, Average | None]:
    """What a run has beside its model: the optimizer, and the average of the weights."""
    groups = parameter_groups(model, settings.adam.weight_decay)
    average = Average(model, settings.step.ema) if settings.step.ema else None
    return OPTIMIZERS[settings.step.optimizer](groups, settings.adam), average


def _plain(value: Any) -> Any:
    """Settings as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, Path) else value


def _facts(settings: PretrainSettings, corpus: Corpus, progress: Progress) -> dict[str, dict[str, Any]]:
    splits = {name: f"{split.documents:,} documents, {split.tokens:,} tokens" for name, split in corpus.splits.items()}
    result = {
        "steps": progress.step,
        "tokens seen": progress.tokens,
        "best held-out loss": progress.best_loss,
        "at step": progress.best_step,
    }
    told = {key: value for part in _plain(asdict(settings)).values() for key, value in part.items()}
    return {"Result": result, "Data": splits, "Settings": told}
