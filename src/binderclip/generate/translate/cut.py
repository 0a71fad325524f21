"""Unpaired translation with one generator, whose own encoder keeps the content: CUT, FastCUT and SinCUT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.translate.gan_loss import GANLoss, GANMode
from binderclip.generate.translate.networks import ResnetTranslator, xavier_start
from binderclip.generate.translate.terms import DiscriminatorTerm, LossTerm, Outputs, R1Penalty
from binderclip.generate.translate.trainer import AdversarialTrainer
from binderclip.losses.dense.patch_nce import PatchNCELoss
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["CUT", "CUT_MODES", "CUTSettings", "PatchProjection"]


@dataclass(frozen=True)
class CUTSettings:
    """What the modes of `CUT` differ in, by the released code's names.

    Args:
        gan_mode: adversarial loss.
        lambda_GAN: its weight, in [0, 1e6].
        lambda_NCE: weight of PatchNCE, in [0, 1e6].
        nce_idt: mean of the PatchNCE of translated A and of B through the generator, instead of the first alone.
        nce_layers: taps of the encoder.
        nce_T: temperature, in [1e-4, 1e4].
        num_patches: places drawn of each tap, in [1, 1e6]; a smaller tap gives all of its.
        batch_negatives: negatives from all images of the batch.
        flip_equivariance: every second batch goes in mirrored and its features are mirrored back.
        lambda_identity: weight of |G(b) - b|, in [0, 1e6].
        lambda_R1: gamma of R1 at real pictures, in [0, 1e6].
        lr, betas: of the Adams.

    Raises:
        UsageError: a number out of range.
    """

    gan_mode: GANMode = "lsgan"
    lambda_GAN: float = 1.0
    lambda_NCE: float = 1.0
    nce_idt: bool = True
    nce_layers: tuple[int, ...] = (0, 4, 8, 12, 16)
    nce_T: float = 0.07
    num_patches: int = 256
    batch_negatives: bool = False
    flip_equivariance: bool = False
    lambda_identity: float = 0.0
    lambda_R1: float = 0.0
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)

    def __post_init__(self) -> None:
        for name in ("lambda_GAN", "lambda_NCE", "lambda_identity", "lambda_R1"):
            check_number(name, getattr(self, name), least=0, most=1e6)
        check_whole("num_patches", self.num_patches, least=1)
        check_number("num_patches", self.num_patches, most=1e6)
        check_number("lr", self.lr, least=0, most=1e3)
        for beta in self.betas:
            check_number("betas", beta, least=0, below=1)


CUT_MODES = {
    "cut": CUTSettings(),
    "fastcut": CUTSettings(lambda_NCE=10.0, nce_idt=False, flip_equivariance=True),
    "sincut": CUTSettings(
        gan_mode="nonsaturating", lambda_NCE=4.0, num_patches=1, batch_negatives=True, lambda_identity=1.0,
        lambda_R1=1.0, lr=2e-3, betas=(0.0, 0.99), nce_layers=(0, 4, 8),
    ),
}  # fmt: skip
"""The paper's modes; SinCUT is for crops of one picture of each domain."""


