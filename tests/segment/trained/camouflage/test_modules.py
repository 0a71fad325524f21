"""p131 (OVCamouflage): each module against its limiting cases, a loop, and torch's instance normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.segment import CamouflagedInstanceNorm, MultiScaleFusion, TextVisualAggregation
from binderclip.segment.trained.camouflage.modules import TextVisual

G = torch.Generator().manual_seed(0)
PIXELS, MASKS, TEXTS = (torch.randn(*size, generator=G) for size in ((2, 6, 5, 4), (2, 3, 5, 4), (4, 6)))


def test_the_fusion_weighs_each_projection_by_one_map_of_all_scales() -> None:
    torch.manual_seed(0)
    fusion = MultiScaleFusion((3, 5, 2), 4)
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4), torch.randn(2, 2, 8, 8)]
    projected = [layer(each) for layer, each in zip(fusion.project, maps, strict=False)]
    grown = F.interpolate(maps[1], (8, 8), mode="bilinear", align_corners=False)
    common = fusion.join(torch.cat([maps[0], grown, maps[2]], 1))
    first, second = fusion(maps)
    torch.testing.assert_close(first, projected[0] * common + projected[0])
    half = F.interpolate(common, (4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(second, projected[1] * half + projected[1])
    with torch.no_grad():
        fusion.join.weight.zero_()
        for bias, times in ((0.0, 1), (1.0, 2)):  # G = 0 leaves the projection, G = 1 doubles it
            fusion.join.bias.fill_(bias)
            for fused, own in zip(fusion(maps), projected, strict=True):
                torch.testing.assert_close(fused, times * own)


def test_the_aggregation_is_its_formula_in_loops() -> None:
    for normalize, tau in ((True, 0.07), (False, 1.0)):
        result = TextVisualAggregation(temperature=tau, normalize=normalize)(PIXELS, MASKS, TEXTS)
        texts = F.normalize(TEXTS, dim=1) if normalize else TEXTS
        for b in range(2):
            for n in range(3):
                inside = MASKS[b, n].sigmoid()
                pooled = torch.stack([(inside * PIXELS[b, d]).sum() / inside.sum() for d in range(6)])
                pooled = pooled / pooled.norm() if normalize else pooled
                affinity = (texts @ pooled / tau).softmax(0)
                torch.testing.assert_close(result.affinity[b, n], affinity)
                response = torch.zeros(5, 4)
                for c in range(4):
                    similarity = sum(texts[c, d] * PIXELS[b, d] for d in range(6))
                    response = response + (affinity[c] - affinity.mean()) * similarity
                torch.testing.assert_close(result.features[b, n], PIXELS[b] * (1 + response.sigmoid()))


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS[:1].expand(3, -1), torch.zeros(3, 6)])
def test_texts_that_tell_nothing_apart_strengthen_all_places_alike(texts: Tensor) -> None:
    result = TextVisualAggregation()(PIXELS, MASKS, texts)
    torch.testing.assert_close(result.features, 1.5 * PIXELS[:, None].expand(-1, 3, -1, -1, -1))


def test_the_refinement_is_an_affine_map_of_torch_s_instance_normalisation() -> None:
    torch.manual_seed(1)
    module = CamouflagedInstanceNorm(6)
    aggregated = TextVisual(PIXELS, 1 + MASKS.sigmoid(), torch.ones(2, 3, 4))
    torch.testing.assert_close(module(aggregated, MASKS), MASKS)  # w = 0, b = 0: the generator's masks
    torch.nn.init.normal_(module.affine.weight)
    torch.nn.init.normal_(module.affine.bias)
    refined = module(aggregated, MASKS)
    for n in range(3):
        features = aggregated.features[:, n]
        affine = module.affine(features.mean((2, 3)))
        normed = F.instance_norm(features)
        expected = (affine[:, :6, None, None] * normed).sum(1) + affine[:, 6, None, None] + MASKS[:, n]
        torch.testing.assert_close(refined[:, n], expected, atol=1e-4, rtol=1e-4)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(UsageError, match="widths must be two"):
        MultiScaleFusion((4,))
    with pytest.raises(UsageError, match="takes 2 maps"):
        MultiScaleFusion((4, 4))([torch.zeros(1, 4, 2, 2)])
    with pytest.raises(UsageError, match="temperature"):
        TextVisualAggregation(temperature=0)
    with pytest.raises(UsageError, match="do not belong together"):
        TextVisualAggregation()(PIXELS, MASKS[..., :2], TEXTS)
    with pytest.raises(UsageError, match="C at least 1"):
        TextVisualAggregation()(PIXELS, MASKS, TEXTS[:0])
    with pytest.raises(UsageError, match="width"):
        CamouflagedInstanceNorm(0)
