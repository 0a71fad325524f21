"""Measures of the double ellipsoid (p037) against all pairs written out, and what they are of known clouds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics.pairwise import cosine_similarity
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.evaluate import (
    EmbeddingGeometry,
    EmbeddingSet,
    GapRemoval,
    alignment,
    conformity,
    conformity_divergence,
    conformity_estimate,
    effective_rank,
    linear_separability,
    modality_gap,
    slerp,
    threshold_separability,
    uniformity,
    vslerp,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_conformity_is_the_mean_cosine_with_all_others():
    x = normal(50, 7) + 1
    pairs = cosine_similarity(x.numpy())
    np.fill_diagonal(pairs, 0)
    np.testing.assert_allclose(conformity(x).numpy(), pairs.sum(1) / 49, atol=1e-12)
    y = normal(30, 7, seed=1)
    np.testing.assert_allclose(conformity(x, y).numpy(), cosine_similarity(x.numpy(), y.numpy()).mean(1), atol=1e-12)
    assert abs(float(conformity(normal(4000, 32)).mean())) < 0.01
    shifted = normal(500, 32) + 0.5
    assert np.corrcoef(conformity(shifted), conformity_estimate(shifted))[0, 1] > 0.99
    assert float(conformity_estimate(shifted).mean()) == pytest.approx(float(conformity(shifted).mean()))


def test_alignment_and_uniformity_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch):
    x, y = normal(40, 5) + 0.3, normal(40, 5, seed=1)
    u, v = F.normalize(x, dim=1), F.normalize(y, dim=1)
    assert alignment(x, y) == pytest.approx(float((u - v).square().sum(1).mean()))
    assert alignment(x, y) == pytest.approx(2 - 2 * float((u * v).sum(1).mean()))
    distances = torch.pdist(u).square()
    assert uniformity(x) == pytest.approx(float((-2 * distances).exp().mean().log()))
    from binderclip.evaluate.geometry import measures

    monkeypatch.setattr(measures, "BLOCK", 7)
    assert uniformity(x, 3.0) == pytest.approx(float((-3 * distances).exp().mean().log()))


def test_gap_and_rank_of_known_clouds():
    a, b = torch.zeros(4, 3), torch.zeros(4, 3)
    a[:, 0], b[:, 1] = 2, 5
    assert modality_gap(EmbeddingSet(a, "image"), EmbeddingSet(b, "text")) == pytest.approx(math.sqrt(2))
    assert effective_rank(normal(20_000, 8)) == pytest.approx(8, rel=0.01)
    line = normal(100, 1) * torch.ones(1, 5, dtype=torch.float64)
    assert effective_rank(line) == pytest.approx(1)


def test_the_best_threshold_is_that_of_all_thresholds():
    a, b = (
        EmbeddingSet(normal(31, 4), "image"),
        EmbeddingSet(normal(17, 4, seed=1) + torch.tensor([0, 0.9, 0, 0]), "text"),
    )
    best = 0.0
    for dimension in range(4):
        x, y = a.features[:, dimension].numpy(), b.features[:, dimension].numpy()
        for cut in np.r_[x, y]:
            right = ((x <= cut).mean() + (y > cut).mean()) / 2
            best = max(best, right, 1 - right)
    found, dimension = threshold_separability(a, b)
    assert found == pytest.approx(best)
    assert dimension == 1
    same = threshold_separability(EmbeddingSet(torch.ones(5, 2), "a"), EmbeddingSet(torch.ones(6, 2), "b"))
    assert same[0] == 0.5
    apart = EmbeddingSet(normal(60, 4) + 4, "text")
    assert linear_separability(EmbeddingSet(normal(50, 4, seed=3), "image"), apart) > 0.98
    assert linear_separability(EmbeddingSet(normal(200, 2), "a"), EmbeddingSet(normal(200, 2, seed=4), "b")) < 0.62


def test_a_round_cloud_is_reported_as_one_and_an_offset_shell_as_what_it_is():
    x = normal(6000, 40)
    y = normal(6000, 40, seed=1)
    y[:, 0] = 5 * y[:, 0] + 30
    report = EmbeddingGeometry(EmbeddingSet(x, "image"), EmbeddingSet(y, "text")).report()
    assert report.image.offset < 0.03
    assert report.image.ellipsoid == pytest.approx(1, abs=0.12)
    assert report.image.shell == pytest.approx(1, abs=0.01)
    assert report.image.within > 0.6
    assert report.text.offset > 0.9
    assert report.text.ellipsoid == pytest.approx(25, rel=0.1)
    assert report.text.conformity > 0.8
    assert report.separability > 0.99
    assert report.dimension == 0
    assert {row["measure"] for row in report.table()} >= {"offset", "gap", "divergence"}


def test_the_landscape_is_the_loss_of_moved_pairs():
    generator = normal(128, 6)
    image, text = generator + 1, generator + 0.3 * normal(128, 6, seed=2) - 2
    found = EmbeddingGeometry(EmbeddingSet(image, "image"), EmbeddingSet(text, "text")).shift_landscape(
        (0.0, 0.5, 1.0), scale=20.0, batch=64
    )
    u = F.normalize(image - 0.5 * image.mean(0), dim=1)
    v = F.normalize(text - text.mean(0), dim=1)
    losses, right = [], []
    for part in (slice(0, 64), slice(64, 128)):
        logits, target = 20 * u[part] @ v[part].T, torch.arange(64)
        losses.append((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2)
        right += [(logits.argmax(1) == target).double().mean(), (logits.argmax(0) == target).double().mean()]
    assert float(found.loss[1, 2]) == pytest.approx(float(sum(losses) / 2))
    assert float(found.accuracy[1, 2]) == pytest.approx(float(sum(right) / 4))
    torch.testing.assert_close(found.loss, found.alignment + found.uniformity)
    assert found.best == (1.0, 1.0)
    means = [(cosine_similarity(x.numpy()).sum(1) - 1) / 127 for x in (u, v)]
    edges = np.linspace(min(map(np.min, means)), max(map(np.max, means)), 101)
    p, q = (np.histogram(part, edges)[0] / 128 + 1e-6 for part in means)
    assert float(found.divergence[1, 2]) == pytest.approx(entropy(p, q), rel=1e-6)


def test_the_divergence_is_scipys():
    a, b = normal(500), normal(700, seed=1) * 0.7 + 0.3
    edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 101)
    p, q = (np.histogram(part, edges)[0] / len(part) + 1e-6 for part in (a, b))
    assert conformity_divergence(a, b) == pytest.approx(entropy(p, q))
    assert conformity_divergence(a, a) == 0


def test_arcs_begin_and_end_keep_their_length_and_go_all_the_way_round():
    a, b = normal(5, 6), normal(5, 6, seed=1)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    u, v = F.normalize(a, dim=1), F.normalize(b, dim=1)
    half = slerp(u, v, 0.5)
    torch.testing.assert_close(half.norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close((half * u).sum(1), (half * v).sum(1))
    torch.testing.assert_close(slerp(u, v, 0.5, full_circle=True), -u)
    torch.testing.assert_close(slerp(u, v, 1.0, full_circle=True), u)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
    mean = normal(6, seed=4)
    torch.testing.assert_close(vslerp(a, b, 0.3, mean, k=0.0), slerp(a, b, 0.3))
    torch.testing.assert_close(vslerp(a, b, 1.0, mean), b)
    # Far from the mean the arc becomes a straight line.
    torch.testing.assert_close(vslerp(a, b, 0.3, mean, k=1e5), 0.7 * a + 0.3 * b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: slerp(torch.ones(3), -torch.ones(3), 0.5), "opposite directions"),
        (lambda: slerp(torch.ones(3), torch.zeros(3), 0.5), "no direction"),
        (lambda: uniformity(torch.ones(1, 3)), "needs two"),
        (lambda: conformity(torch.ones(1, 3)), "needs a reference"),
        (lambda: EmbeddingGeometry(EmbeddingSet(normal(3, 2), "a"), EmbeddingSet(normal(4, 2), "b")), "are no pairs"),
        (lambda: EmbeddingGeometry(EmbeddingSet(normal(3, 2), "a"), EmbeddingSet(normal(3, 2), "b")).shift_landscape(),
         "needs pairs, 512"),
        (lambda: linear_separability(EmbeddingSet(normal(3, 2), "a"), EmbeddingSet(normal(9, 2), "b")), "5 folds need"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(act, said: str):
    with pytest.raises(UsageError, match=said):
        act()


def test_retrieval_behind_a_map_is_measured_on_the_half_it_was_not_fitted_on():
    pairs = normal(60, 5)
    image, text = pairs + 0.3 * normal(60, 5, seed=1), pairs + 0.3 * normal(60, 5, seed=2)
    image[:, 0] += 4  # the gap
    geometry = EmbeddingGeometry(EmbeddingSet(image, "image"), EmbeddingSet(text, "text"))
    first, second = geometry.halves(3)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(60))
    plain, removed = geometry.retrieval_behind(seed=3), geometry.retrieval_behind(GapRemoval(), seed=3)
    u, v = (F.normalize(x[second], dim=1) for x in (image, text))
    assert plain["text_to_image/R@1"] == pytest.approx(float(((v @ u.T).argmax(1) == torch.arange(30)).double().mean()))
    means = [F.normalize(x[first], dim=1).mean(0) for x in (image, text)]
    a, b = (F.normalize(x - mean, dim=1) for x, mean in zip((u, v), means, strict=True))
    assert removed["text_to_image/R@1"] == pytest.approx(
        float(((b @ a.T).argmax(1) == torch.arange(30)).double().mean())
    )
    assert removed["text_to_image/R@1"] > plain["text_to_image/R@1"]
    with pytest.raises(UsageError, match="pairs"):
        EmbeddingGeometry(EmbeddingSet(image, "image"), EmbeddingSet(text[:50], "text"), paired=False).halves()


def test_a_vector_of_zeros_has_no_conformity() -> None:
    x = torch.eye(4)[:3]
    zeros = torch.cat([x, torch.zeros(1, 4)])
    with pytest.raises(UsageError, match="row 3 of x is zero"):
        conformity(zeros)
    with pytest.raises(UsageError, match="row 3 of reference is zero"):
        conformity(x, zeros)


def test_plain_rows_do_for_an_embedding_set() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(9, 4, generator=generator), 1 + torch.randn(9, 4, generator=generator)
    gap = (a / a.norm(dim=1, keepdim=True)).mean(0) - (b / b.norm(dim=1, keepdim=True)).mean(0)
    for first, second in ((a, b), (a.numpy(), b.numpy()), (EmbeddingSet(a, "image"), b.tolist())):
        assert modality_gap(first, second) == pytest.approx(float(gap.norm()), rel=1e-5)
    assert alignment(a.numpy(), b.numpy()) == alignment(a, b)
    assert uniformity(a.numpy()) == uniformity(a)
    assert effective_rank(a.numpy()) == pytest.approx(effective_rank(a), rel=1e-9)
    with pytest.raises(UsageError, match=r"second must be \(N, E\) floating-point features"):
        modality_gap(a, torch.tensor(1.0))
    with pytest.raises(UsageError, match="alignment needs pairs, one row of b for each of a"):
        alignment(a, b[:1])
