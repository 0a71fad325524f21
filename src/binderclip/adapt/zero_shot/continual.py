"""A zero-shot classifier whose classes arrive over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.adapt.heads.base import FeatureClassifier, Terms
from binderclip.adapt.heads.prior import NO_OFFSET, offset_rows, prior_rows
from binderclip.adapt.heads.settings import check_settings
from binderclip.errors import UsageError


@dataclass(kw_only=True, eq=False, repr=False)
class ContinualZeroShot(FeatureClassifier):
    """Learns classes by their names: nothing is trained or stored, so nothing is forgotten but by confusion.

    The first baseline of any continual-learning comparison. Rows of classes that are there already never change; old
    pictures are lost only to new names that lie nearer. Paper: CLIP model is an Efficient Continual Learner
    (arXiv 2210.03114).

    Args:
        texts: a `TextBank` that holds every class that may arrive, or a function from a list of names to the bank of
            these, such as `partial(model.text_bank, templates="a bad photo of a {}.")`.
        scale: factor on the cosines; None: the bank's own, else 100.
        prototype: how several sentences of a class become one row.

    Attributes:
        classes_: names in order of arrival. coef_: their rows (C, d), grown by `partial_fit`.
            offset_: (C,) what is taken off the cosine with each (`TextBank.offsets`).

    Raises:
        UsageError: a name that arrives twice or has no text, or a task without a name.
    """

    texts: Any | Callable[[list[str]], Any] = field(kw_only=False)
    scale: float | None = None
    prototype: str = "mean-unit"

    coef_: np.ndarray = field(init=False)
    scale_: float = field(init=False)

    offset_ = NO_OFFSET

    def fit(self, X: Any = None, y: Any = None, classes: Sequence[Any] | None = None) -> ContinualZeroShot:
        """Forget everything and take one task; see `partial_fit`."""
        for name in ("classes_", "coef_", "offset_", "n_features_in_", "scale_"):
            if name in vars(self):
                delattr(self, name)
        return self.partial_fit(X, y, classes)

    def partial_fit(self, X: Any = None, y: Any = None, classes: Sequence[Any] | None = None) -> ContinualZeroShot:
        """Take a task: its class names are put behind the others.

        Args:
            X: not looked at.
            y: labels, whose distinct values in order of appearance are the names where `classes` is not given.
            classes: the names.
        """
        check_settings(self)
        names = list(dict.fromkeys(np.asarray(y).tolist())) if classes is None and y is not None else classes
        names = [name.item() if hasattr(name, "item") else name for name in names or []]
        known = self.classes_.tolist() if hasattr(self, "classes_") else []
        if not names:
            raise UsageError("a task needs class names: pass classes=[...] or labels y")
        twice = [name for i, name in enumerate(names) if name in known or name in names[:i]]
        if twice:
            raise UsageError(f"class {twice[0]!r} is there already; two classes of one name cannot be told apart")
        rows, offsets, own = self._rows_of(names)
        self.scale_ = float(self.scale if self.scale is not None else own if own is not None else 100.0)
        self.coef_ = np.concatenate([self.coef_, rows]) if known else rows
        self.offset_ = np.concatenate([self.offset_, offsets]) if known else offsets
        self.classes_ = np.asarray(known + names)
        self.n_features_in_ = self.coef_.shape[1]
        return self

    def _rows_of(self, names: list[Any]) -> tuple[np.ndarray, np.ndarray, float | None]:
        texts = self.texts(names) if callable(self.texts) else self.texts
        prototypes, rows, own = prior_rows(texts, rule=self.prototype)
        offsets = offset_rows(texts, len(rows), rule=self.prototype)
        place = {name: i for i, name in enumerate(prototypes)}
        missing = [name for name in names if name not in place]
        if missing:
            raise UsageError(f"there is no text for class {missing[0]!r}")
        order = [place[name] for name in names]
        return rows[order].numpy(), offsets[order].numpy(), own

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        similarities = x @ torch.from_numpy(self.coef_).to(x).T - torch.as_tensor(self.offset_).to(x)
        return {"text": self.scale_ * similarities}
