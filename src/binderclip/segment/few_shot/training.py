"""Episodes: training of a matcher on pairs of pictures that show the same class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.losses.dense.label_maps import DenseLoss
from binderclip.numeric import check_number
from binderclip.segment.few_shot.correlation import Support
from binderclip.segment.few_shot.levels import CorrelationBackbone, Levels, SupportFeatures, stack_levels
from binderclip.segment.few_shot.matchers import HypercorrelationNet
from binderclip.segment.few_shot.segmenter import FewShotSegmenter, full_logits, small_mask

__all__ = ["Episode", "FewShotEpisodes", "FewShotTraining", "train_few_shot"]


@dataclass(frozen=True)
class Episode:
    """One task: find in picture `query` the class that picture `support` shows.

    Attributes:
        query, support: rows of the pictures.
        label: the class.
    """

    query: int
    support: int
    label: int


class FewShotEpisodes:
    """Pictures with label maps as a source of episodes; each picture passes the frozen backbone once.

    A class takes part with the pictures in which it covers enough, and only where there are two of them.

    Args:
        backbone: a frozen network as a pyramid.
        images: in [0, 1].
        labels: label maps; 0 is background and no class, -1 and 255 are ignored.
        least: share of a picture that its class covers at least to be shown or asked for.

    Raises:
        UsageError: images and labels that do not belong together, or no class in two pictures.
    """

    def __init__(
        self,
        backbone: CorrelationBackbone,
        images: Float[Tensor, "N 3 H W"],
        labels: Int[Tensor, "N H W"],
        *,
        least: float = 0.005,
    ) -> None:
        if images.ndim != 4 or labels.shape != (len(images), *images.shape[2:]):
            raise UsageError(
                f"images {tuple(images.shape)} and labels {tuple(labels.shape)} do not belong together: they are "
                "(N, 3, H, W) and (N, H, W)"
            )
        self.backbone, self.labels = backbone, labels
        self._images = images
        self._masked: dict[tuple[int, int], SupportFeatures] = {}
        shown: dict[int, list[int]] = {}
        for row, each in enumerate(labels):
            values, counts = each.unique(return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                if value not in (0, -1, 255) and count >= least * each.numel():
                    shown.setdefault(value, []).append(row)
        self.pictures = {label: rows for label, rows in sorted(shown.items()) if len(rows) > 1}
        """Class -> rows of the pictures that show it."""
        if not self.pictures:
            raise UsageError("no class covers enough of two pictures: an episode needs one to ask and one to show")

    @cached_property
    def pixels(self) -> Float[Tensor, "N 3 S S"]:
        """The pictures as the backbone sees them."""
        return self.backbone.pixels(self._images)

    @cached_property
    def _whole(self) -> list[Levels]:
        """Features of each picture, a batch of one."""
        return [self.backbone(each[None]) for each in self.pixels]

    def query(self, row: int) -> Levels:
        """Features of a picture."""
        return self._whole[row]

    def support(self, row: int, label: int) -> SupportFeatures:
        """Features of a picture that shows a class; made once."""
        if (row, label) not in self._masked:
            mask = small_mask(self.labels[row] == label, self.backbone.size).to(self.pixels)[None]
            masked = self.backbone(self.pixels[row : row + 1] * mask[:, None])
            self._masked[row, label] = SupportFeatures(self._whole[row], masked, mask)
        return self._masked[row, label]

    def target(self, episode: Episode) -> Int[Tensor, "H W"]:
        """1 where the query shows the class, -1 where its label is ignored, else 0."""
        labels = self.labels[episode.query]
        ignored = (labels == -1) | (labels == 255)
        return (labels == episode.label).long().masked_fill(ignored, -1)

    def draw(self, generator: torch.Generator) -> Episode:
        """A class, and two of its pictures; all are equally likely."""
        classes = list(self.pictures)
        label = classes[int(torch.randint(len(classes), (), generator=generator))]
        rows = self.pictures[label]
        first, second = torch.randperm(len(rows), generator=generator)[:2].tolist()
        return Episode(rows[first], rows[second], label)

    def batch(self, episodes: Sequence[Episode]) -> tuple[Levels, SupportFeatures, Int[Tensor, "B H W"]]:
        """Features of the queries and of the support pictures, and targets."""
        return (
            stack_levels([self.query(each.query) for each in episodes]),
            SupportFeatures.stacked([self.support(each.support, each.label) for each in episodes]),
            torch.stack([self.target(each) for each in episodes]).to(self.pixels.device),
        )


@dataclass(frozen=True)
class FewShotTraining:
    """What training left.

    Attributes:
        segmenter: with the trained network.
        losses: of each step.
    """

    segmenter: FewShotSegmenter
    losses: Float[np.ndarray, "steps"]


def train_few_shot(
    episodes: FewShotEpisodes,
    *,
    support: Support = "msi",
    widths: Sequence[int] = (8, 16, 24),
    steps: int = 500,
    batch: int = 8,
    lr: float = 1e-3,
    schedule: str = "constant",
    seed: int = 0,
) -> FewShotTraining:
    """Train a `HypercorrelationNet` on one-shot episodes; the backbone stays as it is.

    The loss is cross-entropy of background and target at the size of the labels.

    Args:
        episodes: what to learn from.
        support: what of the support picture is correlated, see `hypercorrelations`.
        widths: of the network.
        steps, batch, lr, schedule: of Adam; a batch is so many episodes.
        seed: of weights and episodes.

    Raises:
        UsageError: fewer than one step or episode a batch; as `HypercorrelationNet`.

    Papers: MSI: Maximize Support-Set Information for Few-Shot Segmentation (arXiv 2212.04673); episodes and loss as in
    Hypercorrelation Squeeze for Few-Shot Segmentation (arXiv 2104.01538).
    """
    check_number("batch", batch, least=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = HypercorrelationNet(episodes.backbone.counts, widths=widths, support=support)
    segmenter = FewShotSegmenter(episodes.backbone, net)
    cross_entropy = DenseLoss()

    def drawn() -> Iterator[list[Episode]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield [episodes.draw(generator) for _ in range(batch)]

    def step(chosen: list[Episode]) -> Tensor:
        query, shown, target = episodes.batch(chosen)
        return cross_entropy(full_logits(net(query, shown), tuple(target.shape[1:])), target)  # type: ignore[arg-type]

    result = fit(step, net, drawn(), steps=steps, lr=lr, optimizer="adam", schedule=schedule)
    net.eval()
    return FewShotTraining(segmenter, np.asarray(result.history["loss"]))
