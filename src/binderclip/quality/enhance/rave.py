"""RAVE: an enhancer of backlit pictures led by the difference of two mean embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.quality.enhance.backlit import BacklitEnhancer, EnhancerFit, step_counter
from binderclip.quality.enhance.residual import ResidualVector


class RAVE(BacklitEnhancer):
    """Train an enhancer on backlit and well-lit pictures, of one thing or of different ones, without prompts.

    The network, its reconstruction and its content term are those of `CLIPLIT`; `ResidualVector` guides it, in one
    stage.

    Attributes:
        guidance: the `ResidualVector`; None before `fit`.

    Paper: RAVE: Residual Vector Embedding for CLIP-Guided Backlit Image Enhancement (arXiv 2404.01889). Embeddings of
    the two sets and of results come by the same resize; the official script crops the former.

    Examples:
        >>> trainer = RAVE("small", network=IlluminationNet(8, level=1.0), side=32)    # doctest: +SKIP
        >>> trainer.fit(dark, bright, warmup_steps=0, steps=200, lr=1e-3)               # doctest: +SKIP
        >>> trainer.guidance.words(trainer.model, ["bright", "dark", "cat"])            # doctest: +SKIP
    """

    guidance: ResidualVector | None = None

    def fit(
        self,
        backlit: Float[Tensor, "N 3 H W"],
        well_lit: Float[Tensor, "M 3 h w"],
        *,
        guidance: ResidualVector | None = None,
        warmup_steps: int = 1000,
        steps: int = 2100,
        lr: float = 2e-5,
        batch_size: int = 8,
        threshold: float | None = None,
        progress: Callable[[str], object] | None = None,
    ) -> EnhancerFit:
        """Train.

        Args:
            backlit, well_lit: pictures in [0, 1].
            guidance: default that between both sets; give one that was cleared of content by `ResidualVector.without`.
            warmup_steps: of the reconstruction; 0 where the network has a `level` or was trained before.
            steps, lr, batch_size, threshold: of the enhancement, as in `CLIPLIT.fit`.
            progress: called with what is done, "the network: step 12 of 300".

        Returns:
            The record of the stages "reconstruction" and "enhancement 1".

        Raises:
            DataError: the two sets have the same mean.
            UsageError: a set without a picture.
        """
        say = progress or (lambda _: None)
        fit = EnhancerFit()
        if guidance is None:
            say("embedding the pictures")
            guidance = self.residual(backlit, well_lit)
        self.guidance = guidance.to(self.model.device)
        if warmup_steps:
            say("warming the network up")
            fit.stages["reconstruction"] = self.reconstruct(
                backlit, steps=warmup_steps, lr=lr, batch_size=batch_size,
                callbacks=[step_counter(say, "warming the network up", warmup_steps)],
            )  # fmt: skip
        say("the network")
        fit.stages["enhancement 1"] = self.guided(
            backlit, self.guidance, steps=steps, lr=lr, batch_size=batch_size, threshold=threshold,
            callbacks=[step_counter(say, "the network", steps)],
        )  # fmt: skip
        return fit

    @torch.no_grad()
    def residual(self, backlit: Float[Tensor, "N 3 H W"], well_lit: Float[Tensor, "M 3 h w"]) -> ResidualVector:
        """The direction between two sets of pictures."""
        device = self.model.device
        dark, bright = (
            torch.cat([self.embed(part.to(device)) for part in images.split(64)]) for images in (backlit, well_lit)
        )
        return ResidualVector.between(bright, dark)
