"""Pipelines answer as those of transformers do: the same numbers in the same shapes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from bothways import Encoder, InputError, TruncationWarning, pipeline
from bothways.engine.pipeline import Pipeline, check_types

TEXTS = [
    "the [MASK] sat on the mat.",
    "[MASK]",
    "a dog ran to the [MASK] , was it un[MASK]?",
    "the cat [MASK]",
    "[MASK] [MASK] [MASK]",
]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, save_bert: Callable[..., Path]) -> Path:
    return save_bert(kind="BertForMaskedLM", tie_word_embeddings=request.param, max_position_embeddings=40)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Pipeline:
    return pipeline("fill-mask", folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return transformers.pipeline("fill-mask", str(folder), device="cpu")


def same_answers(ours: Any, theirs: Any) -> None:
    """The same nesting of lists, the same candidates in the same order, the same scores."""
    if isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for mine, expected in zip(ours, theirs, strict=True):
            same_answers(mine, expected)
    else:
        assert ours.keys() == theirs.keys() == {"score", "token", "token_str", "sequence"}
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert {key: ours[key] for key in ours if key != "score"} == {
            key: theirs[key] for key in ours if key != "score"
        }
        assert type(ours["score"]) is float
        assert type(ours["token"]) is int


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 7}], ids=str)
def test_masks_are_filled_as_by_transformers(ours: Pipeline, theirs: Any, text: str, options: dict) -> None:
    same_answers(ours(text, **options), theirs(text, **options))


def test_a_list_of_texts_gives_a_list_of_answers(ours: Pipeline, theirs: Any) -> None:
    same_answers(ours(TEXTS), [theirs(text) for text in TEXTS])
    same_answers(ours([TEXTS[0]]), [theirs(TEXTS[0])])
    assert ours([]) == []


def test_scores_are_probabilities_best_first(ours: Pipeline) -> None:
    answers = ours(TEXTS[0], top_k=10_000)
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["top_k", "pieces"])
@pytest.mark.parametrize("number", [0, -1, 1.5, "3", True])
def test_a_number_that_is_no_count_is_refused(ours: Pipeline, name: str, number: object) -> None:
    with pytest.raises(InputError, match=f"{name} must be a whole number"):
        ours(TEXTS[0], **{name: number})


@pytest.mark.parametrize("text", [text for text in TEXTS if "un[MASK]" not in text])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}], ids=str)
def test_targets_of_one_piece_are_scored_as_by_transformers(
    ours: Pipeline, theirs: Any, text: str, options: dict
) -> None:
    targets = ["mat", "cat", "dog", "mat"]
    same_answers(ours(text, targets=targets, **options), theirs(text, targets=targets, **options))


def test_all_targets_are_answered_for_unless_top_k_says_otherwise(ours: Pipeline) -> None:
    targets = ["the", "a", "cat", "dog", "sat", "on", "mat"]
    assert {answer["token_str"] for answer in ours(TEXTS[0], targets=targets)} == set(targets)
    assert len(ours(TEXTS[0], targets=targets, top_k=3)) == 3
    assert ours(TEXTS[0], targets="cat")[0]["token_str"] == "cat"


def product_of_pieces(folder: Path, text: str, word: list[int]) -> float:
    """The naive oracle, by transformers: one forward a piece, those before it in place."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    ids = tokenizer(text)["input_ids"]
    place, score = ids.index(tokenizer.mask_token_id), 1.0
    for step, piece in enumerate(word):
        masks = [tokenizer.mask_token_id] * (len(word) - step)
        row = torch.tensor([[*ids[:place], *word[:step], *masks, *ids[place + 1 :]]])
        with torch.inference_mode():
            score *= model(row).logits[0, place + step].softmax(-1)[piece].item()
    return score


def test_a_target_of_several_pieces_is_scored_as_a_whole(ours: Pipeline, folder: Path, vocab: list[str]) -> None:
    answers = ours("the [MASK] sat.", targets=["unable", "cat", "dogs", "doable"])
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)
    whole = {answer["token_str"]: answer for answer in answers}
    for word, pieces in {"unable": ["un", "##able"], "dogs": ["dog", "##s"], "doable": ["do", "##able"]}.items():
        ids = [vocab.index(piece) for piece in pieces]
        assert whole[word]["token"] == ids
        assert whole[word]["sequence"] == f"the {word} sat."
        assert whole[word]["score"] == pytest.approx(product_of_pieces(folder, "the [MASK] sat.", ids), rel=1e-4)


def test_targets_of_several_masks_leave_the_other_masks_alone(ours: Pipeline, folder: Path, vocab: list[str]) -> None:
    first, second = ours("the [MASK] [MASK] sat.", targets=["unable"])
    ids = [vocab.index("un"), vocab.index("##able")]
    expected = product_of_pieces(folder, "the [MASK] [MASK] sat.", ids)
    assert first[0]["score"] == pytest.approx(expected, rel=1e-4)
    assert second[0]["score"] != pytest.approx(expected, rel=1e-4)
    assert "[MASK]" in first[0]["sequence"]


