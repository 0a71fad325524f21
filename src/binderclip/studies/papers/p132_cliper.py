"""Do early attention, every layer's segmentation and self-attention to sharpen make CLIP segment better?"""

from __future__ import annotations

from binderclip.segment import ClassRule, ClassScore, FusedAttention, LastBlock, LayerEnsemble, Parts, parts_of, vanilla
from binderclip.segment.parts.last_block import AttentionMap
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.tables.scene_attention import attends, attention_rows, mass_rows, structured
from binderclip.studies.protocols.tables.segment_figures import draw_table
from binderclip.studies.protocols.tables.segment_table import protocol, random_gains, table_rows

N, SEEDS = 17, (50, 51, 52)
TABLE_PROTOCOL = protocol(N)
OWN, FUSED, LAYERS, SHARP = "own attention", "fused attention", "and every layer", "cliper"
OTHERS = ("value", "maskclip", "sclip", "clearclip")


def asked() -> dict[str, str | Parts]:
    """Name -> parts."""
    given, fused = ClassRule(over="given"), LastBlock(FusedAttention())
    layers = parts_of("value", last_block=fused, fusion=LayerEnsemble(), rule=given, refine=ClassScore())
    return {
        OWN: parts_of("value", last_block=LastBlock(vanilla)),
        FUSED: parts_of("value", last_block=fused),
        LAYERS: layers,
        SHARP: SHARP,
        **{name: name for name in OTHERS},
    }


PAIRS = ((FUSED, OWN), (LAYERS, FUSED), (SHARP, LAYERS), (SHARP, OWN), *((SHARP, name) for name in OTHERS))


def first(seed: int) -> list[Row]:
    """Whether the fused early attention, which the method is about, sees what belongs together."""
    maps: dict[str, AttentionMap] = {OWN: vanilla, FUSED: FusedAttention()}
    return [*mass_rows(maps, seed, n=N), *attention_rows(seed)]


def measure(seed: int) -> list[Row]:
    """The ablation."""
    return table_rows(asked(), seed, against=PAIRS, n=N)


def null(seed: int) -> list[Row]:
    """Steps that change the scenes at random."""
    return random_gains(PAIRS, seed, N)


def draw(table: Table, figure: Figure) -> None:
    """The table, with scenes."""
    chosen = asked()
    draw_table(table, figure, shown={
        "own": chosen[OWN], "fused": chosen[FUSED], SHARP: chosen[SHARP], "value": chosen["value"],
    })  # fmt: skip


STUDY = declared_study(
    __name__,
    measure,
    draw=draw,
    preconditions=(attends("qk"), structured(FUSED, "the fused attention of earlier blocks")),
    first=first,
    seeds=SEEDS,
    null=null,
    registered="c472515b631a",
)
