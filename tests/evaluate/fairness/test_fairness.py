"""Group fairness of p127 (arXiv 2408.02464) against fairlearn, tables by hand, scikit-learn, SciPy, closed forms."""

from __future__ import annotations

import math

import fairlearn.metrics as peer
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

from binderclip.errors import UsageError
from binderclip.evaluate import fairness
from binderclip.evaluate.fairness import (
    MetricFrame,
    accuracy_equality_difference,
    association_test,
    attribute_leakage,
    bias_amplification,
    binary_calibration_error,
    calibration_difference,
    consistency,
    counterfactual_flip_rate,
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_difference,
    equal_opportunity_ratio,
    equalized_odds_difference,
    equalized_odds_ratio,
    max_skew,
    ndkl,
    predictive_equality_difference,
    predictive_parity_difference,
    skew,
)

# By hand: of group a 3 of 4 positives are found and 1 of 4 negatives is taken for one; of b 2 of 5 and 2 of 5.
TRUE = [1, 1, 1, 1, 0, 0, 0, 0] + [1] * 5 + [0] * 5
SAID = [1, 1, 1, 0, 1, 0, 0, 0, *[1, 1, 0, 0, 0] * 2]
GROUP = ["a"] * 8 + ["b"] * 10


def test_gaps_by_hand() -> None:
    told = {"y_true": TRUE, "y_pred": SAID, "sensitive_features": GROUP}
    assert demographic_parity_difference(**told) == pytest.approx(4 / 8 - 4 / 10)
    assert demographic_parity_ratio(**told) == pytest.approx(0.8)
    assert equal_opportunity_difference(**told) == pytest.approx(3 / 4 - 2 / 5)
    assert equal_opportunity_ratio(**told) == pytest.approx(8 / 15)
    assert equalized_odds_difference(**told) == pytest.approx(max(3 / 4 - 2 / 5, 2 / 5 - 1 / 4))
    assert equalized_odds_difference(**told, agg="mean") == pytest.approx((0.35 + 0.15) / 2)
    assert equalized_odds_ratio(**told) == pytest.approx(min(8 / 15, 5 / 8))
    assert equalized_odds_ratio(**told, agg="mean") == pytest.approx((8 / 15 + 5 / 8) / 2)
    assert predictive_equality_difference(**told) == pytest.approx(2 / 5 - 1 / 4)
    assert predictive_parity_difference(**told) == pytest.approx(3 / 4 - 2 / 4)
    assert accuracy_equality_difference(**told) == pytest.approx(6 / 8 - 5 / 10)
    assert accuracy_equality_difference(**told, method="to_overall") == pytest.approx(6 / 8 - 11 / 18)
    assert demographic_parity_difference(**told, method="to_overall") == pytest.approx(4 / 8 - 8 / 18)
    assert demographic_parity_ratio(**told, method="to_overall") == pytest.approx((8 / 18) / (4 / 8))
    turned = {**told, "y_true": [1 - y for y in TRUE], "y_pred": [1 - y for y in SAID]}
    assert equal_opportunity_difference(**turned, pos_label=0) == equal_opportunity_difference(**told)


def test_rates_are_scikit_learns_confusion_counts() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.choice(["yes", "no"], 60), rng.choice(["yes", "no"], 60)
    tn, fp, fn, tp = confusion_matrix(truth, said, labels=["no", "yes"]).ravel()
    rates = {
        "selection_rate": (tp + fp) / 60, "true_positive_rate": tp / (tp + fn), "false_negative_rate": fn / (tp + fn),
        "false_positive_rate": fp / (fp + tn), "true_negative_rate": tn / (fp + tn),
        "positive_predictive_value": tp / (tp + fp),
    }  # fmt: skip
    for name, value in rates.items():
        assert getattr(fairness, name)(truth, said, pos_label="yes") == pytest.approx(value), name


