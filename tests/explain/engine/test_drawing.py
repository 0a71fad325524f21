"""Drawing rules of p008 (SmoothGrad, arXiv 1706.03825, section 3) against loops and percentiles by sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.explain import to_map


def test_each_image_is_capped_at_its_own_percentile() -> None:
    values = torch.randn(3, 3, 10, 12, generator=torch.Generator().manual_seed(0))
    values[1] *= 1000
    for sign in ("abs", "signed", "relu"):
        found = to_map(values, sign=sign)
        for index in range(3):
            one = values[index].numpy()
            one = {"abs": np.abs(one), "signed": one, "relu": np.maximum(one, 0)}[sign].sum(0)
            cap = np.percentile(np.abs(one), 99)
            np.testing.assert_allclose(found[index].numpy(), np.clip(one / cap, -1, 1), rtol=1e-5, atol=1e-7)
    assert float(to_map(values, sign="signed").min()) < 0 <= float(to_map(values).min())


def test_channels_and_image() -> None:
    values = torch.tensor([[[[1.0, -5.0]], [[-3.0, 2.0]]]])
    assert to_map(values, percentile=100)[0, 0].tolist() == pytest.approx([4 / 7, 1.0])
    assert to_map(values, channels="max", sign="signed", percentile=100)[0, 0].tolist() == pytest.approx([-0.6, -1.0])
    black = torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]]]])
    assert to_map(values, image=black, percentile=100).tolist() == [[[0.0, 1.0]]]
    # A map without channels is drawn as one channel.
    flat = torch.tensor([[[2.0, -4.0]]])
    assert to_map(flat, percentile=100).tolist() == [[[0.5, 1.0]]]


def test_sparse_and_empty_maps_stay_finite() -> None:
    values = torch.zeros(2, 1, 20, 20)
    values[1, 0, 3, 4] = 7.0
    found = to_map(values)
    assert float(found[0].abs().max()) == 0
    assert float(found[1, 3, 4]) == 1
    assert float(found.sum()) == 1


def test_bad_options_are_named() -> None:
    values = torch.zeros(1, 3, 4, 4)
    for options, words in [
        ({"sign": "both"}, "sign must be"),
        ({"channels": "mean"}, "channels must be"),
        ({"percentile": 0}, "percentile must be"),
        ({"image": torch.zeros(1, 3, 5, 4)}, "does not fit"),
    ]:
        with pytest.raises(UsageError, match=words):
            to_map(values, **options)
    with pytest.raises(UsageError, match="values must be"):
        to_map(values[0, 0])
