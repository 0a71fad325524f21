"""Whether adversarial examples made on one network fool others: attacks on surrogates, judged by targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_fields, check_whole
from binderclip.robust.attacks.pgd import PGD
from binderclip.robust.checks import (
    PIXELS,
    Box,
    Labels,
    check_box,
    check_classes,
    check_images,
    checked_labels,
    checked_logits,
)

__all__ = ["TransferRates", "TransferStudy", "transfer_success_rate"]


def transfer_success_rate(
    target: Any,
    images: Float[Tensor, "B *size"],
    labels: Labels,
    *,
    box: Box = PIXELS,
    batch_size: int = 256,
) -> float:
    """The share of attacked images that a network does not name rightly.

    Args:
        target: pixels to logits (B, K); put into eval mode meanwhile.
        images: as an attack on another network left them.
        labels: true classes.
        box: range of pixels.
        batch_size: images at a time.

    Raises:
        UsageError: no image, images outside the box or not finite, labels that are no classes, or logits that are not
            finite.
    """
    check_whole("batch_size", batch_size, least=1)
    check_box(box)
    check_images("images", images, box)
    return float(1 - _right(target, images, checked_labels(labels, images), batch_size).float().mean())


@dataclass(frozen=True)
class TransferRates:
    """What attacks on some surrogates do to some targets.

    Attributes:
        surrogates, targets: names.
        rates: share of images that a target takes for something else after the attack on a surrogate.
        own: the same for the surrogate itself.
        images: how many were attacked: those that all targets name rightly.
    """

    surrogates: list[str]
    targets: list[str]
    rates: Float[Tensor, "S T"]
    own: Float[Tensor, "S"]
    images: int

    @property
    def mean(self) -> Float[Tensor, "S"]:
        """Over targets."""
        return self.rates.mean(1)

    @property
    def best(self) -> str:
        """The surrogate with the highest mean; of checkpoints of one run the one that early stopping takes.

        Take it on other images than it is reported on.
        """
        return self.surrogates[int(self.mean.argmax())]

    def __str__(self) -> str:
        width = max(len(name) for name in self.surrogates)
        rows = [f"{'':<{width}}  " + "  ".join([*self.targets, "mean", "itself"])]
        for name, row, mean, own in zip(self.surrogates, self.rates, self.mean, self.own, strict=True):
            cells = [f"{value:>{len(t)}.3f}" for value, t in zip(row.tolist(), self.targets, strict=True)]
            rows.append(f"{name:<{width}}  " + "  ".join([*cells, f"{float(mean):.3f}", f"{float(own):.3f}"]))
        return "\n".join(rows)


@dataclass(frozen=True, kw_only=True)
class TransferStudy:
    """Attacks surrogates by the basic iterative method and counts which targets fall for the result.

    Args:
        targets: name -> network, pixels to logits; put into eval mode meanwhile.
        eps: radius in the maximum norm.
        steps: of the attack, without a random start.
        alpha: step size; default a tenth of `eps`.
        quantize: judge pictures as an 8-bit file keeps them.
        box: range of pixels.
        batch_size: images at a time.

    Call it with surrogates (name -> network), images and labels. Only images that all targets name rightly are used.

    Raises:
        UsageError: no target or surrogate, a setting out of range; when called, no image that all targets name rightly,
            images outside the box or not finite, or logits that are not finite.

    Examples:
        >>> study = TransferStudy(targets={"mlp": mlp, "wide": wide}, eps=0.1)         # doctest: +SKIP
        >>> print(study({"sgd": plain, "sam": flat}, images, labels))                  # doctest: +SKIP

    Paper: Going Further: Flatness at the Rescue of Early Stopping for Adversarial Example Transferability
    (arXiv 2304.02688).
    """

    targets: Mapping[str, Any]
    eps: float = 4 / 255
    steps: int = 50
    alpha: float | None = None
    quantize: bool = False
    box: tuple[float, float] = (0.0, 1.0)
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not self.targets:
            raise UsageError("a transfer study needs at least one target")
        check_fields(self)
        self._attack(None)

    def _attack(self, surrogate: Any) -> PGD:
        alpha = self.eps / 10 if self.alpha is None else self.alpha
        return PGD(
            surrogate,
            self.eps,
            alpha or None,
            self.steps,
            random_start=False,
            keep="last",
            quantize=self.quantize,
            box=self.box,
            batch_size=self.batch_size,
        )

    def usable(self, images: Float[Tensor, "N *size"], labels: Labels) -> Bool[Tensor, "N"]:
        """Which images all targets name rightly."""
        check_images("images", images, self.box)
        known = checked_labels(labels, images)
        right = [_right(target, images, known, self.batch_size) for target in self.targets.values()]
        return torch.stack(right).all(0)

    def __call__(
        self, surrogates: Mapping[str, Any], images: Float[Tensor, "N *size"], labels: Labels
    ) -> TransferRates:
        """Attack every surrogate, and show the result to every target."""
        if not surrogates:
            raise UsageError("a transfer study needs at least one surrogate")
        used = self.usable(images, labels)
        if not bool(used.any()):
            raise UsageError(f"of {number_of(len(images), 'image')} all {len(self.targets)} targets name none rightly")
        x, y = images[used], checked_labels(labels, images)[used]
        rates, own = [], []
        for surrogate in surrogates.values():
            adversarial = self._attack(surrogate)(x, y).images
            rates.append([self._rate(target, adversarial, y) for target in self.targets.values()])
            own.append(self._rate(surrogate, adversarial, y))
        return TransferRates(list(surrogates), list(self.targets), torch.tensor(rates), torch.tensor(own), len(x))

    def _rate(self, target: Any, images: Tensor, labels: Tensor) -> float:
        return transfer_success_rate(target, images, labels, box=self.box, batch_size=self.batch_size)


@torch.no_grad()
def _right(
    network: Any, images: Float[Tensor, "B *size"], labels: Int[Tensor, "B"], batch_size: int
) -> Bool[Tensor, "B"]:
    """Which images a network names rightly, in eval mode."""
    with frozen(*([network] if isinstance(network, nn.Module) else [])):
        logits = [checked_logits(network(x), len(x)) for x in images.split(batch_size)]
    known = torch.cat(logits)
    labels = labels.to(known.device)
    check_classes(labels, known.shape[1])
    return known.argmax(1) == labels
