"""Named mask explanations: shearlets, wavelets and pixels, with the settings they were published with."""

from __future__ import annotations

from dataclasses import dataclass

from binderclip.explain.mask.optimise import MaskExplanation
from binderclip.vision import PixelTransform, Representation, ShearletTransform, WaveletTransform

SHEARLETS = ShearletTransform(scales=4)
WAVELETS = WaveletTransform(vanishing=3, levels=5)
PIXELS = PixelTransform()


@dataclass(frozen=True)
class ShearletX(MaskExplanation):
    """A mask on shearlet coefficients: fine edges and textures may be chosen, and smoothness need not be asked for.

    Edges are few coefficients, so a sparse mask keeps or drops them whole, and cutting a shape out of a flat region
    costs as much as an edge; a pixel mask does that for nothing, and so shows edges that the picture does not have.

    Args:
        representation: `ShearletTransform` with four scales, for about 224 px; three do at 64.
        sparsity: lambda_1.
        spatial: lambda_2.
        others: see `MaskExplanation`.

    Raises:
        UsageError: see `MaskExplanation`.

    Examples:
        >>> found = ShearletX()(model.predictor(["a cat", "a dog"]), images, "a cat")  # doctest: +SKIP
        >>> found.maps(), found.explanation  # doctest: +SKIP

    Paper: Explaining Image Classifiers with Multiscale Directional Image Representation (arXiv 2211.12857). The
    released code clips coefficients instead of pictures: `legacy_clamp`.
    """

    representation: Representation = SHEARLETS
    sparsity: float = 1.0
    spatial: float = 2.0


@dataclass(frozen=True)
class WaveletX(MaskExplanation):
    """A mask on wavelet coefficients, with the same two penalties as `ShearletX`.

    Args:
        representation: Daubechies wavelets with three vanishing moments, five levels.
        sparsity: lambda_1.
        spatial: lambda_2.
        colour_noise: each colour has its own noise.
        others: see `MaskExplanation`.

    Raises:
        UsageError: see `MaskExplanation`.

    Paper: Explaining Image Classifiers with Multiscale Directional Image Representation (arXiv 2211.12857).
    """

    representation: Representation = WAVELETS
    sparsity: float = 2.0
    spatial: float = 10.0
    colour_noise: bool = True


@dataclass(frozen=True)
class CartoonX(WaveletX):
    """`WaveletX` without the spatial penalty: coarse coefficients may stay, and with them smooth regions.

    Args:
        sparsity: lambda_1.
        others: see `WaveletX`.

    Raises:
        UsageError: see `MaskExplanation`.

    Paper: Cartoon Explanations of Image Classifiers (arXiv 2110.03485).
    """

    spatial: float = 0.0


@dataclass(frozen=True)
class PixelMask(MaskExplanation):
    """A mask on pixels, without a smoothness term as published; `variation` asks for a smooth one.

    Args:
        sparsity: lambda_1.
        variation: factor of the squared differences between neighbours; 2 gives smooth masks.
        others: see `MaskExplanation`.

    Raises:
        UsageError: see `MaskExplanation`.

    Paper: Explaining Image Classifiers with Multiscale Directional Image Representation (arXiv 2211.12857).
    """

    representation: Representation = PIXELS
    colour_noise: bool = True
