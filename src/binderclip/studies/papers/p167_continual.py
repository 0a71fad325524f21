"""Is a frozen image-text model that only learns names a strong continual learner?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.adapt import ContinualZeroShot
from binderclip.data import class_incremental_tasks
from binderclip.evaluate import ContinualMetrics, Task, run_stream
from binderclip.studies.harness import Figure, Row, Table, dataset_features, declared_study, lines
from binderclip.studies.protocols.data.few_shot_sets import few_shot_set

SETS = {"60 emoji in 6 tasks": 10, "Fashion-MNIST in 5 tasks": 2}
PROMPT = "a picture of a {}."
PROMPTS = {
    "{}": "{}",
    "a photo": "a photo of a {}.",
    "a bad photo": "a bad photo of a {}.",
    "80 templates": "imagenet-80",
}
AVERAGE = "average incremental accuracy"
LEARNERS = ("zero-shot", "sequential head", "replay, 5 a class", "class means", "joint training")


class LinearLearner:
    """A softmax head trained on the task at hand by gradient descent, with an optional buffer of old pictures.

    Args:
        replay: pictures kept a class; 0 forgets all of them.
        joint: keep everything and train afresh: the upper bound.
        seed: of what is kept.
    """

    def __init__(self, replay: int = 0, joint: bool = False, seed: int = 0) -> None:
        self.replay, self.joint, self.rng = replay, joint, np.random.default_rng(seed)
        self.names: list[str] = []
        self.weight = torch.zeros(0, 0)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def partial_fit(self, X: Any, y: Any, classes: Sequence[str]) -> LinearLearner:
        """Train 200 steps of Adam on the pictures of the task and those kept."""
        self.names += classes
        x = torch.as_tensor(X).float()
        target = torch.tensor([self.names.index(name) for name in y])
        if len(self.names) == len(classes) or self.joint:
            weight = torch.zeros(len(self.names), x.shape[1])
        else:
            weight = torch.cat([self.weight, torch.zeros(len(classes), x.shape[1])])
        data = [(x, target), *self.kept]
        inputs, targets = torch.cat([a for a, _ in data]), torch.cat([b for _, b in data])
        weight.requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=0.01)
        for _ in range(200):
            optimizer.zero_grad()
            F.cross_entropy(20 * inputs @ weight.T, targets).backward()
            optimizer.step()
        self.weight = weight.detach()
        if self.joint or self.replay:
            rows = [self.rng.permutation(np.flatnonzero(target == c)) for c in target.unique()]
            keep = np.concatenate([r if self.joint else r[: self.replay] for r in rows])
            self.kept.append((x[keep], target[keep]))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Names."""
        return np.array(self.names)[(torch.as_tensor(X).float() @ self.weight.T).argmax(-1).numpy()]


