"""CDUL (p032, arXiv 2405.11574): torchmetrics, autograd, slow loops and limiting cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from sklearn.base import clone
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torchmetrics.classification import MultilabelAveragePrecision
from torchmetrics.functional.regression import kl_divergence

from binderclip.adapt import (
    CDUL,
    PseudoLabels,
    TileAggregator,
    Tiles,
    ZeroShotClassifier,
    indicator,
    multilabel_average_precision,
)
from binderclip.adapt.multi_label.cdul import EDGE, divergence, label_gradient, refine
from binderclip.errors import UsageError

NAMES = ["cat", "dog", "tree", "car", "moon"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def bank(width: int = 8) -> dict[str, np.ndarray]:
    return {name: row.numpy() for name, row in zip(NAMES, draw(len(NAMES), width, seed=1), strict=True)}


# --- metric ----------------------------------------------------------------------------------------------------------


def test_mean_average_precision_is_that_of_torchmetrics_and_skips_absent_classes() -> None:
    scores = draw(40, 5).sigmoid()
    truth = draw(40, 5, seed=3) > 0.7
    reference = MultilabelAveragePrecision(5, average="macro")(scores, truth.int())
    assert multilabel_average_precision(truth, scores) == pytest.approx(float(reference), abs=1e-6)
    absent = truth.clone()
    absent[:, 2] = False
    rest = [0, 1, 3, 4]
    expected = average_precision_score(absent[:, rest].numpy(), scores[:, rest].numpy())
    assert multilabel_average_precision(absent, scores) == pytest.approx(expected)
    assert multilabel_average_precision(truth, truth.double()) == 1


def test_indicator_says_who_shows_what() -> None:
    found = indicator([["cat", "moon", "cat"], [], ["spoon"]], NAMES)
    assert found.tolist() == [[True, False, False, False, True], [False] * 5, [False] * 5]


# --- pseudo-labels ---------------------------------------------------------------------------------------------------


def test_pseudo_labels_equal_a_slow_loop() -> None:
    views, rows = draw(6, 5, 8), F.normalize(draw(5, 8, seed=1), dim=-1)
    for threshold, fusion in ((0.0, 0.0), (0.4, 0.0), (0.3, 0.5)):
        found = TileAggregator(bank(), threshold=threshold, scale=20.0, fusion=fusion)(views)
        for n in range(6):
            probs = [torch.softmax(20 * F.normalize(view, dim=0) @ rows.T, 0) for view in views[n]]
            for c in range(5):
                values = [float(p[c]) for p in probs[1:]]
                local = max(values) if max(values) >= threshold else min(values)
                g = float(probs[0][c])
                assert found.tiles[n, c] == pytest.approx(local)
                assert found.labels[n, c] == pytest.approx(0.5 * (g + local + fusion * abs(g - local)))


def test_limits_of_the_threshold_and_of_the_number_of_tiles() -> None:
    views = draw(7, 10, 8)
    probs = TileAggregator(bank(), scale=10.0)(views.reshape(70, 1, 8)).labels.reshape(7, 10, 5)
    assert torch.allclose(TileAggregator(bank(), threshold=1.1, scale=10.0)(views).tiles, probs[:, 1:].amin(1))
    assert torch.allclose(TileAggregator(bank(), scale=10.0)(views).tiles, probs[:, 1:].amax(1))
    alone = TileAggregator(bank(), scale=10.0)(views[:, :1])
    assert torch.equal(alone.labels, alone.whole)
    assert torch.allclose(alone.whole.sum(1), torch.ones(7, dtype=torch.float64))
    assert TileAggregator(bank()).scale == 100


def test_the_zero_shot_classifier_with_tiles_says_the_same() -> None:
    views = draw(6, 10, 8)
    head = ZeroShotClassifier(bank(), scale=30.0, views=Tiles(3), multi_label=True).fit()
    assert torch.allclose(TileAggregator(bank(), scale=30.0)(views).labels, torch.from_numpy(head.predict_proba(views)))


# --- divergences -----------------------------------------------------------------------------------------------------


def test_both_divergences_have_the_right_direction_and_vanish_where_labels_and_network_agree() -> None:
    p, y = draw(6, 5).softmax(-1), draw(6, 5, seed=2).sigmoid()
    assert float(divergence(p.log(), y).mean()) == pytest.approx(float(kl_divergence(p, y)), rel=1e-6)
    assert not divergence(p.log(), 3 * p / 4).abs().max() > 1e-12
    assert not label_gradient(0.5 * p, p.log()).abs().max() > 1e-12
    # KL(y || p), by autograd of torchmetrics' function, which normalises y itself
    free = y.clone().requires_grad_()
    kl_divergence(free, p, reduction="sum").backward()
    assert torch.allclose(label_gradient(y, p.log()), free.grad, atol=1e-9)


def test_refining_moves_towards_the_network_and_undecided_labels_most() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    y = torch.tensor([[0.3, 0.3, 0.3]], dtype=torch.float64)
    moved = refine(y, p.log())
    assert moved[0, 0] > 0.3 > moved[0, 1] > moved[0, 2]
    assert torch.equal(refine(y, p.log(), step=0.0), torch.sigmoid(torch.logit(y)))
    # The same gradient weighs exp(-0.08) / exp(0) as much at 0.1 or 0.9 as at 0.5.
    for value, weight in ((0.5, 1.0), (0.1, np.exp(-0.5 * 0.16)), (0.9, np.exp(-0.5 * 0.16))):
        y = torch.full((1, 3), value, dtype=torch.float64)
        shift = torch.logit(y) - torch.logit(refine(y, p.log()))
        expected = weight * label_gradient(y, p.log()) / (2 * np.pi) ** 0.5
        assert torch.allclose(shift, expected, atol=1e-9)
        narrow = torch.logit(y) - torch.logit(refine(y, p.log(), sigma=0.2))
        assert torch.allclose(narrow, norm.pdf(value, 0.5, 0.2) * label_gradient(y, p.log()), atol=1e-9)
    hard = torch.tensor([[1.0, EDGE, 0.5]], dtype=torch.float64).clamp(EDGE, 1 - EDGE)
    assert refine(hard, torch.tensor([[1.0, 1e-30, 1e-30]], dtype=torch.float64).log()).isfinite().all()


# --- the estimator ---------------------------------------------------------------------------------------------------


def mixtures(n: int = 120, width: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Views whose tiles each show one of the picture's classes; the whole picture is their mean."""
    rows = F.normalize(draw(len(NAMES), width, seed=1), dim=-1)
    g = torch.Generator().manual_seed(seed)
    truth = torch.rand(n, len(NAMES), generator=g) < 0.4
    truth[torch.arange(n), torch.randint(len(NAMES), (n,), generator=g)] = True
    parts = torch.stack([rows[torch.where(t)[0].repeat(4)[:4]] for t in truth])
    parts = parts + 0.1 * torch.randn(parts.shape, generator=g, dtype=torch.float64)
    return torch.cat([parts.mean(1, keepdim=True), parts], 1).float(), truth


