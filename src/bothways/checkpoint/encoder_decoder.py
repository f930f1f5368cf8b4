"""The public `EncoderDecoder`: an encoder, what may stand in between, and a decoder that writes what it read.

config.json, model.safetensors, tokenizer    as transformers has them
generation_config.json                       where texts begin and end, and how they are written
adapter/                                     what maps the encoder's rows for the decoder, if it is more than a linear
                                             map from width to width
target_tokenizer/                            the decoder's tokenizer, if it is another one

What transformers does not know is said in `config.json` under the key of PARTS. With an adapter of ours it would load
the sides without it: then each model_type begins with "bothways-", which it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bothways.checkpoint.adapter import read_adapter, write_adapter
from bothways.checkpoint.encoder import warn_of_lost
from bothways.checkpoint.hub import FOLDERS, PARTS, resolve
from bothways.checkpoint.load import Read, read_network, tokenizer_for
from bothways.checkpoint.marks import GENERATION, Marks, read_marks
from bothways.checkpoint.save import check_precision, said_of, stored_tensors
from bothways.checkpoint.weights import WEIGHTS, PartOfWeights, WeightFile, read_weights, write_weights
from bothways.errors import CheckpointError, ConfigError, InputError
from bothways.families import FAMILIES, PAIRS, Pair
from bothways.families.family import config_from_hf, config_to_hf, expand
from bothways.families.pair import OURS, PAIRED, paired
from bothways.files import make_folder, read_object, write_json
from bothways.nn.adapter import Adapter, AdapterConfig, LinearAdapter
from bothways.nn.config import EncoderConfig
from bothways.nn.encoder import EncoderNetwork
from bothways.ragged import Ragged
from bothways.text.formats import save_tokenizer
from bothways.text.tokenizer import Tokenizer

__all__ = ["ENCODER_DECODERS", "TARGET_TOKENIZER", "EncoderDecoder"]

ADAPTER, TARGET_TOKENIZER = FOLDERS
# The model_types of such folders.
ENCODER_DECODERS = (PAIRED, *PAIRS, *(f"{OURS}{one}" for one in (PAIRED, *PAIRS)))
# The linear map that transformers has from width to width.
PROJECTION = "enc_to_dec_proj"
SIDES = ("encoder", "decoder")


@dataclass(frozen=True, eq=False)
class EncoderDecoder:
    """An encoder and a decoder that reads its rows, which know how to load and save themselves.

    encoder, decoder: the layers, in fp32 on the CPU; the decoder has a memory. Where words are shared, both have the
    same table.    head: predicts words from the decoder's rows.    family: how its folder reads and writes.
    marks: where texts begin and end.    adapter: maps the encoder's rows for the decoder; None where none is needed.
    tokenizer, target_tokenizer: the same one where there is only one; None where the folder has none.
    extras: the keys of `config.json` that do not shape the networks; of sides with configs of their own those, too, as
    "encoder" and "decoder".    generation: the other keys of `generation_config.json`.
    unused: the names of weights in the checkpoint that nothing here uses.

    Raises CheckpointError on parts that do not go together.
    """

    encoder: EncoderNetwork
    decoder: EncoderNetwork
    head: nn.Module
    family: Pair
    marks: Marks
    adapter: Adapter | None = None
    tokenizer: Tokenizer | None = None
    target_tokenizer: Tokenizer | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        gives, reads = self.encoder.config.width, self.decoder.config.memory
        if reads is None:
            raise CheckpointError("this decoder has no cross-attention: it reads no encoder")
        if self.adapter is not None:
            if self.adapter.config.memory != gives:
                raise CheckpointError(
                    f"the adapter reads rows of {self.adapter.config.memory}, the encoder's are {gives}"
                )
            gives = self.adapter.config.width
        if gives != reads:
            raise CheckpointError(f"the decoder reads rows of {reads}, but gets rows of {gives}: an adapter is missing")

    def __repr__(self) -> str:
        sides = [f"{one.config.depth} × {one.config.width}" for one in (self.encoder, self.decoder)]
        modules = [self.encoder, self.decoder, self.head, *([] if self.adapter is None else [self.adapter])]
        count = sum(p.numel() for p in {id(p): p for module in modules for p in module.parameters()}.values())
        between = "" if self.adapter is None else f", {self.adapter.config.kind} adapter"
        return (
            f"EncoderDecoder({self.family.model_type}, {self.family.encoder.model_type} {sides[0]}{between}, "
            f"{self.family.decoder.model_type} {sides[1]}, {count / 1e6:.1f} M parameters)"
        )

    @property
    def adapter_is_ours(self) -> bool:
        """Whether there is an adapter that transformers does not know."""
        return self.adapter is not None and not _projects(self)

    def memory(self, tokens: Ragged, types: Tensor | None = None) -> Ragged:
        """Token ids of sources int [T] → the rows that the decoder reads, a sequence for each source."""
        rows = self.encoder(tokens, types).last
        return rows if self.adapter is None else self.adapter(rows)

    @classmethod
    def from_pretrained(cls, model: str | Path, *, revision: str | None = None) -> EncoderDecoder:
        """Load a folder in the layout of transformers, or an id on the hub.

        Raises ConfigError or CheckpointError, naming file and key, on whatever does not fit: cross-attention without
        weights, marks that nobody says, a tokenizer larger than its network's vocabulary.
        """
        return _load(resolve(model, revision))

    def save_pretrained(self, folder: str | Path, *, precision: str = "fp32") -> None:
        """Write a folder that this class loads and, unless it has an adapter or tokenizer of ours, transformers too.

        precision: of the weights in the file: fp32, bf16 or fp16. Raises InputError if it cannot be written, and where
        the folder has another model's adapter or tokenizer for targets, which this one has not.

        Warns, naming them, of weights the checkpoint had and nothing here uses: they are not written.
        """
        warn_of_lost(folder, [name for name in self.unused if not name.endswith(".relative_attention_bias.weight")])
        _save(self, Path(folder), precision)


def _load(folder: Path) -> EncoderDecoder:
    path = folder / "config.json"
    raw = _without_ours(read_object(path))
    family = _family(raw, path)
    says = [raw[side] if family.nested else raw for side in SIDES]
    configs = [
        config_from_hf(one, said, f"{path} ({side})" if family.nested else str(path))
        for one, said, side in zip((family.encoder, family.decoder), says, SIDES)
    ]
    _check_width(says[1], configs[1][0], path)
    weights = read_weights(folder)
    parts = _nested(weights) if family.nested else _shared(family, weights)
    _check_cross(family, configs[1][0], parts[1])
    encoder = read_network(family.encoder, *configs[0], parts[0], says[0], folder, only=())
    decoder = read_network(family.decoder, *configs[1], parts[1], says[1], folder, only=(family.head,))
    if not family.nested:
        _share_words(encoder, decoder, family.head)
    generation = read_object(folder / GENERATION) if (folder / GENERATION).exists() else {}
    places = {GENERATION: generation, path.name: raw, **({f"{path.name} (decoder)": says[1]} if family.nested else {})}
    marks = read_marks(folder, places, decoder.network.config.vocab)
    source, target = _tokenizers(folder, raw, family, encoder.network.config, decoder.network.config)
    adapter = _adapter(folder, raw, weights, encoder.network.config, decoder.network.config)
    try:
        return EncoderDecoder(
            encoder.network,
            decoder.network,
            decoder.heads[family.head],
            family,
            marks,
            adapter,
            source,
            target,
            _extras(family, raw, encoder, decoder),
            {key: value for key, value in generation.items() if key not in marks.as_keys()},
            (*encoder.unused, *decoder.unused),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def _without_ours(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config by the names that transformers has."""
    plain = {key: _without_ours(one) if key in SIDES and isinstance(one, dict) else one for key, one in raw.items()}
    said = raw.get("model_type")
    return {**plain, "model_type": said.removeprefix(OURS)} if isinstance(said, str) else plain


