"""The next-scale generator (p081, arXiv 2501.04377): a flop counter, its quantiser's identities, and its causality."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from binderclip.errors import UsageError
from binderclip.models import NextScaleGenerator, next_scale_cost

SCALES = (1, 2, 4)


def make(**settings: Any) -> NextScaleGenerator:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"codes": 16, "channels": 3, "width": 12, "layers": 2, "heads": 4}
    return NextScaleGenerator(SCALES, **{**sizes, **settings})


def latents(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("degree", [None, 2])
def test_the_cost_is_what_a_flop_counter_counts(degree: int | None) -> None:
    model = make() if degree is None else make(attention="polynomial", degree=degree)
    maps = model.quantise(latents(1))
    # of fused attention the counter knows nothing
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for step in range(len(SCALES)):
            model(maps[:step])
    cost = next_scale_cost(SCALES, 12, 2, 4, degree=degree)
    beside = sum(n * (3 * 12 + 12 * 16) for n in itertools.accumulate(s**2 for s in SCALES))  # first and last layer
    counted = counter.get_total_flops() / 2  # two for a multiplication and an addition
    if degree is None:
        # the count of a step has all its tokens attend to all; those of coarser scales do not see finer ones
        seen = [
            sum(s * m for s, m in zip(blocks, itertools.accumulate(blocks), strict=True))
            for blocks in ([1], [1, 4], [1, 4, 16])
        ]
        attention = 2 * 2 * 12 * sum(seen)
        assert counted == cost.projections + cost.mlp + attention + beside
        assert attention < cost.attention == 2 * 2 * 12 * (1 + 25 + 441)
    else:
        assert counted == cost.total + beside


def test_exact_attention_grows_by_the_fourth_power_of_the_side_and_polynomials_by_the_second() -> None:
    costs = [[next_scale_cost([2**i for i in range(k)], 8, degree=d).attention for k in (7, 8, 9)] for d in (None, 4)]
    for (_, b, c), power in zip(costs, (4, 2), strict=True):
        assert c / b == pytest.approx(2**power, rel=0.02)


def test_the_quantiser_leaves_less_over_with_every_scale_and_knows_its_own_codes() -> None:
    model = make(codes=256)
    x = latents()
    maps = model.quantise(x)
    left = x
    for codes in maps:
        side = codes.shape[-1]
        small = F.adaptive_avg_pool2d(left, side)
        for row, column in itertools.product(range(side), repeat=2):  # the nearest code, one by one
            nearest = (small[:, None, :, row, column] - model.codebook.weight).square().sum(-1).argmin(1)
            assert torch.equal(codes[:, row, column], nearest)
        left = left - model.latent([codes])
    torch.testing.assert_close(x - model.latent(maps), left)
    assert left.square().mean() < 0.7 * x.square().mean()
    only = NextScaleGenerator((4,), codes=16, channels=3, width=12, heads=4)
    codes = torch.randint(16, (2, 4, 4))
    assert torch.equal(only.quantise(only.latent([codes]))[0], codes)


def test_a_scale_sees_only_those_before_it() -> None:
    for attention in ("exact", "polynomial"):
        model = make(attention=attention)
        maps = model.quantise(latents())
        other = [*maps[:1], (maps[1] + 1) % 16]
        here, there = model(maps[:2]), model(other)
        torch.testing.assert_close(here[:, :5], there[:, :5])  # logits of the first two scales
        assert not torch.allclose(here[:, 5:], there[:, 5:])
        torch.testing.assert_close(model(maps[:1]), here[:, :5])


def test_polynomials_of_high_degree_are_exact_attention() -> None:
    exact, polynomial = make(), make(attention="polynomial", degree=12)
    maps = exact.quantise(latents())
    torch.testing.assert_close(polynomial(maps[:2]), exact(maps[:2]), rtol=1e-4, atol=1e-5)
    crude = make(attention="polynomial", degree=0)  # every token is averaged
    assert not torch.allclose(crude(maps[:2]), exact(maps[:2]), atol=1e-4)


def test_it_learns_maps_and_draws_them_again() -> None:
    model = make(codes=4)
    maps = [codes[:1].expand(8, -1, -1) for codes in model.quantise(latents())]
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if n != "codebook.weight"], 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(maps)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    drawn, latent = model.generate(2, torch.Generator().manual_seed(0))
    same = torch.cat([(a == b[:2]).flatten() for a, b in zip(drawn, maps, strict=True)]).float().mean()
    assert same > 0.85
    torch.testing.assert_close(latent, model.latent(drawn))


def test_training_of_all_parameters_leaves_the_codes_that_maps_were_quantised_with() -> None:
    for attention in ("exact", "polynomial"):
        model, x = make(attention=attention), latents(8)
        maps, book = model.quantise(x), model.codebook.weight.detach().clone()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(30):
            optimizer.zero_grad()
            model.loss(maps).backward()
            optimizer.step()
        assert torch.equal(model.codebook.weight, book)
        assert all(torch.equal(a, b) for a, b in zip(model.quantise(x), maps, strict=True))
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert missing == ["codebook.weight"], "all others are trained"


def test_what_makes_no_generator_is_refused() -> None:
    for scales in ((), (2, 2), (4, 2)):
        with pytest.raises(UsageError, match="scales must rise"):
            NextScaleGenerator(scales)
    with pytest.raises(UsageError, match="a scale must be"):
        next_scale_cost((0, 1), 8)
    for name in ("codes", "channels", "width", "layers", "heads"):
        with pytest.raises(UsageError, match=f"{name} must be a whole number"):
            make(**{name: 0})
    with pytest.raises(UsageError, match="multiple of heads"):
        make(heads=5)
    with pytest.raises(UsageError, match="attention must be one of"):
        make(attention="linear")
    model = make()
    with pytest.raises(UsageError, match="latent must be"):
        model.quantise(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match="all 3 scales"):
        model.loss(model.quantise(latents())[:2])
    with pytest.raises(UsageError, match="count must be"):
        model.generate(0)
