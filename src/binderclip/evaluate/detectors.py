"""A sanity check of detectors of generated pictures: by generator, real and fake apart, and after mere processing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from binderclip.data.distortions.processing import PROCESSING
from binderclip.errors import UsageError

Detect = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) -> (B, 2) logits of real and fake, or (B,) logits, above 0 for fake."""
DROP = 0.2
"""A fall of the fake accuracy by as much against the generators of the training is told as a collapse."""
LEAN = 0.1
"""A threshold that costs as much against the best one is told."""
LEVEL = 0.05


@dataclass(frozen=True)
class GeneratorFigures:
    """How a detector does on one generator.

    Attributes:
        generator: its name.
        seen: whether the detector was trained on it.
        real_accuracy, fake_accuracy: share of real pictures called real and of fakes called fake, at the threshold.
        real_interval, fake_interval: their 95 % intervals (Wilson).
        average_precision: of fake against real over all thresholds; 0.5 for as many of both is chance.
        oracle_accuracy: mean of the two accuracies at the best threshold, which only the truth could have chosen.
        oracle_threshold: that logit, the middle between the pictures that it parts.
        n_real, n_fake: pictures.
    """

    generator: str
    seen: bool
    real_accuracy: float
    fake_accuracy: float
    real_interval: tuple[float, float]
    fake_interval: tuple[float, float]
    average_precision: float
    oracle_accuracy: float
    oracle_threshold: float
    n_real: int
    n_fake: int

    @property
    def accuracy(self) -> float:
        """Mean of the two accuracies."""
        return (self.real_accuracy + self.fake_accuracy) / 2


@dataclass(frozen=True)
class ProcessingFigures:
    """What processing does to real pictures, which it does not make fake.

    Attributes:
        processing: its name.
        before, after: share of the real pictures that are called fake.
        turned: real pictures that are called fake only after it. back: those only before it.
        p_value: exact McNemar test of the two, two-sided.
        average_precision: of processed against unprocessed; near 0.5 where the detector does not see the processing.
        n: pictures.
    """

    processing: str
    before: float
    after: float
    turned: int
    back: int
    p_value: float
    average_precision: float
    n: int

    @property
    def shortcut(self) -> bool:
        """Whether the detector takes the processing for generation, beyond chance."""
        return self.after > self.before and self.p_value < LEVEL


class DetectorSanityCheck:
    """Figures of a detector generator by generator, and what it makes of real pictures after mere processing.

    A mean over easy generators hides that most hard fakes are called real, and a detector that has learned how one
    class was stored calls a compressed photograph generated.

    Args:
        real: (N,) logits of real pictures, above 0 for fake.
        fakes: generator -> logits of its pictures.
        own_real: generator -> logits of real pictures of its own, instead of `real`.
        processed: processing -> (N,) logits of the same real pictures after it.
        seen: generators that the detector was trained on.
        threshold: of the logit. Default 0, a probability of one half.

    Attributes:
        figures: one `GeneratorFigures` a generator.
        controls: one `ProcessingFigures` a processing.

    Raises:
        UsageError: no picture of a side, logits that are not finite, or processed pictures of another number.

    Paper: A Sanity Check for AI-generated Image Detection (arXiv 2406.19435).

    Examples:
        >>> fakes = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([-3.0])}
        >>> check = DetectorSanityCheck(torch.tensor([-2.0, -1.0]), fakes)
        >>> [figures.fake_accuracy for figures in check.figures]
        [1.0, 0.0]
    """

    def __init__(
        self,
        real: Float[Tensor, "N"] | None,
        fakes: Mapping[str, Float[Tensor, "_"]],
        *,
        own_real: Mapping[str, Float[Tensor, "_"]] | None = None,
        processed: Mapping[str, Float[Tensor, "N"]] | None = None,
        seen: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> None:
        own = own_real or {}
        if not fakes or any(not len(values) for values in fakes.values()):
            raise UsageError("a sanity check needs generators, and pictures of each")
        self.threshold = threshold
        self.figures: list[GeneratorFigures] = []
        for name, logits in fakes.items():
            beside = own.get(name, real)
            if beside is None or not len(beside):
                raise UsageError(f"there are no real pictures to compare {name!r} with")
            self.figures.append(_figures(name, name in seen, _checked(beside), _checked(logits), threshold))
        self.controls: list[ProcessingFigures] = []
        for name, logits in (processed or {}).items():
            if real is None or logits.shape != real.shape:
                raise UsageError(f"{name!r}: processed pictures have to be the real ones, one for one")
            self.controls.append(_control(name, _checked(real), _checked(logits), threshold))

    @classmethod
    @torch.no_grad()
    def measure(
        cls,
        detect: Detect,
        real: Float[Tensor, "N 3 H W"],
        fakes: Mapping[str, Float[Tensor, "_ 3 H W"]],
        *,
        processing: Mapping[str, Callable[[Tensor], Tensor]] = PROCESSING,
        seen: Sequence[str] = (),
        batch_size: int = 32,
    ) -> DetectorSanityCheck:
        """Run a detector over pictures of one size, and over the real ones after every processing.

        Args:
            detect: images -> (B, 2) logits of real and fake, or (B,).
            real: in [0, 1].
            fakes: generator -> pictures.
            processing: name -> what is done to the real pictures.
            seen: generators that the detector was trained on.
            batch_size: pictures that go through at once.
        """

        def logits(images: Tensor) -> Tensor:
            detections = torch.cat([detect(part) for part in images.split(batch_size)])
            return detections[:, 1] - detections[:, 0] if detections.ndim == 2 else detections

        return cls(
            logits(real),
            {name: logits(images) for name, images in fakes.items()},
            processed={name: logits(change(real)) for name, change in processing.items()},
            seen=seen,
        )

    @property
    def findings(self) -> list[str]:
        """What a person must know before she trusts the detector, one sentence each; empty where nothing was found."""
        lines = []
        known = [figures.fake_accuracy for figures in self.figures if figures.seen]
        for figures in self.figures:
            if known and not figures.seen and figures.fake_accuracy <= np.mean(known) - DROP:
                lines.append(
                    f"{1 - figures.fake_accuracy:.0%} of the pictures by {figures.generator}, which it was not trained "
                    f"on, are called real; of those it was trained on {1 - np.mean(known):.0%}"
                )
        for figures in self.figures:
            if figures.seen and figures.oracle_accuracy - figures.accuracy >= LEAN:
                side = "fake" if figures.oracle_threshold > self.threshold else "real"
                lines.append(
                    f"it leans to {side}: against {figures.generator} it is right in {figures.accuracy:.0%} of cases, "
                    f"with a logit of {figures.oracle_threshold:.2f} as threshold, chosen on these pictures, in "
                    f"{figures.oracle_accuracy:.0%}"
                )
        for control in self.controls:
            if control.shortcut:
                lines.append(
                    f"real pictures after {control.processing} are called fake in {control.after:.0%} of cases, before "
                    f"it in {control.before:.0%}: it takes the processing for generation"
                )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "generators": [asdict(figures) for figures in self.figures],
            "processing": [asdict(control) | {"shortcut": control.shortcut} for control in self.controls],
            "findings": self.findings,
        }


