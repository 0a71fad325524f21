"""CLIP-Adapter and Task Residual: a small trained change of the image feature or of the texts (baselines)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.adapt.heads.base import Terms
from binderclip.adapt.heads.prior import prior_or_means
from binderclip.adapt.heads.tuned import EpochHead, Tunable
from binderclip.numeric import check_number


def adapted(
    x: Float[Tensor, "N d"], down: Float[Tensor, "r d"], up: Float[Tensor, "d r"], ratio: float
) -> Float[Tensor, "N d"]:
    """CLIP-Adapter's feature: `ratio` parts of a bottleneck's output, the rest the feature itself, at unit length."""
    bottleneck = torch.relu(torch.relu(x @ down.T) @ up.T)
    return F.normalize(ratio * bottleneck + (1 - ratio) * x, dim=-1)


class _Bottleneck(Tunable):
    """Two linear layers without biases."""

    def __init__(self, prior: Tensor, width: int, ratio: float, scale: float) -> None:
        super().__init__()
        d = prior.shape[1]
        self.down, self.up = nn.Linear(d, width, bias=False), nn.Linear(width, d, bias=False)
        self.prior, self.ratio, self.scale = prior.float(), ratio, scale

    def logits(self, x: Float[Tensor, "B d"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        return self.scale * adapted(x, self.down.weight, self.up.weight, self.ratio) @ self.prior.T


@dataclass(kw_only=True, eq=False, repr=False)
class CLIPAdapter(EpochHead):
    """Mixes the image feature with a trained bottleneck of it: `x' = unit(r M(x) + (1 - r) x)`, logits from `x'.T_c`.

    M is Linear(d, d / reduction), ReLU, Linear, ReLU, without biases.

    Args:
        text_prior, classes, scale: see `FewShotHead`. Without a prior the class means of the examples take its place.
        ratio: share r of the bottleneck; 0 is the zero-shot classifier.
        reduction: of the width in the bottleneck.
        lr: of Adam, by a cosine to 0.
        epochs: passes over the examples; view e mod V in epoch e.
        batch_size: examples a step.
        seed: of initialisation and batches.

    Raises:
        UsageError: ratio outside [0, 1], or reduction below 1; see `Training`.

    Paper: Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters (arXiv 2110.04544).
    """

    ratio: float = 0.2
    reduction: int = 4
    lr: float = 1e-3
    epochs: int = 200

    def _module(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> Tunable:
        check_number("ratio", self.ratio, least=0, most=1)
        check_number("reduction", self.reduction, least=1)
        self.prior_ = prior_or_means(self.prior_, views, targets, len(self.classes_))
        return _Bottleneck(self.prior_, max(1, self.n_features_in_ // self.reduction), self.ratio, self.scale_)

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, _Bottleneck)
        self.down_, self.up_ = module.down.weight.double(), module.up.weight.double()

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        return self._text(adapted(x, self.down_.to(x), self.up_.to(x), self.ratio))


class _Residual(Tunable):
    """A residual of the texts, starting at 0."""

    def __init__(self, prior: Tensor, alpha: float, scale: float) -> None:
        super().__init__()
        self.residual = nn.Parameter(torch.zeros_like(prior, dtype=torch.float32))
        self.prior, self.alpha, self.scale = prior.float(), alpha, scale

    def logits(self, x: Float[Tensor, "B d"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        return self.scale * x @ F.normalize(self.prior + self.alpha * self.residual, dim=-1).T


@dataclass(kw_only=True, eq=False, repr=False)
class TaskResidual(EpochHead):
    """Adds a trained residual to the text classifier: `logits = scale x.unit(T_c + alpha r_c)`, r starting at 0.

    Args:
        text_prior, classes, scale: see `FewShotHead`. Without a prior the class means of the examples take its place.
        alpha: factor on the residual; it acts as a factor on its learning rate.
        lr: of Adam, by a cosine to 0.
        epochs: passes over the examples; view e mod V in epoch e.
        batch_size: examples a step.
        seed: of the order of batches.

    Attributes:
        coef_: the texts with their residuals, (C, d), unit rows: a text prior for any other head.

    Raises:
        UsageError: see `Training`.

    Paper: Yu et al., Task Residual for Tuning Vision-Language Models (arXiv 2211.10277).
    """

    alpha: float = 0.5
    lr: float = 2e-3
    epochs: int = 100

    def _module(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> Tunable:
        self.prior_ = prior_or_means(self.prior_, views, targets, len(self.classes_))
        return _Residual(self.prior_, self.alpha, self.scale_)

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, _Residual)
        assert self.prior_ is not None
        self.coef_ = F.normalize(self.prior_ + self.alpha * module.residual.double(), dim=-1).numpy()

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        return {"text": self.scale_ * x @ torch.from_numpy(self.coef_).to(x).T}