def _with_ours(said: Mapping[str, Any]) -> dict[str, Any]:
    """A config that transformers refuses: by its own name, or, asked for by a class, by that of its decoder."""
    inner = {"decoder": _with_ours(said["decoder"])} if "decoder" in said else {}
    return {**said, **inner, "model_type": f"{OURS}{said['model_type']}"}


def _family(raw: Mapping[str, Any], where: Path) -> Pair:
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        raise ConfigError(f"{where}: {model_type} is an encoder or a decoder alone; load it with bothways.Encoder")
    if not isinstance(model_type, str) or model_type not in (PAIRED, *PAIRS):
        raise ConfigError(f"{where}: unknown model_type {model_type!r:.80}; known: {', '.join((PAIRED, *PAIRS))}")
    if model_type in PAIRS:
        return PAIRS[model_type]
    sides = []
    for side in SIDES:
        said = raw.get(side)
        if not isinstance(said, dict):
            raise ConfigError(f"{where}: the config of its {side} is missing")
        name = said.get("model_type")
        if not isinstance(name, str) or name not in FAMILIES:
            raise ConfigError(f"{where} ({side}): unknown model_type {name!r:.80}; known: {', '.join(FAMILIES)}")
        sides.append(FAMILIES[name])
    try:
        return paired(*sides)
    except ConfigError as error:
        raise ConfigError(f"{where} (decoder): {error}") from None


