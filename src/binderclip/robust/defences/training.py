"""Adversarial training: a step for `fit` whose batch is attacked before its loss is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.numeric import check_whole
from binderclip.robust.attacks.pgd import PGD


def adversarial_step(
    model: Callable[[Tensor], Tensor],
    attack: PGD,
    *,
    loss: Callable[[Any, Tensor, Tensor], Any] | None = None,
    seed: int = 0,
) -> Callable[[tuple[Tensor, Tensor]], Any]:
    """The step of adversarial training: `fit(adversarial_step(net, PGD(net, ..., keep="last")), net, batches, ...)`.

    The attack sees the model in eval mode, the loss in the mode it is in.

    Args:
        model: pixels to logits; what is trained.
        attack: from images and labels to an `AttackResult`, against the same model. `keep="last"` is what training
            usually takes, and saves a forward pass.
        loss: `(model, images, labels) -> loss` on the attacked images; default the cross-entropy. A
            `losses.GradientAlignmentLoss` makes the combination of both defences.
        seed: of the attack's random starts, which go on from batch to batch.

    Raises:
        UsageError: a seed that is no whole number; at a step, what the attack refuses.

    Paper: Towards Deep Learning Models Resistant to Adversarial Attacks (arXiv 1706.06083).
    """
    check_whole("seed", seed)
    generator = torch.Generator().manual_seed(seed)
    take = _cross_entropy if loss is None else loss

    def step(batch: tuple[Tensor, Tensor]) -> Any:
        images, labels = batch
        return take(model, attack(images, labels, generator=generator).images, labels)

    return step


def _cross_entropy(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images), labels)
