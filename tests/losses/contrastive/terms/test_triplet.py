"""p135: the triplet loss on tokens, against torch's."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.losses import TokenTriplet

ANCHOR, POSITIVE, NEGATIVE = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))


def squared(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one - other).square().sum(-1)


@pytest.mark.parametrize("margin", [0.2, 1.0, 30.0])
def test_each_distance_is_torch_s_triplet_loss_on_its_axis(margin: float) -> None:
    torch_s = torch.nn.TripletMarginWithDistanceLoss(distance_function=squared, margin=margin)
    parts = (ANCHOR, POSITIVE, NEGATIVE)
    cases = {
        "pooled": torch_s(*(x.mean(1) for x in parts)),
        "tokens": torch_s(*(x.flatten(0, 1) for x in parts)),
        "released": torch_s(*(x.transpose(1, 2).flatten(0, 1) for x in parts)),
    }
    for distance, wanted in cases.items():
        found = TokenTriplet(margin, distance=distance)(*parts)  # type: ignore[arg-type]
        assert float(found) == pytest.approx(float(wanted), rel=1e-5), distance
    assert len({round(float(wanted), 4) for wanted in cases.values()}) == 3


def test_one_of_a_kind_costs_the_margin_and_a_far_negative_nothing() -> None:
    loss = TokenTriplet(0.7)
    assert float(loss(ANCHOR, ANCHOR, ANCHOR)) == pytest.approx(0.7)
    assert float(loss(ANCHOR, ANCHOR, ANCHOR + 1)) == 0.0  # 6 features a unit apart: 0 - 6 + 0.7
    assert float(loss(ANCHOR, ANCHOR + 1, ANCHOR)) == pytest.approx(6.7, rel=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="must be one of pooled, tokens, released"):
        TokenTriplet(distance="cosine")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one shape"):
        TokenTriplet()(ANCHOR, POSITIVE[:2], NEGATIVE)
