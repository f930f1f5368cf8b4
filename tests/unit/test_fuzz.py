"""A damaged or invented file either loads or is refused by an error of ours; nothing else ever comes out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_models import SAVE_FAMILY

from bothways import BothwaysError, Encoder, SentenceEncoder
from bothways.checkpoint.sentence import load_sentence_model
from bothways.checkpoint.weights import WeightFile, write_weights
from bothways.families import FAMILIES
from bothways.families.family import config_from_hf, config_to_hf
from bothways.nn.heads import Dense, Normalize, SentenceHead
from bothways.text.formats import load_tokenizer

FEW = settings(max_examples=80)
MANY = settings(max_examples=10_000, suppress_health_check=list(HealthCheck))


def few_and_many(test: Callable[..., None]) -> Callable[..., None]:
    """Parametrise a property's test with how many cases it tries: some now, 10,000 under the mark `slow`."""
    amounts = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]
    return pytest.mark.parametrize("amount", amounts)(test)


def loads_or_is_refused(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except BothwaysError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert "panicked" not in message
        return None


# Values that a JSON file may hold

NUMBERS = st.one_of(st.integers(), st.integers(-2, 12), st.sampled_from([2**31, 2**63, 10**30]), st.floats())
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
)


@pytest.fixture(scope="module")
def whole(save_bert: Callable[..., Path]) -> Path:
    return save_bert(hidden_size=4, num_attention_heads=2, intermediate_size=6, num_hidden_layers=1)


@pytest.fixture(scope="module")
def fresh(new_folder: Callable[[], Path]) -> Callable[[str], Path]:
    """A path that no earlier case has used: a file that is still mapped must not be overwritten."""
    root, numbers = new_folder(), count()

    def path(name: str) -> Path:
        folder = root / str(next(numbers))
        folder.mkdir()
        return folder / name

    return path


