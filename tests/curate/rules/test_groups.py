"""Tail trimming (p095) and groups of texts, against counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from binderclip.curate import CurationPipeline, KeySelection, Membership, TailTrimming
from binderclip.errors import UsageError

from ..pools import ListTable

SIZES = {"cat": 40, "dog": 25, "axolotl": 2, "boat": 9, "okapi": 3}
KINDS = [kind for kind, size in SIZES.items() for _ in range(size)]
NAMES = [f"{kind} {i}" for i, kind in enumerate(KINDS)]


@pytest.mark.parametrize(("classes", "count"), [(0, 0), (2, 1), (2, 0), (3, 5), (9, 1)])
@pytest.mark.parametrize("shards", [1, 17])
def test_the_rarest_are_cut_and_the_others_left(classes: int, count: int, shards: int) -> None:
    rule = TailTrimming(group="kind", classes=classes, count=count)
    kept = CurationPipeline([rule]).run(ListTable({"kind": KINDS}, NAMES, shards)).selection
    rare = sorted(SIZES, key=lambda kind: SIZES[kind])[:classes]
    want = {kind: min(size, count) if kind in rare else size for kind, size in SIZES.items()}
    left = Counter(kind for kind, name in zip(KINDS, NAMES, strict=True) if name in kept)
    assert {kind: left[kind] for kind in SIZES} == want


def test_numbers_and_others() -> None:
    table = ListTable({"label": np.array([0, 0, 0, 1, 2, 2])}, list("abcdef"))
    assert len(CurationPipeline([TailTrimming(group="label", classes=1, count=0)]).run(table).selection) == 5
    others = Membership(member="label", values=[0], inverse=True)
    assert CurationPipeline([others]).run(table).selection == KeySelection(["d", "e", "f"])
    for rule in (Membership(member="texts", values=["a"]), TailTrimming(group="texts", classes=1, count=0)):
        with pytest.raises(UsageError, match="'texts' has several values a sample"):
            CurationPipeline([rule]).run(table)
    for wrong in ([], "a", [["a"]], [None]):
        with pytest.raises(UsageError, match="a list of texts or numbers"):
            Membership(member="label", values=wrong)
    with pytest.raises(UsageError, match="classes is -1"):
        TailTrimming(group="label", classes=-1, count=0)
    with pytest.raises(UsageError, match="keeps 0 samples or more"):
        TailTrimming(group="label", classes=1, count=-1)


def test_a_float32_value_is_one_of_the_values_that_name_it() -> None:
    table = ListTable({"scale": np.array([0.7, 0.5, 0.3], np.float32)}, list("abc"))
    assert CurationPipeline([Membership(member="scale", values=[0.7, 0.3])]).run(table).selection == KeySelection(
        ["a", "c"]
    )