def _check_width(said: Mapping[str, Any], decoder: EncoderConfig, path: Path) -> None:
    """Raise ConfigError on a decoder that reads rows of another width than its own, which transformers has none of."""
    width = said.get("cross_attention_hidden_size")
    if width is not None and width != decoder.memory:
        raise ConfigError(
            f"{path}: cross_attention_hidden_size is {width!r:.40}; decoders here read rows of their own width, "
            f"{decoder.memory}"
        )


def _nested(weights: WeightFile) -> list[PartOfWeights]:
    """Either side of a file whose names begin with it. Raises CheckpointError on names that are of neither."""
    others = [name for name in weights.shapes if not name.startswith(("encoder.", "decoder.", f"{PROJECTION}."))]
    if others:
        raise CheckpointError(f"{weights}: unexpected weights: {', '.join(others[:5])}")
    return [
        PartOfWeights(
            weights, {n.removeprefix(f"{side}."): n for n in weights.shapes if n.startswith(f"{side}.")}, side
        )
        for side in SIDES
    ]


def _shared(family: Pair, weights: WeightFile) -> list[PartOfWeights]:
    """Either side of a file whose word vectors belong to both."""
    prefix, words = family.encoder.prefix, family.words
    plain = {name.removeprefix(prefix): name for name in weights.shapes}
    if words not in plain:
        repeated = [copy for copy in family.copies if copy in plain]
        if not repeated:
            raise CheckpointError(f"{weights}: missing weights: {words}")
        plain[str(words)] = plain.pop(repeated[0])
    for copy in [copy for copy in family.copies if copy in plain]:
        if weights.shapes[plain[copy]] == weights.shapes[plain[str(words)]] and torch.equal(
            weights.read(plain[copy]), weights.read(plain[str(words)])
        ):
            del plain[copy]
    encoder = {name: stored for name, stored in plain.items() if name == words or name.startswith("encoder.")}
    decoder = {name: stored for name, stored in plain.items() if name == words or not name.startswith("encoder.")}
    return [PartOfWeights(weights, names, side) for names, side in zip((encoder, decoder), SIDES)]


