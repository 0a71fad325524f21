"""Is it attention between classes that spoils dense CLIP, and do regions, branches and votes mend it?"""

from __future__ import annotations

from typing import Any

from binderclip.segment import (
    BranchSum,
    External,
    Felzenszwalb,
    MaskClassTokens,
    MaskMajority,
    MaskScoped,
    Parts,
    Scope,
    SpatialBranch,
    parts_of,
)
from binderclip.segment.parts.last_block import AttentionMap, LastBlock
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.tables.scene_attention import mass_rows, remember, true_regions
from binderclip.studies.protocols.tables.segment_figures import SHOWN_SEED, draw_table
from binderclip.studies.protocols.tables.segment_table import SETS, protocol, random_gains, table_rows

N, SEEDS = 17, (50, 51, 52)
TABLE_PROTOCOL = protocol(N)
FREE, FOUND, TRUE = "no scope", "Felzenszwalb scope", "true scope"
SPATIAL, SEMANTIC, BOTH = "and spatial branch", "and semantic branch", "and both branches"
TRUE_BOTH = "true scope and both branches"
CORRCLIP, SHIPPED, OTHERS = "CorrCLIP", "corrclip", ("value", "maskclip", "sclip", "clearclip")
FEATURES = External("small-dino", of="q+k")
"""The paper takes queries and keys of DINO."""
FOUND_SCOPE, TRUE_SCOPE = Scope(Felzenszwalb(), FEATURES), Scope(true_regions, FEATURES, merge=None)
FREE_MAP = MaskScoped(FOUND_SCOPE, inside=False)


def asked() -> dict[str, str | Parts]:
    """Name -> parts; all differ from `CORRCLIP` by what is named. The shipped preset has the tower's own tokens."""

    def of(attention: MaskScoped, *branches: Any) -> Parts:
        return parts_of(SHIPPED, last_block=LastBlock(attention), fusion=BranchSum(branches), relabel=())

    found, true = MaskScoped(FOUND_SCOPE), MaskScoped(TRUE_SCOPE)
    return {
        FREE: of(FREE_MAP),
        FOUND: of(found),
        TRUE: of(true),
        SPATIAL: of(found, SpatialBranch()),
        SEMANTIC: of(found, MaskClassTokens()),
        BOTH: of(found, SpatialBranch(), MaskClassTokens()),
        CORRCLIP: parts_of(SHIPPED, last_block=LastBlock(found), relabel=MaskMajority(FOUND_SCOPE.regions)),
        SHIPPED: SHIPPED,
        TRUE_BOTH: of(true, SpatialBranch(), MaskClassTokens()),
        **{name: name for name in OTHERS},
    }


PAIRS = (
    (TRUE, FOUND),
    (FOUND, FREE),
    (SPATIAL, FOUND),
    (SEMANTIC, FOUND),
    (CORRCLIP, BOTH),
    (CORRCLIP, SHIPPED),
    *((CORRCLIP, name) for name in OTHERS),
)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    for name in SETS:
        remember(name, seed, N)
    maps: dict[str, AttentionMap] = {FREE: FREE_MAP, FOUND: MaskScoped(FOUND_SCOPE), TRUE: MaskScoped(TRUE_SCOPE)}
    return [*table_rows(asked(), seed, against=PAIRS, n=N), *mass_rows(maps, seed, n=N)]


def null(seed: int) -> list[Row]:
    """Scopes that change the scenes at random."""
    return random_gains(PAIRS, seed, N)


def draw(table: Table, figure: Figure) -> None:
    """The table, with scenes."""
    for name in SETS:
        remember(name, SHOWN_SEED)
    chosen = asked()
    draw_table(table, figure, shown={
        "no scope": chosen[FREE], "regions": chosen[FOUND], "true masks": chosen[TRUE], CORRCLIP: chosen[CORRCLIP],
    })  # fmt: skip


STUDY = declared_study(__name__, measure, draw=draw, seeds=SEEDS, null=null, registered="6c7fce292c2b")
