"""Does a temperature that follows the alignment, with rows divided by their easiness, learn better in small batches?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.losses import ContrastiveLoss, clip, macl
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.training import contrastive_towers as towers

STEPS, BATCH, TAU0, ALPHA = 300, 64, 0.1, 0.5
MACL, AGAIN = "MACL", "InfoNCE 0.1, another seed"
FIXED = {f"InfoNCE {tau:g}": tau for tau in (0.05, 0.1, 0.2)}
BASE = "InfoNCE 0.1"


def info_nce_at(tau: float) -> Callable[[], ContrastiveLoss]:
    """InfoNCE at a temperature that stays."""
    return lambda: clip(init_scale=1 / tau, learnable=False)


LOSSES: dict[str, Callable[[], ContrastiveLoss]] = {
    MACL: lambda: macl(tau0=TAU0, alpha=ALPHA),
    **{name: info_nce_at(tau) for name, tau in FIXED.items()},
    AGAIN: info_nce_at(TAU0),
}
METHODS = tuple(LOSSES)
ACCURACY, RECALL, TAU = "zero-shot accuracy", "R@5, mean of both directions", "temperature at the end"
PULL = "pull on a positive times temperature, last 50 steps"


class Pulls:
    """Watches a run: tau, and the derivative of the loss by each positive's cosine, times -B tau."""

    def __init__(self) -> None:
        self.tau = 0.0
        self.pulls: list[float] = []

    def __call__(self, step: int, loss: ContrastiveLoss, image: Tensor, text: Tensor) -> None:
        """See one batch; every tenth of the last 50 steps counts."""
        if step < STEPS - 50 or step % 10:
            return
        image, text = image.detach(), text.detach()
        scale = loss(image, text).metrics["scale"]
        cosines = (F.normalize(image, dim=1) @ F.normalize(text, dim=1).T).requires_grad_()
        # the inner products of the rows of a matrix with the axes are its entries
        dots = ContrastiveLoss(similarity="inner", link=loss.link.name)
        (grad,) = torch.autograd.grad(dots(cosines, torch.eye(len(image)), logit_scale=scale).total, [cosines])
        self.tau = 1 / float(scale)
        self.pulls.append(float(-grad.diagonal().mean() * len(image) * self.tau))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for name, make in LOSSES.items():
        watch = Pulls()
        other = seed + 5000 if name == AGAIN else seed
        model, loss = towers.train_towers(make, other, steps=STEPS, batch=BATCH, watch=watch)
        rows.append(Row(ACCURACY, name, towers.accuracy(model, loss.similarity)))
        rows.append(Row(RECALL, name, towers.recall(model, loss.similarity)))
        rows.append(Row(TAU, name, watch.tau))
        rows.append(Row(PULL, name, sum(watch.pulls) / len(watch.pulls)))
    return rows


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((ACCURACY, METHODS), (RECALL, METHODS), (PULL, METHODS), size=8),
    seeds=range(30, 78),
    registered="b2cf1ae187ae",
)
