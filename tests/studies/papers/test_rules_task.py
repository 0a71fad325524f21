"""The verdict rules of the task-generic segmenters' studies: each criterion can be met and can fail."""

from __future__ import annotations

from typing import Any

import pytest

from binderclip.studies import Row, Table, load_study
from binderclip.studies.harness.study import decide as judged
from binderclip.studies.papers import p140_gensam as gensam
from binderclip.studies.protocols.task_scenes import BEST_CLICK, TRIVIAL


def p140(
    full: float = 0.7,
    ground: float = 0.65,
    words: float = 0.6,
    error: float = 0.05,
    trivial: float = 0.4,
    true: float = 0.8,
) -> Table:
    qualities = {
        gensam.SENTENCE: 0.4, gensam.GENERIC: 0.5, gensam.WORDS: words, gensam.GROUND: ground, gensam.FULL: full,
        gensam.TRUE: true, BEST_CLICK: 0.9, **dict.fromkeys(TRIVIAL, trivial),
    }  # fmt: skip
    rows = [
        Row(metric, method, value + 0.001 * seed, seed=seed) for seed in range(3)
        for method, value in qualities.items() for metric in ("S", "E", "Fw")
    ]  # fmt: skip
    for seed in range(3):
        rows += [Row("MAE", gensam.FULL, error, seed=seed), Row("MAE", gensam.GENERIC, 0.1, seed=seed)]
        rows.append(Row(gensam.NAMED, gensam.FULL, 0.8, seed=seed))
    return Table(rows)


TABLES = {"p140": p140}


@pytest.mark.parametrize("paper", TABLES)
def test_good_measurements_hold(decide, paper: str) -> None:
    verdict, checks = decide(load_study(paper).criteria, TABLES[paper]())
    assert verdict == "all met", checks


@pytest.mark.parametrize(
    ("paper", "change", "verdict", "failing"),
    [
        (
            "p140",
            {"full": 0.54, "ground": 0.53, "words": 0.52},
            "not met",
            ["GenSAM's quality is above that of the gen"],
        ),
        ("p140", {"trivial": 0.75}, "not met", ["GenSAM's quality is above that of the best trivial"]),
        ("p140", {"words": 0.66}, "essential met", ["words for the surroundings"]),
        ("p140", {"full": 0.64}, "essential met", ["six rounds add"]),
        ("p140", {"error": 0.11}, "essential met", ["GenSAM has a lower absolute error"]),
    ],
)
def test_each_criterion_can_fail(decide, paper: str, change: dict[str, Any], verdict: str, failing: list[str]) -> None:
    found, checks = decide(load_study(paper).criteria, TABLES[paper](**change))
    assert found == verdict
    missed = [check.text for check in checks if not check.met]
    assert len(missed) == len(failing), missed
    assert all(text.startswith(start) for text, start in zip(missed, failing, strict=True))


def test_models_that_cannot_carry_the_claim_leave_it_untested() -> None:
    verdict, reason, _ = judged(load_study("p140"), p140(true=0.45), registered=True)
    assert verdict == "untestable here"
    assert "the true name" in reason