def test_a_target_in_a_list_scores_as_by_itself(ours: Pipeline) -> None:
    texts, targets = [TEXTS[0], TEXTS[2], TEXTS[3]], ["unable", "cat", "house"]
    assert ours(texts, targets=targets) == [ours(text, targets=targets) for text in texts]
    assert ours([], targets=targets) == []


def test_a_target_inside_a_word_is_the_piece_that_goes_on_with_it(ours: Pipeline, vocab: list[str]) -> None:
    (answer,) = ours("a dog ran un[MASK]", targets=["able"])
    assert answer["token"] in (vocab.index("##able"), vocab.index("able"))
    assert ours("the dog[MASK] ran", targets=["s"])[0]["token"] == vocab.index("##s")


def test_what_is_spelt_as_a_piece_is_that_piece(ours: Pipeline, theirs: Any, vocab: list[str]) -> None:
    text = "a dog[MASK] to the house"
    targets = ["##able", "[UNK]", "##s", "[MASK]", "[SEP]"]
    same_answers(ours(text, targets=targets), theirs(text, targets=targets))
    marked = [one for one in ours(text, top_k=10_000) if one["token_str"].startswith(("##", "["))]
    again = ours(text, targets=[one["token_str"] for one in marked])
    same_answers(again, marked)
    assert ours(text, targets=["able"])[0]["token"] == vocab.index("##able")


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ([], "targets is empty"),
        ([""], "must be a word"),
        (["cat", 3], "must be a word"),
        (["☃"], "'☃'"),
        (["[MASK]s"], "mask token"),
        (7, "int"),
    ],
    ids=str,
)
def test_targets_that_are_no_words_are_refused(ours: Pipeline, targets: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ours(TEXTS[0], targets=targets)


@pytest.fixture(scope="module")
def byte_level(new_folder: Callable[[], Path]) -> Path:
    """A random small RoBERTa with a byte-level vocabulary, whose mask swallows the space before it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Ġc", "Ġca", "Ġcat", "Ġs", "Ġsa", "Ġsat", "do", "Ġdo", "Ġdog"]
    merges = [("Ġ", "c"), ("Ġc", "a"), ("Ġca", "t"), ("Ġ", "s"), ("Ġs", "a"), ("Ġsa", "t"), ("d", "o"), ("Ġ", "do")]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *words]
    backend = Backend(models.BPE({piece: i for i, piece in enumerate(pieces)}, [*merges, ("Ġdo", "g")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True), "<s>", "<pad>", "</s>", "<unk>"])
    folder = new_folder()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=AddedToken("<mask>", lstrip=True),
    ).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.RobertaConfig(
        vocab_size=len(pieces), max_position_embeddings=42, type_vocab_size=1, pad_token_id=1, **sizes
    )
    transformers.RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def test_a_byte_level_target_has_the_space_that_its_place_has(byte_level: Path) -> None:
    ours = pipeline("fill-mask", byte_level, device="cpu")
    theirs = transformers.pipeline("fill-mask", str(byte_level), device="cpu")
    text, words = "the <mask> sat", ["cat", "dog", "sat"]
    same_answers(ours(text, targets=words), theirs(text, targets=[f"Ġ{word}" for word in words]))
    at_the_start = [one for one in ours("<mask> sat", top_k=300) if one["token_str"][:1] == " " != one["token_str"]]
    assert len(at_the_start) > 5
    for spelt in ([one["token_str"] for one in at_the_start], ["Ġ" + one["token_str"][1:] for one in at_the_start]):
        same_answers(ours("<mask> sat", targets=spelt), at_the_start)
    (answer,) = ours(text, targets=["cats"])
    assert answer["token_str"] == " cats"
    assert answer["sequence"] == "the cats sat"
    assert isinstance(answer["token"], list)
    words = [a["token_str"] for a in ours(text, pieces=3, top_k=200)]
    assert all(" " not in word.strip() for word in words[:200] if word.strip())


def test_a_deberta_fills_masks_as_by_transformers(new_folder: Callable[[], Path], folder: Path) -> None:
    other = new_folder()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    distances = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    config = transformers.DebertaV2Config(
        vocab_size=transformers.AutoConfig.from_pretrained(folder).vocab_size,
        max_position_embeddings=40,
        type_vocab_size=0,
        position_biased_input=False,
        **sizes,
        **distances,
    )
    transformers.DebertaV2ForMaskedLM(config).save_pretrained(other)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(folder / name, other)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.pipeline(
        "fill-mask", transformers.AutoModelForMaskedLM.from_pretrained(other), tokenizer=tokenizer
    )
    text = "the [MASK] sat on the mat."
    ours = pipeline("fill-mask", other, device="cpu")
    same_answers(ours(text), theirs(text))
    same_answers(ours(text, targets=["cat", "dog"]), theirs(text, targets=["cat", "dog"]))


def test_targets_and_pieces_do_not_go_together(ours: Pipeline) -> None:
    with pytest.raises(InputError, match="not both"):
        ours(TEXTS[0], targets=["cat"], pieces=2)


@pytest.mark.parametrize("text", ["the [MASK] sat.", "[MASK]"])
def test_a_beam_as_wide_as_the_vocabulary_finds_what_trying_everything_finds(
    ours: Pipeline, folder: Path, vocab: list[str], text: str
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    ids = tokenizer(text)["input_ids"]
    place, mask = ids.index(tokenizer.mask_token_id), tokenizer.mask_token_id

    def probabilities(*pieces: int) -> torch.Tensor:
        """At the last of the pieces' places, or at the mask after them."""
        row = torch.tensor([[*ids[:place], *pieces, *ids[place + 1 :]]])
        with torch.inference_mode():
            return model(row).logits[0].softmax(-1)

    words = {(i,): p for i, p in enumerate(probabilities(mask)[place].tolist())}
    letters = [i for i, token in enumerate(vocab) if i > 4 and any(c.isalnum() for c in token)]
    for first in letters:
        begun = probabilities(mask, mask)[place, first].item()
        then = probabilities(first, mask)[place + 1].tolist()
        words |= {(first, i): begun * then[i] for i in letters if vocab[i].startswith("##")}
    expected = sorted(words, key=lambda pieces: -words[pieces])[:50]
    answers = ours(text, pieces=2, top_k=200)[:50]
    found = [tuple(a["token"]) if isinstance(a["token"], list) else (a["token"],) for a in answers]
    assert [len(pieces) for pieces in found] == [len(pieces) for pieces in expected]
    assert set(found[:40]) <= set(expected)
    for answer, pieces in zip(answers, expected, strict=True):
        assert answer["score"] == pytest.approx(words[pieces], rel=1e-3)


def test_words_of_up_to_three_pieces_are_whole_words(ours: Pipeline, vocab: list[str]) -> None:
    answers = ours("the [MASK] sat.", pieces=3, top_k=200)
    scores = [answer["score"] for answer in answers]
    assert len(answers) == 200
    assert scores == sorted(scores, reverse=True)
    longer = [answer["token"] for answer in answers if isinstance(answer["token"], list)]
    assert longer
    assert all(vocab[piece].startswith("##") for pieces in longer for piece in pieces[1:])


def test_one_piece_is_what_is_answered_without_saying_so(ours: Pipeline) -> None:
    assert ours(TEXTS, pieces=1) == ours(TEXTS)


def test_pieces_leave_room_in_a_text_that_is_cut(ours: Pipeline) -> None:
    with pytest.warns(TruncationWarning, match="the text was cut to 38 tokens"):
        assert ours("the [MASK] " + "cat " * 100, pieces=3)
    with pytest.warns(TruncationWarning, match="the text was cut to 39 tokens"):
        assert len(ours("the [MASK] " + "cat " * 100, targets=["cat", "unable"])) == 2
    with pytest.raises(InputError, match="pieces must be a whole number from 1 to 8, got 40"):
        ours(TEXTS[0], pieces=40)


def test_a_text_at_the_limit_is_cut_by_what_its_own_targets_need_in_place(ours: Pipeline) -> None:
    inside, beside = "dog[MASK] " + "cat " * 36, "the [MASK] " + "cat " * 36
    assert len(ours([beside, TEXTS[0]], targets=["cat"])) == 2  # no warning: a word of one piece needs no room
    with pytest.warns(TruncationWarning, match="1 of 2 texts were cut to 38 tokens") as caught:
        together = ours([inside, beside], targets=["cat"])
    assert len(caught) == 1
    assert len(together[0][0]["token"]) == 3
    with pytest.warns(TruncationWarning, match="the text was cut to 38 tokens"):
        assert together == [ours(inside, targets=["cat"]), ours(beside, targets=["cat"])]
    with pytest.warns(TruncationWarning) as caught:
        ours([inside, "the [MASK] " + "cat " * 60], targets=["cat"])
    assert [str(one.message).partition(" (")[0] for one in caught] == [
        "1 of 2 texts were cut to 38 tokens",
        "1 of 2 texts were cut to 40 tokens",
    ]


def test_what_has_no_room_in_any_text_is_named(ours: Pipeline, save_bert: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"the target 'catcat.*…' of 88 pieces has no room in a text.* 40 tokens"):
        ours(["the [MASK] sat.", TEXTS[0]], targets=["cat", "cat" * 30])
    short = pipeline("fill-mask", save_bert(kind="BertForMaskedLM", max_position_embeddings=6), device="cpu")
    with pytest.raises(InputError, match="a word of 8 pieces has no room in a text: the model takes 6 tokens"):
        short("[MASK]", pieces=8)


def test_another_models_mask_is_met_with_how_this_ones_is_written(ours: Pipeline, byte_level: Path) -> None:
    with pytest.raises(InputError, match=r"\(this model's mask is written <mask>\)"):
        pipeline("fill-mask", byte_level, device="cpu")("the [MASK] sat")
    with pytest.raises(InputError, match=r"\(this model's mask is written \[MASK\]\)"):
        ours("the <mask> sat")


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (["a [MASK]"], {"topk": 3}, "fill-mask has no option topk; did you mean top_k?"),
        (["a [MASK]"], {"colour": 3}, "fill-mask has no option colour; it has top_k, targets, pieces"),
        ([], {}, "fill-mask: missing a required argument: 'texts'"),
        (["a [MASK]", 3], {}, "fill-mask: too many positional arguments"),
    ],
    ids=str,
)
def test_arguments_that_a_task_does_not_take(ours: Pipeline, arguments: list, options: dict, says: str) -> None:
    with pytest.raises(InputError) as caught:
        ours(*arguments, **options)
    assert says in str(caught.value)


