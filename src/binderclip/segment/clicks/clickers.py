"""Who clicks: the usual robot, one that is random, one that is like people, and where each may click."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool
from scipy import ndimage

from binderclip.numeric import check_number
from binderclip.segment.clicks.objects import ObjectClicks
from binderclip.segment.promptable import Click, next_click

__all__ = ["BaselineClicker", "Clicker", "ErrorRegion", "RandomClicker", "UserClicker", "error_region"]


@dataclass(frozen=True)
class ErrorRegion:
    """Where the next click belongs.

    Attributes:
        click: of the usual rule, the middle of the largest error.
        valid: the connected region of that error around it; a click elsewhere in it is as honest.
    """

    click: Click
    valid: Bool[np.ndarray, "H W"]

    @property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the valid region."""
        rows, columns = np.nonzero(self.valid)
        return rows, columns

    def at(self, row: int, column: int) -> Click:
        """A click in the middle of a pixel, of this region's kind."""
        return Click(float(column) + 0.5, float(row) + 0.5, self.click.positive)


def error_region(objects: ObjectClicks, row: int) -> ErrorRegion | None:
    """The usual click on one object and the connected error around it (4 neighbours); None where nothing is wrong.

    Pixels that were clicked already are left out of the choice of the click, not of the region.
    """
    predicted, truth = objects.predicted[row], objects.truth[row]
    clicked = torch.zeros_like(truth)
    for before in objects.clicks[row]:
        clicked[int(before.y), int(before.x)] = True
    click = next_click(predicted, truth, clicked=clicked)
    if click is None:
        return None
    wrong = (truth & ~predicted) if click.positive else (predicted & ~truth)
    numbers, _ = ndimage.label(wrong.cpu().numpy())
    return ErrorRegion(click, numbers == numbers[int(click.y), int(click.x)])


@runtime_checkable
class Clicker(Protocol):
    """Chooses the next click on every object of a picture."""

    def __call__(self, objects: ObjectClicks) -> list[Click | None]:
        """A click for each object, None where its mask has no error."""
        ...


def _each(objects: ObjectClicks, choose: Callable[[ErrorRegion], Click]) -> list[Click | None]:
    regions = [error_region(objects, row) for row in range(len(objects))]
    return [None if region is None else choose(region) for region in regions]


@dataclass(frozen=True)
class BaselineClicker:
    """The robot of the usual evaluation: the pixel of the largest error that is farthest from its border."""

    def __call__(self, objects: ObjectClicks) -> list[Click | None]:
        """See `Clicker`."""
        return _each(objects, lambda region: region.click)


@dataclass
class RandomClicker:
    """Any pixel of the error that the robot would click into, all equally likely.

    Args:
        seed: of the choice; the clicker goes on drawing from picture to picture.
    """

    seed: int = 0
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def __call__(self, objects: ObjectClicks) -> list[Click | None]:
        """See `Clicker`."""
        return _each(objects, self._any)

    def _any(self, region: ErrorRegion) -> Click:
        rows, columns = region.pixels
        at = int(self._random.integers(len(rows)))
        return region.at(int(rows[at]), int(columns[at]))


@dataclass
class UserClicker:
    """Like a person: near the middle of the error and seldom at its edge.

    A pixel's chance falls off as a Gaussian with the distance from the robot's click and is in proportion to its
    distance from the region's border; both are measured against the region's size, the square root of its area.

    Args:
        spread: standard deviation as a share of the region's size.
        seed: of the choice.

    Raises:
        UsageError: a spread that is not above 0.
    """

    spread: float = 0.25
    seed: int = 0
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_number("spread", self.spread, above=0)
        self._random = np.random.default_rng(self.seed)

    def __call__(self, objects: ObjectClicks) -> list[Click | None]:
        """See `Clicker`."""
        return _each(objects, self._near)

    def _near(self, region: ErrorRegion) -> Click:
        rows, columns = region.pixels
        depth = ndimage.distance_transform_edt(np.pad(region.valid, 1))[1:-1, 1:-1][rows, columns]
        sigma = self.spread * np.sqrt(len(rows))
        away = (rows + 0.5 - region.click.y) ** 2 + (columns + 0.5 - region.click.x) ** 2
        chance = np.exp(-away / (2 * sigma**2)) * depth
        total = chance.sum()
        if not total > 0:
            return region.click
        at = int(self._random.choice(len(rows), p=chance / total))
        return region.at(int(rows[at]), int(columns[at]))
