"""Super-resolution against discriminators of CLIP features (SFD), and the discriminators as a quality score."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.fit import FitResult, fit
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.layers.freezing import frozen
from binderclip.quality.enhance.discriminators import (
    FeatureDiscriminator,
    PromptPairDiscriminator,
    real_fake_loss,
)
from binderclip.quality.enhance.middle_maps import MiddleMaps
from binderclip.quality.enhance.rrdb import RRDBNet
from binderclip.quality.rows import ShuffledRows
from binderclip.quality.score.prompt_quality import loaded
from binderclip.settings import check_choice

BETAS = (0.9, 0.99)


class SFD:
    """Train a network that enlarges pictures against discriminators that see CLIP's features instead of pixels.

        generator: pixel * |S - H|_1 + perceptual * sum_l |phi_l(S) - phi_l(H)|_1 + feature * L_feat + text * L_text
        L_feat = mean_l BCE(D_l(phi_l(S)), 1),  L_text = -log P_real(v(S))

    A step of the generator follows one of both discriminators, which see the same pictures without gradients.

    Args:
        generator: the network, such as `RRDBNet`; changed in place.
        model: a name that `load` takes, or a model; never changed. The paper's is CLIP's RN50.
        levels: of `MiddleMaps`.
        hidden: of `FeatureDiscriminator`.
        n_ctx: of `PromptPairDiscriminator`.
        pixel, perceptual, feature, text: weights of the terms. The defaults are those of ESRGAN (arXiv 1809.00219), as
            the paper's own are not public; its perceptual features are VGG-19's, here they are the model's middle maps.
        seed: of discriminators and batches.
        device: for a model that is loaded by name.

    Attributes:
        maps: the model's `MiddleMaps`. discriminator, prompts: what `SFDIQA` uses afterwards.

    Paper: Exploring Semantic Feature Discrimination for Perceptual Image Super-Resolution and Opinion-Unaware
    No-Reference Image Quality Assessment (arXiv 2503.19295).
    """

    def __init__(
        self,
        generator: RRDBNet,
        model: str | ImageTextModel = "small",
        *,
        levels: tuple[int, ...] = (1, 2, 3),
        hidden: int = 256,
        n_ctx: int = 16,
        pixel: float = 1e-2,
        perceptual: float = 1.0,
        feature: float = 5e-3,
        text: float = 5e-3,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        refuse_bare_module(model, "SFD")
        self.generator, self.model, self.seed = generator, loaded(model, device), seed
        self.maps = MiddleMaps(self.model, levels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminator = FeatureDiscriminator(self.maps.channels, hidden=hidden).to(self.model.device)
        self.prompts = PromptPairDiscriminator(self.model, n_ctx=n_ctx, seed=seed)
        self.pixel, self.perceptual, self.feature, self.text = pixel, perceptual, feature, text

    def fit_pixels(
        self, low: Float[Tensor, "N 3 h w"], high: Float[Tensor, "N 3 H W"], *, steps: int, lr: float = 2e-4,
        batch_size: int = 16, **options: Any,
    ) -> FitResult:  # fmt: skip
        """Train the generator by the absolute error of pixels alone: where the adversarial training starts from.

        Args:
            low, high: pictures in [0, 1], and the same `generator.scale` times as large.
            steps, lr, batch_size, options: of `binderclip.fit.fit`, by Adam.

        Raises:
            UsageError: sizes that do not fit.
        """
        batches = self._batches(low, high, batch_size)
        return fit(
            lambda rows: F.l1_loss(self.generator(low[rows]), high[rows]), self.generator, batches, steps=steps, lr=lr,
            optimizer={"name": "adam", "betas": BETAS}, **options,
        )  # fmt: skip

    def fit(
        self, low: Float[Tensor, "N 3 h w"], high: Float[Tensor, "N 3 H W"], *, steps: int, lr: float = 1e-4,
        judge_lr: float | None = None, batch_size: int = 16, schedule: str = "constant", **options: Any,
    ) -> FitResult:  # fmt: skip
        """Train generator and discriminators in turn.

        Args:
            low, high: as in `fit_pixels`; the sides of `high` are multiples of the model's patch.
            steps: of each; the paper's 400,000.
            lr: of the generator, by Adam with betas (0.9, 0.99).
            judge_lr: of both discriminators, by the same; default `lr`.
            batch_size: crops a step.
            schedule, options: of `binderclip.fit.fit`, for the generator.

        Returns:
            Of the generator, with the metrics `discriminator` and `prompts`, their losses of real and fake together.

        Raises:
            UsageError: sizes that do not fit.
        """
        batches = self._batches(low, high, batch_size)
        judges = [*self.discriminator.parameters(), *self.prompts.parameters()]
        optimizer = torch.optim.Adam(judges, lr=lr if judge_lr is None else judge_lr, betas=BETAS)

        def step(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            real, made = high[rows], self.generator(low[rows])
            with torch.no_grad():
                seen = self.maps(real)
            fake = self.maps(made)
            by_places = real_fake_loss(self.discriminator(seen.maps), real=True)
            by_places = by_places + real_fake_loss(self.discriminator([x.detach() for x in fake.maps]), real=False)
            by_words = self.prompts.loss(seen.embedding, real=True)
            by_words = by_words + self.prompts.loss(fake.embedding.detach(), real=False)
            optimizer.zero_grad(set_to_none=True)
            (by_places + by_words).backward()
            optimizer.step()
            with frozen(self.discriminator, self.prompts):  # the judges judge, what they learn is theirs
                terms = [
                    self.pixel * F.l1_loss(made, real),
                    self.perceptual
                    * torch.stack([F.l1_loss(a, b) for a, b in zip(fake.maps, seen.maps, strict=True)]).sum(),
                    self.feature * real_fake_loss(self.discriminator(fake.maps), real=True),
                    self.text * self.prompts.loss(fake.embedding, real=True),
                ]
            return torch.stack(terms).sum(), {"discriminator": by_places.detach(), "prompts": by_words.detach()}

        with frozen(self.model):
            return fit(
                step, self.generator, batches, steps=steps, lr=lr, schedule=schedule,
                optimizer={"name": "adam", "betas": BETAS}, **options,
            )  # fmt: skip

    def _batches(self, low: Tensor, high: Tensor, batch_size: int) -> ShuffledRows:
        scale = self.generator.scale
        if len(low) != len(high) or not len(low) or high.shape[2:] != (scale * low.shape[2], scale * low.shape[3]):
            raise UsageError(f"high {tuple(high.shape)} must be low {tuple(low.shape)} enlarged {scale} times")
        return ShuffledRows(len(low), batch_size, self.seed)


class SFDIQA(nn.Module):
    """Score quality by the discriminators of a finished `SFD`, without further training and without opinions.

        q = (q_F + q_T) / 2, q_F = mean over levels and places of sigmoid(D_l(phi_l(x))), q_T = P_real(v(x))

    Args:
        sfd: trained.
        use: `both`, or `feature` or `text` for one of the two.

    Attributes:
        lower_better: False.

    Raises:
        UsageError: an unknown `use`.

    Paper: as `SFD`; how the two are put together is not said there.
    """

    lower_better = False

    def __init__(self, sfd: SFD, *, use: str = "both") -> None:
        super().__init__()
        check_choice("use", use, ("both", "feature", "text"))
        self.maps, self.discriminator, self.prompts, self.use = sfd.maps, sfd.discriminator, sfd.prompts, use

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
        """Scores in [0, 1] of pictures at their own size, cut in the middle to multiples of the model's patch.

        Raises:
            UsageError: a picture smaller than a patch.
        """
        patch = self.maps.tower.patch
        height, width = (side // patch * patch for side in images.shape[-2:])
        if not height or not width:
            size = f"{images.shape[-2]} x {images.shape[-1]}"
            raise UsageError(f"pictures of {size} pixels are too small: {patch} on either side at least")
        top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
        seen = self.maps(images[..., top : top + height, left : left + width])
        with frozen(self.discriminator, self.prompts):
            scores = []
            if self.use != "text":
                scores.append(self.discriminator.score(seen.maps))
            if self.use != "feature":
                scores.append(self.prompts.score(seen.embedding))
        return torch.stack(scores).mean(0)
