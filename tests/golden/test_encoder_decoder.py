"""Encoder–decoders of transformers: equal logits, loaded and saved, and what cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from small_pairs import MAKERS, assert_pairs_agree, made

from bothways import EncoderDecoder

AUTO = transformers.AutoModelForSeq2SeqLM


@pytest.mark.parametrize("name", MAKERS)
def test_logits_are_those_of_transformers_and_of_what_it_makes_of_our_folder(name: str, tmp_path: Path) -> None:
    theirs = made(name, tmp_path / "theirs")
    ours = EncoderDecoder.from_pretrained(tmp_path / "theirs")
    assert ours.unused == ()
    assert_pairs_agree(ours, theirs)
    ours.save_pretrained(tmp_path / "ours")
    again, report = AUTO.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {key: list(found) for key, found in report.items() if found} == {}
    assert_pairs_agree(ours, again.eval())
    assert_pairs_agree(EncoderDecoder.from_pretrained(tmp_path / "ours"), theirs)
