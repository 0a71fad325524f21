"""A small image-text model follows a large one: similarities, embeddings and hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.contrastive.loss import LossOutput
from binderclip.numeric import check_number
from binderclip.similarity.geometry import at_least_float32

__all__ = ["CrossModalDistillation", "CrossModalFeatures"]


class CrossModalFeatures(NamedTuple):
    """What a model makes of a batch of pairs.

    Attributes:
        image, text: (B, E) raw embeddings, row by row of one pair.
        scale: factor on the cosines, 0-dim.
        hidden: (B, L, D) states behind the blocks that are compared, image side first.
    """

    image: Float[Tensor, "B E"]
    text: Float[Tensor, "B E"]
    scale: Float[Tensor, ""]
    hidden: Sequence[Float[Tensor, "B _ _"]] = ()


class CrossModalDistillation(nn.Module):
    """similarity x L_sim + features x L_feat + hidden x L_hidn between a student and its teacher on one batch.

    L_sim is the cross-entropy between the teacher's and the student's softmax over the batch, of rows and of columns,
    averaged, each with its own scale; for a student that equals its teacher it is the teacher's entropy. L_feat is the
    sum of the mean squared differences of the raw image and of the raw text embeddings, L_hidn that of the hidden
    states, averaged over blocks. The teacher's side has no gradient.

    Args:
        similarity, features, hidden: weights, at least 0. Embeddings are small numbers, so theirs is large; `metrics`
            has the three unweighted values, to choose by.

    Raises:
        UsageError: a weight that is negative or not finite; at the call, shapes that differ or another number of
            hidden states.

    Paper: Lin et al., "MoPE-CLIP: Structured Pruning for Efficient Vision-Language Models with Module-wise Pruning
    Error Metric", arXiv 2403.07839.
    """

    def __init__(self, *, similarity: float = 1.0, features: float = 1000.0, hidden: float = 1.0) -> None:
        super().__init__()
        for name, weight in (("similarity", similarity), ("features", features), ("hidden", hidden)):
            check_number(name, weight, least=0)
        self.similarity, self.features, self.hidden = similarity, features, hidden

    def forward(self, student: CrossModalFeatures, teacher: CrossModalFeatures) -> LossOutput:
        """The weighted sum, its terms, and the unweighted values as metrics."""
        _check_alike(student, teacher)
        rows, columns = _log_probabilities(student)
        with torch.no_grad():
            target_rows, target_columns = _log_probabilities(teacher)
        similarity = 0.5 * (_cross_entropy(target_rows, rows) + _cross_entropy(target_columns, columns))
        features = _difference(student.image, teacher.image) + _difference(student.text, teacher.text)
        states = [_difference(own, other) for own, other in zip(student.hidden, teacher.hidden, strict=True)]
        hidden = torch.stack(states).mean() if states else features.new_zeros(())
        values = {"similarity": similarity, "features": features, "hidden": hidden}
        terms = {name: getattr(self, name) * value for name, value in values.items()}
        metrics = {f"distillation/{name}": value.detach() for name, value in values.items()}
        return LossOutput(torch.stack(list(terms.values())).sum(), terms, metrics)


def _check_alike(student: CrossModalFeatures, teacher: CrossModalFeatures) -> None:
    if len(student.hidden) != len(teacher.hidden):
        raise UsageError(
            f"{len(student.hidden)} hidden states of the student and {len(teacher.hidden)} of the teacher: give those "
            "of the same blocks"
        )
    pairs = [("image", student.image, teacher.image), ("text", student.text, teacher.text)]
    states = zip(student.hidden, teacher.hidden, strict=True)
    pairs += [(f"hidden[{i}]", own, other) for i, (own, other) in enumerate(states)]
    for name, own, other in pairs:
        if own.shape != other.shape:
            raise UsageError(f"{name}: shape {tuple(own.shape)} of the student, {tuple(other.shape)} of the teacher")


def _log_probabilities(features: CrossModalFeatures) -> tuple[Float[Tensor, "B B"], Float[Tensor, "B B"]]:
    """Log-softmax over the texts of each image, and over the images of each text."""
    image, text = (F.normalize(at_least_float32(side), dim=-1) for side in (features.image, features.text))
    logits = features.scale * image @ text.mT
    return logits.log_softmax(1), logits.mT.log_softmax(1)


def _cross_entropy(target: Float[Tensor, "B B"], log_probability: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    return -(target.exp() * log_probability).sum(1).mean()


def _difference(own: Tensor, other: Tensor) -> Float[Tensor, ""]:
    return F.mse_loss(at_least_float32(own), at_least_float32(other).detach())
