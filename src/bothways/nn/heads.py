"""Heads: what turns hidden states into an answer. Their weights come from a checkpoint or `nn.layers.initialise`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.nn.blocks import EncoderLayer
from bothways.nn.config import EncoderConfig
from bothways.nn.dropout import dropout
from bothways.nn.encoder import EncoderNetwork, EncoderOutput
from bothways.nn.layers import Embedding, Linear, filled, norm
from bothways.nn.losses import sampled_cross_entropy, vocabulary_cross_entropy
from bothways.nn.pooling import ONE_ROW, pool, rows_pooled
from bothways.ragged import Layout, Ragged

__all__ = [
    "Classifier",
    "Dense",
    "LanguageModelHead",
    "MaskDecoder",
    "MaskedLanguageHead",
    "Normalize",
    "SentenceHead",
    "rows_of_last",
]


class MaskedLanguageHead(nn.Module):
    """Scores of every vocabulary entry: transform, activation, norm, then a product with the word embeddings.

    words: the weight [vocab, embed_width] that the last product shares with the embeddings, or None for one of its own.
    act: of the transform, if other than the config's.    bias: of the transform.    decoder_bias: of the last product.
    """

    def __init__(
        self,
        config: EncoderConfig,
        words: nn.Parameter | None = None,
        *,
        act: str | None = None,
        bias: bool = True,
        decoder_bias: bool = True,
    ) -> None:
        super().__init__()
        self.act = act or config.activation
        width = config.embed_width
        self.transform = Linear(config.width, width, bias=bias)
        self.norm = norm(config, width)
        self.decoder = Linear(width, config.vocab, bias=decoder_bias, device="meta" if words is not None else None)
        if words is not None:
            self.decoder.weight = words
            if decoder_bias:
                self.decoder.bias = nn.Parameter(torch.zeros(config.vocab, device=words.device))

    def forward(self, rows: Tensor) -> Tensor:
        """rows [M, width] → logits [M, vocab]. Give it only the rows to be predicted."""
        return self.decoder(self._transformed(rows))

    def reading(self, rows: Tensor) -> Tensor:
        """What the last product reads of rows [M, width]."""
        return self._transformed(rows)

    def _transformed(self, rows: Tensor) -> Tensor:
        return self.norm(self.transform(rows, act=self.act))

    def loss(self, rows: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """rows [M, width], targets int [M] → their cross-entropy, summed, and how many are predicted right.

        smoothing: the share of each target that all entries get alike.
        """
        x, out = self._transformed(filled(rows)), self.decoder
        return vocabulary_cross_entropy(x, out.weight, out.bias, targets, out.copy, smoothing=smoothing)

    def loss_and_words(self, rows: Tensor, targets: Tensor, chances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `loss`, and what the head puts in each row's place: a word int64 [M] by its softmax.

        chances: fp32 [M], from 0 to less than 1, which decide.
        """
        x, out = self._transformed(filled(rows)), self.decoder
        return sampled_cross_entropy(x, out.weight, out.bias, targets, chances, out.copy)

    def states(self, output: EncoderOutput, rows: Tensor | None = None) -> Tensor:
        """The rows [T, width] that words are predicted from, or those of the tokens numbered `rows` int64 [M]."""
        return output.last.data if rows is None else output.at(rows)


