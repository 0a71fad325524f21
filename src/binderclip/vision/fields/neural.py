"""A solid from its cross-sections: a small network that refines inside and outside in several rounds (OReX)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.vision.fields.mesh import TriangleMesh, level_surface
from binderclip.vision.fields.slices import EDGE_POINTS, MARGIN, FieldSamples, PlanarSlice, slice_samples

__all__ = ["SliceField", "gradient_hinge"]

EPOCHS, HISTORY, DECAY, DECAY_EVERY = (50, 50, 100, 100, 150, 200), 3, 0.9, 10
"""Epochs by level of refinement, levels whose samples are used, and the learning rate's factor every so many epochs."""
EXTENT = 0.95
"""Half the side of the box that the enlarged hull fits into, so that the solid's surface lies inside the grid."""


def gradient_hinge(
    points: Float[Tensor, "N 3"], logits: Float[Tensor, "N"], threshold: float = 100.0
) -> Float[Tensor, ""]:
    """Mean of what gradients of a field exceed a threshold by: max(||grad|| - threshold, 0).

    Steep fields make ripples when a grid is interpolated linearly; flat ones are left alone.

    Args:
        points: that the logits were computed from, with `requires_grad`.
        logits: of the field at these points, each of its own point alone.
        threshold: per unit of length, in [0, 1e6].

    Raises:
        UsageError: a threshold out of range, or points without a gradient.

    Paper: OReX (arXiv 2211.12886).
    """
    check_number("threshold", threshold, least=0, most=1e6)
    if not points.requires_grad:
        raise UsageError("points must have requires_grad when the logits are computed")
    (gradient,) = torch.autograd.grad(logits.sum(), points, create_graph=True)
    return (gradient.norm(dim=-1) - threshold).clamp(min=0).mean()


