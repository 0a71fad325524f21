"""How far from convex the loss is at each point of a plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.landscape.surface.moving import (
    Direction,
    Displaced,
    FixedBatches,
    ModelLoss,
    Progress,
    checked_grid,
    classification_figures,
)
from binderclip.numeric import check_number, check_whole
from binderclip.optim import HessianOperator
from binderclip.optim.space import TensorTree


@dataclass(frozen=True)
class CurvatureRatioMap:
    """The least and the largest eigenvalue of the Hessian over a plane of the weights.

    Attributes:
        alphas, betas: coordinates, rising.
        least, largest: eigenvalues at each point, a down and b across; NaN where the loss has no finite Hessian.
    """

    alphas: Float[Tensor, "A"]
    betas: Float[Tensor, "B"]
    least: Float[Tensor, "A B"]
    largest: Float[Tensor, "A B"]

    @property
    def ratio(self) -> Float[Tensor, "A B"]:
        """|least / largest|: near 0 the loss curves up nearly everywhere, at 1 as much down as up."""
        return (self.least / self.largest).abs()

    def fraction_above(self, ratio: float = 0.1) -> float:
        """Share of the finite points at which the ratio is larger."""
        finite = self.ratio[self.ratio.isfinite()]
        return float((finite > ratio).double().mean()) if len(finite) else float("nan")

    def plot(self) -> Any:
        """A matplotlib figure: the ratio over the plane; a gap where it is not finite."""
        import numpy as np

        from binderclip.display import new_figure

        figure = new_figure(5.0, 4.0)
        axes = figure.subplots()
        ratio = np.ma.masked_invalid(self.ratio.numpy().T)
        shown = axes.pcolormesh(self.alphas.numpy(), self.betas.numpy(), ratio, shading="nearest", vmin=0, vmax=1)
        axes.set(xlabel="first direction", ylabel="second direction", facecolor="0.85")
        figure.colorbar(shown, ax=axes, label="|least / largest eigenvalue|")
        return figure


def curvature_ratio_map(
    model: nn.Module,
    batches: Iterable[Any],
    directions: tuple[Direction, Direction],
    *,
    alphas: Sequence[float],
    betas: Sequence[float] | None = None,
    loss: ModelLoss = classification_figures,
    iterations: int = 50,
    tolerance: float = 1e-2,
    seed: int = 0,
    progress: Progress | None = None,
) -> CurvatureRatioMap:
    """Extreme eigenvalues of the Hessian at the points of a plane: where the surface that is seen is really convex.

    A plane of two directions can look convex where the loss is not. |least / largest| at each point says how much
    negative curvature is hidden. The Hessian is that of the weights with two axes and more, as in the official code; a
    point costs up to `iterations` products over all data, whose graph is held, so take a few hundred samples.

    Args:
        model, batches, directions, alphas, betas, loss, progress: see `loss_surface`.
        iterations: Hessian-vector products at a point, at most; as many vectors of all weights are held.
        tolerance: of both eigenvalues, relative to the larger one in magnitude.
        seed: of the first vector.

    Raises:
        UsageError: as `loss_surface`, a setting out of range, or no weight of two axes that requires a gradient.
        NotSupported: an operation without a second derivative.

    Paper: Visualizing the Loss Landscape of Neural Nets (arXiv 1712.09913), section 6; the official code runs SciPy's
    Lanczos twice, on H and on H shifted by 0.51 of the first result. Here one Krylov space gives both ends.
    """
    rows, columns = checked_grid("alphas", alphas), checked_grid("betas", alphas if betas is None else betas)
    data = FixedBatches(model, batches, loss)
    params = [weight for weight in model.parameters() if weight.ndim > 1 and weight.requires_grad]
    if not params:
        raise UsageError("the model has no weight of two axes or more that requires a gradient")
    points = [(a, b) for a in rows for b in columns]
    values = []
    with Displaced(model, *directions) as displaced:
        for point in points:
            displaced.at(*point)
            values.append(
                extreme_eigenvalues(data.mean_loss, params, iterations=iterations, tolerance=tolerance, seed=seed)
            )
            if progress is not None:
                progress(len(values), len(points))
    ends = torch.tensor(values, dtype=torch.float64).reshape(len(rows), len(columns), 2)
    places = [torch.tensor(grid, dtype=torch.float64) for grid in (rows, columns)]
    return CurvatureRatioMap(places[0], places[1], ends[..., 0], ends[..., 1])


def extreme_eigenvalues(
    loss: Callable[[], Float[Tensor, ""]],
    params: nn.Module | TensorTree,
    *,
    iterations: int = 50,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> tuple[float, float]:
    """The least and the largest eigenvalue of a loss's Hessian, by Lanczos with full reorthogonalisation.

    Args:
        loss: without arguments, of a fixed batch in evaluation mode; see `optim.HessianOperator`.
        params: what it is differentiated in.
        iterations: products with the Hessian at most; as many vectors are held.
        tolerance: on the residual of both Ritz values, relative to the larger magnitude.
        seed: of the first vector.

    Returns:
        (least, largest); (NaN, NaN) where a product is not finite.

    Raises:
        UsageError: a setting out of range, or what `HessianOperator` refuses.
        NotSupported: an operation without a second derivative.
    """
    check_whole("iterations", iterations, least=1)
    check_number("tolerance", tolerance, above=0, below=1)
    check_whole("seed", seed, least=0)
    product = HessianOperator(loss, params)
    shapes = [weight.shape for weight in product.params]
    sizes = [weight.numel() for weight in product.params]
    first = product.params[0]
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(sum(sizes), generator=generator).to(first)
    basis = [vector / vector.norm()]
    most = min(iterations, len(vector))
    triangle = torch.zeros(most, most, dtype=torch.float64)
    ends = (0.0, 0.0)
    for step in range(most):
        parts = [p.reshape(s) for p, s in zip(basis[-1].split(sizes), shapes, strict=True)]
        image = torch.cat([part.flatten().to(first) for part in product(parts)])
        held = torch.stack(basis)  # [step + 1, entries]
        triangle[step, step] = float(basis[-1] @ image)
        for _ in range(2):  # once is not enough in float32
            image = image - held.T @ (held @ image)
        rest = float(image.norm())
        if not torch.isfinite(triangle[step, step]) or rest != rest:
            return float("nan"), float("nan")
        values, vectors = torch.linalg.eigh(triangle[: step + 1, : step + 1])
        ends = (float(values[0]), float(values[-1]))
        scale = max(abs(ends[0]), abs(ends[1]))
        # |H y - theta y| = rest * |last entry of the Ritz vector|
        residual = rest * float(vectors[-1, [0, -1]].abs().max())
        if residual <= tolerance * scale or rest <= 1e-10 * scale or step + 1 == most:
            break
        triangle[step, step + 1] = triangle[step + 1, step] = rest
        basis.append(image / rest)
    return ends