def _checked(logits: Float[Tensor, "M"]) -> Float[np.ndarray, "M"]:
    values = logits.detach().double().cpu().numpy()
    if not np.isfinite(values).all():
        raise UsageError("logits hold NaN or infinite values")
    return values


def _share(hits: Float[np.ndarray, "M"]) -> tuple[float, tuple[float, float]]:
    """A share and its Wilson interval."""
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return float(hits.mean()), (float(interval.low), float(interval.high))


def _figures(
    name: str, seen: bool, real: Float[np.ndarray, "N"], fake: Float[np.ndarray, "M"], threshold: float
) -> GeneratorFigures:
    right, interval = _share((real <= threshold).astype(float))
    caught, caught_interval = _share((fake > threshold).astype(float))
    return GeneratorFigures(
        name, seen, right, caught, interval, caught_interval, detection_average_precision(real, fake),
        *_oracle(real, fake), len(real), len(fake),
    )  # fmt: skip


def _oracle(real: Float[np.ndarray, "N"], fake: Float[np.ndarray, "M"]) -> tuple[float, float]:
    """The best mean of the two accuracies over all thresholds, and that threshold."""
    there = np.unique(np.concatenate([real, fake]))
    cuts = np.concatenate([[-np.inf], there])
    right = np.searchsorted(np.sort(real), cuts, side="right") / len(real)  # real pictures at or below the threshold
    caught = 1 - np.searchsorted(np.sort(fake), cuts, side="right") / len(fake)
    mean = (right + caught) / 2
    best = int(mean.argmax())
    ends = np.concatenate([[there[0] - 1], there, [there[-1] + 1]])  # beyond the pictures on both sides
    return float(mean[best]), float((ends[best] + ends[best + 1]) / 2)


def detection_average_precision(real: Float[np.ndarray, "N"], fake: Float[np.ndarray, "M"]) -> float:
    """scikit-learn's average precision of fake against real."""
    from sklearn.metrics import average_precision_score

    truth = np.concatenate([np.zeros(len(real)), np.ones(len(fake))])
    return float(average_precision_score(truth, np.concatenate([real, fake])))


def _control(
    name: str, before: Float[np.ndarray, "N"], after: Float[np.ndarray, "N"], threshold: float
) -> ProcessingFigures:
    was, now = before > threshold, after > threshold
    turned, back = int((now & ~was).sum()), int((was & ~now).sum())
    p_value = float(binomtest(turned, turned + back).pvalue) if turned + back else 1.0
    return ProcessingFigures(
        name,
        float(was.mean()),
        float(now.mean()),
        turned,
        back,
        p_value,
        detection_average_precision(before, after),
        len(before),
    )
