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


def reads(before: int, after: int) -> int:
    """Places that means over areas read, by the response to each place alone."""
    impulses = torch.eye(before**2).reshape(-1, 1, before, before)
    return int((F.adaptive_avg_pool2d(impulses, after) != 0).sum())


def counter_of(side: int) -> FlopCounterMode:
    """A flop counter that knows interpolation as well, which torch's own leaves out, of maps up to a side."""
    read = {(before, after): reads(before, after) for before in range(1, side + 1) for after in range(1, before + 1)}
    aten: Any = torch.ops.aten

    def bicubic(*_: Any, out_shape: Any, **__: Any) -> int:
        return 2 * 16 * int(torch.Size(out_shape).numel())

    def area(shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return 2 * shape[0] * shape[1] * read[shape[-1], out_shape[-1]]

    mapping = {aten.upsample_bicubic2d: bicubic, aten._adaptive_avg_pool2d: area}
    return FlopCounterMode(display=False, custom_mapping=mapping)


@pytest.mark.parametrize("scales", [(1, 2, 4), (1, 3, 4, 6), (2, 5)])
@pytest.mark.parametrize("degree", [None, 2])
def test_the_cost_is_what_a_flop_counter_counts_in_a_generation(scales: tuple[int, ...], degree: int | None) -> None:
    attention = "exact" if degree is None else "polynomial"
    model = NextScaleGenerator(scales, 16, 3, 12, 2, 4, attention=attention, degree=degree or 2)
    # of fused attention the counter knows nothing
    with counter_of(scales[-1]) as counter, sdpa_kernel(SDPBackend.MATH):
        model.generate(1)
    cost = next_scale_cost(scales, 12, 2, 4, degree=degree, channels=3, codes=16)
    counted: dict[str, int] = {str(op): flops // 2 for op, flops in counter.get_flop_counts()["Global"].items()}
    assert cost.attention == counted.pop("aten.bmm")
    assert cost.projections + cost.mlp + cost.ends == counted.pop("aten.addmm")
    assert cost.interpolation == sum(counted.values())
    assert cost.total == counter.get_total_flops() / 2
    assert cost.decoder == 0


def test_exact_attention_is_counted_to_the_own_scale_and_those_before() -> None:
    # the tokens of 1, 1 + 4 and 1 + 4 + 16: 1 + (1 + 4 * 5) + (1 + 4 * 5 + 16 * 21); all to all it is 467
    assert next_scale_cost(SCALES, 1).attention == 2 * 379


def test_the_decoder_is_counted_as_a_flop_counter_counts_torchs_own_layers() -> None:
    before, after = torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.Conv2d(12, 3, 3, padding=1)
    attention = torch.nn.MultiheadAttention(12, 1, batch_first=True)
    with counter_of(4) as counter, sdpa_kernel(SDPBackend.MATH):
        x = before(torch.zeros(1, 3, 4, 4)).flatten(2).mT
        x = attention(x, x, x, need_weights=False)[0].mT.unflatten(-1, (4, 4))
        after(F.interpolate(x, scale_factor=2, mode="bicubic"))
    assert next_scale_cost(SCALES, 8, channels=3, decoder=12).decoder == counter.get_total_flops() / 2
    costs = [next_scale_cost((1, side), 8, decoder=4).decoder for side in (64, 128, 256)]
    assert costs[2] / costs[1] == pytest.approx(16, rel=0.02), "its attention is of the fourth power"


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
