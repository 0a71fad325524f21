"""GDA: class Gaussians with one shared covariance, in closed form, beside the zero-shot classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from binderclip.adapt.heads.base import Terms, WeightedHead, _checked_input, _see_names
from binderclip.adapt.heads.blend import blend_search
from binderclip.adapt.heads.prior import prior_rows
from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
PRECISIONS = ("shrunk", "empirical", "identity", "class-mean")


def shrunk_precision(covariance: Float[Tensor, "d d"], n: float) -> Float[Tensor, "d d"]:
    """`d ((n - 1) S + tr(S) I)^-1`: an inverse covariance that stays finite with fewer samples than dimensions.

    A ridge whose strength is set by the data alone (Kubokawa and Srivastava's estimator). The factor d belongs to it:
    without it the published grid of weights is off by orders of magnitude.

    Args:
        covariance: sample covariance S with divisor n - 1.
        n: number of rows it was computed from, augmented views counted; the sum of their weights where they have any.

    Returns:
        Symmetric, float64. Where S is zero (one example a class) the formula is singular; then `d I`, which makes the
        classifier the nearest class mean.

    Raises:
        UsageError: not a square matrix, n below 1.

    Paper: A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation (arXiv 2402.04087).
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise UsageError(f"covariance must be square, not {tuple(covariance.shape)}")
    check_number("n", n, least=1)
    covariance = covariance.double()
    d = len(covariance)
    eye = torch.eye(d, dtype=torch.float64, device=covariance.device)
    trace = covariance.trace()
    # Features have unit length, so this is rounding, not a small variance.
    if float(trace) <= 1e-12:
        return d * eye
    matrix = (n - 1) * covariance + trace * eye
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return d * (torch.linalg.pinv(matrix, hermitian=True) if int(failed) else torch.cholesky_inverse(factor))


@dataclass(frozen=True)
class ClassStatistics:
    """Means (C, d), pooled covariance (d, d) with divisor n - 1, rows a class (C,), total n; float64."""

    means: Tensor
    covariance: Tensor
    counts: Tensor
    n: float


def class_statistics(x: Float[Tensor, "N d"], weights: Float[Tensor, "N C"], n: float | None = None) -> ClassStatistics:
    """Weighted class means and the covariance of the rows about them.

    Args:
        x: features.
        weights: membership of each row in each class; one-hot for labels, responsibilities for EM.
        n: how many rows they count as; None: N.
    """
    counts = weights.sum(dim=0)
    means = weights.T @ x / counts.clamp(min=1e-12)[:, None]
    n = len(x) if n is None else n
    # One class at a time keeps the differences exact; X'X minus the means' part would cancel for tight classes.
    scatter = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    for index in range(len(means)):
        rows = weights[:, index] > 0
        centred = x[rows] - means[index]
        scatter += (centred * weights[rows, index, None]).T @ centred
    return ClassStatistics(means, scatter / (n - 1 if n > 1 else 1), counts, n)


@dataclass(kw_only=True, eq=False, repr=False)
class GaussianHead(WeightedHead):
    """Gaussian discriminant analysis added to the zero-shot classifier; closed form, no training loop.

    The features of each class are a Gaussian around the class mean with one covariance for all classes, so Bayes' rule
    is linear: `logits = scale x.T_c + alpha (x.w_c + b_c)`, with `w_c = A mu_c`,
    `b_c = log pi_c - mu_c.A mu_c / 2` and `A` the `shrunk_precision`. Means are not normalised, features not centred.

    Args:
        text_prior: zero-shot rows, see `FewShotHead`; None for the Gaussian term alone.
        classes: names of the rows where `text_prior` is an array.
        scale: factor on the cosines; None: the prior's own, else 100.
        alpha: weight of the Gaussian term; searched in `alphas` where `fit` gets a validation split.
        alphas: values to search; the first best wins.
        precision: `shrunk`; for comparison `empirical` (no shrinkage), `identity` (nearest class mean), or
            `class-mean` (pseudo-inverse of the mean of the class covariances, the paper's base-to-new variant).
        priors: `equal`, also where classes differ in size, or `empirical`.

    Attributes:
        alpha_: weight in use. coef_, intercept_: the whole linear classifier, (C, d) and (C,), on unit features.

    Raises:
        UsageError: unknown `precision` or `priors`, alpha below 0; at `fit`, a prior that does not match the labels.

    Examples:
        >>> head = GaussianHead().fit([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], ["a", "a", "b", "b"])
        >>> head.predict([[0.7, 0.2]]).tolist()
        ['a']

    Paper: A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation (arXiv 2402.04087).
    """

    transient: ClassVar[tuple[str, ...]] = ("_rows",)

    alpha: float = 1.0
    alphas: Sequence[float] = ALPHAS
    precision: str = "shrunk"
    priors: str = "equal"

    def _check_options(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("priors", self.priors, ("equal", "empirical"))
        check_number("alpha", self.alpha, least=0)

    def _fit(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> None:
        self._check_options()
        rows = views.flatten(0, 1)
        owner = targets.repeat_interleave(views.shape[1])
        counts = self._counts(views).repeat_interleave(views.shape[1])
        total = float(counts.sum())
        if len(rows) > 1 and not total > 1:
            raise UsageError(f"sample_weight sums to {total:g}: a weight says how often a row counts, 1 is once")
        members = torch.nn.functional.one_hot(owner, len(self.classes_)) * counts[:, None]
        statistics = class_statistics(rows, members, total)
        self._rows = rows
        self._set_gaussian(statistics, self._precision(statistics, rows, members))
        self.alpha_ = float(self.alpha)

    def _precision(self, statistics: ClassStatistics, rows: Tensor, members: Float[Tensor, "N C"]) -> Tensor:
        d = rows.shape[1]
        if self.precision == "shrunk":
            return shrunk_precision(statistics.covariance, statistics.n)
        if self.precision == "identity":
            return d * torch.eye(d, dtype=torch.float64)
        if self.precision == "empirical":
            return d * torch.linalg.pinv((statistics.n - 1) * statistics.covariance, hermitian=True)
        # One class by itself; where its rows count once at most, its covariance is taken as zero.
        spread = [
            class_statistics(rows, members[:, [c]], n).covariance * (n > 1)
            for c, n in enumerate(statistics.counts.tolist())
        ]
        return torch.linalg.pinv(torch.stack(spread).mean(dim=0), hermitian=True)

    def _set_gaussian(self, statistics: ClassStatistics, precision: Tensor) -> None:
        self.means_ = statistics.means
        self.precision_ = precision
        prior = statistics.counts / statistics.counts.sum()
        equal = torch.full_like(prior, 1 / len(prior))
        self._log_priors = (equal if self.priors == "equal" else prior.clamp(min=1e-12)).log()
        self._weight = self.means_ @ precision
        self._bias = self._log_priors - 0.5 * (self._weight * self.means_).sum(dim=-1)

    def _gaussian(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N C"]:
        return x @ self._weight.to(x).T + self._bias.to(x)

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        return {**self._text(x), "gaussian": self.alpha_ * self._gaussian(x)}

    def _tune(self, x: Float[Tensor, "N d"], targets: Int[Tensor, "N"]) -> None:
        if self.prior_ is None:
            return
        terms = {**self._text(x), "gaussian": self._gaussian(x)}
        self.alpha_ = blend_search(terms, targets, {"gaussian": self.alphas}).best["gaussian"]

    @property
    def coef_(self) -> np.ndarray:
        """Weights of the whole classifier, (C, d)."""
        text = 0 if self.prior_ is None else self.scale_ * self.prior_
        return (text + self.alpha_ * self._weight).numpy()

    @property
    def intercept_(self) -> np.ndarray:
        """Biases of the whole classifier, (C,)."""
        return (self.alpha_ * self._bias).numpy()

    def fit_unlabelled(self, X: Float[Tensor, "N d"] | ArrayLike, *, iterations: int = 10) -> GaussianHead:
        """Fit the Gaussians to features without labels, by EM from the zero-shot probabilities.

        Responsibilities are those of a mixture whose shared covariance is `S + tr(S) / (n - 1) I`, the one that
        `shrunk_precision` inverts.

        Args:
            X: features (N, d).
            iterations: rounds of (means and covariance, responsibilities); class shares are re-estimated too.

        Raises:
            UsageError: no `text_prior`, or iterations below 1.
        """
        self._check_options()
        if self.text_prior is None:
            raise UsageError("fit_unlabelled starts from the zero-shot classifier: give text_prior")
        check_number("iterations", iterations, least=1)
        _see_names(self, X, reset=True)
        x = torch.nn.functional.normalize(torch.tensor(_checked_input(X)), dim=-1)
        x = x.flatten(0, -2)
        names, _, _ = prior_rows(self.text_prior, self.classes)
        self.classes_ = np.unique(np.asarray(names))
        self.n_features_in_ = x.shape[1]
        self._set_prior(self.classes_.tolist())
        self._rows, self.alpha_ = x, float(self.alpha)
        responsibilities = self._text(x)["text"].softmax(dim=-1)
        for _ in range(iterations):
            statistics = class_statistics(x, responsibilities)
            self._set_gaussian(statistics, shrunk_precision(statistics.covariance, statistics.n))
            # `shrunk_precision` is d / (n - 1) times the inverse of the same shrunk covariance. As a temperature of the
            # responsibilities that factor would make them uniform for n >> d, so it is taken out here.
            density = (self._gaussian(x) - self._log_priors) * (max(len(x) - 1, 1) / x.shape[1])
            responsibilities = (density + (statistics.counts / len(x)).clamp(min=1e-12).log()).softmax(dim=-1)
        return self

    def new_classes(
        self, text_prior: Any, *, classes: Sequence[Any] | None = None, neighbours: int = 64, copies: int = 16
    ) -> GaussianHead:
        """A head for classes without images (base-to-new), from their texts and the features seen at `fit`.

        The images of a new class are imagined: its `neighbours` nearest training features and `copies` of its text.
        The scatter is taken about the text; the precisions of the new classes are averaged; alpha is kept.

        Args:
            text_prior: rows of the new classes.
            classes: their names where it is an array.
            neighbours: training features for each class, at most all.
            copies: of the text row beside them.

        Raises:
            UsageError: neighbours below 2, copies below 0, or rows that do not fit the features.
        """
        if neighbours < 2 or copies < 0:
            raise UsageError(f"neighbours must be at least 2 and copies at least 0, not {neighbours} and {copies}")
        head = GaussianHead(text_prior, classes=classes, scale=self.scale, alpha=self.alpha, alphas=self.alphas)
        names, _, _ = prior_rows(text_prior, classes)
        head.classes_ = np.unique(np.asarray(names))
        head.n_features_in_ = self.n_features_in_
        head._set_prior(head.classes_.tolist())
        head.scale_, head.alpha_, head._rows = self.scale_, self.alpha_, self._rows
        k = min(neighbours, len(self._rows))
        means, precisions = [], []
        for text in head.prior_ if head.prior_ is not None else []:
            nearest = self._rows[(self._rows @ text).topk(k).indices]
            means.append((nearest.sum(dim=0) + copies * text) / (k + copies))
            offset = nearest - text
            precisions.append(shrunk_precision(offset.T @ offset / (k - 1), k))
        counts = torch.full((len(means),), float(k), dtype=torch.float64)
        statistics = ClassStatistics(torch.stack(means), torch.empty(0), counts, k)
        head._set_gaussian(statistics, torch.stack(precisions).mean(dim=0))
        return head
