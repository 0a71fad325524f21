"""Sequential deformation (p157, arXiv 2312.15861): 3-D sampling, erasure, two warps in a row, what each loss moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import worn_garments
from binderclip.errors import UsageError
from binderclip.generate import (
    AdversarialTrainer,
    SequentialFlow,
    erase_by_depth,
    layout_discriminator,
    try_on_losses,
)
from binderclip.vision import resize_flow, warp


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(count: int = 2) -> dict[str, Tensor]:
    return vars(worn_garments(count, size=(16, 16), generator=torch.Generator().manual_seed(0)))


def small(**settings: Any) -> SequentialFlow:
    torch.manual_seed(0)
    return SequentialFlow(3, 4, garment=1, width=4, levels=2, **settings)


def test_erasure_is_three_dimensional_sampling_of_the_garment_before_nothing() -> None:
    garment, flow = drawn(0, 2, 4, 7, 9), drawn(1, 2, 3, 7, 9)
    volume = torch.stack([garment, torch.zeros_like(garment)], 2)  # [B, C, 2, H, W]
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in (7, 9)), indexing="ij")
    grid = torch.stack([x + flow[:, 1] / 4, y + flow[:, 0] / 3, -1 + flow[:, 2]], -1)[:, None].double()
    expected = F.grid_sample(volume, grid, padding_mode="border", align_corners=True)[:, :, 0]
    torch.testing.assert_close(erase_by_depth(garment, flow), expected)


@pytest.mark.parametrize(("depth", "kept"), [(-1.0, 1.0), (0.0, 1.0), (0.5, 0.75), (2.0, 0.0), (3.0, 0.0)])
def test_depth_erases_and_leaves_the_texture_where_it_is(depth: float, kept: float) -> None:
    garment, flow = drawn(0, 1, 4, 7, 9), torch.zeros(1, 3, 7, 9).double()
    flow[:, 2] = depth
    torch.testing.assert_close(erase_by_depth(garment, flow), kept * garment)


def test_the_outputs_are_the_warps_that_the_flows_say() -> None:
    model, shirts = small().eval(), batch()
    nn.init.normal_(model.flow_heads[-1].bias, std=0.5)  # type: ignore[arg-type]
    assert isinstance(model.depth_head, nn.Conv2d)
    nn.init.normal_(model.depth_head.bias, std=0.5)  # type: ignore[arg-type]
    outputs = model(shirts)
    source = torch.cat([shirts["cloth"], shirts["cloth_mask"]], 1)
    smooth = warp(source, resize_flow(outputs["flows"][-1], (16, 16)))
    torch.testing.assert_close(outputs["smooth"], smooth)
    flow = outputs["depth_flow"]
    depth = F.interpolate(flow[:, 2:], (16, 16), mode="bilinear")
    across = resize_flow(flow[:, :2], (16, 16))
    torch.testing.assert_close(outputs["warped"], warp(smooth, across) * (1 - depth / 2).clamp(0, 1))
    assert [tuple(f.shape[-2:]) for f in outputs["flows"]] == [(4, 4), (8, 8)]


def test_a_constant_flow_at_every_level_moves_by_its_pixels() -> None:
    model, shirts = small(sequential=False).eval(), batch()
    with torch.no_grad():
        for head in model.flow_heads:
            head.weight.zero_()  # type: ignore[union-attr, operator]
            head.bias.zero_()  # type: ignore[union-attr, operator]
        model.flow_heads[1].bias.copy_(torch.tensor([0.0, 7 / 15]))  # type: ignore[union-attr, operator]
    outputs = model(shirts)  # 7 / 15 of the 8 pixels' scale is one pixel of 16
    torch.testing.assert_close(outputs["warped"][:, :3, :, :-1], shirts["cloth"][:, :, :, 1:], atol=1e-5, rtol=0)
    assert outputs["depth_flow"] is None


def test_the_layouts_garment_is_seen_through_its_mask() -> None:
    model, shirts = small().eval(), batch()
    seen: list[Tensor] = []
    model.out.register_forward_hook(lambda module, inputs, output: seen.append(output))
    outputs = model(shirts)
    expected = seen[0].clone()
    expected[:, 1] *= outputs["warped"][:, 3]
    torch.testing.assert_close(outputs["layout"], expected)


def perfect(shirts: dict[str, Tensor]) -> dict[str, Any]:
    """Outputs that are the truth: its flow, and an erasure of what is not seen."""
    source = torch.cat([shirts["cloth"], shirts["cloth_mask"]], 1)
    smooth = warp(source, shirts["flow"])
    depth = torch.cat([torch.zeros_like(shirts["flow"]), 2 * (1 - shirts["worn_mask"])], 1)
    layout = 50.0 * F.one_hot(shirts["layout"], 4).movedim(-1, 1).float()
    warped = erase_by_depth(smooth, depth)
    return {
        "flows": (shirts["flow"],), "smooth": smooth, "depth_flow": depth, "warped": warped, "layout": layout
    }  # fmt: skip


def test_losses_at_the_truth_leave_the_smooth_flow_free_below_the_waist() -> None:
    shirts = batch(4)
    outputs = perfect(shirts)
    terms = {term.name: float(term.compute(shirts, outputs)) for term in try_on_losses()}
    assert terms["order"] == 0.0
    assert terms["layout"] < 1e-6
    warped = float((outputs["warped"][:, 3:] - shirts["worn_mask"]).abs().mean())
    counted = 1 - shirts["excluded"]
    smooth = float((outputs["smooth"][:, 3:] * counted - shirts["worn_mask"] * counted).abs().mean())
    assert terms["mask"] == pytest.approx(warped + smooth, rel=1e-4)
    outputs["smooth"] = outputs["smooth"] * (1 - shirts["excluded"])  # below the waist nothing counts
    again = {term.name: float(term.compute(shirts, outputs)) for term in try_on_losses()}
    assert again["mask"] == pytest.approx(terms["mask"], rel=1e-5)
    # One flow for everything has no such freedom.
    single = outputs | {"depth_flow": None, "warped": perfect(shirts)["smooth"], "smooth": None}
    terms = {term.name: float(term.compute(shirts, single)) for term in try_on_losses()}
    assert terms["mask"] == pytest.approx(
        float((perfect(shirts)["smooth"][:, 3:] - shirts["worn_mask"]).abs().mean()), rel=1e-4
    )
    assert terms["order"] == terms["depth_smooth"] == 0.0


def test_coarser_flows_count_half_as_much_each() -> None:
    shirts = batch(1) | {"excluded": torch.zeros(1, 1, 16, 16)}
    outputs = perfect(shirts)
    still = torch.zeros(1, 2, 4, 4)
    errors = []
    for flows in ((still, shirts["flow"]), (still, still, shirts["flow"])):
        term = try_on_losses()[0]
        errors.append(float(term.compute(shirts, outputs | {"flows": flows})))
    least = float(try_on_losses(intermediate=False)[0].compute(shirts, outputs))
    unmoved = float((shirts["cloth_mask"] - shirts["worn_mask"]).abs().mean())
    assert errors == pytest.approx([least + unmoved / 2, least + unmoved * 0.75], rel=1e-5)


def test_smoothness_is_asked_of_the_first_warp_and_the_adversary_reaches_both() -> None:
    model, shirts = small(), batch()
    outputs = model(shirts)
    terms = {term.name: term for term in try_on_losses()}
    assert model.depth_head is not None
    loose, tight = model.depth_head.weight, model.flow_heads[-1].weight
    gradients = torch.autograd.grad(
        terms["smooth"].compute(shirts, outputs), (loose, tight), allow_unused=True, retain_graph=True
    )  # type: ignore[arg-type]
    assert gradients[0] is None
    assert bool(gradients[1].any())
    critic = nn.Conv2d(4 + 3 + 4, 1, 3)
    term = layout_discriminator(critic, classes=4)
    adversarial = term.generator_loss(term.fake_inputs(shirts, outputs))
    assert all(bool(g.any()) for g in torch.autograd.grad(adversarial, (loose, tight)))  # type: ignore[arg-type]


def test_it_trains_against_its_adversary() -> None:
    model, shirts = small(), batch(4)
    critic = nn.Sequential(nn.Conv2d(11, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))
    trainer = AdversarialTrainer(model, {"layout": layout_discriminator(critic, classes=4)}, try_on_losses(), lr=3e-3)
    history = trainer.fit([shirts], steps=8, log_every=1).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="levels"):
        SequentialFlow(3, 4, garment=1, levels=1)
    with pytest.raises(UsageError, match="garment must be one of 3 classes"):
        SequentialFlow(3, 3)
    with pytest.raises(UsageError, match="multiples of 4"):
        small()(batch() | {"body": torch.zeros(2, 3, 18, 16)})
