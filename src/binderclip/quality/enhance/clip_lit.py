"""CLIP-LIT: an enhancer of backlit pictures and the prompts that guide it, trained in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.fit import FitResult, fit
from binderclip.losses import PromptRank
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_number
from binderclip.quality.enhance.backlit import DECAY, BacklitEnhancer, EnhancerFit, LowestLoss, step_counter
from binderclip.quality.enhance.light_prompts import LearnedLightPrompts, LightPrompts
from binderclip.quality.enhance.light_views import mirrored_view, view_matrices

RANK_WEIGHT = 200.0
"""On the loss of the refinement."""


class CLIPLIT(BacklitEnhancer):
    """Train an enhancer on backlit pictures and other, well-lit ones: no pictures of one thing in both lights.

    A pair of prompts learns which pictures are backlit. A network then learns an illumination by which pictures are
    divided, so that its results look well lit to the prompts; the prompts learn to put its results between backlit
    and well-lit pictures (`losses.PromptRank`), newer above older, and both go on in turn:

        prompts:     cross-entropy of softmax(scale * v . [t_well, t_back])
        enhancement: 320 * mean p_backlit(result) + 0.9 * content
        refinement:  200 * PromptRank(p_backlit of inputs, the last two results, well-lit pictures)

    Args:
        model: as in `BacklitEnhancer`.
        guidance: the pair; default `LearnedLightPrompts(model)`. `LatentPromptGuidance` learns vectors instead (RAVE's
            CLIP-LIT-Latent); `LightWords` learns nothing, then there are only steps of the enhancement.
        options: of `BacklitEnhancer`.

    Attributes:
        network: the `IlluminationNet`. guidance: the pair.

    Paper: Iterative Prompt Learning for Unsupervised Backlit Image Enhancement (arXiv 2303.17569). The network sees
    pictures as they are given, the official code mirrors and turns those too; views of the prompts' pictures are
    embedded once, there new ones are drawn at every step.

    Examples:
        >>> trainer = CLIPLIT("small", network=IlluminationNet(8, level=1.0), side=32)     # doctest: +SKIP
        >>> result = trainer.fit(dark, bright, rounds=2, prompt_steps=300, warmup_steps=0, steps=200, refine_steps=100,
        ...                      lr=1e-3, prompt_lr=1e-3)                                   # doctest: +SKIP
        >>> trainer(dark).shape                                                             # doctest: +SKIP
        torch.Size([40, 3, 64, 64])
    """

    def __init__(
        self, model: str | ImageTextModel = "small", *, guidance: LightPrompts | None = None, **options: Any
    ) -> None:
        refuse_bare_module(model, "CLIPLIT")
        super().__init__(model, **options)
        chosen = LearnedLightPrompts(self.model) if guidance is None else guidance
        self.guidance: LightPrompts = chosen.to(self.model.device)

    @property
    def learns(self) -> bool:
        """Whether the pair has anything to learn."""
        return any(True for _ in self.guidance.parameters())

    def fit(
        self,
        backlit: Float[Tensor, "N 3 s s"],
        well_lit: Float[Tensor, "M 3 s s"],
        *,
        rounds: int,
        prompt_steps: int = 8000,
        warmup_steps: int = 1000,
        steps: int = 2100,
        refine_steps: int = 1000,
        lr: float = 2e-5,
        prompt_lr: float | None = None,
        batch_size: int = 8,
        prompt_batch_size: int = 16,
        views: int = 8,
        threshold: float | None = None,
        progress: Callable[[str], object] | None = None,
    ) -> EnhancerFit:
        """Train.

        Args:
            backlit, well_lit: square pictures in [0, 1]; they need not show the same.
            rounds: of enhancement and refinement; the last refinement is left out, as nothing follows it.
            prompt_steps: of the prompts before the first round; 0 where they were learned before.
            warmup_steps: of the reconstruction; 0 where the network has a `level` or was trained before.
            steps: of the enhancement in a round.
            refine_steps: of the prompts in a round.
            lr: of the network; the paper's belongs to its steps, a short training needs 1e-4 to 1e-3.
            prompt_lr: of the prompts. Default 5e-6 for prompts and 5e-4 for vectors, as in the papers.
            batch_size, prompt_batch_size: pictures a step.
            views: of every picture that the prompts learn from, see `view_matrices`.
            threshold: of `guided`.
            progress: called with what is done, "round 1 of 2: the network: step 12 of 300".

        Returns:
            The record of every stage: "prompts", "reconstruction", "enhancement 1", "refinement 1", ...

        Raises:
            UsageError: no round, or pictures of another shape.
        """
        check_number("rounds", rounds, least=1)
        for name, images in (("backlit", backlit), ("well_lit", well_lit)):
            if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or not len(images):
                raise UsageError(f"{name} {tuple(images.shape)} must be (N, 3, s, s), a picture at least")
        say = progress or (lambda _: None)
        fit = EnhancerFit()
        if self.learns:
            say("embedding the pictures")
            matrices = view_matrices(views, self.seed)
            dark, bright = (self.views(images, matrices) for images in (backlit, well_lit))
            rate = type(self.guidance).lr if prompt_lr is None else prompt_lr
            adam = torch.optim.Adam(self.guidance.parameters(), lr=rate, weight_decay=DECAY)
            if prompt_steps:
                say("learning the prompts")
                fit.stages["prompts"] = self.fit_prompts(
                    dark, bright, prompt_steps, adam, prompt_batch_size,
                    callbacks=[step_counter(say, "learning the prompts", prompt_steps)],
                )  # fmt: skip
        if warmup_steps:
            say("warming the network up")
            fit.stages["reconstruction"] = self.reconstruct(
                backlit, steps=warmup_steps, lr=lr, batch_size=batch_size,
                callbacks=[step_counter(say, "warming the network up", warmup_steps)],
            )  # fmt: skip
        optimizer = torch.optim.Adam(self.network.parameters(), lr=lr, weight_decay=DECAY)
        results: list[Tensor] = []  # (V, N, E) of every round
        for number in range(1, rounds + 1):
            doing = f"round {number} of {rounds}: the network"
            say(doing)
            fit.stages[f"enhancement {number}"] = self.guided(
                backlit, self.guidance, steps=steps, batch_size=batch_size, threshold=threshold, optimizer=optimizer,
                callbacks=[step_counter(say, doing, steps)],
            )  # fmt: skip
            if self.learns and number < rounds and refine_steps:
                doing = f"round {number} of {rounds}: the prompts"
                say(doing)
                results = [*results, self.views(self(backlit, batch_size=batch_size), matrices)][-2:]
                fit.stages[f"refinement {number}"] = self.refine(
                    [dark, *results], bright, refine_steps, adam, prompt_batch_size,
                    callbacks=[step_counter(say, doing, refine_steps)],
                )  # fmt: skip
        return fit

    def fit_prompts(
        self, dark: Float[Tensor, "V N E"], bright: Float[Tensor, "V M E"], steps: int,
        optimizer: torch.optim.Optimizer, batch_size: int = 16, *, callbacks: Sequence[Any] = (),
    ) -> FitResult:  # fmt: skip
        """Learn the pair by cross-entropy, on batches of half backlit and half well-lit pictures.

        Args:
            dark, bright: embeddings of V views of either kind.
            steps: of `optimizer`, which has the pair's parameters.
            batch_size: embeddings a step.
            callbacks: of `binderclip.fit.fit`.
        """
        half = max(batch_size // 2, 1)
        answers = torch.tensor([0] * half + [1] * half, device=dark.device)  # row 0 of the pair is well lit
        draws = _Tuples([bright], dark, half, self.seed)

        def step(rows: Int[Tensor, "3 b"]) -> Tensor:
            return F.cross_entropy(self.guidance.logits(draws(rows).flatten(0, 1)), answers)

        return self._learned(step, draws, steps, optimizer, callbacks)

    def refine(
        self, falling: list[Float[Tensor, "V N E"]], bright: Float[Tensor, "V M E"], steps: int,
        optimizer: torch.optim.Optimizer, batch_size: int = 16, rank: PromptRank | None = None, *,
        callbacks: Sequence[Any] = (),
    ) -> FitResult:  # fmt: skip
        """Learn to put pictures in order; those of a tuple are seen through one view.

        Args:
            falling: embeddings of the inputs and of results, oldest first.
            bright: of well-lit pictures, drawn at random beside them.
            steps, optimizer, batch_size, callbacks: as in `fit_prompts`.
            rank: default `PromptRank()`.

        Returns:
            With the metric `ordered`.
        """
        loss = PromptRank() if rank is None else rank
        draws = _Tuples(falling, bright, batch_size, self.seed + 1)

        def step(rows: Int[Tensor, "3 b"]) -> tuple[Tensor, dict[str, Tensor]]:
            output = loss(self.guidance.backlit(draws(rows)))  # (R, b)
            return RANK_WEIGHT * output.total, output.metrics

        return self._learned(step, draws, steps, optimizer, callbacks)

    def _learned(
        self, step: Any, draws: Any, steps: int, optimizer: torch.optim.Optimizer, callbacks: Sequence[Any]
    ) -> FitResult:
        lowest = LowestLoss(self.guidance)

        def watched(rows: Tensor) -> Any:
            outcome = step(rows)
            lowest.see(outcome[0] if isinstance(outcome, tuple) else outcome)
            return outcome

        with frozen(self.model):
            result = fit(watched, self.guidance, draws, steps=steps, optimizer=optimizer, schedule="constant",
                         callbacks=[lowest, *callbacks])  # fmt: skip
        lowest.restore()
        return result

    @torch.no_grad()
    def views(self, images: Float[Tensor, "N 3 s s"], matrices: Float[Tensor, "V 2 3"]) -> Float[Tensor, "V N E"]:
        """Embeddings of every picture through every view.

        Args:
            images: in [0, 1].
            matrices: of `view_matrices`.
        """
        device = self.model.device
        return torch.stack(
            [
                torch.cat([self.embed(mirrored_view(part.to(device), matrix)) for part in images.split(64)])
                for matrix in matrices
            ]
        )


class _Tuples:
    """Endless draws of (view, picture, other picture), and the embeddings that they name."""

    def __init__(self, rows: list[Tensor], others: Tensor, batch: int, seed: int) -> None:
        self.rows, self.others, self.batch = torch.stack(rows), others, batch  # (R, V, N, E), (V, M, E)
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Any:
        sizes = (self.rows.shape[1], self.rows.shape[2], self.others.shape[1])
        while True:
            yield torch.stack([torch.randint(size, (self.batch,), generator=self.generator) for size in sizes])

    def __call__(self, drawn: Int[Tensor, "3 b"]) -> Float[Tensor, "R b E"]:
        """Of every set, and of the others last."""
        view, row, other = drawn.to(self.others.device)
        return torch.cat([self.rows[:, view, row], self.others[None, view, other]])
