"""Small random encoder–decoders, made by transformers, and the comparison with what we make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from small_models import SAVE_FAMILY, randomise
from torch import Tensor

from bothways import EncoderDecoder, Ragged

BART = {
    "vocab_size": 40,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 24,
    "init_std": 0.2,
}
T5 = {
    "vocab_size": 40,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
MARKS = {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def bart(**keys: Any) -> Any:
    return transformers.BartForConditionalGeneration(transformers.BartConfig(**{**BART, **keys}))


def t5(**keys: Any) -> Any:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**{**T5, **keys}))


def mt5(**keys: Any) -> Any:
    return transformers.MT5ForConditionalGeneration(transformers.MT5Config(**{**T5, **keys}))


def paired(encoder: str, decoder: str, *, source: Any = None, target: Any = None) -> Callable[..., Any]:
    """source, target: further keys of either side's config, in BERT's words."""

    def make() -> Any:
        reads, writes = SAVE_FAMILY[encoder], SAVE_FAMILY[decoder]
        kind = "LMHeadModel" if decoder in ("bert", "gpt2") else "ForCausalLM"
        decoding = {"is_decoder": True, "add_cross_attention": True}
        model = transformers.EncoderDecoderModel(
            encoder=reads.kind("Model")(reads.config(**(source or {}))),
            decoder=getattr(transformers, writes.name + kind)(writes.config(**decoding, **(target or {}))),
        )
        for key, number in MARKS.items():
            setattr(model.config, key, number)
            setattr(model.generation_config, key, number)
        return model

    return make


MAKERS: dict[str, Callable[..., Any]] = {
    "bert, bert": paired("bert", "bert"),
    "bert, bert of another size": paired(
        "bert", "bert", target={"hidden_size": 28, "num_hidden_layers": 3, "vocab_size": 50}
    ),
    "bert, gpt2": paired("bert", "gpt2", target={"hidden_size": 24}),
    "roberta, roberta": paired("roberta", "roberta"),
    "electra, electra": paired("electra", "electra"),
    "xlm-roberta, camembert": paired("xlm-roberta", "camembert"),
    "deberta-v2, bert": paired("deberta-v2", "bert"),
    "modernbert, bert": paired("modernbert", "bert"),
    "mpnet, bert untied": paired("mpnet", "bert", target={"tie_word_embeddings": False}),
    "albert, xlm-roberta": paired("albert", "xlm-roberta"),
    "distilbert, gpt2": paired("distilbert", "gpt2"),
    "gpt2, bert": paired("gpt2", "bert"),
    "bart": bart,
    "bart, scaled": lambda: bart(scale_embedding=True, activation_function="relu"),
    "t5": t5,
    "t5, 1.1": lambda: t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=3),
    "t5, gated silu": lambda: t5(feed_forward_proj="gated-silu"),
    "mt5": mt5,
}
"""A maker of each kind."""


def made(name: str, folder: Path, seed: int = 0, **keys: Any) -> Any:
    """The random model of that name, saved, as transformers has it. keys: of its config."""
    model = randomise(MAKERS[name](**keys), seed, 0.2).eval()
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(seed))
    model.tie_weights()
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def assert_pairs_agree(ours: EncoderDecoder, theirs: Any, close: float = 1e-5, seed: int = 0) -> None:
    """Assert equal logits: here sources and targets are ragged and together, there each pair is alone."""
    generator = torch.Generator().manual_seed(seed)
    vocabs = ours.encoder.config.vocab, ours.decoder.config.vocab
    lengths = [(5, 7), (1, 1), (20, 3), (2, 22), (9, 9), (5, 2)]
    sources, targets = (
        [torch.randint(0, vocab, (pair[side],), generator=generator) for pair in lengths]
        for side, vocab in enumerate(vocabs)
    )
    memory = ours.memory(Ragged.of(sources))
    output = ours.decoder(Ragged.of(targets), memory=memory)
    found = Ragged(ours.head(output.last.data), output.last.layout).unbind()
    for source, target, logits in zip(sources, targets, found):
        expected = logits_of(theirs, source, target)
        torch.testing.assert_close(logits, expected, atol=close * max(1.0, float(expected.abs().max())), rtol=0)


def logits_of(theirs: Any, source: Tensor, target: Tensor) -> Tensor:
    """[tokens, vocab] of one pair."""
    ones = torch.ones_like(source[None]), torch.ones_like(target[None])
    output = theirs(
        input_ids=source[None],
        attention_mask=ones[0],
        decoder_input_ids=target[None],
        decoder_attention_mask=ones[1],
    )
    logits = output.logits[0]
    assert isinstance(logits, Tensor)
    return logits
