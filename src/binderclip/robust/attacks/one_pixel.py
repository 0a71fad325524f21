"""Attacks on a single pixel, by differential evolution, without gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.robust.attack import AttackResult
from binderclip.robust.attacks.spatial import ObjectiveOf

__all__ = ["OnePixel"]


@dataclass(frozen=True, kw_only=True)
class OnePixel:
    """The place and colour of one pixel that make an objective largest, by SciPy's differential evolution.

    Args:
        population: candidates of a generation; the paper's 400.
        generations: at most; a search stops where the objective's aim is reached.
        seed: of the search.

    Call it with images (B, 3, H, W) in [0, 1] and what gives the objective of some of them, as `SpatialAttack`.

    Raises:
        UsageError: a population below 5 or no generation.

    Paper: One Pixel Attack for Fooling Deep Neural Networks (arXiv 1710.08864); on distances: Attacking Perceptual
    Similarity Metrics (arXiv 2305.08840).
    """

    population: int = 400
    generations: int = 75
    seed: int = 0

    def __post_init__(self) -> None:
        if self.population < 5 or self.generations < 1:
            raise UsageError(
                f"population must be at least 5 and generations at least 1; got {self.population}, {self.generations}"
            )

    def __call__(self, images: Float[Tensor, "B 3 H W"], objective_of: ObjectiveOf) -> AttackResult:
        parts = [self._one(image.detach(), row, objective_of) for row, image in enumerate(images)]
        found = torch.stack([part[0] for part in parts])
        success, values = (torch.cat([part[place] for part in parts]) for place in (1, 2))
        history = torch.nn.utils.rnn.pad_sequence([part[3] for part in parts], padding_value=float("nan"))
        return AttackResult(found, found - images, success, values, len(history) * self.population, history)

    def _one(self, image: Tensor, row: int, objective_of: ObjectiveOf) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from scipy.optimize import differential_evolution

        height, width = image.shape[-2:]
        best: list[float] = []
        reached = False

        def loss(thetas: np.ndarray) -> np.ndarray:
            """Minus the values of candidates (5, S)."""
            nonlocal reached
            objective = objective_of(torch.full((thetas.shape[1],), row))
            with torch.no_grad(), frozen(*objective.networks):
                values, success = objective.judge(_painted(image, thetas.T))
            reached = reached or bool(success.any())
            best.append(max([float(values.max()), *best[-1:]]))
            return -values.double().cpu().numpy()

        start = np.random.default_rng([self.seed, row]).random((self.population, 5))
        bounds = [(0, height - 1e-6), (0, width - 1e-6), (0, 1), (0, 1), (0, 1)]
        found = differential_evolution(
            loss, bounds, init=start * [b[1] for b in bounds], maxiter=self.generations, polish=False, seed=self.seed,
            vectorized=True, updating="deferred", tol=0, callback=lambda *_, **__: reached,
        )  # fmt: skip
        painted = _painted(image, found.x[None])
        objective = objective_of(torch.tensor([row]))
        with torch.no_grad(), frozen(*objective.networks):
            value, success = objective.judge(painted)
        return painted[0], success, value, torch.tensor(best)


def _painted(image: Tensor, thetas: np.ndarray) -> Tensor:
    """One copy of the image a candidate (row, column, red, green, blue)."""
    copies = image.repeat(len(thetas), 1, 1, 1)
    rows, columns = (torch.from_numpy(thetas[:, axis].astype(int)) for axis in (0, 1))
    copies[torch.arange(len(thetas)), :, rows, columns] = torch.from_numpy(thetas[:, 2:]).to(image)
    return copies
