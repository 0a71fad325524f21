"""p023: proximal maps against a search over a fine grid, and the penalties' defining properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from binderclip.errors import UsageError
from binderclip.vision import penalty_value, prox
from binderclip.vision.sparse.penalties import PENALTIES, Penalty


@given(penalty=st.sampled_from(PENALTIES), z=st.floats(-4, 4), step=st.floats(0.05, 0.95), lam=st.floats(0.01, 2))
def test_a_proximal_map_is_the_least_of_its_problem(penalty: Penalty, z: float, step: float, lam: float) -> None:
    """No point of a fine grid has a smaller value; at a jump two points share it, so values are compared."""
    x = float(prox(penalty, torch.tensor([z], dtype=torch.float64), step, lam))

    def objective(points: Any) -> Any:
        pen = penalty_value(penalty, torch.as_tensor(points, dtype=torch.float64), lam).numpy()
        return 0.5 * (np.asarray(points) - z) ** 2 + step * pen

    grid = np.concatenate([np.linspace(-4.5, 4.5, 9_001), [0.0]])
    assert float(objective([x])[0]) <= float(objective(grid).min()) + 1e-7
    assert abs(x) <= abs(z) + 1e-12
    assert x * z >= 0


def test_the_thresholds_are_the_published_ones() -> None:
    z = torch.linspace(0, 3, 300_001, dtype=torch.float64)
    step, lam = 0.3, 0.5
    first = {name: float(z[prox(name, z, step, lam) > 0][0]) for name in PENALTIES}
    assert first["l1"] == pytest.approx(step * lam, abs=2e-5)
    assert first["l0"] == pytest.approx(math.sqrt(2 * step * lam), abs=2e-5)
    assert first["lhalf"] == pytest.approx(54 ** (1 / 3) / 4 * (2 * step * lam) ** (2 / 3), abs=2e-5)
    assert first["cel0"] == pytest.approx(math.sqrt(2 * lam) * step, abs=2e-5)
    # large coefficients: l1 takes t from all, the others less and less or nothing
    large = torch.tensor([50.0], dtype=torch.float64)
    taken = {name: float(large - prox(name, large, step, lam)) for name in PENALTIES}
    assert taken["l1"] == pytest.approx(step * lam)
    assert taken["l0"] == taken["cel0"] == 0
    assert 0 < taken["lhalf"] < 0.1 * taken["l1"]


def test_the_papers_code_has_half_of_the_weight_in_two_maps() -> None:
    z = torch.linspace(-2, 2, 401)
    for name in PENALTIES:
        theirs = prox(name, z, 0.3, 0.4, convention="paper_code")
        assert torch.equal(theirs, prox(name, z, 0.3, 0.2 if name in ("l0", "lhalf") else 0.4))


@given(lam=st.floats(0.01, 3))
def test_cel0_is_the_envelope_of_l0(lam: float) -> None:
    """For columns of length 1: never above l0, equal at 0 and beyond sqrt(2 lam), and x^2 / 2 + it is convex."""
    x = torch.linspace(0, 4, 4001, dtype=torch.float64)
    relaxed, count = penalty_value("cel0", x, lam), penalty_value("l0", x, lam)
    assert bool((relaxed <= count + 1e-12).all())
    beyond = x >= math.sqrt(2 * lam)
    assert torch.allclose(relaxed[beyond], count[beyond])
    assert float(relaxed[0]) == pytest.approx(0, abs=1e-12)
    assert bool(((0.5 * x.square() + relaxed).diff(n=2) >= -1e-9).all())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"penalty": "l2"}, "penalty"),
        ({"step": 0.0}, "step"),
        ({"penalty": "cel0", "step": 1.0}, "step"),
        ({"lam": -1.0}, "lam"),
        ({"lam": float("nan")}, "lam"),
        ({"convention": "theirs"}, "convention"),
    ],
)
def test_what_has_no_map_is_refused(changes: dict[str, Any], words: str) -> None:
    settings: dict[str, Any] = {"penalty": "l1", "step": 0.5, "lam": 1.0} | changes
    penalty, step, lam = (settings.pop(name) for name in ("penalty", "step", "lam"))
    with pytest.raises(UsageError, match=words):
        prox(penalty, torch.zeros(3), step, lam, **settings)
