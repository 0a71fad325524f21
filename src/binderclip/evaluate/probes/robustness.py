"""Robustness along several axes from one table of predictions: factors, shape bias, calibration, unknown classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import logsumexp
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.evaluate.probes.group_reports import wilson
from binderclip.evaluate.probes.measures import calibration_error_measure
from binderclip.evaluate.probes.table import PredictionTable, as_table
from binderclip.numeric import check_number
from binderclip.segment.metrics.anomaly import binary_auroc
from binderclip.similarity.arrays import Rows
from binderclip.similarity.temperature import fit_temperature

OODScore: TypeAlias = Literal["msp", "max_logit", "energy"]


@dataclass(frozen=True)
class FactorRatio:
    """Error on the pictures that have a factor over the error on all pictures.

    Attributes:
        ratio: 1 where the factor makes no difference; NaN without an error or without such a picture.
        low, high: 95 % bootstrap interval over pictures; NaN where those with the factor are all right or all wrong, as
            they are then in every resample.
        accuracy: on the pictures that have it. n: how many.
    """

    ratio: float
    low: float
    high: float
    accuracy: float
    n: int


def factor_error_ratio(
    table: PredictionTable, factors: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> dict[str, FactorRatio]:
    """How many times more often a model errs where a factor is present: ER_f = (1 - acc_f) / (1 - acc_all).

    Factors overlap, so that ratios do not add up.

    Papers: Idrissi et al., ImageNet-X (ICLR 2023, arXiv 2211.01866), as in Toward a Holistic Evaluation of Robustness
    in CLIP Models (arXiv 2410.01534).

    Args:
        table: the predictions; rows without a target are left out.
        factors: names of attributes that are true or false, None where it is unknown.
        draws, seed: of the bootstrap.

    Raises:
        UsageError: no factor, an unknown one, one that is not true or false, or no row with a target.
    """
    if not factors:
        raise UsageError("name at least one factor")
    known = table.known
    wrong = (~table.correct[known]).astype(float)
    rng = np.random.default_rng(seed)
    times = (
        rng.multinomial(len(wrong), np.full(len(wrong), 1 / len(wrong)), draws).astype(float) if len(wrong) else None
    )
    ratios = {}
    for name in factors:
        column = np.array(table.column(name), dtype=object)[known]
        if any(value is not None and not isinstance(value, bool) for value in column):
            raise UsageError(f"factor {name!r} must be true or false, None where it is unknown")
        has = np.array([value is True for value in column], dtype=float)
        sums = np.stack([has * wrong, has, wrong, np.ones_like(wrong)])  # (4, N)
        value = float(_error_ratio(sums.sum(axis=1)))
        low = high = float("nan")
        if not np.isnan(value) and 0 < sums[0].sum() < sums[1].sum():
            drawn = _error_ratio((times @ sums.T).T)
            if np.isnan(drawn).mean() < 0.05:
                low, high = np.nanquantile(drawn, [0.025, 0.975]).tolist()
        count = int(has.sum())
        rate = float(1 - (has * wrong).sum() / count) if count else float("nan")
        ratios[name] = FactorRatio(value, low, high, rate, count)
    return ratios


def _error_ratio(sums: Float[np.ndarray, "4 *D"]) -> Float[np.ndarray, "*D"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (sums[0] / sums[1]) / (sums[2] / sums[3])
    return np.where(np.isfinite(value), value, np.nan)


@dataclass(frozen=True)
class ShapeBias:
    """Whether predictions follow the shape or the texture where both are of different classes.

    Attributes:
        bias: share of shape among the predictions that are either; NaN where none is.
        low, high: 95 % interval, Wilson's.
        decided: share of the pictures that are predicted to be either.
        n: pictures.
    """

    bias: float
    low: float
    high: float
    decided: float
    n: int


def shape_bias(table: PredictionTable, *, shape: str = "shape", texture: str = "texture") -> ShapeBias:
    """Share of shape decisions on pictures with conflicting cues, other predictions left out.

    Papers: Geirhos et al., ImageNet-trained CNNs are biased towards texture (ICLR 2019, arXiv 1811.12231), as in
    Toward a Holistic Evaluation of Robustness in CLIP Models (arXiv 2410.01534).

    Args:
        table: the predictions; rows whose shape and texture are one class are left out.
        shape, texture: attributes that hold names of classes.

    Raises:
        UsageError: an unknown attribute or class, or no picture whose cues conflict.
    """
    one, other = (np.array([-1 if v is None else table.class_index(str(v)) for v in table.column(name)], dtype=np.int64)
                  for name in (shape, texture))  # fmt: skip
    rows = (one >= 0) & (other >= 0) & (one != other)
    if not rows.any():
        raise UsageError(f"no picture has a {shape} and a {texture} of different classes")
    predicted = table.predicted[rows]
    by_shape, by_texture = int((predicted == one[rows]).sum()), int((predicted == other[rows]).sum())
    either = by_shape + by_texture
    low, high = (limit.item() for limit in wilson(np.array([by_shape], dtype=float), np.array([either], dtype=float)))
    return ShapeBias(
        by_shape / either if either else float("nan"), low, high, either / len(predicted), len(predicted)
    )  # fmt: skip


def expected_calibration_error(
    table: PredictionTable | Rows, target: Any = None, *, temperature: float = 1.0, bins: int = 15
) -> float:
    """Sum over bins of n_b / n |accuracy_b - confidence_b|; bins are (lo, hi], the first with 0 in it.

    torchmetrics has [lo, hi) and a bin of its own for a confidence of 1, which differs at the edges.

    Args:
        table: the predictions, or logits (N, C). target: with logits, (N,) index of the right class.
        temperature: divides the logits. bins: of equal width.

    Raises:
        UsageError: as `as_table`, a temperature that is not above 0, or no bin.
    """
    table = as_table(table, target)
    check_number("temperature", temperature, above=0)
    measure = calibration_error_measure(bins)
    return float(measure.value(measure.columns(replace(table, scores=table.scores / temperature)).sum(axis=0)))


def negative_log_likelihood(table: PredictionTable | Rows, target: Any = None, *, temperature: float = 1.0) -> float:
    """Mean of -log p of the target over rows that have one and a prediction; NaN without.

    Args:
        table: the predictions, by softmax, or logits (N, C). target: with logits, (N,) index of the right class.
        temperature: divides the logits.

    Raises:
        UsageError: as `as_table`.
    """
    table = as_table(table, target)
    rows = _usable(table)
    scaled = table.scores[rows] / temperature
    own = scaled[np.arange(len(scaled)), table.target[rows]]
    return float((logsumexp(scaled, axis=1) - own).mean()) if len(scaled) else float("nan")


def table_temperature(table: PredictionTable | Rows, target: Any = None) -> float:
    """The temperature of the largest likelihood; on a table in distribution that nothing else is measured on.

    Args:
        table: the predictions, by softmax, or logits (N, C). target: with logits, (N,) index of the right class.

    Raises:
        UsageError: as `as_table`, or no row with a target and a prediction.
    """
    table = as_table(table, target)
    rows = _usable(table)
    if not rows.any():
        raise UsageError("no row has a target and a prediction: there is nothing to fit a temperature on")
    return fit_temperature(table.scores[rows], table.target[rows], smooth=False)


def _usable(table: PredictionTable) -> np.ndarray:
    return table.known & ~np.isnan(table.scores).any(axis=1)


def ood_scores(table: PredictionTable, kind: OODScore = "msp", *, temperature: float = 1.0) -> Float[np.ndarray, "N"]:
    """How much each picture looks as if it were of the known classes; larger is more so.

    Args:
        table: the predictions.
        kind: "msp", the largest probability (Hendrycks and Gimpel, arXiv 1610.02136); with the temperature that turns
            logits back into cosines it is the maximum concept matching of Ming et al. (arXiv 2211.13445); "max_logit";
            or "energy", T logsumexp(logits / T).
        temperature: T.

    Raises:
        UsageError: another kind, or a temperature that is not above 0.
    """
    if kind not in ("msp", "max_logit", "energy") or not temperature > 0:
        raise UsageError(f"kind is {kind!r}: 'msp', 'max_logit' or 'energy'; temperature {temperature} must be above 0")
    if kind == "msp":
        return table.confidence(temperature)
    if kind == "max_logit":
        return table.scores.max(axis=1)
    return temperature * logsumexp(table.scores / temperature, axis=1)


@dataclass(frozen=True)
class OODDetection:
    """How well a score tells known from unknown classes.

    Attributes:
        auroc: area under the ROC curve, known ones positive.
        fpr95: share of the unknown ones above the threshold that 95 % of the known ones reach.
    """

    auroc: float
    fpr95: float


def ood_detection(known: Float[np.ndarray | Tensor, "N"], unknown: Float[np.ndarray | Tensor, "M"]) -> OODDetection:
    """Measure scores of pictures of known classes against those of others.

    Args:
        known, unknown: larger is more in distribution; the threshold is the largest that 95 % of the known ones reach.

    Raises:
        UsageError: an empty set, or a score that is not finite.
    """
    inside, outside = (
        np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=float) for x in (known, unknown)
    )
    if not len(inside) or not len(outside) or not np.isfinite(np.concatenate([inside, outside])).all():
        raise UsageError(f"scores must be finite, some of each; got {inside.shape} and {outside.shape}")
    threshold = np.sort(inside)[::-1][int(np.ceil(0.95 * len(inside))) - 1]
    scores = torch.from_numpy(np.concatenate([inside, outside]))
    labels = torch.arange(len(scores)) < len(inside)
    ranks = torch.unique(scores, return_inverse=True)[1].double()  # the area depends on the order alone
    return OODDetection(binary_auroc(ranks, labels), float((outside >= threshold).mean()))


@dataclass(frozen=True)
class RobustnessReport:
    """What `RobustnessSuite` found of one model.

    Attributes:
        accuracy: data set -> accuracy, "test" first.
        drop: shifted set -> share of the test accuracy that is lost.
        temperature: fitted on the validation table.
        ece, nll: data set -> (before, after the temperature).
        factors: factor -> error ratio on the test table.
        shape: of the table with conflicting cues, None without one.
        unknown: set of unknown classes -> score -> detection, against the test table.
    """

    accuracy: dict[str, float]
    drop: dict[str, float]
    temperature: float
    ece: dict[str, tuple[float, float]]
    nll: dict[str, tuple[float, float]]
    factors: dict[str, FactorRatio]
    shape: ShapeBias | None
    unknown: dict[str, dict[str, OODDetection]]

    def rows(self) -> list[tuple[str, str, float]]:
        """(axis, where, value), for a table."""
        rows: list[tuple[str, str, float]] = [("accuracy", name, value) for name, value in self.accuracy.items()]
        rows += [("relative drop", name, value) for name, value in self.drop.items()]
        for name in self.ece:
            rows += [("calibration error", name, self.ece[name][0]), ("scaled", name, self.ece[name][1])]
        rows += [("error ratio", name, one.ratio) for name, one in self.factors.items()]
        if self.shape is not None:
            rows.append(("shape bias", "conflicting cues", self.shape.bias))
        for name, kinds in self.unknown.items():
            for kind, one in kinds.items():
                rows += [(f"AUROC, {kind}", name, one.auroc), (f"FPR at 95 % TPR, {kind}", name, one.fpr95)]
        return rows

    def _repr_html_(self) -> str:
        """The figures, in a notebook."""
        from binderclip.display import table_html

        return table_html(("axis", "on", "value"), self.rows())


@dataclass(frozen=True)
class RobustnessSuite:
    """Every axis of robustness that stored predictions can tell: nothing here runs a model.

    Several models are compared by `effective_robustness` on their reports' accuracies; retrieval is `retrieval`, and
    what patches know of geometry `patch_correspondence`. Each axis has its own function too.

    Paper: Tu et al., Toward a Holistic Evaluation of Robustness in CLIP Models (IEEE TPAMI 2025, arXiv 2410.01534).

    Args:
        validation: predictions in distribution, for the temperature alone.
        test: other predictions in distribution, with the factors as attributes.
        shifted: name -> predictions on pictures of the same classes under a shift.
        unknown: name -> predictions on pictures of other classes.
        conflicting: predictions on pictures whose attributes `shape` and `texture` name different classes.
        factors: attributes of `test` that are true or false.

    Raises:
        UsageError: tables of different classes, or pictures that are in both validation and test.
    """

    validation: PredictionTable
    test: PredictionTable
    shifted: Mapping[str, PredictionTable] = field(default_factory=dict)
    unknown: Mapping[str, PredictionTable] = field(default_factory=dict)
    conflicting: PredictionTable | None = None
    factors: Sequence[str] = ()

    def __post_init__(self) -> None:
        tables = [self.test, *self.shifted.values(), *self.unknown.values()]
        tables += [] if self.conflicting is None else [self.conflicting]
        if any(table.classes != self.validation.classes for table in tables):
            raise UsageError("all tables must have the same classes, in one order")
        if shared := set(self.validation.keys) & set(self.test.keys):
            raise UsageError(
                f"picture {sorted(shared)[0]!r} is in both validation and test: a fit flatters itself there"
            )

    def report(self, *, draws: int = 1000, seed: int = 0) -> RobustnessReport:
        """Compute all axes.

        Args:
            draws, seed: of the bootstraps.

        Raises:
            UsageError: as the functions of each axis.
        """
        heat = table_temperature(self.validation)
        sets = {"test": self.test, **self.shifted}
        accuracy = {name: _accuracy(table) for name, table in sets.items()}
        whole = accuracy["test"] or float("nan")

        def both(figure: Any) -> dict[str, tuple[float, float]]:
            return {name: (figure(table), figure(table, temperature=heat)) for name, table in sets.items()}

        kinds: tuple[OODScore, ...] = ("msp", "max_logit", "energy")
        unknown: dict[str, dict[str, OODDetection]] = {
            name: {kind: ood_detection(ood_scores(self.test, kind), ood_scores(table, kind)) for kind in kinds}
            for name, table in self.unknown.items()
        }
        return RobustnessReport(
            accuracy,
            {name: 1 - accuracy[name] / whole for name in self.shifted},
            heat,
            both(expected_calibration_error),
            both(negative_log_likelihood),
            factor_error_ratio(self.test, self.factors, draws=draws, seed=seed) if self.factors else {},
            None if self.conflicting is None else shape_bias(self.conflicting),
            unknown,
        )


def _accuracy(table: PredictionTable) -> float:
    return float(table.correct[table.known].mean()) if table.known.any() else float("nan")
