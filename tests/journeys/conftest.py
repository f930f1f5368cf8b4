"""Models for the journeys: a tiny one that fills masks, and one with the outer sizes of bert-base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def tiny_masked(save_bert: Callable[..., Path]) -> Path:
    return save_bert(kind="BertForMaskedLM")


@pytest.fixture(scope="session")
def base_sized_masked(save_bert: Callable[..., Path], vocab: list[str]) -> Path:
    """12 layers of width 768 as bert-base has, but a small vocabulary and feed-forward part, stored in fp16."""
    folder = save_bert(
        kind="BertForMaskedLM",
        dtype=torch.float16,
        std=0.02,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=16,
        vocab_size=len(vocab) + 2,
        max_position_embeddings=512,
    )
    with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("hello\nworld\n")
    return folder
