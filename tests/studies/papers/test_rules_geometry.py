"""p096 and p111: random means and random scores meet no criterion."""

from __future__ import annotations

import pytest

from binderclip.studies import load_study
from binderclip.studies.harness.run import null_passes
from binderclip.studies.papers import p111_whitened_clip as whitened


def test_random_means_meet_no_criterion():
    assert null_passes(load_study("p096"), range(200, 208)) == []


def test_random_scores_meet_no_criterion(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whitened, "SHOWN", 12)
    assert null_passes(load_study("p111"), (200, 201, 202)) == []
