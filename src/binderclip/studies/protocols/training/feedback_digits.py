"""What studies of generative feedback share: towers of coloured digits whose captions hardly speak of colour.

Half of scikit-learn's digits train, half are held out, each painted in one of eight colours. Nine of ten training
captions name the digit alone. A generator of the pictures is trained from scratch, and the image tower learns by it
without captions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.generate import GenerativeFeedback, ImageCondition, PatchDenoiser
from binderclip.models.towers.tokens import Tokens

__all__ = [
    "EMBED",
    "JUDGED",
    "RATE",
    "WIDTH",
    "ColouredDigits",
    "DigitTowers",
    "caption_words",
    "colour_probe",
    "condition_of",
    "denoiser",
    "empty_words",
    "first_stage",
    "held_out",
    "pair_accuracy",
    "restored",
    "second_stage",
    "trained_towers",
    "zero_shot",
]

COLOURS = torch.tensor([[r, g, b] for r in (0.3, 1.0) for g in (0.3, 1.0) for b in (0.3, 1.0)])
EMBED, WIDTH, WORDS, TOLD, BATCH, RATE = 16, 64, 5, 0.1, 64, 2e-3
STEPS, FIRST, SECOND, JUDGED = 150, 150, 60, 400


class ColouredDigits(NamedTuple):
    """Pictures in [0, 1], and what is on them."""

    images: Float[Tensor, "N 3 8 8"]
    digits: Int[Tensor, " N"]
    colours: Int[Tensor, " N"]


@lru_cache(maxsize=2)
def _digits(held_out: bool) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = slice(1, None, 2) if held_out else slice(0, None, 2)
    return torch.tensor(data.images[rows] / 16).float(), torch.tensor(data.target[rows])


def _painted(held_out: bool, seed: int) -> ColouredDigits:
    """Digits in random colours."""
    grey, digits = _digits(held_out)
    colours = torch.randint(len(COLOURS), (len(grey),), generator=torch.Generator().manual_seed(seed))
    return ColouredDigits(grey[:, None] * COLOURS[colours][:, :, None, None], digits, colours)


def held_out() -> ColouredDigits:
    """The other half of the digits, in the same colours for every seed."""
    return _painted(True, 1)


class DigitTowers(nn.Module):
    """An image tower of four patches and a text tower of words, with one space, as `ConditionTap` asks towers.

    Patches are embedded by one layer; the picture's token is a perceptron's of all patches. A text is the sum of its
    words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.ModuleDict({
            "patches": nn.Sequential(nn.Linear(48, WIDTH), nn.GELU()),
            "whole": nn.Sequential(nn.Linear(4 * WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)),
            "norm": nn.LayerNorm(WIDTH),
            "project": nn.Linear(WIDTH, EMBED, bias=False),
        })  # fmt: skip
        self.words = nn.Embedding(10 + len(COLOURS) + 1, EMBED)
        self.text = nn.Linear(EMBED, EMBED, bias=False)

    def embed(self, pixels: Float[Tensor, "B 3 8 8"]) -> Tokens:
        patches = self.image["patches"](F.unfold(pixels * 2 - 1, 4, stride=4).mT)
        x = torch.cat([self.image["whole"](patches.flatten(1))[:, None], patches], 1)
        return Tokens(x, torch.arange(5)[None], grid=(2, 2), prefix=1)

    def run(self, tokens: Tokens) -> Tokens:
        return tokens

    def norm(self, x: Tensor) -> Tensor:
        return self.image["norm"](x)

    def pool(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        return self.norm(tokens.x[:, 0])

    def project(self, x: Tensor) -> Tensor:
        return self.image["project"](x)

    def encode(self, images: Float[Tensor, "B 3 8 8"]) -> Float[Tensor, "B E"]:
        """Raw embeddings of pictures."""
        return self.project(self.pool(self.embed(images)))

    def encode_text(self, digits: Int[Tensor, " B"], colours: Int[Tensor, " B"] | None = None) -> Float[Tensor, "B E"]:
        """Unit embeddings of captions with or without a colour."""
        words = self.words(digits)
        return F.normalize(self.text(words if colours is None else words + self.words(10 + colours)))


def trained_towers(seed: int) -> DigitTowers:
    """New towers trained on pairs of which one in ten names the colour; the temperature is 0.1."""
    torch.manual_seed(seed)
    towers, data, g = DigitTowers(), _painted(False, 100 + seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(towers.parameters(), RATE, weight_decay=0.05, fused=True)
    for _ in range(STEPS):
        rows = torch.randint(len(data.digits), (BATCH,), generator=g)
        digits, colours = data.digits[rows], data.colours[rows]
        named = torch.rand(BATCH, generator=g) < TOLD
        captions = torch.where(named[:, None], towers.encode_text(digits, colours), towers.encode_text(digits))
        key = torch.where(named, 10 + 10 * colours + digits, digits)  # equal captions are no negatives
        same = (key[:, None] == key[None]).float()
        logits = 10 * F.normalize(towers.encode(data.images[rows])) @ captions.T
        targets = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return towers.requires_grad_(False)


def denoiser(**settings: int) -> PatchDenoiser:
    """A new generator of coloured digits: a block of width 64 on four patches."""
    return PatchDenoiser((3, 8, 8), patch=4, width=WIDTH, depth=1, heads=2, **settings)


@torch.no_grad()
def caption_words(towers: DigitTowers, data: ColouredDigits) -> ImageCondition:
    """What a generator of captions is told: the words of whole captions, filled up with an empty one."""
    words = torch.stack([data.digits, 10 + data.colours, *[torch.full_like(data.digits, 18)] * (WORDS - 2)], 1)
    return ImageCondition(sequence=towers.words(words))


@torch.no_grad()
def empty_words(towers: DigitTowers) -> Float[Tensor, "S E"]:
    """The caption without words."""
    return towers.words(torch.full((WORDS,), 18)).clone()


def first_stage(towers: DigitTowers, feedback: GenerativeFeedback, seed: int) -> GenerativeFeedback:
    """Train generator and bridge while the towers rest, told by what `feedback.told_by` says."""
    data, g = _painted(False, 100 + seed), torch.Generator().manual_seed(1000 + seed)
    learned = [p for p in feedback.learn_generator().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, RATE, weight_decay=0.01, fused=True)
    for _ in range(FIRST):
        rows = torch.randint(len(data.digits), (BATCH,), generator=g)
        batch = ColouredDigits(*(column[rows] for column in data))
        optimizer.zero_grad()
        if feedback.told_by == "captions":
            loss = feedback.prompted(batch.images, caption_words(towers, batch), generator=g)
        else:
            loss = feedback(towers, batch.images, batch.images, generator=g)  # type: ignore[arg-type]
        loss.backward()
        optimizer.step()
    return feedback


def second_stage(
    towers: DigitTowers, feedback: GenerativeFeedback, seed: int, rate: float, *, shuffled: bool = False
) -> None:
    """Let the image tower learn by the loss of the generator.

    Args:
        towers: the image tower is changed in place.
        feedback: after its first stage; its bridge learns where that stage was told captions.
        seed: of batches and noise.
        rate: of the image tower; a bridge that learns keeps that of the first stage.
        shuffled: whether every picture is to be restored from another one's condition, a control.
    """
    feedback.learn_tower()
    data, g = _painted(False, 100 + seed), torch.Generator().manual_seed(2000 + seed)
    beside = [p for p in feedback.parameters() if p.requires_grad]
    groups = [{"params": [*towers.image.requires_grad_(True).parameters()], "lr": rate}]
    groups += [{"params": beside, "lr": RATE}] if beside else []
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    for _ in range(SECOND):
        images = data.images[torch.randint(len(data.digits), (BATCH,), generator=g)]
        optimizer.zero_grad()
        feedback(towers, images, images.roll(1, 0) if shuffled else images, generator=g).backward()  # type: ignore[arg-type]
        optimizer.step()
    towers.requires_grad_(False)


@torch.no_grad()
def condition_of(towers: DigitTowers, feedback: GenerativeFeedback) -> ImageCondition:
    """What the image tower tells of the first JUDGED held-out pictures."""
    features = feedback.tap.features(towers, held_out().images[:JUDGED])  # type: ignore[arg-type]
    return feedback.tap(features, torch.Generator().manual_seed(0))


def restored(feedback: GenerativeFeedback, condition: ImageCondition) -> float:
    """Mean loss on the first JUDGED held-out pictures, on 8 times with a noise each that are always the same."""
    return float(feedback.held_out(held_out().images[:JUDGED], condition, noises=1).mean())


@torch.no_grad()
def zero_shot(towers: DigitTowers) -> float:
    """Held-out pictures whose digit is named rightly among ten, by the text tower as it was."""
    data = held_out()
    named = (towers.encode(data.images) @ towers.encode_text(torch.arange(10)).T).argmax(1)
    return float((named == data.digits).float().mean())


@torch.no_grad()
def pair_accuracy(towers: DigitTowers) -> float:
    """Pairs of one digit in two colours of which both pictures find their caption; about 1/4 by chance."""
    data = held_out()
    other = (data.colours + 1 + torch.arange(len(data.digits)) % 7) % len(COLOURS)
    grey = data.images / COLOURS[data.colours][:, :, None, None]
    twin = grey * COLOURS[other][:, :, None, None]
    direction = towers.encode_text(data.digits, data.colours) - towers.encode_text(data.digits, other)
    one, two = ((towers.encode(images) * direction).sum(1) for images in (data.images, twin))
    return float(((one > 0) & (two < 0)).float().mean())


@torch.no_grad()
def colour_probe(towers: DigitTowers, seed: int) -> float:
    """Held-out pictures whose colour a ridge regression on embeddings of the training pictures names, among eight."""
    train, test = _painted(False, 100 + seed), held_out()
    x, y = towers.encode(train.images).double(), F.one_hot(train.colours, len(COLOURS)).double()
    mean, std = x.mean(0), x.std(0)
    x, inputs = ((each - mean) / std for each in (x, towers.encode(test.images).double()))
    weights = torch.linalg.solve(x.T @ x + 0.01 * len(x) * torch.eye(EMBED).double(), x.T @ (y - y.mean(0)))
    return float(((inputs @ weights + y.mean(0)).argmax(1) == test.colours).double().mean())
