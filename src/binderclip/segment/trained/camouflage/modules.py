"""The three modules of open-vocabulary camouflaged instance segmentation: fusion, aggregation with text, refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["CamouflagedInstanceNorm", "MultiScaleFusion", "TextVisual", "TextVisualAggregation"]


class MultiScaleFusion(nn.Module):
    """Maps of several scales, each weighted by one map of all of them: F_i = E'_i * G_i + E'_i.

    All maps are resized to the grid of the last one and joined by a 1 x 1 convolution, which gives G; E'_i is a 1 x 1
    projection of a map and G_i is G at its size. The paper's page names the parts; the order, product before sum, is
    reconstructed.

    Args:
        widths: channels of the encoder's maps E_i and, last, of the decoder's map D; two at least.
        out: channels of all results.

    Raises:
        UsageError: fewer than two maps, or a width below 1; at the call, another number of maps.

    Paper: Leveraging Open-Vocabulary Diffusion to Camouflaged Instance Segmentation (arXiv 2312.17505), MSFF.
    """

    def __init__(self, widths: Sequence[int], out: int = 256) -> None:
        super().__init__()
        if len(widths) < 2 or min(*widths, out) < 1:
            raise UsageError(f"widths must be two channels or more and out one, each at least 1, got {widths}, {out}")
        self.project = nn.ModuleList(nn.Conv2d(width, out, 1) for width in widths[:-1])
        self.join = nn.Conv2d(sum(widths), out, 1)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B out _ _"]]:
        """F_i of the encoder's maps, each at its own size.

        Args:
            maps: E_1, E_2, ... and D, of any sizes.
        """
        if len(maps) != len(self.project) + 1:
            raise UsageError(f"the fusion takes {len(self.project) + 1} maps, the decoder's last, not {len(maps)}")
        grid = (maps[-1].shape[-2], maps[-1].shape[-1])
        common = self.join(torch.cat([_resized(each, grid) for each in maps], 1))  # G (B, out, h, w)
        fused = []
        for project, each in zip(self.project, maps, strict=False):
            own = project(each)  # E'_i
            fused.append(own * _resized(common, (own.shape[-2], own.shape[-1])) + own)
        return fused


@dataclass(frozen=True)
class TextVisual:
    """What `TextVisualAggregation` found; the features G_n = pixels * gates_n are made only where they are asked for.

    Attributes:
        pixels: embeddings that all masks share.
        gates: 1 + sigmoid(R_n) of each mask, between 1 and 2.
        affinity: probabilities of the texts for each mask's pooled feature.
    """

    pixels: Float[Tensor, "B d H W"]
    gates: Float[Tensor, "B N H W"]
    affinity: Float[Tensor, "B N C"]

    @property
    def features(self) -> Float[Tensor, "B N d H W"]:
        """G_n, N times as large as the pixel embeddings."""
        return self.pixels[:, None] * self.gates[:, :, None]


class TextVisualAggregation(nn.Module):
    """Pixel embeddings strengthened, for each mask, where they fit those texts that the mask fits more than others.

    The pooled feature of a mask meets the texts, a_nc = softmax_c(v_n . t_c / tau); what all texts share is noise and
    is taken away, a'_nc = a_nc - mean_c a_nc; then R_n = sum_c a'_nc (t_c . E) and G_n = E * (1 + sigmoid(R_n)). With
    one text, or equal ones, R is 0 and G_n = 1.5 E. The formulas are reconstructed from the paper's page.

    Args:
        temperature: tau.
        normalize: v and t are unit vectors; False takes them as they are.

    Raises:
        UsageError: a temperature that is not above 0; at the call, shapes that do not belong together.

    Paper: Leveraging Open-Vocabulary Diffusion to Camouflaged Instance Segmentation (arXiv 2312.17505), TVA.
    """

    def __init__(self, *, temperature: float = 0.07, normalize: bool = True) -> None:
        super().__init__()
        check_number("temperature", temperature, above=0)
        self.temperature, self.normalize = temperature, normalize

    def forward(
        self, pixels: Float[Tensor, "B d H W"], masks: Float[Tensor, "B N H W"], texts: Float[Tensor, "C d"]
    ) -> TextVisual:
        """Gates and affinities.

        Args:
            pixels: embeddings E.
            masks: logits of M_n.
            texts: one row a category.
        """
        if masks.shape[-2:] != pixels.shape[-2:] or texts.shape[-1] != pixels.shape[1] or not len(texts):
            raise UsageError(
                f"pixels {tuple(pixels.shape)}, masks {tuple(masks.shape)} and texts {tuple(texts.shape)} do not "
                "belong together: they are (B, d, H, W), (B, N, H, W) and (C, d), C at least 1"
            )
        inside = masks.sigmoid()
        area = inside.sum((2, 3)).clamp(min=1e-6)  # a mask that is nowhere pools to 0
        pooled = torch.einsum("bnhw,bdhw->bnd", inside, pixels) / area[..., None]  # v_n
        if self.normalize:
            pooled, texts = F.normalize(pooled, dim=-1), F.normalize(texts, dim=-1)
        affinity = (pooled @ texts.mT / self.temperature).softmax(-1)  # a (B, N, C)
        centred = affinity - affinity.mean(-1, keepdim=True)  # a'
        response = torch.einsum("bnd,bdhw->bnhw", centred @ texts, pixels)  # R = sum_c a'_nc (t_c . E)
        return TextVisual(pixels, 1 + response.sigmoid(), affinity)


class CamouflagedInstanceNorm(nn.Module):
    """Masks refined by an affine map of each instance's normalised features: w_n . IN(G_n) + b_n + logit(M_n).

    Weights and bias are linear in the mean of G_n over places. They are 0 at first, so that the masks are those of the
    generator. The formula is reconstructed from the paper's page.

    Args:
        width: d.
        eps: added to the variances of the instance normalisation.

    Raises:
        UsageError: a width below 1, or eps that is not above 0.

    Paper: Leveraging Open-Vocabulary Diffusion to Camouflaged Instance Segmentation (arXiv 2312.17505), CIN.
    """

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        if width < 1:
            raise UsageError(f"width must be at least 1, not {width}")
        check_number("eps", eps, above=0)
        self.affine, self.eps = nn.Linear(width, width + 1), eps
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, aggregated: TextVisual, masks: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H W"]:
        """Logits of the refined masks.

        Args:
            aggregated: of the same masks.
            masks: the generator's logits.
        """
        pixels, gates = aggregated.pixels, aggregated.gates
        places = pixels[0, 0].numel()
        # Moments of G_n = E g_n without making it, which at 100 masks would be 100 times as large as E.
        mean = torch.einsum("bdhw,bnhw->bnd", pixels, gates) / places
        square = torch.einsum("bdhw,bnhw->bnd", pixels.square(), gates.square()) / places
        weight, bias = self.affine(mean).split([pixels.shape[1], 1], -1)
        scaled = weight * (square - mean.square()).clamp(min=0).add(self.eps).rsqrt()  # w / sigma (B, N, d)
        response = torch.einsum("bnd,bdhw->bnhw", scaled, pixels) * gates  # sum_d w_d G_nd / sigma_nd
        shift = bias - (scaled * mean).sum(-1, keepdim=True)
        return response + shift[..., None] + masks


def _resized(maps: Float[Tensor, "B D _ _"], grid: tuple[int, int]) -> Float[Tensor, "B D h w"]:
    if maps.shape[-2:] == grid:
        return maps
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)
