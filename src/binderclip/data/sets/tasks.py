"""Class names that arrive task by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from binderclip.errors import UsageError

Name = TypeVar("Name")


def class_incremental_tasks(
    classes: Sequence[Name], increment: int, *, initial: int | None = None, seed: int | None = None
) -> list[list[Name]]:
    """Split classes into tasks: `initial` of them first, then `increment` at a time; the last task takes the rest.

    Paper: CLIP model is an Efficient Continual Learner (arXiv 2210.03114).

    Args:
        classes: names, each once.
        increment: classes a task.
        initial: classes of the first task; None: as many as `increment`.
        seed: of a random order; None keeps the order given.

    Raises:
        UsageError: a class twice, or `increment` or `initial` that is below 1 or more than there are classes.
    """
    names = list(classes)
    first = increment if initial is None else initial
    if len(set(names)) < len(names):
        raise UsageError("classes names a class twice; two things of one name cannot be told apart by text")
    for name, value in (("increment", increment), ("initial", first)):
        if not 1 <= value <= len(names):
            raise UsageError(f"{name} is {value}; with {len(names)} classes it is in 1..{len(names)}")
    if seed is not None:
        names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    starts = [0, *range(first, len(names), increment)]
    return [names[a:b] for a, b in zip(starts, [*starts[1:], len(names)], strict=True)]
