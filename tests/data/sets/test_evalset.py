from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from binderclip.data import EvalSet, few_shot_split, load_packs
from binderclip.errors import UsageError


def embeddings() -> EvalSet:
    return EvalSet(
        torch.arange(6.0)[:, None],
        labels=[0, 0, 1, 1, 2, 2],
        classes=("a", "b", "c"),
        attributes={"sex": ["f", "m", "f", "m", None, "f"], "age": [1, 2, 3, 4, 5, 6]},
    )


def test_views_keep_items_labels_and_attributes_together() -> None:
    whole = embeddings()
    women = whole.where(sex="f")
    assert [float(women[i]) for i in range(len(women))] == [0, 2, 5]
    assert women.labels.tolist() == [0, 1, 2]
    assert women.attributes["age"].tolist() == [1, 3, 6]
    assert women.where(age=lambda age: age > 1).labels.tolist() == [1, 2]
    assert len(whole.where(sex={"f", "m"}, age=(1, 2))) == 2
    assert whole.take([4]).column("sex").tolist() == [None]
    assert EvalSet(["x", "y"]).labels is None


def test_groups_split_a_view_without_loss() -> None:
    whole = embeddings()
    groups = dict(whole.groups("sex"))
    assert {key: len(view) for key, view in groups.items()} == {(None,): 1, ("f",): 3, ("m",): 2}
    both = list(whole.groups("sex", "age"))
    assert len(both) == 6
    assert sorted(int(view.indices[0]) for _, view in both) == list(range(6))


def test_several_labels_an_item() -> None:
    several = EvalSet([0, 1], labels=[{1, 2}, [3]])
    assert several.labels == [{1, 2}, {3}]


def test_a_data_set_brings_its_columns() -> None:
    packs = load_packs("noto-emoji", "val")
    flags = EvalSet(packs).where(group="Flags")
    assert flags.classes == packs.classes
    assert {flags.classes[label] for label in flags.labels} == {"Flags"}
    assert flags[0].key == flags.column("key")[0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="age has 1 values for 2"):
        EvalSet([0, 1], attributes={"age": [1]})
    with pytest.raises(UsageError, match="0 to 2, but there are 2"):
        EvalSet([0, 1], [0, 2])
    with pytest.raises(UsageError, match="no attribute 'colour'; there are sex, age"):
        embeddings().where(colour=1)
    with pytest.raises(UsageError, match="name of an attribute"):
        next(embeddings().groups())


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=60), st.integers(1, 4), st.integers(0, 9))
def test_a_few_shot_split_is_a_partition_with_equal_classes(y: list[int], shots: int, seed: int) -> None:
    labels = np.array(y)
    counts = np.bincount(labels[labels >= 0], minlength=5)
    if (counts[counts > 0] < shots).any():
        with pytest.raises(UsageError, match=f"fewer than {shots} shots"):
            few_shot_split(y, shots, seed)
        return
    support, query = few_shot_split(y, shots, seed)
    assert sorted([*support, *query]) == np.flatnonzero(labels >= 0).tolist()
    assert np.bincount(labels[support], minlength=5).tolist() == [shots if count else 0 for count in counts]
    assert set(few_shot_split(y, max(shots - 1, 1), seed)[0]) <= set(support)


def test_few_shot_draws_differ_by_seed_and_not_by_other_classes() -> None:
    y = np.repeat([0, 1, 2], 50)
    assert len({tuple(few_shot_split(y, 4, seed)[0]) for seed in range(8)}) == 8
    without = few_shot_split(y[y < 2], 4, 1)[0]
    assert set(without) == {i for i in few_shot_split(y, 4, 1)[0] if i < 100}
    counts = np.zeros(50)
    for seed in range(400):
        counts[few_shot_split(y, 5, seed)[0][:5]] += 1
    assert ((counts - 40) ** 2 / 40).sum() < 86  # chi-square, 49 degrees of freedom, p = 0.001
    with pytest.raises(UsageError, match="float64"):
        few_shot_split(np.zeros(3), 1)
    with pytest.raises(UsageError, match="at least 1"):
        few_shot_split([0], 0)
