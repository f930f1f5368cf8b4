"""What learns to write: it can learn a handful of rows by heart, goes on as if it had not been stopped, and leaves
models that transformers loads; whatever cannot be is one line.
"""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_models import VOCAB, write_bert_tokenizer
from small_pairs import assert_pairs_agree, made
from small_rows import reversed_texts

import bothways
from bothways.data.parallel import Parallel
from bothways.errors import CheckpointError, ConfigError, InputError, TruncationWarning
from bothways.families import FAMILIES
from bothways.train import seq2seq
from bothways.train.finetune import Taught
from bothways.train.seq2seq import finetune_generate
from bothways.train.seq2seq_rows import samples_of
from bothways.train.seq2seq_settings import (
    AdapterSettings,
    DecoderSettings,
    JudgingSettings,
    Seq2SeqAdam,
    Seq2SeqSettings,
    SidesSettings,
    SmoothingSettings,
    SourceSettings,
)
from bothways.train.settings import UpdateSettings
from bothways.train.tuning import RowSettings, TuningRun

Save = Callable[..., Path]
FP32 = UpdateSettings(precision="fp32")
QUIET = JudgingSettings(metrics=("none",))

pytestmark = pytest.mark.usefixtures("unmeasured")


def settings(model: Path, **parts: Any) -> Seq2SeqSettings:
    usual = {
        "source": SourceSettings(str(model)),
        "rows": RowSettings(epochs=2, batch_size=6),
        "adam": Seq2SeqAdam(lr=1e-3),
        "update": FP32,
        "judging": QUIET,
    }
    return Seq2SeqSettings(**{**usual, **parts})


def by_heart(model: Path, output: Path, texts: list[Parallel], lr: float = 1e-2, **parts: Any) -> Taught:
    """Learn rows until nothing is left to learn; evaluated on the same ones."""
    usual = {
        "source": SourceSettings(str(model), dropout=0.0),
        "rows": RowSettings(epochs=80, batch_size=8),
        "adam": Seq2SeqAdam(lr=lr, weight_decay=0.0),
        "smoothing": SmoothingSettings(0.0),
        "judging": JudgingSettings(metrics=("chrf",), max_new_tokens=12),
        "run": TuningRun(evaluate_every=1000),
    }
    return finetune_generate(texts, texts, settings(model, **{**usual, **parts}), output)


