"""p096 and p111: random means and a whitening that knows no variances are measured beside the method, and help less."""

from __future__ import annotations

import pytest
import torch

from binderclip.studies import Table
from binderclip.studies.papers import p096_modality_gap as gap
from binderclip.studies.papers import p111_whitened_clip as whitened


def test_random_means_are_measured_beside_the_method_and_help_less():
    rows = {row.method: row.value for row in gap.measure(200) if row.metric == gap.NDCG}
    assert rows[gap.RANDOM] < rows[gap.REMOVED]
    assert rows[gap.RANDOM] < rows[gap.PLAIN] + 0.01


def test_shuffled_variances_are_measured_beside_the_likelihood(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whitened, "SHOWN", 12)
    table = Table(whitened.measure(200))
    assert table.mean(whitened.SUPPORT, whitened.WHITE, "image") > 10
    assert table.mean(whitened.SQUARE, whitened.SHUFFLED, "image") > 10 * table.mean(
        whitened.SQUARE, whitened.WHITE, "image"
    )
    assert all(0 < table.mean(whitened.AUC, name, kind) < 1 for name in whitened.METHODS for kind in whitened.KINDS)
    # The axes are those of the whitening, the variances are its own in another order.
    learnt = whitened.fitted(200)
    own, other = (w.fitted("text") for w in (learnt.whitening, learnt.shuffled))
    scale = (own["forward"] / other["forward"]).median(0).values.square() * own["variances"]
    torch.testing.assert_close(scale.sort().values, own["variances"].sort().values, rtol=1e-6, atol=1e-12)
