"""APE: a cache on the channels that tell classes apart, its examples weighted by how badly the texts explain them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.adapt.few_shot.tip_adapter import CacheSearch, check_at_least_zero
from binderclip.adapt.heads.base import Terms, WeightedHead
from binderclip.adapt.heads.blend import blend_search
from binderclip.adapt.heads.prior import prior_or_means
from binderclip.adapt.heads.tuned import EpochHead, Tunable
from binderclip.errors import UsageError
from binderclip.fit.optimizers import OptimizerLike


def _steps(first: float, top: float, count: int) -> tuple[float, ...]:
    """`count` even steps from `first` towards `top`, which is left out, as the authors' grids are."""
    return tuple(first + index * (top - first) / count for index in range(count))


BETAS = _steps(0.1, 7.0, 200)
ALPHAS = _steps(0.1, 7.0, 20)
GAMMAS = _steps(0.0, 0.5, 5)


def channel_scores(
    text: Float[Tensor, "C d"],
    examples: Float[Tensor, "N d"] | None = None,
    targets: Int[Tensor, "N"] | None = None,
    *,
    weights: Sequence[float] = (0.7, 0.3),
    counts: Float[Tensor, "N"] | None = None,
) -> Float[Tensor, "d"]:
    """How well each channel separates the classes: `J = -w0 S + w1 Var`, larger is better.

    S is the mean product of two samples of different classes, over all such pairs, the samples of a class being its
    text and its examples. Var is the variance of the texts over classes (divisor C - 1).

    Args:
        text: one unit row a class.
        examples: unit features, or None to judge by the texts alone.
        targets: their classes.
        weights: (w0, w1).
        counts: how often each example counts; None: once.

    Returns:
        float64; zeros for a single class.

    Raises:
        UsageError: examples without targets, or the other way round.

    Paper: Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement (arXiv 2304.01195).
    """
    if (examples is None) != (targets is None):
        raise UsageError("examples and targets go together: pass both or neither")
    text = text.double()
    classes = len(text)
    sums, samples = text.clone(), torch.ones(classes, dtype=torch.float64)
    if examples is not None and targets is not None:
        each = torch.ones(len(examples), dtype=torch.float64) if counts is None else counts.double()
        sums.index_add_(0, targets, examples.double() * each[:, None])
        samples.index_add_(0, targets, each)
    if classes == 1:
        return torch.zeros_like(text[0])
    # All pairs less those within a class; with the same number of samples a class this is M^2 C (C - 1).
    pairs = samples.sum().square() - samples.square().sum()
    similarity = (sums.sum(dim=0).square() - sums.square().sum(dim=0)) / pairs
    return -weights[0] * similarity + weights[1] * text.var(dim=0)


def _best_channels(scores: Float[Tensor, "d"], channels: float) -> Int[Tensor, "Q"]:
    """The highest scores' places in ascending order; equal ones in the order of the channels."""
    d = len(scores)
    count = channels if isinstance(channels, int) else max(1, round(channels * d))
    if not 1 <= count <= d or (not isinstance(channels, int) and not channels > 0):
        raise UsageError(f"channels must be a share in (0, 1] or a number from 1 to {d}, not {channels}")
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def _divergence(keys: Float[Tensor, "M Q"], text: Float[Tensor, "C Q"], owner: Int[Tensor, "M"]) -> Float[Tensor, "M"]:
    """About -log2 of the probability that the texts, at temperature 1, give to an example's own class."""
    small = 1e-6
    one_hot = F.one_hot(owner, len(text)).to(keys)
    return (one_hot * torch.log2((one_hot + small) / ((keys @ text.T).softmax(dim=-1) + small))).sum(dim=-1)


