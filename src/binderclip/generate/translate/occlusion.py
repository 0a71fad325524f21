"""Fences and other thin occluders taken out of a picture: one network finds them, another paints what they hid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.augment.fill import gaussian_blur
from binderclip.errors import UsageError
from binderclip.generate.translate.gan_loss import GANLoss
from binderclip.generate.translate.gated_completion import CompletionNet
from binderclip.generate.translate.terms import DiscriminatorTerm, LossTerm, Outputs
from binderclip.numeric import check_number, check_whole
from binderclip.vision import dilate, sobel

__all__ = [
    "CompletionGenerator",
    "OccNet",
    "OcclusionRemover",
    "Unoccluded",
    "completion_losses",
    "structure_discriminator",
    "structure_map",
    "texture_discriminator",
]


class OccNet(nn.Module):
    """Logits of where a picture is occluded: a U-Net whose encoder has VGG-16's convolutions.

    Convolutions of 3 x 3 with ReLU, halved between stages but not after the last, which is dilated by 2; a mirrored
    decoder with skips stacked; one logit a pixel.

    Args:
        widths: channels of the stages; (64, 128, 256, 512, 512) is VGG-16's.
        convolutions: of each stage; (2, 2, 3, 3, 3) is VGG-16's.

    Raises:
        UsageError: numbers below 1, or not one number of convolutions for each stage.

    Paper: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242).

    Examples:
        >>> import torch
        >>> OccNet((4, 8))(torch.rand(1, 3, 17, 20)).shape
        torch.Size([1, 1, 17, 20])
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 64), *, convolutions: Sequence[int] | None = None) -> None:
        super().__init__()
        convolutions = [2] * len(widths) if convolutions is None else convolutions
        if not widths or len(widths) != len(convolutions):
            raise UsageError(f"{len(widths)} stages need as many numbers of convolutions, got {len(convolutions)}")
        for number in (*widths, *convolutions):
            check_whole("widths and convolutions", number, least=1)
        last = len(widths) - 1
        self.encoder = nn.ModuleList(
            _convolutions(before, after, count, dilation=2 if stage == last else 1)
            for stage, (before, after, count) in enumerate(zip([3, *widths[:-1]], widths, convolutions, strict=True))
        )
        self.decoder = nn.ModuleList(
            _convolutions(below + skip, skip, 1) for below, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """Logits; above 0 is occluded.

        Args:
            images: in [0, 1], of at least 2^(stages - 1) pixels a side.
        """
        x, skips = images, []
        for stage, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if stage else x)
            skips.append(x)
        for block, skip in zip(self.decoder, skips[-2::-1], strict=True):
            up = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([up, skip], 1))
        return self.last(x)


@dataclass(frozen=True)
class Unoccluded:
    """Pictures without their occluders.

    Attributes:
        image: as given outside of the mask, painted inside.
        mask: 1 where it was painted.
        probability: of occlusion, before threshold and dilation.
    """

    image: Float[Tensor, "B 3 H W"]
    mask: Float[Tensor, "B 1 H W"]
    probability: Float[Tensor, "B 1 H W"]


