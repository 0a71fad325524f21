"""Density-based pruning (p103): quotas against SciPy's solver and all integers, complexity against a full matrix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax

from binderclip.curate import ClusterPruner, CurationPipeline, cluster_complexity, quota_qp, spherical_kmeans
from binderclip.curate.engine.kmeans import nearest_centroids
from binderclip.errors import UsageError

from ..pools import ListTable


def bounds_of(sizes: np.ndarray, total: int, balance: float) -> tuple[np.ndarray, np.ndarray]:
    least = int(total / len(sizes) * balance) if balance else 1
    return np.array([max(min(least, n - 1), 0) for n in sizes]), sizes


@st.composite
def problems(draw: st.DrawFn, clusters: int, size: int) -> tuple[np.ndarray, np.ndarray, int, float]:
    k = draw(st.integers(1, clusters))
    sizes = np.array(draw(st.lists(st.integers(1, size), min_size=k, max_size=k)))
    weights = np.array(draw(st.lists(st.floats(0.01, 1), min_size=k, max_size=k)))
    balance = draw(st.sampled_from([0.0, 0.3, 1.0]))
    total = draw(st.integers(0, int(sizes.sum())))
    return weights / weights.sum(), sizes, total, balance


@settings(max_examples=60)
@given(problem=problems(8, 60))
def test_quotas_are_scipys_solution_of_the_program(problem: tuple[np.ndarray, np.ndarray, int, float]) -> None:
    probs, sizes, total, balance = problem
    lower, upper = bounds_of(sizes, total, balance)
    if not lower.sum() <= total:
        with pytest.raises(UsageError, match="cannot be kept"):
            quota_qp(probs, sizes, total, balance=balance)
        return
    wanted = probs * total
    start = lower + (upper - lower) * ((total - lower.sum()) / max((upper - lower).sum(), 1))
    solved = minimize(
        lambda x: 0.5 * x @ x - wanted @ x, start, jac=lambda x: x - wanted, method="SLSQP",
        bounds=list(zip(lower, upper, strict=True)), options={"ftol": 1e-12, "maxiter": 500},
        constraints={"type": "eq", "fun": lambda x: x.sum() - total, "jac": np.ones_like},
    )  # fmt: skip
    x = quota_qp(probs, sizes, total, balance=balance)
    assert x.sum() == total
    assert ((x >= lower) & (x <= upper)).all()
    assert np.abs(x - solved.x).max() < 1 + 1e-3
    assert np.abs(quota_qp(probs, sizes, total, balance=balance, repair=False) - solved.x).max() < 0.5 + 1e-3


@settings(max_examples=60)
@given(problem=problems(4, 6))
def test_repaired_quotas_are_the_best_whole_numbers(problem: tuple[np.ndarray, np.ndarray, int, float]) -> None:
    probs, sizes, total, balance = problem
    lower, upper = bounds_of(sizes, total, balance)
    every = [
        x for x in itertools.product(*(range(a, b + 1) for a, b in zip(lower, upper, strict=True))) if sum(x) == total
    ]
    if not every:
        return
    wanted = probs * total

    def cost(x: object) -> float:
        return float((((np.asarray(x)) - wanted) ** 2).sum())

    assert cost(quota_qp(probs, sizes, total, balance=balance)) <= min(map(cost, every)) + 1e-6


def test_quotas_in_the_limits() -> None:
    sizes = np.array([5, 100, 100, 100])
    assert quota_qp(np.full(4, 0.25), sizes, 80).tolist() == [5, 25, 25, 25]
    # One cluster wants everything: it is filled, the others share the rest beyond their bound of 1.
    assert quota_qp(np.array([0.0, 1.0, 0.0, 0.0]), sizes, 103).tolist() == [1, 100, 1, 1]
    x = quota_qp(np.array([0.1, 0.2, 0.3, 0.4]), np.full(4, 1000), 500, repair=False)
    # Nothing at a bound: all are shifted by the same number, here none.
    assert x.tolist() == [50, 100, 150, 200]


def test_complexity_is_that_of_the_full_matrix() -> None:
    rng = np.random.default_rng(0)
    c = rng.normal(size=(30, 5))
    c /= np.linalg.norm(c, axis=1, keepdims=True)
    d_intra = rng.uniform(0.1, 0.5, 30)
    d_intra[3] = np.nan
    complexity, d_inter = cluster_complexity(c, d_intra, neighbours=4)
    for j in range(30):
        others = sorted(1 - float(c[j] @ c[m]) for m in range(30) if m != j)
        assert d_inter[j] == pytest.approx(np.mean(others[:4]))
    rest = [d_inter[j] * d_intra[j] for j in range(30) if j != 3]
    assert complexity[3] == pytest.approx(np.mean(rest))
    assert np.allclose(np.delete(complexity, 3), rest)
    assert cluster_complexity(c[:1], d_intra[:1])[0].tolist() == [0]
    with pytest.raises(UsageError, match="30 centroids need"):
        cluster_complexity(c, d_intra[:5])


def blobs(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Three directions with different spread; embeddings, which direction, names."""
    rng = np.random.default_rng(seed)
    centres, spread = np.eye(6)[:3], np.array([0.05, 0.2, 0.5])
    label = rng.integers(0, 3, n)
    rows = centres[label] + spread[label, None] * rng.normal(size=(n, 6)) / 6**0.5
    return rows.astype(np.float32), label, [f"s{i}" for i in range(n)]


