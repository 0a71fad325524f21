"""Choosing a multi-label head on small scenes, from a CSV with several labels a picture."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.adapt import load_head, multilabel_average_precision
from binderclip.adapt.selection import label_sets, select_labels
from binderclip.adapt.selection.multi_label import _draw
from binderclip.data import load_data, scenes
from binderclip.errors import DataError, UsageError
from binderclip.models import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("several")
    made = scenes(0, 48, 64, vocabulary=["cat", "house", "moon"], objects=(1, 2))
    with (place / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "labels"])
        for i in range(48):
            Image.fromarray((made.images[i].permute(1, 2, 0).numpy() * 255).astype("uint8")).save(place / f"{i}.png")
            table.writerow([f"{i}.png", ";".join(sorted(set(made.names[i])))])
    return place


def test_the_whole_way(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDERCLIP_CACHE", str(tmp_path / "cache"))
    data, model = load_data(str(folder)), load("small")
    sets = label_sets(data)
    assert sets is not None
    assert {label for labels in sets for label in labels} == {"cat", "house", "moon"}
    found = select_labels(model, data, shots=8, seeds=2)
    assert {s.name for s in found.scores} == {"linear-probe", "gda", "nearest-example", "zero-shot"}
    value, f1, count = found.test
    assert (0 < f1 <= 1, count) == (True, 24)
    # The saved head, and the figure of the test pictures computed from scratch.
    head = load_head(found.save(tmp_path / "head"))
    test = [row for row in range(48) if row not in _pool_rows(found, data)]
    assert head.classes_.tolist() == ["cat", "house", "moon"]
    x = model.encode_image([data[row].image for row in test]).double().numpy()
    truth = np.array([[label in sets[row] for label in found.labels] for row in test])
    assert multilabel_average_precision(truth, head.decision_function(x)) == pytest.approx(value, abs=1e-3)
    assert found.figures()["winner"] == found.scores[0].name
    with pytest.raises(UsageError, match="method 'ape' cannot give several labels"):
        select_labels(model, data, methods=["ape"])
    with pytest.raises(UsageError, match="shots must be at least 2, not 1"):
        select_labels(model, data, shots=1)
    with pytest.raises(DataError, match="no column `labels`"):
        select_labels(model, load_data("photographs"))


def _pool_rows(found: object, data: object) -> set[int]:
    from binderclip.adapt.selection.multi_label import _parts

    labels, sets = found.labels, label_sets(data)  # type: ignore[attr-defined, arg-type]
    truth = np.array([[label in mine for label in labels] for mine in sets], dtype=int)
    return set(_parts(truth, np.arange(48), data, found.encoded, 0)[0].tolist())  # type: ignore[attr-defined, arg-type]


def test_every_label_is_drawn_until_it_has_its_shots() -> None:
    truth = np.random.default_rng(0).binomial(1, 0.3, (200, 6))
    truth[:, 5] = 0
    truth[:3, 5] = 1
    rows = _draw(truth, 10, 0)
    counts = truth[rows].sum(axis=0)
    assert (counts[:5] >= 10).all()
    assert counts[5] == 3
    assert len(rows) < 80
