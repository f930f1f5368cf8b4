"""GPT-2 (Radford et al. 2019, see `nn.heads.LanguageModelHead`): the same blocks, and no row sees a later one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bothways.families.family import Family, Head, Key, Rate, Rule, conv1d, linear
from bothways.families.heads import classifier, language_model, output_only
from bothways.nn.config import MOST, EncoderConfig, LearnedPositions

__all__ = ["GPT2"]

LAYER = "h.{i}."


def _current(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The width inside the feed-forward part by its number; null is four times that of the hidden states."""
    width = raw.get("n_embd")
    if raw.get("n_inner") is not None or type(width) is not int or not 0 < width <= MOST["width"]:
        return dict(raw)
    return {**raw, "n_inner": 4 * width}


GPT2 = Family(
    model_type="gpt2",
    template=EncoderConfig(
        vocab=50257,
        width=768,
        depth=12,
        heads=12,
        ffn=3072,
        positions=LearnedPositions(1024),
        types=0,
        activation="gelu_new",
        norm_first=True,
        norm_eps=1e-5,
        embedding_norm=False,
        causal=True,
        embedding_dropout=0.1,
    ),
    keys=(
        Key("vocab_size", "vocab"),
        Key("n_embd", "width"),
        Key("n_layer", "depth"),
        Key("n_head", "heads"),
        Key("n_inner", "ffn"),
        Key("n_positions", "positions.count", default=1024),
        Key("activation_function", "activation", default="gelu_new"),
        Key("layer_norm_epsilon", "norm_eps", default=1e-5),
        Key("resid_pdrop", "dropout", default=0.1),
        Key("embd_pdrop", "embedding_dropout", default=0.1),
        Key("attn_pdrop", "attention_dropout", default=0.1),
        Key("initializer_range", "init_std", default=0.02),
    ),
    only={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False, None),
        "reorder_and_upcast_attn": (False, None),
        "add_cross_attention": (False, None),
    },
    prefix="transformer.",
    architectures={
        "GPT2Model": (),
        "GPT2LMHeadModel": ("causal",),
        "GPT2ForSequenceClassification": ("classify",),
        "GPT2ForTokenClassification": ("tag",),
        "GPT2ForQuestionAnswering": ("answer",),
    },
    rules=(
        Rule("embeddings.words.weight", "wte.weight"),
        Rule("embeddings.positions.weight", "wpe.weight"),
        *linear("layers.{i}.attention_norm", LAYER + "ln_1"),
        *conv1d("layers.{i}.attention.qkv", LAYER + "attn.c_attn"),
        *conv1d("layers.{i}.attention.out", LAYER + "attn.c_proj"),
        *linear("layers.{i}.ffn_norm", LAYER + "ln_2"),
        *conv1d("layers.{i}.ffn.up", LAYER + "mlp.c_fc"),
        *conv1d("layers.{i}.ffn.down", LAYER + "mlp.c_proj"),
        *linear("norm", "ln_f"),
    ),
    pooler=(),
    heads={
        "causal": Head(language_model, (Rule("decoder.weight", "lm_head.weight"),), borrows=True),
        "classify": Head(classifier(pooling="lasttoken", bias=False), (Rule("out.weight", "score.weight"),)),
        "tag": output_only(classifier(), "classifier", dropout=Rate(("classifier_dropout", "hidden_dropout"), 0.1)),
        "answer": output_only(classifier(), "qa_outputs"),
    },
    tokenizer="GPT2Tokenizer",
    # Masks that old files keep as weights; and the head of GPT2DoubleHeadsModel.
    unused=("h.{i}.attn.bias", "h.{i}.attn.masked_bias", "multiple_choice_head."),
    current=_current,
    cross=(
        *conv1d("layers.{i}.cross.query", LAYER + "crossattention.q_attn"),
        *conv1d("layers.{i}.cross.kv", LAYER + "crossattention.c_attn"),
        *conv1d("layers.{i}.cross.out", LAYER + "crossattention.c_proj"),
        *linear("layers.{i}.cross_norm", LAYER + "ln_cross_attn"),
    ),
    begins_shallow=True,
)
