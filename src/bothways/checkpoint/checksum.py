"""What stands for a model: the same for the same weights, settings and vocabulary, wherever its folder is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
from torch import nn

from bothways.checkpoint.encoder import Encoder
from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.text.tokenizer import Tokenizer

__all__ = ["checksum"]


def checksum(model: Encoder | EncoderDecoder) -> str:
    """32 hexadecimal digits."""
    found = blake2b(digest_size=16)
    for part, module in _modules(model).items():
        for name, tensor in module.state_dict().items():
            found.update(f"{part}.{name} {tuple(tensor.shape)}".encode())
            found.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    for said in _said(model):
        found.update(said.encode("utf-8", errors="backslashreplace"))
    return found.hexdigest()


def _modules(model: Encoder | EncoderDecoder) -> Mapping[str, nn.Module]:
    if isinstance(model, Encoder):
        return {"": model.network, **dict(sorted(model.heads.items()))}
    between = {} if model.adapter is None else {"adapter": model.adapter}
    return {"encoder": model.encoder, "decoder": model.decoder, "head": model.head, **between}


def _said(model: Encoder | EncoderDecoder) -> list[str]:
    extras = json.dumps(model.extras, sort_keys=True, default=repr)
    if isinstance(model, Encoder):
        return [repr(model.config), extras, *_words(model.tokenizer)]
    said = [repr(one) for one in (model.encoder.config, model.decoder.config, model.marks)]
    return [*said, extras, *_words(model.tokenizer), *_words(model.target_tokenizer)]


def _words(tokenizer: Tokenizer | None) -> list[str]:
    return ["" if tokenizer is None else tokenizer.backend.to_str()]
