"""`patch_correspondence` of p034 (arXiv 2410.01534), where each patch is known to have gone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.evaluate import patch_correspondence


def grid(height: int = 6, width: int = 8) -> torch.Tensor:
    """The place of each patch, (2, h, w)."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([y, x])


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(32, 6, 8, generator=torch.Generator().manual_seed(seed))


def test_a_view_of_itself_is_found_entirely_and_a_shifted_one_where_it_went() -> None:
    own = features()
    found = patch_correspondence(own, own, grid())
    assert (found.recall, found.matches, found.error) == (1.0, 48, pytest.approx(0))
    moved, places = torch.roll(own, 2, dims=2), grid()
    places[1] += 2 / 8
    places[:, places[1] > 1] = torch.nan
    found = patch_correspondence(own, moved, places)
    assert (found.recall, found.matches) == (1.0, 36)
    wrong = patch_correspondence(own, moved, grid())
    assert wrong.recall == 0, "the true places are what counts"


def test_matches_are_mutual_nearest_neighbours_by_brute_force() -> None:
    one, other = features(1), features(1) + 1.5 * features(2)
    a, b = (each.flatten(1).T.double().numpy() for each in (one, other))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    apart = np.linalg.norm(a[:, None] - b[None], axis=2)
    pairs = [(i, int(apart[i].argmin())) for i in range(48) if int(apart[:, apart[i].argmin()].argmin()) == i]
    places = grid().flatten(1).T.numpy()
    near = [np.linalg.norm(places[i] - places[j]) <= 0.1 for i, j in pairs]
    found = patch_correspondence(one, other, grid())
    assert found.matches == len(pairs) < 48
    assert found.recall == pytest.approx(np.mean(near))
    ratio = [np.sort(apart[i])[0] / np.sort(apart[i])[1] for i, _ in pairs]
    best = np.argsort(ratio, kind="stable")[:5]
    assert patch_correspondence(one, other, grid(), keep=5).recall == pytest.approx(np.mean(np.array(near)[best]))


def test_what_is_wrong_is_said_and_nothing_visible_is_no_match() -> None:
    own = features()
    nothing = patch_correspondence(own, own, torch.full((2, 6, 8), torch.nan))
    assert nothing.matches == 0
    assert np.isnan(nothing.recall)
    with pytest.raises(UsageError, match=r"places \(2, h, w\)"):
        patch_correspondence(own, own, grid()[:1])
    with pytest.raises(UsageError, match="above 0"):
        patch_correspondence(own, own, grid(), threshold=0)
