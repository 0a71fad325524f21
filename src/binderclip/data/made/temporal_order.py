"""The temporal-order problem: remember which of two symbols came first, over many steps of noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["TemporalOrder", "temporal_order"]


class TemporalOrder(NamedTuple):
    """A batch of the temporal-order problem.

    Attributes:
        inputs: one-hot symbols; 0 and 1 carry the message, 2 to 5 are noise.
        targets: first symbol + 2 * second symbol, four classes.
        positions: of the two symbols.
    """

    inputs: Float[Tensor, "N L 6"]
    targets: Int[Tensor, "N"]
    positions: Int[Tensor, "N 2"]


def temporal_order(
    size: int, length: int | tuple[int, int], *, seed: int | None = None, generator: torch.Generator | None = None
) -> TemporalOrder:
    """Sequences in which two symbols, at 10-20% and at 50-60% of the length, decide one of four classes.

    Each symbol is A (0) or B (1); everything else is drawn from four symbols that mean nothing. The class is asked for
    at the end, so a net must carry the first symbol over 80% of the sequence and the second over 40%.

    Args:
        size: number of sequences.
        length: of every sequence, at least 10; or (shortest, longest), from which one length is drawn for the batch.
        seed: of a fresh generator; or
        generator: a generator to go on with (batch after batch). Exactly one of the two.

    Raises:
        UsageError: a size below 1, a length below 10, an empty range, or not exactly one source of randomness.

    Examples:
        >>> batch = temporal_order(20, (20, 29), seed=0)
        >>> batch.inputs.shape[::2], int(batch.targets.max()) < 4
        (torch.Size([20, 6]), True)

    Paper: On the difficulty of training recurrent neural networks, arXiv 1211.5063; the problem is Hochreiter and
    Schmidhuber's (Long short-term memory, 1997).
    """
    low, high = (length, length) if isinstance(length, int) else length
    if low < 10 or high < low:
        raise UsageError(f"length must be at least 10, or (shortest, longest) with shortest >= 10, got {length}")
    check_number("size", size, least=1)
    if (seed is None) == (generator is None):
        raise UsageError("give either seed= or generator=")
    g = torch.Generator().manual_seed(seed) if generator is None and seed is not None else generator
    steps = int(torch.randint(low, high + 1, (), generator=g))
    tenth = steps // 10
    symbols = torch.randint(2, 6, (size, steps), generator=g)
    message = torch.randint(0, 2, (size, 2), generator=g)
    positions = torch.randint(0, tenth, (size, 2), generator=g) + torch.tensor([tenth, steps // 2])
    symbols.scatter_(1, positions, message)
    inputs = torch.nn.functional.one_hot(symbols, 6).float()
    return TemporalOrder(inputs, message[:, 0] + 2 * message[:, 1], positions)
