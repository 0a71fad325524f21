"""The concept mapper (p064): its loss by hand and by torch's cross-entropy, and where it finds planted concepts."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.explain import ConceptMapper, concept_boxes, tower_maps


def some(n: int = 7, concepts: int = 3, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps (n, 5, 3, 4), labels and texts."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(n, 5, 3, 4, generator=generator)
    labels = (torch.rand(n, concepts, generator=generator) < 0.5).long()
    labels[0], labels[1] = 1, 0
    return maps, labels, torch.randn(concepts, 6, generator=generator)


def test_scores_are_the_best_channels_cosine_one_network_a_concept() -> None:
    maps, _, text = some()
    mapper = ConceptMapper(3, 12, 6, temperature=0.5)
    for b in range(7):
        for a in range(3):
            first, _, second = mapper.networks[a]
            found = []
            for channel in maps[b]:
                hidden = (first.weight @ channel.flatten() + first.bias).clamp_min(0)
                found.append(float(F.cosine_similarity(second.weight @ hidden + second.bias, text[a], dim=0).detach()))
            assert float(mapper.scores(maps, text)[b, a].detach()) == pytest.approx(max(found) / 0.5, abs=1e-5)


def test_scores_and_gradients_are_those_of_all_channels_compared_in_full() -> None:
    generator = torch.Generator().manual_seed(3)
    maps, text = torch.randn(9, 20, 3, 4, generator=generator, requires_grad=True), torch.randn(3, 40)
    text.requires_grad_()
    mapper = ConceptMapper(3, 12, 40, seed=2)
    weights = torch.randn(9, 3, generator=generator)
    wanted = [maps, text, *mapper.parameters()]
    full = mapper.cosines(maps, text).amax(2) / 0.07
    torch.testing.assert_close(mapper.scores(maps, text), full)
    found = torch.autograd.grad((weights * mapper.scores(maps, text)).sum(), wanted)
    for one, other in zip(found, torch.autograd.grad((weights * full).sum(), wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", [False, True])
def test_the_loss_is_the_papers_formula_written_out(mask: bool) -> None:
    maps, labels, text = some()
    mapper = ConceptMapper(3, 12, 6, mask_positives=mask, seed=1)
    scores = mapper.scores(maps, text).tolist()
    total = count = 0.0
    for a in range(3):
        for i in range(7):
            if not labels[i, a]:
                continue
            others = 0.0
            for j in range(7):
                if labels[j, a]:
                    others += 0.0 if mask else 1.0  # exp(s (1 - y)) of a positive, as released
                else:
                    others += math.exp(scores[j][a])
            total -= math.log(math.exp(scores[i][a]) / (math.exp(scores[i][a]) + others))
            count += 1
    assert float(mapper.loss(maps, labels, text).detach()) == pytest.approx(total / count, rel=1e-5)


def test_with_positives_masked_it_is_torchs_cross_entropy_against_negatives() -> None:
    maps, _, text = some(concepts=1)
    labels = torch.tensor([[1], [0], [1], [1], [0], [0], [1]])
    mapper = ConceptMapper(1, 12, 6, mask_positives=True)
    scores = mapper.scores(maps, text)[:, 0]
    rows = [torch.cat([scores[i : i + 1], scores[[1, 4, 5]]]) for i in (0, 2, 3, 6)]
    expected = F.cross_entropy(torch.stack(rows), torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(mapper.loss(maps, labels, text), expected)


def test_one_negative_among_positives_by_hand() -> None:
    maps, _, text = some(n=3, concepts=1)
    labels = torch.tensor([[1], [1], [0]])
    mapper = ConceptMapper(1, 12, 6, temperature=1.0)
    s = [float(x) for x in mapper.scores(maps, text)[:, 0]]
    expected = sum(math.log(1 + (2 + math.exp(s[2])) / math.exp(x)) for x in s[:2]) / 2
    assert float(mapper.loss(maps, labels, text).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(mapper.loss(maps, torch.zeros(3, 1), text)) == 0.0


def test_the_heat_map_is_the_rectified_sum_of_the_channels_near_the_text() -> None:
    maps, _, text = some(n=2)
    mapper = ConceptMapper(3, 12, 6)
    found = mapper.heatmap(maps, text)
    weights = mapper.cosines(maps, text)
    for b in range(2):
        for a in range(3):
            plain = sum(max(float(weights[b, a, c]), 0.0) * maps[b, c] for c in range(5)).clamp_min(0)  # type: ignore[union-attr]
            low, high = plain.min(), plain.max()
            torch.testing.assert_close(found[b, a], (plain - low) / (high - low).clamp_min(1e-12), rtol=1e-4, atol=1e-5)
    assert float(found.flatten(2).amax(2).sum()) > 3  # most are not blank
    large = mapper.heatmap(maps, text, (9, 8))
    torch.testing.assert_close(large, F.interpolate(found, size=(9, 8), mode="bilinear"))
    assert not float(mapper.heatmap(torch.zeros_like(maps), text).abs().sum())


def planted(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two concepts among six channels of 4 x 4: an image that has concept a has a column or a row lit in any channel.

    Returns maps, labels and the lit places (n, 2, 4, 4).
    """
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, 2, generator=generator) < 0.5).long()
    maps = 0.3 * torch.rand(n, 6, 4, 4, generator=generator)
    lit = torch.zeros(n, 2, 4, 4, dtype=torch.bool)
    for i in range(n):
        channels = torch.randperm(6, generator=generator)
        for a in range(2):
            where = int(torch.randint(4, (1,), generator=generator))
            if a == 0:
                lit[i, a, :, where] = True  # columns
            else:
                lit[i, a, where, :] = True  # rows
            if labels[i, a]:
                maps[i, channels[a]] += 2 * lit[i, a]
    return maps, labels, lit


