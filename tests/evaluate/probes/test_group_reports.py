"""Measures of groups, their gaps, intervals and permutation baselines, against other libraries and closed forms.

Among them labels of several classes (p158, arXiv 2307.13136).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, false_discovery_control, hypergeom
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score
from torchmetrics.classification import MulticlassCalibrationError

from binderclip.adapt.selection import adaptive_calibration_error as adaptive_of_adapt
from binderclip.errors import UsageError
from binderclip.evaluate import GroupReport, PredictionTable, group_report
from binderclip.evaluate.probes import (
    accuracy,
    calibration_error_measure,
    difference,
    false_positive_rate_measure,
    mapped_accuracy,
    mean_class_accuracy,
    mean_confidence,
    positive_predictive_value_measure,
    ratio,
    selection_rate_measure,
    top_k_accuracy,
    true_positive_rate_measure,
    wilson,
)
from binderclip.evaluate.probes.group_reports import GroupGap, gap_interval, holm
from binderclip.evaluate.probes.measures import Measure
from binderclip.evaluate.probes.resampling import bootstrap_sums, group_sums, permuted_sums, shuffle_room


def made(n: int = 600, classes: int = 4, seed: int = 0, bias: float = 0.0) -> PredictionTable:
    """Scores around the truth; those of group "b" are worse by `bias`."""
    rng = np.random.default_rng(seed)
    target, group = rng.integers(0, classes, n), rng.choice(["a", "b", "c"], n)
    scores = rng.normal(size=(n, classes))
    scores[np.arange(n), target] += 1.5 - bias * (group == "b")
    keys, names = tuple(map(str, range(n))), tuple(f"k{c}" for c in range(classes))
    return PredictionTable(keys, target, scores, names, {"g": tuple(group.tolist())})


def value(measure: Measure, table: PredictionTable) -> float:
    return float(measure.value(measure.columns(table).sum(axis=0)))


def test_measures_are_those_of_other_libraries() -> None:
    table = made()
    y, said = table.target, table.predicted
    tp, fn, fp, tn = (int(v) for v in (
        ((y == 1) & (said == 1)).sum(), ((y == 1) & (said != 1)).sum(),
        ((y != 1) & (said == 1)).sum(), ((y != 1) & (said != 1)).sum(),
    ))  # fmt: skip
    assert confusion_matrix(y == 1, said == 1).ravel().tolist() == [tn, fp, fn, tp]
    assert value(accuracy(), table) == pytest.approx((y == said).mean())
    assert value(mean_class_accuracy(), table) == pytest.approx(recall_score(y, said, average="macro"))
    assert value(top_k_accuracy(2), table) == pytest.approx(top_k_accuracy_score(y, table.scores, k=2))
    assert value(selection_rate_measure("k1"), table) == pytest.approx((tp + fp) / len(y))
    assert value(true_positive_rate_measure("k1"), table) == pytest.approx(tp / (tp + fn))
    assert value(false_positive_rate_measure("k1"), table) == pytest.approx(fp / (fp + tn))
    assert value(positive_predictive_value_measure("k1"), table) == pytest.approx(tp / (tp + fp))
    probs = torch.from_numpy(table.probabilities())
    assert value(mean_confidence(), table) == pytest.approx(float(probs.max(dim=1).values.mean()))
    peer = MulticlassCalibrationError(4, n_bins=15, norm="l1")(probs, torch.from_numpy(y))
    assert value(calibration_error_measure(15), table) == pytest.approx(float(peer), abs=1e-6)
    theirs = adaptive_of_adapt(table.probabilities(), y, bins=12)[0]
    assert value(calibration_error_measure(12, adaptive=True), table) == pytest.approx(theirs, abs=1e-12)


def test_confidences_on_an_edge_belong_to_the_bin_below() -> None:
    # Confidences .5 (right) and .6 (wrong), two bins: (0, .5] has a gap of .5, (.5, 1] one of .6.
    scores = np.log([[1.0, 1.0], [0.6, 0.4]])
    table = PredictionTable(("a", "b"), np.array([0, 1]), scores, ("x", "y"))
    assert value(calibration_error_measure(2), table) == pytest.approx((0.5 + 0.6) / 2)


def test_undefined_figures_are_nan_with_a_reason_and_a_group_of_three_is_not_compared() -> None:
    base = made(200, classes=2)
    group = np.array(["many"] * 120 + ["one class"] * 77 + ["three"] * 3)
    target = np.where(group == "one class", 0, base.target)
    table = PredictionTable(base.keys, target, base.scores, base.classes, {"g": tuple(group.tolist())})
    found = group_report(table, "g", measures=[true_positive_rate_measure("k1"), accuracy()], draws=200)
    rate = found.by_group["true positive rate (k1)"]
    assert math.isnan(rate[("one class",)])
    assert "true positive rate (k1) of one class: no row of the class 'k1'" in found.reasons
    assert found.small == [("three",)]
    gap = found.gaps["true positive rate (k1)"]
    assert math.isnan(gap.difference)
    assert gap.reason == "fewer than two groups of 10 rows have a value (no row of the class 'k1' in the others)"
    none = group_report(table, "g", measures=[accuracy()], draws=200, least=100).gaps["accuracy"]
    assert none.reason == "fewer than two groups have 100 rows"
    assert not gap.found
    assert {found.gaps["accuracy"].smallest, found.gaps["accuracy"].largest} == {("many",), ("one class",)}
    three = next(one for one in found.figures["accuracy"] if one.group == ("three",))
    assert three.n == 3
    assert three.high - three.low > 0.4, "three rows say next to nothing"
    assert math.isnan(found.group_min("true positive rate (k1)")) is False
    assert found.difference("accuracy") == pytest.approx(gap_by_hand(table, found))


def gap_by_hand(table: PredictionTable, found: GroupReport) -> float:
    right = table.correct
    group = np.array(table.attributes["g"])
    return abs(right[group == "many"].mean() - right[group == "one class"].mean())


def test_wilson_is_scipys() -> None:
    for right, count in ((0, 3), (3, 3), (7, 19), (250, 1000)):
        peer = binomtest(right, count).proportion_ci(0.95, method="wilson")
        assert [float(v) for v in wilson(right, count)] == pytest.approx([peer.low, peer.high])
    assert np.isnan(wilson(0, 0)).all()


def test_sums_of_resamples_keep_group_sizes_and_have_the_moments_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    index = rng.choice([-1, 0, 1, 2], 90)
    columns = np.stack([rng.normal(size=90), np.ones(90)], axis=1)
    drawn = bootstrap_sums(columns, index, 3, 4000, seed=1)
    counts = np.bincount(index[index >= 0])
    assert (drawn[..., 1] == counts).all()
    for group, count in enumerate(counts):
        own = columns[index == group, 0]
        assert drawn[:, group, 0].mean() / count == pytest.approx(own.mean(), abs=4 * own.std() / np.sqrt(count * 4000))
        assert drawn[:, group, 0].std() / count == pytest.approx(own.std() / np.sqrt(count), rel=0.06)
    np.testing.assert_allclose(group_sums(columns, index, 3).sum(axis=0), columns[index >= 0].sum(axis=0))
    assert (bootstrap_sums(columns, index, 3, 5, seed=1) == bootstrap_sums(columns, index, 3, 5, seed=1)).all()


def test_permutations_keep_totals_and_strata_and_follow_the_hypergeometric_distribution() -> None:
    rng = np.random.default_rng(3)
    index, within = np.repeat([0, 1, -1], [12, 18, 10]), rng.integers(0, 3, 40)
    columns = np.stack([rng.integers(0, 2, 40), *np.eye(3)[within].T], axis=1).astype(float)
    free = permuted_sums(columns[:, :1], index, 2, 5000, seed=2)[..., 0]
    total = columns[index >= 0, 0].sum()
    assert (free.sum(axis=1) == total).all()
    law = hypergeom(30, int(total), 12)
    assert free[:, 0].mean() == pytest.approx(law.mean(), abs=4 * law.std() / np.sqrt(5000))
    assert free[:, 0].std() == pytest.approx(law.std(), rel=0.05)
    kept = permuted_sums(columns, index, 2, 50, seed=2, within=within)
    assert (kept[:, :, 1:] == group_sums(columns, index, 2)[:, 1:]).all(), "each group keeps its mix of classes"
    assert kept[:, 0, 0].std() > 0


def test_blocks_of_draws_are_those_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    columns, index = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
    whole = bootstrap_sums(columns, index, 2, 64, seed=5)
    monkeypatch.setattr("binderclip.evaluate.probes.resampling.ELEMENTS", 200)
    np.testing.assert_allclose(bootstrap_sums(columns, index, 2, 64, seed=5), whole)
    parts = permuted_sums(columns, index, 2, 64, seed=5)
    np.testing.assert_allclose(parts.sum(axis=1), np.tile(columns.sum(axis=0), (64, 1)))


def test_a_planted_gap_is_found_and_nothing_in_a_fair_control() -> None:
    planted = group_report(made(1500, bias=1.0), "g", draws=400)
    assert planted.gaps["accuracy"].found
    assert planted.gaps["accuracy"].smallest == ("b",)
    assert planted.gaps["accuracy"].low > 0
    found = [
        gap.found for seed in range(12) for gap in group_report(made(500, seed=seed), "g", draws=200).gaps.values()
    ]
    assert sum(found) <= 2, "36 gaps in 12 reports, each report wrong at most once in twenty"


def test_a_mix_of_classes_is_no_bias_of_the_predictor() -> None:
    """Class k0 is easy and group "a" has more of it: its accuracy is higher, and the predictor treats nobody worse."""
    rng = np.random.default_rng(1)
    target = rng.integers(0, 2, 4000)
    group = np.where(rng.uniform(size=4000) < np.where(target == 0, 0.8, 0.2), "a", "b")
    right = rng.uniform(size=4000) < np.where(target == 0, 0.95, 0.6)
    scores = np.eye(2)[np.where(right, target, 1 - target)]
    table = PredictionTable(tuple(map(str, range(4000))), target, scores, ("k0", "k1"), {"g": tuple(group.tolist())})
    gap = group_report(table, "g", measures=[accuracy(), mean_class_accuracy()], draws=400).gaps
    assert gap["accuracy"].difference > 0.15
    assert gap["accuracy"].chance == pytest.approx(0.6 * 0.35, abs=0.03), "what the mix alone explains"
    assert not gap["accuracy"].found
    assert gap["mean class accuracy"].difference < 0.05


def test_the_interval_of_the_largest_difference_covers_it() -> None:
    rng, rates, count, hit = np.random.default_rng(0), np.array([0.5, 0.55, 0.6, 0.7]), 80, 0
    for _ in range(200):
        right = rng.uniform(size=(4, count)) < rates[:, None]
        drawn = rng.binomial(count, right.mean(axis=1), (200, 4)) / count
        low, high = gap_interval(right.mean(axis=1), drawn)
        hit += low <= 0.2 <= high
        assert low <= float(difference(right.mean(axis=1))) <= high
    assert hit >= 0.93 * 200


def test_gaps_are_fairlearns_by_hand() -> None:
    values = np.array([[0.2, 0.5, np.nan], [0.4, 0.4, 0.4], [np.nan, np.nan, 0.7], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(difference(values), [0.3, 0, np.nan, 0])
    np.testing.assert_allclose(ratio(values), [0.4, 1, np.nan, np.nan])
    overall = np.array([0.4, 0.2, 0.7, 0.0])
    np.testing.assert_allclose(difference(values, overall, method="to_overall"), [0.2, 0.2, 0, 0])
    np.testing.assert_allclose(ratio(values, overall, method="to_overall")[:3], [0.5, 0.5, 1])
    with pytest.raises(UsageError, match="needs the overall value"):
        difference(values, method="to_overall")
    with pytest.raises(UsageError, match="method is 'max'"):
        ratio(values, overall, method="max")  # type: ignore[arg-type]


def test_holms_method_by_hand() -> None:
    nan = math.nan
    gaps = [GroupGap(str(p), nan, nan, nan, nan, nan, (), (), nan, nan, p) for p in (0.04, 0.01, nan, 0.03)]
    assert [gap.p_adjusted for gap in holm(gaps)] == pytest.approx([0.06, 0.03, nan, 0.06], nan_ok=True)
    # Never below Benjamini and Hochberg's, which control less.
    told = [0.04, 0.01, 0.03]
    assert all(np.array([0.06, 0.03, 0.06]) >= false_discovery_control(told) - 1e-12)


def test_sums_are_held_in_blocks_that_change_nothing_but_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    table = made(300, bias=0.7)
    whole = group_report(table, "g", draws=2000)
    # By its name it would be the function.
    monkeypatch.setattr(import_module("binderclip.evaluate.probes.group_reports"), "HELD", 3 * 19 * 250)
    parts = group_report(table, "g", draws=2000)
    for name, gap in whole.gaps.items():
        assert parts.gaps[name].difference == gap.difference
        assert parts.gaps[name].chance == pytest.approx(gap.chance, rel=0.1)
        assert parts.gaps[name].high == pytest.approx(gap.high, abs=0.03)
    assert [row[:4] for row in parts.rows()] == [row[:4] for row in whole.rows()]


def test_report_says_all_of_it_in_rows_and_json() -> None:
    table = made(90)
    found = group_report(table, "g", measures=[accuracy()], draws=100)
    assert [row[:3] for row in found.rows()] == [
        ("accuracy", label, int((np.array(table.attributes["g"]) == label).sum())) for label in "abc"
    ] + [("accuracy", "all", 90)]
    assert found.overall["accuracy"].value == pytest.approx(table.correct.mean())
    document = found.as_dict()
    assert document["measures"]["accuracy"]["by_group"][0]["group"] == ["a"]
    assert document["measures"]["accuracy"]["gap"]["difference"] == found.difference("accuracy")
    assert found.ratio("accuracy", "to_overall") <= 1
    assert found.group_max("accuracy") - found.group_min("accuracy") == pytest.approx(found.difference("accuracy"))
    assert "accuracy" in found._repr_html_()


def test_mistakes_are_named() -> None:
    table = made(60)
    with pytest.raises(UsageError, match="draws is 5"):
        group_report(table, "g", draws=5)
    with pytest.raises(UsageError, match="a measure occurs twice: accuracy, accuracy"):
        group_report(table, "g", measures=[accuracy(), accuracy()])
    with pytest.raises(UsageError, match="g has 1 group; a gap needs two"):
        group_report(table.take(np.array(table.attributes["g"]) == "a"), "g")
    with pytest.raises(UsageError, match="no class 'cow'"):
        group_report(table, "g", measures=[selection_rate_measure("cow")])
    with pytest.raises(UsageError, match="'f1' was not measured: one of accuracy"):
        group_report(table, "g", measures=[accuracy()], draws=100).difference("f1")
    for wrong in (lambda: calibration_error_measure(0), lambda: top_k_accuracy(0)):
        with pytest.raises(UsageError, match="at least 1"):
            wrong()


def one_class_each(n: int = 40) -> PredictionTable:
    """Class k0 is all of group "a" and always right, k1 all of "b" and always wrong."""
    target = np.repeat([0, 1], n)
    keys = tuple(map(str, range(2 * n)))
    scores = np.tile([1.0, 0.0], (2 * n, 1))
    return PredictionTable(keys, target, scores, ("k0", "k1"), {"g": ("a",) * n + ("b",) * n})


def test_a_gap_that_shuffles_within_classes_cannot_change_is_not_called_chance() -> None:
    found = group_report(one_class_each(), "g", measures=[accuracy()], draws=200)
    gap = found.gaps["accuracy"]
    assert gap.difference == 1.0
    assert math.isnan(gap.p)
    assert math.isnan(gap.p_adjusted)
    assert math.isnan(gap.chance)
    assert not gap.found
    assert gap.finding.startswith("not tested: every true class lies in one group")
    assert any("null='all'" in reason for reason in found.reasons)
    over_all = group_report(one_class_each(), "g", measures=[accuracy()], draws=200, null="all").gaps["accuracy"]
    assert over_all.p == pytest.approx(1 / 201)
    assert over_all.finding == "found"
    with pytest.raises(UsageError, match="null must be one of given, all, got 'some'"):
        group_report(one_class_each(), "g", draws=200, null="some")  # type: ignore[arg-type]


def test_room_of_shuffles_by_enumeration() -> None:
    index, within = np.array([0, 0, 1, 1, 1, 0, 1, -1]), np.array([0, 0, 0, 0, 1, 1, 2, 2])
    columns = np.ones((8, 1))
    seen = set()
    for order in itertools.permutations(range(7)):
        if all(within[row] == within[place] for place, row in enumerate(order)):
            seen.add(tuple(index[list(order)]))
    room = shuffle_room(columns, index, 2, within=within)
    assert room.arrangements == len(seen) == 6 * 2
    assert room.movable == pytest.approx(6 / 7)
    # of rows that bring nothing it does not matter where they go
    alone = shuffle_room(columns * (within == 2)[:, None], index, 2, within=within)
    assert (alone.arrangements, alone.movable) == (1, 0)
    assert shuffle_room(columns, index, 2).arrangements == math.comb(7, 3)


def test_few_rows_that_can_move_are_told_and_a_null_that_never_changes_has_no_p() -> None:
    table = one_class_each(40)
    group = list(table.attributes["g"])
    group[0], group[40] = "b", "a"  # one row of each class crosses over
    crossed = replace(table, attributes={"g": tuple(group)})
    gap = group_report(crossed, "g", measures=[accuracy()], draws=200).gaps["accuracy"]
    assert gap.untested == "every shuffle has this same gap, so that it cannot be told from chance"
    wider = made(600)
    part = np.where(wider.target == 3, wider.attributes["g"], np.array(["a", "b", "c"])[wider.target % 3])
    note = group_report(replace(wider, attributes={"g": tuple(part.tolist())}), "g", draws=200).gaps["accuracy"].note
    assert note.startswith("shuffles move ")


def test_resamples_that_are_all_alike_give_no_interval() -> None:
    found = group_report(one_class_each(), "g", measures=[mean_class_accuracy(), accuracy()], draws=200)
    right = found.figures["mean class accuracy"][0]
    assert right.value == 1.0
    assert math.isnan(right.low)
    assert right.reason == "all resamples are alike, so that they give no interval"
    gap = found.gaps["mean class accuracy"]
    assert math.isnan(gap.low)
    assert "all resamples of a group are alike" in gap.note
    # shares have Wilson's interval, which has a width
    assert found.figures["accuracy"][0].low < 1
    assert found.gaps["accuracy"].low < 1


def test_bins_with_right_edges_are_torchmetrics() -> None:
    scores = np.log([[1.0, 1.0], [0.6, 0.4], [0.75, 0.25]])
    table = PredictionTable(("a", "b", "c"), np.array([0, 1, 0]), scores, ("x", "y"))
    peer = MulticlassCalibrationError(2, n_bins=2, norm="l1")(
        torch.from_numpy(table.probabilities()), torch.from_numpy(table.target)
    )
    assert value(calibration_error_measure(2, right=False), table) == pytest.approx(float(peer), abs=1e-6)
    assert value(calibration_error_measure(2), table) != pytest.approx(float(peer), abs=1e-6)


def test_labels_of_several_classes_are_right_by_any_of_them() -> None:
    table = made(200, classes=6)
    accepted = {"stove": ["k0", "k3"], "soap": ["k1"], "both": ["k1", "k2"]}
    names = [(*accepted, "unknown", None)[row % 5] for row in range(200)]
    labelled = replace(table, attributes={**table.attributes, "item": tuple(names)}, target=np.full(200, -1))
    for k in (1, 2, 5):
        hits = [
            any(table.classes[c] in accepted[name] for c in np.argsort(-scores)[:k])
            for name, scores in zip(names, table.scores, strict=True)
            if name in accepted
        ]
        measure = mapped_accuracy(accepted, label="item", k=k)
        assert value(measure, labelled) == pytest.approx(np.mean(hits))
        same = mapped_accuracy({name: [name] for name in table.classes}, k=k)
        assert value(same, table) == pytest.approx(
            top_k_accuracy_score(table.target, table.scores, k=k, labels=range(6))
        )
    report = group_report(labelled, "g", measures=[mapped_accuracy(accepted, label="item")], draws=100)
    assert report.difference("mapped accuracy") >= 0
    with pytest.raises(UsageError, match="no class 'oven'"):
        value(mapped_accuracy({"stove": ["oven"]}), table)
    for wrong in ({"stove": []}, {"stove": "k0"}):
        with pytest.raises(UsageError, match="label 'stove' needs a list"):
            mapped_accuracy(wrong)
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        mapped_accuracy(accepted, k=0)
