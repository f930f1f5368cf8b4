"""Encoder–decoders of transformers: equal logits, loaded and saved; what ours have beyond; what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import write_bert_tokenizer
from small_pairs import MAKERS, assert_pairs_agree, made
from torch import Tensor

from bothways import CheckpointError, ConfigError, Encoder, EncoderDecoder, InputError, Ragged
from bothways.checkpoint.marks import Marks
from bothways.nn.adapter import AdapterConfig, adapter_of
from bothways.nn.cache import begin, step

AUTO = transformers.AutoModelForSeq2SeqLM
Weights = dict[str, Tensor]


@pytest.mark.parametrize("name", MAKERS)
def test_logits_are_those_of_transformers_and_of_what_it_makes_of_our_folder(name: str, tmp_path: Path) -> None:
    theirs = made(name, tmp_path / "theirs")
    ours = EncoderDecoder.from_pretrained(tmp_path / "theirs")
    assert ours.unused == ()
    assert_pairs_agree(ours, theirs)
    ours.save_pretrained(tmp_path / "ours")
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    again, report = AUTO.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {key: list(found) for key, found in report.items() if found} == {}
    assert_pairs_agree(ours, again.eval())
    assert_pairs_agree(EncoderDecoder.from_pretrained(tmp_path / "ours"), theirs)


@pytest.mark.parametrize("name", ["bert, gpt2", "bart", "t5, 1.1"])
def test_what_is_saved_again_is_the_same_file_and_the_same_config(name: str, tmp_path: Path) -> None:
    made(name, tmp_path / "theirs")
    EncoderDecoder.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "once")
    EncoderDecoder.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    theirs, ours = (weights(tmp_path / folder) for folder in ("theirs", "once"))
    assert theirs.keys() == ours.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


@pytest.mark.parametrize("name", ["bert, bert of another size", "bert, gpt2", "bart", "t5"])
@torch.inference_mode()
def test_word_by_word_gives_the_logits_too(name: str, tmp_path: Path) -> None:
    made(name, tmp_path)
    ours = EncoderDecoder.from_pretrained(tmp_path)
    memory = ours.memory(Ragged.of([[5, 6, 7, 8], [9], [4, 4]]))
    targets = torch.randint(0, 40, (3, 9))
    whole = ours.decoder(Ragged.of(list(targets)), memory=memory).last.data.view(3, 9, -1)
    cache, last = begin(ours.decoder, Ragged.of([row[:1] for row in targets]), memory, 1, 8)
    found = [last, *(step(ours.decoder, targets[:, i : i + 1], cache)[:, 0] for i in range(1, 9))]
    torch.testing.assert_close(torch.stack(found, 1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bart", "t5", "mt5"])
def test_words_are_one_table_for_both_sides_and_the_head(name: str, tmp_path: Path) -> None:
    made(name, tmp_path)
    ours = EncoderDecoder.from_pretrained(tmp_path)
    table = ours.encoder.embeddings.words.weight
    assert ours.decoder.embeddings.words.weight is table
    assert ours.head.decoder.weight is table
    ours.decoder.embeddings.words.weight = torch.nn.Parameter(table.detach() + 1.0)
    with pytest.raises(InputError, match="has one table of words, but these sides have two"):
        ours.save_pretrained(tmp_path / "apart")


@pytest.mark.parametrize("name", ["bart", "t5", "t5, 1.1", "mt5"])
def test_a_head_of_its_own_stays_its_own(name: str, tmp_path: Path) -> None:
    made(name, tmp_path)
    change(tmp_path, lambda w: {**w, "lm_head.weight": torch.randn(40, 32) * 0.2})
    ours = EncoderDecoder.from_pretrained(tmp_path)
    assert_pairs_agree(ours, AUTO.from_pretrained(tmp_path).eval())
    ours.save_pretrained(tmp_path / "ours")
    assert_pairs_agree(EncoderDecoder.from_pretrained(tmp_path / "ours"), AUTO.from_pretrained(tmp_path).eval())


def test_files_that_repeat_the_words_or_have_no_prefix_are_read(tmp_path: Path) -> None:
    """As released ones are: bart-base has no "model.", old T5 files have the table four times, and one nobody reads."""
    theirs = made("bart", tmp_path / "bart")
    change(tmp_path / "bart", lambda w: {name.removeprefix("model."): tensor for name, tensor in w.items()})
    assert_pairs_agree(EncoderDecoder.from_pretrained(tmp_path / "bart"), theirs)
    theirs = made("t5", tmp_path / "t5")
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    repeated = weights(tmp_path / "t5")["shared.weight"]
    change(tmp_path / "t5", lambda w: {**w, **{name: repeated.clone() for name in copies}, unread: torch.ones(8, 4)})
    ours = EncoderDecoder.from_pretrained(tmp_path / "t5")
    assert_pairs_agree(ours, theirs)
    assert ours.unused == (unread,)
    change(tmp_path / "t5", lambda w: {name: tensor for name, tensor in w.items() if name != "shared.weight"})
    assert_pairs_agree(EncoderDecoder.from_pretrained(tmp_path / "t5"), theirs)


def test_marks_and_settings_of_generation_are_kept(tmp_path: Path) -> None:
    made("bert, bert", tmp_path)
    settings = {"num_beams": 4, "decoder_start_token_id": 7, "eos_token_id": [3, 5]}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    ours = EncoderDecoder.from_pretrained(tmp_path)
    assert ours.marks == Marks(7, (3, 5), 0)  # what generate reads goes before config.json
    assert ours.generation == {"num_beams": 4}
    ours.save_pretrained(tmp_path / "ours")
    again = transformers.GenerationConfig.from_pretrained(tmp_path / "ours")
    assert (again.num_beams, again.decoder_start_token_id, again.eos_token_id, again.pad_token_id) == (4, 7, [3, 5], 0)
    assert EncoderDecoder.from_pretrained(tmp_path / "ours").marks == ours.marks


# What a folder may have beyond those of transformers


@pytest.mark.parametrize("name", ["bert, bert", "bert, gpt2", "t5"])
@pytest.mark.parametrize("kind", ["linear", "bottleneck", "resample"])
@torch.inference_mode()
def test_an_adapter_is_saved_and_read(name: str, kind: Any, tmp_path: Path) -> None:
    made(name, tmp_path / "plain")
    plain = EncoderDecoder.from_pretrained(tmp_path / "plain")
    gives, reads = plain.encoder.config.width, plain.decoder.config.memory
    assert reads is not None
    adapter = adapter_of(AdapterConfig(kind, gives, reads, inner=8, rows=5), torch.Generator().manual_seed(0))
    ours = changed(plain, adapter=adapter)
    ours.save_pretrained(tmp_path / "ours")
    projected = kind == "linear" and gives != reads  # which transformers has, too
    assert (tmp_path / "ours" / "adapter").is_dir() != projected
    again = EncoderDecoder.from_pretrained(tmp_path / "ours")
    sources = Ragged.of([[5, 6, 7], [8]])
    assert again.memory(sources).layout.lengths == ((5, 5) if kind == "resample" else (3, 1))
    assert again.memory(sources).data.equal(ours.memory(sources).data)
    if projected:
        assert_pairs_agree(ours, AUTO.from_pretrained(tmp_path / "ours").eval())
    else:
        classes = [AUTO, transformers.AutoModel, *([] if name == "t5" else [transformers.EncoderDecoderModel])]
        for one in classes:  # which would load it without the adapter
            with pytest.raises(ValueError, match="bothways-"):
                one.from_pretrained(tmp_path / "ours")
        again.save_pretrained(tmp_path / "again")
        configs = [(tmp_path / one / "config.json").read_bytes() for one in ("ours", "again")]
        assert configs[0] == configs[1]
        shutil.rmtree(tmp_path / "ours" / "adapter")
        with pytest.raises(CheckpointError, match="says that there is a folder adapter/, but there is none"):
            EncoderDecoder.from_pretrained(tmp_path / "ours")


def changed(model: EncoderDecoder, **parts: Any) -> EncoderDecoder:
    names = ("encoder", "decoder", "head", "family", "marks", "adapter", "tokenizer", "target_tokenizer")
    return EncoderDecoder(**{**{name: getattr(model, name) for name in (*names, "extras", "generation")}, **parts})


def test_a_second_tokenizer_is_saved_and_read_and_one_is_enough(tmp_path: Path) -> None:
    made("bert, bert", tmp_path / "one")
    write_bert_tokenizer(tmp_path / "one", 24)
    one = EncoderDecoder.from_pretrained(tmp_path / "one")
    assert one.tokenizer is one.target_tokenizer
    assert one.tokenizer is not None
    one.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "target_tokenizer").exists()
    (tmp_path / "one" / "target_tokenizer").mkdir()
    write_bert_tokenizer(tmp_path / "one" / "target_tokenizer", 24, do_lower_case=False)
    EncoderDecoder.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    two = EncoderDecoder.from_pretrained(tmp_path / "two")
    assert two.tokenizer is not None
    assert two.target_tokenizer is not None
    assert two.tokenizer.encode(["The cat"])[0].ids != two.target_tokenizer.encode(["The cat"])[0].ids


def resized(folder: Path, source: int, target: int) -> None:
    """Give the sides of a BERT with a BERT vocabularies of these sizes."""
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["vocab_size"], config["decoder"]["vocab_size"] = source, target
    (folder / "config.json").write_text(json.dumps(config))
    words = "bert.embeddings.word_embeddings.weight"

    def grown(w: Weights) -> Weights:
        sizes = {"encoder.embeddings.word_embeddings.weight": source, f"decoder.{words}": target}
        table = {name: torch.randn(rows, 32) for name, rows in sizes.items()}
        heads = {name: torch.zeros(target) for name in w if name.endswith(("predictions.bias", "decoder.bias"))}
        return {**{n: t for n, t in w.items() if "predictions.decoder.weight" not in n}, **table, **heads}

    change(folder, grown)


# What is refused


def change(folder: Path, how: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(how(tensors), file, {"format": "pt"})


def weights(folder: Path) -> Weights:
    return load_file(folder / "model.safetensors")


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda w: {name: tensor for name, tensor in w.items() if part not in name}


WRONG_WEIGHTS: dict[str, tuple[str, Callable[[Weights], Weights], str]] = {
    "no cross-attention": (
        "bert, bert",
        without("crossattention"),
        r"\(decoder\): no weights of cross-attention: encoder.layer.0.crossattention.self.query.weight.*and 17 more; "
        "this decoder was not trained to read an encoder",
    ),
    "one of it": ("bart", without("decoder.layers.1.encoder_attn.out_proj.bias"), "no weights of cross-attention: dec"),
    "of T5": ("t5", without("block.1.layer.1.EncDecAttention.q"), "no weights of cross-attention: decoder.block.1"),
    "no layer": ("bert, bert", without("encoder.encoder.layer.1"), r"\(encoder\): missing weights: encoder.layer.1"),
    "no words": ("t5", without("shared"), "missing weights: shared.weight"),
    "others": ("bert, bert", lambda w: {**w, "third.weight": torch.ones(1)}, "unexpected weights: third.weight"),
    "no map": (
        "bert, gpt2",
        without("enc_to_dec_proj"),
        "reads rows of 24, but gets rows of 32: an adapter is missing",
    ),
    "half a map": ("bert, gpt2", without("enc_to_dec_proj.bias"), "enc_to_dec_proj.bias is missing, but config.json"),
    "another table": (
        "t5",
        lambda w: {**w, "encoder.embed_tokens.weight": w["shared.weight"] + 1},
        r"\(encoder\): unexpected weights: encoder.embed_tokens.weight",
    ),
    "NaN": (
        "bart",
        lambda w: {**w, "model.encoder.layers.0.fc1.bias": torch.full((48,), float("nan"))},
        "fc1.bias holds NaN",
    ),
}


@pytest.mark.parametrize("case", WRONG_WEIGHTS)
def test_weights_that_do_not_fit_are_named(case: str, tmp_path: Path) -> None:
    name, how, said = WRONG_WEIGHTS[case]
    made(name, tmp_path)
    change(tmp_path, how)
    with pytest.raises(CheckpointError, match=said) as caught:
        EncoderDecoder.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


WRONG_CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no start": ("bert, bert", {"decoder_start_token_id": None}, "no decoder_start_token_id in generation_config.json"),
    "no end": ("t5", {"eos_token_id": None}, "no eos_token_id in generation_config.json or config.json"),
    "no pad": ("bart", {"pad_token_id": None}, "no pad_token_id"),
    "start beyond": ("t5", {"decoder_start_token_id": 40}, "decoder_start_token_id is 40; an id of the decoder's 40"),
    "end that is no id": ("t5", {"eos_token_id": "</s>"}, "eos_token_id is '</s>'; an id of"),
    "no such type": (
        "t5",
        {"model_type": "pegasus"},
        "unknown model_type 'pegasus'; known: encoder-decoder, bart, mt5, t5",
    ),
    "alone": ("t5", {"model_type": "bert"}, "bert is an encoder or a decoder alone; load it with bothways.Encoder"),
    "no decoder": ("bert, bert", {"decoder": None}, "the config of its decoder is missing"),
    "no reader": ("bert, bert", {"decoder.model_type": "mpnet"}, "mpnet, of which no decoders read an encoder; bert, "),
    "no decoding": ("bert, bert", {"decoder.is_decoder": False}, r"\(decoder\): is_decoder is False; bert models here"),
    "other widths": ("bert, bert", {"decoder.cross_attention_hidden_size": 9}, "cross_attention_hidden_size is 9"),
    "no width": ("t5", {"d_model": None}, "the key d_model is missing"),
    "no activation": ("t5", {"feed_forward_proj": "gated-loud"}, "dense_act_fn must be one of"),
    "no gate": ("t5", {"feed_forward_proj": "open-relu"}, "feed_forward_proj must be an activation, or gated- and one"),
    "other norms": ("bart", {"normalize_before": True}, "normalize_before is True; bart models here have False"),
    "sizes": ("bart", {"decoder_ffn_dim": 0}, "decoder_ffn_dim must be between 1 and"),
    "parts": ("t5", {"bothways_parts": 5}, "bothways_parts is 5; a list of folders was expected"),
    "depth": ("t5", {"num_decoder_layers": 9}, r"\(decoder\): no weights of cross-attention: decoder.block.2"),
}


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_configs_that_do_not_fit_are_named(case: str, tmp_path: Path) -> None:
    name, keys, said = WRONG_CONFIGS[case]
    made(name, tmp_path)
    for file in ("config.json", "generation_config.json"):
        if not (tmp_path / file).exists():
            continue
        config = json.loads((tmp_path / file).read_text())
        for key, value in keys.items():
            outer, _, inner = key.rpartition(".")
            (config.get(outer, {}) if outer else config)[inner] = value
        if "decoder" in config and isinstance(config["decoder"], dict):
            config["decoder"] = {k: v for k, v in config["decoder"].items() if k not in keys}
        (tmp_path / file).write_text(json.dumps(config))
    with pytest.raises((CheckpointError, ConfigError), match=said) as caught:
        EncoderDecoder.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_does_not_fit_a_side_is_refused(tmp_path: Path) -> None:
    made("bert, bert", tmp_path)
    resized(tmp_path, 110, 60)
    write_bert_tokenizer(tmp_path, 24)
    with pytest.raises(
        CheckpointError, match="but the decoder only 60 rows; put the target's own tokenizer into target_"
    ):
        EncoderDecoder.from_pretrained(tmp_path)
    (tmp_path / "target_tokenizer").mkdir()
    with pytest.raises(CheckpointError, match="target_tokenizer: no tokenizer in this folder"):
        EncoderDecoder.from_pretrained(tmp_path)
    write_bert_tokenizer(tmp_path / "target_tokenizer", 24)
    with pytest.raises(CheckpointError, match=r"target_tokenizer: the tokenizer has .* entries, but the model only 60"):
        EncoderDecoder.from_pretrained(tmp_path)


def test_what_another_model_left_in_a_folder_is_not_taken_along(tmp_path: Path) -> None:
    made("bert, bert", tmp_path / "start")
    model = EncoderDecoder.from_pretrained(tmp_path / "start")
    adapter = adapter_of(AdapterConfig("bottleneck", 32, 32), torch.Generator().manual_seed(0))
    changed(model, adapter=adapter).save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match="adapter is of another model, and this one has none: remove it"):
        model.save_pretrained(tmp_path / "saved")
    assert EncoderDecoder.from_pretrained(tmp_path / "saved").adapter is not None


def test_an_encoder_alone_is_not_what_they_are(tmp_path: Path) -> None:
    for name in ("bart", "bert, bert"):
        made(name, tmp_path)
        with pytest.raises(ConfigError, match="is an encoder with a decoder; load it with"):
            Encoder.from_pretrained(tmp_path)


def test_an_adapter_must_fit_both_sides(tmp_path: Path) -> None:
    made("t5", tmp_path)
    model = EncoderDecoder.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="the adapter reads rows of 30, the encoder's are 32"):
        changed(model, adapter=adapter_of(AdapterConfig("linear", 30, 32)))
    with pytest.raises(CheckpointError, match="the decoder reads rows of 32, but gets rows of 20"):
        changed(model, adapter=adapter_of(AdapterConfig("linear", 32, 20)))
    with pytest.raises(CheckpointError, match="no cross-attention"):
        changed(model, decoder=model.encoder)
