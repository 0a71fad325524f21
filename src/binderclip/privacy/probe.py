"""A private linear classifier on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.privacy.accounting.ledger import Accountant, Ledger, joint_multiplier, noise_multiplier_for
from binderclip.privacy.accounting.report import PrivacyReport, privacy_report
from binderclip.privacy.accounting.sampling import PoissonSampler, unseeded, unseeded_generator
from binderclip.privacy.accounting.statistic import PrivateBatch
from binderclip.privacy.clipping.feedback import Feedback
from binderclip.privacy.clipping.norm_range import clip_norm_range, per_sample_lipschitz
from binderclip.privacy.clipping.rules import FlatClip, SensitivityRule

__all__ = ["HeadRun", "PrivateLinearProbe", "private_linear_probe", "train_softmax_head"]


@dataclass(frozen=True)
class HeadRun:
    """A trained softmax head.

    Attributes:
        weight: (C, d). bias: (C,).
        ledger: what it cost.
        clipped: share of the drawn samples that were clipped; a private figure.
        clip_norm: in force at the end.
    """

    weight: Float[Tensor, "C d"]
    bias: Float[Tensor, "C"]
    ledger: Ledger
    clipped: float
    clip_norm: float


@torch.no_grad()
def train_softmax_head(
    features: Float[Tensor, "N d"],
    labels: Int[Tensor, "N"],
    classes: int,
    *,
    rule: SensitivityRule,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    lr: float,
    feedback: Feedback | None = None,
    bias: bool = True,
    average: bool = False,
    seed: int | None = 0,
) -> HeadRun:
    """DP-SGD on a softmax layer with per-sample gradients in closed form; starts from zero.

    Sample i's gradient is (p - e_y) (x) (h, 1): its norm is a product of two, and the clipped sum one matrix product.

    Args:
        features, labels: the private set, labels in 0..C-1. classes: C.
        rule: one group. noise_multiplier, sample_rate, steps, lr: of DP-SGD.
        feedback: such as `DiceFeedback`.
        bias: whether there is one.
        average: return the mean of all iterates, as the theorem does, instead of the last one.
        seed: of sampling and noise; for experiments. None: from the system.

    Raises:
        UsageError: a rule with several groups.
    """
    if rule.groups != 1:
        raise UsageError("a softmax head is one group of parameters")
    x = torch.cat([features, features.new_full((len(features), 1), float(bias))], dim=1)
    targets = F.one_hot(labels, classes).to(x)
    lengths = torch.linalg.vector_norm(x, dim=1)
    weight = x.new_zeros(classes, x.shape[1])
    mean = torch.zeros_like(weight)
    sampler = PoissonSampler(len(x), sample_rate, steps=steps, seed=unseeded() if seed is None else seed)
    generator = unseeded_generator() if seed is None else torch.Generator().manual_seed(seed + 1)
    expected, ledger = sample_rate * len(x), Ledger()
    seen = clipped = 0
    for number in range(steps):
        rows = sampler.batch(number)
        residual = (x[rows] @ weight.T).softmax(1) - targets[rows]
        norms = torch.linalg.vector_norm(residual, dim=1) * lengths[rows]
        scales = rule.scales(norms)
        total = (residual * scales[:, None]).T @ x[rows]
        std, spent = rule.noise_stds(noise_multiplier)[0], [rule.multiplier(noise_multiplier)]
        batch = PrivateBatch(norms[:, None], scales[:, None], rule.clip_norms, norms, lambda weights: ())
        released = {}
        for statistic in rule.statistics(noise_multiplier):
            value = statistic.value(batch)
            noise = torch.randn(value.shape, generator=generator) * statistic.sensitivity * statistic.multiplier
            released[statistic.name] = value + noise if noise_multiplier else value
            spent.append(statistic.multiplier)
        if feedback is not None:
            total = feedback.combine([total], [residual.T @ x[rows]], expected)[0]
            std = rule.multiplier(noise_multiplier) * feedback.sensitivity(rule.sensitivity)
        if std:
            total = total + std * torch.randn(total.shape, generator=generator)
        weight -= lr * total / expected
        mean += weight / steps
        seen, clipped = seen + len(rows), clipped + int((scales < 1).sum())
        ledger.step(joint_multiplier(spent), sample_rate)
        rule.update(released, expected)
    final = mean if average else weight
    return HeadRun(final[:, :-1], final[:, -1] * float(bias), ledger, clipped / max(seen, 1), rule.clip_norms[0])


class PrivateLinearProbe(ClassifierMixin, BaseEstimator):
    """Logistic regression on image features, trained within a privacy budget; a scikit-learn estimator.

    Das et al., "Beyond Uniform Lipschitz Condition in Differentially Private Optimization", ICML 2023: the clip norm is
    looked for below the smallest per-sample Lipschitz constant, which for unit rows is 2, data or no data.

    Args:
        epsilon, delta: the budget of `fit`.
        tau: clip norm; "auto": a quarter of the smallest constant of unit rows.
        lr: "auto": 4 / tau.
        steps, sample_rate: of the Poisson batches.
        normalize: bring rows to unit length (each by itself, which reveals nothing). With False, tau must be given.
        bias: whether there is one.
        average: mean of the iterates instead of the last one.
        classes: the labels there may be, public; None: those of `y`, which then are assumed to be public.
        accountant: that sets the noise.
        seed: of sampling and noise, for experiments; whoever knows it can take the noise off again. None: from the
            system.

    Attributes:
        classes_, coef_ (C, d), intercept_ (C,): the classifier.
        feature_names_in_: column names of the X that was fitted, where it was a data frame.
        noise_multiplier_, tau_, ledger_: how it was trained.
        report_: the `PrivacyReport`.
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        delta: float = 1e-5,
        *,
        tau: float | Literal["auto"] = "auto",
        lr: float | Literal["auto"] = "auto",
        steps: int = 200,
        sample_rate: float = 0.1,
        normalize: bool = True,
        bias: bool = True,
        average: bool = False,
        classes: Sequence[Any] | None = None,
        accountant: Accountant = "rdp",
        seed: int | None = 0,
    ) -> None:
        self.epsilon, self.delta, self.tau, self.lr = epsilon, delta, tau, lr
        self.steps, self.sample_rate, self.normalize, self.bias = steps, sample_rate, normalize, bias
        self.average, self.classes, self.accountant, self.seed = average, classes, accountant, seed

    def fit(self, X: Any, y: Any) -> PrivateLinearProbe:
        """Train.

        Args:
            X: features (N, d). y: labels (N,), any hashable kind.

        Raises:
            UsageError: tau="auto" with rows as they are, whose smallest constant would be private; unknown labels.
            ValueError: what scikit-learn's input checks find.
        """
        x, targets = self._checked(X, y)
        self.tau_ = self._clip_norm()
        lr = 4.0 / self.tau_ if self.lr == "auto" else float(self.lr)
        self.noise_multiplier_ = noise_multiplier_for(
            self.epsilon, self.delta, self.sample_rate, self.steps, self.accountant
        )
        run = train_softmax_head(
            x, targets, len(self.classes_), rule=FlatClip(self.tau_), noise_multiplier=self.noise_multiplier_,
            sample_rate=self.sample_rate, steps=self.steps, lr=lr, bias=self.bias, average=self.average, seed=self.seed,
        )  # fmt: skip
        self.coef_, self.intercept_ = run.weight.double().numpy(), run.bias.double().numpy()
        self.ledger_ = run.ledger
        self.report_: PrivacyReport = privacy_report(run.ledger, self.delta, self.accountant)
        return self

    def _checked(self, X: Any, y: Any) -> tuple[Tensor, Tensor]:
        if y is None:
            raise ValueError("this classifier requires y to be passed, but the target y is None")
        validate_data(self, X, reset=True, skip_check_array=True, ensure_2d=False)
        features = check_array(_array(X), dtype=np.float64)
        labels = column_or_1d(_array(y), warn=True)
        check_consistent_length(features, labels)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels if self.classes is None else np.asarray(list(self.classes)))
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise UsageError(f"y holds the label {unknown[0]!r}, which classes does not name")
        self.n_features_in_ = features.shape[1]
        return self._rows(torch.tensor(features)).float(), torch.from_numpy(np.searchsorted(self.classes_, labels))

    def _rows(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.normalize else x

    def _clip_norm(self) -> float:
        if self.tau != "auto":
            return float(self.tau)
        if not self.normalize:
            raise UsageError(
                "tau='auto' needs normalize=True: the smallest constant of the rows as they are is private. Pass tau, "
                "such as clip_norm_range(per_sample_lipschitz(public_features)).grid[2]"
            )
        return clip_norm_range(per_sample_lipschitz(torch.tensor([[1.0]]), self.bias)).grid[2]

    def logits(self, X: Any) -> Float[Tensor, "N C"]:
        """Logits of features, as a tensor with its graph."""
        check_is_fitted(self, "classes_")
        if not isinstance(X, Tensor):
            validate_data(self, X, reset=False, skip_check_array=True, ensure_2d=False)
            X = torch.tensor(check_array(X, dtype=np.float64))
        x = X
        if x.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"X has {x.shape[-1]} features, but PrivateLinearProbe is expecting {self.n_features_in_} features "
                "as input"
            )
        return self._rows(x) @ torch.from_numpy(self.coef_).to(x).T + torch.from_numpy(self.intercept_).to(x)

    def predict_logits(self, X: Any) -> np.ndarray:
        """Logits (N, C), one column a class."""
        return self.logits(_array(X)).detach().cpu().numpy()

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (N, C); for two classes (N,), how far the second leads, as scikit-learn has it."""
        logits = self.predict_logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the logits, (N, C)."""
        return self.logits(_array(X)).detach().softmax(-1).cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row."""
        best = self.predict_logits(X).argmax(1)
        return self.classes_[best]


def private_linear_probe(
    features: Any,
    labels: Any,
    eps: float,
    delta: float,
    tau: float | Literal["auto"] = "auto",
    *,
    lr: float | Literal["auto"] = "auto",
    steps: int = 200,
    batch: int | None = None,
    **settings: Any,
) -> PrivateLinearProbe:
    """A fitted `PrivateLinearProbe`.

    Args:
        features: (N, d) of frozen, public encoders. labels: (N,).
        eps, delta: the budget.
        tau, lr, steps: see `PrivateLinearProbe`.
        batch: expected size of the Poisson batches; default a tenth of the set.
        settings: of `PrivateLinearProbe`.
    """
    rate = 0.1 if batch is None else min(1.0, batch / len(features))
    return PrivateLinearProbe(eps, delta, tau=tau, lr=lr, steps=steps, sample_rate=rate, **settings).fit(
        features, labels
    )


def _array(values: Any) -> Any:
    return values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