def _check_cross(family: Pair, config: EncoderConfig, weights: WeightFile) -> None:
    """Raise CheckpointError, naming them, where weights of cross-attention are missing: nothing makes them up."""
    rules = [rule for rule in expand(family.decoder.rules, config) if ".cross" in rule.ours]
    wanted = [source for rule in rules for source in rule.sources]
    names = {name.removeprefix(family.decoder.prefix) for name in weights.shapes}
    missing = [name for name in wanted if name not in names]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            f"{weights}: no weights of cross-attention: {', '.join(missing[:3])}{more}; this decoder was not trained "
            "to read an encoder, which bothways finetune generate does"
        )


def _share_words(encoder: Read, decoder: Read, head: str) -> None:
    """Have both sides, and a head that is tied, hold the same table."""
    table, twin = encoder.network.embeddings.words.weight, decoder.network.embeddings.words.weight
    decoder.network.embeddings.words.weight = table
    for part in decoder.heads[head].modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter is twin:
                setattr(part, name, table)


def _adapter(
    folder: Path, raw: Mapping[str, Any], weights: WeightFile, encoder: EncoderConfig, decoder: EncoderConfig
) -> Adapter | None:
    """What the folder has between the sides. Raises CheckpointError where its config says more than it has."""
    projected = [name for name in weights.shapes if name.startswith(f"{PROJECTION}.")]
    if _has(folder, raw, ADAPTER):
        if projected:
            raise CheckpointError(
                f"{weights}: {projected[0]}, but there is a folder {ADAPTER}/, too; remove one of them"
            )
        return read_adapter(folder / ADAPTER)
    if not projected:
        return None
    assert decoder.memory is not None
    with torch.device("meta"):
        adapter = LinearAdapter(AdapterConfig("linear", encoder.width, decoder.memory))
    for kind, parameter in list(adapter.map.named_parameters()):
        name = f"{PROJECTION}.{kind}"
        if weights.shapes.get(name) != tuple(parameter.shape):
            found = list(weights.shapes[name]) if name in weights.shapes else "missing"
            raise CheckpointError(f"{weights}: {name} is {found}, but config.json makes it {list(parameter.shape)}")
        setattr(adapter.map, kind, nn.Parameter(weights.read(name)))
    return adapter.eval()


def _has(folder: Path, raw: Mapping[str, Any], part: str) -> bool:
    """Whether a model has a part of ours. Raises CheckpointError where its config says so and there is none."""
    parts, there = raw.get(PARTS) or [], (folder / part).is_dir()
    if not isinstance(parts, list):
        raise CheckpointError(f"{folder / 'config.json'}: {PARTS} is {parts!r:.40}; a list of folders was expected")
    if part in parts and not there:
        raise CheckpointError(f"{folder}: config.json says that there is a folder {part}/, but there is none")
    return there


def _tokenizers(
    folder: Path, raw: Mapping[str, Any], family: Pair, encoder: EncoderConfig, decoder: EncoderConfig
) -> tuple[Tokenizer | None, Tokenizer | None]:
    """Source's and target's. Raises CheckpointError where one has more entries than its side has rows."""
    source = tokenizer_for(folder, family.encoder.tokenizer, encoder.vocab)
    if _has(folder, raw, TARGET_TOKENIZER):
        target = tokenizer_for(folder / TARGET_TOKENIZER, family.decoder.tokenizer, decoder.vocab)
        if target is None:
            raise CheckpointError(f"{folder / TARGET_TOKENIZER}: no tokenizer in this folder")
        return source, target
    if source is not None and source.vocab_size > decoder.vocab:
        raise CheckpointError(
            f"{folder}: the tokenizer has {source.vocab_size:,} entries, but the decoder only {decoder.vocab:,} rows; "
            f"put the target's own tokenizer into {TARGET_TOKENIZER}/"
        )
    return source, source


def _extras(family: Pair, raw: Mapping[str, Any], encoder: Read, decoder: Read) -> dict[str, Any]:
    if family.nested:
        return {**raw, "encoder": encoder.extras, "decoder": decoder.extras}
    return {key: value for key, value in raw.items() if key in encoder.extras and key in decoder.extras}


