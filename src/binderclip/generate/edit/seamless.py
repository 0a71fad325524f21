"""Joins what was copied into a hole to itself and to what is around it, by differences of colour."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

REACH = 0.25
"""How far a step of colour is spread so that it is no seam, in square roots of the hole's area."""


def join_slopes(
    image: Float[Tensor, "3 H W"], hole: Bool[Tensor, "H W"], slopes: Float[Tensor, "2 3 N"]
) -> Float[Tensor, "3 H W"]:
    """Colours whose differences are as given: least squares over all pairs of neighbours of which one is hidden.

    The colours themselves count a little, so that differences that do not add up are forgotten over a distance. Solved
    exactly.

    Args:
        image: with copied colours in the hole.
        hole: what changes, of N pixels.
        slopes: differences of a hidden pixel to those below and to the right of it, in the order of `hole`.

    Papers: Poisson image editing (Pérez, Gangnet and Blake, 2003); Image melding (Darabi et al., 2012).
    """
    from scipy.sparse import coo_array, eye_array
    from scipy.sparse.linalg import splu

    count = int(hole.sum())
    number = torch.full(hole.shape, -1)
    number[hole] = torch.arange(count)
    grid = torch.zeros(2, 3, *hole.shape, dtype=torch.float64)
    grid[:, :, hole] = slopes.double()
    colours = image.double()
    pairs = [_pairs(colours, number, grid[axis], axis) for axis in (0, 1)]
    first, second = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))  # unknowns, -1 for what is known
    right_hand = torch.cat([pair[2] for pair in pairs], 1)  # (3, M)
    equation = torch.arange(len(first))
    rows = torch.cat([equation[second >= 0], equation[first >= 0]])
    columns = torch.cat([second[second >= 0], first[first >= 0]])
    signs = torch.cat([torch.ones(int((second >= 0).sum())), -torch.ones(int((first >= 0).sum()))]).double()
    matrix = coo_array((signs.numpy(), (rows.numpy(), columns.numpy())), shape=(len(first), count)).tocsr()
    weight = 1 / (REACH**2 * count)
    system = (matrix.T @ matrix + weight * eye_array(count)).tocsc()
    # symmetric and positive: pivots from the diagonal keep the factors sparse
    factors = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    solved = factors.solve(matrix.T @ right_hand.T.numpy() + weight * colours[:, hole].T.numpy())
    result = image.clone()
    result[:, hole] = torch.from_numpy(solved.T.copy()).to(image).clamp(0, 1)
    return result


def _pairs(
    colours: Float[Tensor, "3 H W"], number: Int[Tensor, "H W"], slope: Float[Tensor, "3 H W"], axis: int
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"], Float[Tensor, "3 M"]]:
    """Neighbours along an axis of which one is hidden: their unknowns, and by how much the second exceeds the first.

    A known colour is moved to the right-hand side.
    """
    length = number.shape[axis]
    before, after = (
        (lambda x: x.narrow(x.ndim - 2 + axis, 0, length - 1)),
        (lambda x: x.narrow(x.ndim - 2 + axis, 1, length - 1)),
    )
    first, second = before(number), after(number)
    one, other = before(colours), after(colours)
    # where the first is known, its difference to what was copied: the patches over it say the same
    difference = torch.where(first >= 0, before(slope), other - one)
    difference = difference - torch.where(second >= 0, 0, other) + torch.where(first >= 0, 0, one)
    hidden = (first >= 0) | (second >= 0)
    return first[hidden], second[hidden], difference[:, hidden]
