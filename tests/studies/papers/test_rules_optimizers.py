"""The verdict rules of the optimizers' studies (p007, p016, p041) on made-up measurements."""

from __future__ import annotations

import pytest

from binderclip.studies import Row, Table, load_study

GAMMAS = ("gamma = 1/16", "gamma = 1", "gamma = 4")


def p041(tail: float = 0.1, middle: float = 0.01, one_gamma: float | None = None) -> Table:
    rows = []
    for seed in range(3):
        for gamma in GAMMAS:
            clipped = one_gamma if one_gamma is not None and gamma == GAMMAS[2] else tail
            rows += [
                Row("final loss, 99 % quantile", "unclipped", 2.0, gamma, seed),
                Row("final loss, 99 % quantile", "clipped", clipped, gamma, seed),
                Row("final loss, median", "unclipped", 0.02, gamma, seed),
                Row("final loss, median", "clipped", middle, gamma, seed),
            ]
    return Table(rows)


def p016(quantiles: dict[str, float] | None = None, sample: float = 0.1) -> Table:
    ends = {"momentum 0.9": 50.0, "l2": 0.2, "l1": 0.2, "huber": 0.2} | (quantiles or {})
    rows = []
    for seed in range(20):
        rows += [Row("distance from the minimum", method, end, seed=seed) for method, end in ends.items()]
        across = {"mean": 9.0, "l2": 0.1, "l1": sample}
        metric = "distance from the minimum, 10 % of the samples times -50"
        rows += [Row(metric, method, end, seed=seed) for method, end in across.items()]
    return Table(rows)


def p007(large: float = 0.3, ratio: float = 1.2, theirs: float = 9.0, spiked: float = 0.05) -> Table:
    rows = []
    for seed in range(3):
        for lr in ("0.001", "0.003", "0.01", "0.03", "0.1"):
            loss = {"Adam": 0.5, "Stable-SPAM": large if float(lr) >= 0.01 else 0.9}
            norms = {"Adam": theirs, "Stable-SPAM": ratio}
            for method in loss:
                rows.append(Row("training loss in 4 bits", method, loss[method], f"lr {lr}", seed))
                metric = "largest / median gradient norm at the moments"
                rows.append(Row(metric, method, norms[method], f"lr {lr}", seed))
        rows += [
            Row("training loss, spike study", "Adam", 0.6, seed=seed),
            Row("training loss, spike study", "Stable-SPAM", spiked, seed=seed),
        ]
    return Table(rows)


MADE = {"p007": p007, "p016": p016, "p041": p041}


@pytest.mark.parametrize(
    ("paper", "change", "verdict"),
    [
        ("p041", {}, "all met"),
        ("p041", {"tail": 0.21}, "not met"),
        ("p041", {"one_gamma": 0.21}, "not met"),
        ("p041", {"middle": 0.021}, "not met"),
        ("p016", {}, "all met"),
        ("p016", {"quantiles": {"huber": 5.1}}, "not met"),
        ("p016", {"sample": 9.5}, "not met"),
        ("p007", {}, "all met"),
        ("p007", {"large": 0.51}, "not met"),
        ("p007", {"ratio": 2.1}, "not met"),
        ("p007", {"theirs": 1.9}, "essential met"),
        ("p007", {"spiked": 0.061}, "not met"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(decide, paper, change, verdict) -> None:
    assert decide(load_study(paper).criteria, MADE[paper](**change))[0] == verdict