class SliceField(nn.Module):
    """A neural field whose logit is below 0 inside a solid, refined by one network in several rounds.

    A round gets a code of the point, the logit and a hidden state, adds to the logit and replaces the state; the first
    round's are learned and the same for all points. Frequencies of the code are learned, from 1 to 2^(frequencies - 1)
    radians per unit.

    Args:
        iterations: rounds, 1 to 100.
        width: of the hidden layers, 1 to 4096. depth: how many there are, 1 to 64.
        hidden: size of the state, an even number of 2 to 64.
        frequencies: of the code of a point, for each of sine and cosine, 1 to 16.

    Raises:
        UsageError: a value out of range.

    Paper: OReX: Object Reconstruction from Planar Cross-sections Using Neural Fields (arXiv 2211.12886). The authors
    compute in float64 (`SliceField().double()`) and extract by dual contouring.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self, *, iterations: int = 10, width: int = 64, depth: int = 7, hidden: int = 32, frequencies: int = 5
    ) -> None:
        super().__init__()
        settings = (
            ("iterations", iterations, 1, 100), ("width", width, 1, 4096), ("depth", depth, 1, 64),
            ("hidden", hidden, 2, 64), ("frequencies", frequencies, 1, 16),
        )  # fmt: skip
        for name, value, least, most in settings:
            check_whole(name, value, least=least)
            check_number(name, value, most=most)
        if hidden % 2:
            raise UsageError(f"hidden must be even, for sines and cosines of the round, got {hidden}")
        self.iterations, self.hidden = iterations, hidden
        bands = 2.0 ** torch.arange(frequencies)
        self.cos_frequencies, self.sin_frequencies = nn.Parameter(bands.clone()), nn.Parameter(bands.clone())
        sizes = [3 + 6 * frequencies + 1 + hidden, *[width] * depth, 1 + hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.initial_logit, self.initial_hidden = nn.Parameter(torch.rand(1)), nn.Parameter(torch.rand(hidden))
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.uniform_(layer.bias, 0, 1)  # type: ignore[arg-type]
        self.register_buffer("centre", torch.zeros(3))
        self.register_buffer("scale", torch.ones(()))

    def code(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
        """The point itself, and cosines and sines of its coordinates."""
        cosines = (points[..., None] * self.cos_frequencies).cos().flatten(1)
        sines = (points[..., None] * self.sin_frequencies).sin().flatten(1)
        return torch.cat([points, cosines, sines], 1)

    def round_code(self, number: int) -> Float[Tensor, "H"]:
        """Sine and cosine of a round's number at frequencies 1, 2, 4, ..., in turn."""
        angles = number * 2.0 ** torch.arange(self.hidden // 2, dtype=torch.float64)
        return torch.stack([angles.sin(), angles.cos()], 1).flatten().to(self.initial_hidden)

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "I N"]:
        """Logits after each round, at points in the network's own coordinates."""
        first = self.layers[0]
        code = self.code(points)
        # The code is the same in every round, so its part of the first layer is computed once.
        fixed = F.linear(code, first.weight[:, : code.shape[1]], first.bias)  # type: ignore[index,arg-type]
        rest = first.weight[:, code.shape[1] :]  # type: ignore[index]
        logit = self.initial_logit.expand(len(points), 1)
        state = self.initial_hidden.expand(len(points), -1)
        logits = []
        for number in range(self.iterations):
            state = state + self.round_code(number)
            x = fixed + F.linear(torch.cat([logit, state], 1), rest)
            for layer in list(self.layers)[1:]:
                x = layer(F.leaky_relu(x, 0.01))
            logit, state = logit + x[:, :1], x[:, 1:]
            logits.append(logit[:, 0])
        return torch.stack(logits)

    def loss(self, samples: FieldSamples, *, hinge: float = 1e-4, threshold: float = 100.0) -> Float[Tensor, ""]:
        """Cross-entropy averaged over points and rounds, and the hinge on the gradient of the last round.

        Args:
            samples: in the network's coordinates.
            hinge: weight of the hinge, in [0, 1e6]; 0 saves its second backward pass.
            threshold: of the hinge.
        """
        check_number("hinge", hinge, least=0, most=1e6)
        points = samples.points.detach().requires_grad_(hinge > 0)
        logits = self(points)
        total = F.binary_cross_entropy_with_logits(logits, samples.labels.expand_as(logits))
        return total + hinge * gradient_hinge(points, logits[-1], threshold) if hinge > 0 else total

    def fit(
        self, slices: Sequence[PlanarSlice], *, epochs: Sequence[int] = EPOCHS, batch: int = 2**14, lr: float = 1e-2,
        weight_decay: float = 1e-3, hinge: float = 1e-4, threshold: float = 100.0, noise: int = 2048, hull: int = 2**14,
        generator: torch.Generator | None = None, progress: Callable[[int, int], object] | None = None,
        level_done: Callable[[int], object] | None = None,
    ) -> SliceField:  # fmt: skip
        """Train on slices, level of refinement by level, on the samples of the last three; returns itself.

        The slices may be of any size: centre and scale are kept, and `logits` and `mesh` speak the slices' units.

        Args:
            slices: at least two planes with contours that are not all in one plane.
            epochs: passes at each level, one to six levels.
            batch: points a step, 1 to 10^7.
            lr: of Adam, in (0, 1], times 0.9 every 10 epochs. weight_decay: its L2 penalty, in [0, 1].
            hinge, threshold: of `loss`.
            noise, hull: of `slice_samples`.
            generator: draws samples and orders.
            progress: called with the epochs that are done, and all of them.
            level_done: called with the number of each level, from 0, when its epochs are over.

        Raises:
            UsageError: a value out of range, slices without a solid, or a loss that is no longer finite.
        """
        if not 1 <= len(epochs) <= len(EDGE_POINTS):
            raise UsageError(f"epochs must name 1 to {len(EDGE_POINTS)} levels, got {len(epochs)}")
        for number in epochs:
            check_whole("epochs", number, least=0)
            check_number("epochs", number, most=10**6)
        check_whole("batch", batch, least=1)
        check_number("batch", batch, most=10**7)
        check_number("lr", lr, above=0, most=1)
        check_number("weight_decay", weight_decay, least=0, most=1)
        scaled = self._normalise(slices)
        optimizer = torch.optim.Adam(self.parameters(), lr=lr, weight_decay=weight_decay)
        levels: list[FieldSamples] = []
        done = 0
        for level, passes in enumerate(epochs):
            drawn = slice_samples(scaled, level, noise=noise, hull=hull, generator=generator)
            levels = [*levels, drawn][-HISTORY:]
            points = torch.cat([part.points for part in levels]).to(self.initial_hidden)
            labels = torch.cat([part.labels for part in levels]).to(self.initial_hidden)
            for _ in range(passes):
                order = torch.randperm(len(points), generator=generator).to(points.device)
                for rows in order.split(batch):
                    loss = self.loss(FieldSamples(points[rows], labels[rows]), hinge=hinge, threshold=threshold)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                if not math.isfinite(loss.item()):
                    raise UsageError(f"the loss is no longer finite after {done + 1} epochs: lower lr, {lr:g}")
                if done > 0 and done % DECAY_EVERY == 0:
                    for group in optimizer.param_groups:
                        group["lr"] *= DECAY
                done += 1
                if progress is not None:
                    progress(done, sum(epochs))
            if level_done is not None:
                level_done(level)
        return self

    def _normalise(self, slices: Sequence[PlanarSlice]) -> list[PlanarSlice]:
        """Slices moved and scaled so that their enlarged hull fits into the grid; remembers by how much."""
        vertices = torch.cat([torch.zeros(0, 3), *(part.vertices().float() for part in slices)])
        if not len(vertices):
            raise UsageError("no slice has a contour: there is no solid to see")
        low, high = vertices.amin(0), vertices.amax(0)
        half = float((high - low).max()) / 2
        if not half > 0:
            raise UsageError("all vertices of the slices are one point")
        centre, scale = (low + high) / 2, half * MARGIN / EXTENT
        self.centre.copy_(centre)
        self.scale.fill_(scale)
        return [
            PlanarSlice(
                tuple(contour.float() / scale for contour in part.contours), (part.origin.float() - centre) / scale,
                part.axes.float(),
            )
            for part in slices
        ]  # fmt: skip

    @torch.no_grad()
    def logits(self, points: Float[Tensor, "N 3"], *, batch: int = 2**14) -> Float[Tensor, "N"]:
        """Logits of the last round at points in the units of the slices: below 0 inside.

        Args:
            points: anywhere.
            batch: points a pass.
        """
        check_whole("batch", batch, least=1)
        own = (points.to(self.initial_hidden) - self.centre) / self.scale
        return torch.cat([points.new_zeros(0).to(own), *(self(part)[-1] for part in own.split(batch) if len(part))])

    def mesh(self, resolution: int = 64) -> TriangleMesh:
        """The solid's surface in the units of the slices, from a grid over the box of its hull.

        Args:
            resolution: places along each axis, 8 to 512; the authors take 300.

        Raises:
            UsageError: a resolution out of range, or a field that is nowhere inside.
        """
        check_whole("resolution", resolution, least=8)
        check_number("resolution", resolution, most=512)
        axis = torch.linspace(-1, 1, resolution, dtype=self.centre.dtype, device=self.centre.device)
        grid = torch.cartesian_prod(axis, axis, axis)
        values = self.logits(grid * self.scale + self.centre).reshape((resolution,) * 3)
        surface = level_surface(values)
        return TriangleMesh(surface.vertices * self.scale.cpu() + self.centre.cpu(), surface.faces)