def test_pipelines_and_encoders_say_what_they_are(folder: Path, ours: Pipeline) -> None:
    assert repr(ours) == f"Pipeline('fill-mask', {str(folder)!r}, fp32 on cpu)"
    encoder = Encoder.from_pretrained(folder)
    assert repr(encoder).startswith("Encoder(bert, 2 layers × 32, 4 attention heads, 0.0 M parameters, ")
    assert repr(encoder).endswith("output heads: mlm)")
    assert repr(encoder) in repr(Pipeline("fill-mask", encoder, device="cpu", precision="bf16"))


def test_a_pair_on_a_model_of_one_type_is_refused(save_bert: Callable[..., Path]) -> None:
    encoder = Encoder.from_pretrained(save_bert(type_vocab_size=1))
    assert encoder.tokenizer is not None
    encoded = encoder.tokenizer.encode(["a cat"], ["a dog"])
    with pytest.raises(InputError, match="pair 0 has tokens of type 1, but the model knows 1"):
        check_types(encoded, encoder.config)


def test_a_long_text_is_cut_and_the_user_is_told(ours: Pipeline) -> None:
    with pytest.warns(TruncationWarning, match="1 of 2 texts were cut to 40 tokens"):
        answers = ours(["the [MASK] " + "cat " * 100, TEXTS[0]])
    assert len(answers) == 2
    with pytest.raises(InputError, match="after it was cut"):
        ours("cat " * 100 + "[MASK]")


