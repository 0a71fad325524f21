"""The zero-shot classifier: similarities with the sentences of each class, reduced to one score a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from binderclip.adapt.heads.base import FeatureClassifier, Terms
from binderclip.adapt.heads.prior import NO_OFFSET, offset_rows, prior_rows
from binderclip.adapt.heads.settings import check_settings
from binderclip.adapt.zero_shot.pools import Pool, pool_of_record, pool_record, resolve_pool
from binderclip.adapt.zero_shot.views import Views, WholeImage
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel
    from binderclip.models.image_text.encode import EncodedImages

CHUNK = 1 << 23
"""Cosines held at once by a pool (32 MB in single precision): what is read again is then near."""


@dataclass(kw_only=True, eq=False, repr=False)
class ZeroShotClassifier(FeatureClassifier):
    """Scores an image feature by its similarities with the texts of each class; knows no images.

    They are cosines, less what the bank's model takes off a text that is near everything (`TextBank.offsets`); what it
    takes off a picture is the same for every class and left out. Without a pool, or with one that folds, it is one
    matrix product with `coef_`; other pools look at every sentence.

    Args:
        bank: a `TextBank`, a mapping from class to row, or an array (C, d) with `classes`.
        classes: names of the rows of an array.
        scale: factor on the cosines; None: the bank's own, else 100.
        prototype: how several sentences of a class become one row: `mean-unit` (average unit vectors, normalise
            again), `mean` (do not normalise again) or `mean-raw-unit` (average raw vectors, normalise).
        pool: how the cosines with several sentences become one score for each image: a name of `POOLS` or a pool;
            None scores with the prototypes. `MeanPool` is the prototype `mean`.
        views: which pictures of each image are looked at and how their scores are merged (see `encode`); None: the
            views in X, their logits averaged.
        negatives: texts whose mean score is taken off every class, as a bank or rows (M, d): scores of different
            images or regions become comparable.
        multi_label: classes do not exclude each other: `predict_proba` is (whole + best tile) / 2 of each view's
            softmax and need not sum to one, and `predict` gives an indicator (N, C) of probabilities from 0.5.

    Attributes:
        coef_: prototypes (C, d), the `text_prior` of every few-shot head. offset_: (C,) what is taken off the cosine
            with each. classes_: in the bank's order.

    Raises:
        UsageError: scale not above 0, a bank that is not (C, d), an unknown pool, or negatives that do not fit.
    """

    transient: ClassVar[tuple[str, ...]] = ("_kept",)

    bank: Any = field(kw_only=False)
    classes: Sequence[Any] | None = None
    scale: float | None = None
    prototype: str = "mean-unit"
    pool: str | Pool | None = None
    views: Views | None = None
    negatives: Any = None
    multi_label: bool = False

    offset_ = _row_offsets = _negative_offset = NO_OFFSET

    def fit(self, X: Any = None, y: Any = None) -> ZeroShotClassifier:
        """Prepare the text side; images and labels are not looked at, so pipelines and `clone` work."""
        check_settings(self)
        pool = resolve_pool(self.pool)
        rule = "mean" if pool is not None and pool.folds else self.prototype
        names, rows, own = prior_rows(self.bank, self.classes, rule=rule)
        if self.scale is not None and not self.scale > 0:
            raise UsageError(f"scale must be above 0, not {self.scale}")
        self.classes_ = np.asarray(names)
        self.n_features_in_ = rows.shape[1]
        self.coef_ = rows.numpy()
        self.offset_ = offset_rows(self.bank, len(rows), rule=rule).numpy()
        self.scale_ = float(self.scale if self.scale is not None else own if own is not None else 100.0)
        pool = None if pool is None or pool.folds else pool
        infer = getattr(pool, "infer", None)
        # Plain values, so that a fitted classifier can be saved; what has no plain form is refused by `save_head`.
        self._pool, self._free = pool_record(pool), infer if isinstance(infer, Tensor) else None
        self._seen_by = None if self.views is None or self.views == WholeImage() else self.views
        self._row_offsets, self._negative_offset = NO_OFFSET, NO_OFFSET
        self._negative = self._negative_row(pool)
        self._mask: Tensor | None = None
        self._kept: dict[Any, Tensor] = {}
        if pool is not None:
            padded, mask = self.bank.padded() if hasattr(self.bank, "padded") else (rows[:, None], None)
            self._rows = padded.detach().cpu()
            if hasattr(self.bank, "padded_offsets"):
                self._row_offsets = self.bank.padded_offsets().detach().cpu()
            self._mask = None if mask is None or bool(mask.all()) else mask.detach().cpu()
        return self

    def _negative_row(self, pool: Pool | None) -> Tensor | None:
        if self.negatives is None:
            return None
        if pool is not None and pool.log_probabilities:
            raise UsageError("negatives are scores of texts and cannot be taken off the log-probabilities of this pool")
        given = self.negatives
        rows = given.unit if hasattr(given, "unit") else F.normalize(torch.as_tensor(given).double(), dim=-1)
        if rows.ndim != 2 or rows.shape[1] != self.n_features_in_:
            raise UsageError(f"negatives has shape {tuple(rows.shape)}: it must be (M, {self.n_features_in_})")
        if hasattr(given, "padded_offsets"):
            self._negative_offset = float(given.padded_offsets().sum()) / len(rows)
        return rows.detach().cpu().double().mean(dim=0)

    def _ready(self) -> None:
        if not hasattr(self, "classes_"):
            self.fit()

    def terms(self, X: Float[Tensor, "N *V d"] | ArrayLike) -> Terms:
        """The scaled cosines (or what the pool makes of them) under the name `text`; fits first if need be."""
        self._ready()
        if self.views is None:
            return super().terms(X)
        return self.views.merge(X if isinstance(X, Tensor) else torch.as_tensor(np.asarray(X)), super().terms)

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        pool = pool_of_record(self._pool, self._free)
        score = self._folded(x) if pool is None else self._pooled(x, pool)
        terms = {"text": score}
        if self._negative is not None:
            negative = x @ self._negative.to(x) - self._negative_offset  # (N,)
            terms["negatives"] = -(self.scale_ * negative).unsqueeze(1).expand_as(score)
        return terms

    def _folded(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N C"]:
        return self.scale_ * (x @ torch.from_numpy(self.coef_).to(x).T - torch.as_tensor(self.offset_).to(x))

    def _pooled(self, x: Float[Tensor, "N d"], pool: Pool) -> Float[Tensor, "N C"]:
        key = x.dtype, x.device
        if key not in getattr(self, "_kept", {}):
            # Rows of many descriptors are larger than the features of a batch: convert them once.
            self._kept = {key: self._rows.to(x).flatten(0, 1)}
        rows, shape = self._kept[key], self._rows.shape[:2]
        mask = None if self._mask is None else self._mask.to(x.device)
        offsets = torch.as_tensor(self._row_offsets).to(x)
        parts = [
            pool((part @ rows.T).unflatten(1, shape) - offsets, mask, scale=self.scale_, features=part)
            for part in x.split(max(1, CHUNK // shape.numel()))
        ]
        return torch.cat(parts)

    # -- images ------------------------------------------------------------------------------------------------

    def encode(self, model: ImageTextModel, images: Any, **options: Any) -> EncodedImages:
        """Features (N, V, d) of the pictures that `views` takes of each image: the X of the other methods.

        Args:
            model: the model of the bank.
            images: one image or many, as `ImageTextModel.encode_image` takes them.
            options: of `Views.features`: `boxes`, `batch_size`, `on_error`.
        """
        refuse_bare_module(model, "ZeroShotClassifier.encode")
        self._ready()
        names = [str(name) for name in self.classes_.tolist()]
        return (self.views or WholeImage()).features(model, images, names, super().terms, **options)

    # -- answers -----------------------------------------------------------------------------------------------

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (N, C): softmax over classes, or each class by itself with `multi_label`."""
        self._ready()
        if not self.multi_label:
            return super().predict_proba(X)
        x = X.detach().cpu().double() if isinstance(X, Tensor) else torch.as_tensor(np.asarray(X)).double()
        views = x.unsqueeze(1) if x.ndim == 2 else x
        logits = torch.stack(list(super().terms(views.flatten(0, 1)).values())).sum(dim=0)
        probs = logits.softmax(dim=-1).unflatten(0, views.shape[:2])
        return (self.views or WholeImage()).merge_labels(probs).numpy()

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits as every classifier gives them; with `multi_label` the log-odds (N, C) of each class."""
        return self.predict_logits(X) if self.multi_label else super().decision_function(X)

    def predict_logits(self, X: Any) -> np.ndarray:
        """Logits (N, C); with `multi_label` the log-odds of each class."""
        if not self.multi_label:
            return super().predict_logits(X)
        probability = self.predict_proba(X).clip(1e-12, 1 - 1e-12)
        return np.log(probability) - np.log1p(-probability)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row, or with `multi_label` a 0/1 indicator (N, C)."""
        if not self.multi_label:
            return super().predict(X)
        return (self.predict_proba(X) >= 0.5).astype(int)

    def to_open_clip(self) -> Float[Tensor, "d C"]:
        """The prototypes as open_clip's `build_zero_shot_classifier` returns them."""
        self._ready()
        return torch.from_numpy(self.coef_).float().T


class DescriptionClassifier(ZeroShotClassifier):
    """Zero-shot from several visual sentences a class: the mean of the cosines, every sentence counting the same.

    A `ZeroShotClassifier` with `prototype="mean"`: a class whose sentences agree with each other has a longer mean, and
    keeps that advantage. See `read_descriptions`, `shipped_descriptions` and `write_descriptions` for the sentences.
    Paper: Enhancing CLIP with GPT-4: Harnessing Visual Descriptions as Prompts (arXiv 2307.11661).

    Args:
        bank: a `TextBank` of class -> sentences.
        classes, scale: as in `ZeroShotClassifier`.
        prototype: `mean`, or `mean-unit` to normalise the mean again.

    Raises:
        UsageError: as `ZeroShotClassifier`.
    """

    def __init__(
        self,
        bank: Any,
        *,
        classes: Sequence[Any] | None = None,
        scale: float | None = None,
        prototype: str = "mean",
    ) -> None:
        super().__init__(bank, classes=classes, scale=scale, prototype=prototype)
