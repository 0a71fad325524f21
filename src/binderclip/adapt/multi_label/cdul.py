"""CDUL: an ordinary network learns from soft multi-label pseudo-labels, which are refined while it learns."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from binderclip.adapt.heads.settings import check_settings
from binderclip.adapt.heads.tuned import Training, Tunable, train_tunable
from binderclip.adapt.multi_label.labels import PseudoLabels, TileAggregator, multilabel_average_precision
from binderclip.errors import UsageError
from binderclip.fit.optimizers import OptimizerLike

EDGE = 1e-6
"""Labels stay this far from 0 and 1, where their logits would be infinite."""
PATIENCE = 3
"""Refinements after which falling labels stop the training, where the truth is known."""


@dataclass(kw_only=True, eq=False, repr=False)
class CDUL(BaseEstimator):
    """Learn a multi-label classifier from pictures without any annotation.

    The network's softmax p follows the pseudo-labels y by KL(p || y); from time to time y follows p in turn, by one
    gradient step of KL(y || p) on the logit of y, weighted by a Gaussian so that undecided labels move most.

    Args:
        aggregator: makes the first labels from the views given to `fit`; None where `fit` gets labels.
        network: maps what `fit` gets (the first view) to logits (N, C); a copy is trained. None: a linear layer on
            standardised unit features.
        epochs: passes over the pictures.
        lr: Adam's rate. Default 1e-3, for a linear layer; the paper's 1e-5 is for a pretrained network.
        batch_size: pictures a step.
        warmup: epochs before the first refinement.
        update_every: epochs between refinements; 0 never refines.
        sigma: standard deviation of the Gaussian around 0.5.
        step: length of the label's gradient step. The released program divides the gradient by its batch size, 8:
            step = 1/8 there.
        presence: probability above which `predict` calls a class present; None: 1 / C.
        optimizer: as `fit` takes it.
        seed: of initial weights and order.

    Attributes:
        classes_, network_: names of the classes, and the trained network.
        ids_, labels_: names of the pictures and their refined labels (I, C), in [1e-6, 1 - 1e-6].
        label_history_: with `truth`, the labels' mean average precision at first and after each refinement.
        history_: figures of the training steps.

    Raises:
        UsageError: a setting out of range, or shapes that do not fit.

    Paper: Reproducibility Study of CDUL: CLIP-Driven Unsupervised Learning for Multi-Label Image Classification
    (arXiv 2405.11574).

    Examples:
        >>> views = Tiles(3).features(model, paths, on_error="skip")  # doctest: +SKIP
        >>> head = CDUL(TileAggregator(bank)).fit(views.features, ids=views.paths)  # doctest: +SKIP
        >>> head.predict_proba(model.encode_image(others))  # doctest: +SKIP
    """

    aggregator: TileAggregator | None = field(default=None, kw_only=False)
    network: nn.Module | None = field(default=None, kw_only=False)
    epochs: int = 100
    lr: float = 1e-3
    batch_size: int = 32
    warmup: int = 10
    update_every: int = 10
    sigma: float = 1.0
    step: float = 1.0
    presence: float | None = None
    optimizer: OptimizerLike = "adam"
    seed: int = 0

    def fit(self, X: Any, y: Any = None, *, ids: Sequence[Any] | None = None, truth: Any = None) -> CDUL:
        """Learn.

        Args:
            X: views (N, V, d), the whole picture first (`Tiles`); features (N, d), or what `network` takes
                (N, ...), together with labels.
            y: first labels: `PseudoLabels` or (N, C) in [0, 1]; None: the aggregator makes them from X.
            ids: N names of pictures. Rows with one name (augmented views of a picture) share one label, at first the
                mean of theirs. Default: every row is a picture.
            truth: (I, C), what the named pictures really show, in the order of their first rows: only to watch the
                labels, and to stop when they are worse than at first after three refinements.
        """
        check_settings(self)
        if self.sigma <= 0 or self.update_every < 0 or self.warmup < 0:
            raise UsageError(
                f"sigma {self.sigma} is above 0, update_every {self.update_every} and warmup {self.warmup} at least 0"
            )
        x = torch.as_tensor(X).detach().cpu().float()
        if not bool(x.isfinite().all()):
            raise UsageError("X contains NaN or infinity")
        labels = self._first_labels(x, y)
        inputs = self._inputs(x)
        self.ids_, owner = _owners(ids, len(x))
        sums = torch.zeros(len(self.ids_), labels.shape[1], dtype=torch.float64).index_add_(0, owner, labels)
        sums /= torch.bincount(owner)[:, None]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = copy.deepcopy(self.network) if self.network is not None else _Linear(inputs, labels.shape[1])
        module = _Refining(network, sums.clamp(EDGE, 1 - EDGE), len(x), self, truth)
        training = Training(
            lr=self.lr, epochs=self.epochs, batch_size=self.batch_size, optimizer=self.optimizer,
            schedule="constant", seed=self.seed, callbacks=[_Stop(module)],
        )  # fmt: skip
        result = train_tunable(module, inputs[:, None], owner, training)
        self.network_, self.labels_ = network, module.labels
        self.label_history_ = module.quality
        self.history_ = {} if result is None else dict(result.history)
        return self

    def _inputs(self, x: Tensor) -> Tensor:
        x = x[:, 0] if x.ndim == 3 else x
        return F.normalize(x, dim=-1) if self.network is None else x

    def _first_labels(self, x: Tensor, y: Any) -> Float[Tensor, "N C"]:
        if y is None:
            if self.aggregator is None:
                raise UsageError("CDUL without an aggregator needs labels: fit(X, labels)")
            y = self.aggregator(x)
        if isinstance(y, PseudoLabels):
            labels, names = y.labels, list(y.classes)
        else:
            labels = torch.as_tensor(np.asarray(y))
            names = list(range(labels.shape[-1]))
        if labels.ndim != 2 or len(labels) != len(x) or not bool(((labels >= 0) & (labels <= 1)).all()):
            raise UsageError(f"labels must be ({len(x)}, C) in [0, 1], got {tuple(labels.shape)}")
        self.classes_ = np.asarray(names)
        return labels.detach().cpu().double()

    @torch.no_grad()
    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (N, C) of features (N, d), of views (N, V, d) whose first is looked at, or of the network's input."""
        check_is_fitted(self, "network_")
        device = next(self.network_.parameters()).device
        return self.network_(self._inputs(torch.as_tensor(X).detach().float()).to(device)).double().cpu().numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax over the classes (N, C): a picture's probability is shared among what it shows."""
        return torch.from_numpy(self.decision_function(X)).softmax(-1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """(N, C), True where a class's probability exceeds `presence`."""
        least = 1 / len(self.classes_) if self.presence is None else self.presence
        return self.predict_proba(X) > least

    def score(self, X: Any, y: Any) -> float:
        """Mean average precision against the truth (N, C)."""
        return multilabel_average_precision(y, self.predict_proba(X))


def _owners(ids: Sequence[Any] | None, rows: int) -> tuple[list[Any], Int[Tensor, "N"]]:
    """Distinct names in the order of their first rows, and the index of each row's name."""
    names = list(range(rows)) if ids is None else list(ids)
    if len(names) != rows:
        raise UsageError(f"ids has {len(names)} names for {rows} pictures")
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return list(place), torch.tensor([place[name] for name in names])


class _Linear(nn.Module):
    """A linear layer on features brought to mean 0 and spread 1 over the training pictures."""

    def __init__(self, x: Float[Tensor, "N d"], classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(x.shape[1], classes)
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("spread", x.std(0, correction=0).mean().clamp_min(1e-8))

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N C"]:
        return self.layer((x - self.mean) / self.spread)


def divergence(log_p: Float[Tensor, "B C"], y: Float[Tensor, "B C"]) -> Float[Tensor, "B"]:
    """KL(p || y) of each row, y brought to sum 1."""
    log_y = (y / y.sum(-1, keepdim=True)).log()
    return (log_p.exp() * (log_p - log_y)).sum(-1)


def label_gradient(y: Float[Tensor, "B C"], log_p: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """d/dy of KL(y || p) of each row, through the normalisation of y: (log(yn / p) - KL) / sum(y)."""
    total = y.sum(-1, keepdim=True)
    fraction = y / total
    ratio = fraction.log() - log_p
    return (ratio - (fraction * ratio).sum(-1, keepdim=True)) / total


def refine(
    y: Float[Tensor, "B C"], log_p: Float[Tensor, "B C"], *, sigma: float = 1.0, step: float = 1.0
) -> Float[Tensor, "B C"]:
    """Labels after one step on their logits towards the network's probabilities, undecided ones most."""
    psi = torch.exp(-0.5 * ((y - 0.5) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return torch.sigmoid(torch.logit(y) - step * psi * label_gradient(y, log_p)).clamp(EDGE, 1 - EDGE)


class _Refining(Tunable):
    """The network with the labels of all pictures, in double precision, by picture and not by place in a batch."""

    def __init__(self, network: nn.Module, labels: Float[Tensor, "I C"], rows: int, settings: CDUL, truth: Any) -> None:
        super().__init__()
        self.network, self.rows, self.settings = network, rows, settings
        self.labels, self.truth = labels, truth
        self.seen, self.quality = 0, [] if truth is None else [multilabel_average_precision(truth, labels)]
        self.stopped = False

    def logits(self, x: Float[Tensor, "B ..."], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        return self.network(x)

    def losses(self, x: Float[Tensor, "B ..."], targets: Int[Tensor, "B"], rows: Int[Tensor, "B"]) -> dict[str, Tensor]:
        log_p = F.log_softmax(self.logits(x), -1)
        if log_p.shape[1] != self.labels.shape[1]:
            raise UsageError(f"network gives {log_p.shape[1]} logits for {self.labels.shape[1]} classes")
        y = self.labels[targets.cpu()].to(log_p)
        loss = divergence(log_p, y).mean()
        epoch = self.seen // self.rows + 1
        self.seen += len(rows)
        every = self.settings.update_every
        if every and epoch > self.settings.warmup and epoch % every == 0:
            self._refine(targets.cpu(), log_p.detach().double().cpu())
            if self.seen % self.rows == 0:
                self._watch()
        return {"task": loss}

    def _refine(self, owner: Int[Tensor, "B"], log_p: Float[Tensor, "B C"]) -> None:
        # Several views of one picture move its label together, by their mean probability.
        rows, place = owner.unique(return_inverse=True)
        mean = torch.zeros(len(rows), log_p.shape[1], dtype=log_p.dtype).index_add_(0, place, log_p.exp())
        mean = (mean / torch.bincount(place)[:, None]).clamp_min(1e-30)
        settings = self.settings
        self.labels[rows] = refine(self.labels[rows], mean.log(), sigma=settings.sigma, step=settings.step)

    def _watch(self) -> None:
        if self.truth is not None:
            self.quality.append(multilabel_average_precision(self.truth, self.labels))
            self.stopped = len(self.quality) > PATIENCE and self.quality[-1] < self.quality[0]


class _Stop:
    """Ends `fit` when the watched labels have become worse than they were."""

    def __init__(self, module: _Refining) -> None:
        self.module = module

    def after_step(self, step: int) -> bool:
        return self.module.stopped