WAYS: dict[str, dict[str, Any]] = {
    "fresh": {},
    "fresh, narrower": {"decoder": DecoderSettings(width=24, heads=3)},
    "copy": {"decoder": DecoderSettings("copy")},
    "resampled": {"adapter": AdapterSettings("resample", adapter_rows=6)},
    "bottleneck": {"adapter": AdapterSettings("bottleneck", adapter_inner=8)},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_handful_of_rows_is_learnt_by_heart_and_then_written(save_bert: Save, way: str, tmp_path: Path) -> None:
    folder, rows = save_bert(std=0.1), reversed_texts(5)
    taught = by_heart(folder, tmp_path, rows, **WAYS[way])
    assert taught.metrics["loss"] < 0.1
    assert taught.metrics["accuracy"] == 1.0
    assert taught.metrics["chrf"] == pytest.approx(100.0)
    write = bothways.pipeline("text2text-generation", tmp_path / "model", device="cpu")
    found = write([row.source for row in rows], num_beams=1, max_new_tokens=12)
    assert [one["generated_text"] for (one,) in found] == [row.targets[0] for row in rows]


def test_a_frozen_encoder_is_learnt_from_as_one_that_does_not_change(save_bert: Save, tmp_path: Path) -> None:
    """Its rows, computed once, are those that it would give each time, and it is what it was."""
    folder, rows = save_bert(std=0.2), reversed_texts(12)
    source = SourceSettings(str(folder), layers=0, dropout=0.0)
    losses: dict[str, list[float]] = {"frozen": [], "at no rate": []}
    for name, changed in {
        "frozen": settings(folder, source=source),
        "at no rate": settings(
            folder, source=replace(source, layers=None), adam=Seq2SeqAdam(lr=1e-3, encoder_lr=0.0, weight_decay=0.0)
        ),
    }.items():
        changed = replace(changed, adam=replace(changed.adam, weight_decay=0.0))
        finetune_generate(
            rows,
            [],
            changed,
            tmp_path / name,
            watch=lambda event, _, name=name: losses[name].append(event.result.loss) if event.result else None,
        )
    assert losses["frozen"] == pytest.approx(losses["at no rate"], rel=1e-5)
    assert not (tmp_path / "frozen" / "states.f32").exists()
    before = bothways.Encoder.from_pretrained(folder).network.state_dict()
    after = bothways.EncoderDecoder.from_pretrained(tmp_path / "frozen" / "model").encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_an_encoder_learns_at_its_own_rate_and_only_its_last_layers(save_bert: Save, tmp_path: Path) -> None:
    folder, rows = save_bert(std=0.2), reversed_texts(12)
    finetune_generate(rows, [], settings(folder, source=SourceSettings(str(folder), layers=1)), tmp_path)
    before = bothways.Encoder.from_pretrained(folder).network.state_dict()
    after = bothways.EncoderDecoder.from_pretrained(tmp_path / "model").encoder.state_dict()
    changed = {name.split(".")[1] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"1"}


STOPPED: dict[str, dict[str, Any]] = {
    "fresh": {"update": UpdateSettings(precision="fp32", ema=0.5)},
    "frozen": {"source": ("layers", 0), "adapter": AdapterSettings("resample", adapter_rows=3)},
    "half precision": {"update": UpdateSettings(precision="bf16"), "decoder": DecoderSettings("copy")},
    "own rate": {"source": ("layers", 1), "adam": Seq2SeqAdam(lr=1e-3, encoder_lr=1e-4)},
}


@pytest.mark.parametrize("way", STOPPED)
def test_a_run_goes_on_as_if_it_had_not_been_stopped(save_bert: Save, way: str, tmp_path: Path) -> None:
    folder, parts = save_bert(std=0.1), dict(STOPPED[way])
    if "source" in parts:
        parts["source"] = SourceSettings(str(folder), **dict([parts["source"]]))
    changed = settings(folder, **parts, rows=RowSettings(epochs=3, batch_size=6))

    def run(output: Path, **options: Any) -> Taught:
        return finetune_generate(reversed_texts(20), reversed_texts(6, 1), changed, output, **options)

    def stop(event: Any, reading: Any) -> None:
        if event.kind == "step" and event.progress.step == 5:
            signal.raise_signal(signal.SIGINT)

    assert run(tmp_path / "whole").outcome.finished
    assert not run(tmp_path / "parts", watch=stop).outcome.finished
    said = list[str]()
    assert run(tmp_path / "parts", resume=True, told=said.append).outcome.finished
    assert f"{tmp_path / 'parts'}: goes on from step 5" in said
    for name in ("model", "best"):
        for file in ("config.json", "generation_config.json", "model.safetensors", "adapter/model.safetensors"):
            whole, there = (tmp_path / one / name / file for one in ("whole", "parts"))
            assert whole.exists() == there.exists()
            assert not whole.exists() or whole.read_bytes() == there.read_bytes()
    log = [(tmp_path / one / "metrics.jsonl").read_bytes() for one in ("whole", "parts")]
    assert log[0] == log[1]


ENCODERS = [name for name, family in FAMILIES.items() if not family.template.causal]


@pytest.mark.parametrize("family", ENCODERS)
def test_every_encoder_gets_a_decoder_that_transformers_loads(save_family: Save, family: str, tmp_path: Path) -> None:
    folder = save_family(family, std=0.1)
    changed = settings(folder, rows=RowSettings(epochs=1, batch_size=6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        finetune_generate(reversed_texts(6), [], changed, tmp_path)
    theirs, told = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    poolers = {key for key in told["missing_keys"] if ".pooler." in key}
    assert set(told["missing_keys"]) == poolers
    assert not told["unexpected_keys"]
    assert_pairs_agree(bothways.EncoderDecoder.from_pretrained(tmp_path / "model"), theirs.eval())


COPIED = [name for name in ENCODERS if FAMILIES[name].cross]


@pytest.mark.parametrize("family", COPIED)
def test_a_copy_is_the_encoder_but_for_its_attention_to_the_source(
    save_family: Save, family: str, tmp_path: Path
) -> None:
    """With its head where the encoder has one."""
    folder, said = save_family(family, kind="ForMaskedLM", std=0.1), list[str]()
    changed = settings(folder, decoder=DecoderSettings("copy"), adam=Seq2SeqAdam(lr=0.0, weight_decay=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        finetune_generate(reversed_texts(6), [], changed, tmp_path, told=said.append)
    assert "fresh in the decoder: attention to the source" in said
    before = bothways.Encoder.from_pretrained(folder)
    pair = bothways.EncoderDecoder.from_pretrained(tmp_path / "model")
    theirs = before.network.state_dict()
    for name, parameter in pair.decoder.state_dict().items():
        assert ".cross" in name or torch.equal(parameter, theirs[name]), name
    for name, parameter in pair.head.state_dict().items():
        assert torch.equal(parameter, before.heads["mlm"].state_dict()[name]), name


def test_a_decoder_alone_becomes_one_that_reads_an_encoder(save_bert: Save, save_family: Save, tmp_path: Path) -> None:
    gpt2, said = save_family("gpt2", kind="LMHeadModel", std=0.1), list[str]()
    changed = settings(save_bert(), decoder=DecoderSettings(str(gpt2)))
    finetune_generate(reversed_texts(6), [], changed, tmp_path, told=said.append)
    assert "fresh in the decoder: attention to the source" in said
    pair = bothways.EncoderDecoder.from_pretrained(tmp_path / "model")
    assert (pair.family.decoder.model_type, pair.marks.start, pair.marks.end) == ("gpt2", 2, (3,))


def test_a_model_with_a_decoder_goes_on_and_lends_its_decoder(save_bert: Save, tmp_path: Path) -> None:
    folder, rows = save_bert(std=0.1), reversed_texts(5)
    by_heart(folder, tmp_path / "first", rows)
    whole = tmp_path / "first" / "model"
    still = settings(whole, adam=Seq2SeqAdam(lr=0.0, weight_decay=0.0), judging=JudgingSettings(("chrf",)))
    several = [replace(row, targets=("a house", *row.targets)) for row in rows]  # any of them is right
    assert finetune_generate(rows, several, still, tmp_path / "on").metrics["chrf"] == pytest.approx(100.0)
    lent = replace(still, source=SourceSettings(str(folder)), decoder=DecoderSettings(str(whole)))
    finetune_generate(rows, rows, lent, tmp_path / "lent")
    ours, theirs = (bothways.EncoderDecoder.from_pretrained(one) for one in (whole, tmp_path / "lent" / "model"))
    for side in ("decoder", "head"):
        pairs = zip(getattr(ours, side).parameters(), getattr(theirs, side).parameters())
        assert all(torch.equal(one, other) for one, other in pairs)
    assert ours.marks == theirs.marks


def test_trained_parts_are_not_replaced_unless_that_is_said(save_bert: Save, tmp_path: Path) -> None:
    finetune_generate(reversed_texts(6), [], settings(save_bert()), tmp_path / "first")
    start = tmp_path / "first" / "model"
    depth, adapter = DecoderSettings(depth=1), AdapterSettings("bottleneck")
    said = refused(tmp_path, settings(start, decoder=depth))
    assert said.startswith(f"depth is of a fresh decoder, but {start} has a trained one: leave it out, or say decoder")
    said = refused(tmp_path, settings(start, adapter=adapter))
    assert said.startswith(f"adapter is bottleneck, but the sides of {start} were trained with no adapter between them")
    anew = settings(start, decoder=replace(depth, decoder="fresh"), adapter=adapter)
    finetune_generate(reversed_texts(6), [], anew, tmp_path / "anew")
    replaced = bothways.EncoderDecoder.from_pretrained(tmp_path / "anew" / "model")
    assert replaced.decoder.config.depth == 1
    assert replaced.adapter is not None
    again = settings(tmp_path / "anew" / "model", adapter=adapter)
    assert "were trained with a bottleneck adapter between them" in refused(tmp_path, again)


def of_one_config(name: str, folder: Path) -> Path:
    """A model whose marks and tokenizer are its own."""
    model = made(name, folder)
    model.resize_token_embeddings(len(VOCAB))
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = 2
    model.config.eos_token_id = model.generation_config.eos_token_id = 3
    model.save_pretrained(folder)
    write_bert_tokenizer(folder, 24)
    return folder


@pytest.mark.parametrize("name", ["bart", "t5", "mt5"])
def test_models_of_one_config_learn_by_heart(name: str, tmp_path: Path) -> None:
    folder, rows = of_one_config(name, tmp_path / "start"), reversed_texts(6, words=4)
    taught = by_heart(folder, tmp_path / "run", rows, rows=RowSettings(epochs=120, batch_size=8), lr=8e-3)
    assert taught.outcome.finished
    assert taught.metrics["chrf"] == pytest.approx(100.0)
    transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "model")


def test_a_decoder_alone_learns_to_go_on_from_a_source(save_family: Save, tmp_path: Path) -> None:
    folder, rows = save_family("gpt2", kind="LMHeadModel", std=0.1), reversed_texts(5)
    taught = by_heart(folder, tmp_path, rows)
    assert taught.metrics["chrf"] == pytest.approx(100.0)
    transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    assert "goes on from a source with '\\n' behind it" in (tmp_path / "model" / "README.md").read_text()
    write = bothways.pipeline("text-generation", tmp_path / "model", device="cpu")
    assert [one["generated_text"].strip() for (one,) in write([row.source for row in rows])] == [
        row.targets[0] for row in rows
    ]


def test_a_separator_stays_behind_a_source_that_is_cut_and_goes_with_the_model(
    save_family: Save, tmp_path: Path
) -> None:
    folder, long = save_family("gpt2", kind="LMHeadModel", std=0.1), Parallel(" ".join(["dog"] * 40), ("a",), "row 7")
    sides = SidesSettings(max_source_length=9, separator=" to the")
    with pytest.warns(TruncationWarning, match="1 of 7 rows were cut"):
        finetune_generate([*reversed_texts(6), long], [], settings(folder, sides=sides), tmp_path / "first")
    model = bothways.Encoder.from_pretrained(tmp_path / "first" / "model")
    assert (model.extras["bothways_separator"], model.extras["bothways_source_length"]) == (" to the", 9)
    samples = list(samples_of(model, [long], Seq2SeqSettings()))
    assert model.tokenizer is not None
    ids = list(samples[0].sequences[0].ids)
    assert model.tokenizer.decode(ids, skip_special=True) == "dog dog dog dog dog to the"
    again = settings(tmp_path / "first" / "model")  # nothing is said of it
    with pytest.warns(TruncationWarning, match="1 of 7 rows were cut"):
        finetune_generate([*reversed_texts(6), long], [], again, tmp_path / "again")
    config = json.loads((tmp_path / "again" / "model" / "config.json").read_text())
    assert (config["bothways_separator"], config["bothways_source_length"]) == (" to the", 9)


def test_a_prefix_goes_with_the_model_until_another_is_said(save_bert: Save, tmp_path: Path) -> None:
    def prefix_after(start: Path, name: str, **parts: Any) -> str | None:
        finetune_generate(reversed_texts(6), [], settings(start, **parts), tmp_path / name)
        found = json.loads((tmp_path / name / "model" / "config.json").read_text())
        return found.get("bothways_prefix")  # type: ignore[no-any-return]

    first = tmp_path / "first" / "model"
    assert prefix_after(save_bert(), "first", sides=SidesSettings(prefix="the cat ")) == "the cat "
    assert prefix_after(first, "on") == "the cat "
    assert prefix_after(first, "other decoder", decoder=DecoderSettings("fresh", depth=1)) == "the cat "
    assert prefix_after(first, "other encoder", source=SourceSettings(str(first), fresh_encoder=True)) == "the cat "
    assert prefix_after(first, "other prefix", sides=SidesSettings(prefix="a ")) == "a "
    assert prefix_after(first, "none", sides=SidesSettings(prefix="")) == ""
    assert prefix_after(tmp_path / "none" / "model", "still none") == ""
    with pytest.raises(InputError, match="a limit of 4 tokens leaves no room for a text behind the prefix 'the cat '"):
        prefix_after(first, "no room", sides=SidesSettings(max_source_length=4))


def test_what_is_written_for_a_row_held_out_depends_on_no_longer_one(
    save_family: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources held out are cut as those that are learnt from, and each has the room that is behind it."""
    folder, texts = save_family("gpt2", kind="LMHeadModel", std=0.1), list[list[str]]()
    short, long = reversed_texts(3), Parallel(" ".join(["dog"] * 40), ("a",), "row 4")
    write = seq2seq.written
    monkeypatch.setattr(seq2seq, "written", lambda *about: texts.append(write(*about)) or texts[-1])
    changed = settings(folder, judging=JudgingSettings(metrics=("chrf",)), sides=SidesSettings(20, 3))
    for held in (short, [*short, long]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            finetune_generate(reversed_texts(6), held, changed, tmp_path / f"{len(held)}")
    alone, beside = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    assert [len(one) for one in beside] == [4] * len(alone)
    assert [one[:3] for one in beside] == alone


def test_targets_may_have_a_tokenizer_of_their_own(save_bert: Save, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    other.mkdir()
    write_bert_tokenizer(other, 24)
    lines = VOCAB[:5] + sorted(VOCAB[5:], reverse=True)[:80] + ["reversed", *VOCAB[5:20]]
    (other / "vocab.txt").write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")
    rows = reversed_texts(5)
    taught = by_heart(save_bert(std=0.1), tmp_path / "run", rows, decoder=DecoderSettings(target_tokenizer=str(other)))
    assert taught.metrics["chrf"] == pytest.approx(100.0)
    pair = bothways.EncoderDecoder.from_pretrained(tmp_path / "run" / "model")
    assert pair.target_tokenizer is not pair.tokenizer
    assert pair.decoder.config.vocab == pair.target_tokenizer.vocab_size != pair.encoder.config.vocab


def test_a_fresh_encoder_knows_nothing_of_the_old_weights(save_bert: Save, tmp_path: Path) -> None:
    rows = reversed_texts(6)
    files = []
    for seed in (1, 2):
        folder = save_bert(std=0.1, seed=seed)
        source = SourceSettings(str(folder), fresh_encoder=True)
        finetune_generate(rows, [], settings(folder, source=source), tmp_path / str(seed))
        files.append((tmp_path / str(seed) / "model" / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_which_of_several_targets_are_learnt_is_said(save_bert: Save, tmp_path: Path) -> None:
    rows = [replace(row, targets=(*row.targets, "a dog", "blue")) for row in reversed_texts(6)]
    steps = {}
    for which in ("first", "all", "joined"):
        changed = settings(save_bert(), sides=SidesSettings(targets=which), rows=RowSettings(epochs=1, batch_size=6))
        steps[which] = finetune_generate(rows, [], changed, tmp_path / which).outcome.progress
    assert [one.step for one in steps.values()] == [1, 3, 1]
    assert steps["first"].tokens < steps["joined"].tokens < steps["all"].tokens


# What cannot be


def refused(tmp_path: Path, changed: Seq2SeqSettings, rows: list[Parallel] | None = None) -> str:
    """The one line that a run ends with before it begins."""
    with pytest.raises((InputError, ConfigError, CheckpointError)) as raised:
        finetune_generate(reversed_texts(6) if rows is None else rows, [], changed, tmp_path / "refused")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "refused" / "model").exists()
    return str(raised.value)


def test_a_target_longer_than_the_positions_is_named_and_can_be_cut(save_bert: Save, tmp_path: Path) -> None:
    rows = [*reversed_texts(5), Parallel("a", (" ".join(["dog"] * 30),), "long.tsv: line 6")]
    said = refused(tmp_path, settings(save_bert()), rows)
    assert said.startswith("long.tsv: line 6: its target has 31 tokens, but the decoder has 24 positions")
    assert "--max-target-length 24" in said
    cut = settings(save_bert(), sides=SidesSettings(max_target_length=24))
    with pytest.warns(TruncationWarning, match="1 of 6 rows were cut"):
        finetune_generate(rows, [], cut, tmp_path / "cut")
    asked = settings(save_bert(), sides=SidesSettings(max_target_length=25))
    assert "max_target_length is 25, but the model takes 24" in refused(tmp_path, asked)


def test_a_source_that_is_too_long_is_cut_and_told(save_bert: Save, tmp_path: Path) -> None:
    rows = [*reversed_texts(5), Parallel(" ".join(["dog"] * 30), ("a",), "row 6")]
    with pytest.warns(TruncationWarning, match=r"1 of 6 rows were cut \(the longest had 34 tokens"):
        finetune_generate(rows, [], settings(save_bert()), tmp_path)


def test_a_target_tokenizer_must_fit_a_decoder_that_is_trained_already(save_bert: Save, tmp_path: Path) -> None:
    folder = save_bert()
    finetune_generate(reversed_texts(6), [], settings(folder), tmp_path / "first")
    start = tmp_path / "first" / "model"
    for name, lines in {"longer": [*VOCAB, "more"], "others": [*VOCAB[:5], *reversed(VOCAB[5:])]}.items():
        other = tmp_path / name
        other.mkdir()
        write_bert_tokenizer(other, 24)
        (other / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        own = DecoderSettings(target_tokenizer=str(other))
        said = refused(tmp_path, settings(start, decoder=own))
        longer = f"target_tokenizer has {len(VOCAB) + 1} entries, but the decoder of {start} only {len(VOCAB)} rows"
        assert said.startswith(longer if name == "longer" else f"{start}: its decoder's words are others: '##9'")
        lent = settings(folder, decoder=replace(own, decoder=str(start)))
        assert refused(tmp_path, lent).split(":")[0] == said.split(":")[0]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"adapter": AdapterSettings("none"), "decoder": DecoderSettings(width=24, heads=3)}, "do not become 24 wide"),
        ({"adapter": AdapterSettings("resample", adapter_heads=5)}, "heads of an adapter is 5, which does not divide"),
        ({"decoder": DecoderSettings(width=30, heads=4)}, "width 30 cannot be split over 4 heads"),
        ({"decoder": DecoderSettings("/nowhere")}, "/nowhere: no such folder"),
        ({"decoder": DecoderSettings(target_tokenizer="/nowhere")}, "/nowhere: no such folder"),
        ({"source": SourceSettings("")}, "model is missing: say what to begin with"),
        ({"sides": SidesSettings(max_source_length=25)}, "max_source_length is 25, but the model takes 24"),
        ({"judging": JudgingSettings(num_beams=400)}, "num_beams 400 is more than the"),
        ({"judging": JudgingSettings(num_beams=40_000)}, "num_beams must be a whole number from 1 to 4,096, got 40000"),
        ({"update": UpdateSettings(precision="fp32", warmup=99)}, "warmup must be between 0 and the 2 steps"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(
    save_bert: Save, parts: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in refused(tmp_path, settings(save_bert(), **parts))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SourceSettings("m", fresh_encoder=True, layers=1), "fresh_encoder and layers are both given"),
        (lambda: DecoderSettings("copy", depth=2), "depth is of a fresh decoder, but decoder is copy"),
        (
            lambda: AdapterSettings("linear", adapter_rows=8),
            "adapter_rows is of a resample adapter, but adapter is linear",
        ),
        (
            lambda: AdapterSettings(adapter_act="relu"),
            "adapter_act is of a bottleneck adapter, but adapter is not given",
        ),
        (
            lambda: Seq2SeqSettings(SourceSettings("m", layers=0), adam=Seq2SeqAdam(encoder_lr=1e-4)),
            "encoder_lr is given, but layers is 0",
        ),
        (lambda: AdapterSettings("lineal"), "adapter must be one of none, linear, bottleneck, resample"),
        (lambda: JudgingSettings(metrics=("blue",)), "metrics must be one of bleu, chrf, rouge, none, got 'blue'"),
        (lambda: JudgingSettings(metrics=("bleu",), best="chrf"), "best must be one of loss, accuracy, bleu"),
        (lambda: SmoothingSettings(1.0), "smoothing must be 0 or more and less than 1"),
    ],
)
def test_settings_that_cannot_be_are_one_line(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_families_without_decoders_cannot_be_copied(save_family: Save, tmp_path: Path) -> None:
    changed = settings(save_family("distilbert"), decoder=DecoderSettings("copy"))
    assert "is a distilbert model, of which there are no decoders that read an encoder; say fresh" in refused(
        tmp_path, changed
    )


def test_what_is_said_of_two_networks_is_refused_of_one(save_family: Save, tmp_path: Path) -> None:
    folder = save_family("gpt2", kind="LMHeadModel")
    for key, parts in {
        "decoder": {"decoder": DecoderSettings("fresh")},
        "adapter": {"adapter": AdapterSettings("linear")},
        "encoder_lr": {"adam": Seq2SeqAdam(encoder_lr=1e-4)},
    }.items():
        said = refused(tmp_path, settings(folder, **parts))
        assert said.startswith(f"{key} is for an encoder with a decoder, but {folder} is a decoder alone")
    frozen = settings(folder, source=SourceSettings(str(folder), layers=0))
    assert "layers is 0" in refused(tmp_path, frozen)


def test_a_run_is_not_resumed_with_other_rows(save_bert: Save, tmp_path: Path) -> None:
    changed = settings(save_bert())
    finetune_generate(reversed_texts(12), [], changed, tmp_path)
    with pytest.raises(InputError, match="its rows were others than these"):
        finetune_generate(reversed_texts(12, 1), [], changed, tmp_path, resume=True)


def test_a_folder_that_gives_several_texts_is_judged_by_one(save_bert: Save, tmp_path: Path) -> None:
    rows = reversed_texts(5)
    finetune_generate(rows, [], settings(save_bert()), tmp_path / "first")
    path = tmp_path / "first" / "model" / "generation_config.json"
    several = {"num_beams": 4, "num_return_sequences": 2, "forced_bos_token_id": 7}
    path.write_text(json.dumps({**json.loads(path.read_text()), **several}))
    judging = JudgingSettings(metrics=("chrf",), max_new_tokens=5)
    again = settings(tmp_path / "first" / "model", judging=judging)
    assert "chrf" in finetune_generate(rows, rows, again, tmp_path / "again").metrics
    path.write_text(json.dumps({**json.loads(path.read_text()), "suppress_tokens": [7]}))
    assert "forced_bos_token_id 7 is one of suppress_tokens" in refused(tmp_path, again)


def test_words_that_both_sides_share_follow_the_encoder_and_that_is_told(tmp_path: Path) -> None:
    folder = of_one_config("t5", tmp_path / "t5")
    for source, adam, said in (
        (SourceSettings(str(folder), layers=0), Seq2SeqAdam(lr=1e-3), "which do not learn"),
        (SourceSettings(str(folder)), Seq2SeqAdam(lr=1e-3, encoder_lr=1e-5), "learn at its rate"),
    ):
        told: list[str] = []
        asked = settings(folder, source=source, adam=adam)
        finetune_generate(reversed_texts(5), [], asked, tmp_path / said, told=told.append)
        assert any(said in line for line in told)
