"""The module-wise pruning error: a module is worth what the task loses without it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.compress.weights.groups import PruneGroups, masked
from binderclip.errors import UsageError
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.towers import Stack
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

__all__ = ["ModulePruningError", "PairedSample", "mean_recall", "model_input", "pair_loss"]

Metric = Literal["recall", "accuracy", "loss"]
Side = Literal["image", "text"]
KS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class PairedSample:
    """Pictures and texts that modules are judged by; never those of the test.

    Attributes:
        pixels: (N, 3, H, W) in [0, 1].
        texts: one caption a picture; with labels the texts of the classes.
        labels: (N,) which text is right for each picture, or None.

    Raises:
        UsageError: fewer than two pictures, another number of captions, or labels out of range.
    """

    pixels: Float[Tensor, "N 3 H W"]
    texts: Sequence[str]
    labels: Int[Tensor, "N"] | None = None

    def __post_init__(self) -> None:
        count = len(self.pixels)
        if count < 2:
            raise UsageError(f"modules are judged by at least two pictures, got {count}")
        if self.labels is None:
            if len(self.texts) != count:
                raise UsageError(f"{count} pictures and {len(self.texts)} captions: give one each, or labels")
        elif len(self.labels) != count or not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.texts):
            raise UsageError(f"labels must be {count} indices of the {len(self.texts)} texts")

    def part(self, rows: slice) -> PairedSample:
        """Some of the pairs; with labels all texts stay."""
        if self.labels is not None:
            return PairedSample(pixels=self.pixels[rows], texts=self.texts, labels=self.labels[rows])
        return PairedSample(pixels=self.pixels[rows], texts=self.texts[rows])


@dataclass(frozen=True, kw_only=True)
class ModulePruningError:
    """Module-wise pruning error: the metric of the whole model minus that without one module.

    A module is what its group says: a head, a set of neurons, a block, channels. The larger the error, the more it is
    needed; below 0 the model is better without it. Of a transformer tower only the blocks from the module's on run
    again, and the other tower never does.

    Args:
        sample: calibration pairs.
        metric: `recall` (mean of R@1, 5, 10 in both directions, in [0, 1]), `accuracy` (zero-shot, needs labels) or
            `loss` (nats; the contrastive loss, with labels the cross-entropy).
        break_ties: few pairs give many modules the same error; the loss then says which is needed more. It moves an
            error by less than half of the smallest step of the metric, and one that changes nothing stays at 0.
        batch_size: pictures or texts that run at once.
        progress: called with (done, total) after each run of a batch without one module.

    Raises:
        UsageError: an unknown metric, `accuracy` without labels or `recall` with them.

    Paper: Lin et al., "MoPE-CLIP: Structured Pruning for Efficient Vision-Language Models with Module-wise Pruning
    Error Metric", arXiv 2403.07839.
    """

    sample: PairedSample
    metric: Metric = "recall"
    break_ties: bool = True
    batch_size: int = 64
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        check_choice("metric", self.metric, ("recall", "accuracy", "loss"))
        check_whole("batch_size", self.batch_size, least=1)
        if self.metric == "accuracy" and self.sample.labels is None:
            raise UsageError("metric 'accuracy' needs labels: give sample.labels, or take 'recall' or 'loss'")
        if self.metric == "recall" and self.sample.labels is not None:
            raise UsageError("metric 'recall' needs a caption for each picture, and the sample has labels")

    @torch.no_grad()
    def __call__(self, model: nn.Module, groups: Sequence[PruneGroups]) -> dict[str, Float[Tensor, "G"]]:
        """Layer's name -> error of each of its groups, float64.

        Raises:
            UsageError: no `ImageTextModel`, or a metric that is not finite.
        """
        if not isinstance(model, ImageTextModel):
            raise UsageError(f"the pruning error is that of an ImageTextModel, not of {type(model).__name__}")
        training = model.training
        model.eval()
        try:
            whole = {side: self._whole(model, side) for side in ("image", "text")}
            errors, full = {}, {}
            for name, features, plain, side in self._without_each(model, groups):
                if id(plain) not in full:  # the whole model as it is computed on this side, to the last bit
                    full[id(plain)] = self._values(model, [plain], side, whole)[0]
                    if not bool(full[id(plain)].isfinite().all()):
                        raise UsageError("the metric of the whole model is not finite")
                # Z(f) - Z(f without theta), of the metric and of the loss: (G, 2)
                errors[name] = full[id(plain)] - self._values(model, features, side, whole)
        finally:
            model.train(training)
        return self._ranked(errors)

    def _ranked(self, errors: dict[str, Float[Tensor, "G 2"]]) -> dict[str, Float[Tensor, "G"]]:
        """The errors of the metric, and between equal ones those of the loss."""
        if self.metric == "loss" or not self.break_ties or not errors:
            return {name: error[:, 0] for name, error in errors.items()}
        count = len(self.sample.pixels)
        step = 1 / (count if self.metric == "accuracy" else 2 * len(KS) * count)
        largest = max(float(error[:, 1].abs().max()) for error in errors.values()) or 1.0
        return {name: error[:, 0] + 0.25 * step * error[:, 1] / largest for name, error in errors.items()}

    def _values(
        self, model: ImageTextModel, features: Iterable[Tensor], side: str, whole: dict[str, Tensor]
    ) -> Float[Tensor, "G 2"]:
        """The metric and the negative loss with each of one side's features against the other side's."""
        rows = [
            self._value(model, one, whole["text"]) if side == "image" else self._value(model, whole["image"], one)
            for one in features
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def _value(self, model: ImageTextModel, image: Tensor, text: Tensor) -> tuple[float, float]:
        """The metric and the negative loss: more is better of both."""
        logits = model.scale().cpu() * model.similarity(image, text)
        loss = pair_loss(logits, self.sample.labels)
        if self.metric == "loss":
            return -float(loss), -float(loss)
        if self.metric == "accuracy":
            assert self.sample.labels is not None  # refused when it was made
            return float((logits.argmax(1) == self.sample.labels).double().mean()), -float(loss)
        return mean_recall(logits), -float(loss)

    def _whole(self, model: ImageTextModel, side: str) -> Float[Tensor, "N E"]:
        if side == "text":
            return model.encode_text(list(self.sample.texts), batch_size=self.batch_size).cpu()
        return model.encode_image(self.sample.pixels, batch_size=self.batch_size).cpu()

    def _without_each(
        self, model: ImageTextModel, groups: Sequence[PruneGroups]
    ) -> Iterator[tuple[str, Float[Tensor, "G N E"], Float[Tensor, "N E"], str]]:
        """Layer's name, the features without each of its groups and those of the whole model, and their side."""
        each = self._one_by_one(groups)
        for side in ("image", "text"):
            own = [one for one in groups if one.side == side]
            rows: dict[str, list[Tensor]] = {one.name: [] for one in own}
            plain: list[Tensor] = []
            for states, tower in self._states(model, side) if own else ():
                plain.append(_finished(tower, states, tower.depth - 1))
                for one in own:
                    rows[one.name].append(torch.stack([_finished(tower, states, one.layer) for _ in each(one)]))
            if own:
                features = torch.cat(plain)
                yield from ((one.name, torch.cat(rows[one.name], 1), features, side) for one in own)
        outside = [one for one in groups if not one.side]
        if outside:  # channels outside the towers: the image side runs whole
            features = self._whole(model, "image")
            for one in outside:
                yield one.name, torch.stack([self._whole(model, "image") for _ in each(one)]), features, "image"

    def _one_by_one(self, groups: Sequence[PruneGroups]) -> Callable[[PruneGroups], Iterator[int]]:
        """Takes out each group of a layer, one at a time, and counts."""
        runs = {"image": len(self.sample.pixels), "text": len(self.sample.texts)}
        batches = {side: -(-count // self.batch_size) for side, count in runs.items()} | {"": 1}
        total, done = sum(len(one) * batches[one.side] for one in groups), itertools.count(1)

        def each(one: PruneGroups) -> Iterator[int]:
            for number in _one_by_one(one):
                yield number
                if self.progress is not None:
                    self.progress(next(done), total)

        return each

    def _states(self, model: ImageTextModel, side: str) -> Iterator[tuple[list[Any], Stack]]:
        """Of each batch the tokens that enter every block."""
        inputs: Any = self.sample.pixels if side == "image" else list(self.sample.texts)
        tower: Any = model.image_tower if side == "image" else model.text_tower
        for start in range(0, len(inputs), self.batch_size):
            part = inputs[start : start + self.batch_size]
            states = [tower.embed(model_input(model, part))]
            for layer in range(tower.depth - 1):
                states.append(tower.run(states[-1], start=layer, stop=layer + 1))
            yield states, tower


def _finished(tower: Any, states: Sequence[Any], layer: int) -> Float[Tensor, "B E"]:
    """Embeddings from the tokens that enter a block."""
    return tower.project(tower.pool(tower.run(states[layer], start=layer))).float().cpu()


def _one_by_one(groups: PruneGroups) -> Iterator[int]:
    """The number of each group, while it is taken out."""
    for number in range(len(groups)):
        keep = torch.ones(len(groups), dtype=torch.bool)
        keep[number] = False
        with masked([groups], {groups.name: keep}):
            yield number


def model_input(model: ImageTextModel, part: Any) -> Any:
    """What a tower embeds: preprocessed pixels, or tokens."""
    if isinstance(part, Tensor):
        return model.preprocess(part.to(model.device)).to(model.dtype)
    return model.tokenize(list(part)).to(model.device)


def pair_loss(logits: Float[Tensor, "N M"], labels: Int[Tensor, "N"] | None) -> Float[Tensor, ""]:
    """The contrastive loss of pairs on the diagonal, both directions averaged; with labels the cross-entropy."""
    if labels is not None:
        return F.cross_entropy(logits, labels.to(logits.device))
    diagonal = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.mT, diagonal))


def mean_recall(logits: Float[Tensor, "N N"]) -> float:
    """The mean of R@1, R@5 and R@10 in both directions, in [0, 1]; a tie counts as ranked before."""
    right = logits.diagonal()
    ranks = [(side >= right[:, None]).sum(1) for side in (logits, logits.mT)]  # 1 is best
    return float(torch.stack([(rank <= k).double().mean() for rank in ranks for k in KS]).mean())
