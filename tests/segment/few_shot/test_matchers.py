"""From hypercorrelations to masks: 4-D convolutions against dense ones, the rules without training by hand."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.segment import HypercorrelationNet, PriorMask, PrototypeMatch
from binderclip.segment.few_shot import SupportFeatures
from binderclip.segment.few_shot.matchers import CenterPivotConv4d


@pytest.mark.parametrize("stride", [1, 2])
def test_a_center_pivot_convolution_is_a_4d_one_with_weights_on_two_planes(stride: int) -> None:
    torch.manual_seed(0)
    layer = CenterPivotConv4d(2, 3, stride)
    x = torch.randn(1, 2, 3, 4, 5, 4)
    found = layer(x)
    # The whole kernel (D, C, 3, 3, 3, 3): the query's weights where the support's offset is 0, and the reverse.
    kernel = torch.zeros(3, 2, 3, 3, 3, 3)
    kernel[:, :, :, :, 1, 1] += layer.query.weight.detach()
    kernel[:, :, 1, 1] += layer.support.weight.detach()
    bias = (layer.query.bias + layer.support.bias).detach()
    padded = F.pad(x, (1,) * 8)
    rows, columns = range(0, 5, stride), range(0, 4, stride)
    assert found.shape == (1, 3, 3, 4, len(rows), len(columns))
    for i, j, (k, row), (n, column) in product(range(3), range(4), enumerate(rows), enumerate(columns)):
        window = padded[0, :, i : i + 3, j : j + 3, row : row + 3, column : column + 3]
        want = torch.einsum("dcabef,cabef->d", kernel, window) + bias
        assert torch.allclose(found[0, :, i, j, k, n], want, atol=1e-4)


def net(support: str = "msi") -> HypercorrelationNet:
    torch.manual_seed(0)
    return HypercorrelationNet((1, 1, 2), widths=(4, 4, 8), support=support).eval()  # type: ignore[arg-type]


def pair(colours: Any, seed: int = 0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(2, 32, 32)
    mask[:, 4:20, 8:28] = 1
    query, shown = (torch.randn(2, 3, 32, 32, generator=generator) for _ in range(2))
    return colours(query), colours.support(shown, mask)


def test_the_network_answers_at_twice_the_finest_grid_and_each_episode_by_itself(colours: Any) -> None:
    query, support = pair(colours)
    with torch.no_grad():
        both = net()(query, support)
        assert both.shape == (2, 2, 16, 16)
        for row in range(2):
            alone = SupportFeatures(
                *(
                    [[each[row : row + 1] for each in level] for level in part]
                    for part in (support.whole, support.masked)
                ),
                support.mask[row : row + 1],
            )
            own = net()([[each[row : row + 1] for each in level] for level in query], alone)
            assert torch.allclose(own[0], both[row], atol=1e-5)


def test_each_use_of_the_support_reads_its_own_features(colours: Any) -> None:
    query, support = pair(colours)
    _, other = pair(colours, 7)
    whole = SupportFeatures(other.whole, support.masked, support.mask)
    masked = SupportFeatures(support.whole, other.masked, support.mask)
    reads = {"msi": (True, True), "full": (True, False), "masked": (False, True), "features": (True, False)}
    with torch.no_grad():
        for name, differs in reads.items():
            before = net(name)(query, support)
            assert tuple(not torch.equal(net(name)(query, each), before) for each in (whole, masked)) == differs, name


def test_the_prior_mask_by_loops(colours: Any) -> None:
    query, support = pair(colours, 1)
    found = PriorMask(level=1)(query, support)[:, 1]
    for b in range(2):
        best = torch.zeros(4, 4)
        for i, j in product(range(4), range(4)):
            cosines = [
                float(F.cosine_similarity(query[1][0][b, :, i, j], support.whole[1][0][b, :, k, n], dim=0))
                for k, n in product(range(4), range(4))
                if support.mask[b, 8 * k : 8 * k + 8, 8 * n : 8 * n + 8].mean() >= 0.5
            ]
            best[i, j] = max(cosines)
        want = 2 * (best - best.min()) / (best.max() - best.min()) - 1
        assert torch.allclose(found[b], want, atol=1e-4)


def test_prototypes_by_loops_and_the_query_that_is_the_example(colours: Any, painted: Any) -> None:
    query, support = pair(colours, 2)
    found = PrototypeMatch(level=2, scale=5.0)(query, support)
    share = F.avg_pool2d(support.mask[:, None], 4)[:, 0]
    for b, side in product(range(2), range(2)):
        weight = share[b] if side else 1 - share[b]
        mean = (support.whole[2][1][b] * weight).sum((1, 2)) / weight.sum()
        want = 5 * F.cosine_similarity(query[2][1][b], mean[:, None, None], dim=0)
        assert torch.allclose(found[b, side], want, atol=1e-4)
    picture, mask = painted((8, 8, 24, 24))
    pixels = colours.pixels(picture)
    same = colours.support(pixels, torch.from_numpy(mask).float()[None])
    answer = PrototypeMatch(level=2)(colours(pixels), same).argmax(1)[0]
    assert torch.equal(answer.bool(), torch.from_numpy(mask[::4, ::4]))


def test_what_is_no_network_is_said() -> None:
    with pytest.raises(UsageError, match=r"three multiples of 4, not \(1, 1\) and \(8, 16, 24\)"):
        HypercorrelationNet((1, 1))
    with pytest.raises(UsageError, match=r"not \(1, 1, 1\) and \(8, 6, 4\)"):
        HypercorrelationNet((1, 1, 1), widths=(8, 6, 4))
    with pytest.raises(UsageError, match="support must be one of msi, masked, features, full, got 'whole'"):
        HypercorrelationNet((1, 1, 1), support="whole")  # type: ignore[arg-type]
