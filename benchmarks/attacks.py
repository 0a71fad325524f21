"""Attacks and certificates: PGD against foolbox, finished images left out, smoothing against the public loop."""

from __future__ import annotations

from typing import Any

import foolbox
import numpy as np
import timm
import torch
from torch import Tensor, nn

from benchmarks.harness import Row, compare
from binderclip.models import load
from binderclip.robust import PGD, CrossEntropy, Linf, RandomizedSmoothing, Sign, attack

EPS = 2 / 255


def run(*, batch: int = 4, steps: int = 20, draws: int = 1000, repeats: int = 3) -> list[Row]:
    """PGD on a random ViT-B/16 at 224 px, an easy set on the bundled `small`, and certificates of two pictures.

    Args:
        batch: pictures of the attack on the ViT.
        steps: of PGD.
        draws: of a certificate.
        repeats: pairs.
    """
    return [_pgd(batch, steps, repeats), _easy(repeats), _certificate(draws, repeats)]


def _pgd(batch: int, steps: int, repeats: int) -> Row:
    torch.manual_seed(0)
    net = timm.create_model("vit_base_patch16_224", num_classes=10).eval()
    images, labels = torch.rand(batch, 3, 224, 224), torch.arange(batch) % 10
    ours = PGD(net, EPS, EPS / 4, steps, random_start=False, keep="last")
    theirs = foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=EPS / 4, steps=steps, random_start=False)
    peer_model = foolbox.PyTorchModel(net, bounds=(0, 1))
    criterion = foolbox.criteria.Misclassification(labels)

    def peer() -> Tensor:
        return theirs(peer_model, images, criterion, epsilons=[EPS])[1][0]

    if (ours(images, labels).images - peer()).abs().mean() > EPS / 20:
        raise RuntimeError("the two sides do not walk the same way")
    return compare(
        f"PGD-{steps}, ViT-B/16, {batch} pictures",
        lambda: ours(images, labels),
        peer,
        repeats=repeats,
        warmup=0,
        goal="at least 1.1x",
        target=1.1,
        peer_name="foolbox",
        note="the weights ask for no gradient meanwhile, so only the way to the pixels is differentiated",
    )


def _easy(repeats: int) -> Row:
    """Thirty-two pictures with labels at random: nearly all are attacked at once, a few take all the steps."""
    model = load("small").predictor(["a cat", "a dog", "a house", "a tree", "a car"])
    images = torch.rand(32, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = model(images).argmax(1)
    labels = torch.where(torch.arange(32) < 4, answers, (answers + 1) % 5)

    class Whole(CrossEntropy):
        """Looks at finished images again."""

        def rows(self, index: Tensor) -> None:
            return None

    def attacked(kind: type[CrossEntropy]) -> Tensor:
        ball, step = Linf(0.01 / 255), Sign(0.0005 / 255)
        found = attack(kind(model, labels), images, param=ball, step=step, steps=20, start="clean", keep="first")
        return found.success

    if not torch.equal(attacked(CrossEntropy), attacked(Whole)):
        raise RuntimeError("leaving out finished images changed the others")
    return compare(
        "20 steps, 28 of 32 pictures fall at once",
        lambda: attacked(CrossEntropy),
        lambda: attacked(Whole),
        repeats=repeats,
        goal="at least 2.0x",
        target=2.0,
        peer_name="the same, all pictures at every step",
    )


def _certificate(draws: int, repeats: int) -> Row:
    model = load("small").predictor(["a cat", "a dog", "a house", "a tree", "a car"])
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    ours = RandomizedSmoothing(model, 0.1, batch_size=100)
    peer = PublicLoop(model, 5, 0.1)
    return compare(
        f"certificates of 2 pictures, {draws} draws, small",
        lambda: ours.certify(images, n0=100, n=draws),
        lambda: [peer.certify(image, 100, draws, 100) for image in images],
        repeats=repeats,
        goal="at least 1.3x",
        target=1.3,
        peer_name="the loop of locuslab/smoothing",
        note="both spend their time in the tower: 1,100 pictures an image",
    )


class PublicLoop:
    """Sampling as `locuslab/smoothing` does it: repeated pictures, noise of the default generator, counts in Python.

    Args:
        base: pixels to logits.
        classes: how many.
        sigma: of the noise.
    """

    def __init__(self, base: Any, classes: int, sigma: float) -> None:
        self.base, self.classes, self.sigma = base, classes, sigma
        if isinstance(base, nn.Module):
            base.eval()

    def certify(self, image: Tensor, n0: int, n: int, batch: int) -> tuple[int, int]:
        """The class that was chosen, and how often it is the answer among n draws."""
        chosen = int(self._sampled(image, n0, batch).argmax())
        return chosen, int(self._sampled(image, n, batch)[chosen])

    @torch.no_grad()
    def _sampled(self, image: Tensor, count: int, batch: int) -> np.ndarray:
        counts = np.zeros(self.classes, dtype=int)
        while count > 0:
            now = min(batch, count)
            count -= now
            repeated = image.repeat((now, 1, 1, 1))
            noisy = (repeated + torch.randn_like(repeated) * self.sigma).clamp(0, 1)
            for answer in self.base(noisy).argmax(1).cpu().numpy():
                counts[answer] += 1
        return counts
