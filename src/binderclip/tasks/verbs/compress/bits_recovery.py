"""Training of a model in four bits to follow what it was, and whether that helped."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from binderclip.compress import PackedWeights, fine_tune_rounded
from binderclip.display import number_of
from binderclip.tasks.events import batches, start
from binderclip.tasks.verbs.compress.request import CompressRequest
from binderclip.tasks.verbs.compress.sample import SampleHalves, recovery_batches

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.compress import PairedSample
    from binderclip.models import ImageTextModel


@dataclass(frozen=True)
class BitsRecovery:
    """What fine-tuning of rounded weights did.

    Attributes:
        steps: of the optimizer.
        rounded, tuned: side -> mean cosine of held-out features to those of the float model, before and after them.
        pictures: that are held out.
        kept: whether the fine-tuned weights are those of the model; else they followed it less well.
    """

    steps: int
    rounded: dict[str, float]
    tuned: dict[str, float]
    pictures: int
    kept: bool

    def remark(self) -> str:
        """What came of it, in a sentence or two."""
        changes = " and ".join(
            f"of {side}s from {self.rounded[side]:.4f} to {self.tuned[side]:.4f}" for side in self.rounded
        )
        moved = (
            f"{number_of(self.steps, 'step')} with rounded weights moved the mean cosine to the features in float32 "
            f"{changes}, on {number_of(self.pictures, 'held-out picture')} and what they are called."
        )
        return moved if self.kept else f"{moved} They did not help, so the weights are those before them."

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "steps": self.steps, "rounded": self.rounded, "tuned": self.tuned, "pictures": self.pictures,
            "kept": self.kept,
        }  # fmt: skip


def recover_bits(
    request: CompressRequest,
    teacher: ImageTextModel,
    model: ImageTextModel,
    halves: SampleHalves,
    packed: PackedWeights,
) -> tuple[PackedWeights, BitsRecovery]:
    """Fine-tune a rounded model on the judged half, and keep what follows the float model better on the other.

    Args:
        request: with steps, learning rate, sides and seed.
        teacher: the float model. model: the rounded one, changed in place.
        halves: pictures and texts.
        packed: the weights of the model as they are stored.
    """
    state = copy.deepcopy(model.state_dict())
    weights = dict(teacher.named_parameters())
    rounded = _cosines(request, teacher, model, halves.held_out)
    start("fine-tuning the rounded weights")
    progress = batches("step of the recovery")
    model._cache.clear()

    def loss(batch: tuple[Tensor, Sequence[str]]) -> Tensor:
        with torch.no_grad():
            targets = _features(request, teacher, *batch)
        own = _features(request, model, *batch)
        distances = [1 - torch.cosine_similarity(own[side], targets[side]).mean() for side in own]
        return torch.stack(distances).mean()

    tuned_packed, _ = fine_tune_rounded(
        model, packed, weights, loss, recovery_batches(halves.judged, request.batch_size, request.seed),
        steps=request.steps, lr=request.recovery_lr, log_every=1,
        callbacks=[lambda record: progress(record.step, request.steps)],
    )  # fmt: skip
    model._cache.clear()
    tuned = _cosines(request, teacher, model, halves.held_out)
    kept = sum(tuned.values()) > sum(rounded.values())
    if not kept:
        model.load_state_dict(state)
        model._cache.clear()
    return tuned_packed if kept else packed, BitsRecovery(
        request.steps, rounded, tuned, len(halves.held_out.pixels), kept
    )


def _features(
    request: CompressRequest, model: ImageTextModel, pixels: Tensor, texts: Sequence[str]
) -> dict[str, Tensor]:
    """Side -> features of a batch, of the towers that are rounded."""
    features: dict[str, Tensor] = {}
    if "image" in request.sides:
        features["image"] = model.encode_image(pixels)
    if "text" in request.sides:
        features["text"] = model.encode_text(list(texts))
    return features


@torch.no_grad()
def _cosines(
    request: CompressRequest, teacher: ImageTextModel, model: ImageTextModel, sample: PairedSample
) -> dict[str, float]:
    """Side -> mean cosine of a model's features to the teacher's."""
    means: dict[str, float] = {}
    for side in request.sides:
        values = sample.pixels if side == "image" else list(sample.texts)
        encode = [getattr(one, f"encode_{side}")(values, batch_size=request.batch_size) for one in (model, teacher)]
        means[side] = float(torch.cosine_similarity(*encode).mean())
    return means
