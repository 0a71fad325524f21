"""Tip-Adapter: a key-value cache of the examples beside the zero-shot classifier, fixed or trained (baselines)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.adapt.heads.base import FewShotHead, Terms, WeightedHead
from binderclip.adapt.heads.blend import blend_search
from binderclip.adapt.heads.tuned import EpochHead, Tunable
from binderclip.errors import UsageError
from binderclip.fit.optimizers import OptimizerLike

ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BETAS = (1.0, 3.0, 5.5, 10.0, 20.0)


def cache_logits(
    x: Float[Tensor, "N d"], keys: Float[Tensor, "M d"], values: Float[Tensor, "M C"], beta: float
) -> Float[Tensor, "N C"]:
    """Labels of the stored examples, weighted by closeness: `exp(-beta (1 - x.f_i)) v_i`, summed."""
    return torch.exp(-beta * (1 - x @ keys.T)) @ values


class CacheSearch:
    """The cache's logits for many betas and weights of the examples, from cosines that are computed once.

    Every example votes for its own class alone, so with the cosines grouped by class a beta costs one exponential and
    one short sum a class, where the plain product with one-hot labels costs C times that.

    Args:
        cosines: of N queries with M keys.
        owner: class of each key.
        classes: how many.
    """

    def __init__(self, cosines: Float[Tensor, "N M"], owner: Int[Tensor, "M"], classes: int) -> None:
        counts = torch.bincount(owner, minlength=classes)
        rank = torch.arange(int(counts.max()))
        starts = counts.cumsum(dim=0) - counts
        self.there = rank < counts[:, None]
        place = (starts[:, None] + rank).clamp(max=len(owner) - 1)
        self.order = owner.argsort(stable=True)[place]
        grouped = cosines[:, self.order.flatten()].unflatten(1, self.order.shape)
        self.distance = 1 - grouped.transpose(0, 1).contiguous()

    def __call__(self, beta: float, weights: Float[Tensor, "M G"] | None = None) -> Float[Tensor, "G N C"]:
        """Logits of this beta for G weightings of the examples (default one, all 1)."""
        each = torch.ones(*self.order.shape, 1, dtype=self.distance.dtype) if weights is None else weights[self.order]
        votes = torch.bmm(torch.exp(-beta * self.distance), (each * self.there[..., None]).to(self.distance))
        return votes.permute(2, 1, 0)


def check_at_least_zero(**values: float) -> None:
    """Refuse settings below 0, by name.

    Raises:
        UsageError: one of them is below 0 or not a number.
    """
    for name, value in values.items():
        if not value >= 0:
            raise UsageError(f"{name} must be at least 0, not {value}")


@dataclass(kw_only=True, eq=False, repr=False)
class _Cached(FewShotHead):
    """What the fixed and the trained cache share: settings, terms, and the search for alpha and beta."""

    alpha: float = 1.0
    beta: float = 5.5
    alphas: Sequence[float] = ALPHAS
    betas: Sequence[float] = BETAS

    keys_: Tensor = field(init=False)
    values_: Tensor = field(init=False)
    alpha_: float = field(init=False)
    beta_: float = field(init=False)

    def _store(self, keys: Float[Tensor, "M d"], owner: Int[Tensor, "M"], alpha: float, beta: float) -> None:
        self.keys_, self.values_ = keys, F.one_hot(owner, len(self.classes_)) * self._counts(keys)[:, None]
        self.alpha_, self.beta_ = float(alpha), float(beta)

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        cache = cache_logits(x, self.keys_.to(x), self.values_.to(x), self.beta_)
        return {**self._text(x), "cache": self.alpha_ * cache}

    def _tune(self, x: Float[Tensor, "N d"], targets: Int[Tensor, "N"]) -> None:
        search = CacheSearch(x @ self.keys_.T, self.values_.argmax(dim=1), len(self.classes_))
        text, weights = self._text(x), self.values_.amax(dim=1, keepdim=True)

        def terms(beta: float) -> Mapping[str, Tensor]:
            return {**text, "alpha": search(beta, weights)[0]}

        best = blend_search(terms, targets, {"alpha": self.alphas, "beta": self.betas}).best
        self.alpha_, self.beta_ = best["alpha"], best["beta"]


@dataclass(kw_only=True, eq=False, repr=False)
class TipAdapter(_Cached, WeightedHead):
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

    def _fit(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> None:
        check_at_least_zero(alpha=self.alpha, beta=self.beta)
        self._store(F.normalize(views.mean(dim=1), dim=-1), targets, self.alpha, self.beta)


class _Keys(Tunable):
    """The keys of a cache as parameters."""

    def __init__(
        self, keys: Tensor, owner: Tensor, text: Callable[[Tensor], Terms], classes: int, alpha: float, beta: float
    ) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys.float())
        self.values = F.one_hot(owner, classes).float()
        self.text, self.alpha, self.beta = text, alpha, beta

    def logits(self, x: Float[Tensor, "B d"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        cache = self.alpha * cache_logits(x, self.keys, self.values, self.beta)
        return sum(self.text(x).values(), start=cache)


@dataclass(kw_only=True, eq=False, repr=False)
class TipAdapterF(EpochHead, _Cached):
    """Tip-Adapter whose keys are trained, from the examples' features, with cross-entropy.

    Args:
        text_prior, classes, scale: see `FewShotHead`.
        alpha, beta: in force while training, and afterwards without a validation split.
        alphas, betas: values to search after training where `fit` gets a validation split.
        lr: of AdamW (eps 1e-4), by a cosine to 0.
        epochs: passes over the examples; view e mod V in epoch e.
        batch_size: examples a step.
        keep_best: with a validation split, keep the epoch that is best on it; else the last. (The authors keep the
            one that is best on the test set.)
        seed: of the order of batches.

    Raises:
        UsageError: alpha or beta below 0; see `Training`.

    Paper: Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification (ECCV 2022).
    """

    optimizer: ClassVar[OptimizerLike] = {"name": "adamw", "eps": 1e-4, "weight_decay": 0.01}

    lr: float = 1e-3
    epochs: int = 20
    keep_best: bool = True

    def _module(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> Tunable:
        check_at_least_zero(alpha=self.alpha, beta=self.beta)
        keys = F.normalize(views.mean(dim=1), dim=-1)
        self._store(keys, targets, self.alpha, self.beta)
        return _Keys(keys, targets, self._text, len(self.classes_), self.alpha, self.beta)

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, _Keys)
        self.keys_ = module.keys.double()
