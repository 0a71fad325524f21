"""MetaCLIP's balancing (p150): probabilities and thresholds against plain loops, sizes against their expectation."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.curate import (
    AnyOf,
    BernoulliAny,
    CurationPipeline,
    KeySelection,
    MetadataBalancer,
    NoneOf,
    RaggedColumn,
    entry_probabilities,
    keep_probabilities,
    tail_threshold,
)
from binderclip.errors import UsageError

from ..pools import ListTable

CONCEPTS = ["car", "red car", "boat", "tree", "unicorn"]


def zipf_pool(n: int = 900, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    parts = rng.choice(["a car", "a red car", "a boat", "some tree", "nothing"], n, p=[0.5, 0.2, 0.15, 0.05, 0.1])
    also = rng.choice(["", "and a boat", "and tree"], n, p=[0.8, 0.1, 0.1])
    return [f"{part} {more} {i}" for i, (part, more) in enumerate(zip(parts, also, strict=True))]


NAMES = zipf_pool()


def loop(names: list[str], t: float) -> tuple[list[int], list[float], list[float]]:
    """Counts, entry probabilities and keep probabilities, as the released code computes them."""
    matched = [[i for i, concept in enumerate(CONCEPTS) if f" {concept} " in f" {name} "] for name in names]
    counts = [sum(i in own for own in matched) for i in range(len(CONCEPTS))]
    p = [t / max(count, t) if t else 0.0 for count in counts]
    keep = []
    for own in matched:
        lost = 1.0
        for i in own:
            lost *= 1 - p[i]
        keep.append(1 - lost)
    return counts, p, keep


def balanced(names: list[str] = NAMES, shards: int = 1, seed: int = 0, **settings: object):
    rule = MetadataBalancer(concepts=CONCEPTS, **settings)
    return CurationPipeline([rule]).run(ListTable({}, names, shards), seed=seed)


@pytest.mark.parametrize("t", [0, 1, 50, 90, 10_000])
def test_counts_probabilities_and_sizes_are_those_of_the_loop(t: int) -> None:
    counts, p, keep = loop(NAMES, t)
    stage = balanced(t=t, shards=7).report.stages[0]
    assert np.allclose(entry_probabilities(np.array(counts), t), p, rtol=0, atol=1e-15)
    assert stage.figures["expected"] == pytest.approx(sum(keep), abs=1e-6)
    assert stage.figures["matched"] == sum(value > 0 for value in loop(NAMES, 1)[2])
    assert stage.figures["concepts that nothing names"] == 1
    spread = sum(value * (1 - value) for value in keep) ** 0.5
    for seed in range(5):
        assert abs(len(balanced(t=t, seed=seed).selection) - sum(keep)) <= 4 * spread


def test_each_sample_is_kept_with_its_probability() -> None:
    names = NAMES[:60]
    _, _, keep = loop(names, 6)
    hits = np.zeros(60)
    draws = 600
    for seed in range(draws):
        kept = balanced(names, t=6, seed=seed).selection
        hits += [name in kept for name in names]
    # Against the closed form: 4.5 standard deviations for 60 samples at once.
    for share, p in zip(hits / draws, keep, strict=True):
        assert abs(share - p) <= 4.5 * (p * (1 - p) / draws) ** 0.5


def test_shards_change_nothing() -> None:
    want = balanced(t=40, seed=5)
    for shards in (3, 17):
        got = balanced(t=40, seed=5, shards=shards)
        assert got.selection == want.selection
        assert got.report.stages[0].figures == want.report.stages[0].figures
    assert balanced(t=40, seed=6).selection != want.selection


def test_a_concept_alone_keeps_t_on_average() -> None:
    names = [f"a boat {i}" for i in range(500)]
    sizes = [len(balanced(names, t=100, seed=seed).selection) for seed in range(50)]
    assert abs(np.mean(sizes) - 100) < 4 * (500 * 0.2 * 0.8 / 50) ** 0.5


def test_target_is_reached_by_the_smallest_t() -> None:
    for target in (0, 1, 200, 700):
        t = balanced(target=target).report.stages[0].figures["t"]
        sizes = {step: sum(loop(NAMES, step)[2]) for step in (t, max(t - 1, 0))}
        assert sizes[t] >= target - 1e-6
        assert t == 0 or sizes[t - 1] < target
    with pytest.raises(UsageError, match="more than the"):
        balanced(target=899)


def test_tail_is_found_as_released() -> None:
    counts = np.array([900, 3, 50, 7, 0, 40])
    # Sorted 3 7 40 50 900: cumulative shares .003, .01, .05, .1, 1. An entry without matches adds nothing to them, and
    # a t of 0 would keep nothing of the pool: a tail of 0, too, is that of the rarest entry that is named.
    assert [tail_threshold(counts, tail) for tail in (0.0, 0.011, 0.06, 0.09, 1.0)] == [3, 7, 40, 50, 900]
    assert tail_threshold(np.zeros(4, np.uint64), 0.06) == tail_threshold(np.zeros(0, np.int64), 0.06) == 0
    assert len(balanced(tail=0.0).selection) > 0
    assert balanced(tail=0.06).report.stages[0].figures["t"] == tail_threshold(np.array(loop(NAMES, 1)[0]), 0.06)


def test_a_pair_with_several_texts_draws_for_each() -> None:
    matches = RaggedColumn.of([[0, 0], [0], []])
    assert np.allclose(keep_probabilities(matches, np.array([0.5])), [0.75, 0.5, 0])
    columns = {"texts": [["a boat", "the boat"]] * 300 + [["no"]]}
    table = ListTable(columns, [f"x{i}" for i in range(301)])
    kept = CurationPipeline([MetadataBalancer(concepts=["boat"], t=150)]).run(table)
    # 600 matches, p = 1/4: 1 - (3/4)^2 = 7/16 of 300.
    assert kept.report.stages[0].figures["expected"] == pytest.approx(300 * 7 / 16)
    assert abs(len(kept.selection) - 131.25) < 4 * (300 * 7 / 16 * 9 / 16) ** 0.5


def test_probabilities_of_ones_own() -> None:
    table = ListTable({"entries": RaggedColumn.of([[0], [1], [0, 1], []])}, list("abcd"))
    kept = CurationPipeline([BernoulliAny(probabilities=[0.0, 1.0])]).run(table).selection
    assert kept == KeySelection(["b", "c"])
    with pytest.raises(UsageError, match="no probability"):
        CurationPipeline([BernoulliAny(probabilities=[1.0])]).run(table)
    with pytest.raises(UsageError, match="numbers of entries"):
        CurationPipeline([BernoulliAny(entries="text", probabilities=[1.0])]).run(table)


def test_two_balancers_match_lists_of_their_own() -> None:
    names = ["a boat", "a car", "a tree", "a red car", "nothing"]
    boats, trees = (MetadataBalancer(concepts=[concept], t=9) for concept in ("boat", "tree"))
    for rule, want in (
        (AnyOf(rules=[boats, trees]), ["a boat", "a tree"]),
        (NoneOf(rules=[boats, trees]), ["a car", "a red car", "nothing"]),
    ):
        assert CurationPipeline([rule]).run(ListTable({}, names)).selection == KeySelection(want)
    # A column of the data that happens to be called like this is not the matching.
    columns = {"entries": RaggedColumn.of([[0]] * len(names))}
    assert CurationPipeline([boats]).run(ListTable(columns, names)).selection == KeySelection(["a boat"])


def test_settings_that_do_not_fit() -> None:
    for settings, said in (
        ({}, "one of t, tail and target"),
        ({"t": 1, "tail": 0.1}, "one of t, tail and target"),
        ({"t": -1}, "0 or more"),
        ({"t": float("inf")}, "finite"),
        ({"tail": 2.0}, "share between"),
    ):
        with pytest.raises(UsageError, match=said):
            MetadataBalancer(concepts=CONCEPTS, **settings)
    with pytest.raises(UsageError, match="between 0 and 1"):
        BernoulliAny(probabilities=[2.0])
