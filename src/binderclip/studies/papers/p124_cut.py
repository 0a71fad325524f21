"""Does patchwise contrast prefer the translation that keeps the content, where no adversarial loss can tell?"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.fit import fit
from binderclip.generate import CUT, PatchDiscriminator, PatchProjection, ResnetTranslator
from binderclip.losses import PatchNCELoss
from binderclip.studies.harness import Row, Table, declared_study, dot_panels, random_rows

RIGHT, OTHER = "each digit's own negative", "another digit's negative"
LOSS = "PatchNCE of held-out digits, nats"
PREFERRED = "digits for which the own negative costs less than another's"
ERROR = "largest error against the formula written out"
STEPS, BATCH, RATE, HELD, ITEMS, PATCHES, WIDTH, TAPS = 80, 16, 1e-3, 200, 40, 32, 32, (0, 4, 8, 12)


@lru_cache(maxsize=1)
def _digits() -> Tensor:
    """scikit-learn's digits in [-1, 1], [N, 1, 8, 8]."""
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().images / 8 - 1).float()[:, None]


def formula(seed: int) -> float:
    """PatchNCE and its gradient, against positives, negatives and a filled diagonal written out."""
    g = torch.Generator().manual_seed(seed)
    q, k = (F.normalize(torch.randn(3, 9, 5, generator=g, dtype=torch.float64), dim=-1) for _ in range(2))
    q.requires_grad_()
    negatives = (q @ k.mT).masked_fill(torch.eye(9, dtype=torch.bool), -10.0)
    logits = torch.cat([(q * k).sum(2, keepdim=True), negatives], 2).flatten(0, 1) / 0.07
    expected = F.cross_entropy(logits, torch.zeros(27, dtype=torch.long), reduction="none")
    product = PatchNCELoss(0.07)(q, k).flatten()
    gradients = [torch.autograd.grad(loss.sum(), q)[0] for loss in (expected, product)]
    return float(max((expected - product).detach().abs().max(), (gradients[0] - gradients[1]).abs().max()))


def encoder(seed: int, inputs: Tensor, outputs: Tensor) -> CUT:
    """Encoder and projection after `STEPS` on PatchNCE between inputs and the outputs of a translation."""
    torch.manual_seed(seed)
    network = ResnetTranslator(1, 1, ngf=8, n_blocks=1)
    projection = PatchProjection(network.tap_channels(TAPS), WIDTH)
    gan = CUT(network, PatchDiscriminator(1, 8, 1), projection=projection, nce_layers=TAPS, num_patches=PATCHES)
    g = torch.Generator().manual_seed(seed)

    def step(_: int) -> Tensor:
        batch = torch.randint(len(inputs), (BATCH,), generator=g)
        return gan.translation.nce(inputs[batch], outputs[batch], False)

    fit(step, gan.translation, [0], steps=STEPS, optimizer="adam", lr=RATE, schedule="constant")
    return gan


def measure(seed: int) -> list[Row]:
    """All rows of one seed: inverted digits in their own order, and in another, which no adversarial loss can tell."""
    images = _digits()
    g = torch.Generator().manual_seed(seed)
    held, rest = (images[part] for part in torch.randperm(len(images), generator=g).split([HELD, len(images) - HELD]))
    rows = [Row(ERROR, RIGHT, formula(seed))]
    losses = {}
    for name, shift in ((RIGHT, 0), (OTHER, 1)):
        gan = encoder(seed, rest, -rest.roll(shift, 0))
        with torch.no_grad():
            outputs = -held.roll(shift, 0)
            rows.append(Row(LOSS, name, float(gan.translation.nce(held, outputs, False))))
            if name == RIGHT:  # its encoder judges single digits with their own and with another's output
                pairs = [(held[i : i + 1], -held[j : j + 1]) for i in range(ITEMS) for j in (i, i + 1)]
                values = torch.stack([gan.translation.nce(*pair, False) for pair in pairs]).reshape(ITEMS, 2)
                losses["PatchNCE"] = values
                losses["pixels"] = torch.stack([(x - y).abs().mean() for x, y in pairs]).reshape(ITEMS, 2)
    rows += [Row(PREFERRED, name, float((v[:, 0] < v[:, 1]).float().mean())) for name, v in losses.items()]
    return rows


def exact(table: Table) -> tuple[bool, str]:
    """Whether the one product gives the formula."""
    worst = float(table.values(ERROR, RIGHT).max())
    return worst < 1e-10, f"{worst:.0e}"


def null(seed: int) -> list[Row]:
    """Random numbers, and a formula that misses."""
    return [Row(ERROR, RIGHT, 0.5), *random_rows(STUDY.criteria, seed)]


PANELS = dot_panels((LOSS, (RIGHT, OTHER)), (PREFERRED, ("PatchNCE", "pixels")), rotation=10)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(30, 54), null=null, registered="64ead7cd21c4")