@pytest.fixture(scope="module")
def features(folder: Path) -> Pipeline:
    return pipeline("feature-extraction", folder, device="cpu")


PLAIN = ["the cat sat on the mat.", "a dog", "", "was un able ! do the house red?"]


def test_features_are_the_hidden_states_of_transformers(folder: Path, features: Pipeline) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    last, everything = features(PLAIN), features(PLAIN, layers="all")
    for text, one, layers in zip(PLAIN, last, everything, strict=True):
        with torch.inference_mode():
            expected = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        tokens = len(tokenizer(text)["input_ids"])
        assert isinstance(one, np.ndarray)
        assert one.dtype == layers.dtype == np.float32
        assert one.shape == (1, tokens, 32)
        assert layers.shape == (3, tokens, 32)
        np.testing.assert_allclose(layers, torch.cat(expected).numpy(), atol=1e-4, rtol=0)
        assert np.array_equal(one[0], layers[-1])


def test_features_are_shaped_as_by_the_pipeline_of_transformers(folder: Path, features: Pipeline) -> None:
    theirs = transformers.pipeline("feature-extraction", str(folder), device="cpu")
    np.testing.assert_allclose(features(PLAIN[0]), np.array(theirs(PLAIN[0])), atol=1e-4, rtol=0)
    assert len(features(PLAIN)) == len(theirs(PLAIN)) == len(PLAIN)


def test_one_text_gives_one_array_and_a_list_a_list(features: Pipeline) -> None:
    one = features(PLAIN[0])
    (of_list,) = features([PLAIN[0]])
    assert np.array_equal(one, of_list)
    assert features([]) == []


def test_unknown_layers_are_refused(features: Pipeline) -> None:
    with pytest.raises(InputError, match='"last" or "all"'):
        features(PLAIN, layers="first")


def test_results_own_their_memory_and_may_be_written_to(features: Pipeline) -> None:
    first, second = features([PLAIN[0], PLAIN[0]])
    first += 1
    assert np.abs(first - second).min() > 0.5