def inside(heat: torch.Tensor, labels: torch.Tensor, lit: torch.Tensor) -> float:
    """Share of the heat that lies on the concept's places, over the images that have both concepts."""
    both = labels.all(1)
    return float((heat * lit)[both].sum() / heat[both].sum())


def test_labels_of_whole_images_teach_where_a_concept_is() -> None:
    text, (maps, labels, _) = torch.eye(2, 8), planted(800, seed=1)
    mapper = ConceptMapper(2, 16, 8, mask_positives=True)
    start = copy.deepcopy(mapper)
    history = mapper.fit(maps, labels, text, epochs=40, batch=64, lr=1e-2, patience=40)
    assert min(history) < 0.7 * history[0]
    maps, labels, lit = planted(200, seed=2)
    # a column and a row of equal light: the channels' sum cannot tell whose is whose
    every = maps.sum(1, keepdim=True).expand(-1, 2, -1, -1)
    every = every - every.amin((2, 3), keepdim=True)
    plain = inside(every / every.amax((2, 3), keepdim=True), labels, lit)
    found, before = (inside(module.heatmap(maps, text), labels, lit) for module in (mapper, start))
    assert found > plain + 0.1
    assert before < plain + 0.05
    scores = mapper.scores(maps, text).detach()
    for a in (0, 1):
        assert float(scores[labels[:, a] > 0, a].mean()) > float(scores[labels[:, a] == 0, a].mean()) + 2


