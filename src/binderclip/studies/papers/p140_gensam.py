"""Do words that are found for each picture, and words for what is around, lead to better masks than the task alone?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from binderclip.segment.task import FixedWords, Loop, gensam
from binderclip.segment.task.words import SYNONYMS
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.studies.protocols.data.task_scenes import (
    ANIMALS,
    BEST_CLICK,
    TASK,
    TRIVIAL,
    hidden_animals,
    models,
    score_rows,
    trivial_masks,
)

SCENES, CAMOUFLAGE, ROUNDS = 12, 0.6, 6
SENTENCE, GENERIC, WORDS, GROUND, FULL = (
    "the sentence", "three synonyms and 'environment'", "words of three chains", "and of the surroundings",
    "GenSAM, six rounds",
)  # fmt: skip
TRUE = "the true name and 'environment'"
METHODS = (SENTENCE, GENERIC, WORDS, GROUND, FULL, TRUE)
NAMED = "the animal's name is among the words"


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    (model, segmenter), found = models(), hidden_animals(seed, SCENES, CAMOUFLAGE)
    full = gensam(model, segmenter, ANIMALS, rounds=ROUNDS)
    noun = TASK.split()[-1]

    def once(picture: Any, *words: Any) -> Any:
        return replace(full, proposer=FixedWords(*words), loop=Loop(1))(picture, TASK).mask

    answers: dict[str, list[Any]] = {name: [] for name in METHODS}
    named = []
    for picture, name in zip(found.pictures, found.names, strict=True):
        whole = full(picture, TASK)
        first = whole.rounds[0]
        answers[FULL].append(whole.mask)
        answers[GROUND].append(first.probs > 0.5)
        answers[WORDS].append(once(picture, tuple(h.fore for h in first.hypotheses if h.fore is not None)))
        answers[SENTENCE].append(once(picture))
        answers[GENERIC].append(once(picture, tuple(f"{own} {noun}" for own in SYNONYMS), ("environment",)))
        answers[TRUE].append(once(picture, (name,), ("environment",)))
        named.append(name in first.words)
    rows = score_rows(answers | trivial_masks(segmenter, found, seed), found.masks)
    return [*rows, Row(NAMED, FULL, float(np.mean(named)))]


def draw(table: Table, figure: Figure) -> None:
    """Weighted F by step, and some scenes with the masks of the sentence and of GenSAM."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    left, right = halves
    ax = left.subplots()
    dots(ax, table, "Fw", (*METHODS, *TRIVIAL, BEST_CLICK))
    ax.tick_params(axis="x", rotation=60, labelsize=7)
    ax.set_ylabel("weighted F")
    (model, segmenter), found = models(), hidden_animals(table.rows[0].seed, SCENES, CAMOUFLAGE)
    full = gensam(model, segmenter, ANIMALS, rounds=ROUNDS)
    axes: Any = right.subplots(3, 3)
    for row in range(3):
        answer = full(found.pictures[row], TASK)
        heat = answer.rounds[0].heat
        assert heat is not None
        shown: list[Any] = [found.pictures[row], heat.numpy(), answer.mask.float().numpy()]
        pictures(axes[row], shown, [found.names[row], ", ".join(answer.words), "GenSAM"])


STUDY = declared_study(__name__, measure, seeds=range(8), draw=draw, registered="376dea3eb4e6")