def test_undefined_rates_are_nan_and_never_zero() -> None:
    metrics = {"tpr": fairness.true_positive_rate, "ppv": fairness.positive_predictive_value}
    frame = MetricFrame(metrics=metrics, y_true=[1, 1, 0, 0, 0], y_pred=[1, 0, 0, 0, 0],
                        sensitive_features={"g": ["a", "a", "b", "b", None]})  # fmt: skip
    assert frame.undefined == [("tpr", ("b",)), ("ppv", ("b",))]
    assert frame.counts == {("a",): 2, ("b",): 2}
    assert frame.by_group["tpr"][("a",)] == 0.5
    assert math.isnan(frame.difference()["tpr"])
    assert math.isnan(frame.ratio()["tpr"])
    assert frame.group_min() == {"tpr": 0.5, "ppv": 1.0}
    assert frame.group_max() == {"tpr": 0.5, "ppv": 1.0}
    odds = equalized_odds_difference([1, 0, 0, 0], [1, 0, 1, 0], sensitive_features=["a", "a", "b", "b"])
    assert math.isnan(odds), "of the odds of group b nothing is known"
    three = MetricFrame(metrics=fairness.true_positive_rate, y_true=[1, 1, 0, 1], y_pred=[1, 0, 1, 1],
                        sensitive_features=["a", "a", "b", "c"])  # fmt: skip
    assert three.difference() == {"true_positive_rate": 0.5}, "the groups that have a rate are compared"


def test_a_perfect_predictor_has_the_gap_of_the_base_rates_alone() -> None:
    told = {"y_true": TRUE, "y_pred": TRUE, "sensitive_features": GROUP}
    assert equalized_odds_difference(**told) == 0
    fewer = {"y_true": TRUE[1:], "y_pred": TRUE[1:], "sensitive_features": GROUP[1:]}
    assert demographic_parity_difference(**fewer) == pytest.approx(1 / 2 - 3 / 7)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abc")), min_size=2, max_size=40))
def test_gaps_lie_between_0_and_1_and_do_not_depend_on_names_or_order(rows: list[tuple[bool, bool, str]]) -> None:
    y, said, group = (list(column) for column in zip(*rows, strict=True))
    gap = demographic_parity_difference(y, said, sensitive_features=group)
    if len(set(group)) < 2:
        assert math.isnan(gap)
        return
    assert 0 <= gap <= 1
    renamed = {"a": "z", "b": "q", "c": "a"}
    other = demographic_parity_difference(y[::-1], said[::-1], sensitive_features=[renamed[g] for g in group[::-1]])
    assert other == pytest.approx(gap)
    overall = demographic_parity_difference(y, said, sensitive_features=group, method="to_overall")
    assert overall <= gap + 1e-12


def test_rankings_by_hand_and_by_scipys_entropy() -> None:
    ranking = ["m", "m", "f", "m", "f", "f"]
    assert skew(ranking, {"m": 1, "f": 1}, k=4) == pytest.approx({"m": math.log(1.5), "f": math.log(0.5)})
    assert max_skew(ranking, {"m": 1, "f": 1}, k=4) == pytest.approx(math.log(1.5))
    assert skew(ranking, {"m": 1, "f": 1}, k=2)["f"] == -math.inf
    assert max_skew(ranking) == pytest.approx(0, abs=1e-12), "exact shares"
    weights = [1 / math.log2(i + 1) for i in range(1, 7)]
    shares = [np.array([ranking[:i].count("m"), ranking[:i].count("f")]) / i for i in range(1, 7)]
    by_hand = sum(w * entropy(s, [0.3, 0.7]) for w, s in zip(weights, shares, strict=True)) / sum(weights)
    assert ndkl(ranking, {"m": 3, "f": 7}) == pytest.approx(by_hand)
    long = ["m", "f"] * 2000
    assert ndkl(long, {"m": 1, "f": 1}) < 0.01 < ndkl(sorted(long), {"m": 1, "f": 1})
    assert ndkl(["m"] * 5, {"m": 1}) == 0


def test_consistency_and_flips_by_hand() -> None:
    x = np.array([[0.0], [0.1], [0.2], [10.0], [10.1], [10.2]])
    assert consistency(x, [1, 1, 1, 0, 0, 0], k=2) == 1
    # The last is decided unlike its neighbours: 1 for it, a half for each of the two that have it as a neighbour.
    assert consistency(x, [1, 1, 1, 0, 0, 1], k=2) == pytest.approx(1 - (1 + 0.5 + 0.5) / 6)
    assert counterfactual_flip_rate(["y", "n", "y"], ["y", "y", "y"]) == pytest.approx(1 / 3)


