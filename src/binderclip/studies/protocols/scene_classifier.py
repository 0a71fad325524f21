"""A small convolutional classifier of clip-art scenes, trained within a study: the stage that many attribution papers
were written for, which a transformer is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.fit import fit
from binderclip.models import classifier
from binderclip.studies.harness.threads import one_thread

if TYPE_CHECKING:
    from binderclip.data.scenes.vocabulary import Vocabulary
    from binderclip.models.image_text.predictor import ModuleClassifier

SIDE = 64
BATCH = 32
MEAN, STD = 0.6, 0.25
GROUNDS = ["plain", "gradient", "noise", "texture"]
# (channels, kernel, stride) of each convolution; the fourth is followed by max pooling.
_CONVOLUTIONS = ((24, 5, 2), (48, 3, 2), (64, 3, 1), (64, 3, 1), (96, 3, 1), (128, 3, 1))
_POOLED = 4


@dataclass(frozen=True)
class SceneStage:
    """Scenes of one size, the share of them that the object covers, and how often they are seen."""

    side: int
    area: tuple[float, float]
    scenes: int
    epochs: float
    lr: float


STAGES = (SceneStage(40, (0.15, 0.6), 6000, 5, 4e-3), SceneStage(SIDE, (0.06, 0.4), 3000, 3, 2e-3))


class SceneNet(nn.Module):
    """Six convolutions with batch normalisation and ReLU, global average pooling, a linear layer.

    For 64 px, `act1` is 32 x 32, `act2` to `act4` are 16 x 16, `act5` and `act6` 8 x 8. Convolutions have no bias of
    their own: the normalisation's is theirs.

    Args:
        classes: number of outputs K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        fed = 3
        for index, (width, kernel, stride) in enumerate(_CONVOLUTIONS, 1):
            self.add_module(f"conv{index}", nn.Conv2d(fed, width, kernel, stride, kernel // 2, bias=False))
            self.add_module(f"norm{index}", nn.BatchNorm2d(width))
            self.add_module(f"act{index}", nn.ReLU())
            if index == _POOLED:
                self.pool = nn.MaxPool2d(2)
            fed = width
        self.head = nn.Linear(fed, classes)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits."""
        for name, part in self.named_children():
            if name != "head":
                x = part(x)
        return self.head(x.mean(dim=(2, 3)))


@lru_cache(maxsize=4)
def scene_classifier(seed: int = 0) -> ModuleClassifier:
    """A `Predictor` of the fifteen classes of "scenes15", trained once a process (about a minute on one thread).

    Each training scene shows one object of the training split on a plain to textured ground, first in close-up (small
    pictures are cheap, and pooling dilutes the object less), then at the final size; colours are jittered, pictures
    mirrored. Callers share the network: change nothing in it.

    Args:
        seed: of the scenes, the weights and the order.
    """
    from binderclip.data.scenes.vocabulary import vocabulary

    words = vocabulary("scenes15")
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: Any = SceneNet(len(words.names)).train()
        net = net.to(memory_format=torch.channels_last)
        for part, stage in enumerate(STAGES):
            images, rows = _pictures(words, seed * len(STAGES) + part, stage)
            batches = _batches(images, rows, torch.Generator().manual_seed(seed))
            steps = round(stage.epochs * stage.scenes / BATCH)
            fit(lambda batch: _loss(net, *batch), net, batches, steps=steps, lr=stage.lr, warmup=0.1)
    return classifier(net, list(words.names), (MEAN,) * 3, (STD,) * 3, SIDE)


def _pictures(words: Vocabulary, seed: int, stage: SceneStage) -> tuple[Tensor, Tensor]:
    from binderclip.data.scenes.stream import scenes

    turned = {"rotation": [-15.0, 0.0, 0.0, 15.0]}
    found = scenes(
        seed, stage.scenes, stage.side, vocabulary=words, objects=1, area=stage.area, background=GROUNDS, factors=turned
    )
    return found.images, torch.tensor([words.names.index(names[0]) for names in found.names])


def _loss(net: SceneNet, images: Tensor, rows: Tensor) -> Tensor:
    shown = ((images - MEAN) / STD).contiguous(memory_format=torch.channels_last)
    return F.cross_entropy(net(shown), rows, label_smoothing=0.05)


def _batches(images: Tensor, rows: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled batches, half of each mirrored, colours mixed anew."""
    while True:
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            batch = images[chosen]
            mirrored = torch.rand(len(batch), generator=generator) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(-1), batch)
            gain = 1 + 0.3 * (2 * torch.rand(len(batch), 3, 1, 1, generator=generator) - 1)
            yield (batch * gain).clamp(max=1), rows[chosen]
