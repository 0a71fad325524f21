"""What a group is worth by its weights, by a gradient, or by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.compress.weights.by_example import watched
from binderclip.compress.weights.groups import GroupMember, PruneGroups
from binderclip.errors import UsageError
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

__all__ = ["GradientScore", "GroupScore", "MagnitudeScore", "RandomScore", "scored_members"]


@runtime_checkable
class GroupScore(Protocol):
    """What ranks groups: a higher score is kept longer."""

    def __call__(self, model: nn.Module, groups: Sequence[PruneGroups]) -> dict[str, Float[Tensor, "G"]]:
        """Layer's name -> score of each of its groups."""
        ...


def scored_members(groups: PruneGroups) -> tuple[GroupMember, ...]:
    """The weights of a group that scores look at: matrices and kernels, no bias, no norm.

    Of a channel those that produce it, as is usual for convolutions; of a head, a neuron or a block all.
    """
    roles: tuple[Any, ...] = ("write",) if groups.kind == "channel" else ("write", "read")
    members = tuple(member for member in groups.of_role(*roles) if member.tensor.ndim > 1)
    if not members:
        raise UsageError(f"{groups.name} has no weight of two dimensions or more to be scored by")
    return members


@dataclass(frozen=True, kw_only=True)
class MagnitudeScore:
    """The size of a group's weights: their Euclidean norm, or its square over their number.

    Args:
        average: `none` for the norm ||w||, `mean` for ||w||^2 / n, which compares layers of different widths.

    Raises:
        UsageError: another average.
    """

    average: Literal["none", "mean"] = "none"

    def __post_init__(self) -> None:
        check_choice("average", self.average, ("none", "mean"))

    def __call__(self, model: nn.Module, groups: Sequence[PruneGroups]) -> dict[str, Float[Tensor, "G"]]:
        """Layer's name -> score of each group; the model is not run."""
        scores = {}
        for one in groups:
            rows = [member.by_group().detach() for member in scored_members(one)]
            square = torch.stack([row.double().square().sum(1) for row in rows]).sum(0)
            scores[one.name] = square.sqrt() if self.average == "none" else square / sum(r.shape[1] for r in rows)
        return scores


@dataclass(frozen=True, kw_only=True)
class GradientScore:
    """The change of a loss to first order if a group goes: the sum over examples of |sum over places of dL/da a|.

    An example is a picture or a text, a its activations. Near a minimum the gradients of the examples cancel, and with
    them a sum whose absolute value is taken at the end; so it is taken of each example, as the paper does. A
    contrastive loss couples its examples: dL/da is then the gradient of the batch's whole loss at the activations of
    one example. All groups and examples take one backward pass a batch.

    The paper takes the mean over places, and divides the scores of a layer by their length before layers compete.
    Neither changes an order within a layer, and neither is done here: the sum is the change of the loss itself.

    Args:
        losses: gives the scalar loss of each batch, with its graph, one after the other: a function without arguments
            that returns an iterable, so that nothing is computed before it is needed. Scores are summed over it.
        per_example: False for |sum over examples and places of dL/da a| over all batches, which is what a Taylor
            expansion in one mask a group gives. It is read off the weights that take the activations in: that sum is
            their product with their own gradient.

    Paper: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    arXiv 1611.06440.
    """

    losses: Callable[[], Iterable[Float[Tensor, ""]]]
    per_example: bool = True

    def __call__(self, model: nn.Module, groups: Sequence[PruneGroups]) -> dict[str, Float[Tensor, "G"]]:
        """Layer's name -> score of each group.

        Raises:
            UsageError: no loss, one without a graph, or one that is NaN or infinite.
            NotSupported: examples that cannot be told apart, because a layer ran on something else than a batch of
                them.
        """
        readers = [(one, one.of_role("read")) for one in groups]
        tensors = list({id(m.tensor): m.tensor for _, members in readers for m in members}.values())
        trains = [tensor.requires_grad for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.requires_grad_(True)
            with torch.enable_grad():
                return self._by_example(groups) if self.per_example else self._of_all(readers, tensors)
        finally:
            for tensor, before in zip(tensors, trains, strict=True):
                tensor.requires_grad_(before)

    def _losses(self) -> Iterator[Float[Tensor, ""]]:
        """The losses, checked."""
        loss = None
        for loss in self.losses():
            if loss.numel() != 1 or not loss.requires_grad or not bool(loss.isfinite()):
                raise UsageError("losses must give finite scalars with a graph")
            yield loss
        if loss is None:
            raise UsageError("losses gave no loss: a gradient score needs at least one batch")

    def _by_example(self, groups: Sequence[PruneGroups]) -> dict[str, Float[Tensor, "G"]]:
        scores = {one.name: torch.zeros(len(one), dtype=torch.float64) for one in groups}
        with watched(groups) as watch:
            for loss in self._losses():
                for name, change in watch.take(loss).items():
                    scores[name] += change.abs().sum(0)
        return scores

    def _of_all(
        self, readers: Sequence[tuple[PruneGroups, Sequence[GroupMember]]], tensors: Sequence[Tensor]
    ) -> dict[str, Float[Tensor, "G"]]:
        total = [torch.zeros_like(tensor) for tensor in tensors]
        for loss in self._losses():
            gradients = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
            total = [before + gradient for before, gradient in zip(total, gradients, strict=True)]
        gradient = {id(tensor): own for tensor, own in zip(tensors, total, strict=True)}
        return {
            one.name: torch.stack(
                [(m.by_group().detach().double() * m.by_group(gradient[id(m.tensor)]).double()).sum(1) for m in members]
            ).sum(0).abs()
            for one, members in readers
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RandomScore:
    """Uniform random numbers: what a score must beat.

    Args:
        seed: of the numbers.

    Raises:
        UsageError: a seed that is no whole number of at least 0.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("seed", self.seed, least=0)

    def __call__(self, model: nn.Module, groups: Sequence[PruneGroups]) -> dict[str, Float[Tensor, "G"]]:
        """Layer's name -> score of each group; the model is not run."""
        generator = torch.Generator().manual_seed(self.seed)
        return {one.name: torch.rand(len(one), generator=generator, dtype=torch.float64) for one in groups}
