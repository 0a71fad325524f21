"""Self-supervised losses of views, between the modalities: Barlow Twins, SimSiam with BYOL, and SwAV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from binderclip.errors import UsageError
from binderclip.losses.contrastive.embeddings import Embeddings
from binderclip.losses.contrastive.links import SoftmaxLink, make_plan
from binderclip.losses.contrastive.share import Share
from binderclip.losses.contrastive.targets import Block
from binderclip.losses.contrastive.terms.distill import SoftTargets, log_sums
from binderclip.losses.self_supervised import prediction_distances
from binderclip.similarity.geometry import Cosine, at_least_float32

__all__ = ["CrossModalBarlow", "CrossModalSimSiam", "CrossModalSwAV", "SinkhornTargets"]

PAIRS = (("image", "text"), ("image_local", "text_local"))
"""The weak view with the caption, and each strong view with each augmented text."""


class _CrossModal(nn.Module):
    """Pairings of views of two modalities, seen through projections.

    Args:
        weight: of the term in the total.
        pairs: names of embeddings, images first; every view of the one is paired with every view of the other.
        projections: modules for "image" and "text", applied to each view; None compares the embeddings themselves.
    """

    def __init__(
        self, weight: float, pairs: Sequence[tuple[str, str]], projections: Mapping[str, nn.Module] | None
    ) -> None:
        super().__init__()
        if not pairs:
            raise UsageError(f"{type(self).__name__} needs at least one pair of names, such as ('image', 'text')")
        self.weight, self.pairs = weight, tuple(pairs)
        self.projections = _sides(projections, "projections")

    def _projected(self, views: Sequence[Tensor], side: str, by: nn.ModuleDict) -> list[Float[Tensor, "n p"]]:
        return [at_least_float32(by[side](view) if by else view) for view in views]

    def _both(self, e: Embeddings, pair: tuple[str, str]) -> tuple[list[Float[Tensor, "n p"]], ...]:
        """Projected views of both sides of a pair."""
        return tuple(
            self._projected([e[view] for view in e.views(name)], side, self.projections)
            for name, side in zip(pair, ("image", "text"), strict=True)
        )


class CrossModalBarlow(_CrossModal):
    """Barlow Twins between images and texts (BarLIP): coordinates of a pair agree, and say different things.

    C = A^T B / N of coordinates standardised over the whole batch; scale (sum (C_ii - 1)^2 + lam sum C_ij^2, i != j),
    mean over the pairings. The matrix is width x width, whatever the batch. The released projector ends in a batch
    normalisation with learned gain and offset; here coordinates are standardised without them, over all processes.

    Args:
        weight: of this term in the total.
        lam: of what is off the diagonal.
        scale: of the whole.
        pairs, projections: what is compared; the paper's projectors are Linear-BN-ReLU 3000, 3000 and 8192 wide.

    Raises:
        UsageError: a negative setting; at the call, widths that differ, or a single row.

    Paper: Fini et al., "Improved baselines for vision-language pre-training", arXiv 2305.08675; Barlow Twins, arXiv
    2103.03230.
    """

    name = "barlow"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        lam: float = 5e-3,
        scale: float = 0.025,
        pairs: Sequence[tuple[str, str]] = PAIRS,
        projections: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(weight, pairs, projections)
        if not (lam >= 0 and scale >= 0):
            raise UsageError(f"lam and scale must be at least 0, got {lam} and {scale}")
        self.lam, self.scale = lam, scale

    def extra_repr(self) -> str:
        return f"weight={self.weight}, lam={self.lam}, scale={self.scale}"

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """Mean over the pairings."""
        share, values = embeddings.share, []
        if share.total < 2:
            raise UsageError("a correlation over one row is nothing: Barlow Twins needs a batch of at least 2")
        for pair in self.pairs:
            images, texts = ([_standardised(x, share) for x in side] for side in self._both(embeddings, pair))
            values += [self._redundancy(a, b, share) for a, b in product(images, texts)]
        return torch.stack(values).mean()

    def _redundancy(self, a: Float[Tensor, "n p"], b: Float[Tensor, "n q"], share: Share) -> Float[Tensor, ""]:
        if a.shape != b.shape:
            raise UsageError(f"Barlow Twins compares coordinates: widths {a.shape[1]} and {b.shape[1]} must be equal")
        correlation = share.add(a.T @ b) / share.total  # (p, p)
        diagonal = correlation.diagonal()
        others = correlation.square().sum() - diagonal.square().sum()
        return self.scale * ((diagonal - 1).square().sum() + self.lam * others)


def _standardised(x: Float[Tensor, "n p"], share: Share) -> Float[Tensor, "n p"]:
    """Mean 0 and variance 1 of each coordinate over the whole batch, as batch normalisation has it."""
    centred = x - share.add(x.sum(0)) / share.total
    variance = share.add(centred.square().sum(0)) / share.total
    return centred * (variance + 1e-5).rsqrt()


class CrossModalSimSiam(_CrossModal):
    """Each modality predicts the other's embedding, which gets no gradient (SiamLIP; with a momentum BYOLIP).

    2 - 2 cos(predictor(v_image), v_text) and the same for texts, mean over both directions of all pairings.

    Args:
        weight: of this term in the total.
        predictors: modules for "image" and "text" from projection to projection; None predicts by the projection
            itself, which collapses in training.
        momentum: of a copy of the projections that makes the targets and follows them by m copy + (1 - m) own at every
            call in training mode; None takes the projections themselves. The copy sees `momentum_NAME` where the loss
            is called with it (what a momentum copy of the tower says), else NAME.
        pairs, projections: what is compared; the paper's projectors are 2048 and 128 wide and end in a batch
            normalisation without gain and offset, its predictors 2048 and 128 wide.

    Raises:
        UsageError: a momentum outside [0, 1].

    Paper: Fini et al., "Improved baselines for vision-language pre-training", arXiv 2305.08675; SimSiam, arXiv
    2011.10566; BYOL, arXiv 2006.07733.
    """

    name = "simsiam"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        predictors: Mapping[str, nn.Module] | None = None,
        momentum: float | None = None,
        pairs: Sequence[tuple[str, str]] = PAIRS,
        projections: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(weight, pairs, projections)
        if momentum is not None and not 0 <= momentum <= 1:
            raise UsageError(f"momentum must lie in [0, 1] or be None, got {momentum}")
        self.momentum, self.predictors = momentum, _sides(predictors, "predictors")
        self.copied: AveragedModel | None = None
        if momentum is not None:
            self.copied = AveragedModel(self.projections, multi_avg_fn=get_ema_multi_avg_fn(momentum))
            self.copied.requires_grad_(False)
            self.copied.n_averaged += 1  # it is a copy already: the first call follows, too

    def extra_repr(self) -> str:
        return f"weight={self.weight}, momentum={self.momentum}"

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """Mean over both directions of the pairings, and over the whole batch."""
        if self.copied is not None and self.training and len(self.projections):
            self.copied.update_parameters(self.projections)
        values = []
        for pair in self.pairs:
            own = self._both(embeddings, pair)
            targets = self._targets(embeddings, pair, own)
            for side, views, targets_of_views in zip(("image", "text"), own, reversed(targets), strict=True):
                guesses = self._projected(views, side, self.predictors)
                rows = [prediction_distances(guess, target) for guess, target in product(guesses, targets_of_views)]
                values += [embeddings.mean(row) for row in rows]
        return torch.stack(values).mean()

    @torch.no_grad()
    def _targets(
        self, e: Embeddings, pair: tuple[str, str], own: tuple[list[Tensor], ...]
    ) -> tuple[list[Float[Tensor, "n p"]], ...]:
        if self.copied is None:
            return own
        targets = []
        for name, side in zip(pair, ("image", "text"), strict=True):
            followed = f"momentum_{name}" if f"momentum_{name}" in e.raw else name
            views = [e[view] for view in e.views(followed)]
            targets.append(self._projected(views, side, cast(nn.ModuleDict, self.copied.module)))
        return tuple(targets)


class CrossModalSwAV(nn.Module):
    """Two strong views and two augmented texts predict each other's assignments to the items of the batch (SwALIP).

    The texts of the batch are the prototypes of the images, and the images those of the texts. An assignment is the
    softmax of cosines / eps made even over the prototypes by `iters` steps of Sinkhorn and Knopp; the pairing of view k
    with text l is trained towards that of the other view with the other text, by cross-entropy at the loss's own logit
    scale. Neither matrix is held whole.

    Args:
        weight: of this term in the total.
        eps: entropy of the assignment.
        iters: of Sinkhorn and Knopp.
        pair: names of the embeddings, two views (n, 2, d) each.
        scale: name of the logit scale.

    Raises:
        UsageError: an eps that is not positive, less than one step; at the call, other than two views, another geometry
            than the cosine, or a logit scale that the loss does not have.

    Paper: Fini et al., "Improved baselines for vision-language pre-training", arXiv 2305.08675; SwAV, arXiv 2006.09882.
    """

    name = "swav"

    def __init__(
        self,
        weight: float = 0.2,
        *,
        eps: float = 0.05,
        iters: int = 3,
        pair: tuple[str, str] = PAIRS[1],
        scale: str = "local",
    ) -> None:
        super().__init__()
        if not eps > 0 or iters < 1:
            raise UsageError(f"eps must be positive and iters at least 1, got {eps} and {iters}")
        self.weight, self.eps, self.iters, self.pair, self.scale = weight, eps, iters, tuple(pair), scale

    def extra_repr(self) -> str:
        return f"weight={self.weight}, eps={self.eps}, iters={self.iters}"

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """Cross-entropy towards the swapped assignments, mean over rows, directions and pairings."""
        e, share = embeddings, embeddings.share
        if type(e.similarity) is not Cosine:
            raise UsageError(f"assignments are made of cosines, not of {type(e.similarity).__name__}")
        if self.scale not in e.scales:
            raise UsageError(f"the loss has no logit scale {self.scale!r}, only {', '.join(e.scales)}")
        images, texts = ([e.space(view) for view in e.views(name)] for name in self.pair)
        if len(images) != 2 or len(texts) != 2:
            raise UsageError(
                f"assignments are swapped between two views: {self.pair[0]} has {len(images)}, {self.pair[1]} "
                f"{len(texts)}"
            )
        scale, values = e.factor(e.scales[self.scale][0]).to(images[0].dtype), []
        for one, other in product((0, 1), (0, 1)):
            with torch.no_grad():
                left, right = images[1 - one].detach() / self.eps, texts[1 - other].detach()
                targets = SinkhornTargets(share, left, right, e.chunk, iters=self.iters)
            plan = make_plan(share, targets, e.chunk, metrics=False)
            values.append(SoftmaxLink()(images[one], texts[other], scale, None, plan)[0])
        return torch.stack(values).mean()


class SinkhornTargets(SoftTargets):
    """Assignments of rows to columns, and of columns to rows, that use what they are assigned to evenly.

    exp(logits) is scaled until every row sums to 1 and every column to as much as there are rows for it, alternately,
    rows last; for the assignment of the columns the other way round. Kept as one offset a row and a column.

    Args:
        share: how the batch is spread over processes.
        left, right: of this process's rows; their dot products are the logits.
        chunk: side of a block.
        iters: of the alternation.
    """

    def __init__(
        self, share: Share, left: Float[Tensor, "n t"], right: Float[Tensor, "n t"], chunk: int, *, iters: int
    ) -> None:
        super().__init__(share)
        self.left, self.right = left, share.gather(right)
        rows, columns = left.new_zeros(len(left)), left.new_zeros(len(self.right))
        self.rows_first = (rows, columns)  # offsets of the assignment of the columns, which begins with rows
        self.columns_first = (rows, columns)
        for _ in range(iters):
            rows, columns = self.columns_first
            _, columns = log_sums(share, self.left, self.right, chunk, less_rows=rows)
            rows, _ = log_sums(share, self.left, self.right, chunk, less_columns=columns)
            self.columns_first = (rows, columns)
            rows, columns = self.rows_first
            rows, _ = log_sums(share, self.left, self.right, chunk, less_columns=columns)
            _, columns = log_sums(share, self.left, self.right, chunk, less_rows=rows)
            self.rows_first = (rows, columns)

    def targets(self, i: slice, j: slice) -> tuple[Block, Block]:
        """Of the rows, which sum to 1 over all columns, and of the columns, which sum to 1 over all rows."""
        logits = self.left[i] @ self.right[j].T
        by_row, by_column = (
            (logits - rows[i, None] - columns[None, j]).exp_()
            for rows, columns in (self.columns_first, self.rows_first)
        )
        return by_row, by_column


def _sides(modules: Mapping[str, nn.Module] | None, what: str) -> nn.ModuleDict:
    modules_of = dict(modules or {})
    if modules_of and set(modules_of) != {"image", "text"}:
        raise UsageError(f"{what} must name a module for 'image' and one for 'text', got {sorted(modules_of)}")
    return nn.ModuleDict(modules_of)
