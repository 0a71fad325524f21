"""Cross-validation of one candidate inside its shots, kept on disk cell by cell."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.base import clone

from binderclip.adapt.heads.tuned import OutOfTime, stop_training_at
from binderclip.adapt.selection.splits import folds_of
from binderclip.data.storage import write_place


@dataclass(frozen=True)
class Draw:
    """The shots of one seed.

    Attributes:
        rows: (S,) pictures, as rows of the encoded set.
        targets: (S,) class indices.
        groups: (S,) look-alikes share a number.
        fold: (S,) as `folds_of` gives them.
    """

    seed: int
    rows: np.ndarray
    targets: np.ndarray
    groups: np.ndarray
    fold: np.ndarray

    @property
    def held(self) -> np.ndarray:
        """Positions that are held out in some fold."""
        return np.flatnonzero(self.fold >= 0)


@dataclass(frozen=True)
class CrossValidation:
    """What cross-validation of one candidate on one draw gave.

    Attributes:
        logits: (S, C) of every picture by the head that had not seen it; NaN rows where it was never held out.
        seconds: processor time of one fit, tuning included, mean over folds.
        parameters: trained numbers, 0 for closed forms.
    """

    logits: np.ndarray
    seconds: float
    parameters: int


class OverBudget(Exception):
    """The candidate would take longer than the time that is left."""

    def __init__(self, needed: float | None) -> None:
        used_up = "the budget was used up before its turn"
        super().__init__(used_up if needed is None else f"would need {needed:.0f} s or more")
        self.needed = needed


def tuned_fit(head: Any, X: Any, y: np.ndarray, groups: np.ndarray, seed: int) -> Any:
    """Fit a head on all pictures, its own grid searched inside them.

    A head with a grid (a setting `alpha` beside its values `alphas`) is fitted on one half, tuned on the other, and
    fitted again on everything with what was found. With one picture a class there is nothing to tune on.
    """
    settings = head.get_params(deep=False)
    tuned = [name for name in settings if f"{name}s" in settings]
    if not tuned:
        return clone(head).fit(X, y)
    half = folds_of(np.unique(y, return_inverse=True)[1].reshape(-1), groups, 2, seed)
    held = half == 1
    if not held.any():
        return clone(head).fit(X, y)
    probe = clone(head).fit(X[~held], y[~held], X[held], y[held])
    chosen = {name: getattr(probe, f"{name}_") for name in tuned if hasattr(probe, f"{name}_")}
    return clone(head).set_params(**chosen).fit(X, y)


def trained_parameters(head: Any) -> int:
    """Numbers that fitting set by gradient descent or a solver; 0 where nothing is trained."""
    if hasattr(head, "n_trainable_"):
        return int(head.n_trainable_)
    if hasattr(head, "n_iter_") and hasattr(head, "coef_"):
        return int(head.coef_.size + head.intercept_.size)
    return 0


def cross_validate(
    build: Callable[[int], Any],
    X: Any,
    names: np.ndarray,
    draw: Draw,
    allowed: Callable[[float], bool],
    *,
    tune: bool = True,
    first_limit: float | None = None,
) -> CrossValidation:
    """Logits of every held-out picture of a draw.

    Args:
        build: seed -> unfitted head.
        X: of all encoded pictures, an array or tensor.
        names: class names by index.
        draw: the shots.
        allowed: asked after the first fold with the seconds that the rest of this draw would take.
        tune: search each head's own grid inside its training part.
        first_limit: seconds after which training in the first fold is broken off; None: never.

    Raises:
        OverBudget: `allowed` said no.
    """
    x, y = X[draw.rows], names[draw.targets]
    logits = np.full((len(y), len(names)), np.nan)
    folds = [f for f in np.unique(draw.fold) if f >= 0]
    seconds, parameters = 0.0, 0
    start = time.monotonic()
    for number, fold in enumerate(folds):
        held = draw.fold == fold
        before = time.process_time()
        limit = start + first_limit if number == 0 and first_limit is not None else math.inf
        with stop_training_at(limit):
            try:
                head = build(draw.seed)
                if tune:
                    head = tuned_fit(head, x[~held], y[~held], draw.groups[~held], draw.seed)
                else:
                    head = head.fit(x[~held], y[~held])
            except OutOfTime as late:
                raise OverBudget((time.monotonic() - start) * len(folds)) from late
        seconds += time.process_time() - before
        parameters = trained_parameters(head)
        place = [list(head.classes_).index(name) for name in names]
        logits[held] = head.predict_logits(x[held])[:, place]
        rest = (time.monotonic() - start) * (len(folds) - 1)
        if number == 0 and not allowed(rest):
            raise OverBudget(rest)
    return CrossValidation(logits, seconds / max(1, len(folds)), parameters)


class CrossValidationStore:
    """Finished cells in a folder, so that a killed run goes on where it was; without a folder nothing is kept.

    Args:
        folder: where; made on the first write.
        about: everything that decides a cell's value besides its candidate and seed.
    """

    def __init__(self, folder: Path | None, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about

    def _path(self, name: str, seed: int, settings: str) -> Path | None:
        if self.folder is None:
            return None
        text = json.dumps([self.about, name, seed, settings], sort_keys=True)
        return self.folder / f"{name}-{seed}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.safetensors"

    def get(self, name: str, seed: int, settings: str) -> CrossValidation | None:
        """The stored cell, or None where there is none or it is damaged."""
        path = self._path(name, seed, settings)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata()
                return CrossValidation(
                    file.get_tensor("logits").numpy(), float(about["seconds"]), int(about["parameters"])
                )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None

    def put(self, name: str, seed: int, settings: str, cell: CrossValidation) -> None:
        """Store a cell, whole or not at all."""
        path = self._path(name, seed, settings)
        if path is None:
            return
        about = {"seconds": repr(cell.seconds), "parameters": str(cell.parameters)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_place(path, save({"logits": torch.from_numpy(cell.logits)}, metadata=about))


def head_settings(head: Any) -> str:
    """The settings of an unfitted head in words, for the key of a cell."""
    plain = {
        name: value
        for name, value in head.get_params(deep=False).items()
        if isinstance(value, (bool, int, float, str, tuple, list, type(None)))
    }
    return f"{type(head).__name__} {json.dumps(plain, sort_keys=True, default=str)}"
