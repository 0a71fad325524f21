"""FovealBias of p033 (FALIP, arXiv 2407.05578)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.adapt import FovealBias, Region, foveal_features, foveal_fields
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.models.towers.trace import Record, Site, trace


def pixels(n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_a_block_of_one_patch_is_one_value_of_full_height() -> None:
    field = FovealBias(0.2)(Region((9, 17, 15, 23)), (32, 32), (4, 4))
    expected = torch.zeros(4, 4)
    expected[2, 1] = 0.2
    assert torch.equal(field, expected)


def test_the_block_rule_is_the_authors() -> None:
    # x: ceil(8/8) - 1 = 0 to ceil(24/8) - 1 = 2; a box that ends on a border of patches does not reach the next one.
    field = FovealBias(1.0)(Region((8, 9, 24, 25)), (32, 32), (4, 4))
    assert (field > 0).nonzero().amin(0).tolist() == [1, 0]
    assert (field > 0).nonzero().amax(0).tolist() == [3, 2]
    # Each axis by its own factor: an image of 64 x 32 pixels stretched to the same grid.
    assert torch.equal(FovealBias(1.0)(Region((16, 9, 48, 25)), (32, 64), (4, 4)), field)
    # What sticks out is cut off.
    edge = FovealBias(1.0)(Region((-50, -50, 7, 7)), (32, 32), (4, 4))
    assert (edge > 0).nonzero().tolist() == [[0, 0]]


def test_the_bump_is_the_scaled_gaussian_of_the_paper() -> None:
    field = FovealBias(0.2, sigma=3.0)(Region((1, 1, 39, 23)), (64, 64), (8, 8))
    expected = np.zeros((8, 8))
    for r in range(3):
        for c in range(5):
            expected[r, c] = np.exp(-((r - 1) ** 2 + (c - 2) ** 2) / 18)
    low = np.exp(-(1 + 4) / 18)
    expected[:3, :5] = 0.2 * (expected[:3, :5] - low + 1e-6) / (1 + 1e-6 - low)
    assert np.allclose(field.numpy(), expected, atol=1e-6)
    # Nearly a paraboloid at the default width: the middle of an edge of 3 x 3 is half as high as the centre.
    assert FovealBias(1.0)(Region((1, 1, 23, 23)), (64, 64), (8, 8))[0, 1] == pytest.approx(0.5, abs=0.01)


def test_a_mask_lifts_the_patches_that_are_mostly_inside_and_its_middle_most() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[8:32, 16:56] = True  # patches 1..3 x 2..6
    mask[32:35, 16:56] = True  # and less than half of the next row
    region = Region((0, 0, 64, 64), mask)
    field = FovealBias(0.6, shape="mask")(region, (64, 64), (8, 8))
    expected = torch.zeros(8, 8)
    expected[1:4, 2:7] = 0.3
    expected[2, 3:6] = 0.6
    assert torch.allclose(field, expected)
    small = np.zeros((64, 64), dtype=bool)
    small[1, 60] = True
    assert FovealBias(0.6, shape="mask")(Region(mask=small), (64, 64), (8, 8)).nonzero().tolist() == [[0, 7]]
    box = Region((9, 17, 15, 23))
    assert torch.equal(FovealBias(shape="mask")(box, (32, 32), (4, 4)), FovealBias()(box, (32, 32), (4, 4)))


def test_the_last_third_of_the_blocks_is_biased_and_at_least_two() -> None:
    assert [FovealBias().first_block(depth) for depth in (12, 24, 4, 2, 1)] == [8, 16, 2, 0, 0]
    assert FovealBias(last_blocks=1).first_block(12) == 11


def test_no_strength_gives_the_features_of_the_image(tiny: ImageTextModel) -> None:
    bias = FovealBias(0.0)
    fields = torch.stack([foveal_fields(bias, [(0, 0, 9, 9), (9, 9, 32, 32)], (32, 32), (4, 4))] * 2)
    with torch.no_grad():
        found = foveal_features(tiny, pixels(), fields, bias)
        plain = tiny.encode_pixels(pixels().repeat_interleave(2, dim=0)).unflatten(0, (2, 2))
    assert torch.allclose(found, plain, atol=1e-5)


def test_shared_blocks_give_what_whole_runs_with_the_matrix_give(tiny: ImageTextModel) -> None:
    bias = FovealBias(1.5, last_blocks=2)
    regions = [(0, 0, 9, 9), (9, 9, 32, 32), (1, 20, 15, 31)]
    fields = foveal_fields(bias, regions, (32, 32), (4, 4))
    tower = tiny.image_tower
    with torch.no_grad():
        found = foveal_features(tiny, pixels(2), torch.stack([fields, fields.flip(0)]), bias)
        for n, own in enumerate((fields, fields.flip(0))):
            for r in range(3):
                matrix = torch.zeros(1, 1, 17, 17)
                matrix[0, 0, 0, 1:] = own[r].flatten()
                image = pixels(2)[n : n + 1]
                tokens = tower.run(tower.embed(image), attn_bias=matrix, bias_blocks=(1, 2))
                alone = tower.project(tower.pool(tokens))[0]
                assert torch.allclose(found[n, r], alone, atol=1e-5)
    assert not torch.allclose(found[0, 0], found[0, 1], atol=1e-3)


def test_attention_inside_grows_by_the_exponential_of_a_constant(tiny: ImageTextModel) -> None:
    # In the first block the logits do not depend on the bias, so the ratio inside/outside is known.
    tower = tiny.image_tower
    where = torch.zeros(4, 4)
    where[1:3, 1:3] = 0.7
    matrix = torch.zeros(1, 1, 17, 17)
    matrix[0, 0, 0, 1:] = where.flatten()
    seen = {}
    for name, value in (("plain", None), ("drawn", matrix)):
        run = trace(tower, pixels(1), record=Record("attn", layers=[0]), attn_bias=value, bias_blocks=(0,))
        seen[name] = run.value(Site("attn", 0))[0].detach()
    inside = torch.cat([torch.tensor([False]), where.flatten() > 0])
    ratio = {name: a[:, 0, inside].sum(-1) / a[:, 0, ~inside].sum(-1) for name, a in seen.items()}
    assert torch.allclose(ratio["drawn"] / ratio["plain"], torch.full((2,), float(np.exp(0.7))), rtol=1e-4)
    assert torch.allclose(seen["drawn"].sum(-1), torch.ones(2, 17), atol=1e-5)
    # Only the class token is drawn.
    assert torch.allclose(seen["drawn"][:, 1:], seen["plain"][:, 1:], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FovealBias(-1), "strength -1"),
        (lambda: FovealBias(sigma=0), "sigma 0"),
        (lambda: FovealBias(last_blocks=0), "last_blocks must be at least 1"),
        (lambda: FovealBias(shape="ellipse"), "shape must be"),
        (lambda: FovealBias()(Region((40, 0, 50, 9)), (32, 32), (4, 4)), "outside the image"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
