"""The verdict rules of the task-generic segmenters' studies: each criterion can be met and can fail."""

from __future__ import annotations

from typing import Any

import pytest

from binderclip.studies import Row, Table, load_study
from binderclip.studies.harness.study import decide as judged
from binderclip.studies.papers import p140_gensam as gensam
from binderclip.studies.papers import p149_slip as slip
from binderclip.studies.protocols.data.task_scenes import BEST_CLICK, TRIVIAL


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


def p149(
    tuned: float = 0.8, before: float = 0.5, small_sam: float = 0.5, chance: float = 0.25, guessed: float = 0.2
) -> Table:
    values = {
        (slip.BEFORE, slip.EXACT): before, (slip.TUNED, slip.EXACT): tuned, (slip.RANDOM, slip.EXACT): chance,
        (slip.HARD, slip.EXACT): 0.7, (slip.BEFORE, slip.SMALL_SAM): 0.35, (slip.TUNED, slip.SMALL_SAM): small_sam,
        (slip.RANDOM, slip.SMALL_SAM): guessed,
    }  # fmt: skip
    rows = [
        Row(slip.FOUND, method, value + 0.001 * seed, source, seed)
        for seed in range(3) for (method, source), value in values.items()
    ]  # fmt: skip
    return Table([*rows, *(Row(slip.COVERED, slip.SMALL_SAM, 0.6, seed=seed) for seed in range(3))])


TABLES = {"p140": p140, "p149": p149}


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
        ("p149", {"tuned": 0.59}, "not met", ["exact masks: the named thing is found more often after"]),
        ("p149", {"small_sam": 0.34}, "not met", ["masks of `small-sam`: it is found more often after"]),
        ("p149", {"chance": 0.65}, "not met", ["exact masks: it is found more often than by a mask at random"]),
        ("p149", {"guessed": 0.55}, "essential met", ["masks of `small-sam`: it is found more often than by"]),
    ],
)
def test_each_criterion_can_fail(fails, paper: str, change: dict[str, Any], verdict: str, failing: list[str]) -> None:
    fails(paper, TABLES[paper](**change), verdict, failing)


def test_models_that_cannot_carry_the_claim_leave_it_untested() -> None:
    verdict, reason, _ = judged(load_study("p140"), p140(true=0.45), registered=True)
    assert verdict == "not testable here"
    assert "the true name" in reason
    verdict, reason, _ = judged(load_study("p149"), p149(before=0.8, tuned=0.95), registered=True)
    assert verdict == "not testable here"
    assert "knows little" in reason