def test_kmeans_stands_at_a_fixed_point_and_finds_the_directions() -> None:
    rows, label, _ = blobs()
    centroids = spherical_kmeans(rows.astype(float), 3)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = (unit @ centroids.T).argmax(1)
    for j in range(3):
        mean = unit[found == j].sum(0)
        assert np.allclose(centroids[j], mean / np.linalg.norm(mean), atol=1e-6)
    agreement = max((np.array(order)[found] == label).mean() for order in itertools.permutations(range(3)))
    assert agreement > 0.98
    labels, cosines = nearest_centroids(np.array([[0.0] * 6, [np.nan] * 6, rows[0] * 9]), centroids)
    assert labels.tolist() == [-1, -1, found[0]]
    assert np.isnan(cosines[:2]).all()
    with pytest.raises(UsageError, match="for 4 clusters"):
        spherical_kmeans(rows[:3].astype(float), 4)
    twins = spherical_kmeans(np.repeat(np.eye(3)[:2], 5, axis=0), 4)  # fewer directions than clusters
    assert np.isfinite(twins).all()


@pytest.mark.parametrize("order", ["hard", "easy", "random"])
def test_the_pruner_keeps_the_quota_of_each_cluster(order: str) -> None:
    rows, _, names = blobs()
    rows[7] = np.nan
    rule = ClusterPruner(embedding="e", k=3, keep_share=0.4, tau=0.1, order=order)
    done = CurationPipeline([rule]).run(ListTable({"e": rows}, names))
    figures = done.report.stages[0].figures
    assert len(done.selection) == int(299 * 0.4) == sum(figures["quotas"])
    assert names[7] not in done.selection
    # The wider a cluster, the larger its quota.
    assert np.array_equal(np.argsort(figures["complexity"]), np.argsort(figures["quotas"]))
    again = CurationPipeline([rule]).run(ListTable({"e": rows}, names, 17, np.random.default_rng(1).permutation(300)))
    assert again.selection == done.selection
    if order == "random":
        return
    unit = np.delete(rows, 7, 0).astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centroids = spherical_kmeans_of(rule, rows, names)
    cosines = unit @ centroids.T
    label, distance = cosines.argmax(1), 1 - cosines.max(1)
    rest = [name for i, name in enumerate(names) if i != 7]
    for j, quota in enumerate(figures["quotas"]):
        members = sorted((i for i in range(299) if label[i] == j), key=lambda i: distance[i], reverse=order == "hard")
        assert {rest[i] for i in members if rest[i] in done.selection} == {rest[i] for i in members[:quota]}


