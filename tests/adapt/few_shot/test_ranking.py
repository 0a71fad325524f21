"""The ranking adapter (p087, arXiv 2412.06760): it follows the query, ignores padding, and orders what it can see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor

from binderclip.adapt import RankingAdapter, RankingNet, RankingShape, WordTokens, patch_tokens, word_tokens
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, load

SMALL = {"width": 16, "heads": 2, "fusion": 1, "post": 1, "queries": 2, "text_tokens": 4, "dropout": 0.0, "lr": 3e-3}


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    return load("small")


def tokens(n: int, seed: int = 0, patches: int = 6, width: int = 256) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Noise in which 0 to 4 patches carry one mark and as many as there is room for another, and both numbers."""
    g = torch.Generator().manual_seed(seed)
    marks = torch.randn(2, width, generator=torch.Generator().manual_seed(99)) * 2
    x = torch.randn(n, patches, width, generator=g) * 0.3
    counts = torch.stack([torch.randint(0, 4, (n,), generator=g) for _ in range(2)])
    for k, (one, other) in enumerate(counts.T.tolist()):
        x[k, :one] += marks[0]
        x[k, patches - other :] += marks[1]
    return x, counts[0].numpy().astype(float), counts[1].numpy().astype(float)


# --- token features --------------------------------------------------------------------------------------------------


def test_tokens_are_those_behind_the_dense_map(model: ImageTextModel) -> None:
    images = torch.rand(3, 3, 60, 40)
    found = patch_tokens(model, images, batch_size=2)
    assert found.shape == (3, 64, 256)
    tower = model.image_tower
    dense = tower.dense_images(model.preprocess(images))  # every patch in the shared space
    assert torch.allclose(tower.project(found), dense.flatten(2).transpose(1, 2), atol=1e-4)
    assert torch.allclose(patch_tokens(model, list(images)), found, atol=1e-4)


def test_word_tokens_hold_the_pooled_word_and_hide_padding(model: ImageTextModel) -> None:
    texts = ["number of cats", "a"]
    words = word_tokens(model, texts)
    ids = model.tokenize(texts)
    assert words.mask.sum(1).tolist() == ids.mask.sum(1).tolist()
    assert words.states.shape[1] == int(ids.mask.sum(1).max())
    ends = words.states[torch.arange(2), ids.position]
    assert torch.allclose(model.text_tower.project(ends), model.encode_text(texts), atol=1e-4)


# --- the network -----------------------------------------------------------------------------------------------------


def test_padding_words_and_the_order_of_patches_change_nothing() -> None:
    torch.manual_seed(0)
    net = RankingNet(RankingShape(8, 6, 12, heads=2, fusion=2, post=1, queries=3, text_tokens=2)).eval()
    x, y = torch.randn(3, 5, 8), torch.randn(3, 4, 6)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    base = net.score(net.fuse(x, y, mask))
    noisy = torch.where(mask[..., None], y, 100 * torch.randn(3, 4, 6))
    assert torch.allclose(net.score(net.fuse(x, noisy, mask)), base, atol=1e-5)
    assert torch.allclose(net.score(net.fuse(x[:, [4, 0, 3, 1, 2]], y, mask)), base, atol=1e-4)
    assert not torch.allclose(net.score(net.fuse(x, y.flip(0), mask)), base, atol=1e-3)
    # The sum over patches counts: twice the tokens is not the same picture.
    assert not torch.allclose(net.score(net.fuse(x.repeat(1, 2, 1), y, mask)), base, atol=1e-3)


def test_only_the_pair_branch_is_left_out_where_nobody_wants_it() -> None:
    net = RankingNet(RankingShape(8, 8, 8, heads=2, fusion=1, post=0, queries=0)).eval().double()
    fused = torch.randn(4, 5, 8, dtype=torch.float64)
    mine = net.score(fused)
    assert net.relation is None
    assert torch.allclose(net.compare(fused), mine[:, None] - mine)
    assert torch.allclose(net.compare(fused[:2], fused), net.compare(fused)[:2])
    assert isinstance(net.from_patches, torch.nn.Identity)


