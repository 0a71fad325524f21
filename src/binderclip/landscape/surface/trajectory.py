"""The plane in which an optimizer moved most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.landscape.surface.directions import require_same_tensors
from binderclip.landscape.surface.surfaces import LossSurface
from binderclip.settings import check_choice


@dataclass(frozen=True)
class TrajectoryPlane:
    """Two principal directions of a training, and where its checkpoints lie on them.

    Attributes:
        directions: both components, of length 1 and at right angles, by parameter names; for `loss_surface`.
        coordinates: of every checkpoint relative to the last one, which is (0, 0).
        explained: share of the variance of each component; with `center=False` of the squared lengths.
    """

    directions: tuple[dict[str, Float[Tensor, "..."]], dict[str, Float[Tensor, "..."]]]
    coordinates: Float[Tensor, "n 2"]
    explained: tuple[float, float]

    def plot(self, surface: LossSurface) -> Any:
        """A matplotlib figure: the way over the contours of a surface that was measured along `directions`."""
        from binderclip.landscape.surface.pictures import surface_figure

        return surface_figure(surface.alphas, surface.betas, surface.loss, self.coordinates, self.explained)


def trajectory_pca(
    checkpoints: Sequence[nn.Module | Mapping[str, Tensor]],
    *,
    center: bool = True,
    ignore: Literal["bias_bn"] | None = None,
) -> TrajectoryPlane:
    """Principal components of the weights' way to the last checkpoint: the rows w_i - w_n.

    The matrix has few rows, so its Gram matrix is what is decomposed, and no matrix of all weights is formed. These
    directions have length 1: they are not scaled by filters, and their surface is not to be compared with one that is.

    Args:
        checkpoints: models or their parameters by name, in the order of training, the last one where it ended. Of a
            model its parameters are taken, of a mapping its floating tensors: leave out buffers of a `state_dict`.
        center: take the rows' mean off first, as scikit-learn's PCA in the official code, whose rows include the last
            checkpoint; False decomposes the rows themselves.
        ignore: "bias_bn" leaves out tensors of no or one axis.

    Raises:
        UsageError: fewer than three checkpoints, of several architectures, weights that are not finite, or checkpoints
            that lie on one line.

    Paper: Visualizing the Loss Landscape of Neural Nets (arXiv 1712.09913), section 7.
    """
    check_choice("ignore", ignore, ("bias_bn", None))
    if len(checkpoints) < 3:
        raise UsageError(f"a plane needs three checkpoints or more, got {len(checkpoints)}")
    weights = [_weights(checkpoint, ignore) for checkpoint in checkpoints]
    for each in weights[:-1]:
        require_same_tensors(each, weights[-1])
    count = len(weights)
    gram = torch.zeros(count, count, dtype=torch.float64)
    for name in weights[-1]:
        rows = _rows(weights, name)  # [n, entries of this tensor]
        gram += (rows @ rows.T).cpu()
    if not bool(gram.isfinite().all()):
        raise UsageError("a checkpoint holds NaN or infinity")
    mean_off = torch.eye(count, dtype=torch.float64) - (1 / count if center else 0.0)
    values, vectors = torch.linalg.eigh(mean_off @ gram @ mean_off)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    if not float(values[1]) > 1e-12 * float(values[0]):
        raise UsageError("the checkpoints lie on one line (or are equal): they span no plane")
    # right singular vectors are M' u / s, with M = mean_off @ rows
    mix = (mean_off @ vectors[:, :2]) / values[:2].sqrt()
    directions: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, last in weights[-1].items():
        parts = mix.T.to(last.device) @ _rows(weights, name)
        for direction, part in zip(directions, parts, strict=True):
            direction[name] = part.reshape(last.shape).to(last.dtype)
    share = values[:2] / values.sum()
    return TrajectoryPlane(directions, gram @ mix, (float(share[0]), float(share[1])))


def _weights(checkpoint: nn.Module | Mapping[str, Tensor], ignore: str | None) -> dict[str, Tensor]:
    named = checkpoint.named_parameters() if isinstance(checkpoint, nn.Module) else checkpoint.items()
    kept = {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}
    kept = {name: tensor for name, tensor in kept.items() if ignore is None or tensor.ndim > 1}
    if not kept:
        raise UsageError("a checkpoint holds no weight (with ignore='bias_bn': none of two axes or more)")
    return kept


def _rows(weights: Sequence[Mapping[str, Tensor]], name: str) -> Float[Tensor, "n entries"]:
    """Differences of one tensor to the last checkpoint, the last row 0."""
    last = weights[-1][name]
    return torch.stack([(each[name].to(last.device).double() - last.double()).flatten() for each in weights])
