"""What every classifier on image features shares: scikit-learn's face, classes, views, and named summands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from torch import Tensor, nn

from binderclip.adapt.heads.inputs import InputLevel, level_input
from binderclip.adapt.heads.prior import align, prior_rows
from binderclip.adapt.heads.settings import check_settings
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.numeric import check_present

Terms = dict[str, Tensor]

IMAGES_AT_ONCE = 64
"""Pictures that a head sends through its encoder at once when it predicts."""


class FeatureClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of pictures whose logits are a sum of named terms.

    A subclass sets `classes_` and `n_features_in_` and defines `_terms`, in torch, so that the same head serves
    arrays, gradients and the `Predictor` face.

    Attributes:
        input_level: what X is. `features`: image features (N, d), raw or not, brought to unit length here;
            `pre_projection`: (N, D) pooled features before the projection, left as they are; `images`: (N, 3, H, W)
            in [0, 1]. V views of each picture are axis 1, at every level; `features_for` makes X for any head.
        transient: fitted attributes that prediction does without, left out when a head is saved.
        feature_names_in_: column names of the X that was fitted, where it was a data frame.
    """

    input_level: ClassVar[InputLevel] = "features"
    transient: ClassVar[tuple[str, ...]] = ()

    classes_: np.ndarray
    n_features_in_: int

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        raise UsageError(f"{type(self).__name__} defines no terms: use one of binderclip.adapt.METHODS")

    def terms(self, X: Float[Tensor, "N *V d"] | ArrayLike) -> Terms:
        """The summands of the logits by name, each (N, C).

        Args:
            X: features (N, d), or (N, V, d) for V views of each image, whose logits are averaged. A tensor keeps its
                device, dtype and graph; anything else becomes a float64 tensor.
        """
        check_is_fitted(self, "classes_")
        self._check_names(X)
        views = self._views(X if isinstance(X, Tensor) else torch.tensor(_checked_input(X, self.input_level, self)))
        if math.prod(views.shape[2:]) != self.n_features_in_:
            raise ValueError(
                f"X has {math.prod(views.shape[2:])} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        flat = self._terms(views.flatten(0, 1))
        return {name: term.unflatten(0, views.shape[:2]).mean(dim=1) for name, term in flat.items()}

    def _views(self, x: Float[Tensor, "N *V_item"]) -> Float[Tensor, "N V *item"]:
        """X with an axis of views, features at unit length."""
        item = 3 if self.input_level == "images" else 1
        if x.ndim not in (1 + item, 2 + item) or (item == 3 and x.shape[-3] != 3):
            raise UsageError(_wrong_shape(self.input_level, tuple(x.shape)))
        views = x.unsqueeze(1) if x.ndim == 1 + item else x
        return F.normalize(views, dim=-1) if self.input_level == "features" else views

    def logits(self, X: Float[Tensor, "N *V d"] | ArrayLike) -> Float[Tensor, "N C"]:
        """Sum of the terms, as a tensor."""
        return torch.stack(list(self.terms(X).values())).sum(dim=0)

    def predict_logits(self, X: Any) -> np.ndarray:
        """Logits (N, C), one column a class."""
        return self._in_chunks(X).numpy()

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (N, C); for two classes (N,), how far the second leads, as scikit-learn has it."""
        logits = self.predict_logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the logits, (N, C)."""
        return self._in_chunks(X).softmax(dim=-1).numpy()

    @torch.no_grad()
    def _in_chunks(self, X: Any) -> Float[Tensor, "N C"]:
        """Logits without a graph; pictures go through the encoder a few at a time."""
        if isinstance(X, Tensor) and not bool(X.isfinite().all()):
            raise UsageError("X contains NaN or infinity")
        if self.input_level != "images":
            return self.logits(X.detach().cpu().double() if isinstance(X, Tensor) else X).cpu()
        x = X.detach() if isinstance(X, Tensor) else torch.tensor(_checked_input(X, self.input_level, self))
        return torch.cat([self.logits(part).cpu() for part in x.split(IMAGES_AT_ONCE)])

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row."""
        best = self.predict_logits(X).argmax(axis=1)
        return self.classes_[best]

    def _check_names(self, X: Any) -> None:
        """Compare a data frame's columns with those that were fitted; here only where there were any."""
        if hasattr(self, "feature_names_in_") and not isinstance(X, Tensor):
            _see_names(self, X, reset=False)

    def predictor(self, model: nn.Module) -> HeadPredictor:
        """This head behind a model's image side, as a differentiable `Predictor` of pixels in [0, 1]."""
        return HeadPredictor(model, self)


@dataclass(kw_only=True, eq=False, repr=False)
class FewShotHead(FeatureClassifier):
    """Base of the heads that learn from a few labelled images on top of a text prior.

    Args:
        text_prior: rows for the classes (see `prior_rows`), matched to the labels by name; None for no text term.
        classes: names of the rows where `text_prior` is an array.
        scale: factor on the cosines with the prior; None: the prior's own, else 100.
    """

    text_prior: Any = field(default=None, kw_only=False)
    classes: Sequence[Any] | None = None
    scale: float | None = None

    prior_: Tensor | None = field(init=False)
    scale_: float = field(init=False)
    _held: tuple[Tensor, Tensor] | None = field(init=False)
    _counted: Float[Tensor, "N"] | None = field(init=False)

    def fit(self, X: Any, y: Any, X_val: Any = None, y_val: Any = None) -> FewShotHead:
        """Learn from features and labels.

        Args:
            X: what `input_level` says, such as features (N, d), or (N, V, d) for V augmented views of each image.
            y: labels (N,), any hashable kind; names where the prior has names.
            X_val, y_val: a validation split on which the head's own grid is searched; without it the constructor's
                values are used.

        Raises:
            UsageError: labels and prior that do not match, or half a validation split.
            ValueError: what scikit-learn's input checks find.
        """
        return self._learn(X, y, X_val, y_val)

    def _learn(self, X: Any, y: Any, X_val: Any, y_val: Any, sample_weight: Any = None) -> Any:
        check_settings(self)
        if (X_val is None) != (y_val is None):
            raise UsageError("X_val and y_val go together: pass both or neither")
        _see_names(self, X, reset=True)
        x, labels = _checked_pair(X, y, self.input_level)
        x, labels, weights = _weighted(x, labels, sample_weight)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        views = self._views(torch.tensor(x))
        self.n_features_in_ = math.prod(views.shape[2:])
        self._set_prior(list(self.classes_.tolist()))
        # Heads that are trained may watch the split on the way; it is gone when the fit is done.
        self._held = None if X_val is None else self._validation(X_val, y_val)
        self._counted = None if weights is None else torch.from_numpy(weights)
        self._fit(views, torch.from_numpy(targets.reshape(-1)))
        if self._held is not None:
            self._tune(*self._held)
        del self._held, self._counted
        return self

    def _check_names(self, X: Any) -> None:
        if not isinstance(X, Tensor):
            _see_names(self, X, reset=False)

    def _counts(self, rows: Float[Tensor, "N ..."]) -> Float[Tensor, "N"]:
        """How often each row counts: its weight, 1 where none was given."""
        return torch.ones(len(rows), dtype=torch.float64) if self._counted is None else self._counted

    def _fit(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> None:
        raise UsageError(f"{type(self).__name__} cannot be fitted: use one of binderclip.adapt.METHODS")

    def _tune(self, x: Float[Tensor, "N d"], targets: Int[Tensor, "N"]) -> None:
        """Choose hyper-parameters on unit validation features; heads without any keep this."""

    def _set_prior(self, labels: list[Any]) -> None:
        self.prior_, self.scale_ = None, 100.0 if self.scale is None else float(self.scale)
        if self.text_prior is None:
            return
        names, rows, scale = prior_rows(self.text_prior, self.classes)
        if self.input_level == "features" and rows.shape[1] != self.n_features_in_:
            raise UsageError(f"X has {self.n_features_in_} features and text_prior {rows.shape[1]}")
        self.prior_ = align(names, rows, labels)
        if self.scale is None and scale is not None:
            self.scale_ = float(scale)

    def _text(self, x: Float[Tensor, "N d"]) -> Terms:
        return {} if self.prior_ is None else {"text": self.scale_ * x @ self.prior_.to(x).T}

    def _validation(self, X: Any, y: Any) -> tuple[Tensor, Tensor]:
        x, labels = _checked_pair(X, y, self.input_level)
        place = {name: index for index, name in enumerate(self.classes_.tolist())}
        unknown = [label for label in labels.tolist() if label not in place]
        if unknown:
            raise UsageError(f"y_val has classes that y has not, such as {unknown[0]!r}")
        views = self._views(torch.tensor(x))
        if views.shape[1] > 1 and self.input_level == "images":
            raise UsageError(
                f"X_val holds {views.shape[1]} views a picture: give the pictures themselves, (N, 3, H, W)"
            )
        mean = views.mean(dim=1)
        x_val = F.normalize(mean, dim=-1) if self.input_level == "features" else mean
        return x_val, torch.tensor([place[label] for label in labels.tolist()])


@dataclass(kw_only=True, eq=False, repr=False)
class PicturesOnlyHead(FewShotHead):
    """Base of the heads that take no text prior."""

    text_prior: Any = field(default=None, init=False)
    classes: Sequence[Any] | None = field(default=None, init=False)
    scale: float | None = field(default=None, init=False)


class WeightedHead(FewShotHead):
    """Base of the heads for which the weight of a row has a meaning: as if it stood in X that often."""

    def fit(  # type: ignore[override]
        self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, sample_weight: Any = None
    ) -> FewShotHead:
        """Learn from features and labels.

        Args:
            X, y, X_val, y_val: see `FewShotHead.fit`.
            sample_weight: (N,), how often each row counts, at least 0; 2 is the row twice, 0 the row left out. They are
                not normalised: weights that sum to 1 are the evidence of one picture. Default: 1 each.

        Raises:
            UsageError: as `FewShotHead.fit`; weights of another length, below 0 or not finite, or 0 for a whole class.
        """
        return self._learn(X, y, X_val, y_val, sample_weight)


class HeadPredictor(nn.Module):
    """A fitted head behind an image-text model: images (B, 3, H, W) in [0, 1] -> logits (B, C), differentiable.

    Args:
        model: prepares and encodes the images, as far as the head's `input_level` asks for.
        head: fitted on what that model gives.
    """

    def __init__(self, model: nn.Module, head: FeatureClassifier) -> None:
        super().__init__()
        refuse_bare_module(model, "HeadPredictor", own=True)
        check_is_fitted(head, "classes_")
        self.model, self.head = model, head
        self.classes = [str(name) for name in head.classes_.tolist()]

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Logits of images in [0, 1]."""
        return self.head.logits(level_input(self.model, images, self.head.input_level))

    def from_features(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B C"]:
        """Logits of what the head takes: image features, raw or of length one, where it is a head on features."""
        return self.head.logits(features)


def _wrong_shape(level: InputLevel, shape: tuple[int, ...]) -> str:
    if level == "images":
        return f"X must hold images (N, 3, H, W) in [0, 1], or (N, V, 3, H, W), not {shape}"
    return f"X must have shape (N, d) or (N, V, d), not {shape}"


def _see_names(estimator: Any, X: Any, *, reset: bool) -> None:
    """Keep a data frame's column names as `feature_names_in_`, or compare them with those."""
    validate_data(estimator, X, reset=reset, skip_check_array=True, ensure_2d=False)


def _checked_input(X: Any, level: InputLevel = "features", estimator: Any = None) -> np.ndarray:
    if isinstance(X, Tensor):
        X = X.detach().cpu().numpy()
    # Pixels stay float32, as encoders want them; features are worked on in double precision.
    dtype = np.float32 if level == "images" else np.float64
    x = check_array(X, dtype=dtype, allow_nd=True, estimator=estimator)
    if x.ndim not in ((4, 5) if level == "images" else (2, 3)):
        raise UsageError(_wrong_shape(level, x.shape))
    return x


def _checked_pair(X: Any, y: Any, level: InputLevel = "features") -> tuple[np.ndarray, np.ndarray]:
    if y is None:
        raise ValueError("this classifier requires y to be passed, but the target y is None")
    x = _checked_input(X, level)
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    elif isinstance(y, (list, tuple)):
        check_present("a label", y)
    labels = column_or_1d(y, warn=True)
    check_consistent_length(x, labels)
    check_classification_targets(labels)
    return x, labels


def _weighted(
    x: np.ndarray, labels: np.ndarray, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "N"] | None]:
    """Rows of weight above 0, their labels and weights; everything and None where no weights were given."""
    if sample_weight is None:
        return x, labels, None
    given = sample_weight.detach().cpu().numpy() if isinstance(sample_weight, Tensor) else sample_weight
    weights = np.asarray(given, dtype=np.float64)
    if weights.shape != (len(labels),):
        raise UsageError(f"sample_weight must have shape ({len(labels)},), one for each row of X, not {weights.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise UsageError("sample_weight must be finite and at least 0")
    kept = weights > 0
    lost = np.setdiff1d(labels, labels[kept])
    if len(lost):
        raise UsageError(f"sample_weight is zero for every row of class {lost.tolist()[0]!r}")
    return x[kept], labels[kept], weights[kept]