# --- the estimator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["relational", "single"])
def test_it_learns_to_order_by_what_is_asked(model: ImageTextModel, branch: str) -> None:
    x, first, second = tokens(96)
    captions = ["number of cats"] * 96 + ["number of dogs"] * 96
    ranker = RankingAdapter(model, branch=branch, steps=200, **SMALL)
    ranker.fit(torch.cat([x, x]), captions, np.concatenate([first, second]))
    new, one, other = tokens(40, seed=7)
    assert ranker.score(new, "number of cats", one) > 0.8
    assert ranker.score(new, "number of dogs", other) > 0.8
    # swapping the query changes the order
    assert ranker.score(new, "number of dogs", one) < 0.5
    probability = ranker.compare(new, "number of cats", chunk=7)
    assert probability.shape == (40, 40)
    more, less = one[:, None] > one, one[:, None] < one
    assert probability[more].mean() > 0.5 > probability[less].mean()


def test_without_ranking_only_the_regression_is_trained(model: ImageTextModel) -> None:
    x, first, _ = tokens(48)
    ranker = RankingAdapter(model, branch="none", steps=60, **SMALL).fit(x, "number of cats", first)
    assert ranker.network_.relation is None
    error = np.abs(ranker.predict(x, "number of cats") - first).mean()
    assert error < np.abs(first - np.median(first)).mean()


def test_groups_keep_quantities_apart(model: ImageTextModel) -> None:
    x, first, _ = tokens(24)
    options = {**SMALL, "steps": 1, "batch_size": 24, "regression": 0.0}
    # Targets of the second group are shifted by 100: without groups the pairs across would all be decided.
    captions, y = ["a"] * 12 + ["b"] * 12, first + 100.0 * (np.arange(24) >= 12)
    names = ["p"] * 12 + ["q"] * 12
    apart = RankingAdapter(model, **options).fit(x, captions, y, groups=names)
    shifted = RankingAdapter(model, **options).fit(x, captions, first, groups=names)
    assert np.array_equal(apart.predict(x, captions), shifted.predict(x, captions))
    together = RankingAdapter(model, **options).fit(x, captions, y)
    assert not np.array_equal(apart.predict(x, captions), together.predict(x, captions))


def test_pictures_and_cached_tokens_are_the_same_and_seeds_repeat(model: ImageTextModel) -> None:
    images = torch.rand(6, 3, 32, 32)
    x, y = patch_tokens(model, images), [0, 1, 2, 3, 4, 5]
    ranker = RankingAdapter(model, steps=3, **SMALL).fit(images, "brightness", y)
    again = clone(ranker).fit(x, "brightness", y)
    assert np.array_equal(ranker.predict(x, "brightness"), again.predict(images, ["brightness"] * 6))
    other = clone(ranker).set_params(seed=1).fit(x, "brightness", y)
    assert not np.array_equal(other.predict(x, "brightness"), again.predict(x, "brightness"))
    assert ranker.n_trainable_ == sum(p.numel() for p in ranker.network_.parameters())
    assert isinstance(word_tokens(model, ["a"]), WordTokens)


@pytest.mark.parametrize(
    ("settings", "call", "message"),
    [
        ({"branch": "pair"}, {}, "branch must be one of relational, single, none, got 'pair'"),
        ({"heads": 3}, {}, "heads 3 does not divide width 16"),
        ({"fusion": 0}, {}, "fusion 0"),
        ({}, {"captions": ["a"]}, "1 texts for 4 images"),
        ({}, {"y": [1.0, 2.0]}, "y must be 4 finite numbers"),
        ({}, {"y": [1.0, 2.0, 3.0, float("nan")]}, "y must be 4 finite numbers"),
        ({}, {"groups": ["a"]}, "1 names for 4 images"),
        ({}, {"X": torch.randn(4, 5, 8)}, "tokens of width 8"),
        ({}, {"X": []}, "images is empty"),
    ],
)
def test_mistakes_are_named(model: ImageTextModel, settings: dict, call: dict, message: str) -> None:
    given = {"X": torch.randn(4, 5, 256), "captions": "a", "y": [0.0, 1.0, 2.0, 3.0]} | call
    with pytest.raises(UsageError, match=message):
        RankingAdapter(model, **{**SMALL, **settings}).fit(**given)


def test_no_text_is_refused(model: ImageTextModel) -> None:
    with pytest.raises(UsageError, match="at least one text"):
        word_tokens(model, [])
