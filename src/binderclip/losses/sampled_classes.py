"""Classification over a few classes a step: those of the batch and a draw of the others."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.contrastive.loss import LossOutput
from binderclip.losses.contrastive.scale import LogitScale

__all__ = ["SampledClassifier", "sample_classes"]

ClassWeight = Literal["linear", "sqrt", "uniform"]


def sample_classes(
    labels: Int[Tensor, "B"],
    n_classes: int,
    size: int,
    weight: Float[Tensor, "C"] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "M"], Int[Tensor, "B"]]:
    """The classes of a batch and random further ones, and the labels as places among them.

    Further classes are drawn one after the other without replacement from those that the batch misses. A batch with
    `size` classes or more gets no further ones, and loses none.

    Args:
        labels: classes of the batch, from 0, of any signed whole type.
        n_classes: classes there are.
        size: classes wanted; at `n_classes` or more all are taken.
        weight: how likely each class is to be drawn, relative to the others; None for all alike. Of classes with weight
            0 none is drawn, so that there may be fewer than `size`.
        generator: of the draw, on the device of `labels`; None for torch's own.

    Returns:
        Classes, rising, and the place of each label among them, both of type int64.

    Raises:
        UsageError: no label, one outside the classes, a size below 0, or weights other than a finite number from 0 for
            each class.

    Examples:
        >>> classes, places = sample_classes(torch.tensor([7, 2, 7]), n_classes=10, size=0)
        >>> classes.tolist(), places.tolist()
        ([2, 7], [1, 0, 1])
    """
    if weight is not None and (weight.shape != (n_classes,) or not _are_odds(weight)):
        raise UsageError(f"weights are {n_classes} finite numbers from 0, got {tuple(weight.shape)}")
    return _sampled(labels, n_classes, size, weight, generator)


def _are_odds(odds: Int[Tensor, "C"] | Float[Tensor, "C"]) -> bool:
    return bool((odds.isfinite() & (odds >= 0)).all())


def _sampled(
    labels: Int[Tensor, "B"],
    n_classes: int,
    size: int,
    weight: Float[Tensor, "C"] | None,
    generator: torch.Generator | None,
) -> tuple[Int[Tensor, "M"], Int[Tensor, "B"]]:
    """`sample_classes` by weights that were checked before: on a GPU it would wait for each check."""
    if not len(labels) or size < 0:
        raise UsageError(f"sample_classes needs a label at least and a size from 0, got {len(labels)} and {size}")
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= n_classes:
        raise UsageError(f"labels lie between 0 and {n_classes - 1}, got {least} to {most}")
    labels = labels.long()
    if size >= n_classes:
        return torch.arange(n_classes, device=labels.device), labels
    classes = labels.unique()
    odds = torch.ones(n_classes) if weight is None else weight.float()
    odds = odds.to(labels.device).index_fill(0, classes, 0.0)
    missing = min(size - len(classes), int((odds > 0).sum()))
    if missing > 0:
        drawn = torch.multinomial(odds, missing, replacement=False, generator=generator)
        classes = torch.cat([classes, drawn]).sort().values
    return classes, torch.searchsorted(classes, labels)


class SampledClassifier(nn.Module):
    """A cosine classifier whose softmax runs over the classes of the batch and a draw of the others.

    CLIP classifies each picture among the captions of its batch, so that a frequent class cannot push all others down
    in every step; this gives a classifier the same. At the test all classes compete (`logits`).

    Every process of a distributed training draws for its own part of the batch, as in the official code. Rows of the
    head that a step leaves out have gradient 0, and an optimizer's weight decay and momentum still move them.

    Args:
        dim: width of the features.
        n_classes: classes.
        size: classes a step; the paper has 50 to 500 of 1,000. `n_classes` is the ordinary softmax, 0 takes the classes
            of the batch alone.
        weight: of the draw: "linear" in the frequency, its root ("sqrt"), or "uniform".
        freq: (C,) samples of each class; needed unless `weight` is "uniform".
        text_weights: (C, dim) features of the classes' texts that are the head and stay as they are. None: a head is
            learned, from a normal distribution with deviation dim^-0.5.
        scale: the logit scale; default a learned one from 1/0.07 between 1 and 100, as in the official code. Without
            the lower bound it may fall so far in the first steps that nothing is learned.
        generator: of the draws; None for torch's own, whose state a checkpoint of `fit` keeps.

    Raises:
        UsageError: a setting out of its range, no frequencies where the weight needs them, or wrong shapes.

    Examples:
        >>> loss = SampledClassifier(16, 100, size=8, freq=torch.arange(100, 0, -1))
        >>> output = loss(torch.randn(4, 16), torch.tensor([0, 3, 3, 99]))
        >>> float(output.metrics["classes"])
        8.0
        >>> loss.logits(torch.randn(4, 16)).shape
        torch.Size([4, 100])

    Paper: Wen et al., "Generalization Beyond Data Imbalance: A Controlled Study on CLIP for Transferable Insights",
    arXiv 2405.21070.
    """

    odds: Tensor | None

    def __init__(
        self,
        dim: int,
        n_classes: int,
        *,
        size: int = 100,
        weight: ClassWeight = "linear",
        freq: Int[Tensor, "C"] | Float[Tensor, "C"] | None = None,
        text_weights: Float[Tensor, "C dim"] | None = None,
        scale: LogitScale | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(dim, n_classes) < 1 or size < 0 or weight not in get_args(ClassWeight):
            raise UsageError(
                f"SampledClassifier(dim={dim}, n_classes={n_classes}, size={size}, weight={weight!r}): dim and classes "
                f"from 1, size from 0, weight one of {', '.join(get_args(ClassWeight))}"
            )
        if weight != "uniform" and freq is None:
            raise UsageError(f"weight={weight!r} needs freq, the samples of each class; or weight='uniform'")
        if freq is not None and (freq.shape != (n_classes,) or not _are_odds(freq)):
            raise UsageError(f"freq is {n_classes} finite numbers from 0, got {tuple(freq.shape)}")
        head = torch.randn(n_classes, dim) * dim**-0.5 if text_weights is None else text_weights.detach().clone()
        if head.shape != (n_classes, dim) or not bool(head.isfinite().all()):
            raise UsageError(f"text_weights are ({n_classes}, {dim}) finite numbers, got {tuple(head.shape)}")
        self.head = nn.Parameter(head, requires_grad=text_weights is None)
        self.scale = LogitScale(min=1.0) if scale is None else scale
        odds = None if weight == "uniform" or freq is None else freq.float() ** (1.0 if weight == "linear" else 0.5)
        self.register_buffer("odds", odds)
        self.n_classes, self.size, self.weight, self.generator = n_classes, size, weight, generator

    def extra_repr(self) -> str:
        return f"classes={self.n_classes}, size={self.size}, weight={self.weight!r}"

    def logits(self, features: Float[Tensor, "B dim"], classes: Int[Tensor, "M"] | None = None) -> Float[Tensor, "B _"]:
        """Scaled cosines with some rows of the head, or with all."""
        head = self.head if classes is None else self.head[classes]
        return self.scale.value * F.normalize(features, dim=1) @ F.normalize(head, dim=1).T

    def forward(self, features: Float[Tensor, "B dim"], labels: Int[Tensor, "B"]) -> LossOutput:
        """The loss of one batch.

        Args:
            features: raw.
            labels: classes from 0.

        Returns:
            `total`, the term "classification", and the metrics "accuracy" (among the classes of the step), "classes"
            (how many these were) and "scale".

        Raises:
            UsageError: features and labels of different lengths, features of another width or that are not finite, or
                wrong labels.
        """
        if features.shape != (len(labels), self.head.shape[1]):
            raise UsageError(
                f"{len(labels)} labels need features ({len(labels)}, {self.head.shape[1]}), got {tuple(features.shape)}"
            )
        classes, places = _sampled(labels, self.n_classes, self.size, self.odds, self.generator)
        logits = self.logits(features, classes)  # (B, M)
        loss = F.cross_entropy(logits.float(), places)
        if features.device.type == "cpu" and not bool(loss.isfinite()):
            raise UsageError("the loss is not finite: the features hold NaN or infinite values")
        metrics = {
            "accuracy": (logits.argmax(1) == places).float().mean(),
            "classes": torch.tensor(float(len(classes))),
            "scale": self.scale.value.detach(),
        }
        return LossOutput(loss, {"classification": loss}, metrics)
