"""Weights, sensitivities and noise of the rules."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.privacy import AdaptiveClip, FlatClip, GroupClip, PrivateBatch, Statistic, as_rule, joint_multiplier


def test_flat_weights_are_the_ratio_where_the_norm_is_larger() -> None:
    rule = FlatClip(2.0)
    norms = torch.tensor([0.0, 1.0, 2.0, 8.0, math.inf, math.nan])
    assert rule.scales(norms).tolist() == [1.0, 1.0, 1.0, 0.25, 0.0, 0.0]
    assert rule.scales(norms[:, None]).shape == (6, 1)
    assert (rule.sensitivity, rule.noise_stds(1.5), rule.multiplier(1.5)) == (2.0, (3.0,), 1.5)
    assert as_rule(2.0).clip_norms == (2.0,)


@pytest.mark.parametrize("scaling", ["joint", "per_group", "flat"])
def test_group_noise_amounts_to_the_multiplier_that_is_accounted(scaling: str) -> None:
    rule = GroupClip({"a*": 1.0, "b": 3.0, "*": 0.5}, noise_scaling=scaling)  # type: ignore[arg-type]
    assert rule.assign(["a.weight", "b", "c", "a.b"]) == [0, 1, 2, 0]
    assert rule.sensitivity == pytest.approx(math.sqrt(1 + 9 + 0.25))
    stds = rule.noise_stds(1.2)
    # what one sample may move group j by, over its noise, joined over the groups
    amounts = joint_multiplier(std / norm for std, norm in zip(stds, rule.clip_norms, strict=True))
    assert amounts >= rule.multiplier(1.2) * (1 - 1e-9)
    if scaling != "flat":
        assert amounts == pytest.approx(rule.multiplier(1.2))
    else:
        assert stds == (1.2 * rule.sensitivity,) * 3


def test_a_shared_out_norm_keeps_the_flat_sensitivity() -> None:
    rule = GroupClip.per_tensor(["a", "b", "c", "d"], 2.0)
    assert rule.clip_norms == (1.0,) * 4
    assert rule.sensitivity == pytest.approx(2.0)
    with pytest.raises(UsageError, match="2 values for 3"):
        GroupClip.per_tensor(["a", "b", "c"], [1.0, 2.0])
    # the same noise for all, sigma C; or each by its own norm 1, of which there are four
    assert rule.noise_stds(1.5) == pytest.approx((3.0,) * 4)
    own = GroupClip.per_tensor(["a", "b", "c", "d"], 2.0, noise_scaling="per_group")
    assert own.noise_stds(1.5) == pytest.approx((1.5,) * 4)
    assert own.multiplier(1.5) == pytest.approx(0.75)


def test_the_quantile_rule_pays_for_its_count_by_more_noise() -> None:
    rule = AdaptiveClip(1.0, unclipped_num_std=5.0)
    (count,) = rule.statistics(1.3)
    assert count.sensitivity == 0.5
    assert joint_multiplier([rule.multiplier(1.3), count.multiplier]) == pytest.approx(1.3)
    # the formula of Opacus's AdaClipDPOptimizer
    assert rule.multiplier(1.3) == pytest.approx((1.3**-2 - (2 * 5.0) ** -2) ** -0.5)
    norms = torch.tensor([[0.2], [0.9], [1.0], [4.0], [7.0]])
    batch = PrivateBatch(norms, rule.scales(norms), rule.clip_norms, norms[:, 0], lambda w: ())
    assert float(count.value(batch)) == pytest.approx(3 - 2.5)
    rule.update({"unclipped": count.value(batch)}, 5.0)
    assert rule.clip_norms[0] == pytest.approx(math.exp(-0.2 * (0.6 - 0.5)))


@pytest.mark.parametrize(("unclipped", "expected"), [(4.0, 2 * math.exp(-0.5 * 0.3)), (-5.0, 2.4), (5e3, 1.5)])
def test_the_quantile_rule_moves_at_its_rate_between_its_bounds(unclipped: float, expected: float) -> None:
    bounds = {"min_clipbound": 1.5, "max_clipbound": 2.4}
    rule = AdaptiveClip(2.0, target_unclipped_quantile=0.6, clipbound_learning_rate=0.5, **bounds)
    rule.update({"unclipped": torch.tensor(unclipped)}, 10.0)  # centred: a share of .9, 0 and above 1
    assert rule.clip_norms[0] == pytest.approx(expected)


def test_the_quantile_rule_finds_the_quantile() -> None:
    generator = torch.Generator().manual_seed(0)
    rule = AdaptiveClip(20.0, target_unclipped_quantile=0.7)
    for _ in range(300):
        norms = torch.empty(400, 1).exponential_(0.5, generator=generator)
        batch = PrivateBatch(norms, norms, rule.clip_norms, norms[:, 0], lambda w: ())
        count = rule.statistics(1.0)[0].value(batch) + 10 * torch.randn((), generator=generator)
        rule.update({"unclipped": count}, 400.0)
    assert rule.clip_norms[0] == pytest.approx(-2 * math.log(0.3), rel=0.05)


def test_state_goes_round_and_bad_values_are_named() -> None:
    rule = AdaptiveClip(1.0)
    rule.clip_norms = (3.0,)
    other = AdaptiveClip(1.0)
    other.load_state_dict(rule.state_dict())
    assert other.clip_norms == (3.0,)
    for make in (
        lambda: FlatClip(0.0),
        lambda: FlatClip(-1.0),
        lambda: GroupClip({}),
        lambda: GroupClip({"*": 1.0}, noise_scaling="all"),  # type: ignore[arg-type]
        lambda: GroupClip({"a": 1.0}).assign(["a", "b"]),
        lambda: GroupClip({"a": 1.0, "b": 1.0}).assign(["a"]),
        lambda: AdaptiveClip(1.0, target_unclipped_quantile=2.0),
        lambda: AdaptiveClip(1.0, unclipped_num_std=0.4).noise_stds(1.0),
        lambda: AdaptiveClip(1.0, max_clipbound=0.5),
        lambda: FlatClip(math.inf).noise_stds(1.0),
        lambda: Statistic("s", lambda b: b.norms, 0.0, 1.0),
        lambda: Statistic("s", lambda b: b.norms, 1.0, 0.0),
    ):
        with pytest.raises(UsageError):
            make()
    assert FlatClip(math.inf).noise_stds(0.0) == (0.0,)
    with pytest.raises(UsageError, match="one a group"):
        rule.clip_norms = (1.0, 2.0)
