"""Are fences of patterns that training never had found and removed, and do two discriminators beat one?"""

from __future__ import annotations

import copy

import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from binderclip import generate
from binderclip.data import synthesize_fence
from binderclip.losses.restoration.structure import similarity_map
from binderclip.studies.harness import Row, Study, declared_study, dot_panels, random_rows
from binderclip.studies.protocols.data.made_fakes import photographs, tiles
from binderclip.vision import dilate

IOU, SSIM, STRUCTURE = "IoU of the mask", "SSIM under the fence", "error of the structure under the fence"
SEEN, UNSEEN = "seen patterns", "unseen patterns"
NONE, ONE, TWO = "no discriminator", "texture alone", "texture and structure"
LEFT, BIHARMONIC, MASKER = "fence left", "biharmonic", "the mask network"
SIDE, CROP, LEARNT, TRAIN, TEST, BATCH, MASK_RATE, RATE = 32, 96, 12, 600, 24, 8, 5e-3, 2e-3
MASK_STEPS, FILL_STEPS, GAN_STEPS = 200, 100, 25
PATTERNS = {SEEN: ("lattice", "bars"), UNSEEN: ("wires", "nets")}


def crops(seed: int) -> tuple[Tensor, Tensor]:
    """Reduced squares of twelve photographs to learn from, and of the other eight to test, [N, 3, 32, 32]."""
    rng = np.random.default_rng([seed, 116])
    order = rng.permutation(len(photographs()[0])).tolist()
    parts = (tiles(order[:LEARNT], TRAIN, CROP, rng), tiles(order[LEARNT:], TEST, CROP, rng))
    train, test = (F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1) for x in parts)
    return train, test


def fenced(pictures: Tensor, kind: str, g: torch.Generator) -> dict[str, Tensor]:
    """Pictures behind fences, with the truth."""
    made = synthesize_fence(pictures, PATTERNS[kind], width=(1.5, 3.0), generator=g)
    return {"image": made.image, "mask": made.mask, "clean": pictures}


def batches(pictures: Tensor, count: int, g: torch.Generator, *, grown: bool = False) -> list[dict[str, Tensor]]:
    """Batches of training pictures behind fences of the seen patterns; masks may be grown by a pixel, as in use."""
    drawn = [fenced(pictures[torch.randint(TRAIN, (BATCH,), generator=g)], SEEN, g) for _ in range(count)]
    return [batch | {"mask": dilate(batch["mask"], 2 * int(grown) + 1)} for batch in drawn]


def trained_masker(pictures: Tensor, g: torch.Generator) -> generate.OccNet:
    """The network that finds fences, after its training by cross-entropy."""
    net = generate.OccNet((8, 16, 16))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    optimizer = torch.optim.Adam(net.parameters(), MASK_RATE)
    for batch in batches(pictures, MASK_STEPS, g):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net(batch["image"]), batch["mask"]).backward()
        optimizer.step()
    return net.eval()


def adversary(channels: int) -> nn.Module:
    """A small spectrally normalised patch discriminator."""
    layers: list[nn.Module] = []
    for before, after in ((channels, 12), (12, 24)):
        layers += [spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(24, 1, 3, padding=1)))


def completions(pictures: Tensor, g: torch.Generator) -> dict[str, generate.CompletionNet]:
    """One network trained without an adversary, and twice finetuned from it on the same batches, with one and two."""
    nets, losses = {NONE: generate.CompletionNet(8, growth=6)}, generate.completion_losses()
    trainer = generate.AdversarialTrainer(generate.CompletionGenerator(nets[NONE]), {}, losses, lr=RATE)
    trainer.fit(batches(pictures, FILL_STEPS, g, grown=True), steps=FILL_STEPS)
    texture, further = adversary(4), batches(pictures, GAN_STEPS, g, grown=True)
    for name in (ONE, TWO):
        nets[name] = copy.deepcopy(nets[NONE])
        terms = {"texture": generate.texture_discriminator(copy.deepcopy(texture))}
        if name == TWO:
            terms["structure"] = generate.structure_discriminator(adversary(2))
        painter = generate.CompletionGenerator(nets[name])
        trainer = generate.AdversarialTrainer(painter, terms, losses, lr=RATE / 4, discriminator_lr=RATE)
        trainer.fit(further, steps=GAN_STEPS)
    return nets


@torch.no_grad()
def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    train, pictures = crops(seed)
    with torch.enable_grad():
        masker, nets = trained_masker(train, g), completions(train, g)
    rows = []
    for kind in (SEEN, UNSEEN):
        test = fenced(pictures, kind, g)
        predicted, true = masker(test["image"]) > 0, test["mask"] > 0
        rows.append(Row(IOU, MASKER, float((predicted & true).sum() / (predicted | true).sum()), kind))
    guesses = {name: generate.OcclusionRemover(masker, net)(test["image"]) for name, net in nets.items()}
    images = {name: guess.image for name, guess in guesses.items()} | {LEFT: test["image"]}
    pairs = zip(test["image"].numpy(), guesses[NONE].mask[:, 0].bool().numpy(), strict=True)
    filled = np.stack([inpaint_biharmonic(image, hole, channel_axis=0) for image, hole in pairs])
    images[BIHARMONIC] = torch.from_numpy(filled).float()
    for name, image in images.items():
        similar = similarity_map(image, pictures, 7, 1.5).mean(1, keepdim=True)
        apart = (generate.structure_map(image) - generate.structure_map(pictures)).abs()
        for metric, values in ((SSIM, similar), (STRUCTURE, apart)):
            rows.append(Row(metric, name, float((values * test["mask"]).sum() / test["mask"].sum()), UNSEEN))
    return rows


PANELS = dot_panels(*((m, (LEFT, BIHARMONIC, NONE, ONE, TWO), UNSEEN) for m in (SSIM, STRUCTURE)), rotation=20)
STUDY: Study = declared_study(
    __name__, measure, draw=PANELS, seeds=range(10, 18), null=lambda seed: random_rows(STUDY.criteria, seed),
    registered="7ed7d4949774",
)  # fmt: skip
