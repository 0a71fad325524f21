"""The text side of a head: one row a class, in the order of the head's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.base import clone
from torch import Tensor

from binderclip.errors import UsageError

NO_OFFSET: Any = 0.0
"""Of a classifier that was saved before there were offsets: it compares by plain cosines."""


def prior_rows(
    prior: Any, classes: Sequence[Any] | None = None, *, rule: str = "mean-unit"
) -> tuple[list[Any], Float[Tensor, "C d"], float | None]:
    """Names, rows (float64) and scale of a text prior.

    Args:
        prior: a `TextBank`, a `ZeroShotClassifier` or any fitted classifier with `coef_` and `classes_`, a mapping
            from class to row, or an array (C, d) with `classes`.
        classes: names of the rows of an array.
        rule: how a `TextBank` reduces several sentences a class to one row.

    Returns:
        Names in the prior's order, rows, and the prior's own scale where it has one.

    Raises:
        UsageError: an array without `classes`, `classes` beside a prior that has names, or shapes that do not fit.
    """
    scale: float | None = None
    named = True
    if hasattr(prior, "bank") and not hasattr(prior, "coef_"):
        # scikit-learn's clone hands on a ZeroShotClassifier unfitted; it needs no data.
        prior = clone(prior).fit()
    if hasattr(prior, "prototypes") and hasattr(prior, "names"):
        names, rows = list(prior.names), prior.prototypes(rule)
        scale = None if getattr(prior, "scale", None) is None else float(prior.scale)
    elif hasattr(prior, "coef_") and hasattr(prior, "classes_"):
        names, rows = list(prior.classes_), torch.as_tensor(np.asarray(prior.coef_))
        scale = getattr(prior, "scale_", None)
    elif isinstance(prior, Mapping):
        names = list(prior)
        rows = F.normalize(torch.stack([torch.as_tensor(prior[name]).double() for name in names]), dim=-1)
    else:
        named, rows = False, F.normalize(_array(prior), dim=-1)
        if classes is None:
            raise UsageError(
                f"text_prior is a bare array {tuple(rows.shape)}: name its rows with classes=[...], or pass a TextBank"
            )
        names = list(classes)
    if named and classes is not None and list(classes) != names:
        raise UsageError("classes= is for a text_prior given as an array; this one has its own names")
    if rows.ndim != 2 or len(rows) != len(names):
        raise UsageError(f"text_prior has shape {tuple(rows.shape)} for {len(names)} classes: it must be (C, d)")
    if len(set(names)) != len(names):
        raise UsageError("text_prior names a class twice")
    bad = ~rows.isfinite().all(dim=1)
    if bool(bad.any()):
        raise UsageError(f"text_prior holds NaN or infinity for the class {names[int(bad.nonzero()[0])]!r}")
    return names, rows.detach().cpu().double(), scale


def offset_rows(prior: Any, classes: int, *, rule: str = "mean-unit") -> Float[Tensor, "C"]:
    """What a text prior's own similarity takes off the cosine with each of its rows; zeros where it has none.

    Args:
        prior: as of `prior_rows`.
        classes: how many rows it has.
        rule: as of `prior_rows`.
    """
    if hasattr(prior, "offsets") and hasattr(prior, "names"):
        return prior.offsets(rule).detach().cpu().double()
    return torch.as_tensor(getattr(prior, "offset_", NO_OFFSET), dtype=torch.float64).expand(classes)


def align(names: Sequence[Any], rows: Float[Tensor, "C d"], labels: Sequence[Any]) -> Float[Tensor, "C d"]:
    """Rows reordered to `labels`, matched by name.

    Raises:
        UsageError: a label without a row, or a row without a label.
    """
    place = {name: index for index, name in enumerate(names)}
    missing = [label for label in labels if label not in place]
    extra = [name for name in names if name not in set(labels)]
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"labels without a row in text_prior: {_short(missing)}")
        if extra:
            parts.append(f"classes of text_prior without an example: {_short(extra)}")
        hint = ""
        if missing and all(isinstance(label, (int, np.integer)) for label in missing) and isinstance(names[0], str):
            hint = "; y holds numbers and the prior names: pass np.array(names)[y]"
        raise UsageError("; ".join(parts) + hint)
    return rows[[place[label] for label in labels]]


def prior_or_means(
    prior: Float[Tensor, "C d"] | None,
    views: Float[Tensor, "N V d"],
    targets: Int[Tensor, "N"],
    classes: int,
    counts: Float[Tensor, "N"] | None = None,
) -> Float[Tensor, "C d"]:
    """The prior, or where there is none the unit class means of the examples, so that a head works without texts.

    Args:
        prior: rows in the order of the classes, or None.
        views: unit features of the examples.
        targets: their classes, each at least once.
        classes: how many.
        counts: how often each example counts; None: once.
    """
    if prior is not None:
        return prior
    rows = views.sum(dim=1)
    rows = rows if counts is None else rows * counts[:, None].to(rows)
    sums = torch.zeros(classes, views.shape[-1], dtype=views.dtype).index_add_(0, targets, rows)
    return F.normalize(sums, dim=-1)


def _array(prior: Any) -> Tensor:
    rows = torch.as_tensor(np.asarray(prior) if not isinstance(prior, Tensor) else prior)
    if rows.ndim != 2:
        raise UsageError(f"text_prior has shape {tuple(rows.shape)}: it must be (C, d)")
    return rows.double()


def _short(names: Sequence[Any], most: int = 5) -> str:
    shown = ", ".join(repr(name.item() if hasattr(name, "item") else name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
