"""Which cue a network uses where several tell the class equally well, and how hard each of them is to learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.data import CueGrid


@dataclass(frozen=True)
class CueAccuracies:
    """What `WCSTML` found of one network.

    Attributes:
        by_cue: cue -> share of off-diagonal pictures whose predicted class is the value of that cue. 1: the network
            uses it alone, which leaves 1 / K of all others.
        diagonal: accuracy where all cues agree.
        none: share of off-diagonal pictures whose predicted class is the value of no cue.
    """

    by_cue: dict[str, float]
    diagonal: float
    none: float

    @property
    def preferred(self) -> str:
        """The cue that predictions agree with most, the first of equals."""
        return max(self.by_cue, key=lambda name: self.by_cue[name])


@dataclass
class WCSTML:
    """Hold a network that was trained where all cues agree against each cue alone: a card sorting test for networks.

    Networks that do not reach an accuracy of 0.99 on the diagonal did not learn the task: count them apart.

    Paper: Scimeca et al., Which Shortcut Cues Will DNNs Choose? A Study from the Parameter-Space Perspective (arXiv
    2110.03095). One off-diagonal set serves every cue, which gives the same means as a set for each.

    Args:
        grid: makes the pictures.
        n: off-diagonal pictures, and about as many on the diagonal.
        seed: of both sets; another one than that of the training set.
        batch_size: pictures that go through the network at once.

    Raises:
        UsageError: fewer pictures than classes.
    """

    grid: CueGrid
    n: int = 1000
    seed: int = 1_000_003
    batch_size: int = 256
    _sets: tuple[Any, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.n < self.grid.values:
            raise UsageError(f"n is {self.n}, fewer than {self.grid.values} classes")
        self._sets = (
            self.grid.diagonal(-(-self.n // self.grid.values), self.seed), self.grid.off_diagonal(self.n, self.seed + 1)
        )  # fmt: skip

    @torch.no_grad()
    def __call__(self, predict: Callable[[Tensor], Tensor]) -> CueAccuracies:
        """Measure one network.

        Args:
            predict: from (B, 3, S, S) in [0, 1] to scores (B, K) of the classes, in evaluation mode.

        Raises:
            UsageError: scores of another shape.
        """
        together, apart = self._sets
        own, other = self._said(predict, together.images), self._said(predict, apart.images)
        agrees = other[:, None] == apart.cues  # (N, C)
        return CueAccuracies(
            dict(zip(apart.names, agrees.double().mean(dim=0).tolist(), strict=True)),
            float((own == together.cues[:, 0]).double().mean()),
            float((~agrees.any(dim=1)).double().mean()),
        )

    def _said(self, predict: Callable[[Tensor], Tensor], images: Float[Tensor, "N 3 S S"]) -> Int[Tensor, "N"]:
        parts = [predict(part) for part in images.split(self.batch_size)]
        if any(part.ndim != 2 or part.shape[1] != self.grid.values for part in parts):
            raise UsageError(f"predict must give (B, {self.grid.values}) scores, got {tuple(parts[0].shape)}")
        return torch.cat(parts).argmax(dim=1).cpu()


def cue_complexity(
    make: Callable[[], nn.Module],
    images: Float[Tensor, "N ..."],
    labels: Int[Tensor, "N"],
    train: Callable[[nn.Module, Tensor, Tensor], object],
    *,
    classes: int,
    first: int = 16,
    chance: float = 0.01,
) -> float:
    """Prequential code length of the labels, in bits: how much there is to say of a cue that a learner must be told.

    Labels of the first pictures cost log2(K) bits each. Then, prefix by prefix of twice the length, a new network is
    trained on what is known, and the labels up to the next prefix cost -log2 of the probability that it gives them. A
    cue that is learned from few pictures is short; labels without rhyme or reason cost N log2(K).

    The paper orders cues by the complexity of a network that solves them (its estimator is not known to us); code
    lengths after Blier and Ollivier, The Description Length of Deep Learning Models (arXiv 1802.07044), stand for it.

    Paper: Scimeca et al., Which Shortcut Cues Will DNNs Choose? A Study from the Parameter-Space Perspective (arXiv
    2110.03095).

    Args:
        make: a new network, seeded by the caller.
        images, labels: in a random order; labels from 0 to classes - 1.
        train: trains a network on the pictures and labels of a prefix.
        classes: K.
        first: length of the first prefix.
        chance: share of the uniform distribution that is mixed into the network's probabilities, so that no label costs
            more than log2(K / chance) bits; 0 takes them as they are, and one overconfident mistake may cost
            everything.

    Raises:
        UsageError: fewer pictures than `first`, labels outside, or a chance that is not in [0, 1).
    """
    if not 0 <= chance < 1:
        raise UsageError(f"chance is {chance}; it is a share in [0, 1)")
    if not 1 <= first <= len(images) or images.shape[0] != len(labels):
        raise UsageError(f"first is {first}; it is 1 to {len(images)}, and labels must be as many: {len(labels)}")
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise UsageError(f"labels must lie from 0 to {classes - 1}")
    bits, known = first * float(np.log2(classes)), first
    while known < len(images):
        ahead = slice(known, min(2 * known, len(images)))
        net = make()
        train(net, images[:known], labels[:known])
        net.eval()
        with torch.no_grad():
            probs = (1 - chance) * F.softmax(net(images[ahead]), dim=1) + chance / classes
        bits -= float(probs.gather(1, labels[ahead, None]).double().log2().sum())
        known = ahead.stop
    return bits


def cue_preferences(accuracies: Sequence[CueAccuracies], *, least: float = 0.99) -> dict[str, float]:
    """Share of networks that prefer each cue: how much of the space of solutions it takes, seen from random starts.

    Args:
        found: of networks that differ in their start.
        least: accuracy on the diagonal below which a network is left out.

    Raises:
        UsageError: no network is left.
    """
    kept = [one for one in accuracies if one.diagonal >= least]
    if not kept:
        raise UsageError(f"none of {len(accuracies)} networks reaches an accuracy of {least} on the diagonal")
    return {name: sum(one.preferred == name for one in kept) / len(kept) for name in kept[0].by_cue}