# Keys of older generations, and those whose values are written in today's words.
OLDER = {"modernbert": ("global_attn_every_n_layers", "rope_parameters")}
REWORDED = ("rope_parameters", "rope_scaling", "pos_att_type", "norm_rel_ebd", "global_rope_theta", "local_rope_theta")
TINY = {"hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 6, "num_hidden_layers": 1}


def small_config(family: str) -> dict[str, Any]:
    extra = {"embedding_size": 4} if family in ("albert", "electra") else {}
    return SAVE_FAMILY[family].config(**TINY, **extra).to_dict()


@few_and_many
@pytest.mark.parametrize("family", FAMILIES)
def test_any_values_of_the_shaping_keys_give_a_config_that_is_written_back_or_an_error_of_ours(
    family: str, amount: settings
) -> None:
    keys = [key.theirs for key in FAMILIES[family].keys] + list(FAMILIES[family].only) + list(OLDER.get(family, ()))
    valid = small_config(family)

    @amount
    @given(st.dictionaries(st.one_of(st.sampled_from(keys), st.text(max_size=5)), VALUES, max_size=6), st.booleans())
    def run(changes: dict[str, Any], complete: bool) -> None:
        raw = {**(valid if complete else {}), **changes}
        read = loads_or_is_refused(lambda: config_from_hf(FAMILIES[family], raw))
        if read is not None:
            written = config_to_hf(FAMILIES[family], *read)
            assert config_from_hf(FAMILIES[family], written) == read
            same = [key for key, value in raw.items() if value is not None and key not in REWORDED]
            assert all(repr(written[key]) == repr(raw[key]) for key in same)

    run()


KINDS = ("ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice")


@few_and_many
@pytest.mark.parametrize("family", FAMILIES)
def test_any_config_file_loads_or_is_refused(
    save_family: Callable[..., Path], fresh: Callable[[str], Path], family: str, amount: settings
) -> None:
    kind = KINDS[list(FAMILIES).index(family) % len(KINDS)]
    whole = save_family(family, kind=kind, **TINY)
    config = json.loads((whole / "config.json").read_text())
    config |= dict.fromkeys((key.theirs for key in FAMILIES[family].keys if key.theirs not in config), None)
    small = st.dictionaries(st.sampled_from(sorted(config)), VALUES, max_size=2).filter(
        lambda changes: all(
            not isinstance(depth := changes.get(key), int) or not 12 < depth <= 1024
            for key in ("num_hidden_layers", "n_layers", "n_layer", "num_hidden_groups", "inner_group_num")
        )
    )

    @amount
    @given(st.one_of(small.map(lambda changes: json.dumps({**config, **changes})), VALUES.map(json.dumps), st.text()))
    def run(text: str) -> None:
        path = fresh("config.json")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        for name in ("model.safetensors", "vocab.txt"):
            (path.parent / name).symlink_to(whole / name)
        loads_or_is_refused(lambda: Encoder.from_pretrained(path.parent))

    run()


def mutations(size: int, header: int) -> st.SearchStrategy[list[tuple[str, int, bytes]]]:
    """Edits of a file of so many bytes: (what, where, new bytes); most of them in its first `header` bytes."""
    where = st.one_of(st.integers(0, header), st.integers(0, header), st.integers(0, size))
    return st.lists(
        st.tuples(st.sampled_from(["replace", "insert", "cut", "end"]), where, st.binary(min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    )


def mutated(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for what, where, new in edits:
        if what == "replace":
            data = data[:where] + new + data[where + len(new) :]
        elif what == "insert":
            data = data[:where] + new + data[where:]
        elif what == "cut":
            data = data[:where] + data[where + len(new) :]
        else:
            data = data[:where]
    return data


@few_and_many
def test_any_damage_to_a_weight_file_is_refused_or_harmless(
    whole: Path, fresh: Callable[[str], Path], amount: settings
) -> None:
    data = (whole / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")

    @amount
    @given(mutations(len(data), header))
    def run(edits: list[tuple[str, int, bytes]]) -> None:
        path = fresh("model.safetensors")
        path.write_bytes(mutated(data, edits))
        for name in ("config.json", "vocab.txt"):
            (path.parent / name).symlink_to(whole / name)
        encoder = loads_or_is_refused(lambda: Encoder.from_pretrained(path.parent))
        if encoder is not None:
            assert all(parameter.isfinite().all() for parameter in encoder.network.parameters())

    run()


@few_and_many
def test_any_header_of_a_weight_file_is_refused_or_read(fresh: Callable[[str], Path], amount: settings) -> None:
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "F4", "C64", "X", "", 3]),
            "shape": st.lists(st.one_of(st.integers(0, 4), NUMBERS), max_size=3),
            "data_offsets": st.lists(st.one_of(st.integers(0, 32), NUMBERS), max_size=3),
        }
    )
    tensors = st.dictionaries(st.text(max_size=4), st.one_of(entry, VALUES), max_size=3)

    @amount
    @given(tensors, st.binary(max_size=32))
    def run(header: dict[str, Any], data: bytes) -> None:
        text = json.dumps(header).encode()
        path = fresh("model.safetensors")
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
        weights = loads_or_is_refused(lambda: WeightFile(path))
        for name in weights.shapes if weights is not None else ():
            loads_or_is_refused(lambda name=name: weights.read(name))

    run()


@pytest.fixture(scope="module")
def shards(whole: Path, new_folder: Callable[[], Path]) -> Path:
    """The folder of the same model in several files."""
    folder = new_folder()
    for name in ("config.json", "vocab.txt"):
        (folder / name).symlink_to(whole / name)
    write_weights(folder / "model.safetensors", load_file(whole / "model.safetensors"), 600)
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


@contextmanager
def little_memory() -> Iterator[None]:
    """The process has never held a gigabyte more than at the start."""
    before = getrusage(RUSAGE_SELF).ru_maxrss
    yield
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def linked(folder: Path, source: Path) -> None:
    """Fill a folder with links to the files of another one, but for those it has already."""
    for path in source.rglob("*"):
        place = folder / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        elif not place.exists():
            place.symlink_to(path)


@few_and_many
def test_any_index_of_weights_is_refused_or_read(shards: Path, fresh: Callable[[str], Path], amount: settings) -> None:
    text = (shards / "model.safetensors.index.json").read_text()
    index = json.loads(text)
    files = sorted(set(index["weight_map"].values()))
    odd = [
        "../model.safetensors",
        "/dev/zero",
        "config.json",
        "model.safetensors",
        "",
        "..",
        "model.safetensors.index.json",
    ]
    places = st.one_of(st.sampled_from(files), st.sampled_from(files + odd), st.text(max_size=8), VALUES)
    tensors = st.one_of(st.sampled_from(sorted(index["weight_map"])), st.text(max_size=4))
    moved = st.dictionaries(tensors, places, max_size=3).map(lambda new: {**index["weight_map"], **new})
    maps = st.one_of(moved, st.dictionaries(tensors, places, max_size=5), VALUES)
    parts = st.fixed_dictionaries({}, optional={"weight_map": maps, "metadata": VALUES, "extra": VALUES})
    written = st.one_of(parts, VALUES).map(lambda value: json.dumps(value).encode())
    edited = mutations(len(text), len(text)).map(lambda edits: mutated(text.encode(), edits))

    @amount
    @given(st.one_of(written, edited))
    def run(data: bytes) -> None:
        path = fresh("model.safetensors.index.json")
        path.write_bytes(data)
        linked(path.parent, shards)
        loads_or_is_refused(lambda: Encoder.from_pretrained(path.parent))

    with little_memory():
        run()


@few_and_many
def test_any_damage_to_a_shard_is_refused_or_harmless(
    shards: Path, fresh: Callable[[str], Path], amount: settings
) -> None:
    files = {path.name: path.read_bytes() for path in shards.glob("*.safetensors")}
    damage = {
        name: mutations(len(data), 8 + int.from_bytes(data[:8], "little")).map(lambda edits, d=data: mutated(d, edits))
        for name, data in files.items()
    }
    cases = st.sampled_from(sorted(files)).flatmap(
        lambda name: st.tuples(st.just(name), st.one_of(damage[name], st.sampled_from(sorted(files.values()))))
    )

    @amount
    @given(cases)
    def run(case: tuple[str, bytes]) -> None:
        path = fresh(case[0])
        path.write_bytes(case[1])
        linked(path.parent, shards)
        encoder = loads_or_is_refused(lambda: Encoder.from_pretrained(path.parent))
        if encoder is not None:
            assert all(parameter.isfinite().all() for parameter in encoder.network.parameters())

    with little_memory():
        run()


@pytest.fixture(scope="module")
def sentences(whole: Path, new_folder: Callable[[], Path]) -> Path:
    """A sentence-transformers folder with a module of every kind."""
    folder = new_folder()
    model = load_sentence_model(whole)
    dense = Dense(4, 3, "tanh")
    torch.nn.init.normal_(dense.linear.weight)
    torch.nn.init.normal_(dense.linear.bias)
    replace(model, head=SentenceHead(4, ("mean",), True, [dense, Normalize()])).save_pretrained(folder)
    assert SentenceEncoder(folder, device="cpu").encode("the cat").shape == (3,)
    return folder


@few_and_many
def test_any_list_of_modules_is_refused_or_encodes(
    sentences: Path, fresh: Callable[[str], Path], amount: settings
) -> None:
    text = (sentences / "modules.json").read_bytes()
    kinds = st.sampled_from(["Transformer", "Pooling", "Dense", "Normalize", "CNN", ""]).map("x.".__add__)
    known = [
        "",
        ".",
        "1_Pooling",
        "2_Dense",
        "3_Normalize",
        "./2_Dense/",
        "2_Dense/../..",
        "..",
        "/",
        "missing",
        "\0",
        "x" * 300,
    ]
    entry = st.fixed_dictionaries(
        {"type": st.one_of(kinds, kinds, VALUES)}, optional={"path": st.one_of(st.sampled_from(known), VALUES)}
    )
    first = {"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}
    after = st.lists(entry, max_size=3).map(lambda more: [*first, *more])
    written = st.one_of(after, st.lists(entry, max_size=4), VALUES).map(lambda value: json.dumps(value).encode())
    edited = mutations(len(text), len(text)).map(lambda edits: mutated(text, edits))

    @amount
    @given(st.one_of(written, edited))
    def run(data: bytes) -> None:
        path = fresh("modules.json")
        path.write_bytes(data)
        linked(path.parent, sentences)
        encoder = loads_or_is_refused(lambda: SentenceEncoder(path.parent, device="cpu"))
        if encoder is not None:
            loads_or_is_refused(lambda: encoder.encode(["the cat"]))

    with little_memory():
        run()


TEXTS = ["the cat sat", "", "un[MASK]able 猫"]


def tokenizes_or_is_refused(folder: Path) -> None:
    tokenizer = loads_or_is_refused(lambda: load_tokenizer(folder))
    if tokenizer is not None:
        encoded = loads_or_is_refused(lambda: tokenizer.encode(TEXTS, max_length=20))
        for one in encoded or ():
            assert len(one.ids) == len(one.types) == len(one.offsets) <= 20


@few_and_many
def test_any_vocabulary_is_refused_or_tokenizes(
    fresh: Callable[[str], Path], vocab: list[str], amount: settings
) -> None:
    data = "\n".join(vocab).encode()

    @amount
    @given(st.one_of(mutations(len(data), 60).map(lambda edits: mutated(data, edits)), st.binary(max_size=60)))
    def run(text: bytes) -> None:
        path = fresh("vocab.txt")
        path.write_bytes(text)
        tokenizes_or_is_refused(path.parent)

    run()


@few_and_many
def test_any_settings_of_a_tokenizer_are_refused_or_tokenize(
    whole: Path, fresh: Callable[[str], Path], amount: settings
) -> None:
    switches = ["do_lower_case", "strip_accents", "tokenize_chinese_chars"]
    keys = [*switches, "model_max_length", "unk_token", "cls_token", "mask_token"]

    @amount
    @given(st.dictionaries(st.sampled_from(keys), VALUES, max_size=3))
    def run(config: dict[str, Any]) -> None:
        path = fresh("tokenizer_config.json")
        path.write_text(json.dumps(config))
        (path.parent / "vocab.txt").symlink_to(whole / "vocab.txt")
        tokenizes_or_is_refused(path.parent)

    run()


@few_and_many
def test_any_damage_to_a_tokenizer_file_is_refused_or_harmless(
    whole: Path, fresh: Callable[[str], Path], amount: settings
) -> None:
    tokenizer = json.loads(load_tokenizer(whole).backend.to_str())
    tokenizer["model"]["vocab"] = dict(list(tokenizer["model"]["vocab"].items())[:40])
    data = json.dumps(tokenizer, ensure_ascii=False).encode()
    parts = st.dictionaries(st.sampled_from(sorted(tokenizer)), VALUES, min_size=1, max_size=2)
    edited = mutations(len(data), len(data)).map(lambda edits: mutated(data, edits))

    @amount
    @given(st.one_of(edited, parts.map(lambda changes: json.dumps({**tokenizer, **changes}).encode())))
    def run(text: bytes) -> None:
        path = fresh("tokenizer.json")
        path.write_bytes(text)
        tokenizes_or_is_refused(path.parent)

    run()


@few_and_many
def test_any_settings_of_a_sentence_model_are_refused_or_encode(
    whole: Path, fresh: Callable[[str], Path], amount: settings
) -> None:
    names = ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"]
    keys = ["pooling_mode", "include_prompt", "max_seq_length", "do_lower_case"]
    keys += ["prompts", "default_prompt_name", "similarity_fn_name"]
    changes = st.dictionaries(st.sampled_from(keys), VALUES, max_size=3)
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]

    @amount
    @given(st.one_of(changes, VALUES), st.one_of(st.just(modules), VALUES))
    def run(config: Any, entries: Any) -> None:
        path = fresh("modules.json")
        for name in ("config.json", "model.safetensors", "vocab.txt"):
            (path.parent / name).symlink_to(whole / name)
        (path.parent / "1_Pooling").mkdir()
        for name in names:
            (path.parent / name).write_text(json.dumps(entries if name == "modules.json" else config))
        encoder = loads_or_is_refused(lambda: SentenceEncoder(path.parent, device="cpu"))
        if encoder is not None:
            loads_or_is_refused(lambda: encoder.encode(["the cat"]))

    run()
