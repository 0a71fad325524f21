"""MoPE-CLIP: an image-text model made narrower and shallower by the pruning error, and recovered by distillation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.compress.weights.budgets import PruneBudget
from binderclip.compress.weights.groups import Kind, PruneGroups, merged_groups, tower_groups
from binderclip.compress.weights.module_error import (
    Metric,
    ModulePruningError,
    PairedSample,
    Side,
    model_input,
    pair_loss,
)
from binderclip.compress.weights.removal import RemovedGroups, remove
from binderclip.compress.weights.scores import GradientScore
from binderclip.errors import NotSupported, UsageError
from binderclip.fit import FitResult, fit
from binderclip.losses.cross_modal_distillation import CrossModalDistillation, CrossModalFeatures
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.towers import Stack
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

__all__ = ["MoPEPruner", "PrunedWidths"]


@dataclass(frozen=True)
class PrunedWidths:
    """One step of a pruner.

    Attributes:
        scores: layer's name -> pruning error of each group.
        keep: layer's name -> which stayed.
        removed: sizes before and after.
    """

    scores: dict[str, Float[Tensor, "G"]]
    keep: dict[str, Bool[Tensor, "G"]]
    removed: RemovedGroups


class MoPEPruner:
    """Make an image-text model narrower, then shallower, by the pruning error, and recover by distillation.

    `width` takes out heads and sets of neurons, `recover` trains the rest to follow the model as it was, `depth` takes
    out blocks; the paper goes width, recover, depth, recover. The model changes in place; its copy is the teacher.

    Args:
        model: of open_clip's kind, with transformer towers on the sides that are pruned.
        sample: calibration pairs.
        sides: which towers: `image`, `text`.
        metric: see `ModulePruningError`.
        neuron_groups: sets that the neurons of a layer are cut in, after they were ordered by a gradient score; where
            it does not divide their number, the largest divisor below it.
        batch_size: pictures or texts at once.

    Raises:
        UsageError: no side, or what `ModulePruningError` refuses.
        NotSupported: a tower that cannot be opened (a convolutional one: see `channel_groups`).

    Examples:
        >>> from binderclip import load
        >>> pruner = MoPEPruner(load("small"), sample)  # doctest: +SKIP
        >>> pruner.width(0.5)  # doctest: +SKIP
        >>> pruner.recover(batches, steps=200)  # doctest: +SKIP
        >>> pruner.model.save("half")  # doctest: +SKIP

    Paper: see `ModulePruningError`.
    """

    def __init__(
        self,
        model: ImageTextModel,
        sample: PairedSample,
        *,
        sides: Sequence[Side] = ("image", "text"),
        metric: Metric = "recall",
        neuron_groups: int = 16,
        batch_size: int = 64,
    ) -> None:
        refuse_bare_module(model, "MoPEPruner")
        check_whole("neuron_groups", neuron_groups, least=1)
        if not sides:
            raise UsageError("sides is empty: name image or text")
        for side in sides:
            check_choice("sides", side, ("image", "text"))
        self.error = ModulePruningError(sample=sample, metric=metric, batch_size=batch_size)
        self.model, self.sample, self.sides, self.neuron_groups = (
            model,
            sample,
            tuple(dict.fromkeys(sides)),
            neuron_groups,
        )
        self.blocks = {side: list(range(self._tower(side).depth)) for side in self.sides}
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.teacher._cache.clear()

    def width(self, amount: float) -> PrunedWidths:
        """Take out this fraction of the heads and of the neurons of every block, at least one of each stays.

        Args:
            amount: in (0, 1).

        Raises:
            UsageError: an amount out of range.
        """
        budget = PruneBudget(amount=amount)
        groups = self.width_groups()
        scores = self.error(self.model, groups)
        keep = budget.select(scores)
        return PrunedWidths(scores, keep, remove(self.model, groups, keep))

    def depth(
        self,
        amount: float,
        score: Callable[[ImageTextModel, Sequence[PruneGroups]], dict[str, Float[Tensor, "G"]]] | None = None,
    ) -> PrunedWidths:
        """Take out this fraction of the blocks of every tower, at least one stays.

        Args:
            amount: in (0, 1).
            score: (model, groups) -> what each block is worth, by the group's name; default the pruning error.

        Raises:
            UsageError: an amount out of range.
        """
        budget = PruneBudget(amount=amount)
        groups = self.groups(("block",))
        scores = (score or self.error)(self.model, groups)
        keep: dict[str, Tensor] = {}
        for side in self.sides:
            own = [one for one in groups if one.side == side]
            chosen = budget.select({side: torch.cat([scores[one.name] for one in own])})[side]
            keep |= {one.name: chosen[one.layer][None] for one in own}
            self.blocks[side] = [
                block for block, stays in zip(self.blocks[side], chosen.tolist(), strict=True) if stays
            ]
        return PrunedWidths(scores, keep, remove(self.model, groups, keep))

    def width_groups(self) -> list[PruneGroups]:
        """Heads, and neurons in sets of which the first has those of the largest gradient score.

        That score is the paper's, |sum over data of dL/da a|: not the one of each example, `GradientScore`'s default.
        """
        neurons = self.groups(("neuron",))
        training = self.model.training
        self.model.eval()
        scores = GradientScore(losses=self.losses, per_example=False)(self.model, neurons)
        self.model.train(training)
        sets = []
        for one in neurons:
            order = scores[one.name].argsort(descending=True, stable=True)
            sets.append(merged_groups(one, order, self.neuron_sets(one)))
        return [*self.groups(("head",)), *sets]

    def neuron_sets(self, neurons: PruneGroups) -> int:
        """How many sets the neurons of a layer are cut in: the largest divisor of their number up to `neuron_groups`.

        Args:
            neurons: of one layer, one a group.
        """
        return next(c for c in range(min(self.neuron_groups, len(neurons)), 0, -1) if len(neurons) % c == 0)

    def recover(
        self,
        batches: Iterable[tuple[Tensor, Sequence[str]]],
        *,
        steps: int,
        lr: float = 5e-5,
        loss: CrossModalDistillation | None = None,
        task: Callable[[CrossModalFeatures], Float[Tensor, ""]] | None = None,
        **options: Any,
    ) -> FitResult:
        """Train the model to follow what it was.

        Args:
            batches: pictures (B, 3, H, W) in [0, 1] with one caption each, of training data.
            steps: of the optimizer.
            lr: learning rate of AdamW.
            loss: default `CrossModalDistillation()`.
            task: features -> a loss that is added (fine-tuning).
            options: of `fit`.
        """
        distillation = CrossModalDistillation() if loss is None else loss
        layers = {side: list(range(len(kept))) for side, kept in self.blocks.items()}

        def step(batch: tuple[Tensor, Sequence[str]]) -> Any:
            with torch.no_grad():
                target = pair_features(self.teacher, *batch, self.blocks)
            own = pair_features(self.model, *batch, layers)
            output = distillation(own, target)
            return output if task is None else (output.total + task(own), output.metrics)

        try:
            return fit(step, self.model.train(), batches, steps=steps, lr=lr, **options)
        finally:
            self.model.eval()

    def _tower(self, side: Side) -> Stack:
        try:
            return self.model.image_tower if side == "image" else self.model.text_tower
        except NotSupported as error:
            raise NotSupported(f"{self.model.name}: {error}; leave {side!r} out of sides") from error

    def groups(self, kinds: Sequence[Kind]) -> list[PruneGroups]:
        """The groups of these kinds in the towers that are pruned."""
        return [one for side in self.sides for one in tower_groups(self._tower(side), kinds, side=side)]

    def losses(self) -> Iterator[Float[Tensor, ""]]:
        """The loss of each batch of the sample, with its graph, as `GradientScore` takes it."""
        size = self.error.batch_size
        for start in range(0, len(self.sample.pixels), size):
            part = self.sample.part(slice(start, start + size)) if len(self.sample.pixels) - start > 1 else None
            if part is None:
                continue
            image, text = self.model.encode_image(part.pixels), self.model.encode_text(list(part.texts))
            yield pair_loss(self.model.scale() * self.model.similarity(image, text), part.labels)


def pair_features(
    model: ImageTextModel, pixels: Float[Tensor, "B 3 H W"], texts: Sequence[str], blocks: dict[Any, list[int]]
) -> CrossModalFeatures:
    """Embeddings of a batch of pairs, and the states behind some blocks.

    Args:
        model: the model.
        pixels: in [0, 1]. texts: their captions.
        blocks: `image`, `text` -> blocks whose outputs are wanted; a side that is not named runs closed.
    """
    features: dict[str, Tensor] = {}
    hidden: list[Tensor] = []
    for side, inputs in (("image", pixels), ("text", texts)):
        if side not in blocks:
            features[side] = model.encode_image(pixels) if side == "image" else model.encode_text(list(texts))
            continue
        tower: Any = model.image_tower if side == "image" else model.text_tower
        tokens = tower.embed(model_input(model, inputs))
        for layer in range(tower.depth):
            tokens = tower.run(tokens, start=layer, stop=layer + 1)
            if layer in blocks[side]:
                hidden.append(tokens.x)
        features[side] = tower.project(tower.pool(tokens))
    return CrossModalFeatures(features["image"], features["text"], model.scale(), tuple(hidden))
