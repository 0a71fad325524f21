"""Pictures from sentences in one step, by a generator and a discriminator that both use a frozen CLIP tower."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.translate.clip_features import CLIPMapper, CLIPPatchFeatures
from binderclip.generate.translate.gan_loss import GANLoss
from binderclip.generate.translate.terms import DiscriminatorTerm, LossTerm, MatchingAwarePenalty
from binderclip.generate.translate.trainer import AdversarialTrainer
from binderclip.numeric import check_number, check_whole

__all__ = ["GALIP", "CLIPDiscriminator", "GALIPGenerator"]

CODE, MIDDLE = 64, 32
"""Channels of the bridge, between and inside its blocks."""


class GALIPGenerator(nn.Module):
    """A picture from noise and a sentence's embedding, through the blocks of a frozen CLIP tower.

    A bridge makes a map of patch features from the noise; the tower maps it, with prompts made of noise and sentence;
    blocks modulated by both grow the picture, which has no tanh at its end. Parameters have the released code's names.

    Args:
        visual: open_clip's vision transformer, which is frozen.
        sentence: numbers of a sentence's embedding.
        latent: numbers of noise.
        ngf: channels of the last block; the first has eight times as many.

    Raises:
        UsageError: a number that is not whole or outside [1, 65536].
        NotSupported: another kind of tower.

    Paper: GALIP: Generative Adversarial CLIPs for Text-to-Image Synthesis (arXiv 2301.12959).
    """

    def __init__(self, visual: nn.Module, sentence: int = 512, latent: int = 100, ngf: int = 64) -> None:
        super().__init__()
        for name, value in (("sentence", sentence), ("latent", latent), ("ngf", ngf)):
            check_whole(name, value, least=1)
            check_number(name, value, most=65536)
        self.latent, self.sentence, condition = latent, sentence, latent + sentence
        mapper = CLIPMapper(visual)
        self.grid, self.size = mapper.grid, mapper.size
        self.fc_code = nn.Linear(latent, self.grid**2 * CODE)
        doublings = max(math.ceil(math.log2(self.size)) - 1, 3)
        widths = [ngf * min(2**number, 8) for number in range(doublings)][::-1]
        self.mapping = _CLIPAdapter(mapper, condition, widths[0])
        sizes = [8 * 2**number for number in range(doublings - 2)] + [self.size]
        self.GBlocks = nn.ModuleList(
            _GrowingBlock(condition, *pair, size) for pair, size in zip(pairwise(widths), sizes, strict=True)
        )
        self.to_rgb = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(ngf, 3, 3, 1, 1))

    def forward(self, noise: Float[Tensor, "B Z"], sentences: Float[Tensor, "B S"]) -> Float[Tensor, "B 3 H W"]:
        """Pictures, about in [-1, 1], of the tower's input size."""
        condition = torch.cat([noise, sentences], 1)
        h = self.mapping(self.fc_code(noise).unflatten(1, (CODE, self.grid, self.grid)), condition)
        for block in self.GBlocks:
            h = block(h, condition)
        return self.to_rgb(h)

    @torch.no_grad()
    def sample(
        self, sentences: Float[Tensor, "B S"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B 3 H W"]:
        """Pictures in [-1, 1] of sentences.

        Args:
            sentences: embeddings, not normalised.
            generator: of the noise; default torch's.
        """
        noise = torch.randn(
            len(sentences), self.latent, generator=generator, device=sentences.device, dtype=sentences.dtype
        )
        return self(noise, sentences).clamp(-1, 1)


class CLIPDiscriminator(nn.Module):
    """A logit map of CLIP patch features beside a sentence.

    The first tap goes through two residual blocks that take in the others, with scales that start at 0, and one that
    narrows it to 512 channels; two convolutions see it with the sentence at every place.

    Args:
        width: channels D of the features.
        grid: their side g, at least 3; the convolutions' kernel is (g + 1) // 2, which leaves 1 x 1 of 7 x 7.
        sentence: numbers of a sentence's embedding.
        taps: how many maps.
        hidden: channels of the narrowed map.

    Raises:
        UsageError: a number that is not whole, or outside [1, 65536].
    """

    def __init__(self, width: int = 768, grid: int = 7, sentence: int = 512, taps: int = 3, hidden: int = 512) -> None:
        super().__init__()
        sizes = {"width": (width, 1), "grid": (grid, 3), "sentence": (sentence, 1), "taps": (taps, 1)}
        for name, (value, least) in (sizes | {"hidden": (hidden, 1)}).items():
            check_whole(name, value, least=least)
            check_number(name, value, most=65536)
        self.DBlocks = nn.ModuleList(_FeatureBlock(width, width, tapped=True) for _ in range(taps - 1))
        self.main = _FeatureBlock(width, hidden, tapped=False)
        kernel = (grid + 1) // 2
        self.joint_conv = nn.Sequential(
            nn.Conv2d(hidden + sentence, 128, kernel, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, 1, kernel, bias=False),
        )

    def forward(
        self, features: Float[Tensor, "B T D g g"], sentences: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Logits of pictures' features with sentences, not normalised."""
        x = features[:, 0]
        for number, block in enumerate(self.DBlocks, start=1):
            x = block(x, features[:, number])
        x = self.main(x)
        everywhere = sentences[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.joint_conv(torch.cat([x, everywhere], 1))


class GALIP(AdversarialTrainer):
    """Train a text-to-image generator against a discriminator on a frozen CLIP tower's features.

    Hinge losses with matching, generated and mismatched pairs (sentences of the next picture), the matching-aware
    gradient penalty on features and sentence, and CLIP's cosine between picture and sentence. `fit` takes batches
    `(images, sentences)`: pictures in [-1, 1], and embeddings of the tower's own text tower, not normalised.

    Args:
        generator: makes the pictures.
        features: of pictures, for discriminator and cosine.
        discriminator: on these features; default a new one of their size.
        similarity: weight of the cosine, in [0, 1e6].
        penalty: of matching pairs; default k = 2, p = 6.
        lr: of the generator; the discriminator's is four times as large.

    Raises:
        UsageError: a number out of range, or, at the first step, a batch of one, which has no mismatched sentence.

    Paper: GALIP: Generative Adversarial CLIPs for Text-to-Image Synthesis (arXiv 2301.12959).
    """

    def __init__(
        self,
        generator: GALIPGenerator,
        features: CLIPPatchFeatures,
        discriminator: nn.Module | None = None,
        *,
        similarity: float = 4.0,
        penalty: MatchingAwarePenalty | None = None,
        lr: float = 1e-4,
    ) -> None:
        check_number("similarity", similarity, least=0, most=1e6)
        check_number("lr", lr, least=0, most=1e3)
        if discriminator is None:
            discriminator = CLIPDiscriminator(features.width, features.grid, generator.sentence, len(features.taps))
        self.features = features
        term = DiscriminatorTerm(
            module=discriminator,
            loss=GANLoss("hinge"),
            real=self._real,
            fake=lambda batch, outputs: (outputs["features"], batch[1]),
            mismatched=lambda real: (real[0], real[1].roll(-1, 0)),
            penalties={"MAGP": penalty or MatchingAwarePenalty()},
        )
        losses = [LossTerm("similarity", similarity, _cosine)] if similarity else []
        super().__init__(
            _FromSentences(generator, features), {"D": term}, losses,
            optimizer={"name": "adam", "betas": (0.0, 0.9)}, lr=lr, discriminator_lr=4 * lr,
        )  # fmt: skip

    @torch.no_grad()
    def _real(self, batch: Any, outputs: Any) -> tuple[Tensor, Tensor]:
        return self.features(batch[0])[0], batch[1]


def _cosine(batch: Any, outputs: Any) -> Tensor:
    """What the generator pays for pictures that CLIP finds unlike their sentences."""
    return -F.cosine_similarity(outputs["embedding"], batch[1]).mean()


class _FromSentences(nn.Module):
    """Pictures of a batch's sentences, with what CLIP sees in them, once for all losses."""

    def __init__(self, generator: GALIPGenerator, features: CLIPPatchFeatures) -> None:
        super().__init__()
        self.generator, self.features = generator, features

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, sentences = batch
        if len(images) < 2:
            raise UsageError("a batch of one has no mismatched sentence: give at least 2 pictures")
        noise = torch.randn(len(images), self.generator.latent, device=sentences.device, dtype=sentences.dtype)
        fake = self.generator(noise, sentences)
        maps, embedding = self.features(fake)
        return {"fake": fake, "features": maps, "embedding": embedding}


class _CLIPAdapter(nn.Module):
    """The bridge to a tower's patch features, the tower, and the way back."""

    def __init__(self, mapper: CLIPMapper, condition: int, out_channels: int) -> None:
        super().__init__()
        self.CLIP_ViT = mapper
        self.FBlocks = nn.ModuleList(_BridgeBlock(condition) for _ in range(4))
        self.conv_fuse = nn.Conv2d(CODE, mapper.width, 5, 1, 2)
        self.conv = nn.Conv2d(mapper.width, out_channels, 5, 1, 2)
        self.fc_prompt = nn.Linear(condition, mapper.width * mapper.prompts)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        prompts = self.fc_prompt(condition).unflatten(1, (self.CLIP_ViT.prompts, self.CLIP_ViT.width))
        for block in self.FBlocks:
            h = block(h, condition)
        fused = self.conv_fuse(h)
        return self.conv(fused + 0.1 * self.CLIP_ViT(fused, prompts))


class _Affine(nn.Module):
    """gamma(y) h + beta(y), at first the identity."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.fc_gamma, self.fc_beta = (
            nn.Sequential(
                OrderedDict(
                    linear1=nn.Linear(condition, channels), relu1=nn.ReLU(), linear2=nn.Linear(channels, channels)
                )
            )
            for _ in range(2)
        )
        for layers, start in ((self.fc_gamma, 1.0), (self.fc_beta, 0.0)):
            nn.init.zeros_(layers.linear2.weight)  # type: ignore[arg-type,union-attr]
            nn.init.constant_(layers.linear2.bias, start)  # type: ignore[arg-type,union-attr]

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        return self.fc_gamma(y)[:, :, None, None] * h + self.fc_beta(y)[:, :, None, None]


class _Modulated(nn.Module):
    """Twice an affine map by the condition and a leaky rectifier."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.affine0, self.affine1 = _Affine(condition, channels), _Affine(condition, channels)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        return F.leaky_relu(self.affine1(F.leaky_relu(self.affine0(h, y), 0.2), y), 0.2)


class _BridgeBlock(nn.Module):
    def __init__(self, condition: int) -> None:
        super().__init__()
        self.conv1, self.fuse1 = nn.Conv2d(CODE, MIDDLE, 3, 1, 1), _Modulated(condition, MIDDLE)
        self.conv2, self.fuse2 = nn.Conv2d(MIDDLE, CODE, 3, 1, 1), _Modulated(condition, CODE)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        return h + self.fuse2(self.conv2(self.fuse1(self.conv1(h), y)), y)


class _GrowingBlock(nn.Module):
    """A map at its size, plus two modulated convolutions."""

    def __init__(self, condition: int, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.c1, self.c2 = nn.Conv2d(in_channels, out_channels, 3, 1, 1), nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.fuse1, self.fuse2 = _Modulated(condition, in_channels), _Modulated(condition, out_channels)
        if in_channels != out_channels:
            self.c_sc = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        h = F.interpolate(h, size=(self.size, self.size))
        shortcut = self.c_sc(h) if hasattr(self, "c_sc") else h
        return shortcut + self.c2(self.fuse2(self.c1(self.fuse1(h, y)), y))


class _FeatureBlock(nn.Module):
    """A map plus scaled convolutions of it, and where it is tapped plus a scaled other map; the scales start at 0."""

    def __init__(self, in_channels: int, out_channels: int, *, tapped: bool) -> None:
        super().__init__()
        self.conv_r = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False), nn.LeakyReLU(0.2),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.conv_s = nn.Conv2d(in_channels, out_channels, 1)  # the released code has it also where it is not used
        self.gamma = nn.Parameter(torch.zeros(1))
        if tapped:
            self.beta = nn.Parameter(torch.zeros(1))
        self.narrows = in_channels != out_channels

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        mixed = (self.conv_s(x) if self.narrows else x) + self.gamma * self.conv_r(x)
        return mixed if other is None else mixed + self.beta * other
