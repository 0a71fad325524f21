"""Attacks on a single pixel, by differential evolution, without gradients."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_fields
from binderclip.robust.attack_loop import AttackResult
from binderclip.robust.attacks.spatial import ObjectiveOf, stacked_histories
from binderclip.robust.checks import check_finite, check_images

__all__ = ["OnePixel"]


@dataclass(frozen=True, kw_only=True)
class OnePixel:
    """The place and colour of one pixel that make an objective largest, by SciPy's differential evolution.

    Args:
        population: candidates of a generation; the paper's 400.
        generations: at most; a search stops after the one in which the objective's aim is reached.
        seed: of the search.

    Call it with images (B, C, H, W) in [0, 1], grey ones too, and what gives the objective of some of them, as
    `SpatialAttack`. Of candidates that reach the aim the one of largest objective is returned, else the one of largest
    objective of all.

    Raises:
        UsageError: a population below 5 or no generation; when called, images out of range, or values of the objective
            that are not finite.

    Paper: One Pixel Attack for Fooling Deep Neural Networks (arXiv 1710.08864); on distances: Attacking Perceptual
    Similarity Metrics (arXiv 2305.08840).
    """

    population: int = 400
    generations: int = 75
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.population < 5 or self.generations < 1:
            raise UsageError(
                f"population must be at least 5 and generations at least 1; got {self.population}, {self.generations}"
            )

    def __call__(self, images: Float[Tensor, "B C H W"], objective_of: ObjectiveOf) -> AttackResult:
        check_images("images", images, shape="(B, C, H, W)")
        parts = [self._one(image.detach(), row, objective_of) for row, image in enumerate(images)]
        images_of_parts = torch.stack([part[0] for part in parts])
        success, values = (torch.cat([part[place] for part in parts]) for place in (1, 2))
        history = stacked_histories([part[3] for part in parts])
        return AttackResult(
            images_of_parts, images_of_parts - images, success, values, len(history) * self.population, history
        )

    def _one(self, image: Tensor, row: int, objective_of: ObjectiveOf) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from scipy.optimize import differential_evolution

        channels, height, width = image.shape
        search = _PixelSearch(image, row, objective_of)
        start = np.random.default_rng([self.seed, row]).random((self.population, 2 + channels))
        bounds = [(0, height - 1e-6), (0, width - 1e-6), *[(0, 1)] * channels]
        refusal = None
        try:
            solution = differential_evolution(
                search.loss, bounds, init=start * [b[1] for b in bounds], maxiter=self.generations, polish=False,
                seed=self.seed, vectorized=True, updating="deferred", tol=0,
                callback=lambda *_, **__: search.reached is not None,
            )  # fmt: skip
        except RuntimeError as error:
            # SciPy wraps what the objective raises, also its refusals, in an error about its own interface.
            refusal = error.__cause__ or error.__context__
            if not isinstance(refusal, UsageError):
                raise
        # Raised here, where SciPy's error is over: inside it would stand behind the one that it was raised from.
        if refusal is not None:
            raise refusal
        painted = _painted(image, (solution.x if search.reached is None else search.reached)[None])
        value, success = search.judged(painted)
        return painted[0], success, value, torch.tensor(search.history)


@dataclass
class _PixelSearch:
    """What SciPy minimises, and the candidate of largest objective among those that reached the aim."""

    image: Tensor
    row: int
    objective_of: ObjectiveOf
    history: list[float] = field(default_factory=list)
    reached: np.ndarray | None = None
    _largest: float = -float("inf")

    def loss(self, thetas: np.ndarray) -> np.ndarray:
        """Minus the values of candidates (2 + C, S)."""
        values, success = self.judged(_painted(self.image, thetas.T))
        self.history.append(max([float(values.max()), *self.history[-1:]]))
        if bool(success.any()):
            successful = values.masked_fill(~success, -float("inf"))
            place = int(successful.argmax())
            if float(successful[place]) > self._largest:
                self._largest, self.reached = float(successful[place]), thetas[:, place].copy()
        return -values.double().cpu().numpy()

    @torch.no_grad()
    def judged(self, painted: Tensor) -> tuple[Tensor, Tensor]:
        """Values and success of copies of the image."""
        objective = self.objective_of(torch.full((len(painted),), self.row))
        with frozen(*objective.networks):
            values, success = objective.judge(painted)
        check_finite("values of the objective", values)
        return values, success


def _painted(image: Tensor, thetas: np.ndarray) -> Tensor:
    """One copy of the image a candidate (row, column, and a value for each channel)."""
    copies = image.repeat(len(thetas), 1, 1, 1)
    rows, columns = (torch.from_numpy(thetas[:, axis].astype(int)) for axis in (0, 1))
    copies[torch.arange(len(thetas)), :, rows, columns] = torch.from_numpy(thetas[:, 2:]).to(image)
    return copies
