"""The layers that break an interpolation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.landscape.surface.interpolation import WEIGHTS, Between, between_tensors
from binderclip.landscape.surface.layers import chosen_layers
from binderclip.landscape.surface.moving import FixedBatches, ModelLoss, Progress, checked_grid, classification_figures
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

MOST = 0.25
"""Share of all layers that the z-score rule names at most."""


@dataclass(frozen=True)
class StragglerReport:
    """What happens where a single layer goes back from the second model to the first.

    Attributes:
        alphas: weight of the second model in that layer; 1 is the second model whole, 0 has the layer of the first.
        layers: names, in the model's order.
        error: 1 - accuracy at each weight (the loss where there is no accuracy); 1 (infinite) where it is not finite.
        stragglers: the layers that the rule names, the highest barrier first.
    """

    alphas: Float[Tensor, "A"]
    layers: tuple[str, ...]
    error: Float[Tensor, "layers A"]
    stragglers: tuple[str, ...]

    @property
    def criticality(self) -> Float[Tensor, "layers"]:
        """Largest error above that of the second model, C_l."""
        return (self.error - self.error[:, -1:]).amax(1)

    @property
    def mean_rise(self) -> Float[Tensor, "layers"]:
        """Mean over the weights of the error above that of the second model, by the trapezoid rule."""
        span = float(self.alphas[-1] - self.alphas[0])
        return torch.trapezoid(self.error - self.error[:, -1:], self.alphas, dim=1) / span

    @property
    def barrier(self) -> Float[Tensor, "layers"]:
        """Largest error above the straight line between both ends, B_l; 0 or above."""
        return barriers(self.error, self.alphas)

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a layer, the most critical first."""
        rows = zip(
            self.layers, self.barrier.tolist(), self.criticality.tolist(), self.mean_rise.tolist(),
            [name in self.stragglers for name in self.layers], strict=True,
        )  # fmt: skip
        columns = ("layer", "barrier", "criticality", "mean rise", "straggler")
        return columns, sorted(rows, key=lambda row: (-row[1], -row[2]))


def straggler_layers(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    alphas: Sequence[float] = WEIGHTS,
    layers: Sequence[str] | None = None,
    rule: Literal["zscore", "topk"] = "zscore",
    k: int = 2,
    loss: ModelLoss = classification_figures,
    progress: Progress | None = None,
) -> StragglerReport:
    """Interpolate one layer at a time from the second model back to the first, and name those that show a barrier.

    All other layers stay those of `model_b`. A barrier is an error above the straight line between the layer's ends.
    The paper's cut-off is not known to us: by "zscore" stragglers are the layers whose barrier exceeds the mean over
    layers by one standard deviation, at least one and at most a quarter of all; by "topk" the k with the highest.

    Args:
        model_a, model_b: of one architecture, such as a pre-trained and a fine-tuned model. `model_b` moves, in
            evaluation mode, and is put back bit for bit.
        batches, loss: see `loss_line`.
        alphas: weights of `model_b`, from 0 to 1.
        layers: names of `weight_layers`; default all that differ.
        rule: see above.
        k: for "topk", at least 1.
        progress: called with (points done, points in all).

    Raises:
        UsageError: weights that do not run from 0 to 1, no data, models of two architectures or with equal weights, an
            unknown layer or rule, or a k below 1.

    Paper: In Search of the Successful Interpolation: On the Role of Sharpness in CLIP Generalization (arXiv
    2410.16476).
    """
    check_choice("rule", rule, ("zscore", "topk"))
    check_whole("k", k, least=1)
    grid = checked_grid("alphas", alphas)
    if len(grid) < 3 or grid[0] != 0 or grid[-1] != 1:
        raise UsageError(f"alphas must run from 0 to 1 with one between, got {grid[0]:g} to {grid[-1]:g}")
    start, end = between_tensors(model_a, model_b)
    chosen = chosen_layers(model_b, None if layers is None else list(layers))
    differing = {layer: frozenset(names) for layer, names in chosen.items() if not start.keys().isdisjoint(names)}
    if not differing:
        raise UsageError("none of these layers differs between the models")
    data = FixedBatches(model_b, batches, loss)
    rows: list[Tensor] = []
    count = len(differing) * (len(grid) - 1) + 1
    with torch.no_grad(), Between(model_b, start, end) as between:
        # the second model whole: the same for every layer, so it is measured once
        between.at(1.0)
        whole = data()
        _tell(progress, 1, count)
        for names in differing.values():
            for alpha in grid[:-1]:
                between.at(alpha, names)
                rows.append(data())
                _tell(progress, len(rows) + 1, count)
    figures = torch.stack(rows).reshape(len(differing), len(grid) - 1, 2)
    figures = torch.cat([figures, whole.expand(len(differing), 1, 2)], 1).cpu().double()
    places = torch.tensor(grid, dtype=torch.float64)
    error = _error(figures)
    order = barriers(error, places).argsort(descending=True, stable=True).tolist()
    named = named_by(barriers(error, places), rule, k)
    return StragglerReport(places, tuple(differing), error, tuple(list(differing)[i] for i in order[:named]))


def barriers(error: Float[Tensor, "layers A"], alphas: Float[Tensor, "A"]) -> Float[Tensor, "layers"]:
    """Largest error above the straight line between both ends; infinite where an error is."""
    chord = error[:, :1] * (1 - alphas) + error[:, -1:] * alphas
    return torch.where(error.isfinite().all(1), (error - chord).amax(1), math.inf)


def named_by(barrier: Float[Tensor, "layers"], rule: str, k: int) -> int:
    """How many layers the rule names, of those with the highest barriers."""
    if rule == "topk":
        return min(k, len(barrier))
    finite = barrier[barrier.isfinite()]
    bound = float(finite.mean() + finite.std(correction=0)) if len(finite) else math.inf
    above = int((barrier > bound).sum() + (0 if math.isfinite(bound) else (barrier == bound).sum()))
    return max(1, min(above, int(MOST * len(barrier))))


def _error(figures: Float[Tensor, "layers A 2"]) -> Float[Tensor, "layers A"]:
    loss, accuracy = figures.unbind(-1)
    if bool(accuracy.isnan().all()):
        return torch.where(loss.isfinite(), loss, math.inf)
    # logits that are not finite have an arg max all the same
    return torch.where(loss.isfinite(), 1 - accuracy, 1.0)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
