"""Does erasing what a name means, and looking whether the name falls, find an animal that patches disagree about?"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from binderclip.segment.task import FixedWords, Loop, VocabularyScorer, instance_mining
from binderclip.segment.task.words import patches
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

SCENES, CAMOUFLAGE, ROUNDS = 5, 0.3, 5
NAME = "name accuracy"
FREQUENT, WHOLE_PICTURE, CONTRAST, FULL, ANY, TRUE = (
    "most frequent of nine patches", "of the whole picture", "contrast, first round", "INT, five rounds",
    "a name at random", "the true name",
)  # fmt: skip
SAYING = (FREQUENT, WHOLE_PICTURE, CONTRAST, FULL, ANY)
MASKED = (FREQUENT, CONTRAST, FULL, ANY, TRUE)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    (model, segmenter), found = models(), hidden_animals(seed, SCENES, CAMOUFLAGE)
    full = instance_mining(model, segmenter, ANIMALS, rounds=ROUNDS)
    scorer = VocabularyScorer(model, ANIMALS)
    answers: dict[str, list[Any]] = {name: [] for name in MASKED}
    right: dict[str, list[bool]] = {name: [] for name in SAYING}
    random = np.random.default_rng([seed, 8])
    for picture, name in zip(found.pictures, found.names, strict=True):
        guesses = scorer.probabilities([picture.crop(place) for place in patches(picture.size)], ANIMALS).argmax(1)
        words = [ANIMALS[i] for i in guesses.tolist()]
        frequent = Counter(words).most_common(1)[0][0]  # of equals the first: the whole picture comes first
        drawn = ANIMALS[int(random.integers(len(ANIMALS)))]
        whole = full(picture, TASK)
        first = whole.rounds[0]
        for method, said in (
            (FREQUENT, frequent), (WHOLE_PICTURE, words[0]), (CONTRAST, first.hypotheses[0].fore),
            (FULL, whole.rounds[-1].hypotheses[0].fore), (ANY, drawn),
        ):  # fmt: skip
            right[method].append(said == name)
        answers[FULL].append(whole.mask)
        answers[CONTRAST].append(first.probs > 0.5)
        for method, word in ((FREQUENT, frequent), (ANY, drawn), (TRUE, name)):
            ground = first.hypotheses[0].back
            given = FixedWords((word,), () if ground is None else (ground,))
            answers[method].append(replace(full, proposer=given, loop=Loop(1, "mask", 0.3, None))(picture, TASK).mask)
    rows = score_rows(answers | trivial_masks(segmenter, found, seed), found.masks)
    return [*rows, *(Row(NAME, method, float(np.mean(hits))) for method, hits in right.items())]


def draw(table: Table, figure: Figure) -> None:
    """Names that were right, weighted F, and some scenes with the names of each round."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    left, right = halves
    upper, lower = left.subplots(2)
    dots(upper, table, NAME, SAYING)
    dots(lower, table, "Fw", (*MASKED, *TRIVIAL, BEST_CLICK))
    for ax, label in ((upper, "right"), (lower, "weighted F")):
        ax.tick_params(axis="x", rotation=40, labelsize=6)
        ax.set_ylabel(label)
    (model, segmenter), found = models(), hidden_animals(table.rows[0].seed, SCENES, CAMOUFLAGE)
    full = instance_mining(model, segmenter, ANIMALS, rounds=ROUNDS)
    axes: Any = right.subplots(3, 2)
    for row in range(3):
        answer = full(found.pictures[row], TASK)
        first, last = (str(answer.rounds[number].hypotheses[0].fore) for number in (0, -1))
        shown: list[Any] = [found.pictures[row], answer.mask.float().numpy()]
        pictures(axes[row], shown, [found.names[row], first if first == last else f"{first}, then {last}"])


STUDY = declared_study(__name__, measure, seeds=range(12, 36), draw=draw, registered="0ece00b2a29f")
