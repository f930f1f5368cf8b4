"""Small random models of every family, made by transformers, and the comparison with what we make of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from bothways import Encoder, Ragged
from bothways.families import FAMILIES

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "ran",
    "to",
    "house",
    "red",
    "blue",
    "is",
    "was",
    "un",
    "able",
    "do",
    "##s",
    "##ed",
    "##ing",
    "##able",
    ".",
    ",",
    "!",
    "?",
    "'",
    "-",
    "café",
    "猫",
]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789")
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
VOCAB = list(dict.fromkeys(VOCAB))


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int, std: float = 0.15) -> torch.nn.Module:
    """Every parameter random, biases and norms too, so that none of them can be forgotten unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(0.0, std, generator=generator)
        if "norm.weight" in name.lower() or (".ln_" in f".{name}" and name.endswith(".weight")):
            parameter.add_(1.0)
    return model


def write_bert_tokenizer(folder: Path, max_length: int, **config: Any) -> None:
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": max_length, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


SMALL = {
    "vocab_size": len(VOCAB),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}


@dataclass(frozen=True)
class Maker:
    """Makes small random checkpoints of a family.

    name: what the names of transformers' classes begin with.    keys: of its config, beside those of SMALL.
    words: its own words for BERT's keys.    kinds: and for the endings of BERT's classes.
    """

    name: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def kind(self, kind: str) -> Any:
        """The class of transformers that a class of BERT's with this ending is here; None where there is none."""
        return getattr(transformers, self.name + self.kinds.get(kind, kind), None)

    def config(self, **sizes: Any) -> Any:
        """A config of transformers."""
        keys = {self.words.get(key, key): value for key, value in {**SMALL, **self.keys, **sizes}.items()}
        return getattr(transformers, f"{self.name}Config")(**keys)

    def __call__(
        self,
        folder: Path,
        *,
        kind: str = "Model",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        tokenizer: bool = True,
        std: float = 0.15,
        **sizes: Any,
    ) -> Path:
        """kind: what BERT's class ends with.    sizes: keys of the config, in BERT's words or the family's."""
        config = self.config(**sizes)
        model = randomise(self.kind(kind)(config), seed, std)
        model.tie_weights()
        model.to(dtype).save_pretrained(folder)
        if tokenizer:
            write_bert_tokenizer(folder, config.max_position_embeddings)
        return folder


DEBERTA_V3 = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
MODERNBERT = {
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    **{f"{role}_token_id": i for i, role in enumerate(("pad", "bos", "cls", "sep", "eos"))},
}
DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}
GPT2 = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
    "layer_norm_eps": "layer_norm_epsilon",
    "hidden_dropout_prob": "resid_pdrop",
    "attention_probs_dropout_prob": "attn_pdrop",
}

SAVE_FAMILY: dict[str, Maker] = {
    "albert": Maker("Albert", {"embedding_size": 12}),
    "bert": Maker("Bert"),
    "camembert": Maker("Camembert", {"type_vocab_size": 1}),
    "deberta-v2": Maker("DebertaV2", DEBERTA_V3),
    "distilbert": Maker("DistilBert", words=DISTILBERT),
    "electra": Maker("Electra", {"embedding_size": 12}),
    "gpt2": Maker("GPT2", {"bos_token_id": 2, "eos_token_id": 3}, GPT2, {"ForMaskedLM": "LMHeadModel"}),
    "modernbert": Maker("ModernBert", MODERNBERT, {"hidden_act": "hidden_activation"}),
    "mpnet": Maker("MPNet"),
    "roberta": Maker("Roberta", {"type_vocab_size": 1}),
    "xlm-roberta": Maker("XLMRoberta", {"type_vocab_size": 1}),
}
"""A small random checkpoint of each family, made by transformers. A new family adds one line here."""

MASKED = [family for family in FAMILIES if "mlm" in FAMILIES[family].heads]
"""The families that predict masked words; the others predict the next one."""


def families_with(kind: str) -> list[str]:
    """The families that have a class of BERT's with this ending."""
    return [family for family in FAMILIES if SAVE_FAMILY[family].kind(kind) is not None]


def language_head(family: str) -> str:
    """The name of the head that a family's language model has."""
    return "mlm" if family in MASKED else "causal"


