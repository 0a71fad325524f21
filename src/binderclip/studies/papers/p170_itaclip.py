"""p170 ITACLIP: attention of middle blocks, views, definitions beside names, and PAMR, one after the other."""

from __future__ import annotations

from typing import Any

from binderclip.segment import PAMR, ClassRule, Closing, Parts, TextSide, ViewEnsemble, Windows, parts_of
from binderclip.segment.presets.itaclip import BLOCK
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.tables.scene_attention import attends, attention_rows
from binderclip.studies.protocols.tables.segment_figures import draw_table
from binderclip.studies.protocols.tables.segment_table import protocol, random_gains, table_rows

N, SEEDS = 17, (10, 11, 12)
TABLE_PROTOCOL = protocol(N)
ALPHA = 0.2
PLAIN, A, I, T, R, BARE = (
    "plain tokens", "A: blended maps", "A + I: all views", "A + I + T: definitions", "ITACLIP (+ PAMR, closing)",
    "plain + PAMR, closing",
)  # fmt: skip


def asked() -> dict[str, Parts]:
    """Name -> parts; the same windows and class rule for all."""
    from binderclip.adapt import shipped_descriptions

    shared: dict[str, Any] = {"resolution": Windows(size=1.5), "rule": ClassRule(scale=40.0, over="words")}
    described = TextSide(auxiliary=shipped_descriptions()["scenes15"].classes, alpha=ALPHA)
    refined = {"refine": PAMR(), "relabel": Closing()}

    def ours(**changes: Any) -> Parts:
        return parts_of("plain", last_block=BLOCK, **shared, **changes)

    views = ViewEnsemble()
    return {
        PLAIN: parts_of("plain", **shared),
        A: ours(),
        I: ours(views=views),
        T: ours(views=views, text=described),
        R: parts_of("itaclip", **shared, text=described),
        BARE: parts_of("plain", **shared, **refined),
    }


PAIRS = ((A, PLAIN), (I, A), (T, I), (R, T), (R, PLAIN), (R, BARE))


def measure(seed: int) -> list[Row]:
    """The ablation."""
    return [*table_rows(asked(), seed, against=PAIRS, n=N), *attention_rows(seed)]


def null(seed: int) -> list[Row]:
    """Steps that change the scenes at random."""
    return random_gains(PAIRS, seed, N)


def draw(table: Table, figure: Figure) -> None:
    """The table with label maps of four steps."""
    parts = asked()
    draw_table(table, figure, shown={"plain": parts[PLAIN], "A": parts[A], "A + I": parts[I], "ITACLIP": parts[R]})


STUDY = declared_study(
    __name__,
    measure,
    preconditions=(attends("qq", "kk"),),
    draw=draw,
    seeds=SEEDS,
    null=null,
    registered="2af6cc6ac3fa",
)
