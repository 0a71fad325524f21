"""`PredictionTable`: kept as Parquet, looked at by group and in other label spaces."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from binderclip.data import ImageTextDataset
from binderclip.errors import DataError, UsageError
from binderclip.evaluate import PredictionTable, tabulate
from binderclip.evaluate.probes import group_rows


def small(**changed: object) -> PredictionTable:
    settings: dict[str, object] = {
        "keys": ("a", "b", "c", "d"),
        "target": np.array([0, 1, 2, -1]),
        "scores": np.array([[3.0, 1, 0], [2, 1, 0], [0, math.nan, 1], [0, 0, 5]]),
        "classes": ("cat", "dog", "ape"),
        "attributes": {"place": ["in", "out", None, "in"], "size": [1.5, 2.0, math.nan, 1.5], "old": [True] * 4},
        "activation": "softmax", "model": "m", "source": "s",
    } | changed  # fmt: skip
    return PredictionTable(**settings)  # type: ignore[arg-type]


def test_rows_without_a_score_or_a_target_are_neither_right_nor_guessed() -> None:
    table = small()
    assert table.predicted.tolist() == [0, 0, -1, 2]
    assert table.correct.tolist() == [True, False, False, False]
    assert table.known.tolist() == [True, True, True, False]
    assert table.confidence()[0] == pytest.approx(math.exp(3) / (math.exp(3) + math.e + 1))
    assert table.confidence(2.0)[1] == pytest.approx(math.e / (math.e + math.exp(0.5) + 1))
    assert math.isnan(table.confidence()[2])
    assert small(activation="sigmoid").confidence()[0] == pytest.approx(1 / (1 + math.exp(-3)))


def test_groups_are_the_combinations_that_occur_and_missing_values_are_in_none() -> None:
    table = small()
    found = table.groups("place", "size")
    assert found.values == (("in", 1.5), ("out", 2.0))
    assert found.index.tolist() == [0, 1, -1, 0]
    assert found.counts.tolist() == [2, 1]
    assert found.labels == ["in / 1.5", "out / 2.0"]
    assert table.groups("label").index.tolist() == [1, 2, 0, -1]  # sorted: ape, cat, dog
    assert group_rows({"n": [10, 9, 2]}).values == ((2,), (9,), (10,))


def test_another_label_space_needs_no_new_prediction() -> None:
    table = small().with_classes(["ape", "dog"])
    assert table.target.tolist() == [-1, 1, 0, -1]
    assert table.predicted.tolist() == [1, 1, -1, 0]
    assert table.take([3, 1]).keys == ("d", "b")
    assert table.take(table.known).attributes["place"] == ("out", None)


@pytest.mark.parametrize("attributes", [{"place": ["in", "out", None, "in"], "n": [1, 2, None, 4]}, {}])
def test_parquet_keeps_everything(tmp_path: Path, attributes: dict[str, list[object]]) -> None:
    table = small(attributes=attributes)
    again = PredictionTable.load(table.save(tmp_path / "t.parquet"))
    assert (again.keys, again.classes, again.attributes) == (table.keys, table.classes, table.attributes)
    assert (again.activation, again.model, again.source) == ("softmax", "m", "s")
    np.testing.assert_array_equal(again.scores, table.scores)
    np.testing.assert_array_equal(again.target, table.target)
    assert "score:dog" in parquet.read_table(tmp_path / "t.parquet").column_names


def test_files_that_are_no_such_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        PredictionTable.load(tmp_path / "none.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match="not a table of predictions"):
        PredictionTable.load(tmp_path / "junk.parquet")
    parquet.write_table(pa.table({"key": ["a"], "target": [7]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="not a table of predictions"):
        PredictionTable.load(tmp_path / "other.parquet")
    table = pa.table({"key": ["a"], "target": [7], "score:x": [0.0]})
    about = {b"binderclip.predictions": b'{"activation": "softmax", "model": "", "source": ""}'}
    parquet.write_table(table.replace_schema_metadata(about), tmp_path / "wrong.parquet")
    with pytest.raises(DataError, match="targets run from 7 to 7, of 1 classes"):
        PredictionTable.load(tmp_path / "wrong.parquet")
    with pytest.raises(DataError, match="cannot write"):
        small().save(tmp_path / "nowhere" / "t.parquet")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"target": np.array([0, 1, 2])}, r"need scores \(4, 3\) and targets \(4,\), got \(4, 3\) and \(3,\)"),
        ({"target": np.array([0, 1, 3, -1])}, "targets run from -1 to 3, of 3 classes"),
        ({"keys": ("a", "b", "b", "d")}, "the key 'b' occurs more than once"),
        ({"classes": ("cat", "cat", "ape")}, "the class 'cat' occurs more than once"),
        ({"attributes": {"place": ["in"]}}, "one value a key, 4; got {'place': 1}"),
        ({"attributes": {"place": ["in", 1, None, 2]}}, "values of type int, str"),
        ({"attributes": {"place": [["in"], None, None, None]}}, "values of type list"),
        ({"activation": "relu"}, "activation must be one of softmax, sigmoid, got 'relu'"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        small(**changed)


def test_unknown_names_and_measurements_are_no_groups() -> None:
    with pytest.raises(UsageError, match="no attribute 'plac': there are place, size, old, label"):
        small().groups("plac")
    with pytest.raises(UsageError, match="no class 'cow': one of cat, dog, ape"):
        small().with_classes(["cow"])
    with pytest.raises(UsageError, match="x has 300 different values, more than 200 groups"):
        group_rows({"x": range(300)})
    with pytest.raises(UsageError, match="groups need columns of one length"):
        small().groups()


def test_any_predictor_makes_a_table_of_a_data_set() -> None:
    data = ImageTextDataset(
        [Image.new("RGB", (2, 2))] * 3, ["", "", ""], ["x", "y", "z"], labels=[1, 0, -1], classes=("cow", "cat"),
        attributes={"place": ["in", None, "out"], "words": [["a"], ["b"], ["c"]]}, source="made",
    )  # fmt: skip
    table = tabulate(torch.eye(3)[:, :2], data, ["cat", "dog"], model="mine")
    assert table.target.tolist() == [0, -1, -1]  # dog has no column
    assert table.attributes == {"place": ("in", None, "out")}
    assert (table.source, table.model) == ("made", "mine")