# Configs that differ in what shapes the network; one of each family's has what no released model has.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "albert": {
        "usual": {},
        "groups": {"num_hidden_layers": 5, "embedding_size": 32, "num_hidden_groups": 3, "inner_group_num": 2},
    },
    "bert": {
        "usual": {},
        "three layers": {"num_hidden_layers": 3, "max_position_embeddings": 70},
        "odd head width": {"hidden_size": 28, "intermediate_size": 37, "type_vocab_size": 3, "hidden_act": "gelu_new"},
        "one head": {"hidden_size": 17, "num_attention_heads": 1, "intermediate_size": 1, "hidden_act": "silu"},
        "a head a column": {"hidden_size": 6, "num_attention_heads": 6, "hidden_act": "tanh", "type_vocab_size": 1},
        "uneven heads": {"hidden_size": 36, "num_attention_heads": 3, "hidden_act": "relu", "layer_norm_eps": 1e-2},
    },
    "camembert": {"usual": {}},
    "deberta-v2": {
        "usual": {},
        "long": {"max_relative_positions": 20, "max_position_embeddings": 90},
        "of no distances": {"relative_attention": False, "pos_att_type": None, "position_biased_input": True},
        "a vector a distance": {"position_buckets": -1, "max_relative_positions": 7, "norm_rel_ebd": "none"},
        "c2p": {
            **{"pos_att_type": "c2p", "position_biased_input": True, "type_vocab_size": 2, "embedding_size": 12},
            **{"share_att_key": False},
        },
        "p2c and a convolution": {"pos_att_type": "p2c", "conv_kernel_size": 3, "conv_act": "gelu"},
        "a convolution in groups": {"conv_kernel_size": 5, "conv_groups": 4, "share_att_key": False},
    },
    "distilbert": {"usual": {}, "odd": {"hidden_size": 28, "intermediate_size": 37, "hidden_act": "relu"}},
    "electra": {"usual": {}, "equal widths": {"embedding_size": 32, "hidden_act": "relu"}},
    "gpt2": {
        "usual": {},
        "four times the width": {"n_inner": None, "hidden_size": 28, "hidden_act": "relu", "layer_norm_eps": 1e-2},
        "long": {"max_position_embeddings": 200, "num_hidden_layers": 3},
    },
    "modernbert": {
        "usual": {},
        "with biases": {
            **{"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
            **{"decoder_bias": False, "classifier_pooling": "mean", "num_hidden_layers": 4},
            **{"local_attention": 6, "global_attn_every_n_layers": 3, "hidden_act": "silu"},
        },
        "long": {"max_position_embeddings": 700, "num_hidden_layers": 3},
    },
    "mpnet": {"usual": {}, "long": {"max_position_embeddings": 200, "relative_attention_num_buckets": 40}},
    "roberta": {"usual": {}, "padding id 5": {"pad_token_id": 5, "type_vocab_size": 2, "hidden_act": "relu"}},
    "xlm-roberta": {"usual": {}},
}


# The attribute of transformers' output with a head's logits, where it is not `logits`.
LOGITS = {"mlm": "prediction_logits", "nsp": "seq_relationship_logits", "sop": "sop_logits"}


def logits_of(output: Any, head: str) -> Tensor:
    """[tokens, labels] or [labels] of one text."""
    if head == "answer":
        return torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1)
    logits = getattr(output, LOGITS.get(head, "logits"), None)
    return (output.logits if logits is None else logits)[0]


@torch.inference_mode()
def agreement(encoder: Encoder, model: Any, seed: int = 0, most: int = 9, close: float = 1e-4) -> None:
    """Assert that a model of transformers gives the same hidden states, pooled rows and logits.

    The texts are of length 1 to the longest, shuffled, so that each has all sorts of neighbours here; there each is
    alone.
    """
    generator = torch.Generator().manual_seed(seed)
    longest = encoder.config.longest
    lengths = [1, 2, 3, 7, longest // 2, longest - 1, longest, 4, 1, *range(5, longest)][:most]
    lengths = [lengths[i] for i in torch.randperm(len(lengths), generator=generator)]
    ids = [torch.randint(0, encoder.config.vocab, (length,), generator=generator) for length in lengths]
    ids[0][: 2 + encoder.config.offset] = torch.arange(2 + encoder.config.offset)[: len(ids[0])]  # padding's id too
    types = [torch.randint(0, max(1, encoder.config.types), (n,), generator=generator) for n in lengths]
    output = encoder.network(Ragged.of(ids), torch.cat(types), keep=True)
    layout = output.last.layout
    assert output.hidden_states is not None
    states = [Ragged(state, layout).unbind() for state in output.hidden_states]
    logits = {}
    for name, head in encoder.heads.items():
        predicts = hasattr(head, "states")
        rows = head(head.states(output)) if predicts else head(output.last)
        pooled = not predicts and head.pooling is not None
        logits[name] = list(rows) if pooled else Ragged(rows, layout).unbind()
    pooled_rows = None if encoder.network.pooler is None else encoder.network.pooler(output.last)
    choices = type(model).__name__.endswith("MultipleChoice")
    for i, text in enumerate(ids):
        keys = {"input_ids": text[None], "attention_mask": torch.ones_like(text[None])}
        keys |= {"token_type_ids": types[i][None]} if encoder.config.types else {}
        keys = {key: value[None] for key, value in keys.items()} if choices else keys
        expected = model(**keys, output_hidden_states=True)
        for ours, theirs in zip(states, expected.hidden_states, strict=True):
            torch.testing.assert_close(ours[i], theirs[0], atol=close, rtol=0)
        for name, rows in logits.items():
            ours = rows[i].squeeze(-1) if name == "rtd" else rows[i]
            torch.testing.assert_close(ours, logits_of(expected, name), atol=close, rtol=0, msg=name)
        if pooled_rows is not None and getattr(expected, "pooler_output", None) is not None:
            torch.testing.assert_close(pooled_rows[i], expected.pooler_output[0], atol=close, rtol=0)
