"""A result does not depend on what else is in the batch, on its order, or on how the batch is split."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import MASKED, SAVE_FAMILY, families_with, language_head
from torch import Tensor

from bothways import Encoder, Layout, Ragged, SentenceEncoder, attend, pipeline
from bothways.engine.backends import BACKENDS, place
from bothways.engine.streams import Streams
from bothways.families import FAMILIES
from bothways.nn.threads import SAME_SUMS
from bothways.tasks import TASKS

Save = Callable[..., Path]
PRECISIONS = ["fp32", "bf16"]

# In the words of BERT's config; a family whose config has other words translates them in its maker.
SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "head width 7": {"hidden_size": 28, "num_attention_heads": 4, "intermediate_size": 37},
    "3 heads": {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 50},
    "1 head": {"hidden_size": 33, "num_attention_heads": 1},
    "head width 1": {"hidden_size": 6, "num_attention_heads": 6, "intermediate_size": 5},
    "realistic": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 1},
    "head width 6": {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 37},
    "silu": {"hidden_act": "silu", "intermediate_size": 37},
    "long": {"max_position_embeddings": 80},
}
# The shapes each family is tried in. What has no mechanism of its own is tried in one; all can have those of FITTING
# (rotary positions turn columns in pairs).
FITTING = ("usual", "head width 6", "realistic", "silu", "long")
TRIED = {
    **dict.fromkeys(FAMILIES, ("usual",)),
    **dict.fromkeys(("albert", "gpt2", "modernbert", "mpnet"), FITTING),
    **dict.fromkeys(("bert", "deberta-v2"), tuple(SHAPES)),
}


def shaped(*names: str) -> pytest.MarkDecorator:
    """Parametrise a test with each family and each of the shapes (by default all) that it is to be tried in."""
    cases = [
        pytest.param(family, SHAPES[name], id=f"{family}-{name}")
        for family in FAMILIES
        for name in TRIED[family]
        if name in (names or SHAPES)
    ]
    return pytest.mark.parametrize(("family", "shape"), cases)


def texts_of_every_length(vocab: int, longest: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length,), generator=generator) for length in range(1, longest + 1)]


def compositions(count: int) -> list[list[int]]:
    """Batches of texts by number: sorted, reversed, shuffled, of many equal lengths, alone with one, small ones."""
    rng = random.Random(0)
    some = [*range(1, 9), count // 2, count - 2, count - 1]
    return [
        list(range(count)),
        list(range(count))[::-1],
        rng.sample(range(count), count),
        *([i] * 7 + [0, i, count - 1] for i in some),
        *([i, (0, count - 1)[n % 2]] for n, i in enumerate(some)),
        *(rng.choices(range(count), k=size) for size in (2, 3, 5, 9, 17, 33)),
    ]


@torch.inference_mode()
def alone(network: torch.nn.Module, texts: list[Tensor]) -> list[Tensor]:
    return [network(Ragged.of([text])).last.data for text in texts]


@torch.inference_mode()
def together(network: torch.nn.Module, texts: list[Tensor]) -> list[Tensor]:
    return network(Ragged.of(texts)).last.unbind()


@shaped()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_prepared_networks_give_a_text_the_same_bits_in_every_batch(
    save_family: Save, family: str, backend: str, precision: str, shape: dict
) -> None:
    encoder = Encoder.from_pretrained(save_family(family, tokenizer=False, **shape))
    network = BACKENDS[backend](encoder.network, place("cpu", precision))
    texts = texts_of_every_length(encoder.config.vocab, encoder.config.longest)
    expected = alone(network, texts)
    for numbers in compositions(len(texts)):
        for i, vectors in zip(numbers, together(network, [texts[i] for i in numbers]), strict=True):
            assert torch.equal(vectors, expected[i]), f"text of {i + 1} tokens among {numbers}"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_texts_that_local_layers_see_in_blocks_keep_the_law_too(
    save_family: Save, backend: str, precision: str
) -> None:
    encoder = Encoder.from_pretrained(save_family("modernbert", tokenizer=False, max_position_embeddings=700))
    network = BACKENDS[backend](encoder.network, place("cpu", precision))
    texts = [torch.randint(0, encoder.config.vocab, (length,)) for length in (263, 264, 265, 513, 640, 700, 1, 265)]
    expected = alone(network, texts)
    for numbers in ([*range(8)], [7, 6, 5, 4, 3, 2, 1, 0], [5, 5, 5], [2, 7, 0], [4, 6]):
        for i, vectors in zip(numbers, together(network, [texts[i] for i in numbers]), strict=True):
            assert torch.equal(vectors, expected[i]), f"text {i} among {numbers}"


HEADS = ["ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_prepared_heads_keep_the_law_too(
    save_family: Save, family: str, kind: str, backend: str, precision: str
) -> None:
    encoder = Encoder.from_pretrained(save_family(family, kind=kind, tokenizer=False, num_labels=3))
    network = BACKENDS[backend](encoder.network, place("cpu", precision))
    ((name, head),) = encoder.heads.items()
    prepared = BACKENDS[backend](head, place("cpu", precision))

    def answers(texts: list[Tensor]) -> tuple[Tensor, ...]:
        output = network(Ragged.of(texts))
        rows = prepared(prepared.states(output)) if name == language_head(family) else prepared(output.last)
        return rows.unbind() if len(rows) == len(texts) else Ragged(rows, output.last.layout).unbind()

    texts = texts_of_every_length(encoder.config.vocab, 9)
    expected = [answers([text])[0] for text in texts]
    for numbers in compositions(len(texts))[:12]:
        for i, answer in zip(numbers, answers([texts[i] for i in numbers]), strict=True):
            assert torch.equal(answer.view(-1), expected[i].view(-1)), f"text of {i + 1} tokens among {numbers}"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_threads_keep_the_law_too(save_family: Save, family: str, backend: str, precision: str) -> None:
    encoder = Encoder.from_pretrained(save_family(family, tokenizer=False, **SHAPES["realistic"]))
    network = BACKENDS[backend](encoder.network, place("cpu", precision))
    texts = texts_of_every_length(encoder.config.vocab, encoder.config.longest)
    torch.set_num_threads(2)
    try:
        expected = alone(network, texts)
        for numbers in compositions(len(texts))[:12]:
            for i, vectors in zip(numbers, together(network, [texts[i] for i in numbers]), strict=True):
                assert torch.equal(vectors, expected[i]), f"text of {i + 1} tokens among {numbers}"
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cores", [6, 8, 32])
@pytest.mark.parametrize(
    ("family", "inner"), [("bert", 1536), ("bert", 1200), ("deberta-v2", 1536), ("modernbert", 1536)]
)
def test_a_text_alone_on_many_cores_has_the_bits_it_has_in_a_stream(
    save_family: Save, family: str, inner: int, cores: int, precision: str
) -> None:
    sizes = {**SHAPES["realistic"], "max_position_embeddings": 512, "intermediate_size": inner}
    encoder = Encoder.from_pretrained(save_family(family, tokenizer=False, **sizes))
    texts = [torch.randint(0, encoder.config.vocab, (length,)) for length in (5, 48, 64, 100, 188, 388, 460, 512)]
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        network, streams = BACKENDS["eager"](encoder.network, place("cpu", precision)), Streams(torch.device("cpu"))

        def vectors(some: list[Tensor]) -> list[Tensor]:
            return together(network, some)

        expected = [found for text in texts for found in next(streams.map(vectors, [[text]]))]
        parts = [texts[i::3] for i in range(3)]
        for part, found in zip(range(3), streams.map(vectors, parts), strict=True):
            for one, wanted in zip(found, expected[part::3], strict=True):
                assert torch.equal(one, wanted), f"text of {len(one)} tokens"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
def test_streams_leave_threads_that_start_later_with_all_cores(cores: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        streams = Streams(torch.device("cpu"))
        for items in ([1], [1, 2, 3, 4]):
            assert all(found <= SAME_SUMS for found in streams.map(lambda _: torch.get_num_threads(), items))
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("groups", [1, 4])
def test_two_threads_keep_the_law_for_a_wide_convolution(save_family: Save, groups: int, precision: str) -> None:
    sizes = {"hidden_size": 256, "conv_kernel_size": 3, "conv_groups": groups, "max_position_embeddings": 24}
    encoder = Encoder.from_pretrained(save_family("deberta-v2", tokenizer=False, **sizes))
    network = BACKENDS["eager"](encoder.network, place("cpu", precision))
    texts = [torch.randint(0, encoder.config.vocab, (length,)) for length in (1, 3, 5, 8, 9, 64, 7)]
    torch.set_num_threads(2)
    try:
        expected = alone(network, texts)
        for i, vectors in enumerate(together(network, texts)):
            assert torch.equal(vectors, expected[i]), f"text of {len(texts[i])} tokens"
        for first, second in itertools.permutations(range(len(texts)), 2):
            assert torch.equal(together(network, [texts[first], texts[second]])[0], expected[first])
    finally:
        torch.set_num_threads(1)


@shaped("usual", "long")
def test_unprepared_networks_give_a_text_nearly_the_same_numbers_in_every_batch(
    save_family: Save, family: str, shape: dict
) -> None:
    encoder = Encoder.from_pretrained(save_family(family, tokenizer=False, **shape))
    texts = texts_of_every_length(encoder.config.vocab, encoder.config.longest)
    expected = alone(encoder.network, texts)
    for numbers in compositions(len(texts)):
        for i, vectors in zip(numbers, together(encoder.network, [texts[i] for i in numbers]), strict=True):
            torch.testing.assert_close(vectors, expected[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_prepared_networks_agree_with_the_network_they_were_made_of(
    save_family: Save, family: str, backend: str
) -> None:
    encoder = Encoder.from_pretrained(save_family(family, tokenizer=False))
    texts = texts_of_every_length(encoder.config.vocab, encoder.config.longest)
    expected = encoder.network(Ragged.of(texts)).last.data.detach()
    prepared = {
        precision: torch.cat(together(BACKENDS[backend](encoder.network, place("cpu", precision)), texts)).float()
        for precision in PRECISIONS
    }
    torch.testing.assert_close(prepared["fp32"], expected, atol=1e-5, rtol=0)
    assert torch.cosine_similarity(prepared["bf16"], expected, dim=-1).min() >= 0.999


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_preparing_leaves_the_original_as_it_was(save_family: Save, family: str, backend: str) -> None:
    network = Encoder.from_pretrained(save_family(family, tokenizer=False)).network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    BACKENDS[backend](network, place("cpu", "bf16"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("width", [1, 7, 8, 17, 32, 33, 64])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_attention_gives_a_sequence_the_same_bits_in_every_batch_at_all_lengths(
    precision: str, heads: int, width: int
) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    wrong = []
    for length in [*range(1, 70), 129, 384, 385, 512, 1025] if width in (7, 32) else range(1, 40):
        q, k, v = (torch.randn(length, heads, width).to(dtype) for _ in "qkv")
        expected = attend(q, k, v, Layout.of([length]), Layout.of([length]))
        for copies in (2, 3) if length > 100 else (2, 3, 8, 19):
            layout = Layout.of([length] * copies + [4])
            rows = [torch.cat([*[x] * copies, torch.randn(4, heads, width).to(dtype)]) for x in (q, k, v)]
            parts = attend(*rows, layout, layout).split(list(layout.lengths))
            if not all(torch.equal(part, expected) for part in parts[:-1]):
                wrong.append((length, copies))
    assert wrong == [], "(length, how often it is in the batch)"


SENTENCES = [
    "the cat sat on the mat.",
    "a dog",
    "",
    "was un able ! do the house red?",
    "the cat sat on the mat.",
    "zebra quick 1234",
    "x",
    "the red cat ran to the blue house, is the dog able to do it?",
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sentences_vector_is_the_same_bits_alone_and_among_others(
    save_family: Save, family: str, backend: str, precision: str
) -> None:
    folder = save_family(family, max_position_embeddings=64)
    encoder = SentenceEncoder(folder, device="cpu", precision=precision, backend=backend)
    expected = np.stack([encoder.encode(sentence) for sentence in SENTENCES])
    assert np.array_equal(encoder.encode(SENTENCES), expected)
    assert np.array_equal(encoder.encode(SENTENCES * 9), np.tile(expected, (9, 1)))
    order = random.Random(1).sample(range(len(SENTENCES)), len(SENTENCES))
    assert np.array_equal(encoder.encode([SENTENCES[i] for i in order]), expected[order])
    for budget in (1, 2, 17, 60, 100_000):
        assert np.array_equal(encoder.encode(SENTENCES, batch_tokens=budget), expected), f"budget of {budget}"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_real_models_vectors_are_the_same_bits_alone_and_among_others(
    minilm: Path, topics: list[str], precision: str
) -> None:
    encoder = SentenceEncoder(minilm, device="cpu", precision=precision)
    texts = [text for text in topics if len(text) < 600][:80]
    expected = encoder.encode(texts)
    for i in (0, 7, 33, 79):
        assert np.array_equal(encoder.encode(texts[i]), expected[i])
    order = random.Random(2).sample(range(80), 80)
    assert np.array_equal(encoder.encode([texts[i] for i in order], batch_tokens=700), expected[order])


# The class whose head a task asks.
KIND_OF = {
    "feature-extraction": "ForMaskedLM",
    "fill-mask": "ForMaskedLM",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "multiple-choice": "ForMultipleChoice",
}
ASKED = [
    (task, family) for task in TASKS for family in (MASKED if task == "fill-mask" else families_with(KIND_OF[task]))
]


def ask(task: str, pipe: Callable, texts: list[str]) -> Any:
    """Answers about texts, one each."""
    if task == "question-answering":
        pairs = [{"question": f"{text[:20]} ?", "context": 3 * text} for text in texts]  # read in several windows
        return pipe(pairs, top_k=3, handle_impossible_answer=True)
    if task == "multiple-choice":
        return pipe(question=texts, choices=[[*text.split()[:3], "dog"] for text in texts])
    return pipe(texts, top_k=None) if task == "text-classification" else pipe(texts)


def results_of(task: str, pipe: Callable, texts: list[str]) -> list[str]:
    """Answers in a form that can be compared bit for bit."""
    answers = ask(task, pipe, texts)
    return [json.dumps(a.tolist() if isinstance(a, np.ndarray) else a, default=float) for a in answers]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("task", "family"), ASKED)
def test_a_pipelines_answer_is_the_same_bits_alone_and_among_others(
    save_family: Save, family: str, task: str, precision: str
) -> None:
    sizes = {"max_position_embeddings": 64}
    if SAVE_FAMILY[family].config().to_dict().get("type_vocab_size"):
        sizes["type_vocab_size"] = 2  # of BERT's tokenizer, for pairs
    folder = save_family(family, kind=KIND_OF[task], **sizes)
    pipe = pipeline(task, folder, device="cpu", precision=precision)
    texts = [f"[MASK] {sentence}" for sentence in SENTENCES]
    expected = [results_of(task, pipe, [text])[0] for text in texts]
    assert results_of(task, pipe, texts) == expected
    assert results_of(task, pipe, texts[::-1]) == expected[::-1]


@shaped("usual", "head width 7", "1 head")
def test_a_batch_in_micro_batches_gives_the_same_gradient(save_family: Save, family: str, shape: dict) -> None:
    network = Encoder.from_pretrained(save_family(family, tokenizer=False, **shape)).network
    texts = texts_of_every_length(network.config.vocab, network.config.longest)
    weights = [torch.randn(len(text), network.config.width) for text in texts]

    def gradients(batches: list[list[int]]) -> dict[str, Tensor]:
        network.zero_grad(set_to_none=True)
        for numbers in batches:
            hidden = network(Ragged.of([texts[i] for i in numbers])).last.data
            (hidden * torch.cat([weights[i] for i in numbers])).sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    everything = list(range(len(texts)))
    whole = gradients([everything])
    assert len(whole) == sum(not name.startswith("pooler") for name, _ in network.named_parameters())
    shuffled = random.Random(3).sample(everything, len(everything))
    for split in ([[i] for i in everything], [shuffled[:3], shuffled[3:4], shuffled[4:]]):
        for name, gradient in gradients(split).items():
            largest = whole[name].abs().max()
            torch.testing.assert_close(gradient, whole[name], atol=float(1e-4 * largest), rtol=0, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_a_text_has_nearly_the_same_numbers_in_every_batch_as_on_a_cpu(
    save_family: Save, family: str, precision: str
) -> None:
    encoder = Encoder.from_pretrained(save_family(family, tokenizer=False))
    network = BACKENDS["eager"](encoder.network, place("cuda", precision))
    texts = texts_of_every_length(encoder.config.vocab, encoder.config.longest)
    expected = alone(encoder.network, texts)
    with torch.inference_mode():
        ours = network(Ragged.of(texts, "cuda")).last.data.float().cpu()
    torch.testing.assert_close(ours, torch.cat(expected), atol=1e-4 if precision == "fp32" else 0.15, rtol=0)
