"""Attacks that move pixels instead of changing them: a smooth flow field under which an objective grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_fields, check_number
from binderclip.robust.attack_loop import AttackResult
from binderclip.robust.checks import check_finite, check_images
from binderclip.robust.objectives import Objective
from binderclip.vision.flow_fields import warp

__all__ = ["ObjectiveOf", "SpatialAttack", "flow_roughness", "stacked_histories", "warp"]

ObjectiveOf: TypeAlias = Callable[[Int[Tensor, "b"]], Objective]
"""From the numbers of images, which may repeat, to the objective of these images alone."""


def flow_roughness(flow: Float[Tensor, "B 2 H W"], epsilon: float = 1e-8) -> Float[Tensor, "B"]:
    """Squared differences to the four diagonal neighbours, zero outside, over all pixels.

    Args:
        flow: displacements in pixels.
        epsilon: added for each pixel and neighbour, as the paper's code does.

    Raises:
        UsageError: an epsilon that is no number of at least 0.
    """
    check_number("epsilon", epsilon, least=0)
    height, width = flow.shape[-2:]
    padded = F.pad(flow, (1, 1, 1, 1))
    total = flow.new_zeros(len(flow))
    for top in (0, 2):
        for left in (0, 2):
            other = padded[:, :, top : top + height, left : left + width]
            total = total + ((flow - other).square().sum(1) + epsilon).flatten(1).sum(1)
    return total


@dataclass(frozen=True, kw_only=True)
class SpatialAttack:
    """The smooth displacement of pixels that makes an objective large (stAdv), by L-BFGS-B from no displacement.

    Minimises `-weight * objective + smooth * flow_roughness`, image by image, and stops where the objective's aim is
    reached.

    Args:
        weight, smooth: of both parts; the paper's for rank flips.
        iterations: of L-BFGS-B.

    Call it with images (B, C, H, W) in [0, 1] and what gives the objective of some of them, such as
    `lambda rows: Margin(predictor, labels[rows])`.

    Raises:
        UsageError: a negative weight, or no iteration; when called, images out of range, or values or gradients of the
            objective that are not finite.

    Paper: Spatially Transformed Adversarial Examples (arXiv 1801.02612); weights: Attacking Perceptual Similarity
    Metrics (arXiv 2305.08840), whose code goes on from the point of success with a value forced to 0.
    """

    weight: float = 50.0
    smooth: float = 0.05
    iterations: int = 50

    def __post_init__(self) -> None:
        check_fields(self)
        if self.weight < 0 or self.smooth < 0 or self.iterations < 1:
            raise UsageError(
                f"weight and smooth must be at least 0 and iterations at least 1; got {self.weight}, {self.smooth}, "
                f"{self.iterations}"
            )

    def __call__(self, images: Float[Tensor, "B C H W"], objective_of: ObjectiveOf) -> AttackResult:
        check_images("images", images, shape="(B, C, H, W)")
        parts = [
            self._one(images[row : row + 1].detach(), objective_of(torch.tensor([row]))) for row in range(len(images))
        ]
        images_of_parts = torch.cat([part[0] for part in parts])
        success, values = (torch.cat([part[place] for part in parts]) for place in (1, 2))
        history = stacked_histories([part[3] for part in parts])
        return AttackResult(images_of_parts, images_of_parts - images, success, values, len(history), history)

    def _one(self, image: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from scipy.optimize import fmin_l_bfgs_b

        shape = (1, 2, *image.shape[-2:])
        values: list[float] = []
        first: list[np.ndarray] = []

        def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
            if first:  # the aim is reached: nothing is left to descend
                return 0.0, np.zeros_like(theta)
            flow = torch.from_numpy(theta.reshape(shape)).to(image).requires_grad_()
            value, success = objective.judge(warp(image, flow))
            check_finite("values of the objective", value)
            total = -self.weight * value.sum() + self.smooth * flow_roughness(flow).sum()
            (gradient,) = torch.autograd.grad(total, flow)
            check_finite("gradients of the objective", gradient)
            values.append(float(value.detach()))
            if bool(success):
                first.append(theta.copy())
            return float(total.detach()), gradient.double().cpu().numpy().ravel()

        with frozen(*objective.networks):
            last = fmin_l_bfgs_b(loss, np.zeros(int(np.prod(shape))), maxiter=self.iterations)[0]
            flow = torch.from_numpy((first[0] if first else last).reshape(shape)).to(image)
            with torch.no_grad():
                moved = warp(image, flow)
                value, success = objective.judge(moved)
        return moved, success, value, torch.tensor([*values, float(value)])


def stacked_histories(histories: Sequence[Float[Tensor, "_"]]) -> Float[Tensor, "S B"]:
    """Values of several searches beside each other, shorter ones continued by their last value."""
    longest = max(len(each) for each in histories)
    return torch.stack([torch.cat([each, each[-1:].expand(longest - len(each))]) for each in histories], 1)
