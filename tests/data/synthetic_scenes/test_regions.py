"""Regions of scenes with their names (p075)."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.data import rgba_pairs, scenes
from binderclip.errors import UsageError


@pytest.fixture(scope="module")
def made():
    return scenes(3, 60, 32, objects=(2, 3))


def test_a_region_is_an_object_with_its_name_or_the_whole_picture(made) -> None:
    pairs = rgba_pairs(made, full=0.3, seed=1)
    assert pairs.alpha.shape == (60, 1, 32, 32)
    for row, chosen in enumerate(pairs.objects):
        if chosen < 0:
            assert pairs.captions[row] == made.captions[row]
            assert bool((pairs.alpha[row] == 1).all())
        else:
            name = made.names[row][chosen]
            assert pairs.captions[row] == f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
            assert bool((pairs.alpha[row, 0] == made.visible[row, chosen]).all())
    # binomial of 60 at 0.3: 18 on average, a deviation of 3.5
    assert 8 <= int((pairs.objects < 0).sum()) <= 29


def test_draws_follow_the_seed_and_the_share(made) -> None:
    one, same, other = (rgba_pairs(made, full=0.0, seed=seed).objects for seed in (1, 1, 2))
    assert (one == same).all()
    assert not (one == other).all()
    assert set(np.unique(one)) == {0, 1, 2}
    assert (rgba_pairs(made, full=1.0).objects == -1).all()


def test_what_is_wrong_is_said(made) -> None:
    with pytest.raises(UsageError, match=r"full must be in \[0, 1\]"):
        rgba_pairs(made, full=2.0)
    with pytest.raises(UsageError, match="scene 0 shows no object"):
        rgba_pairs(scenes(0, 1, 32, objects=0))