class MaskDecoder(nn.Module):
    """DeBERTa's enhanced mask decoder (He et al. 2020, section 4.2): absolute positions come in just before prediction.

    The last layer runs twice more, asking with position vectors what it read before; then a masked-language head. With
    `positions=False` (a checkpoint without such vectors) it is that head alone.

    network: whose last layer and relative positions it shares.
    """

    def __init__(self, network: EncoderNetwork, lm: MaskedLanguageHead, positions: bool = True) -> None:
        super().__init__()
        config = network.config
        self.dtype: torch.dtype | None = None
        self.lm = lm
        self.positions = Embedding(config.positions.count, config.width) if positions else None
        self.layer: EncoderLayer | None = None
        last = network.layers[-1]
        if positions and isinstance(last, EncoderLayer):
            self.layer = last
        self.relative = network.relative if positions else None

    def forward(self, rows: Tensor) -> Tensor:
        """rows [M, width] of `states` → logits [M, vocab]."""
        return self.lm(rows)

    def loss(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As that of the masked-language head."""
        return self.lm.loss(rows, targets)

    def loss_and_words(self, rows: Tensor, targets: Tensor, chances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As that of the masked-language head."""
        return self.lm.loss_and_words(rows, targets, chances)

    def states(self, output: EncoderOutput, rows: Tensor | None = None) -> Tensor:
        """The rows [T, width] that words are predicted from, or those of the tokens numbered `rows` int64 [M]."""
        if self.positions is None or self.layer is None or self.relative is None:
            return output.last.data if rows is None else output.at(rows)
        layout, x = output.layout or output.last.layout, output.before
        positions = self.relative(layout, x.dtype)
        asking = self.positions(layout.positions).to(x.dtype) + x
        asking = self.layer(x, layout, positions, asking)
        if rows is None:
            return self.layer(x, layout, positions, asking)
        return self.layer(x, layout, positions, asking, rows=filled(rows))[: len(rows)]

    @property
    def reads_last(self) -> bool:
        """Whether it reads what the last layer gives: with positions it makes that of what the layer read."""
        return self.layer is None

    @torch.no_grad()
    def freeze(self) -> None:
        """Compute once what does not depend on tokens: for inference, where weights no longer change."""
        if self.layer is not None and self.relative is not None and self.positions is not None:
            self.layer.freeze(self.relative(Layout.of([], self.positions.weight.device), self.dtype))


class LanguageModelHead(nn.Module):
    """Scores of every vocabulary entry to be the next: a product with the word embeddings, and nothing else
    (Radford et al. 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf).

    words: the weight [vocab, width] that the product shares with the embeddings, or None for one of its own.
    bias: whether each entry has a number that its scores begin with (BART).    scale: of the rows (T5's are smaller by
    the root of their width, where they meet the embeddings).
    """

    def __init__(
        self, config: EncoderConfig, words: nn.Parameter | None = None, *, bias: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.scale = scale
        device = "meta" if words is not None else None
        self.decoder = Linear(config.width, config.vocab, bias=bias, device=device)
        if words is not None:
            self.decoder.weight = words
            if bias:
                self.decoder.bias = nn.Parameter(torch.zeros(config.vocab, device=words.device))

    def forward(self, rows: Tensor) -> Tensor:
        """rows [M, width] → logits [M, vocab]. Give it only the rows to be predicted from."""
        return self.decoder(self._scaled(rows))

    def loss(self, rows: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """rows [M, width], targets int [M] → their cross-entropy, summed, and how many are predicted right.

        smoothing: the share of each target that all entries get alike.
        """
        x, out = self._scaled(filled(rows)), self.decoder
        return vocabulary_cross_entropy(x, out.weight, out.bias, targets, out.copy, smoothing=smoothing)

    def reading(self, rows: Tensor) -> Tensor:
        """What the last product reads of rows [M, width]."""
        return self._scaled(rows)

    def _scaled(self, rows: Tensor) -> Tensor:
        return rows if self.scale == 1.0 else rows * self.scale

    def states(self, output: EncoderOutput, rows: Tensor | None = None) -> Tensor:
        """The rows [T, width] that each next word is predicted from, or those numbered `rows` int64 [M]."""
        return output.last.data if rows is None else output.at(rows)


class Classifier(nn.Module):
    """Scores of labels for each row, or for each sequence: a linear layer, behind a dense one with activation and norm
    where the family has that.

    dense: the head's own, or the one it shares with the network's pooler; None for none.
    pooling: a name in `nn.pooling.POOLINGS` for one row a sequence; None for every row.
    bias: of the linear layer.

    dropout, dense_dropout: in training, before the linear layer and before the dense one; None where the family has
    none there. Whoever gives a family's head its rates is `families.family.Head`.
    """

    def __init__(
        self,
        width: int,
        labels: int,
        *,
        pooling: str | None = None,
        dense: nn.Module | None = None,
        act: str | None = None,
        norm: nn.Module | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.pooling, self.act = pooling, act
        self.dropout: float | None = None
        self.dense_dropout: float | None = None
        self.dense = dense
        self.norm = norm
        self.out = Linear(width, labels, bias=bias)

    def forward(self, hidden: Ragged) -> Tensor:
        """hidden states of N sequences [T, width] → logits [N, labels], or [T, labels] without pooling."""
        return self._scores(self._rows(hidden), self.training)

    def scores(self, hidden: Ragged) -> Tensor:
        """As `forward`, in fp32 and for training: how many rows there are is left to chance, see `filled`."""
        rows = self._rows(hidden)
        return self._scores(filled(rows), self.training)[: len(rows)].float()

    def loss(
        self, rows: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """rows [M, width] (of tokens, or pooled), targets int [M] → their cross-entropy, summed, in fp32; and how many
        are predicted right.

        smoothing: the share of each target that all labels get.    weights: [labels], how much rows of each count.
        """
        scores = self._scores(filled(rows), self.training)[: len(rows)].float()
        right = (scores.argmax(1) == targets).sum()
        if weights is None:
            return F.cross_entropy(scores, targets, reduction="sum", label_smoothing=smoothing), right
        losses = F.cross_entropy(scores, targets, reduction="none", label_smoothing=smoothing)
        return (losses * weights[targets]).sum(), right

    def undropped(self, rows: Tensor) -> Tensor:
        """rows [M, width] (of tokens, or pooled) → logits [M, labels], without dropout even in training."""
        return self._scores(rows, False)

    def _scores(self, x: Tensor, dropping: bool) -> Tensor:
        if self.dense is not None:
            x = self.dense(dropout(x, self.dense_dropout or 0.0, dropping), act=self.act)
        x = x if self.norm is None else self.norm(x)
        return self.out(dropout(x, self.dropout or 0.0, dropping))

    @property
    def reads_one(self) -> bool:
        """Whether it reads one row of each sequence."""
        return self.pooling in ONE_ROW

    def reads(self, layout: Layout) -> Ragged | None:
        """The rows int64 [N] that it reads of hidden states with this layout, if they are few; None: all."""
        return rows_pooled(layout, (self.pooling,))

    def _rows(self, hidden: Ragged) -> Tensor:
        return hidden.data if self.pooling is None else pool(hidden, (self.pooling,))


class Dense(nn.Module):
    """act(x W + b): sentence-transformers' Dense module, over sentence vectors."""

    def __init__(self, width: int, out: int, act: str | None, bias: bool = True) -> None:
        super().__init__()
        self.act = act
        self.linear = Linear(width, out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x, act=self.act)


class Normalize(nn.Module):
    """Vectors of length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class SentenceHead(nn.Module):
    """Token vectors → one fp32 vector a text: pooling, then `steps` in order.

    poolings: names in `nn.pooling.POOLINGS`.    include_prompt: whether a prompt's tokens are pooled too.
    """

    def __init__(
        self,
        width: int,
        poolings: Sequence[str] = ("mean",),
        include_prompt: bool = True,
        steps: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.poolings = tuple(poolings)
        self.include_prompt = include_prompt
        self.steps = nn.ModuleList(steps)
        dense = [step.linear.out_features for step in steps if isinstance(step, Dense)]
        self.width = dense[-1] if dense else width * len(self.poolings)

    def forward(self, hidden: Ragged, prompt_tokens: int = 0) -> Tensor:
        """[T, width of the encoder] → [N, self.width]; `prompt_tokens` first rows of each text are its prompt."""
        x = pool(Ragged(hidden.data.float(), hidden.layout), self.poolings, 0 if self.include_prompt else prompt_tokens)
        for step in self.steps:
            x = step(x)
        return x


def rows_of_last(heads: Iterable[nn.Module], rows: Ragged | None) -> Ragged | None:
    """Of the rows that heads are asked about, those that they read of the last layer: none where each makes its own.

    rows: None for all.
    """
    if rows is None or any(not isinstance(head, MaskDecoder) or head.reads_last for head in heads):
        return rows
    return Ragged(rows.data[:0], Layout.of([0] * len(rows), rows.data.device))
