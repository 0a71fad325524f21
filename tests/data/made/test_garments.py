"""Worn garments (for p157): the flow that is given makes what is seen, and nothing else is seen."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import map_coordinates

from binderclip.data import GARMENT_LAYOUT, worn_garments
from binderclip.errors import UsageError
from binderclip.vision import area_change


def test_what_is_seen_is_the_flat_garment_moved_by_the_flow() -> None:
    shirts = worn_garments(6, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(24.0), indexing="ij")
    for i in range(6):
        places = torch.stack([rows, columns]) + shirts.flow[i]
        for channel in range(3):
            moved = torch.from_numpy(
                map_coordinates(shirts.cloth[i, channel].numpy(), places.numpy(), order=1, mode="grid-constant")
            )
            seen = shirts.worn_mask[i, 0] > 0
            torch.testing.assert_close(shirts.worn[i, channel][seen], moved[seen], atol=1e-4, rtol=0)
    assert not (shirts.worn * (1 - shirts.worn_mask)).any()
    assert not (shirts.cloth * (1 - shirts.cloth_mask)).any()


def test_layout_body_and_masks_agree() -> None:
    shirts = worn_garments(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(shirts.worn_mask[:, 0] > 0, shirts.layout == GARMENT_LAYOUT.index("garment"))
    assert torch.equal(shirts.body[:, 1] > 0, shirts.layout == GARMENT_LAYOUT.index("arm"))
    assert torch.equal(shirts.body[:, 2] > 0, shirts.layout == GARMENT_LAYOUT.index("trousers"))
    assert not (shirts.excluded * shirts.worn_mask).any()
    assert bool((shirts.excluded.flatten(1).sum(1) > 0).all())  # every shirt is tucked in
    assert bool(((shirts.body[:, 1:2] * (1 - shirts.excluded)).flatten(1).sum(1) > 0).float().mean() > 0.9)


def test_the_true_flow_squeezes_nothing() -> None:
    change = area_change(worn_garments(40, generator=torch.Generator().manual_seed(2)).flow)
    assert 0.6 < float(change.min()) < float(change.max()) < 1.6


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="count"):
        worn_garments(0)
    with pytest.raises(UsageError, match="at least 16"):
        worn_garments(1, size=(8, 24))
    with pytest.raises(UsageError, match="bend"):
        worn_garments(1, bend=float("nan"))