def test_quotas_come_from_the_complexity_and_its_neighbours() -> None:
    rng = np.random.default_rng(3)
    centres = np.eye(6)[[0, 0, 2, 3]] + 0.5 * np.eye(6)[[1, 4, 5, 5]] * [[0], [1], [0], [0]]
    label = rng.integers(0, 4, 600)
    rows = centres[label] + np.array([0.3, 0.3, 0.2, 0.2])[label, None] * rng.normal(size=(600, 6)) / 6**0.5
    names = [f"s{i}" for i in range(600)]
    orders = []
    for neighbours in (1, 3):
        rule = ClusterPruner(embedding="e", k=4, keep_share=0.5, tau=0.02, neighbours=neighbours)
        figures = CurationPipeline([rule]).run(ListTable({"e": rows}, names)).report.stages[0].figures
        c = spherical_kmeans_of(rule, rows, names)
        cosines = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ c.T
        found = cosines.argmax(1)
        sizes = np.array([(found == j).sum() for j in range(4)])
        intra = np.array([1 - cosines[found == j, j].mean() for j in range(4)])
        inter = [np.mean(sorted(1 - c[j] @ c[m] for m in range(4) if m != j)[:neighbours]) for j in range(4)]
        want = quota_qp(softmax(intra * inter / 0.02), sizes, 300)
        assert figures["quotas"] == want.tolist()
        assert figures["quotas"] != quota_qp(softmax(intra / 0.02), sizes, 300).tolist()
        orders.append([np.argsort(intra * inter).tolist(), np.argsort(intra).tolist()])
    (near, spread), (far, _) = orders
    assert near != spread  # the two wide clusters stand close together
    assert near != far


def spherical_kmeans_of(rule: ClusterPruner, rows: np.ndarray, names: list[str]) -> np.ndarray:
    """The centroids that the rule finds: fewer samples than it would draw, so all of them, in the order of hashes."""
    from binderclip.curate import HashDraws, keys_of

    draws = HashDraws(0, 0)
    there = np.isfinite(rows).all(1)
    keys = keys_of(names)[there]
    order = np.argsort(draws.part(0)(keys))
    return spherical_kmeans(rows[there][order].astype(float), rule.k)


def test_quotas_by_size_and_equal_quotas() -> None:
    rows, _, names = blobs(400)
    for quota in ("size", "uniform"):
        rule = ClusterPruner(embedding="e", k=3, keep_share=0.3, quota=quota)
        figures = CurationPipeline([rule]).run(ListTable({"e": rows}, names)).report.stages[0].figures
        want = 0.3 * np.array(figures["sizes"]) if quota == "size" else np.full(3, 40)
        assert np.abs(np.array(figures["quotas"]) - want).max() <= 1
    hot = ClusterPruner(embedding="e", k=3, keep_share=0.3, tau=1e6)
    assert CurationPipeline([hot]).run(ListTable({"e": rows}, names)).report.stages[0].figures["quotas"] == [40, 40, 40]
    cold = ClusterPruner(embedding="e", k=3, keep_share=0.3, tau=1e-4)
    figures = CurationPipeline([cold]).run(ListTable({"e": rows}, names)).report.stages[0].figures
    most = int(np.argmax(figures["complexity"]))
    assert figures["quotas"][most] == min(figures["sizes"][most], 118)


def test_settings_that_do_not_fit() -> None:
    for settings_ in ({"k": 0}, {"keep_share": 2}, {"tau": 0}, {"order": "soft"}, {"quota": "none"}, {"balance": -1}):
        with pytest.raises(UsageError):
            ClusterPruner(**settings_)
    rows, _, names = blobs(30)
    with pytest.raises(UsageError, match="make fewer clusters"):
        CurationPipeline([ClusterPruner(embedding="e", k=15, keep_share=0.1)]).run(ListTable({"e": rows}, names))


@pytest.mark.parametrize(
    ("probs", "sizes", "words"),
    [
        ([0.5, 0.5], [10, 10, 10], "one entry a cluster"),
        ([[0.5, 0.5]], [[10, 10]], "one entry a cluster"),
        ([], [], "one entry a cluster"),
        ([0.5, np.nan], [10, 10], "finite and at least 0"),
        ([1.5, -0.5], [10, 10], "finite and at least 0"),
        ([0.5, 0.5], [10, -1], "finite and at least 0"),
    ],
)
def test_shares_and_sizes_belong_together(probs: list, sizes: list, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        quota_qp(np.array(probs), np.array(sizes, dtype=int), 4)
