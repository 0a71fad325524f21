"""At equal tokens, do stages of growing pictures beat one stage of full ones, and may tuning be masked as well?"""

from __future__ import annotations

from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.training.token_towers import SCORE, SIDE, StagePlan, TokenTower, judged, train_stages
from binderclip.train.tokens.image import RandomPatches

STEPS, RATE, WIDTH, LAYERS = (160, 30, 10), 1e-3, 64, 2
STAGED, UNMASKED, SINGLE, SMALLEST, UNTRAINED = (
    "three stages, masked", "three stages, not masked", "one stage, 48 px", "one stage, 24 px", "untrained",
)  # fmt: skip
METHODS = (STAGED, UNMASKED, SINGLE, SMALLEST, UNTRAINED)
TOKENS = "image tokens, thousands"
FIRST = StagePlan(STEPS[0], 24, rate=RATE)


def tuning(*, masked: bool) -> list[StagePlan]:
    """The second and the third stage."""
    keep = (0.7, 0.6) if masked else (1.0, 1.0)
    return [
        StagePlan(STEPS[1], 40, RandomPatches(keep=keep[0]), RATE / 5),
        StagePlan(STEPS[2], SIDE, RandomPatches(keep=keep[1]), RATE / 20),
    ]


def tokens(plans: list[StagePlan]) -> int:
    """Image tokens of a picture of every step, class token included."""
    return sum(plan.steps * (plan.patches + 1) for plan in plans)


BUDGET = tokens([FIRST, *tuning(masked=True)])
ONE = {SINGLE: StagePlan(BUDGET // 37, rate=RATE), SMALLEST: StagePlan(BUDGET // 10, 24, rate=RATE)}
"""One stage of as many tokens: with 36 patches and the class token, or with 9."""


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    most = ONE[SMALLEST].steps
    first = train_stages([FIRST], seed, width=WIDTH, layers=LAYERS, most=most)
    plans = {STAGED: tuning(masked=True), UNMASKED: tuning(masked=False)}
    towers = {
        name: train_stages(plan, seed, width=WIDTH, layers=LAYERS, most=most, start=first, first=STEPS[0])
        for name, plan in plans.items()
    }
    towers |= {name: train_stages([plan], seed, width=WIDTH, layers=LAYERS, most=most) for name, plan in ONE.items()}
    towers[UNTRAINED] = TokenTower(seed, width=WIDTH, layers=LAYERS).eval()
    used = {name: [FIRST, *plan] for name, plan in plans.items()} | {name: [plan] for name, plan in ONE.items()}
    rows = [Row(metric, name, value) for name, tower in towers.items() for metric, value in judged(tower).items()]
    return rows + [Row(TOKENS, name, tokens(plan) * 64 / 1000) for name, plan in used.items()]


def draw(table: Table, figure: Figure) -> None:
    """The score of each way, and the tokens that it took."""
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    names = [name.replace(", ", ",\n") for name in METHODS]
    dots(left, table, SCORE, METHODS)
    left.set_xticks(range(len(METHODS)), names, fontsize=8)
    left.set_title(SCORE, fontsize=9)
    right.barh(names[:-1], [table.mean(TOKENS, name) for name in METHODS[:-1]])
    right.invert_yaxis()
    right.set_title(TOKENS, fontsize=9)
    right.tick_params(axis="y", labelsize=8)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(30, 44), registered="bb3453125aac")
