"""Choosing a head end to end on a few digits: what is used for what, resuming, budgets, and bad folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier

from binderclip.adapt import GaussianHead, LinearProbe, TipAdapter, load_head
from binderclip.adapt.selection import candidates, encode_dataset, select_head
from binderclip.adapt.selection.crossval import CrossValidationStore, Draw, OverBudget, cross_validate, tuned_fit
from binderclip.adapt.selection.splits import folds_of
from binderclip.data import ImageTextDataset, load_data
from binderclip.documents import json_text
from binderclip.errors import DataError, UsageError
from binderclip.models import ImageTextModel, load

NAMES = np.array(["ant", "bee", "cat"])


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    return load("small")


@pytest.fixture(scope="module")
def digits() -> ImageTextDataset:
    whole = load_data("digits")
    rows = [row for c in (0, 1, 4) for row in np.flatnonzero(whole.labels == c)[:14]]
    few = whole.subset(np.array(rows))
    few.attributes = {}
    return few


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("BINDERCLIP_CACHE", str(tmp_path_factory.getbasetemp() / "selection-cache"))


def toy(noise: float = 0.4) -> tuple[np.ndarray, Draw]:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 8)
    x = np.eye(3, 6)[y] + noise * rng.normal(size=(24, 6))
    return x, Draw(0, np.arange(24), y, np.arange(24), folds_of(y, np.arange(24), 4, 0))


def test_out_of_fold_logits_are_those_of_heads_that_never_saw_the_picture() -> None:
    x, draw = toy()
    cell = cross_validate(lambda seed: LinearProbe(Cs=(1.0,)), x, NAMES, draw, lambda s: True)
    for fold in range(4):
        rest = draw.fold != fold
        by_hand = LinearProbe().fit(x[rest], NAMES[draw.targets[rest]]).decision_function(x[~rest])
        np.testing.assert_allclose(cell.logits[~rest], by_hand, atol=1e-3)
    assert cell.parameters == 3 * 6 + 3


def test_a_picture_cannot_vouch_for_itself() -> None:
    # Random labels: a nearest neighbour that saw the held-out pictures would be right every time.
    rng = np.random.default_rng(1)
    x, draw = toy()
    shuffled = Draw(0, draw.rows, rng.permutation(draw.targets), draw.groups, draw.fold)

    class Nearest(KNeighborsClassifier):
        def predict_logits(self, X: np.ndarray) -> np.ndarray:
            return self.predict_proba(X)

    cell = cross_validate(lambda seed: Nearest(1), x, NAMES, shuffled, lambda s: True)
    assert (cell.logits.argmax(axis=1) == shuffled.targets).mean() < 0.7


def test_tuning_happens_inside_and_the_last_fit_uses_everything() -> None:
    x, draw = toy()
    y = NAMES[draw.targets]
    prior = dict(zip(NAMES, np.eye(3, 6), strict=True))
    head = tuned_fit(GaussianHead(prior, alphas=(0.01, 3.0)), x, y, draw.groups, 0)
    assert head.alpha in (0.01, 3.0)
    again = clone(head).fit(x, y)
    np.testing.assert_array_equal(head.decision_function(x), again.decision_function(x))
    # One picture a class leaves nothing to tune on: the constructor's value stays.
    assert tuned_fit(TipAdapter(prior, alpha=0.7), x[::8], y[::8], draw.groups[::8], 0).alpha_ == 0.7


def test_a_budget_stops_a_candidate_after_its_first_fold() -> None:
    x, draw = toy()
    asked: list[float] = []
    with pytest.raises(OverBudget):
        cross_validate(lambda seed: LinearProbe(), x, NAMES, draw, lambda s: bool(asked.append(s)))
    assert len(asked) == 1


def test_cells_come_back_and_others_or_damaged_ones_do_not(tmp_path: Path) -> None:
    x, draw = toy()
    cell = cross_validate(lambda seed: GaussianHead(), x, NAMES, draw, lambda s: True)
    cells = CrossValidationStore(tmp_path, {"data": "a"})
    cells.put("gda", 0, "settings", cell)
    np.testing.assert_array_equal(cells.get("gda", 0, "settings").logits, cell.logits)
    assert CrossValidationStore(tmp_path, {"data": "b"}).get("gda", 0, "settings") is None
    assert cells.get("gda", 1, "settings") is None
    assert cells.get("gda", 0, "other") is None
    next(tmp_path.iterdir()).write_bytes(b"half a fi")
    assert cells.get("gda", 0, "settings") is None


def test_the_whole_way(model: ImageTextModel, digits: ImageTextDataset, tmp_path: Path) -> None:
    lines: list[str] = []
    options = {"shots": 6, "seeds": 2, "methods": ["gda", "linear-probe", "zero-shot"], "store": tmp_path / "cells"}
    found = select_head(model, digits, progress=lines.append, **options)
    assert {s.name for s in found.scores} == {"gda", "linear-probe", "zero-shot"}
    accuracies = [s.accuracy.value for s in found.scores]
    assert accuracies == sorted(accuracies, reverse=True)
    assert found.scores[0].name != "zero-shot"
    assert not set(found.parts.pool) & set(found.parts.test)
    # The test figure is that of the saved head on the test rows, computed here from scratch.
    head = load_head(found.save(tmp_path / "head"))
    x = encode_dataset(model, digits).features[found.parts.test].double().numpy()
    y = np.array(found.classes)[found.targets[found.parts.test]]
    assert found.test.accuracy.value == pytest.approx((head.predict(x) == y).mean())
    assert head.about_["temperature"] == found.temperature
    assert 0 < found.threshold < 1
    # Again: no cell is computed, and everything but the times is the same.
    lines.clear()
    again = select_head(model, digits, progress=lines.append, **options)
    assert not [line for line in lines if "draw" in line or "encoding" in line]
    first, second = [json_text({k: v for k, v in f.figures().items() if k != "seconds"}) for f in (found, again)]
    assert first == second


def test_a_tiny_budget_leaves_out_and_says_so(model: ImageTextModel, digits: ImageTextDataset) -> None:
    with pytest.raises(UsageError, match="no method could be run: zero-shot: the budget was used up before its turn"):
        select_head(model, digits, shots=6, seeds=1, methods=["gda", "zero-shot"], budget=1e-6)


def test_odd_folders_behave(model: ImageTextModel, tmp_path: Path) -> None:
    whole = load_data("digits")
    for name, label, count in (("zero", 0, 8), ("one", 1, 8), ("four", 4, 1)):
        (tmp_path / name).mkdir()
        for row in np.flatnonzero(whole.labels == label)[:count]:
            whole[int(row)].image.save(tmp_path / name / f"{row}.png")
    (tmp_path / "one" / "broken.png").write_bytes(b"no picture")
    found = select_head(model, load_data(str(tmp_path)), shots=4, seeds=1, methods=["gda", "zero-shot"])
    assert any("one picture only, so trained on and never tested: four" in line for line in found.notes)
    assert [key for key, _ in found.encoded.skipped] == ["one/broken.png"]
    assert "four" in found.head.classes_
    (tmp_path / "Zero").mkdir()
    whole[0].image.save(tmp_path / "Zero" / "again.png")
    with pytest.raises(UsageError, match="'Zero' and 'zero' read the same"):
        select_head(model, load_data(str(tmp_path)), shots=4, seeds=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shots": 0}, "shots must be at least 1, not 0"),
        ({"folds": 1}, "folds must be at least 2, not 1"),
        ({"shots": 1e400}, "shots must be a whole number, not inf"),
        ({"seeds": float("nan")}, "seeds must be a whole number, not nan"),
        ({"limit": 1e400}, "limit must be a whole number, not inf"),
        ({"limit": 0}, "limit must be at least 1, not 0"),
        ({"budget": float("nan")}, "budget must be above 0 seconds"),
        ({"budget": 0.0}, "budget must be above 0 seconds"),
        ({"keep": 1.0}, "keep must lie between 0 and 1"),
        ({"shots": 1}, "no validation to choose a method by"),
        ({"methods": ["gdaa"]}, "did you mean 'gda'"),
        ({"methods": ["gda", "gda"]}, "more than once"),
    ],
)
def test_bad_settings_are_named(
    model: ImageTextModel, digits: ImageTextDataset, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        select_head(model, digits, **options)


def test_one_class_is_refused(model: ImageTextModel, digits: ImageTextDataset) -> None:
    with pytest.raises(DataError, match="at least two classes; there is only 'zero'"):
        select_head(model, digits.subset(digits.labels == 0))


def test_cheap_candidates_go_first_and_image_training_is_asked_for(model: ImageTextModel) -> None:
    class OnImages(GaussianHead):
        input_level = "images"

    catalogue = {"slow": OnImages, "gda": GaussianHead}
    assert [e.name for e in candidates("auto", model, None, catalogue)] == ["gda"]
    assert [e.name for e in candidates("all", model, None, catalogue)] == ["gda", "slow"]
