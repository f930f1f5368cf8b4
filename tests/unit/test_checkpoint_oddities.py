"""What real checkpoints are: class names of siblings, decoders of their own, buffers stored twice, scaled rotation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import agreement

from bothways import ConfigError, Encoder, Ragged

Save = Callable[..., Path]


def change_config(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    ("family", "kind", "name", "head"),
    [
        ("xlm-roberta", "ForTokenClassification", "RobertaForTokenClassification", "tag"),
        ("camembert", "ForSequenceClassification", "XLMRobertaForSequenceClassification", "classify"),
        ("roberta", "ForMultipleChoice", "CamembertForMultipleChoice", "choose"),
    ],
)
def test_a_head_is_known_by_the_ending_of_its_class(
    save_family: Save, family: str, kind: str, name: str, head: str
) -> None:
    folder = save_family(family, kind=kind)
    change_config(folder, architectures=[name])
    assert list(Encoder.from_pretrained(folder).heads) == [head]


@pytest.mark.parametrize(
    ("family", "decoder"),
    [("bert", "cls.predictions.decoder.weight"), ("roberta", "lm_head.decoder.weight")],
)
def test_a_decoder_that_differs_from_the_embeddings_it_should_share_is_kept(
    save_family: Save, tmp_path: Path, family: str, decoder: str
) -> None:
    folder = save_family(family, kind="ForMaskedLM")
    tensors = load_file(folder / "model.safetensors")
    words = next(tensor for name, tensor in tensors.items() if "word_embeddings" in name)
    save_file({**tensors, decoder: torch.randn_like(words)}, folder / "model.safetensors", {"format": "pt"})
    encoder = Encoder.from_pretrained(folder)
    assert encoder.unused == ()
    with torch.inference_mode():
        agreement(encoder, transformers.AutoModelForMaskedLM.from_pretrained(folder).eval())
    encoder.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    with torch.inference_mode():
        agreement(encoder, transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval())


def test_position_ids_of_two_savings_are_not_the_same_weight_twice(save_family: Save) -> None:
    folder = save_family("bert", kind="ForMaskedLM")
    tensors = load_file(folder / "model.safetensors")
    rows = {name: torch.arange(24)[None] for name in ("bert.embeddings.position_ids", "embeddings.position_ids")}
    save_file({**tensors, **rows}, folder / "model.safetensors", {"format": "pt"})
    assert list(Encoder.from_pretrained(folder).heads) == ["mlm"]


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"full_attention": {"type": "linear", "factor": 4.0, "rope_theta": 500.0}}},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "partial_rotary_factor": 0.5}}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_parameters": [1]},
    ],
)
def test_rotary_positions_that_are_scaled_are_refused(save_family: Save, keys: dict[str, Any]) -> None:
    folder = save_family("modernbert")
    change_config(folder, **keys)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(folder))}.*{next(iter(keys))}"):
        Encoder.from_pretrained(folder)


def test_without_absolute_positions_a_text_may_be_longer_than_the_config_says(save_family: Save) -> None:
    folder = save_family("deberta-v2", max_position_embeddings=24)
    encoder = Encoder.from_pretrained(folder)
    assert encoder.network.embeddings.positions is None
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    ids = torch.randint(0, encoder.config.vocab, (61,))
    with torch.inference_mode():
        ours = encoder.network(Ragged.of([ids])).last.data
        torch.testing.assert_close(ours, reference(ids[None]).last_hidden_state[0], atol=1e-4, rtol=0)


def test_weights_of_another_family_are_named(save_family: Save) -> None:
    folder = save_family("distilbert")
    raw = json.loads((save_family("bert") / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(
        ValueError, match=r"missing weights: .*; the file has, among others, \S*(transformer|embeddings)"
    ):
        Encoder.from_pretrained(folder)
