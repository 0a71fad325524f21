"""The terms of CLIP-Refine: both modalities follow one random vector, and the start model's similarities are kept."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.contrastive.embeddings import Embeddings
from binderclip.losses.contrastive.links import SoftmaxLink, make_plan
from binderclip.losses.contrastive.terms.distill import SoftPositives
from binderclip.numeric import check_number
from binderclip.similarity.geometry import at_least_float32

__all__ = ["HybridContrastiveDistillation", "RandomFeatureAlignment"]

_ODD = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: neighbouring steps get unlike generators


class RandomFeatureAlignment(nn.Module):
    """Move the raw features of a pair to one random vector: MSE(image, r) + MSE(text, r), r new in each step (RaFA).

    Averaged over draws both modalities regress to the prior's mean, so that a prior of zero mean takes the offsets of
    the two clusters away, and the gap with them; the noise of a step is common to a pair. Vectors depend on (seed,
    step, row of the whole batch) alone, so several processes draw those of one; the step is saved with the loss.

    Args:
        weight: of this term in the total.
        mean: of the prior in each coordinate, a number or (d,).
        std: of the prior, a number or (d,); "match" is the root mean square of a coordinate of the first batch's
            features, for towers whose features have another length than CLIP's.
        shared: one vector for both sides of a pair; False draws two of their own, for comparison.
        decay: calls in training mode over which the term falls linearly to 0; None keeps it whole.
        seed: of the vectors.
        names: of the two embeddings.

    Raises:
        UsageError: a negative deviation or a decay below 1; at the call, a prior of another width.

    Paper: Post-pre-training for Modality Alignment in Vision-Language Foundation Models, arXiv 2504.12717 (equation of
    L_RaFA; mean 0, std 1).
    """

    name = "rafa"
    mean: Tensor
    std: Tensor
    step: Tensor
    matched: Tensor

    def __init__(
        self,
        weight: float = 1.0,
        *,
        mean: float | Float[Tensor, "d"] = 0.0,
        std: float | Float[Tensor, "d"] | Literal["match"] = 1.0,
        shared: bool = True,
        decay: int | None = None,
        seed: int = 0,
        names: tuple[str, str] = ("image", "text"),
    ) -> None:
        super().__init__()
        if isinstance(std, str):
            if std != "match":
                raise UsageError(f"std must be a number, a vector or 'match', got {std!r}")
        elif not bool((torch.as_tensor(std) >= 0).all()):
            raise UsageError(f"the prior's std must not be negative, got {std}")
        if decay is not None and decay < 1:
            raise UsageError(f"decay must be at least 1 step, got {decay}")
        self.weight, self.shared, self.decay, self.seed, self.names = weight, shared, decay, seed, names
        self.match = isinstance(std, str)
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.as_tensor(1.0 if isinstance(std, str) else std).float(), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("matched", torch.zeros(()))

    def extra_repr(self) -> str:
        return f"weight={self.weight}, shared={self.shared}, decay={self.decay}"

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """Mean over the whole batch and all coordinates, the sides summed; in training mode the step goes on."""
        sides = [at_least_float32(embeddings[name]) for name in self.names]  # (n, d) each
        if self.match and not float(self.matched):
            squares = torch.stack([embeddings.mean(x.detach().square().mean(1)) for x in sides])
            self.matched.copy_(squares.mean().sqrt())
        step = int(self.step)
        drawn = self._draw(embeddings, sides[0], step)
        decay = 1.0 if self.decay is None else max(0.0, 1 - step / self.decay)
        rows = [(x - r).square().mean(1) for x, r in zip(sides, drawn, strict=True)]
        if self.training:
            self.step += 1
        return decay * torch.stack([embeddings.mean(row) for row in rows]).sum()

    def _draw(self, embeddings: Embeddings, like: Float[Tensor, "n d"], step: int) -> list[Float[Tensor, "n d"]]:
        """The vectors of this process's rows, for each side."""
        share, width = embeddings.share, like.shape[1]
        for value, what in ((self.mean, "mean"), (self.std, "std")):
            if value.ndim and value.shape != (width,):
                raise UsageError(f"the prior's {what} has shape {tuple(value.shape)}, the features {width} coordinates")
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step * _ODD) % (1 << 63))
        count = 1 if self.shared else 2
        noise = torch.randn(share.total, count, width, generator=generator)[share.local].to(like)  # (n, count, d)
        std = self.matched if self.match else self.std
        vectors = (self.mean + std * noise).to(like)
        return [vectors[:, 0], vectors[:, -1]]


class HybridContrastiveDistillation(nn.Module):
    """KL(q || student) over rows and columns, q = alpha (pairing) + (1 - alpha) (the frozen start model) (HyCD).

    Student and teacher are softmaxes of plain dot products of raw features over the temperature, without a logit
    scale: the lengths of the features set how sharp they are. Neither matrix is ever held whole.

    Args:
        weight: of this term in the total.
        alpha: share of the one-hot pairing in the targets, in [0, 1]; 0 is distillation alone, 1 InfoNCE.
        temperature: divides both sides' dot products; the value is multiplied by its square.
        normalize: compare features of length 1 instead (with a temperature such as 1/100).
        student, teacher: names of the embeddings.

    Raises:
        UsageError: an alpha outside [0, 1] or a temperature that is not positive; at the call, a missing teacher.

    Paper: Post-pre-training for Modality Alignment in Vision-Language Foundation Models, arXiv 2504.12717 (equation of
    L_HyCD; alpha 0.5, temperature 1, raw features in the official code).
    """

    name = "hycd"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        alpha: float = 0.5,
        temperature: float = 1.0,
        normalize: bool = False,
        student: tuple[str, str] = ("image", "text"),
        teacher: tuple[str, str] = ("teacher_image", "teacher_text"),
    ) -> None:
        super().__init__()
        check_number("alpha", alpha, least=0, most=1)
        check_number("temperature", temperature, above=0)
        self.weight, self.alpha, self.temperature, self.normalize = weight, alpha, temperature, normalize
        self.student, self.teacher = student, teacher

    def extra_repr(self) -> str:
        return f"weight={self.weight}, alpha={self.alpha}, temperature={self.temperature}, normalize={self.normalize}"

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """The divergence over the whole batch, mean over rows, both directions averaged."""
        a, b = (self._ready(embeddings[name]) for name in self.student)  # (n, d)
        share, chunk = embeddings.share, embeddings.chunk
        with torch.no_grad():
            left, right = (self._ready(embeddings[name].detach()) for name in self.teacher)  # (n, t)
            targets = SoftPositives(share, left / self.temperature, right, chunk, alpha=self.alpha)
        plan = make_plan(share, targets, chunk, metrics=False)
        value, _ = SoftmaxLink()(a, b, a.new_tensor(1 / self.temperature), None, plan)
        return self.temperature**2 * (value - targets.entropy)

    def _ready(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        x = at_least_float32(x)
        return F.normalize(x, dim=1) if self.normalize else x
