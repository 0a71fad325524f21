"""Do early layers keep tokens by their place, and does a score without places, an even grid and a later look help?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from binderclip.compress import (
    FastVTokenPruning,
    FeatherTokenPruning,
    PruningStage,
    TokenContext,
    TokenPruner,
    kept_inside_boxes,
    kept_token_heatmap,
)
from binderclip.models.vision_language.decoder import rotary_angles, rotated
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.vlm_questions import (
    KINDS,
    asked_scenes,
    random_pruning,
    right_answers,
    vlm,
)

SCENES = 50
LAYERS = (2, 3)
"""Of six: a quarter and half of the depth, as 8 and 16 of 32."""
EARLY = 1
"""FastV's layer; 3 of 32 would be before the second as well."""
ACCURACY, COST, ROWS, INSIDE = "accuracy", "FLOPs, of all tokens", "correlation of survival with the row", "kept in box"
WHOLE, HALF = "all tokens", "random half"
FORMULA = "equal tokens, 24 x 24"
FASTV, PLAIN, UNIFORM, FEATHER, RANDOM = "FastV", "FastV without rotary", "even grid", "FEATHER", "random"
TURNED, STILL = "with rotary", "without rotary"
KEPT = 0.3
"""Of FEATHER, in its first stage."""
COUNT = 21
"""Tokens of 64 that one early stage may keep at the FLOPs of FEATHER."""


def even_grid(context: TokenContext) -> Tensor:
    """Every third token row by row, which is an even lattice on rows of eight: `COUNT` tokens."""
    return (torch.arange(context.count) % 3 == 1).expand(len(context.hidden), -1)


def pruners(seed: int) -> dict[str, TokenPruner]:
    """All at the compute of FEATHER."""
    keep = COUNT / 64
    return {
        FASTV: FastVTokenPruning(EARLY, keep_rate=keep),
        PLAIN: FastVTokenPruning(EARLY, keep_rate=keep, rope=False),
        UNIFORM: TokenPruner([PruningStage(EARLY, even_grid)]),
        FEATHER: FeatherTokenPruning(LAYERS, keep_rate=KEPT),
        RANDOM: random_pruning([EARLY], [keep], seed),
    }


def bias_of_the_formula(rope: bool, heads: int = 256, head_dim: int = 128) -> float:
    """Row correlation of the top quarter of 24 x 24 equal tokens, their keys near the query, in Llama's geometry."""
    generator = torch.Generator().manual_seed(0)
    key = torch.randn(heads, 1, head_dim, generator=generator)
    query = key + torch.randn(heads, 1, head_dim, generator=generator)
    positions = torch.arange(577)[None]  # the last is the word that asks
    keys, queries = (x.expand(-1, 577, -1)[None] for x in (key, query))
    if rope:
        angles = rotary_angles(positions, head_dim, 10_000.0)
        keys, queries = rotated(keys, angles), rotated(queries, angles)
    scores = (queries[:, :, -1:] @ keys[:, :, :-1].transpose(-2, -1) / head_dim**0.5).softmax(-1).mean(1)[0]
    # equal scores in random order, so that none is kept for its index
    order = (scores.round(decimals=7) + 1e-9 * torch.rand(scores.shape, generator=generator)).argsort(descending=True)
    kept = torch.zeros(1, 576, dtype=torch.bool).index_fill(1, order[0, :144], True)
    return kept_token_heatmap(kept, (24, 24)).row_correlation()


def first(seed: int) -> list[Row]:
    """What must be there: answers above chance, tokens to spare."""
    scenes, decoder = asked_scenes(seed, SCENES), vlm().decoder
    whole = right_answers(decoder.run(scenes.tokens), scenes)
    half = right_answers(random_pruning([EARLY], [0.5], seed).run(decoder, scenes.tokens), scenes)
    return [Row(ACCURACY, name, part[kind], kind) for name, part in ((WHOLE, whole), (HALF, half)) for kind in KINDS]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    scenes, decoder = asked_scenes(seed, SCENES), vlm().decoder
    there = scenes.boxes[:, 2] > 0
    rows = [Row(ROWS, name, bias_of_the_formula(rope), FORMULA) for name, rope in ((TURNED, True), (STILL, False))]
    for name, pruner in pruners(seed).items():
        run = pruner.run(decoder, scenes.tokens)
        rows += [Row(ACCURACY, name, value, kind) for kind, value in right_answers(run, scenes).items()]
        kept = run.kept[min(run.kept)]
        grid = scenes.tokens.grid
        assert grid is not None
        rows += [
            Row(COST, name, run.flops_ratio()),
            Row(ROWS, name, kept_token_heatmap(kept, grid).row_correlation(), "first stage"),
            Row(INSIDE, name, float(kept_inside_boxes(kept, scenes.boxes, grid)[there].mean()), "first stage"),
        ]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Where tokens survive the first stage, and the accuracy of all."""
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.3])
    names = (FASTV, PLAIN, UNIFORM, FEATHER)
    for ax, name in zip(parts[0].subplots(1, len(names)), names, strict=True):
        run = pruners(STUDY.seeds[0])[name].run(vlm().decoder, asked_scenes(STUDY.seeds[0], SCENES).tokens)
        kept_token_heatmap(run.kept[min(run.kept)], (8, 8)).draw(ax)
        ax.set_title(f"{name}, % kept", fontsize=8)
    for ax, kind in zip(parts[1].subplots(1, 2), KINDS, strict=True):
        dots(ax, table, ACCURACY, (WHOLE, *names, RANDOM), kind)
        ax.set_title(f"accuracy, {kind}", fontsize=8)
        ax.tick_params(axis="x", labelrotation=25, labelsize=6)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(90, 102), first=first, registered="eb5cfacab280")
