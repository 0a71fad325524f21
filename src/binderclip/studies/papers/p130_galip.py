"""Does a discriminator judge pictures and their sentences better by a frozen CLIP's features than by pixels?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.fit import fit
from binderclip.generate import CLIPDiscriminator, CLIPPatchFeatures, DiscriminatorTerm, GANLoss, MatchingAwarePenalty
from binderclip.studies.harness import Row, declared_study, dot_panels

CLIP, PIXELS, UNTRAINED = "frozen CLIP features", "pixels of the patches", "features of an untrained tower"
MATCH = "AUROC of pictures with their own over with another class's sentence"
QUALITY = "AUROC of whole over broken pictures, with their own sentence"
TOWER_STEPS, TOWER_BATCH, TOWER_RATE, STEPS, BATCH, RATE, WIDTH, SENTENCE = 600, 64, 2e-3, 80, 16, 1e-3, 32, 16
SHOTS = 3  # digits of each class to train a discriminator: three in a hundred of those that CLIP learned from


@lru_cache(maxsize=1)
def _halves() -> Any:
    """scikit-learn's digits in [-1, 1], [N, 3, 8, 8], and their classes: CLIP's half, and the other to test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = torch.tensor(data.images / 8 - 1).float()[:, None].repeat(1, 3, 1, 1), torch.tensor(data.target)
    return tuple(zip(images.chunk(2), labels.chunk(2), strict=True))


@lru_cache(maxsize=16)
def tower(steps: int, seed: int) -> tuple[CLIPPatchFeatures, Tensor]:
    """A small CLIP of digits and class sentences after `steps`: what its tower sees, and the sentences [10, E]."""
    from open_clip.transformer import VisionTransformer

    torch.manual_seed(seed)
    (images, labels), g = _halves()[0], torch.Generator().manual_seed(seed)
    visual = VisionTransformer(8, 2, WIDTH, 4, 2, 2.0, output_dim=SENTENCE)
    model = nn.ModuleDict({"visual": visual, "text": nn.Embedding(10, SENTENCE)})
    features = CLIPPatchFeatures(visual, taps=(0, 1, 2))
    visual.requires_grad_(True)

    def step(_: int) -> Tensor:
        chosen = torch.randint(len(images), (TOWER_BATCH,), generator=g)
        embedding = F.normalize(features(images[chosen])[1], dim=1)
        return F.cross_entropy(10 * embedding @ F.normalize(model["text"].weight, dim=1).T, labels[chosen])  # type: ignore[arg-type,operator]

    if steps:  # else as it starts
        fit(step, model, [0], steps=steps, optimizer="adam", lr=TOWER_RATE)
    visual.requires_grad_(False)
    return features, model["text"].weight.detach()  # type: ignore[union-attr,operator]


def broken(images: Tensor, g: torch.Generator) -> Tensor:
    """Pictures two of whose sixteen patches have changed places, each picture's own two."""
    patches = F.unfold(images, 2, stride=2)  # (N, 12, 16)
    first, second = torch.rand(len(images), 16, generator=g).argsort(1)[:, :2].unbind(1)
    order, row = torch.arange(16).repeat(len(images), 1), torch.arange(len(images))
    order[row, first], order[row, second] = second, first
    return F.fold(patches.gather(2, order[:, None].expand_as(patches)), 8, 2, stride=2)


def pixels(images: Tensor) -> Tensor:
    """The patches' pixels in the place of three taps, [N, 3, 12, 4, 4]."""
    return F.pixel_unshuffle(images, 2)[:, None].repeat(1, 3, 1, 1, 1)


def judged(see: Any, sentences: Tensor, few: Any, test: Any, seed: int) -> list[float]:
    """AUROC of match and of quality on `test`, by GALIP's discriminator after `few`, on what `see` gives it."""
    g = torch.Generator().manual_seed(seed)  # the same draws for all
    torch.manual_seed(seed)
    (images, labels), (test_images, y) = few, test
    with torch.no_grad():
        scale = (whole := see(images)).std()  # the same size for pixels and features
    critic = CLIPDiscriminator(whole.shape[2], 4, SENTENCE, 3, WIDTH)
    term = DiscriminatorTerm(
        module=critic, loss=GANLoss("hinge"), real=lambda batch, _: (whole[batch] / scale, sentences[labels[batch]]),
        mismatched=lambda real: (real[0], real[1].roll(-1, 0)), penalties={"MAGP": MatchingAwarePenalty()},
    )  # fmt: skip

    def step(_: int) -> Tensor:
        batch = torch.randint(len(images), (BATCH,), generator=g)
        with torch.no_grad():
            fake = see(broken(images[batch], g)) / scale
        return term.discriminator_loss(batch, {}, (fake, sentences[labels[batch]]))[0]

    fit(step, critic, [0], steps=STEPS, optimizer={"name": "adam", "betas": (0.0, 0.9)}, lr=RATE, schedule="constant")
    other = (y + torch.randint(1, 10, y.shape, generator=g)) % 10
    with torch.no_grad():
        maps, parts = see(test_images) / scale, see(broken(test_images, g)) / scale
        shown = ((maps, y), (maps, other), (parts, y))
        real, *negatives = (critic(x, sentences[z]).flatten(1).mean(1) for x, z in shown)
    return [float((real[:, None] > negative).float().mean()) for negative in negatives]


def first(_: int) -> list[Row]:
    """What the one CLIP of all seeds has learned."""
    (features, sentences), (images, labels) = tower(TOWER_STEPS, 0), _halves()[1]
    with torch.no_grad():
        predicted = (features(images)[1] @ F.normalize(sentences, dim=1).T).argmax(1)
    return [Row("zero-shot accuracy on the other half", CLIP, float((predicted == labels).float().mean()))]


def measure(seed: int) -> list[Row]:
    """All rows of one seed: a few digits of CLIP's half train each discriminator, the other half judges it."""
    (images, labels), test = _halves()
    (trained, sentences), (untrained, _) = tower(TOWER_STEPS, 0), tower(0, seed)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    few = torch.cat([order[labels[order] == number][:SHOTS] for number in range(10)])
    rows = []
    for name, see in {CLIP: lambda x: trained(x)[0], PIXELS: pixels, UNTRAINED: lambda x: untrained(x)[0]}.items():
        values = judged(see, sentences, (images[few], labels[few]), test, seed)
        rows += [Row(metric, name, value) for metric, value in zip((MATCH, QUALITY), values, strict=True)]
    return rows


PANELS = dot_panels(*((metric, (CLIP, PIXELS, UNTRAINED)) for metric in (MATCH, QUALITY)), rotation=20)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(10, 20), registered="ff8cd49a7ffd")