class PatchProjection(nn.Module):
    """Unit vectors of places of feature maps, by a two-layer perceptron for each map.

    State dicts have the keys of the released code's `*_net_F.pth`. All perceptrons exist from the start.

    Args:
        channels: of each feature map.
        width: of the vectors, in [1, 65536].

    Raises:
        UsageError: no map, or a number out of range.
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        check_whole("width", width, least=1)
        check_number("width", width, most=65536)
        if not channels:
            raise UsageError("a projection needs a feature map at least")
        self.count = len(channels)
        for number, inner in enumerate(channels):
            self.add_module(f"mlp_{number}", nn.Sequential(nn.Linear(inner, width), nn.ReLU(), nn.Linear(width, width)))
        xavier_start(self)

    def forward(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], places: Sequence[Int[Tensor, " _"]]
    ) -> list[Float[Tensor, "B _ D"]]:
        """Project chosen places.

        Args:
            features: a map of each tap.
            places: of each map, row by row.
        """
        result = []
        for number, (feature, chosen) in enumerate(zip(features, places, strict=True)):
            vectors = self.get_submodule(f"mlp_{number}")(feature.flatten(2)[..., chosen].mT)  # (B, S, D)
            result.append(vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-7))
        return result


class CUT(AdversarialTrainer):
    """Learn to translate pictures of domain A into domain B from unpaired sets.

    An adversarial loss makes the output look like B. PatchNCE keeps the content: in the generator's own encoder a patch
    of the output has to be told from other patches of the image by the input's patch at its place. `fit` takes batches
    `(a, b)` of pictures in [-1, 1]; `translator` translates. CUT and FastCUT have batches of 1 in the paper.

    Args:
        translator: the generator.
        discriminator: of pictures of B, such as `PatchDiscriminator`.
        mode: "cut", "fastcut" or "sincut" (`CUT_MODES`).
        projection: of patches; default a new `PatchProjection` of 256.
        changes: settings that differ from the mode's (`CUTSettings`).

    Raises:
        UsageError: an unknown mode or setting, a number out of range, or taps that the encoder does not have.

    Paper: Contrastive Learning for Unpaired Image-to-Image Translation (arXiv 2007.15651).

    Examples:
        >>> from binderclip.generate import PatchDiscriminator
        >>> translator = ResnetTranslator(ngf=4, n_blocks=1)
        >>> cut = CUT(translator, PatchDiscriminator(ndf=4, n_layers=2), nce_layers=(0, 4, 8, 12))
        >>> result = cut.fit([(torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16))], steps=1)
        >>> sorted(name for name in result.history if name.startswith("loss/"))
        ['loss/NCE', 'loss/NCE_Y']
    """

    def __init__(
        self,
        translator: ResnetTranslator,
        discriminator: nn.Module,
        *,
        mode: Literal["cut", "fastcut", "sincut"] = "cut",
        projection: PatchProjection | None = None,
        **changes: Any,
    ) -> None:
        check_choice("mode", mode, CUT_MODES)
        for name in changes:
            check_choice("setting", name, CUTSettings.__dataclass_fields__)
        self.settings = settings = replace(CUT_MODES[mode], **changes)
        channels = translator.tap_channels(settings.nce_layers)
        self.translator = translator
        self.translation = _Translation(translator, projection or PatchProjection(channels), settings)
        term = DiscriminatorTerm(
            module=discriminator,
            loss=GANLoss(settings.gan_mode),
            real=lambda batch, outputs: batch[1],
            weight=settings.lambda_GAN,
            scale=0.5,
            penalties={"R1": R1Penalty(settings.lambda_R1)} if settings.lambda_R1 else {},
        )
        super().__init__(
            self.translation, {"D": term}, self._losses(),
            optimizer={"name": "adam", "betas": settings.betas}, lr=settings.lr,
        )  # fmt: skip

    def _losses(self) -> list[LossTerm]:
        settings, nce = self.settings, self.translation.nce
        half = settings.lambda_NCE * (0.5 if settings.nce_idt else 1.0)
        losses = []
        if settings.lambda_NCE:
            losses.append(LossTerm("NCE", half, lambda batch, out: nce(batch[0], out["fake"], out["flipped"])))
        if settings.lambda_NCE and settings.nce_idt:
            losses.append(LossTerm("NCE_Y", half, lambda batch, out: nce(batch[1], out["identity"], out["flipped"])))
        if settings.lambda_identity:
            losses.append(LossTerm("identity", settings.lambda_identity, _identity_l1))
        return losses


def _identity_l1(batch: Any, outputs: Outputs) -> Tensor:
    """How far B is moved by the translation to B, mean over pixels."""
    real = batch[1].flip(3) if outputs["flipped"] else batch[1]
    return (outputs["identity"] - real).abs().mean()


class _Translation(nn.Module):
    """The translator with what its training needs beside it."""

    def __init__(self, translator: ResnetTranslator, projection: PatchProjection, settings: CUTSettings) -> None:
        super().__init__()
        self.translator, self.projection, self.settings = translator, projection, settings
        self.loss = PatchNCELoss(settings.nce_T, settings.batch_negatives)
        self.identity = settings.nce_idt or settings.lambda_identity > 0

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        a, b = batch
        x = torch.cat([a, b]) if self.identity else a
        flipped = self.settings.flip_equivariance and float(torch.rand(())) < 0.5
        made = self.translator(x.flip(3) if flipped else x)
        return {"fake": made[: len(a)], "identity": made[len(a) :], "flipped": flipped}

    def nce(self, source: Tensor, target: Tensor, flipped: bool) -> Tensor:
        """PatchNCE between a picture and its translation, mean over patches and taps."""
        taps = self.settings.nce_layers
        queries = self.translator.features(target, taps)
        if flipped:
            queries = [one.flip(3) for one in queries]
        with torch.no_grad():  # the loss holds the keys fixed: no graph is needed
            keys = self.translator.features(source, taps)
            places = [
                torch.randperm(one[0, 0].numel(), device=one.device)[: self.settings.num_patches] for one in keys
            ]  # the same of every image, and of query and key
            keys = self.projection(keys, places)
        losses = [self.loss(q, k).mean() for q, k in zip(self.projection(queries, places), keys, strict=True)]
        return torch.stack(losses).mean()