class ClassMeans:
    """The nearest class mean: one vector a class, no picture."""

    def __init__(self) -> None:
        self.means: dict[str, np.ndarray] = {}

    def partial_fit(self, X: Any, y: Any, classes: Sequence[str]) -> ClassMeans:
        """Average the unit features of each new class."""
        self.means |= {name: X[y == name].mean(axis=0) for name in classes}
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Names."""
        rows = np.stack([mean / np.linalg.norm(mean) for mean in self.means.values()])
        return np.array(list(self.means))[(X @ rows.T).argmax(axis=1)]


@lru_cache(maxsize=1)
def _emoji() -> tuple[np.ndarray, np.ndarray]:
    """Features and names of the 60 emoji with most drawings, of those that `small` was not trained on."""
    from binderclip.data import load_data
    from binderclip.models import load

    data = load_data("icons")
    held = np.isin(data.attributes["split"], ["val", "test"]) & np.array(
        [emoji is not None for emoji in data.column("emoji")]
    )
    held &= np.array([not mono for mono in data.attributes["mono"]])
    drawn = data.subset(held)
    names = [str(name).lower() for name in drawn.attributes["name"]]
    counts = Counter(names)
    most = sorted(counts, key=lambda name: (-counts[name], name))[:60]
    chosen = [i for i, name in enumerate(names) if name in most]
    features = dataset_features(load("small"), drawn.subset(chosen)).double().numpy()
    return features, np.array([names[i] for i in chosen])


def _features(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name.startswith("60 emoji"):
        return _emoji()
    data = few_shot_set("Fashion-MNIST")
    return data.features, data.labels


def _tasks(x: np.ndarray, y: np.ndarray, increment: int, seed: int) -> list[Task]:
    """Half of the pictures of each class to learn from, the rest to test on, in a random order of classes."""
    rng = np.random.default_rng([seed, 3])
    train = np.zeros(len(y), bool)
    for name in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == name))
        train[rows[: len(rows) // 2]] = True
    order = class_incremental_tasks(np.unique(y).tolist(), increment, seed=seed)
    return [
        Task(x[mine & ~train], y[mine & ~train], x[mine & train], y[mine & train], own)
        for own in order
        for mine in [np.isin(y, own)]
    ]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    from binderclip.models import load

    clip = load("small")
    rows = []
    for name, increment in SETS.items():
        x, y = _features(name)
        tasks = _tasks(x, y, increment, seed)
        bank = clip.text_bank(np.unique(y).tolist(), PROMPT)
        learners = (
            ContinualZeroShot(bank),
            LinearLearner(seed=seed),
            LinearLearner(replay=5, seed=seed),
            ClassMeans(),
            LinearLearner(joint=True, seed=seed),
        )
        for method, learner in zip(LEARNERS, learners, strict=True):
            rows += _figures(run_stream(learner, tasks), method, name)
        rows.append(Row("drift of old tasks among their own names", "zero-shot", _drift(bank, tasks), name))
        for prompt, template in PROMPTS.items():
            texts = clip.text_bank(np.unique(y).tolist(), template)
            value = run_stream(ContinualZeroShot(texts), tasks).average
            rows.append(Row("average accuracy by prompt", prompt, value, name))
    return rows


def _figures(metrics: ContinualMetrics, method: str, name: str) -> list[Row]:
    rows = [
        Row(AVERAGE, method, metrics.average, name),
        Row("last accuracy", method, metrics.last, name),
        Row("forgetting", method, metrics.forgetting, name),
        Row("backward transfer", method, metrics.backward_transfer, name),
    ]
    return rows + [
        Row(f"accuracy, {name}", method, float(a), f"task {t + 1}") for t, a in enumerate(metrics.accuracies)
    ]


def _drift(bank: Any, tasks: list[Task]) -> float:
    """Largest change, over time, of the accuracy on the first task when its pictures choose among its own names."""
    first, values = tasks[0], []
    learner = ContinualZeroShot(bank)
    for task in tasks:
        learner.partial_fit(classes=task.names)
        own = np.isin(learner.classes_, first.names)
        answers = learner.classes_[own][learner.predict_logits(first.X_test)[:, own].argmax(axis=1)]
        values.append(float((answers == first.y_test).mean()))
    return max(values) - min(values)


def _names_alone(table: Table) -> tuple[bool, str]:
    drift = max(float(table.values("drift of old tasks among their own names", "zero-shot", s).max()) for s in SETS)
    return drift == 0, f"largest drift {drift:g}"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy over all classes seen, after each task, and the prompts."""
    axes = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 0.9))
    for ax, name in zip(axes, SETS, strict=False):
        metric = f"accuracy, {name}"
        settings = table.names("setting", metric)
        lines(ax, table, metric, settings, [float(t + 1) for t in range(len(settings))], list(LEARNERS))
        ax.set(title=name, xlabel="tasks seen", ylabel="accuracy on all classes seen", ylim=(0, 1.02))
    axes[0].legend(loc="lower left", fontsize=8)
    place = np.arange(len(PROMPTS))
    for number, name in enumerate(SETS):
        values = [table.mean("average accuracy by prompt", prompt, name) for prompt in PROMPTS]
        axes[2].barh(place + 0.36 * number - 0.18, values, 0.34, label=name.split(" in ")[0], color=f"C{number + 5}")
    axes[2].set_yticks(place, list(PROMPTS))
    axes[2].invert_yaxis()
    axes[2].set(title="Zero-shot by prompt", xlabel="average accuracy", xlim=(0, 1))
    axes[2].legend(fontsize=8, loc="center right")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 30), null=None, registered="406b6f8fb0e4")
