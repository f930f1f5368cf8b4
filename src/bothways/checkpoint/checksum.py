"""What stands for a model: the same for the same weights, settings and vocabulary, wherever its folder is."""

from __future__ import annotations

import json
from hashlib import blake2b

import numpy as np

from bothways.checkpoint.encoder import Encoder

__all__ = ["checksum"]


def checksum(encoder: Encoder) -> str:
    """32 hexadecimal digits."""
    found = blake2b(digest_size=16)
    modules = {"": encoder.network, **dict(sorted(encoder.heads.items()))}
    for part, module in modules.items():
        for name, tensor in module.state_dict().items():
            found.update(f"{part}.{name} {tuple(tensor.shape)}".encode())
            found.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    tokens = "" if encoder.tokenizer is None else encoder.tokenizer.backend.to_str()
    for said in (repr(encoder.config), json.dumps(encoder.extras, sort_keys=True, default=repr), tokens):
        found.update(said.encode("utf-8", errors="backslashreplace"))
    return found.hexdigest()