def _save(model: EncoderDecoder, folder: Path, precision: str) -> None:
    check_precision(precision)
    parts = _parts(model)
    for part in FOLDERS:
        if part not in parts and (folder / part).exists():
            raise InputError(
                f"{folder / part} is of another model, and this one has none: remove it, or save elsewhere"
            )
    tensors = dict(_tensors(model, precision))
    make_folder(folder)
    write_weights(folder / WEIGHTS, tensors)
    if ADAPTER in parts:
        assert model.adapter is not None
        write_adapter(folder / ADAPTER, model.adapter)
    if model.tokenizer is not None:
        save_tokenizer(model.tokenizer, folder)
    if TARGET_TOKENIZER in parts:
        assert model.target_tokenizer is not None
        make_folder(folder / TARGET_TOKENIZER)
        save_tokenizer(model.target_tokenizer, folder / TARGET_TOKENIZER)
    write_json(folder / GENERATION, {**model.generation, **model.marks.as_keys()})
    write_json(folder / "config.json", _config(model, parts, precision))


def _parts(model: EncoderDecoder) -> list[str]:
    """The folders that it has beyond its own files."""
    second = model.target_tokenizer is not None and model.target_tokenizer is not model.tokenizer
    return [part for part, there in zip(FOLDERS, (model.adapter_is_ours, second)) if there]


def _projects(model: EncoderDecoder) -> bool:
    """Whether the adapter is what transformers has between sides of two widths."""
    gives, reads = model.encoder.config.width, model.decoder.config.width
    return model.family.nested and isinstance(model.adapter, LinearAdapter) and gives != reads


def _tensors(model: EncoderDecoder, precision: str) -> Iterator[tuple[str, Tensor]]:
    """All weights by the names of transformers; what both sides share once."""
    family, heads = model.family, {model.family.head: model.head}
    nested = family.nested
    if not nested and not torch.equal(*(side.embeddings.words.weight for side in (model.encoder, model.decoder))):
        raise InputError(
            f"a {family.model_type} model has one table of words, but these sides have two; it has no place"
        )
    encoder = stored_tensors(family.encoder, model.encoder, {}, precision, prefixed=not nested)
    decoder = stored_tensors(family.decoder, model.decoder, heads, precision, prefixed=True)
    for side, tensors in zip(SIDES, (encoder, decoder)):
        yield from ((f"{side}.{name}" if nested else name, tensor) for name, tensor in tensors.items())
    if _projects(model):
        assert isinstance(model.adapter, LinearAdapter)
        for kind, parameter in model.adapter.map.named_parameters():
            yield f"{PROJECTION}.{kind}", parameter.detach()


def _config(model: EncoderDecoder, parts: list[str], precision: str) -> dict[str, Any]:
    family, extras = model.family, {key: value for key, value in model.extras.items() if key != PARTS}
    sides = {
        side: config_to_hf(one, network.config, extras.get(side, {}) if family.nested else {})
        for side, one, network in zip(SIDES, (family.encoder, family.decoder), (model.encoder, model.decoder))
    }
    if family.nested:
        decoding = {"is_decoder": True, "add_cross_attention": True}
        said: dict[str, Any] = {
            "encoder": {**sides["encoder"], "model_type": family.encoder.model_type},
            "decoder": {**sides["decoder"], "model_type": family.decoder.model_type, **decoding},
        }
    else:
        said = {**sides["encoder"], **sides["decoder"]}
        said |= family.written({**extras, **said})
    said |= {"architectures": [family.architecture], "model_type": family.model_type, "is_encoder_decoder": True}
    said |= {**said_of(precision, extras), **model.marks.as_keys()}
    said = {**extras, **said, **({PARTS: parts} if parts else {})}
    # In one order, however often it is read and written again.
    return _sorted(_with_ours(said) if ADAPTER in parts else said)


def _sorted(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _sorted(one) if key in SIDES and isinstance(one, dict) else one for key, one in sorted(said.items())}