def test_it_learns_to_see_several_labels_from_none() -> None:
    views, (others, there) = mixtures()[0], mixtures(seed=5)
    head = CDUL(TileAggregator(bank(24)), epochs=30).fit(views)
    assert head.score(others, there) > 0.9
    assert head.classes_.tolist() == NAMES
    assert head.predict_proba(others).sum(1) == pytest.approx(1.0)
    assert np.array_equal(head.predict(others), head.predict_proba(others) > 0.2)
    assert np.array_equal(head.predict_proba(others), head.predict_proba(others[:, 0]))
    assert head.labels_.shape == (120, 5)


def test_without_updates_the_labels_stay_and_with_them_they_follow_the_network() -> None:
    views, _ = mixtures(60)
    first = TileAggregator(bank(24))(views).labels.clamp(EDGE, 1 - EDGE)
    options = {"epochs": 12, "warmup": 2, "seed": 3}
    still = CDUL(TileAggregator(bank(24)), update_every=0, **options).fit(views)
    assert torch.equal(still.labels_, first)
    late = CDUL(TileAggregator(bank(24)), update_every=13, **options).fit(views)
    assert torch.equal(late.labels_, first)
    moved = CDUL(TileAggregator(bank(24)), update_every=4, **options).fit(views)
    assert not torch.equal(moved.labels_, first)
    log_p = torch.log_softmax(torch.from_numpy(moved.decision_function(views)), -1)

    def gap(y: Tensor) -> float:
        return float(kl_divergence(y, log_p.exp()))

    assert gap(moved.labels_) < gap(first)
    # warmup is counted in epochs from 1: an update at epoch 4 needs warmup below 4
    assert torch.equal(CDUL(TileAggregator(bank(24)), epochs=7, warmup=4, update_every=4).fit(views).labels_, first)
    assert not torch.equal(CDUL(TileAggregator(bank(24)), epochs=4, warmup=3, update_every=4).fit(views).labels_, first)


