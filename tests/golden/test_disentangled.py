"""DeBERTa's attention and mask decoder, from the paper alone (He et al. 2020, https://arxiv.org/abs/2006.03654).

Nothing of the library but its weights is read here: loops over queries and keys give what the network must give.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from bothways import Encoder, Layout, Ragged
from bothways.engine.backends import eager, place
from bothways.nn.blocks import SelfAttention
from bothways.nn.config import DisentangledPositions, EncoderConfig, LearnedPositions
from bothways.nn.encoder import RelativePositions

WIDTH, HEADS, SPAN, BUCKETS = 12, 3, 10, 4
SUBSETS = list(chain.from_iterable(combinations(("c2p", "p2c", "p2p"), n) for n in range(4)))
KINDS = {"a vector a distance": -1, "log buckets": BUCKETS}


def delta(distance: int, buckets: int, span: int) -> int:
    """The row of the vector for i - j (eq. 3; in log buckets as in section 3 of the code the authors released)."""
    reach = buckets if buckets > 0 else span
    middle = buckets // 2
    if buckets > 0 and abs(distance) > middle:
        far = math.ceil(math.log(abs(distance) / middle) / math.log((span - 1) / middle) * (middle - 1)) + middle
        distance = far if distance > 0 else -far
    return min(max(distance + reach, 0), 2 * reach - 1)


def heads_of(x: Tensor) -> Tensor:
    return x.view(len(x), HEADS, -1)


def naive(x: Tensor, attention: SelfAttention, vectors: Tensor, relative: DisentangledPositions) -> Tensor:
    """One sequence [L, width] → [L, width]: eq. 2 to 4, a loop over all pairs."""
    q, k, v = map(heads_of, F.linear(x, attention.qkv.weight, attention.qkv.bias).chunk(3, dim=-1))
    weight, bias = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
    own = attention.relative
    queries = F.linear(vectors, weight[0], bias[0]) if own is None or own.query is None else own.query(vectors)
    keys = F.linear(vectors, weight[1], bias[1]) if own is None or own.key is None else own.key(vectors)
    queries, keys = heads_of(queries), heads_of(keys)
    out = torch.empty_like(q)
    for h in range(HEADS):
        rows = []
        for i in range(len(x)):
            scores = []
            for j in range(len(x)):
                d = delta(i - j, relative.buckets, relative.span)
                score = q[i, h] @ k[j, h]
                score = score + (q[i, h] @ keys[d, h] if "c2p" in relative.terms else 0.0)
                score = score + (k[j, h] @ queries[d, h] if "p2c" in relative.terms else 0.0)
                score = score + (queries[d, h] @ keys[d, h] if "p2p" in relative.terms else 0.0)
                scores.append(score / math.sqrt(q.shape[-1] * (1 + len(relative.terms))))
            rows.append(torch.stack(scores).softmax(0) @ v[:, h])
        out[:, h] = torch.stack(rows)
    return out.flatten(1)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own projections"])
@pytest.mark.parametrize("buckets", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("terms", SUBSETS, ids=str)
def test_attention_and_its_gradients_are_the_papers(terms: tuple[str, ...], buckets: int, shared: bool) -> None:
    relative = DisentangledPositions(terms, buckets, SPAN, shared)
    config = EncoderConfig(
        *(9, WIDTH, 1, HEADS, 8), LearnedPositions(30, added=False), relative, dropout=0.0, attention_dropout=0.0
    )
    attention, positions = SelfAttention(config, 0), RelativePositions(config)
    for part in (attention, positions):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    lengths = [5, 1, 13, 2]
    x, weights = torch.randn(sum(lengths), WIDTH, requires_grad=True), torch.randn(sum(lengths), WIDTH)
    parameters = [x, *attention.qkv.parameters(), *(attention.relative.parameters() if terms else ())]
    parameters += list(positions.parameters()) if terms else []

    layout = Layout.of(lengths)
    ours = attention(x, layout, positions(layout))
    vectors = positions.vectors.vectors.weight
    theirs = torch.cat([naive(rows, attention, vectors, relative) for rows in x.split(lengths)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)

    mine = torch.autograd.grad((ours * weights).sum(), parameters)
    expected = torch.autograd.grad((theirs * weights).sum(), parameters)
    for ours, theirs in zip(mine, expected):
        # A bias that all scores of a row share has no gradient, up to rounding.
        largest = max(float(theirs.abs().max()), 0.1)
        torch.testing.assert_close(ours, theirs, atol=1e-4 * largest, rtol=0)


def test_a_row_of_the_table_is_the_one_of_the_released_models() -> None:
    """Distances of a DeBERTa-v3: 256 buckets to either side, 512 the furthest; worked out by hand."""
    assert [delta(d, 256, 512) - 256 for d in (0, 1, 127, 128, 129, -129, 511, -511, 600)] == [
        *(0, 1, 127, 128, 129, -129, 255, -255, 255)
    ]


# The enhanced mask decoder


@pytest.fixture
def released(save_family: Callable[..., Path]) -> Path:
    """A folder as microsoft/deberta-v3-base has it: the paper's heads beside the encoder, and no `legacy`."""
    folder = save_family("deberta-v2")
    tensors = {f"deberta.{name}": t for name, t in load_file(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    vocab, width, count = (config[key] for key in ("vocab_size", "hidden_size", "max_position_embeddings"))
    shapes = {
        "deberta.embeddings.position_embeddings.weight": (count, width),
        "lm_predictions.lm_head.dense.weight": (width, width),
        "lm_predictions.lm_head.dense.bias": (width,),
        "lm_predictions.lm_head.LayerNorm.weight": (width,),
        "lm_predictions.lm_head.LayerNorm.bias": (width,),
        "lm_predictions.lm_head.bias": (vocab,),
        "mask_predictions.dense.weight": (width, width),
        "mask_predictions.dense.bias": (width,),
        "mask_predictions.LayerNorm.weight": (width,),
        "mask_predictions.LayerNorm.bias": (width,),
        "mask_predictions.classifier.weight": (1, width),
        "mask_predictions.classifier.bias": (1,),
    }
    save_file({**tensors, **{name: 0.3 * torch.randn(s) for name, s in shapes.items()}}, folder / "model.safetensors")
    for key in ("legacy", "architectures"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps({**config, "pos_att_type": "p2c|c2p"}))
    return folder


def decoded(stored: dict[str, Tensor], encoder: Encoder, states: tuple[Tensor, ...]) -> Tensor:
    """One text's logits [L, vocab]: absolute positions ask what the last layer read, twice (section 4.2)."""
    layer, known = encoder.network.layers[-1], states[-2]
    relative = encoder.config.relative
    vectors = encoder.network.relative.vectors()
    asking = known + stored["deberta.embeddings.position_embeddings.weight"][: len(known)]
    for _ in range(2):
        context = answered(asking, known, layer.attention, vectors, relative)
        asking = layer.attention_norm(asking + layer.attention.out(context))
        asking = layer.ffn_norm(asking + layer.ffn.down(F.gelu(layer.ffn.up(asking))))
    head = {name.removeprefix("lm_predictions.lm_head."): tensor for name, tensor in stored.items()}
    x = F.gelu(F.linear(asking, head["dense.weight"], head["dense.bias"]))
    x = F.layer_norm(x, x.shape[-1:], head["LayerNorm.weight"], head["LayerNorm.bias"], encoder.config.norm_eps)
    return x @ stored["deberta.embeddings.word_embeddings.weight"].T + head["bias"]


def answered(
    asking: Tensor, known: Tensor, attention: SelfAttention, vectors: Tensor, relative: DisentangledPositions
) -> Tensor:
    """Rows of `asking` attend to rows of `known`: eq. 4 with shared projections, c2p and p2c."""
    weight, bias = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)

    def projected(x: Tensor, part: int) -> Tensor:
        return F.linear(x, weight[part], bias[part]).view(len(x), attention.heads, -1)

    q, k, v = projected(asking, 0), projected(known, 1), projected(known, 2)
    steps = range(len(known))
    rows = torch.tensor([[delta(i - j, relative.buckets, 24) for j in steps] for i in steps])
    queries, keys = projected(vectors, 0)[rows], projected(vectors, 1)[rows]
    scores = torch.einsum("ihd,jhd->hij", q, k)
    scores = scores + torch.einsum("ihd,ijhd->hij", q, keys) + torch.einsum("jhd,ijhd->hij", k, queries)
    weights = (scores / math.sqrt(3 * q.shape[-1])).softmax(-1)
    return torch.einsum("hij,jhd->ihd", weights, v).flatten(1)


@pytest.mark.filterwarnings("ignore::bothways.UnusedWeightsWarning")
def test_a_released_checkpoint_predicts_as_the_paper_says_and_is_saved_whole(released: Path, tmp_path: Path) -> None:
    encoder, stored = Encoder.from_pretrained(released), load_file(released / "model.safetensors")
    assert sorted(encoder.heads) == ["mlm"]
    assert sorted(encoder.unused) == sorted(name for name in stored if name.startswith("mask_predictions."))
    texts = [torch.randint(0, encoder.config.vocab, (length,)) for length in (7, 1, 24, 2, 13)]

    def logits(of: Encoder) -> Tensor:
        head, output = of.heads["mlm"], of.network(Ragged.of(texts))
        return head(head.states(output))

    with torch.inference_mode():
        ours = logits(encoder)
        for text, rows in zip(texts, ours.split([len(text) for text in texts])):
            states = encoder.network(Ragged.of([text]), keep=True).hidden_states
            torch.testing.assert_close(rows, decoded(stored, encoder, states), atol=1e-4, rtol=0)
        place_of = place("cpu", "fp32")
        prepared, head = eager(encoder.network, place_of), eager(encoder.heads["mlm"], place_of)
        torch.testing.assert_close(head(head.states(prepared(Ragged.of(texts)))), ours, atol=1e-4, rtol=0)
    encoder.save_pretrained(tmp_path)
    again = Encoder.from_pretrained(tmp_path)
    assert again.unused == ()
    with torch.inference_mode():
        assert torch.equal(logits(again), ours)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == {name for name in stored if not name.startswith("mask_predictions.")}
    assert all(torch.equal(tensor, stored[name]) for name, tensor in saved.items())
