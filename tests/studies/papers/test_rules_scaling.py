"""The study of p039 (arXiv 2404.08197): every way that its verdict can turn, on made-up rows."""

from __future__ import annotations

from binderclip.studies import Row, Table
from binderclip.studies.papers import p039_scaling_down as scaling


def made(best=0.25, noisy=0.15, half_views=0.28, half=0.26, once_views=0.1, fewest=0.1, best_recall=0.25, recall=0.28):
    accuracy = {
        scaling.BEST: best, scaling.ALL: noisy, "best 20 %": fewest, scaling.WHOLE: 0.29, scaling.HALF: half,
        scaling.HALF_VIEWS: half_views, scaling.ONCE: 0.1, scaling.ONCE_VIEWS: once_views,
    }  # fmt: skip
    found = {scaling.BEST: best_recall, scaling.ALL: 0.15, scaling.WHOLE: 0.29, scaling.HALF_VIEWS: recall}
    rows = [Row(scaling.ACCURACY, name, value) for name, value in accuracy.items()]
    return Table([*rows, *(Row(scaling.RECALL, name, value) for name, value in found.items())])


def test_p039_stands_on_the_better_pairs_and_on_augmented_halves(fails):
    fails("p039", made(), "all met", [])
    fails("p039", made(best=0.14), "not met", ["the best 40 % name more held-out pictures"])
    fails("p039", made(half_views=0.25, half=0.2), "not met", ["augmented, half of the pairs name at most three"])
    fails("p039", made(once_views=0.15), "essential met", ["in one pass"])
    fails("p039", made(fewest=0.3), "essential met", ["the best 20 % are worse"])
    fails("p039", made(best_recall=0.1), "essential met", ["the best 40 % find more captions"])
    fails("p039", made(recall=0.2), "essential met", ["augmented, half of the pairs lose"])
    fails("p039", made(half=0.285), "essential met", ["augmented, half of the pairs name more than without"])
