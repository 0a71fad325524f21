"""The whitening of W_CLIP's authors (p111, arXiv 2505.06934): applied by hand, its density, and what does not fit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from binderclip.errors import CheckpointError, UsageError
from binderclip.evaluate import load_whitening


def test_two_files_are_a_whitening(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    values, axes = torch.linalg.eigh(mixing @ mixing.T)
    matrix, mean = axes / values.sqrt(), torch.randn(5, generator=generator)  # as the official program makes them
    torch.save(mean, tmp_path / "mean.pt")
    torch.save(matrix, tmp_path / "w.pt")
    whitening = load_whitening(tmp_path / "mean.pt", tmp_path / "w.pt", "image")
    x = torch.randn(40, 5, generator=generator).double() @ mixing.T + mean
    whitened = whitening.transform(x, "image")
    torch.testing.assert_close(whitened, (x - mean.double()) @ matrix)
    torch.testing.assert_close(whitening.inverse(whitened, "image"), x)
    official = -0.5 * (5 * math.log(2 * math.pi) + whitened.norm(dim=1) ** 2)
    torch.testing.assert_close(whitening.log_likelihood(x, "image"), official)
    assert whitening.condition("image") == pytest.approx(float(values[-1] / values[0]))
    with pytest.raises(UsageError, match="not on text"):
        whitening.transform(x, "text")


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    for name, content in (("mean", torch.zeros(5)), ("w", torch.eye(4)), ("zero", torch.zeros(5, 5))):
        torch.save(content, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"must hold \(k,\) and \(k, k\), not \(5,\) and \(4, 4\)"):
        load_whitening(tmp_path / "mean", tmp_path / "w", "image")
    with pytest.raises(CheckpointError, match="a column of zeros"):
        load_whitening(tmp_path / "mean", tmp_path / "zero", "image")
