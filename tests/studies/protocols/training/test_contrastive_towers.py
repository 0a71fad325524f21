"""Towers of the studies of contrastive losses: everything about their start follows from the seed."""

from __future__ import annotations

import pytest
import torch

from binderclip.studies.protocols.training import contrastive_towers as towers


def test_the_start_follows_from_the_seed_whether_pictures_are_loaded_yet_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = towers.CaptionedPictures(torch.rand(5, 7), torch.rand(5, 9), ["one"] * 5)

    def loading() -> towers.CaptionedPictures:
        torch.rand(3)  # a network that is built draws its first weights
        monkeypatch.setattr(towers, "training", lambda: known)
        return known

    monkeypatch.setattr(towers, "training", loading)
    first, second, other = (towers.Towers(seed, unit=True) for seed in (3, 3, 4))
    for one, same in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=0, atol=0)
    assert not torch.equal(first.image[0].weight, other.image[0].weight)