def test_labels_belong_to_pictures_whatever_the_order_of_rows_and_batches() -> None:
    views, _ = mixtures(30)
    names = [f"p{k}" for k in range(30)]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    # one step over everything, with labels refined in it: the same pictures in another order
    options = {"epochs": 1, "warmup": 0, "update_every": 1, "batch_size": 30}
    straight = CDUL(TileAggregator(bank(24)), **options).fit(views, ids=names)
    shuffled = CDUL(TileAggregator(bank(24)), **options).fit(views[order], ids=[names[k] for k in order])
    place = [shuffled.ids_.index(name) for name in straight.ids_]
    assert torch.allclose(shuffled.labels_[place], straight.labels_, atol=1e-6)
    # in small batches too, a refined label is the first one moved by its own picture's probabilities
    network = nn.Linear(24, 5)
    frozen = CDUL(TileAggregator(bank(24)), network, epochs=1, lr=0.0, warmup=0, update_every=1, batch_size=7)
    frozen.fit(views, ids=names)
    log_p = torch.log_softmax(network(views[:, 0].float()), -1).double()
    expected = refine(TileAggregator(bank(24))(views).labels.clamp(EDGE, 1 - EDGE), log_p)
    assert torch.allclose(frozen.labels_, expected, atol=1e-6)


def test_rows_with_one_name_share_a_label() -> None:
    x, y = draw(6, 4), draw(6, 3, seed=2).sigmoid()
    head = CDUL(epochs=1, update_every=0).fit(x, y, ids=["a", "b", "a", "c", "b", "a"])
    assert head.ids_ == ["a", "b", "c"]
    expected = torch.stack([y[[0, 2, 5]].mean(0), y[[1, 4]].mean(0), y[3]])
    assert torch.allclose(head.labels_, expected)
    assert CDUL(epochs=2, warmup=0, update_every=1, batch_size=3).fit(x, y, ids=list("abacba")).labels_.shape == (3, 3)


def test_training_stops_when_watched_labels_become_worse() -> None:
    views, truth = mixtures(40)
    options = {"epochs": 40, "warmup": 0, "update_every": 1}
    wrong = PseudoLabels(NAMES, *[torch.where(truth, 0.9, 0.1).double()] * 3)
    # A network that never learns and is wrong everywhere spoils labels that were perfect.
    contrary = nn.Linear(24, 5)
    with torch.no_grad():
        rows = F.normalize(draw(5, 24, seed=1), dim=-1).float()
        contrary.weight.copy_(-40 * rows)
        contrary.bias.zero_()
    spoilt = CDUL(None, contrary, lr=0.0, step=20.0, **options).fit(views[:, 0], wrong, truth=truth)
    assert spoilt.label_history_[0] == 1
    assert spoilt.label_history_[-1] < 1
    assert len(spoilt.label_history_) < 41
    assert len(CDUL(TileAggregator(bank(24)), **options).fit(views).label_history_) == 0


def test_the_same_seed_gives_the_same_network_and_the_callers_is_left_alone() -> None:
    views, _ = mixtures(20)
    head = CDUL(TileAggregator(bank(24)), epochs=3)
    again = clone(head).fit(views)
    assert np.array_equal(head.fit(views).decision_function(views), again.decision_function(views))
    assert not np.array_equal(clone(head).set_params(seed=1).fit(views).labels_, torch.zeros(1))
    network = nn.Linear(24, 5)
    before = network.weight.clone()
    own = CDUL(TileAggregator(bank(24)), network, epochs=2).fit(views)
    assert torch.equal(network.weight, before)
    assert not torch.equal(own.network_.weight, before)


def test_an_own_network_takes_pictures() -> None:
    images = torch.rand(8, 3, 6, 6)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    head = CDUL(None, network, epochs=2).fit(images, torch.rand(8, 3))
    assert head.predict_proba(images).shape == (8, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TileAggregator(bank(), threshold=-0.1), "threshold -0.1"),
        (lambda: TileAggregator(bank(), fusion=2.0), "fusion 2.0"),
        (lambda: TileAggregator(bank())(draw(3, 8)), "whole picture first"),
        (lambda: multilabel_average_precision(np.zeros((2, 3)), np.zeros((2, 3))), "no class that occurs"),
        (lambda: multilabel_average_precision(np.ones((2, 3)), np.zeros((2, 2))), "must both be"),
        (lambda: CDUL().fit(draw(3, 4)), "needs labels"),
        (lambda: CDUL().fit(draw(3, 4), draw(3, 2)), r"\(3, C\) in \[0, 1\]"),
        (lambda: CDUL().fit(draw(3, 4), torch.rand(2, 2)), r"\(3, C\) in \[0, 1\]"),
        (lambda: CDUL(sigma=0.0).fit(draw(3, 4), torch.rand(3, 2)), "sigma 0.0"),
        (lambda: CDUL().fit(draw(3, 4), torch.rand(3, 2), ids=["a"]), "1 names for 3 pictures"),
        (lambda: CDUL(network=nn.Linear(4, 7)).fit(draw(3, 4), torch.rand(3, 2)), "7 logits for 2 classes"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
