"""How a learner does while its tasks arrive one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from binderclip.errors import UsageError


@dataclass(frozen=True)
class Task:
    """What arrives at once.

    Args:
        X, y: to learn from; None for learners that need the names alone.
        X_test, y_test: what the task is tested on, from its arrival to the end.
        classes: its class names; None: the labels that occur in `y_test`, sorted.
    """

    X_test: Any
    y_test: Any
    X: Any = None
    y: Any = None
    classes: Sequence[Any] | None = None

    @property
    def names(self) -> list[Any]:
        """Its class names."""
        return list(self.classes) if self.classes is not None else np.unique(np.asarray(self.y_test)).tolist()


class ContinualMetrics:
    """Accuracy on every task seen so far after every task, and what follows from that table.

    a[t, i] is the accuracy on task i after task t. Labels are compared as they are (names, not positions), so a learner
    that numbers its classes by arrival must answer with names. Paper: CLIP model is an Efficient Continual Learner
    (arXiv 2210.03114).

    Raises:
        UsageError: updates out of order, of unequal length, or figures asked for before there are any.
    """

    def __init__(self) -> None:
        self._correct: list[dict[int, tuple[int, int]]] = []
        self._early: dict[int, tuple[float, float]] = {}

    def update(self, task: int, y_true: Any, y_pred: Any, task_ids: Any) -> None:
        """Enter the predictions made after one task.

        Args:
            task: its number, 0, 1, 2, ... in order.
            y_true, y_pred: labels (N,) of any kind.
            task_ids: (N,) number of the task whose test set each row belongs to, at most `task`.
        """
        truth, answer, ids = np.asarray(y_true), np.asarray(y_pred), np.asarray(task_ids)
        if task != len(self._correct):
            raise UsageError(f"task {task} is entered after {len(self._correct)} others: tasks come in order")
        if not truth.shape == answer.shape == ids.shape or truth.ndim != 1:
            raise UsageError(f"y_true {truth.shape}, y_pred {answer.shape} and task_ids {ids.shape} must be (N,)")
        if set(ids.tolist()) != set(range(task + 1)):
            raise UsageError(
                f"after task {task} the tests of tasks 0..{task} are needed, got {sorted(set(ids.tolist()))}"
            )
        hit = truth == answer
        self._correct.append({i: (int(hit[ids == i].sum()), int((ids == i).sum())) for i in range(task + 1)})

    def before(self, task: int, accuracy: float, chance: float) -> None:
        """Enter the accuracy on a task just before it arrives, for forward transfer; names must be known by then."""
        self._early[task] = (accuracy, chance)

    @property
    def table(self) -> Float[np.ndarray, "T T"]:
        """a[t, i], NaN where i is above t."""
        self._some()
        out = np.full((len(self._correct),) * 2, np.nan)
        for t, row in enumerate(self._correct):
            for i, (hits, count) in row.items():
                out[t, i] = hits / count
        return out

    @property
    def accuracies(self) -> Float[np.ndarray, "T"]:
        """A_t: the accuracy over all samples of the tasks 0..t after task t."""
        self._some()
        return np.array([sum(h for h, _ in r.values()) / sum(n for _, n in r.values()) for r in self._correct])

    @property
    def last(self) -> float:
        """A_t after the last task."""
        return float(self.accuracies[-1])

    @property
    def average(self) -> float:
        """Average incremental accuracy: the mean of A_t over tasks."""
        return float(self.accuracies.mean())

    @property
    def forgetting(self) -> float:
        """Mean over earlier tasks of (best accuracy before the last task - accuracy after it); 0 for one task."""
        a = self.table
        return float(np.mean(np.nanmax(a[:-1, :-1], axis=0) - a[-1, :-1])) if len(a) > 1 else 0.0

    @property
    def backward_transfer(self) -> float:
        """Mean over earlier tasks of (accuracy after the last task - accuracy when it arrived); 0 for one task."""
        a = self.table
        return float(np.mean(a[-1, :-1] - np.diag(a)[:-1])) if len(a) > 1 else 0.0

    @property
    def forward_transfer(self) -> float:
        """Mean of (accuracy before arrival - chance) over the tasks entered by `before`; NaN where there is none."""
        return float(np.mean([a - c for a, c in self._early.values()])) if self._early else float("nan")

    def _some(self) -> None:
        if not self._correct:
            raise UsageError("there is no task yet: call update first")


def run_stream(
    learner: Any,
    tasks: Sequence[Task],
    *,
    after_task: Callable[[int, Any], object] | None = None,
) -> ContinualMetrics:
    """Give tasks to a learner one by one and test it on all tasks seen so far after each.

    Args:
        learner: `partial_fit(X, y, classes=names)` where `classes` are the names that arrive, and `predict(X)` that
            answers with names. A task's X and y may be None.
        tasks: in order of arrival; test sets are arrays.
        after_task: called with the number of the task and the learner.

    Raises:
        UsageError: no task, or a class that two tasks bring.
    """
    if not tasks:
        raise UsageError("tasks is empty: give at least one")
    seen: set[Any] = set()
    metrics = ContinualMetrics()
    for number, task in enumerate(tasks):
        doubled = [name for name in task.names if name in seen]
        if doubled:
            raise UsageError(f"task {number} brings {doubled[0]!r} again; a class arrives once")
        seen.update(task.names)
        learner.partial_fit(task.X, task.y, classes=task.names)
        done = tasks[: number + 1]
        answers = np.concatenate([np.asarray(learner.predict(t.X_test)) for t in done])
        truth = np.concatenate([np.asarray(t.y_test) for t in done])
        ids = np.repeat(np.arange(number + 1), [len(t.y_test) for t in done])
        metrics.update(number, truth, answers, ids)
        if after_task is not None:
            after_task(number, learner)
    return metrics
