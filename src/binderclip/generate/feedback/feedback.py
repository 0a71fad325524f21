"""The loss of a generator that is told of a picture by an image tower, as a loss of the tower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.feedback.condition import ConditionTap, ImageCondition
from binderclip.generate.feedback.corruption import Corrupted, Corruption
from binderclip.generate.feedback.generators import ImageConditionedGenerator
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models.towers import Tower

__all__ = ["GenerativeFeedback"]


class GenerativeFeedback(nn.Module):
    """Loss of an image tower: how badly a generator restores pictures that the tower tells it of.

    The gradient goes through the generator, and the bridge of the tap, into the tower, whose embedding so takes up what
    the generator needs to know. What learns is what asks for gradients: `learn_generator` for the first stage, in which
    the tower rests, and `learn_tower` for the second. The text tower takes no part, so the embedding stays with it.

    Args:
        generator: predicts what the corruption asks for.
        corruption: of the targets.
        tap: makes conditions of the tower's features.
        target: makes targets of pictures in [0, 1]; without gradients.
        draws: times and noises a call, each with patches of its own, on one forward of the tower; their losses are
            added, as gradients of that many passes are.
        told_by: what the generator is told in the first stage: "features" of the tower, or "captions" (`prompted`),
            after which the bridge is still to be learned.

    Raises:
        UsageError: a number of draws below 1, or no such teller.

    Paper: Diffusion Feedback Helps CLIP See Better (arXiv 2407.20171); GenHancer (arXiv 2503.19480); un2CLIP (arXiv
    2505.24517).

    Examples:
        >>> import binderclip
        >>> from binderclip.generate import un2clip
        >>> model = binderclip.load("small")
        >>> feedback = un2clip(model, side=16, width=32, depth=1)
        >>> images = torch.rand(2, 3, 128, 128)
        >>> loss = feedback(model.image_tower, images, images)
        >>> loss.shape
        torch.Size([])
    """

    def __init__(
        self,
        generator: ImageConditionedGenerator,
        corruption: Corruption,
        tap: ConditionTap,
        target: nn.Module,
        *,
        draws: int = 1,
        told_by: Literal["features", "captions"] = "features",
    ) -> None:
        super().__init__()
        check_whole("draws", draws, least=1)
        check_choice("told_by", told_by, ("features", "captions"))
        self.generator, self.corruption, self.tap, self.target = generator, corruption, tap, target
        self.draws, self.told_by = draws, told_by

    def learn_generator(self) -> GenerativeFeedback:
        """Let generator and bridge learn, as in a first stage; told by captions, the generator alone.

        Freeze the tower beside (`models.layers.freezing.frozen`).
        """
        self.generator.requires_grad_(True)
        self.tap.requires_grad_(self.told_by == "features")
        return self

    def learn_tower(self, *, bridge: bool | None = None, generator: bool = False) -> GenerativeFeedback:
        """Let nothing learn here but what is asked for, as in a second stage; gradients still pass to the tower.

        Args:
            bridge: whether the tap's layers learn; default where the first stage was told captions and left them out.
            generator: whether the generator learns.
        """
        self.generator.requires_grad_(generator)
        self.tap.requires_grad_(self.told_by == "captions" if bridge is None else bridge)
        return self

    def forward(
        self,
        tower: Tower,
        pixels: Float[Tensor, "B 3 h w"],
        images: Float[Tensor, "B C H W"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """The sum over draws of the mean loss of the pictures.

        Args:
            tower: that is told from.
            pixels: normalised as the tower takes them.
            images: the same crops in [0, 1], to be restored.
            generator: of all random numbers, on the CPU or the pictures' device; default torch's.
        """
        clean = self._targets(images)
        features = self.tap.features(tower, pixels)
        losses = [
            self.losses(self.corruption.sample(clean, generator), self.tap(features, generator)).mean()
            for _ in range(self.draws)
        ]
        return torch.stack(losses).sum()

    def losses(self, corrupted: Corrupted, condition: ImageCondition) -> Float[Tensor, " B"]:
        """The loss of each corrupted picture under a condition, which may come from anywhere (a caption, ...)."""
        return self.corruption.losses(self.generator(corrupted.x, corrupted.t, condition), corrupted)

    def prompted(
        self,
        images: Float[Tensor, "B C H W"],
        condition: ImageCondition,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """The mean loss of pictures under given conditions: what trains a generator of captions.

        Args:
            images: in [0, 1].
            condition: one for each.
            generator: of time and noise.
        """
        return self.losses(self.corruption.sample(self._targets(images), generator), condition).mean()

    @torch.no_grad()
    def held_out(
        self,
        images: Float[Tensor, "B C H W"],
        condition: ImageCondition,
        *,
        times: int = 8,
        noises: int = 4,
        seed: int = 0,
    ) -> Float[Tensor, " B"]:
        """The loss of each picture on a fixed table of times and noises, which two towers can be compared on.

        Args:
            images: in [0, 1].
            condition: one for each, such as `tap(tap.features(tower, pixels))`; `rolled` gives another picture's.
            times: how many, at the middle of as many equal parts of their distribution.
            noises: for each time.
            seed: of the noises.
        """
        check_whole("times", times, least=1)
        check_whole("noises", noises, least=1)
        generator, clean = torch.Generator().manual_seed(seed), self._targets(images)
        total = torch.zeros(len(clean), device=clean.device)
        for number in range(times):
            quantile = torch.full((len(clean),), (number + 0.5) / times, device=clean.device)
            for _ in range(noises):
                noise = self.corruption.draw_noise(clean, generator)
                total += self.losses(
                    self.corruption.corrupt(clean, self.corruption.time_at(quantile), noise), condition
                )
        return total / (times * noises)

    @torch.no_grad()
    def _targets(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or not len(images):
            raise UsageError(f"images must be a batch of at least one, (B, C, H, W), got {tuple(images.shape)}")
        return self.target(images)