class OcclusionRemover(nn.Module):
    """Finds occluders and paints what they hid, in one pass and without being told where they are.

    Args:
        occluder: where the occluder is, as logits.
        completion: paints the masked part.
        threshold: probability from which a pixel is masked, in [0, 1].
        dilation: pixels by which the mask grows, in [0, 64]: an occluder's edge that is left outside of it is the most
            frequent failure.

    Raises:
        UsageError: a setting out of range.

    Paper: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242).
    """

    def __init__(
        self,
        occluder: nn.Module | None = None,
        completion: nn.Module | None = None,
        *,
        threshold: float = 0.5,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        check_number("threshold", threshold, least=0, most=1)
        check_whole("dilation", dilation, least=0)
        check_number("dilation", dilation, most=64)
        self.occluder = OccNet() if occluder is None else occluder
        self.completion = CompletionNet() if completion is None else completion
        self.threshold, self.dilation = threshold, dilation

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Unoccluded:
        """Pictures without occluders.

        Args:
            images: in [0, 1].
        """
        probability = self.occluder(images).sigmoid()
        mask = dilate((probability >= self.threshold).to(images), 2 * self.dilation + 1)
        return Unoccluded(_composite(images, self.completion(images, mask), mask), mask, probability)


class CompletionGenerator(nn.Module):
    """A completion network as `AdversarialTrainer` takes it: from `image` and `mask` to `painted` and `fake`.

    `fake` is the composite, `image` outside of the mask and `painted` inside: discriminators and all losses but the
    reconstruction look at it.

    Args:
        completion: the network.
    """

    def __init__(self, completion: CompletionNet) -> None:
        super().__init__()
        self.completion = completion

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs, by name."""
        painted = self.completion(batch["image"], batch["mask"])
        return {"painted": painted, "fake": _composite(batch["image"], painted, batch["mask"])}


def structure_map(images: Float[Tensor, "B 3 H W"], *, sigma: float = 1.0) -> Float[Tensor, "B 1 H W"]:
    """Edges of the grey picture after a blur: its structure, without its texture. Differentiable everywhere.

    Args:
        images: pictures.
        sigma: of the blur, in pixels, in [0, 100].

    Raises:
        UsageError: a sigma out of range.
    """
    check_number("sigma", sigma, least=0, most=100)
    return sobel(gaussian_blur(images.mean(1, keepdim=True), sigma), floor=1e-3)


def completion_losses(
    *,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    hole: float = 6.0,
    reconstruction: float = 1.0,
    perceptual_weight: float = 0.1,
    structure: float = 0.5,
    sigma: float = 1.0,
) -> list[LossTerm]:
    """The completion network's losses beside its adversaries; the batch needs `clean`, the picture without occluder.

    `reconstruction` is the absolute error of what is painted, everywhere; `structure` that of the composite's
    `structure_map`; `perceptual`, where a distance is given, is of the composite. The paper's weights are not
    published.

    Args:
        perceptual: a distance of pictures; none by default.
        hole: weight of the reconstruction's pixels under the mask, others have 1; in [0, 1e6].
        reconstruction, perceptual_weight, structure: weights of the terms.
        sigma: of the structure's blur.

    Raises:
        UsageError: a number out of range.

    Paper: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242).
    """
    check_number("hole", hole, least=0, most=1e6)
    check_number("sigma", sigma, least=0, most=100)

    def error(batch: Mapping[str, Tensor], outputs: Outputs) -> Tensor:
        weights = 1 + (hole - 1) * batch["mask"]
        return (weights * (outputs["painted"] - batch["clean"]).abs()).mean()

    def edges(batch: Mapping[str, Tensor], outputs: Outputs) -> Tensor:
        return F.l1_loss(structure_map(outputs["fake"], sigma=sigma), structure_map(batch["clean"], sigma=sigma))

    terms = [LossTerm("reconstruction", reconstruction, error), LossTerm("structure", structure, edges)]
    if perceptual is not None:
        terms.append(LossTerm("perceptual", perceptual_weight, lambda b, o: perceptual(o["fake"], b["clean"])))
    return terms


def texture_discriminator(module: nn.Module, *, weight: float = 0.1) -> DiscriminatorTerm:
    """The adversary of texture: hinge on the composite and the mask, stacked, against the clean picture and the mask.

    Args:
        module: from [B, 4, H, W] to logits, such as a spectrally normalised patch discriminator.
        weight: of its part in the generator's loss.

    Raises:
        UsageError: a weight out of range.

    Paper: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242).
    """
    return _discriminator(module, weight, lambda images: images)


def structure_discriminator(module: nn.Module, *, weight: float = 0.1, sigma: float = 1.0) -> DiscriminatorTerm:
    """The adversary of structure: as `texture_discriminator`, on the `structure_map` of either picture.

    Args:
        module: from [B, 2, H, W] to logits.
        weight: of its part in the generator's loss.
        sigma: of the structure's blur.

    Raises:
        UsageError: a number out of range.

    Paper: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242).
    """
    check_number("sigma", sigma, least=0, most=100)
    return _discriminator(module, weight, lambda images: structure_map(images, sigma=sigma))


def _composite(images: Tensor, painted: Tensor, mask: Tensor) -> Tensor:
    """The picture outside of the mask, what is painted inside."""
    return images * (1 - mask) + painted * mask


def _discriminator(module: nn.Module, weight: float, seen: Callable[[Tensor], Tensor]) -> DiscriminatorTerm:
    def real(batch: Any, outputs: Outputs) -> Tensor:
        return torch.cat([seen(batch["clean"]), batch["mask"]], 1)

    def fake(batch: Any, outputs: Outputs) -> Tensor:
        return torch.cat([seen(outputs["fake"]), batch["mask"]], 1)

    return DiscriminatorTerm(module=module, loss=GANLoss("hinge"), real=real, fake=fake, weight=weight)


def _convolutions(before: int, after: int, count: int, *, dilation: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(count):
        layers += [nn.Conv2d(before if i == 0 else after, after, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers)
