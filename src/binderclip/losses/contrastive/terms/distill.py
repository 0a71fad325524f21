"""Distillation terms: follow a teacher's embeddings, or a teacher's similarities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.contrastive.embeddings import Embeddings
from binderclip.losses.contrastive.links import SoftmaxLink, make_plan
from binderclip.losses.contrastive.share import Share
from binderclip.losses.contrastive.targets import Block, Positives
from binderclip.settings import check_choice
from binderclip.similarity.geometry import at_least_float32

__all__ = ["EmbeddingDistill", "SimilarityDistill", "SoftPositives", "SoftTargets", "log_sums"]


class EmbeddingDistill(nn.Module):
    """Move the student's embeddings onto the teacher's: mean of 1 - cosine, or of the squared distance.

    Args:
        weight: of this term in the total.
        pairs: the name of each student embedding with the name of its teacher.
        kind: "cosine" (1 - cosine, blind to length) or "mse" (squared distance of the raw features over d).
        projections: modules by student name, applied to the student first where widths differ; trained with the loss.

    Raises:
        UsageError: an unknown kind; at the call, widths that differ without a projection.
    """

    name = "distill"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        pairs: Mapping[str, str] | None = None,
        kind: Literal["cosine", "mse"] = "cosine",
        projections: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        check_choice("kind", kind, ("cosine", "mse"))
        self.weight, self.kind = weight, kind
        self.pairs = dict(pairs or {"image": "teacher_image", "text": "teacher_text"})
        self.projections = nn.ModuleDict(dict(projections or {}))

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """Mean over the pairs and over the whole batch."""
        values = []
        for student, teacher in self.pairs.items():
            x, y = embeddings[student], embeddings[teacher].detach()
            if student in self.projections:
                x = self.projections[student](x)
            if x.shape != y.shape:
                raise UsageError(
                    f"{student!r} has shape {tuple(x.shape)} and its teacher {teacher!r} {tuple(y.shape)}: "
                    f"give projections={{{student!r}: nn.Linear({x.shape[1]}, {y.shape[1]})}}"
                )
            x, y = at_least_float32(x), at_least_float32(y)
            per_row = 1 - F.cosine_similarity(x, y, dim=1) if self.kind == "cosine" else (x - y).square().mean(1)
            values.append(embeddings.mean(per_row))
        return torch.stack(values).mean()


class SimilarityDistill(nn.Module):
    """Move the student's softmax over the batch onto the teacher's: KL(teacher || student), both directions averaged.

    Neither matrix is ever held whole. With teacher=("teacher_text", "teacher_text") the teacher's text-text
    similarities become soft targets for the student's image-text ones.

    Args:
        weight: of this term in the total.
        student: names of the two student embeddings, compared in the loss's geometry.
        teacher: names of the two teacher embeddings, compared by cosine.
        teacher_scale: the teacher's logit scale.
        student_scale: the student's; None for the loss's own main scale.

    Paper: CLIP-KD, arXiv 2307.12732 (its contrastive relational distillation).
    """

    name = "distill"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        student: tuple[str, str] = ("image", "text"),
        teacher: tuple[str, str] = ("teacher_image", "teacher_text"),
        teacher_scale: float = 100.0,
        student_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.student, self.teacher = weight, student, teacher
        self.teacher_scale, self.student_scale = teacher_scale, student_scale

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """The divergence over the whole batch."""
        a, b = embeddings.sides(*self.student)
        with torch.no_grad():
            left, right = (F.normalize(at_least_float32(embeddings[name].detach()), dim=1) for name in self.teacher)
            soft = SoftPositives(
                embeddings.share, left.to(a.dtype) * self.teacher_scale, right.to(a.dtype), embeddings.chunk
            )
        scale = embeddings.scales["main"][0] if self.student_scale is None else a.new_tensor(self.student_scale)
        plan = make_plan(embeddings.share, soft, embeddings.chunk, metrics=False, of_dot=embeddings.similarity.of_dot)
        value, _ = SoftmaxLink()(a, b, embeddings.factor(scale).to(a.dtype), None, plan)
        # the cross-entropy against soft targets minus their entropy, which has no gradient
        return value - soft.entropy


class SoftTargets(Positives):
    """Targets that give every entry of a block a share; a subclass says which."""

    def targets(self, i: slice, j: slice) -> tuple[Block, Block]:
        """The targets of a block's rows and of its columns."""
        raise NotImplementedError

    def pull(self, block: Block, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        by_row, by_column = self.targets(i, j)
        return (by_row * block).sum(1), (by_column * block).sum(0)

    def subtract_(self, block: Block, i: slice, j: slice, rows: float, columns: float) -> None:
        by_row, by_column = self.targets(i, j)
        block.sub_(by_row, alpha=rows).sub_(by_column, alpha=columns)


class SoftPositives(SoftTargets):
    """Targets that are another softmax, computed again for each block, mixed with the pairing where asked.

    Args:
        share: how the batch is spread over processes.
        left, right: of this process's rows; their dot products are the logits of the targets.
        chunk: side of a block.
        alpha: share of the one-hot pairing; the softmax has the rest.
    """

    def __init__(
        self,
        share: Share,
        left: Float[Tensor, "n t"],
        right: Float[Tensor, "n t"],
        chunk: int,
        *,
        alpha: float = 0.0,
    ) -> None:
        super().__init__(share)
        self.left, self.right, self.alpha = left, share.gather(right), alpha
        self.rows, self.columns = log_sums(share, self.left, self.right, chunk)
        entropy = left.new_zeros(())
        for i, j in _blocks(len(left), len(self.right), chunk):
            for targets in self.targets(i, j):
                entropy += torch.special.entr(targets).sum()
        self.entropy = share.sum(entropy) / (2 * share.total)

    def targets(self, i: slice, j: slice) -> tuple[Block, Block]:
        """Softmaxes over all columns and over all rows, with the pairing's share."""
        logits = self.left[i] @ self.right[j].T
        by_row, by_column = (logits - self.rows[i, None]).exp_(), (logits - self.columns[None, j]).exp_()
        if self.alpha:
            for targets in (by_row, by_column):
                targets.mul_(1 - self.alpha)
                entries = self._diagonal(targets, i, j)
                if entries is not None:
                    entries.add_(self.alpha)
        return by_row, by_column


def log_sums(
    share: Share,
    left: Float[Tensor, "n t"],
    right: Float[Tensor, "N t"],
    chunk: int,
    *,
    less_rows: Float[Tensor, "n"] | None = None,
    less_columns: Float[Tensor, "N"] | None = None,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "N"]]:
    """Log-sum-exp over each row and over each column of the logits `left @ right.T`, which are never held whole.

    Args:
        share: how the batch is spread over processes.
        left: of this process's rows.
        right: of all rows.
        chunk: side of a block.
        less_rows: taken off the rows' logits before columns are summed; default nothing.
        less_columns: taken off the columns' logits before rows are summed.
    """
    n, total = len(left), len(right)
    rows, columns = left.new_full((n,), -torch.inf), left.new_full((total,), -torch.inf)
    for i, j in _blocks(n, total, chunk):
        logits = left[i] @ right[j].T
        by_column = logits if less_rows is None else logits - less_rows[i, None]
        by_row = logits if less_columns is None else logits - less_columns[None, j]
        rows[i] = torch.logaddexp(rows[i], by_row.logsumexp(1))
        columns[j] = torch.logaddexp(columns[j], by_column.logsumexp(0))
    if share.size > 1:
        top = share.max(columns.clone())
        columns = top + share.sum((columns - top).exp()).log()
    return rows, columns


def _blocks(rows: int, columns: int, side: int) -> list[tuple[slice, slice]]:
    return [
        (slice(s, min(s + side, rows)), slice(c, min(c + side, columns)))
        for s in range(0, rows, side)
        for c in range(0, columns, side)
    ]
