"""Poisson sampling: what the accountants assume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from binderclip.errors import UsageError

__all__ = ["PoissonSampler", "collate_with_empty", "unseeded", "unseeded_generator"]


def unseeded_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that the system seeds; torch's global one is neither read nor changed."""
    generator = torch.Generator(device)
    generator.seed()
    return generator


def unseeded() -> int:
    """A seed from the system, below 2^31."""
    return unseeded_generator().initial_seed() % 2**31


class PoissonSampler(Sampler[list[int]]):
    """Batches in which every record is included by its own coin, so their sizes vary and may be 0.

    Use it as a `batch_sampler`. Batch number t depends on (seed, t) only: the same batches whatever was read before,
    and a resumed run goes on with the next one.

    Args:
        count: records.
        sample_rate: probability of each to be in a batch.
        steps: batches of one pass; default: one over the rate, an "epoch".
        seed: of the draw.

    Raises:
        UsageError: values out of range.
    """

    def __init__(self, count: int, sample_rate: float, *, steps: int | None = None, seed: int = 0) -> None:
        if count < 1 or not 0 < sample_rate <= 1:
            raise UsageError(f"count must be at least 1 and sample_rate in (0, 1], got {count} and {sample_rate}")
        self.count, self.sample_rate, self.seed = count, float(sample_rate), seed
        self.steps = max(1, round(1 / sample_rate)) if steps is None else steps
        self.position = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.steps):
            indices = self.batch(self.position)
            self.position += 1
            yield indices.tolist()

    def batch(self, number: int) -> Tensor:
        """Indices of batch `number`, ascending."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
        drawn = torch.rand(self.count, generator=generator, dtype=torch.float64)
        return torch.nonzero(drawn < self.sample_rate).flatten()

    def seek(self, position: int) -> None:
        """Go on with batch `position`."""
        self.position = position

    def state_dict(self) -> dict[str, int]:
        """The next batch's number and the seed."""
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Put back what `state_dict` gave."""
        self.position, self.seed = state["position"], state["seed"]


def collate_with_empty(dataset: Dataset[Any], collate: Callable[[list[Any]], Any] | None = None) -> Callable[..., Any]:
    """A collate function that turns no samples into tensors with no rows.

    Args:
        dataset: its first record shows the shapes.
        collate: for batches that are not empty; default torch's.
    """
    joined = collate or default_collate
    example: list[Any] = []

    def run(samples: list[Any]) -> Any:
        if samples:
            return joined(samples)
        if not example:
            example.append(joined([dataset[0]]))
        return _emptied(example[0])

    return run


def _emptied(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree[:0]
    if isinstance(tree, Mapping):
        return {key: _emptied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [_emptied(value) for value in tree]
        return parts if not all(isinstance(value, str) for value in tree) else []
    return tree
