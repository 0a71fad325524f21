"""One loop for every drawing: render, look at it, move the parameters, put them back into their range."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from binderclip.errors import UsageError
from binderclip.fit import Callback, fit, make_optimizer
from binderclip.fit.optimizers import OptimizerLike
from binderclip.generate.draw.objectives import ImageObjective
from binderclip.generate.draw.parametrisation import Parametrisation
from binderclip.generate.draw.transforms import ImageTransform
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_number, check_whole

__all__ = ["ImageOptimisation", "OptimisedImage", "WeightedObjective"]


@dataclass(frozen=True)
class WeightedObjective:
    """An objective with its weight, and whether it sees the views or the picture itself.

    Args:
        objective: from pictures to a number.
        weight: a number, or a function of the part of the run that is done, in [0, 1).
        transformed: it sees what the transforms make of the picture; False for a reconstruction or a regulariser.
    """

    objective: ImageObjective
    weight: float | Callable[[float], float] = 1.0
    transformed: bool = True

    def __post_init__(self) -> None:
        if not callable(self.weight):
            check_number("weight", self.weight)


@dataclass(frozen=True)
class OptimisedImage:
    """What a run made.

    Args:
        image: the pictures, without a graph.
        param: what draws them; it goes on from here if it is optimised again.
        history: one float array a figure, with one entry a step: `loss`, and each objective by its name, before its
            weight.
        steps: that were done.
    """

    image: Float[Tensor, "B 3 H W"]
    param: Parametrisation
    history: dict[str, np.ndarray]
    steps: int


class ImageOptimisation:
    """Moves the parameters of a picture so that the weighted sum of objectives becomes small.

    Each step renders, makes the views, adds the objectives, takes a step of the optimizer (`fit` does), and projects.
    Every run starts a new optimizer; its random numbers go on from the last run's.

    Args:
        param: draws the picture.
        objectives: by name; a bare one has the weight 1 and sees the views. At weight 0 one is not computed.
        transforms: makes the views that objectives see; default none, so that they see the picture.
        optimizer: as `fit` takes it; the learning rates are those of the parametrisation's groups.
        schedule: of all rates together, as `fit` takes it; a group's own `schedule` multiplies it.
        callbacks: as `fit` takes them; one whose `after_step` gives True ends the run, and leaves the picture so far.
        seed: of the transforms.

    Raises:
        UsageError: no objective, or a weight that is not finite.

    Examples:
        >>> from binderclip.generate import ImageOptimisation, PixelImage
        >>> target = torch.rand(1, 3, 4, 4)
        >>> param = PixelImage(torch.full((3, 4, 4), 0.5))
        >>> run = ImageOptimisation(param, {"error": lambda image: (image - target).square().sum()})
        >>> bool((run.run(200).image - target).abs().max() < 0.01)
        True
    """

    def __init__(
        self,
        param: Parametrisation,
        objectives: Mapping[str, ImageObjective | WeightedObjective],
        *,
        transforms: ImageTransform | None = None,
        optimizer: OptimizerLike = "adam",
        schedule: str | Callable[[float], float] = "constant",
        callbacks: Sequence[Any] = (),
        seed: int = 0,
    ) -> None:
        if not objectives:
            raise UsageError("objectives is empty: give at least one, by name")
        check_whole("seed", seed)
        self.param, self.transforms, self.optimizer, self.schedule = param, transforms, optimizer, schedule
        self.objectives = {
            name: one if isinstance(one, WeightedObjective) else WeightedObjective(one)
            for name, one in objectives.items()
        }
        self.callbacks = tuple(callbacks)
        self.generator = torch.Generator().manual_seed(seed)

    def run(self, steps: int) -> OptimisedImage:
        """Optimise for so many steps; 0 give the picture as it is.

        Raises:
            UsageError: a negative number of steps.
            Diverged: the loss became NaN or infinite.
        """
        check_whole("steps", steps, least=0)
        history: dict[str, np.ndarray] = {}
        done = 0
        if steps:
            networks = [module for one in self.objectives.values() for module in getattr(one.objective, "networks", ())]
            # Optimizers keep what else stands in a group, so its schedule is read from there.
            optimizer = make_optimizer(self.optimizer, self.param.groups(), None)
            clock = _Progress(steps, optimizer)
            with frozen(*networks), torch.enable_grad():
                result = fit(
                    lambda _: self._loss(clock.progress),
                    self.param,
                    [None],
                    steps=steps,
                    optimizer=optimizer,
                    schedule=self.schedule,
                    callbacks=[clock, _Projection(self.param), *self.callbacks],
                )
            history, done = result.history, result.steps
        with torch.no_grad():
            return OptimisedImage(self.param(), self.param, history, done)

    def _loss(self, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each objective's value."""
        image = self.param()
        weights = {
            name: float(one.weight(progress) if callable(one.weight) else one.weight)
            for name, one in self.objectives.items()
        }
        views = image
        if self.transforms is not None and any(
            weights[name] and one.transformed for name, one in self.objectives.items()
        ):
            views = self.transforms(image, self.generator)
        # From the picture, so that there is a gradient, of zeros, where all weights are 0.
        loss, values = image.sum() * 0, {}
        for name, one in self.objectives.items():
            if weights[name]:
                value = one.objective(views if one.transformed else image)
                if value.ndim:
                    raise UsageError(f"objective {name!r} must give one number, got shape {tuple(value.shape)}")
                loss, values[name] = loss + weights[name] * value, value
        return loss, values


class _Progress(Callback):
    """The part of a run that is done, and the groups' own schedules, which `fit`'s one does not know."""

    def __init__(self, steps: int, optimizer: Optimizer) -> None:
        self.steps, self.optimizer, self.progress = steps, optimizer, 0.0

    def before_step(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            if group.get("schedule") is not None:
                group["lr"] = group["lr"] * group["schedule"](self.progress)  # `fit` sets lr anew at every step

    def after_step(self, step: int) -> bool | None:
        self.progress = step / self.steps
        return None


class _Projection(Callback):
    def __init__(self, param: Parametrisation) -> None:
        self.param = param

    def after_step(self, step: int) -> bool | None:
        self.param.project_()
        return None
