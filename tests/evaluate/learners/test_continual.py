"""Continual metrics, tasks and the zero-shot learner of p167 (Continual-CLIP, arXiv 2210.03114)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.naive_bayes import GaussianNB

from binderclip.adapt import ContinualZeroShot, ZeroShotClassifier
from binderclip.data import class_incremental_tasks
from binderclip.errors import UsageError
from binderclip.evaluate import ContinualMetrics, Task, run_stream
from binderclip.models import TextBank

NAMES = [f"class {i}" for i in range(7)]


def world(seed: int = 0) -> tuple[TextBank, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(14, 8))
    bank = TextBank(
        NAMES, [f"t{i}" for i in range(14)], torch.from_numpy(text), torch.arange(14) // 2, torch.tensor(9.0)
    )
    y = np.repeat(NAMES, 10)
    x = bank.prototypes().numpy()[np.arange(70) // 10] + 0.5 * rng.normal(size=(70, 8))
    return bank, x, y


def flat(order: list[list[str]]) -> list[str]:
    return [name for own in order for name in own]


def tasks_of(order: list[list[str]], x: np.ndarray, y: np.ndarray) -> list[Task]:
    return [Task(x[np.isin(y, own)], y[np.isin(y, own)], classes=own) for own in order]


def test_tasks_take_the_first_classes_then_so_many_at_a_time() -> None:
    assert class_incremental_tasks(range(7), 2) == [[0, 1], [2, 3], [4, 5], [6]]
    assert class_incremental_tasks(range(7), 2, initial=3) == [[0, 1, 2], [3, 4], [5, 6]]
    mixed = class_incremental_tasks(NAMES, 3, seed=1)
    assert sorted(flat(mixed)) == NAMES
    assert mixed == class_incremental_tasks(NAMES, 3, seed=1) != class_incremental_tasks(NAMES, 3, seed=2)
    with pytest.raises(UsageError, match="twice"):
        class_incremental_tasks(["crane", "crane"], 1)
    with pytest.raises(UsageError, match=r"initial is 9; with 7 classes it is in 1\.\.7"):
        class_incremental_tasks(NAMES, 2, initial=9)


def test_figures_of_a_table_made_by_hand() -> None:
    # a = [[.5, -, -], [1, .75, -], [0, .5, 1]] with 2, 4 and 2 test samples.
    rows = [[(1, 2)], [(2, 2), (3, 4)], [(0, 2), (2, 4), (2, 2)]]
    metrics = ContinualMetrics()
    for t, row in enumerate(rows):
        truth = np.concatenate([["x"] * n for _, n in row])
        answer = np.concatenate([["x"] * k + ["y"] * (n - k) for k, n in row])
        metrics.update(t, truth, answer, np.repeat(range(t + 1), [n for _, n in row]))
    np.testing.assert_array_equal(metrics.table, [[0.5, np.nan, np.nan], [1, 0.75, np.nan], [0, 0.5, 1]])
    np.testing.assert_allclose(metrics.accuracies, [1 / 2, 5 / 6, 4 / 8])
    assert metrics.last == pytest.approx(0.5)
    assert metrics.average == pytest.approx((1 / 2 + 5 / 6 + 1 / 2) / 3)
    assert metrics.forgetting == pytest.approx(((1 - 0) + (0.75 - 0.5)) / 2)
    assert metrics.backward_transfer == pytest.approx(((0 - 0.5) + (0.5 - 0.75)) / 2)
    assert np.isnan(metrics.forward_transfer)
    metrics.before(1, 0.5, 0.25)
    metrics.before(2, 0.2, 0.2)
    assert metrics.forward_transfer == pytest.approx(0.125)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_end_is_plain_zero_shot_over_all_classes_in_any_order(seed: int) -> None:
    bank, x, y = world()
    order = class_incremental_tasks(NAMES, 2, seed=seed)
    learner = ContinualZeroShot(bank)
    metrics = run_stream(learner, tasks_of(order, x, y))
    assert list(learner.classes_) == flat(order)
    plain = ZeroShotClassifier(bank).fit()
    assert metrics.last == pytest.approx(plain.score(x, y))
    assert 0.3 < metrics.last < 1
    # The grown bank is bit-equal to one built at once.
    at_once = ZeroShotClassifier(bank.select(flat(order))).fit()
    np.testing.assert_array_equal(learner.coef_, at_once.coef_)
    by_function = ContinualZeroShot(bank.select)
    run_stream(by_function, tasks_of(order, x, y))
    np.testing.assert_array_equal(by_function.coef_, learner.coef_)


def test_forgetting_comes_from_new_names_alone() -> None:
    bank, x, y = world()
    order = class_incremental_tasks(NAMES, 2, seed=3)
    restricted: list[float] = []

    def among_its_own(_: int, learner: ContinualZeroShot) -> None:
        own = np.isin(learner.classes_, order[0])
        rows = np.isin(y, order[0])
        answers = learner.classes_[own][learner.predict_logits(x[rows])[:, own].argmax(1)]
        restricted.append(float((answers == y[rows]).mean()))

    metrics = run_stream(ContinualZeroShot(bank), tasks_of(order, x, y), after_task=among_its_own)
    assert len(set(restricted)) == 1
    assert restricted[0] == metrics.table[0, 0]
    assert metrics.forgetting >= -metrics.backward_transfer - 1e-12
    assert metrics.forgetting > 0
    assert np.all(np.diff(metrics.table[:, 0]) <= 0)


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_any_partial_fit_learner_runs_and_one_that_never_changes_forgets_nothing() -> None:
    class Constant:
        def partial_fit(self, X: object, y: object, classes: object = None) -> None: ...

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.array(["class 0"] * len(X))

    _, x, y = world()
    tasks = tasks_of(class_incremental_tasks(NAMES, 3), x, y)
    metrics = run_stream(Constant(), tasks)
    assert metrics.forgetting == metrics.backward_transfer == 0
    assert metrics.accuracies.tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 7])

    class Bayes(GaussianNB):
        def partial_fit(self, X: np.ndarray, y: np.ndarray, classes: object = None) -> Bayes:
            return super().partial_fit(X, y, NAMES)

    # Classes that have not come yet have a prior of 0.
    trained = [Task(t.X_test, t.y_test, t.X_test, t.y_test, t.classes) for t in tasks]
    assert run_stream(Bayes(), trained).last > 0.5


def test_labels_in_order_of_appearance_are_the_names() -> None:
    bank, x, _ = world()
    learner = ContinualZeroShot(bank).partial_fit(y=np.array(["class 3", "class 1", "class 3"]))
    assert list(learner.classes_) == ["class 3", "class 1"]
    assert list(learner.fit(classes=["class 5"]).classes_) == ["class 5"]
    assert set(learner.predict(x)) == {"class 5"}


def test_mistakes_are_named() -> None:
    bank, x, y = world()
    learner = ContinualZeroShot(bank).partial_fit(classes=["class 1"])
    with pytest.raises(UsageError, match="'class 1' is there already"):
        learner.partial_fit(classes=["class 1"])
    with pytest.raises(UsageError, match="no text for class 'zebra'"):
        learner.partial_fit(classes=["zebra"])
    with pytest.raises(UsageError, match="needs class names"):
        learner.partial_fit()
    with pytest.raises(UsageError, match="brings 'class 0' again"):
        run_stream(ContinualZeroShot(bank), tasks_of([["class 0"], ["class 0"]], x, y))
    with pytest.raises(UsageError, match="tasks is empty"):
        run_stream(ContinualZeroShot(bank), [])
    metrics = ContinualMetrics()
    with pytest.raises(UsageError, match="no task yet"):
        _ = metrics.last
    with pytest.raises(UsageError, match="tasks come in order"):
        metrics.update(1, ["a"], ["a"], [1])
    with pytest.raises(UsageError, match=r"must be \(N,\)"):
        metrics.update(0, ["a"], ["a", "b"], [0])
    with pytest.raises(UsageError, match=r"tests of tasks 0\.\.0 are needed"):
        metrics.update(0, ["a"], ["a"], [1])
