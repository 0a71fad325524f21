"""p161 (SegCLIP): reconstruction of hidden patches: which count, where they lie, and that the decoder learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import MaskedPatchReconstruction
from binderclip.losses.dense.masked_patches import random_patch_order


def decoder(**changes: int) -> MaskedPatchReconstruction:
    torch.manual_seed(0)
    return MaskedPatchReconstruction(8, (2, 3), 4, **({"hidden": 8, "depth": 1, "heads": 2} | changes))


def test_pictures_are_cut_as_unfold_cuts_them() -> None:
    pixels = torch.randn(2, 3, 8, 12)
    cut = decoder().cut(pixels)
    peer = F.unfold(pixels, 4, stride=4).unflatten(1, (3, 16))  # (B, 3, p^2, N)
    assert torch.equal(cut, peer.permute(0, 3, 2, 1).flatten(2))
    with pytest.raises(UsageError, match="asked for"):
        decoder().cut(pixels[..., :8])


@torch.no_grad()
def test_the_error_is_that_of_hidden_patches_alone() -> None:
    net, seen = decoder(), torch.tensor([[4, 1], [0, 5]])
    tokens, pixels = torch.randn(2, 2, 8), torch.randn(2, 3, 8, 12)
    found = float(net(tokens, seen, pixels))
    predicted, target = net.predicted(tokens, seen), net.cut(pixels)
    hidden = [(0, 0), (0, 2), (0, 3), (0, 5), (1, 1), (1, 2), (1, 3), (1, 4)]
    wanted = sum(float((predicted[b, n] - target[b, n]).square().mean()) for b, n in hidden) / 8
    assert found == pytest.approx(wanted, rel=1e-5)
    moved = pixels.clone()
    moved[0, :, 4:, 4:8] += 9  # patch 4 of the first picture, which is seen
    assert float(net(tokens, seen, moved)) == pytest.approx(found, rel=1e-6)
    moved[0, :, :4, :4] += 9  # patch 0, which is hidden
    assert float(net(tokens, seen, moved)) > found + 1


@torch.no_grad()
def test_tokens_go_to_their_places() -> None:
    """Their order says nothing; their places do."""
    net, tokens = decoder(), torch.randn(1, 2, 8)
    one = net.predicted(tokens, torch.tensor([[4, 1]]))
    assert torch.allclose(one, net.predicted(tokens[:, [1, 0]], torch.tensor([[1, 4]])), atol=1e-6)
    assert not torch.allclose(one, net.predicted(tokens, torch.tensor([[1, 4]])), atol=1e-3)
    # Hidden patches differ by their place, and know the seen ones.
    assert not torch.allclose(one[0, 0], one[0, 2], atol=1e-3)
    assert not torch.allclose(one[0, 0], net.predicted(tokens + 1, torch.tensor([[4, 1]]))[0, 0], atol=1e-4)


def test_every_patch_is_seen_or_hidden_and_the_draw_is_repeatable() -> None:
    seen, hidden = random_patch_order(3, 49, 0.75, torch.Generator().manual_seed(0))
    assert seen.shape == (3, 12)
    assert torch.equal(torch.cat([seen, hidden], 1).sort(1).values, torch.arange(49).expand(3, -1))
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen, random_patch_order(3, 49, 0.75, torch.Generator().manual_seed(0))[0])
    for ratio in (0.0, 0.99):
        with pytest.raises(UsageError, match="some are to be seen"):
            random_patch_order(1, 49, ratio)


def test_it_learns_what_seen_tokens_tell() -> None:
    net = decoder(hidden=32)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    seen = torch.tensor([[0, 3]]).expand(16, -1)
    losses = []
    for _ in range(100):
        grey = torch.rand(16, 1, generator=generator)
        tokens = F.pad(grey, (0, 7))[:, None].expand(-1, 2, -1)
        loss = net(tokens, seen, grey[:, :, None, None].expand(-1, 3, 8, 12))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # The mean grey alone would leave a variance of 1 / 12.
    assert sum(losses[-5:]) / 5 < 0.03


def test_what_does_not_fit_is_said() -> None:
    for wrong in ({"hidden": 6}, {"heads": 3}, {"depth": 0}):
        with pytest.raises(UsageError, match="hidden must be a multiple"):
            decoder(**wrong)
