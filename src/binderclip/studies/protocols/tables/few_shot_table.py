"""The few-shot table that studies share: heads x shots x sets, each cell measured once in a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from sklearn.utils.validation import has_fit_parameter

from binderclip.adapt import (
    APE,
    APETuned,
    CLIPAdapter,
    GaussianHead,
    LinearProbe,
    ProLIP,
    TaskResidual,
    TipAdapter,
    TipAdapterF,
    ZeroShotClassifier,
    affine_map,
    draw_shots,
)
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.data.few_shot_sets import FewShotSet, few_shot_set

SHOTS = (1, 2, 4, 8, 16)
SETS = ("OpenMoji", "clip art", "Fashion-MNIST", "digits")
GUESSING = "Guessing: 0.11 (OpenMoji), 0.14 (clip art), 0.10 (Fashion-MNIST and digits)."

# One grid for every cache, wide enough that none is cut short.
CACHE: dict[str, Any] = {"alphas": tuple(np.geomspace(0.1, 300.0, 15)), "betas": tuple(np.geomspace(0.1, 100.0, 15))}
GAMMAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class FewShotCell:
    """Test accuracy, processor seconds of the fit with its tuning, and trained parameters (0 where none is trained)."""

    accuracy: float
    seconds: float
    trained: int


Maker = Callable[[FewShotSet], Any]


@cache
def projection_of_small() -> Any:
    """P0 and bias of the bundled `small`."""
    from binderclip.models import load

    return affine_map(load("small").image_tower)


HEADS: dict[str, Maker] = {
    "zero-shot": lambda data: ZeroShotClassifier(data.bank),
    "linear probe": lambda data: LinearProbe(),
    "Tip-Adapter": lambda data: TipAdapter(data.bank, **CACHE),
    "Tip-Adapter-F": lambda data: TipAdapterF(data.bank, **CACHE),
    "CLIP-Adapter": lambda data: CLIPAdapter(data.bank),
    "Task residual": lambda data: TaskResidual(data.bank),
    "GDA": lambda data: GaussianHead(data.bank),
    "APE": lambda data: APE(data.bank, **CACHE, gammas=GAMMAS),
    "APE-T": lambda data: APETuned(data.bank, **CACHE),
    "ProLIP": lambda data: ProLIP(data.bank, projection=projection_of_small(), lr=1e-3),
}
"""Heads by the name a table shows; a study may add its own."""


_measured: dict[tuple[str, str, int, int, bool], FewShotCell] = {}


def cell(
    name: str, head: str, shots: int, seed: int, *, held: bool = True, makers: Mapping[str, Maker] = HEADS
) -> FewShotCell:
    """One head on one draw; measured at the first call.

    Args:
        name: a set of `few_shot_set`.
        head: a name in `makers`.
        shots: examples a class.
        seed: of the split into pool and test, and of the draw.
        held: give as many examples for validation, where the head takes them.
        makers: what makes each head; one name must mean one head in all studies.
    """
    key = (name, head, shots, seed, held)
    if key not in _measured:
        with one_thread():
            _measured[key] = _measure(few_shot_set(name), makers[head], shots, seed, held)
    return _measured[key]


def _measure(data: FewShotSet, maker: Maker, shots: int, seed: int, held: bool) -> FewShotCell:
    from time import process_time

    model = maker(data)
    x = data.features if model.input_level == "features" else before_projection(data.name)
    y = data.labels
    pool, test = data.split(seed)
    train, rest = draw_shots(y[pool], shots, seed)
    extra = (x[pool][rest], y[pool][rest]) if held and has_fit_parameter(model, "X_val") else ()
    start = process_time()
    model.fit(x[pool][train], y[pool][train], *extra)
    seconds = process_time() - start
    return FewShotCell(float(model.score(x[test], y[test])), seconds, getattr(model, "n_trainable_", 0))


@cache
def before_projection(name: str) -> np.ndarray:
    """Features of a set before the projection of `small`, (N, D)."""
    from binderclip.models import load
    from binderclip.studies.harness.features import dataset_pre_projection

    data = few_shot_set(name)
    return dataset_pre_projection(load("small"), data.data.subset(data.indices)).numpy()


def accuracy_rows(
    heads: Sequence[str], seed: int, *, sets: Sequence[str] = SETS, shots: Sequence[int] = SHOTS, **options: Any
) -> list[Row]:
    """Rows `accuracy` of these heads, the setting being `setting(set, shots)`."""
    return [
        Row("accuracy", head, cell(name, head, count, seed, **options).accuracy, setting(name, count))
        for name in sets
        for count in shots
        for head in heads
    ]


def setting(name: str, shots: int) -> str:
    """The setting of a row, in words."""
    return f"{name}, {shots} shot{'s' if shots > 1 else ''}"


def mean_accuracy(table: Table, head: str, shots: int, sets: Sequence[str] = SETS) -> float:
    """Accuracy of a head at so many shots, over the sets and seeds."""
    return float(np.mean([table.mean("accuracy", head, setting(name, shots)) for name in sets]))
