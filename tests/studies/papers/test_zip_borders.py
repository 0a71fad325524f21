"""What p114 measures of clusters, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from binderclip.studies.papers.p114_zip import border_f, outlined


def test_borders_by_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    clusters, instances = rng.integers(0, 3, (6, 7)), rng.integers(-1, 2, (6, 7))
    found, true = [], []
    for r in range(6):
        for c in range(7):
            for rr, cc in ((r, c + 1), (r + 1, c)):
                if rr < 6 and cc < 7 and min(instances[r, c], instances[rr, cc]) >= 0:
                    found.append(clusters[r, c] != clusters[rr, cc])
                    true.append(instances[r, c] != instances[rr, cc])
    assert border_f(clusters, instances) == pytest.approx(f1_score(true, found))
    assert border_f(instances, instances) == 1


def test_outlines_are_one_cell_wide_and_inside() -> None:
    instances = np.full((7, 8), -1)
    instances[1:6, 1:4], instances[1:6, 4:7] = 0, 1
    found = outlined(instances)
    assert (found == 2).sum() == 18 + 3  # the ring of 5 x 6 around both, and three between
    assert ((found == 2) <= (instances >= 0)).all()
    assert (found[3, 2], found[3, 5], found[0, 0]) == (0, 1, -1)
