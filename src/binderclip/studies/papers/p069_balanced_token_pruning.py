"""Is a balance of diversity early and attention late better than either alone, at the same stages and budgets?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor

from binderclip.compress import BalancedTokenPruning, TokenPruner, calibrate_stages, kept_token_heatmap
from binderclip.compress.tokens.balanced import BALANCED_STAGES
from binderclip.models import Record, Recorder, Site
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.vlm_questions import (
    KINDS,
    asked_scenes,
    one_signal,
    random_pruning,
    right_answers,
    vlm,
)

SCENES, CALIBRATION_SEED = 50, 900
STAGES, APART = 3, 1
ACCURACY, LOCAL, GLOBAL = "accuracy", "local error, first stage", "global error"
KEPT, COST = "image tokens kept, mean over layers", "FLOPs, of all tokens"
WHOLE, HALF, BOTH = "all tokens", "random half", "both kinds"
BALANCED, ATTENDED, DIVERSE, RANDOM = "balanced", "attention alone", "diversity alone", "random"


@lru_cache(maxsize=1)
def layers() -> tuple[int, ...]:
    """Where to prune, by the calibration on scenes of its own."""
    tokens = asked_scenes(CALIBRATION_SEED, 8).tokens  # 64 questions
    return calibrate_stages(vlm().decoder, [tokens], stages=STAGES, apart=APART).layers


def pruners(seed: int) -> dict[str, TokenPruner]:
    """Four rules at one plan of layers and counts."""
    plan = layers()
    keep = [stage.keep for stage in BALANCED_STAGES]
    return {
        BALANCED: BalancedTokenPruning(plan, drop=None),
        ATTENDED: BalancedTokenPruning(plan, drop=None, stages=one_signal(BALANCED_STAGES, "attended")),
        DIVERSE: BalancedTokenPruning(plan, drop=None, stages=one_signal(BALANCED_STAGES, "diverse")),
        RANDOM: random_pruning(plan, keep, seed),
    }


def last_words(recorder: Recorder, layer: int) -> Tensor:
    """The last word as it leaves a layer, (M, D)."""
    return recorder.values[Site("block_out", layer)][:, -1]


def relative_error(recorder: Recorder, exact: Recorder, layer: int) -> float:
    """Distance to the last word of the whole model over its length, mean over questions."""
    target = last_words(exact, layer)
    return float(((last_words(recorder, layer) - target).norm(dim=1) / target.norm(dim=1)).mean())


def first(seed: int) -> list[Row]:
    """What must be there: answers above chance, tokens to spare."""
    scenes, decoder = asked_scenes(seed, SCENES), vlm().decoder
    whole = right_answers(decoder.run(scenes.tokens), scenes)
    half = right_answers(random_pruning([1], [0.5], seed).run(decoder, scenes.tokens), scenes)
    return [Row(ACCURACY, name, part[kind], kind) for name, part in ((WHOLE, whole), (HALF, half)) for kind in KINDS]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    scenes, decoder = asked_scenes(seed, SCENES), vlm().decoder
    places = Record("block_out", layers=[layers()[0], -1])
    exact = Recorder(places, decoder.depth)
    decoder.run(scenes.tokens, record=exact)
    rows = []
    for name, pruner in pruners(seed).items():
        recorder = Recorder(places, decoder.depth)
        run = pruner.run(decoder, scenes.tokens, record=recorder)
        right = right_answers(run, scenes)
        rows += [Row(ACCURACY, name, value, kind) for kind, value in right.items()]
        rows += [
            Row(ACCURACY, name, sum(right.values()) / len(KINDS), BOTH),
            Row(LOCAL, name, relative_error(recorder, exact, layers()[0])),
            Row(GLOBAL, name, relative_error(recorder, exact, decoder.depth - 1)),
            Row(KEPT, name, run.kept_ratio()),
            Row(COST, name, run.flops_ratio()),
        ]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """What the first stage keeps, accuracies and errors."""
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.3])
    names = (BALANCED, ATTENDED, DIVERSE, RANDOM)
    scenes = asked_scenes(STUDY.seeds[0], SCENES)
    for ax, name in zip(parts[0].subplots(1, len(names)), names, strict=True):
        run = pruners(STUDY.seeds[0])[name].run(vlm().decoder, scenes.tokens)
        kept_token_heatmap(run.kept[layers()[1]], (8, 8)).draw(ax)
        ax.set_title(f"{name}, % after stage 2", fontsize=7)
    panels = [(ACCURACY, kind) for kind in KINDS] + [(LOCAL, ""), (GLOBAL, "")]
    for ax, (metric, setting) in zip(parts[1].subplots(1, 4), panels, strict=True):
        dots(ax, table, metric, (WHOLE, *names) if metric == ACCURACY else names, setting)
        ax.set_title(f"{metric} {setting}", fontsize=7)
        ax.tick_params(axis="x", labelrotation=60, labelsize=6)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(60, 90), first=first, registered="5db9822203ef")
