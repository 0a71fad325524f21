"""Accumulators add up, are saved as tensors, and give one number however many processes saw the pictures."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchmetrics import JaccardIndex, MetricCollection

from binderclip.errors import MissingDependency, UsageError
from binderclip.segment.metrics import BoundaryF, CalibrationBins, IoU, SortedAP, as_torchmetric
from binderclip.segment.metrics.torchmetric import _kind

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from accumulated import KINDS, PICTURES, filled, flat, picture  # noqa: E402
from accumulator_worker import work  # noqa: E402

SEEN = range(PICTURES)


def same(result: object, other: object) -> bool:
    return flat(result) == pytest.approx(flat(other), nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_one_pass_and_tensors_carry_everything(kind: str) -> None:
    whole = filled(kind, SEEN)
    first, second, nothing = filled(kind, SEEN[:1]), filled(kind, SEEN[1:]), KINDS[kind]()
    alone = flat(first.compute())
    assert same((nothing + first + second + nothing).compute(), whole.compute())
    assert flat(first.compute()) == pytest.approx(alone, nan_ok=True)
    first.merge(second)
    assert same(first.compute(), whole.compute())
    state = whole.state_dict()
    assert all(value.ndim == 1 for name, value in state.items() if name in whole.rows)
    nothing.load_state_dict({name: value.clone() for name, value in state.items()})
    assert same(nothing.compute(), whole.compute())
    nothing.reset()
    with pytest.raises(UsageError, match="to score"):
        nothing.compute()
    assert same(whole.gathered().compute(), whole.compute())


def test_what_does_not_add_up_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot merge IoU and BoundaryF"):
        IoU(3).merge(BoundaryF(3))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot merge CalibrationBins of bins=5 and 6, ignore=-1 and 7"):
        CalibrationBins(3, bins=5).merge(CalibrationBins(3, bins=6, ignore=7))
    assert repr(SortedAP(as_published=True)) == "SortedAP(image_average=False, as_published=True)"


@pytest.mark.parametrize("kind", KINDS)
def test_torchmetrics_gives_the_numbers_of_the_accumulator(kind: str) -> None:
    metric = as_torchmetric(KINDS[kind]())
    for number in SEEN:
        metric.update(*picture(kind, number))
    want = filled(kind, SEEN).compute()
    found = metric.compute()
    if isinstance(want, float):
        assert float(found) == pytest.approx(want)
        return
    assert found
    for name, value in found.items():
        assert float(value) == pytest.approx(getattr(want, name), nan_ok=True)
    name = next(iter(found))
    one = as_torchmetric(KINDS[kind](), scores=name)
    one.update(*picture(kind, 0))
    assert float(one.compute()) == pytest.approx(getattr(filled(kind, [0]).compute(), name), nan_ok=True)


def test_a_collection_updates_resets_clones_and_is_pickled() -> None:
    metrics = MetricCollection(
        {
            "jaccard": JaccardIndex(task="multiclass", num_classes=4),
            "ours": as_torchmetric(IoU(4), scores="miou"),
            "boundary": as_torchmetric(BoundaryF(4, tolerance=1), scores=["mean"]),
        }
    )
    step = metrics(*picture("iou", 0))
    assert float(step["ours"]) == pytest.approx(float(step["jaccard"]), abs=1e-6)
    metrics.update(*picture("iou", 1))
    for each in (metrics, metrics.clone(), copy.deepcopy(metrics), pickle.loads(pickle.dumps(metrics))):
        found = each.compute()
        assert float(found["ours"]) == pytest.approx(float(found["jaccard"]), abs=1e-6)
        assert float(found["ours"]) == pytest.approx(filled("iou", [0, 1]).compute().miou)
        assert float(found["mean"]) == pytest.approx(filled("boundary f", [0, 1]).compute().mean)
    metrics.reset()
    metrics.update(*picture("iou", 2))
    assert float(metrics.compute()["ours"]) == pytest.approx(filled("iou", [2]).compute().miou)


def test_metrics_that_begin_alike_are_not_taken_for_one() -> None:
    # Both see the same pair at first; only later do pairs come that share nothing.
    names = ("ours", "published")
    metrics = MetricCollection({name: as_torchmetric(SortedAP(as_published=name == names[1])) for name in names})
    metrics.update(torch.tensor([[1, 1, 0]]), torch.tensor([[1, 1, 1]]))
    true, ours = torch.tensor([[1] * 10 + [2] * 10]), torch.tensor([[2] + [1] * 10 + [0] * 9])
    metrics.update(ours, true)
    found = metrics.compute()
    assert float(found["ours"]) != float(found["published"])
    for name in names:
        alone = SortedAP(as_published=name == names[1])
        alone.update(torch.tensor([[1, 1, 0]]), torch.tensor([[1, 1, 1]]))
        alone.update(ours, true)
        assert float(found[name]) == pytest.approx(alone.compute())


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"such as IoU\(21\), not int"):
        as_torchmetric(3)  # type: ignore[arg-type]
    metric = as_torchmetric(IoU(4), scores=["miou", "iou"])
    metric.update(*picture("iou", 0))
    with pytest.raises(UsageError, match="IoUScore has no iou; it has miou, accuracy, class_accuracy, pixels"):
        metric.compute()
    _kind.cache_clear()
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingDependency, match="pip install torchmetrics"):
        as_torchmetric(IoU(4))
    _kind.cache_clear()


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "other.json"
    command = [sys.executable, str(HERE / "accumulator_worker.py"), str(store), str(out)]
    other = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        ours = work(0, store)
        _, said = other.communicate(timeout=120)
    finally:
        other.kill()
    assert other.returncode == 0, said[-3000:]
    for found in (ours, json.loads(out.read_text())):
        assert "IoU(classes=2, ignore=-1); IoU(classes=3, ignore=-1)" in found.pop("refused")
        assert len(found) == 2 * len(KINDS)
        for case, values in found.items():
            want = filled(case.split(", ", 1)[1], SEEN).compute()
            assert values["gathered"] == pytest.approx(flat(want), nan_ok=True), case
            synced = values["torchmetrics"]
            numbers = [want] if isinstance(want, float) else [getattr(want, name) for name in synced]
            assert list(synced.values()) == pytest.approx(numbers, nan_ok=True), case
