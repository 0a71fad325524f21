"""Masked feature modelling against the pass written out, and its masks against what they promise (p108)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import FeatureMaskedModeling, patch_features, random_block_masks
from binderclip.losses.dense.masked_features import _one_mask
from binderclip.models.towers import open_image_tower

GRID, WIDTH = (4, 4), 32


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def visual() -> Any:
    from open_clip.transformer import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(32, 8, WIDTH, 2, heads=2, mlp_ratio=2.0, output_dim=16).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=seeded())


def test_block_masks_hide_almost_as_many_as_asked_for() -> None:
    masks = random_block_masks(200, (16, 16), 105, generator=seeded())
    counts = masks.flatten(1).sum(1)
    assert int(counts.max()) == 105
    assert int(counts.min()) >= 100
    assert float((counts == 105).float().mean()) > 0.5
    # about 105 of 256 at each place, fewer at corners, where few rectangles reach
    often = masks.float().mean(0)
    assert float(often[4:12, 4:12].mean()) > float(often.mean()) > 0.4
    assert 0 < float(often.min()) < float(often.max()) < 0.85
    # blocks: neighbours are hidden together more often than in random masks (0.41 squared)
    together = (masks[:, :, 1:] & masks[:, :, :-1]).float().mean()
    assert float(together) > 0.28
    again = random_block_masks(200, (16, 16), 105, generator=seeded())
    assert torch.equal(masks, again)


@pytest.mark.parametrize("grid", [(2, 2), (3, 2), (2, 7)])
def test_every_mask_of_a_small_grid_hides_something(grid: tuple[int, int]) -> None:
    fits = {(2, 2): {1, 2}, (3, 2): {1, 2, 3}, (2, 7): set(range(1, 14))}[grid]
    for masked in range(1, grid[0] * grid[1]):
        if masked not in fits:  # the smallest rectangle is as high or as wide as the grid, whatever its shape
            with pytest.raises(UsageError, match="no rectangle fits"):
                random_block_masks(20, grid, masked, generator=seeded())
            continue
        counts = random_block_masks(200, grid, masked, generator=seeded()).flatten(1).sum(1)
        assert 1 <= int(counts.min()) <= int(counts.max()) <= masked


def test_rectangles_are_those_of_the_draws() -> None:
    # 4 + 0 * 6 patches, h / w = 1: 2 x 2 at row 3, column 6. Then 4 + 1 * 2, h / w = 1 / 0.3: 4 x 1 in the corner. Two
    # are left, and ten squares of 2 x 2 are too much: the mask stays two short.
    draws = iter([0.0, 0.5, 0.5, 0.99, 1.0, 0.0, 0.0, 0.0, *[0.5] * 40])
    mask = torch.tensor(_one_mask((8, 8), 10, 4, 0.3, draws))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[3:5, 6:8] = True
    expected[:4, :1] = True
    assert torch.equal(mask, expected)
    assert next(draws, None) is None


def test_the_loss_is_the_pass_written_out(visual: Any, images: torch.Tensor) -> None:
    torch.manual_seed(1)
    loss = FeatureMaskedModeling(WIDTH, 7)
    targets, masks = torch.randn(3, 16, 7), loss.draw(3, GRID, seeded(2))
    found = loss(open_image_tower(visual), images, targets, masks=masks)
    hidden, cosines = masks.flatten(1), []
    with torch.no_grad():
        for image, own, places in zip(images, targets, hidden, strict=True):
            x = visual.conv1(image[None]).flatten(2)[0].T.clone()
            x[places] = loss.mask
            x = torch.cat([visual.class_embedding[None], x]) + visual.positional_embedding
            x = visual.ln_post(visual.transformer(visual.ln_pre(x)[None]))[0, 1:]
            said = x @ loss.predict.weight.T + loss.predict.bias
            for place in places.nonzero().flatten().tolist():
                cosines.append(F.cosine_similarity(said[place], own[place], dim=0))
    torch.testing.assert_close(found.detach(), -torch.stack(cosines).mean(), rtol=1e-4, atol=1e-5)


def test_a_student_that_says_what_the_teacher_sees_has_a_loss_of_minus_1(visual: Any, images: torch.Tensor) -> None:
    loss, tower = FeatureMaskedModeling(WIDTH, WIDTH), open_image_tower(visual)
    with torch.no_grad():
        loss.predict.weight.copy_(torch.eye(WIDTH))
        # the mask token is a patch that a picture of one colour has everywhere: hiding it changes nothing
        flat = images[:, :, :1, :1].expand(-1, -1, 32, 32)[:1]
        loss.mask.copy_(tower.patches(flat)[0, 0])
        targets = patch_features(tower, flat)
        torch.testing.assert_close(loss(tower, flat, 3 * targets), torch.tensor(-1.0))
        torch.testing.assert_close(loss(tower, flat, -targets), torch.tensor(1.0))


def test_seen_patches_are_in_no_term(visual: Any, images: torch.Tensor) -> None:
    loss, tower = FeatureMaskedModeling(WIDTH, 5), open_image_tower(visual)
    masks = loss.draw(3, GRID, seeded())
    targets = torch.randn(3, 16, 5)
    other = torch.where(masks.flatten(1)[..., None], targets, torch.randn(3, 16, 5))
    found, same = loss(tower, images, targets, masks=masks), loss(tower, images, other, masks=masks)
    assert torch.equal(found, same)
    # and what is hidden is not seen: other pixels there change nothing
    pixels = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    changed = torch.where(pixels, torch.randn_like(images), images)
    torch.testing.assert_close(loss(tower, changed, targets, masks=masks), found)
    assert float(loss(tower, images.flip(0), targets, masks=masks).detach()) != pytest.approx(float(found.detach()))


def test_gradients_reach_mask_token_and_tower(visual: Any, images: torch.Tensor) -> None:
    loss = FeatureMaskedModeling(WIDTH, 5)
    loss(open_image_tower(visual), images, torch.randn(3, 16, 5), generator=seeded()).backward()
    assert all(bool(p.grad.any()) for p in loss.parameters())
    silent = {name for name, p in visual.named_parameters() if p.grad is None}
    assert silent == {"proj"}


def test_features_are_those_of_the_last_norm_at_the_grid_s_size(visual: Any, images: torch.Tensor) -> None:
    tower = open_image_tower(visual)
    resized = F.interpolate(images, (16, 24), mode="bicubic", antialias=True)
    assert torch.equal(patch_features(tower, images, (2, 3)), patch_features(tower, resized))
    pooled, tokens = open_image_tower(visual).pre_projection(images), patch_features(tower, images)
    assert tokens.shape == (3, 16, WIDTH)
    visual.pool_type = "avg"  # the mean of tokens behind the norm
    torch.testing.assert_close(tokens.mean(1), open_image_tower(visual).pre_projection(images))
    assert not torch.allclose(tokens.mean(1), pooled)


def test_random_masks_hide_exactly_the_share() -> None:
    masks = FeatureMaskedModeling(8, 8, masking="random", ratio=0.25).draw(20, (4, 4), seeded())
    assert masks.flatten(1).sum(1).tolist() == [4] * 20
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 10


def test_what_cannot_be_done_is_said(visual: Any, images: torch.Tensor) -> None:
    tower = open_image_tower(visual)
    with pytest.raises(UsageError, match="ratio is the share"):
        FeatureMaskedModeling(8, 8, ratio=1.0)
    with pytest.raises(UsageError, match="masking must be one of block, random"):
        FeatureMaskedModeling(8, 8, masking="grid")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="9 patches for a student's grid of 4 x 4"):
        FeatureMaskedModeling(WIDTH, 5)(tower, images, torch.randn(3, 9, 5))
    with pytest.raises(UsageError, match="hide no patch"):
        FeatureMaskedModeling(WIDTH, 5)(tower, images, torch.randn(3, 16, 5), masks=torch.zeros(3, 4, 4).bool())
    for masked in (0, 16):
        with pytest.raises(UsageError, match="some are to be hidden"):
            random_block_masks(1, GRID, masked)
    with pytest.raises(UsageError, match="no rectangle fits into a grid of 1 x 9"):
        random_block_masks(1, (1, 9), 4)
    with pytest.raises(UsageError, match="least must be"):
        random_block_masks(1, GRID, 4, aspect=0.0)
    visual.train().patch_dropout = torch.nn.Identity()
    visual.patch_dropout.prob = 0.5
    with pytest.raises(UsageError, match="drops patches"):
        FeatureMaskedModeling(WIDTH, 5)(open_image_tower(visual), images, torch.randn(3, 16, 5))
