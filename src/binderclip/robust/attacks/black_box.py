"""Search without gradients: CMA-ES over the latents of a decoder, by the library pycma."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError, require
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_number, check_whole
from binderclip.robust.checks import PIXELS, Box, check_box, check_finite, check_images
from binderclip.robust.objectives import Objective

__all__ = ["Evolution"]

FULL = 2000
"""Numbers of a latent up to which the whole covariance is adapted, above it the variances alone."""


class Evolution:
    """The state of a search by CMA-ES for the image whose objective is largest; `step` is a generation.

    Needs pycma (`pip install "binderclip[attacks]"`), whose covariance adaptation is the active one.

    Args:
        decode: latents (B, *size) to images (B, 3, H, W) in [0, 1]; default the latents themselves, clamped. An
            `nn.Module` is in eval mode meanwhile.
        size: of one latent.
        sigma: first step size.
        population: latents of a generation; default 4 + floor(3 ln n) of n numbers.
        diagonal: adapt variances alone; default above 2,000 numbers.
        box: range of the decoder's pixels; None: any finite numbers.
        seed: of the mean, standard normal, and of all draws.

    Attributes:
        image: (3, H, W) the best so far; None before the first step.
        value: of the objective there, as it was judged then.
        latent: it was decoded from.
        current: (3, H, W) the best of the last generation.
        history: best value of each generation.
        queries: images that were judged.

    Raises:
        UsageError: no number to vary, or sigma or population too small or no number; at a step, images of the decoder
            out of range, or values of the objective that are not finite.
        MissingDependency: pycma is not installed.

    Paper: Fooling Contrastive Language-Image Pre-trained Models with CLIPMasterPrints (arXiv 2307.03798).
    """

    def __init__(
        self,
        size: tuple[int, ...],
        decode: Callable[[Tensor], Tensor] | None = None,
        *,
        sigma: float = 1.0,
        population: int | None = None,
        diagonal: bool | None = None,
        box: Box | None = PIXELS,
        seed: int = 0,
    ) -> None:
        if box is not None:
            check_box(box)
        for each in size:
            check_whole("size", each, least=1)
        check_number("sigma", sigma)
        check_whole("seed", seed)
        if population is not None:
            check_whole("population", population)
        count = int(np.prod(size))
        if count < 2 or not sigma > 0 or (population is not None and population < 2):
            raise UsageError(
                f"a latent needs two numbers at least, sigma above 0 and a population of two at least, got {size}, "
                f"{sigma} and {population}"
            )
        cma: Any = require("cma", "attacks")
        self._rng = np.random.default_rng(seed)
        options = {
            "verbose": -9, "verb_log": 0, "seed": np.nan, "randn": self._draw,
            "CMA_diagonal": count > FULL if diagonal is None else diagonal,
        }  # fmt: skip
        if population is not None:
            options["popsize"] = population
        self._strategy = cma.CMAEvolutionStrategy(self._rng.standard_normal(count), sigma, options)
        self._size, self._decode, self._box = size, decode or _clamped, box
        self.image: Float[Tensor, "3 H W"] | None = None
        self.current: Float[Tensor, "3 H W"] | None = None
        self.latent: Tensor | None = None
        self.value = -float("inf")
        self.history: list[float] = []
        self.queries = 0

    def _draw(self, *shape: int) -> Float[np.ndarray, "*shape"]:
        return self._rng.standard_normal(shape)

    @torch.no_grad()
    def step(self, objective: Objective, *, batch_size: int = 64) -> float:
        """One generation; the best value so far.

        Args:
            objective: may differ from the last generation's, as that of a model that is trained meanwhile does; then
                go by `current`.
            batch_size: images that are judged at once.
        """
        check_whole("batch_size", batch_size, least=1)
        drawn = self._strategy.ask()
        latents = torch.from_numpy(np.stack(drawn)).float().reshape(-1, *self._size)
        with frozen(*(each for each in (*objective.networks, self._decode) if isinstance(each, nn.Module))):
            images = torch.cat([self._decode(part) for part in latents.split(batch_size)])
            check_images("images of the decoder", images, self._box)
            values = torch.cat([objective(part) for part in images.split(batch_size)])
        check_finite("values of the objective", values)
        self._strategy.tell(drawn, (-values.double()).tolist())
        place = int(values.argmax())
        self.queries, self.current = self.queries + len(values), images[place]
        self.history.append(float(values[place]))
        if self.history[-1] > self.value:
            self.image, self.latent, self.value = images[place], latents[place], self.history[-1]
        return self.value


def _clamped(latents: Tensor) -> Tensor:
    return latents.clamp(0, 1)
