"""The stage of nearly right captions: what is made of captions, what its step computes, what it trains, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.data.made.hallucinations import PADDING
from binderclip.errors import UsageError
from binderclip.losses import hard_negative
from binderclip.models import TokenIds
from binderclip.train import Recipe, build_model, run
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.feed.captions import further_texts
from binderclip.train.stages.hard_negatives import HallucinatedTexts, HardNegativesStep, objects_in

CAPTIONS = [
    "a cat and a dog",
    "a red cat",
    "a dog, a tree and a house",
    "a ship",
    "a tree beside a car",
    "a house and a cup",
]
OBJECTS = ("cat", "dog", "tree", "house", "ship", "car", "cup")


def stage(tiny: dict[str, Any], **entries: Any) -> Recipe:
    base = {"kind": {"name": "hard-negatives", "count": 2}, "loss": "hard-negatives", "epochs": 1, "evaluation": {}}
    base["data"] = [{"name": "openclipart", "limit": 64}]  # of captions with objects
    return Recipe.from_dict({**tiny, **base, **entries})


def test_objects_are_the_nouns_or_the_known_words() -> None:
    assert objects_in("A small red cat sits beside the dog and a cat") == ["cat", "dog"]
    assert objects_in("Flag of Congo with islands, a bus and grass") == ["flag", "bus", "grass"]
    assert objects_in("A small red cat sits beside the Dog", {"red", "dog", "cow"}) == ["red", "dog"]


def test_a_negative_differs_from_its_caption_by_objects_alone() -> None:
    texts = HallucinatedTexts(CAPTIONS, objects=OBJECTS)
    made = texts(CAPTIONS, [str(n) for n in range(len(CAPTIONS))], 0)
    assert len(made) == 27
    for row, caption in enumerate(CAPTIONS):
        own, real = set(objects_in(caption, set(OBJECTS))), [each[row] for each in made if each[row] != PADDING]
        changed = [set(objects_in(text, set(OBJECTS))) for text in real]
        assert len(real) >= 21
        assert all(others > own or others < own for others in changed)
        assert all(1 <= len(others ^ own) <= 3 for others in changed)
        assert [each[row] for each in made][: len(real)] == real  # padding comes last


def test_negatives_are_drawn_by_key_and_pass_whatever_the_batch() -> None:
    texts = HallucinatedTexts(CAPTIONS, 5, objects=OBJECTS, seed=3)
    whole = texts(CAPTIONS[:3], ["x", "y", "z"], 2)
    assert [each[1:2] for each in whole] == texts(CAPTIONS[1:2], ["y"], 2)
    assert whole != texts(CAPTIONS[:3], ["x", "y", "z"], 3)


def test_further_texts_are_tokens_of_each_list(tiny: dict[str, Any]) -> None:
    tokenize = build_model(tiny["model"], seed=0, captions=lambda: CAPTIONS).tokenize
    seen = []

    def shorten(tokens: TokenIds, keys: Any, epoch: int) -> TokenIds:
        seen.append((tokens.ids.tolist(), list(keys), epoch))
        return tokens[:1]

    def make(captions: Any, keys: Any, epoch: int) -> list[list[str]]:
        return [[f"{caption} {word}" for caption in captions] for word in ("cup", "car")]

    expected = [tokenize([f"a dog {word}", f"a cat {word}"]).ids.tolist() for word in ("cup", "car")]
    assert [t.ids.tolist() for t in further_texts(make, tokenize)(["a dog", "a cat"], ["x", "y"], 0)] == expected
    assert [len(t) for t in further_texts(make, tokenize, shorten)(["a dog", "a cat"], ["x", "y"], 4)] == [1, 1]
    assert seen == [(expected[0], ["x/0", "y/0"], 4), (expected[1], ["x/1", "y/1"], 4)]


def step_of(tiny: dict[str, Any], negatives: list[list[str]]) -> tuple[HardNegativesStep, TrainingBatch]:
    model = build_model(tiny["model"], seed=0, captions=lambda: CAPTIONS)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows, padding = torch.arange(3), model.tokenize([PADDING]).ids[0]
    loss = hard_negative(pair_margin=0.0, negative_margin=0.0)
    texts = [model.tokenize(each) for each in negatives]
    return HardNegativesStep(model, loss, padding), TrainingBatch(
        images, model.tokenize(CAPTIONS[:3]), rows, rows, texts=texts
    )


NEGATIVES = [["a cat", "a red cat and a dog", "a tree"], ["a dog", PADDING, "a dog and a house"]]


def test_the_step_is_half_of_clip_and_a_softmax_over_pictures_and_negatives(tiny: dict[str, Any]) -> None:
    module, batch = step_of(tiny, NEGATIVES)
    total, _ = module(batch)
    model = module.model
    image, text = (F.normalize(x, dim=1) for x in (model.encode_pixels(batch.images), model.encode_text(batch.tokens)))
    expected = F.cross_entropy(image @ text.T / 0.07, torch.arange(3)) / 2
    for row in range(3):
        real = [each[row] for each in NEGATIVES if each[row] != PADDING]
        own = F.normalize(model.encode_text(real), dim=1) @ image[row] / 0.07
        logits = torch.cat([text[row] @ image.T / 0.07, own])
        expected = expected + F.cross_entropy(logits[None], torch.tensor([row])) / 2 / 3
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negatives", [[PADDING] * 3, CAPTIONS[:3]], ids=["padding", "cut to the caption"])
def test_without_any_negative_it_is_clips_loss(tiny: dict[str, Any], negatives: list[str]) -> None:
    module, batch = step_of(tiny, [negatives])
    image = F.normalize(module.model.encode_pixels(batch.images), dim=1)
    logits = image @ F.normalize(module.model.encode_text(batch.tokens), dim=1).T / 0.07
    rows = torch.arange(3)
    expected = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    torch.testing.assert_close(module(batch)[0], expected, rtol=1e-4, atol=1e-5)


def test_features_that_are_not_finite_are_a_nan_that_the_loop_names(tiny: dict[str, Any]) -> None:
    module, batch = step_of(tiny, NEGATIVES)
    with torch.no_grad():
        next(module.model.backbone.text.parameters()).fill_(float("nan"))
    total, parts = module(batch)
    assert bool(total.isnan())
    assert parts == {}


def test_a_killed_run_goes_on_exactly_with_shorter_captions(tiny: dict[str, Any], goes_on_exactly: Any) -> None:
    whole, _ = goes_on_exactly(stage(tiny | {"checkpoint_every": 2, "text_length": 8}), at=3)
    assert whole.stages[0].zero_gradients == []
    assert "loss/hard-negatives" in whole.stages[0].history


def test_what_cannot_be_done(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="count must be 1 to 27, got 28"):
        stage(tiny, kind={"name": "hard-negatives", "count": 28})
    with pytest.raises(UsageError, match='write loss = "hard-negatives"'):
        stage(tiny, loss="clip")
    with pytest.raises(UsageError, match='write kind = "hard-negatives"'):
        Recipe.from_dict({**tiny, "loss": "hard-negatives"})
    with pytest.raises(UsageError, match="at least 6 objects must occur in the captions, found none"):
        run(stage(tiny, kind={"name": "hard-negatives", "objects": ["yak"]}), out=tmp_path / "a", progress=False)
