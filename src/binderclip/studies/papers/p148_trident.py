"""Is it better to splice tokens and then segment, to mix them over the picture, and to ask for masks in the end?"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from torch import Tensor

from binderclip.segment import (
    CentredSoftmax,
    ClassRule,
    External,
    LastBlock,
    Parts,
    PromptedMasks,
    ValueMaskedAttention,
    Whole,
    identity,
    parts_of,
)
from binderclip.segment.parts.splicing import promptable, value_masked
from binderclip.segment.promptable import encoder_attention
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.tables.scene_attention import outside_mass_rows, structured
from binderclip.studies.protocols.tables.segment_figures import draw_grounds
from binderclip.studies.protocols.tables.segment_table import SETS, ground_rows, random_gains, table_rows

N, SEEDS = 17, (30, 31, 32)
RESIZE, LOGITS, SPLICE = "resized to the model's side", "segment, then splice", "splice, then segment"
VALUES = "splice, no affinity inside"
SAM, DINO = "splice + small-sam's attention", "splice + small-dino's attention"
GROUND = ("background", "texture", "wall", "sky")
COARSE, PROMPTED = "splice, ground a class", "splice + masks of prompts"
PAIRS = ((SPLICE, RESIZE), (SPLICE, LOGITS), (SPLICE, VALUES), (SAM, SPLICE), (DINO, SPLICE))


@lru_cache(maxsize=1)
def asked() -> dict[str, str | Parts]:
    """What is measured with the ground left out."""
    trident = parts_of("trident")
    proxy = LastBlock(CentredSoftmax(External("small-dino"), mean="batch"))
    return {
        RESIZE: parts_of("proxyclip", last_block=proxy, resolution=Whole(128)),
        LOGITS: parts_of("proxyclip", last_block=proxy),
        VALUES: replace(trident, mix=None, last_block=LastBlock(identity)),
        SPLICE: replace(trident, mix=None),
        SAM: replace(trident, mix=ValueMaskedAttention("small-sam", size=256)),
        DINO: trident,
    }


@lru_cache(maxsize=1)
def asked_with_ground() -> dict[str, str | Parts]:
    """What is measured with the ground as a class."""
    rule = ClassRule(scale=40.0, over="words", threshold=0.2, below="background")
    spliced = replace(parts_of("trident"), mix=None, rule=rule)
    return {COARSE: spliced, PROMPTED: replace(spliced, relabel=(PromptedMasks(),))}


def first(seed: int) -> list[Row]:
    """Whether the segmenter's attention, as the method masks it, sees what belongs together."""

    def attention(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        found = encoder_attention(promptable("small-sam"), image, side=256)
        return value_masked(found.weights, found.values), found.grid

    return outside_mass_rows("small-sam's attention", attention, seed, n=N)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = table_rows(asked(), seed, against=PAIRS, n=N)
    for name in SETS:
        rows += ground_rows(asked_with_ground(), name, seed, GROUND, n=N, against=[(PROMPTED, COARSE)])
    return rows


def null(seed: int) -> list[Row]:
    """Steps that change the scenes at random."""
    return random_gains((*PAIRS, (PROMPTED, COARSE)), seed, N)


def draw(table: Table, figure: Figure) -> None:
    """Scenes with label maps above, both tables below."""
    titles = {"resized": RESIZE, "segment,\nthen splice": LOGITS, "splice,\nthen segment": SPLICE, "+ small-dino": DINO}
    shown: dict[str, tuple[str | Parts, tuple[str, ...]]] = {
        title: (asked()[name], ()) for title, name in titles.items()
    }
    shown["ground a class,\nprompted"] = (asked_with_ground()[PROMPTED], GROUND)
    methods = (list(asked()), list(asked_with_ground()))
    draw_grounds(figure, table, shown, ("scenes-hard",), methods, n=N, height=3.6, ratios=(1, 1.3))


STUDY = declared_study(
    __name__,
    measure,
    draw=draw,
    preconditions=(structured("small-sam's attention", "small-sam's attention, masked by its values,"),),
    first=first,
    seeds=SEEDS,
    null=null,
    registered="c8d3d9a42dd3",
)
