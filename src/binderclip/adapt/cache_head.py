"""Tip-Adapter: a key-value cache of the examples beside the zero-shot classifier (a baseline)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.adapt.head import FewShotHead, Terms, blend_search
from binderclip.errors import UsageError


class TipAdapter(FewShotHead):
    """Adds to the zero-shot logits the labels of the stored examples, weighted by closeness.

    `logits = scale x.T_c + alpha sum_i exp(-beta (1 - x.f_i)) [y_i = c]`; nothing is trained.

    Args:
        text_prior, classes, scale: see `FewShotHead`.
        alpha: weight of the cache.
        beta: sharpness of closeness.
        alphas, betas: values to search where `fit` gets a validation split.

    Raises:
        UsageError: alpha or beta below 0.

    Paper: Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification (ECCV 2022).
    """

    def __init__(
        self,
        text_prior: Any = None,
        *,
        classes: Sequence[Any] | None = None,
        scale: float | None = None,
        alpha: float = 1.0,
        beta: float = 5.5,
        alphas: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        betas: Sequence[float] = (1.0, 3.0, 5.5, 10.0, 20.0),
    ) -> None:
        super().__init__(text_prior, classes=classes, scale=scale)
        self.alpha = alpha
        self.beta = beta
        self.alphas = alphas
        self.betas = betas

    def _fit(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not value >= 0:
                raise UsageError(f"{name} must be at least 0, not {value}")
        self.keys_ = F.normalize(views.mean(dim=1), dim=-1)
        self.values_ = F.one_hot(targets, len(self.classes_)).double()
        self.alpha_, self.beta_ = float(self.alpha), float(self.beta)

    def _cache(self, x: Float[Tensor, "N d"], beta: float) -> Float[Tensor, "N C"]:
        return torch.exp(-beta * (1 - x @ self.keys_.to(x).T)) @ self.values_.to(x)

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        return {**self._text(x), "cache": self.alpha_ * self._cache(x, self.beta_)}

    def _tune(self, x: Float[Tensor, "N d"], targets: Int[Tensor, "N"]) -> None:
        text = self._text(x).get("text", torch.zeros(len(x), len(self.classes_), dtype=x.dtype))
        best = blend_search(
            lambda alpha, beta: text + alpha * self._cache(x, beta), targets, {"alpha": self.alphas, "beta": self.betas}
        ).best
        self.alpha_, self.beta_ = best["alpha"], best["beta"]
