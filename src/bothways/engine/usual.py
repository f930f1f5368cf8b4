"""What a model's files say of how it shall write, by the names of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bothways.engine.decoding import MOST_TOKENS, NAMES, read_decoding
from bothways.errors import ConfigError, InputError, UnreadSettingsWarning

__all__ = ["usual_settings"]

# What transformers' `generate` heeds and nothing here does, with the values by which it does nothing.
UNREAD: Mapping[str, tuple[Any, ...]] = {
    "constraints": ([],),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0, 1),
    "eta_cutoff": (0, 1),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_decoder_ids": ([],),
    "guidance_scale": (1,),
    "max_time": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "sequence_bias": ({}, []),
    "stop_strings": ([], ""),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": ({},),
}
# Of a model whose texts begin with any number of tokens, which these count; and what transformers takes without them.
COUNTED = {"max_length": ("max_new_tokens", 20), "min_length": ("min_new_tokens", 0)}


def usual_settings(said: Mapping[str, Any], path: Path, vocab: int, start: int | None = None) -> dict[str, Any]:
    """Settings of `Decoding` by name, as a file has them among other things.

    said, path: the file's keys, and what messages call it; a null says nothing.    vocab: the decoder's words.
    start: tokens that a text begins with, and that max_length and min_length count; None for a model whose texts begin
    with any number of them.

    Warns, naming file and keys, of settings that nothing here heeds.
    Raises ConfigError, naming file and key, on values that cannot be.
    """
    said = {name: value for name, value in said.items() if value is not None}
    usual = {name: said[name] for name in NAMES if name in said and name != "seed"}
    for theirs, (ours, _) in COUNTED.items():
        if start is not None and ours not in usual and theirs in said:
            usual[ours] = _beyond(theirs, said[theirs], start, path)
    if isinstance(first := usual.get("forced_bos_token_id"), list) and len(first) == 1:
        usual["forced_bos_token_id"] = first[0]
    _bound(usual, path)
    _check(usual, path, vocab)
    _warn(said, path, start)
    return usual


def _beyond(name: str, value: Any, start: int, path: Path) -> int:
    """How many tokens a length leaves beyond those that a text begins with."""
    least = start + 1 if name == "max_length" else 0
    if type(value) is not int or not least <= value <= MOST_TOKENS:
        raise ConfigError(f"{path}: {name} must be a whole number from {least} to {MOST_TOKENS:,}, got {value!r:.60}")
    return max(0, value - start)


def _bound(usual: dict[str, Any], path: Path) -> None:
    """The least length, as far as the greatest lets it."""
    least, most = usual.get("min_new_tokens"), usual.get("max_new_tokens")
    if type(least) is int and type(most) is int and least > most > 0:
        told = "min_length (or min_new_tokens) is more than max_length (or max_new_tokens): texts end at the latter"
        warnings.warn(f"{path}: {told}", UnreadSettingsWarning, stacklevel=6)
        usual["min_new_tokens"] = most


def _check(usual: Mapping[str, Any], path: Path, vocab: int) -> None:
    try:
        decoding = read_decoding(usual)
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from None
    for name, token in decoding.words:
        if token >= vocab:
            raise ConfigError(f"{path}: {name} has {token}, which is none of the decoder's {vocab:,} words")


def _warn(said: Mapping[str, Any], path: Path, start: int | None) -> None:
    unread = [key for key, neutral in UNREAD.items() if key in said and said[key] not in neutral]
    if start is None:
        lengths = {key: without for key, (ours, without) in COUNTED.items() if key in said and ours not in said}
        unread += [key for key, without in lengths.items() if said[key] != without]
    if unread:
        told = ", ".join(sorted(unread))
        warnings.warn(f"{path}: not heeded here: {told}", UnreadSettingsWarning, stacklevel=5)
