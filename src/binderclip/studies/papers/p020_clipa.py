"""Do larger towers tolerate fewer image tokens, and is shrinking the picture the best way to have fewer?"""

from __future__ import annotations

from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.training.token_towers import SCORE, SIDE, StagePlan, TokenTower, judged, train_stages
from binderclip.train.tokens.image import BlockPatches, GridPatches, RandomPatches, TokenReduction

REDUCED, TUNED, RATE = 150, 15, 1e-3
STEPS = REDUCED + TUNED
SMALL, LARGE = "width 32, 1 layer", "width 64, 2 layers"
SIZES = {SMALL: (32, 1), LARGE: (64, 2)}
FULL, RESIZE, RANDOM, GRID, BLOCK, UNTRAINED = "all 36", "resize", "random", "grid", "block", "untrained"
QUARTER = 0.25
MASKS: dict[str, TokenReduction] = {
    RANDOM: RandomPatches(keep=QUARTER), GRID: GridPatches(), BLOCK: BlockPatches(keep=QUARTER),
}  # fmt: skip
DROP, LEAD = "loss of score by 9 instead of 36 patches", "lead of the larger tower, all 36"


def plans(method: str) -> list[StagePlan]:
    """Training with the method's tokens, and a tenth as long with all of them at a tenth of the rate."""
    side, tokens = (SIDE // 2, None) if method == RESIZE else (SIDE, MASKS.get(method))
    return [StagePlan(REDUCED, side, tokens, RATE), StagePlan(TUNED, rate=RATE / 10)]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows: list[Row] = []
    full: dict[str, float] = {}
    for size, (width, layers) in SIZES.items():
        for method in (FULL, RESIZE, *(MASKS if size == LARGE else ()), UNTRAINED):
            if method == UNTRAINED:
                found = judged(TokenTower(seed, width=width, layers=layers).eval())
            else:
                found = judged(train_stages(plans(method), seed, width=width, layers=layers, most=STEPS))
            rows += [Row(metric, method, value, size) for metric, value in found.items()]
            full.setdefault(size, found[SCORE])
            if method in (RESIZE, UNTRAINED):
                rows.append(Row(DROP, method, full[size] - found[SCORE], size))
    return [*rows, Row(LEAD, FULL, full[LARGE] - full[SMALL])]


def draw(table: Table, figure: Figure) -> None:
    """The score of each way, and what each tower loses."""
    axes = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    dots(axes[0], table, SCORE, (FULL, RESIZE, *MASKS, UNTRAINED), LARGE)
    dots(axes[1], table, SCORE, (FULL, RESIZE, UNTRAINED), SMALL)
    for ax, size in zip(axes, (LARGE, SMALL), strict=False):
        ax.set_title(f"{SCORE},\n{size}", fontsize=9)
    for number, size in enumerate(SIZES):
        values = table.values(DROP, RESIZE, size)
        axes[2].plot([number] * len(values), values, "o", alpha=0.5)
        axes[2].plot([number + 0.2], [values.mean()], "s", color="black")
    axes[2].axhline(0, color="black", linewidth=0.8)
    axes[2].set_xticks(range(len(SIZES)), [size.replace(", ", ",\n") for size in SIZES])
    axes[2].set_title("lost by resizing\n(square: mean)", fontsize=9)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 32), registered="893bb036770f")
