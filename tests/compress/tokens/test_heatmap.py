"""Maps of surviving tokens: fractions, rows, correlation with the row, and the part inside a box (p073)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.compress import kept_inside_boxes, kept_token_heatmap
from binderclip.errors import UsageError


def test_fractions_rows_and_correlation_against_numpy():
    kept = torch.rand(50, 12, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.1, 0.9, 12)
    found = kept_token_heatmap(kept, (3, 4))
    mean = kept.numpy().mean(0).reshape(3, 4)
    np.testing.assert_allclose(found.fraction, mean, rtol=1e-6)
    np.testing.assert_allclose(found.rows, mean.mean(1), rtol=1e-6)
    expected = np.corrcoef(mean.ravel(), np.repeat(np.arange(3), 4))[0, 1]
    assert found.row_correlation() == pytest.approx(expected, abs=1e-6)
    assert found.row_correlation() > 0.8


def test_the_top_alone_correlates_negatively_and_everything_not_at_all():
    top = (torch.arange(16) < 8).expand(3, -1)
    assert kept_token_heatmap(top, (4, 4)).row_correlation() == pytest.approx(-2 / 5**0.5)
    assert kept_token_heatmap(torch.ones(3, 16, dtype=torch.bool), (4, 4)).row_correlation() == 0.0


def test_the_part_inside_a_box():
    kept = torch.zeros(3, 16, dtype=torch.bool)
    kept[0, [0, 1, 5, 15]] = True  # box: the upper left quarter, tokens 0, 1, 4 and 5
    kept[1] = True
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).expand(3, 4)
    assert kept_inside_boxes(kept, boxes, (4, 4)).tolist() == [0.75, 0.25, 0.0]


def test_it_draws():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    kept_token_heatmap(torch.eye(4, dtype=torch.bool), (2, 2)).draw(ax)
    assert [text.get_text() for text in ax.texts] == ["25"] * 4


def test_refusals():
    with pytest.raises(UsageError, match=r"grid \(3, 4\)"):
        kept_token_heatmap(torch.ones(2, 11, dtype=torch.bool), (3, 4))
    with pytest.raises(UsageError, match="kept must be masks"):
        kept_token_heatmap(torch.ones(0, 12, dtype=torch.bool), (3, 4))
    with pytest.raises(UsageError, match="boxes"):
        kept_inside_boxes(torch.ones(2, 12, dtype=torch.bool), torch.zeros(1, 4), (3, 4))
