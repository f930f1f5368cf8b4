"""`bothways pretrain --help` says something of every key."""

from __future__ import annotations

import re

from bothways.cli.keys import keys_told
from bothways.cli.settings import known_keys


def test_every_key_is_told_with_its_default() -> None:
    told = " ".join(keys_told().split())
    for key in known_keys():
        assert re.search(rf"\b{key} \([^)]+\)", told), key
    assert "batch_tokens (2048): tokens computed at a time" in told
    assert "mask (0.8), random (0.1): shares" in told
    assert "Raises" not in told