@dataclass(kw_only=True, eq=False, repr=False)
class APE(WeightedHead):
    """Tip-Adapter's cache on the channels that separate the classes, each example weighted by its surprise.

    `logits = scale x.T_c + alpha sum_i exp(-beta (1 - x'.f'_i)) exp(gamma KL_i) [y_i = c]`, where ' keeps the channels
    of the largest `channel_scores` at unit length and KL_i is the divergence of the texts' answer from the example's
    label. Nothing is trained. With all channels and gamma 0 it is Tip-Adapter.

    Args:
        text_prior, classes, scale: see `FewShotHead`. Without a prior the class means of the examples take its place.
        channels: share of the channels to keep (a float up to 1) or their number (an int).
        weights: (w0, w1) of `channel_scores`.
        alpha: weight of the cache.
        beta: sharpness of closeness.
        gamma: sharpness of the examples' weights.
        alphas, betas, gammas: values to search where `fit` gets a validation split; by default the authors' grid.

    Attributes:
        channels_: (Q,) places of the channels kept. divergence_: (M,) of the examples. counts_: (M,) how
            often each counts. alpha_, beta_, gamma_: in use.

    Raises:
        UsageError: alpha, beta or gamma below 0, or channels out of range.

    Paper: Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement (arXiv 2304.01195).
    """

    channels: float = 0.5
    weights: Sequence[float] = (0.7, 0.3)
    alpha: float = 2.0
    beta: float = 1.0
    gamma: float = 0.1
    alphas: Sequence[float] = ALPHAS
    betas: Sequence[float] = BETAS
    gammas: Sequence[float] = GAMMAS

    def _fit(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> None:
        check_at_least_zero(alpha=self.alpha, beta=self.beta, gamma=self.gamma)
        self.counts_ = self._counts(views)
        self.prior_ = prior_or_means(self.prior_, views, targets, len(self.classes_), self.counts_)
        keys = F.normalize(views.mean(dim=1), dim=-1)
        scores = channel_scores(self.prior_, keys, targets, weights=self.weights, counts=self.counts_)
        self.channels_ = _best_channels(scores, self.channels)
        self.keys_, self.owner_ = self._pruned(keys), targets
        self.divergence_ = _divergence(self.keys_, self._pruned(self.prior_), targets)
        self.alpha_, self.beta_, self.gamma_ = float(self.alpha), float(self.beta), float(self.gamma)

    def _pruned(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N Q"]:
        return F.normalize(x[:, self.channels_.to(x.device)], dim=-1)

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        closeness = torch.exp(-self.beta_ * (1 - self._pruned(x) @ self.keys_.to(x).T))
        weights = self.counts_ * torch.exp(self.gamma_ * self.divergence_)
        values = F.one_hot(self.owner_, len(self.classes_)) * weights[:, None]
        return {**self._text(x), "cache": self.alpha_ * closeness @ values.to(x)}

    def _tune(self, x: Float[Tensor, "N d"], targets: Int[Tensor, "N"]) -> None:
        search = CacheSearch(self._pruned(x) @ self.keys_.T, self.owner_, len(self.classes_))
        gammas = list(self.gammas)
        weights = torch.exp(self.divergence_[:, None] * torch.tensor(gammas, dtype=torch.float64))
        weights = weights * self.counts_[:, None]
        text = self._text(x)

        @lru_cache(maxsize=1)
        def caches(beta: float) -> dict[float, Tensor]:
            return dict(zip(gammas, search(beta, weights), strict=True))

        def terms(beta: float, gamma: float) -> Mapping[str, Tensor]:
            return {**text, "alpha": caches(beta)[gamma]}

        grid = {"beta": self.betas, "alpha": self.alphas, "gamma": gammas}
        best = blend_search(terms, targets, grid).best
        self.alpha_, self.beta_, self.gamma_ = best["alpha"], best["beta"], best["gamma"]


class _Refinement(Tunable):
    """A residual a class on the chosen channels, added to its text and to its keys, and a weight an example.

    The products with the residual are shared: `x.(T_c + r_c) = x.T_c + x.r_c`, and the same `x.r_c` moves the keys.
    """

    def __init__(
        self,
        prior: Tensor,
        keys: Tensor,
        owner: Tensor,
        channels: Tensor,
        *,
        scale: float,
        alpha: float,
        beta: float,
    ) -> None:
        super().__init__()
        self.residual = nn.Parameter(torch.zeros(len(prior), len(channels), dtype=prior.dtype))
        self.weights = nn.Parameter(torch.ones(len(keys), dtype=prior.dtype))
        self.prior, self.keys, self.channels = prior, keys, channels
        self.one_hot = F.one_hot(owner, len(prior)).to(prior)
        self.scale, self.alpha, self.beta = scale, alpha, beta

    def prepare(self, views: Float[Tensor, "*B d"]) -> Float[Tensor, "*B J"]:
        """The Q chosen channels and the products with C texts and M keys, J in all, which training does not change."""
        return torch.cat([views[..., self.channels], views @ self.prior.T, views @ self.keys.T], dim=-1)

    def parts(self, x: Float[Tensor, "B J"]) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B M"]]:
        """Logits of the refined texts, and cosines with the refined keys; nothing is normalised again."""
        chosen, text, cosines = x.split([len(self.channels), len(self.prior), len(self.keys)], dim=-1)
        moved = chosen @ self.residual.T
        # A product with one-hot rows instead of an index: its gradient is a product too, several times faster.
        return self.scale * (text + moved), cosines + moved @ self.one_hot.T

    def cache(self, cosines: Float[Tensor, "B M"]) -> Float[Tensor, "B C"]:
        """Votes of the examples."""
        votes = torch.exp(-self.beta * (1 - cosines)) * self.weights
        return self.alpha * votes @ self.one_hot

    def logits(self, x: Float[Tensor, "B J"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        text, cosines = self.parts(x)
        return text + self.cache(cosines)


@dataclass(kw_only=True, eq=False, repr=False)
class APETuned(EpochHead):
    """APE-T: one trained residual a class on the separating channels, and one weight an example.

    The residual is added to the class's text and to the keys of its examples, both on all channels and without
    normalising again: C Q + M parameters in all.

    Args:
        text_prior, classes, scale: see `FewShotHead`. Without a prior the class means of the examples take its place.
        channels: share of the channels that get a residual (a float up to 1) or their number (an int).
        weights: (w0, w1) of `channel_scores`, here of the texts alone.
        alpha, beta: in force while training, and afterwards without a validation split.
        alphas, betas: values to search after training where `fit` gets a validation split.
        lr: of AdamW (eps 1e-3, weight decay 0.1), by a cosine to 0.
        epochs: passes over the examples; view e mod V in epoch e.
        batch_size: examples a step.
        keep_best: with a validation split, keep the epoch that is best on it, as the authors do; else the last.
        seed: of the order of batches.

    Raises:
        UsageError: alpha or beta below 0, or channels out of range; see `Training`.

    Paper: Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement (arXiv 2304.01195).
    """

    optimizer: ClassVar[OptimizerLike] = {"name": "adamw", "eps": 1e-3, "weight_decay": 0.1}

    channels: float = 0.5
    weights: Sequence[float] = (0.2, 0.8)
    alpha: float = 1.0
    beta: float = 1.0
    alphas: Sequence[float] = ALPHAS
    betas: Sequence[float] = BETAS
    lr: float = 1e-3
    epochs: int = 200
    keep_best: bool = True

    def _module(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> Tunable:
        check_at_least_zero(alpha=self.alpha, beta=self.beta)
        self.prior_ = prior_or_means(self.prior_, views, targets, len(self.classes_))
        self.keys_, self.owner_ = F.normalize(views.mean(dim=1), dim=-1), targets
        self.channels_ = _best_channels(channel_scores(self.prior_, weights=self.weights), self.channels)
        self.alpha_, self.beta_ = float(self.alpha), float(self.beta)
        return self._refinement(torch.float32)

    def _refinement(self, dtype: torch.dtype, device: Any = None) -> _Refinement:
        assert self.prior_ is not None
        return _Refinement(
            self.prior_.to(device, dtype),
            self.keys_.to(device, dtype),
            self.owner_.to(device),
            self.channels_.to(device),
            scale=self.scale_,
            alpha=self.alpha_,
            beta=self.beta_,
        )

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, _Refinement)
        self.residual_, self.weights_ = module.residual.double(), module.weights.double()

    def _fitted(self, x: Tensor) -> _Refinement:
        module = self._refinement(x.dtype, x.device).requires_grad_(False)
        module.residual.copy_(self.residual_)
        module.weights.copy_(self.weights_)
        return module

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        module = self._fitted(x)
        text, cosines = module.parts(module.prepare(x))
        return {"text": text, "cache": module.cache(cosines)}

    def _tune(self, x: Float[Tensor, "N d"], targets: Int[Tensor, "N"]) -> None:
        module = self._fitted(x)
        text, cosines = module.parts(module.prepare(x))
        search = CacheSearch(cosines, self.owner_, len(self.classes_))

        def terms(beta: float) -> Mapping[str, Tensor]:
            return {"text": text, "alpha": search(beta, self.weights_[:, None])[0]}

        best = blend_search(terms, targets, {"beta": self.betas, "alpha": self.alphas}).best
        self.alpha_, self.beta_ = best["alpha"], best["beta"]