def test_bias_is_amplified_where_frequent_pairs_become_more_frequent() -> None:
    attribute, task = np.array(list("mmmfmfff")), np.array(list("cccctttt"))
    assert bias_amplification(attribute, task, attribute, direction="task->attribute") == 0
    always = np.array(list("mmmmffff"))
    # P(m | c) rises from 3/4 to 1 and P(f | t) likewise; the rarer pairs fall by as much.
    assert bias_amplification(attribute, task, always, direction="task->attribute") == pytest.approx(0.25)
    assert bias_amplification(attribute, task, always[::-1], direction="task->attribute") == pytest.approx(-0.75)
    # P(c | m) = 3/4 and P(t | f) = 3/4 become 1.
    said = np.where(attribute == "m", "c", "t")
    assert bias_amplification(attribute, task, said, direction="attribute->task") == pytest.approx(0.25)


def test_associations_by_brute_force_and_leakage_of_a_planted_direction() -> None:
    rng = np.random.default_rng(0)
    x, y, a, b = (rng.normal(size=(n, 5)) for n in (4, 3, 2, 3))
    x[:, 0] += 2
    a[:, 0] += 2
    found = association_test(x, y, a, b, permutations=4000)

    def cosine(u: np.ndarray, v: np.ndarray) -> float:
        return float(u @ v / np.sqrt((u @ u) * (v @ v)))

    s = [np.mean([cosine(w, v) for v in a]) - np.mean([cosine(w, v) for v in b]) for w in (*x, *y)]
    assert found.effect == pytest.approx((np.mean(s[:4]) - np.mean(s[4:])) / np.std(s, ddof=1))
    from itertools import combinations

    splits = [np.mean([s[i] for i in one]) - np.mean([s[i] for i in range(7) if i not in one])
              for one in combinations(range(7), 4)]  # fmt: skip
    exact = np.mean(np.array(splits) >= np.mean(s[:4]) - np.mean(s[4:]) - 1e-12)
    assert found.p == pytest.approx(exact, abs=0.03)
    swapped = association_test(y, x, a, b)
    assert swapped.effect == pytest.approx(-found.effect)
    features, group = rng.normal(size=(200, 6)), np.repeat(["p", "q"], 100)
    assert abs(attribute_leakage(features, group)) < 0.12
    features[:100, 0] += 4
    assert attribute_leakage(features, group) > 0.4


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match=r"must both be \(N,\), got \(2,\) and \(1,\)"):
        fairness.selection_rate([1, 0], [1])
    with pytest.raises(UsageError, match=r"columns of one length, got 1 and \[2, 2, 1\]"):
        MetricFrame(metrics=fairness.selection_rate, y_true=[1, 0], y_pred=[1, 0], sensitive_features=["a"])
    with pytest.raises(UsageError, match="no item has a group"):
        MetricFrame(metrics=fairness.selection_rate, y_true=[1], y_pred=[1], sensitive_features=[None])
    with pytest.raises(UsageError, match="agg must be one of worst_case, mean, got 'max'"):
        equalized_odds_difference([1], [1], sensitive_features=["a"], agg="max")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="k is 9, of a ranking of 2"):
        skew(["a", "b"], k=9)
    with pytest.raises(UsageError, match="none for 'b'"):
        ndkl(["a", "b"], {"a": 1})
    with pytest.raises(UsageError, match="the ranking is empty"):
        ndkl([])
    with pytest.raises(UsageError, match="N > k = 5"):
        consistency(np.ones((3, 2)), np.ones(3))
    x, far = np.arange(6.0)[:, None], np.array([0.0, 1, 1, 0, 1, 0])
    for wrong in (np.nan, np.inf, -0.1, 255.0):
        with pytest.raises(UsageError, match=r"y_pred must hold decisions, 0 or 1, or scores in \[0, 1\]"):
            consistency(x, np.where(np.arange(6) == 2, wrong, far), k=2)
    for wrong in (np.nan, np.inf):
        with pytest.raises(UsageError, match="features must be finite"):
            consistency(np.where(x == 2, wrong, x), far, k=2)
    with pytest.raises(UsageError, match="k must be a whole number"):
        consistency(x, far, k=2.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a decision of y_pred_changed is None or NaN"):
        counterfactual_flip_rate(["y", "n"], ["y", float("nan")])
    with pytest.raises(UsageError, match="a label of task is None or NaN"):
        bias_amplification(["a", "b"], ["t", None], ["a", "b"], direction="task->attribute")
    with pytest.raises(UsageError, match=r"both must be \(N,\)"):
        counterfactual_flip_rate([], [])
    with pytest.raises(UsageError, match="direction is 'both'"):
        bias_amplification(["a"], ["t"], ["a"], direction="both")  # type: ignore[arg-type]
    good = np.eye(3)
    with pytest.raises(UsageError, match="embedding 1 is zero or not finite"):
        association_test(np.array([[1.0, 0, 0], [np.nan, 0, 0]]), good, good, good)
    with pytest.raises(UsageError, match="associated alike"):
        association_test(good[:2], good[:2], good, good)
    with pytest.raises(UsageError, match="two or more with 5 items each"):
        attribute_leakage(good, ["a", "a", "b"])


@settings(max_examples=12)  # fairlearn takes most of the time
@given(seed=st.integers(0, 10_000), groups=st.integers(2, 4))
def test_rates_and_gaps_are_fairlearn_s_where_they_are_defined(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    truth, said = (np.concatenate([[0, 1] * groups * 2, rng.integers(0, 2, 60)]) for _ in range(2))
    group = np.concatenate([np.repeat(np.arange(groups), 4), rng.integers(0, groups, 60)])
    told = {"y_true": truth, "y_pred": rng.permutation(said), "sensitive_features": group}
    gaps = ["demographic_parity", "equal_opportunity", "equalized_odds"]
    for method in ("between_groups", "to_overall"):
        for kind in ("difference", "ratio"):
            for gap in gaps:
                ours, theirs = (getattr(m, f"{gap}_{kind}")(**told, method=method) for m in (fairness, peer))
                if not math.isnan(ours):  # 0 / 0, which fairlearn calls 0
                    assert ours == pytest.approx(theirs), (gap, kind, method)
    rates = ["selection_rate", "true_positive_rate", "false_positive_rate", "true_negative_rate", "false_negative_rate"]
    frame = MetricFrame(metrics={name: getattr(fairness, name) for name in rates}, **told)
    theirs = peer.MetricFrame(metrics={name: getattr(peer, name) for name in rates}, **told)
    for name in rates:
        assert list(frame.by_group[name].values()) == pytest.approx(theirs.by_group[name].tolist())
        assert frame.overall[name] == pytest.approx(theirs.overall[name])
        assert frame.group_min()[name] == pytest.approx(theirs.group_min()[name])
        assert frame.difference()[name] == pytest.approx(theirs.difference()[name])


def test_a_p_value_counts_the_order_as_found_and_leakage_the_larger_group() -> None:
    rng = np.random.default_rng(3)
    apart = [rng.normal(scale=0.01, size=(n, 3)) + row for n, row in ((20, [1, 0, 0]), (20, [0, 1, 0]))]
    assert association_test(*apart, *apart, permutations=9).p == pytest.approx(1 / 10)
    # Who always says the larger group is right in three of four cases, and knows nothing.
    noise, group = rng.normal(size=(400, 3)), np.repeat(["p", "q"], [300, 100])
    assert abs(attribute_leakage(noise, group)) < 0.05
    few = np.array([[1.0, 0.1], [1.0, 0.0], [0.9, 0.1], [0.1, 1.0], [0.0, 1.0], [0.1, 0.9]])
    assert attribute_leakage(few, ["p"] * 3 + ["q"] * 3, folds=3) == pytest.approx(0.5)


RNG = np.random.default_rng(11)
MANY = 240
Y, P = RNG.integers(0, 2, MANY), RNG.integers(0, 2, MANY)
COLUMNS = {"sex": RNG.choice(["f", "m"], MANY), "age": RNG.choice([1, 2, 3], MANY)}
WEIGHT = RNG.uniform(0.1, 3, MANY)
RATES = ("selection_rate", "true_positive_rate", "false_positive_rate", "true_negative_rate", "false_negative_rate")
GAPS = (
    "demographic_parity_difference", "demographic_parity_ratio", "equalized_odds_difference", "equalized_odds_ratio",
    "equal_opportunity_difference", "equal_opportunity_ratio",
)  # fmt: skip


def forms() -> dict[str, object]:
    frame = pd.DataFrame(COLUMNS)
    array = np.stack([COLUMNS["sex"], COLUMNS["age"].astype(str)], axis=1)
    return {"frame": frame, "array": array, "series": frame["sex"], "list": COLUMNS["sex"].tolist()}


@pytest.mark.parametrize("form", ["frame", "array", "series", "list"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gap", GAPS)
def test_fairlearns_usual_calls_give_what_fairlearn_gives(form: str, weighted: bool, gap: str) -> None:
    told = {"sensitive_features": forms()[form], "sample_weight": WEIGHT if weighted else None}
    for method in ("between_groups", "to_overall"):
        theirs = getattr(peer, gap)(Y, P, method=method, **told)
        assert getattr(fairness, gap)(Y, P, method=method, **told) == pytest.approx(theirs), method


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["frame", "list"])
def test_frames_with_control_features_and_weights_are_fairlearns(form: str, weighted: bool) -> None:
    control = pd.DataFrame({"site": RNG.choice(["x", "y"], MANY)})
    params = {name: {"sample_weight": WEIGHT} for name in RATES} if weighted else None
    told = {
        "y_true": Y, "y_pred": P, "sensitive_features": forms()[form], "control_features": control,
        "sample_params": params,
    }  # fmt: skip
    ours = MetricFrame(metrics={name: getattr(fairness, name) for name in RATES}, **told)
    theirs = peer.MetricFrame(metrics={name: getattr(peer, name) for name in RATES}, **told)
    for name in RATES:
        for group, value in theirs.by_group[name].items():
            assert ours.by_group[name][group] == pytest.approx(value)
        for site in ("x", "y"):
            assert ours.overall[name][(site,)] == pytest.approx(theirs.overall[name][site])
            assert ours.group_min()[name][(site,)] == pytest.approx(theirs.group_min()[name][site])
            assert ours.group_max()[name][(site,)] == pytest.approx(theirs.group_max()[name][site])
            for method in ("between_groups", "to_overall"):
                assert ours.difference(method)[name][(site,)] == pytest.approx(theirs.difference(method)[name][site])
                assert ours.ratio(method)[name][(site,)] == pytest.approx(theirs.ratio(method)[name][site])


def test_one_metric_takes_its_parameters_directly_and_wrong_ones_are_named() -> None:
    told = {"y_true": Y, "y_pred": P, "sensitive_features": COLUMNS}
    ours = MetricFrame(metrics=fairness.selection_rate, sample_params={"sample_weight": WEIGHT}, **told)
    theirs = peer.MetricFrame(metrics=peer.selection_rate, sample_params={"sample_weight": WEIGHT}, **told)
    assert ours.difference()["selection_rate"] == pytest.approx(theirs.difference())
    with pytest.raises(UsageError, match=r"sample_params names \['f1'\]"):
        MetricFrame(metrics={"rate": fairness.selection_rate}, sample_params={"f1": {}}, **told)
    with pytest.raises(UsageError, match="sample_weight of selection_rate must hold 240 values"):
        MetricFrame(metrics=fairness.selection_rate, sample_params={"sample_weight": [1.0]}, **told)
    for wrong in (WEIGHT[:3], -WEIGHT, WEIGHT * np.nan):
        with pytest.raises(UsageError, match="240 finite numbers of at least 0"):
            fairness.selection_rate(Y, P, sample_weight=wrong)
    with pytest.raises(UsageError, match=r"must be \(N,\), \(N, K\)"):
        demographic_parity_difference(Y, P, sensitive_features=np.zeros((MANY, 1, 1)))


def test_calibration_within_groups_is_scikit_learns_curve() -> None:
    score = RNG.uniform(size=MANY)
    group = COLUMNS["sex"]
    each = {}
    for name in ("f", "m"):
        own = group == name
        share, mean = calibration_curve(Y[own], score[own], n_bins=10)
        counts = np.histogram(score[own], np.linspace(0, 1, 11))[0]
        each[name] = float((counts[counts > 0] * np.abs(share - mean)).sum() / own.sum())
        assert binary_calibration_error(Y[own], score[own], bins=10) == pytest.approx(each[name])
    gap = calibration_difference(Y, score, sensitive_features=group, bins=10)
    assert gap == pytest.approx(abs(each["f"] - each["m"]))
    # weights count items several times
    times = RNG.integers(0, 3, MANY)
    repeated = binary_calibration_error(np.repeat(Y, times), np.repeat(score, times))
    assert binary_calibration_error(Y, score, sample_weight=times) == pytest.approx(repeated)
    assert math.isnan(binary_calibration_error(Y, score, sample_weight=times * 0))
    weighted = calibration_difference(Y, score, sensitive_features=group, sample_weight=times)
    assert weighted == pytest.approx(
        calibration_difference(np.repeat(Y, times), np.repeat(score, times), sensitive_features=np.repeat(group, times))
    )
    with pytest.raises(UsageError, match=r"probabilities in \[0, 1\]"):
        binary_calibration_error(Y, score + 1)
