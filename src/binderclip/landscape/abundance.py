"""How much room a solution has: its loss after random noise on the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.optim.space import TensorTree


@dataclass(frozen=True)
class SolutionAbundance:
    """What `solution_abundance` found.

    Attributes:
        radii: relative sizes of the noise.
        share: of the draws at each radius, those whose loss stays below the threshold: the larger, the more of the
            parameter space around it is a solution.
        mean_loss: over the draws; infinite where one is not finite.
        start: the loss without noise.
    """

    radii: Float[Tensor, "R"]
    share: Float[Tensor, "R"]
    mean_loss: Float[Tensor, "R"]
    start: float

    @property
    def volume(self) -> float:
        """Mean share over the radii."""
        return float(self.share.mean())


@torch.no_grad()
def solution_abundance(
    loss: Callable[[], Tensor],
    params: TensorTree,
    *,
    radii: Sequence[float] = (0.1, 0.2, 0.5, 1.0),
    threshold: float = 0.1,
    draws: int = 50,
    seed: int = 0,
) -> SolutionAbundance:
    """Monte-Carlo share of the neighbourhood of a solution in which the loss stays low.

    Noise is Gaussian and scaled filter by filter: the direction of each row of a weight (its first axis) has the radius
    times the length of that row, as in Li et al. (arXiv 1712.09913), so that rescaled layers are as flat as before. A
    vector, such as a bias, is one filter. The parameters are put back bit for bit.

    Paper: Scimeca et al., Which Shortcut Cues Will DNNs Choose? A Study from the Parameter-Space Perspective (arXiv
    2110.03095); its exact estimator of abundance is not known to us.

    Args:
        loss: a function without arguments, on a fixed batch, the network in evaluation mode.
        params: tensors, in a sequence or by name.
        radii: relative sizes; every draw is used at all of them.
        threshold: below which a loss counts as solved.
        draws: at each radius.
        seed: of the noise.

    Raises:
        UsageError: no radius or one not above 0, no draw, or no parameter.
    """
    tensors = list(params.values()) if isinstance(params, Mapping) else list(params)
    if not len(radii) or min(radii) <= 0 or draws < 1 or not tensors:
        raise UsageError(f"radii {list(radii)} must be above 0, draws {draws} at least 1, and parameters given")
    generator = torch.Generator().manual_seed(seed)
    before = [tensor.detach().clone() for tensor in tensors]
    losses = torch.zeros(len(radii), draws, dtype=torch.float64)
    start = float(loss())
    try:
        for draw in range(draws):
            noise = [_filtered(origin, generator) for origin in before]
            for place, radius in enumerate(radii):
                for tensor, origin, part in zip(tensors, before, noise, strict=True):
                    tensor.copy_(origin + radius * part)
                losses[place, draw] = float(loss())
    finally:
        for tensor, origin in zip(tensors, before, strict=True):
            tensor.copy_(origin)
    losses = torch.where(losses.isfinite(), losses, torch.inf)
    fraction = (losses < threshold).double().mean(dim=1)
    return SolutionAbundance(torch.tensor(list(radii), dtype=torch.float64), fraction, losses.mean(dim=1), start)


def _filtered(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise whose filters have the lengths of the weight's."""
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    filters = len(weight) if weight.ndim > 1 else 1
    rows, own = noise.reshape(filters, -1), weight.reshape(filters, -1)
    scale = own.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (rows * scale).reshape(weight.shape)