def named_by_channel(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two lit places in as many of six channels of 4 x 4; an image has concept a where channel a is among them."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, 2, generator=generator) < 0.5).long()
    maps = 0.3 * torch.rand(n, 6, 4, 4, generator=generator)
    for i in range(n):
        for a in range(2):
            other = 2 + 2 * a + int(torch.randint(2, (1,), generator=generator))
            row, column = torch.randint(4, (2,), generator=generator).tolist()
            maps[i, a if labels[i, a] else other, row, column] += 2
    return maps, labels


def ranked(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Area under the curve of the worse of two concepts."""
    has = labels > 0
    return min(float((scores[has[:, a], a, None] > scores[~has[:, a], a]).float().mean()) for a in (0, 1))


def test_channels_are_known_by_their_level_alone() -> None:
    (maps, labels), (new, there) = named_by_channel(240, seed=0), named_by_channel(200, seed=1)
    levels = torch.linspace(-2, 2, 6).view(1, 6, 1, 1)
    found: dict[str, list[float]] = {"of their own": [], "alike": []}
    for seed in (0, 1):  # not every start finds a way: the best channel alone gets a gradient
        text = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
        for name, level in (("of their own", levels), ("alike", 0 * levels)):
            mapper = ConceptMapper(2, 16, 8)
            mapper.fit(maps + level, labels, text, epochs=60, lr=3e-3, patience=10)
            scores = mapper.scores(new + level, text).detach()
            exchanged = mapper.scores((new + level)[:, torch.randperm(6)], text).detach()
            torch.testing.assert_close(scores, exchanged)
            found[name].append(ranked(scores, there))
    assert max(found["of their own"]) > 0.8
    assert max(found["alike"]) < 0.65


def test_training_stops_without_improvement_and_keeps_the_best() -> None:
    maps, labels, text = some(n=20)
    mapper = ConceptMapper(3, 12, 6)
    history = mapper.fit(maps, labels, text, epochs=200, lr=0.05, patience=3)
    least = history.index(min(history))
    assert len(history) == least + 1 + 3
    generator = torch.Generator().manual_seed(0)
    kept = torch.randperm(20, generator=generator)[:4]
    assert float(mapper.loss(maps[kept], labels[kept], text)) == pytest.approx(min(history), rel=1e-5)
    again, source = ConceptMapper(3, 12, 6), text.clone().requires_grad_()
    assert again.fit(maps, labels, 1 * source, epochs=200, lr=0.05, patience=3) == history
    assert source.grad is None


def test_boxes_hold_the_largest_region() -> None:
    maps = torch.zeros(1, 3, 8, 10)
    maps[0, 0, 1:4, 2:7] = 0.9
    maps[0, 0, 6:8, 9] = 1.0
    maps[0, 2, 5, 5] = 0.6
    boxes = concept_boxes(maps)
    assert boxes[0, 0].tolist() == [2, 1, 7, 4]
    assert bool(boxes[0, 1].isnan().all())
    assert boxes[0, 2].tolist() == [5, 5, 6, 6]
    assert bool(concept_boxes(maps, 0.7)[0, 2].isnan().all())


def test_maps_of_a_tower_are_its_last_tokens(clip_model: Any) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = tower_maps(clip_model, images)
    tower = clip_model.image_tower
    tokens = tower.run(tower.embed(clip_model.preprocess(images)))
    h, w = tokens.grid
    assert maps.shape == (2, tower.width, h, w)
    torch.testing.assert_close(maps[1, :, h - 1, 0], tokens.x[1, tower.prefix + (h - 1) * w].detach())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y, t: ConceptMapper(0, 12, 6), "at least 1, got 0, 12, 6"),
        (lambda m, x, y, t: ConceptMapper(3, 12, 6, temperature=0.0), "temperature must be above 0"),
        (lambda m, x, y, t: m.scores(x[..., :3], t), r"of 12 places, got \(7, 5, 3, 3\)"),
        (lambda m, x, y, t: m.scores(x, t[:2]), r"\(3, 6\), got \(2, 6\)"),
        (lambda m, x, y, t: m.scores(x * torch.nan, t), "feature map has values that are not finite"),
        (lambda m, x, y, t: m.loss(x, 2 * y, t), "zeros and ones"),
        (lambda m, x, y, t: m.loss(x, y[:, :2], t), r"\(7, 3\), got \(7, 2\)"),
        (lambda m, x, y, t: m.fit(x[:2], y[:2], t), "at least 3 images"),
        (lambda m, x, y, t: m.fit(x, y, t, patience=0), "at least 1"),
        (lambda m, x, y, t: m.fit(x, 0 * y, t), "no training image has concept 0"),
        (lambda m, x, y, t: concept_boxes(x, 0.0), r"threshold in \(0, 1\]"),
        (lambda m, x, y, t: concept_boxes(x[0]), r"must be \(B, A, H, W\)"),
    ],
)
def test_wrong_use_says_what_would_be_right(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(ConceptMapper(3, 12, 6), *some())
