"""p096 and p111: random means and random scores are measured beside the method, and are no better than chance."""

from __future__ import annotations

import pytest

from binderclip.studies.papers import p096_modality_gap as gap
from binderclip.studies.papers import p111_whitened_clip as whitened


def test_random_means_are_measured_beside_the_method_and_help_less():
    rows = {row.method: row.value for row in gap.measure(200) if row.metric == gap.NDCG}
    assert rows[gap.RANDOM] < rows[gap.REMOVED]
    assert rows[gap.RANDOM] < rows[gap.PLAIN] + 0.01


def test_random_scores_are_measured_beside_the_likelihood(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whitened, "SHOWN", 12)
    rows = [row for row in whitened.measure(200) if row.method == whitened.CHANCE and row.metric == whitened.AUC]
    assert len(rows) == len(whitened.KINDS)
    assert all(0.2 < row.value < 0.8 for row in rows)
