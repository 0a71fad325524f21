"""Occlusion removal (p116, arXiv 2409.13242): composites, masks, structure of ramps, losses, adversaries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from binderclip.data import synthesize_fence
from binderclip.errors import UsageError
from binderclip.generate import (
    AdversarialTrainer,
    CompletionGenerator,
    CompletionNet,
    OcclusionRemover,
    OccNet,
    completion_losses,
    structure_discriminator,
    structure_map,
    texture_discriminator,
)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 2, side: int = 16) -> dict[str, Tensor]:
    clean = drawn(0, count, 3, side, side)
    fence = synthesize_fence(clean, ["bars"], generator=torch.Generator().manual_seed(0))
    return {"image": fence.image, "mask": fence.mask, "clean": clean}


class Answers(nn.Module):
    """A mask network that finds what is bright."""

    def forward(self, images: Tensor) -> Tensor:
        return 100 * (images.mean(1, keepdim=True) - 0.5)


def remover(**settings: int) -> OcclusionRemover:
    return OcclusionRemover(Answers(), CompletionNet(4, growth=2), **settings).eval()  # type: ignore[arg-type]


def test_where_nothing_is_found_the_picture_is_as_it_was() -> None:
    images = 0.4 * drawn(0, 2, 3, 12, 12)
    result = remover()(images)
    assert torch.equal(result.image, images)
    assert not result.mask.any()


def test_what_is_found_grows_and_is_painted_and_the_rest_stays() -> None:
    images = 0.4 * drawn(0, 1, 3, 12, 12)
    images[..., 5, 6] = 1.0
    result = remover(dilation=2)(images)
    expected = torch.zeros(12, 12)
    expected[3:8, 4:9] = 1.0
    assert torch.equal(result.mask[0, 0], expected)
    assert torch.equal(result.image * (1 - result.mask), images * (1 - result.mask))
    painted = remover(dilation=0)
    assert int(painted(images).mask.sum()) == 1
    again = remover(dilation=2)
    again.completion = painted.completion
    brighter = images.clone()
    brighter[..., 4, 5] = 0.45  # under the mask: what is painted does not know it
    torch.testing.assert_close(again(brighter).image, again(images).image)


def test_structure_is_the_slope_of_a_ramp_and_has_a_gradient_on_flat_ground() -> None:
    ramp = (0.05 * torch.arange(16.0)).expand(1, 3, 16, 16)
    torch.testing.assert_close(structure_map(ramp)[..., 8:9, 8:9].flatten(), torch.tensor([0.05]), atol=1e-4, rtol=0)
    flat = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    structure_map(flat).sum().backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())


def test_losses_weigh_the_hole_and_the_structure_sees_the_composite() -> None:
    data = batch()
    outputs = {"painted": data["clean"] + 0.1, "fake": data["clean"]}
    terms = {term.name: term for term in completion_losses(hole=6.0)}
    expected = 0.1 * (1 + 5 * float(data["mask"].mean()))
    assert float(terms["reconstruction"].compute(data, outputs)) == pytest.approx(expected, rel=1e-4)
    assert float(terms["structure"].compute(data, outputs)) == 0.0  # what is painted elsewhere does not count
    assert [term.weight for term in completion_losses()] == [1.0, 0.5]
    assert "perceptual" in {term.name for term in completion_losses(perceptual=lambda x, y: (x - y).mean())}


def test_discriminators_see_composite_or_structure_and_the_mask() -> None:
    data = batch()
    outputs = CompletionGenerator(CompletionNet(4, growth=2))(data)
    for term, channels in ((texture_discriminator(nn.Identity()), 3), (structure_discriminator(nn.Identity()), 1)):
        (fake,), real = term.fake_inputs(data, outputs), term.real(data, outputs)
        assert fake.shape[1] == real.shape[1] == channels + 1
        torch.testing.assert_close(fake[:, -1:], data["mask"])
        torch.testing.assert_close(real[:, -1:], data["mask"])
    torch.testing.assert_close(texture_discriminator(nn.Identity()).real(data, outputs)[:, :3], data["clean"])
    torch.testing.assert_close(real[:, :1], structure_map(data["clean"]))
    torch.testing.assert_close(outputs["fake"] * (1 - data["mask"]), data["image"] * (1 - data["mask"]))


def test_the_adversary_of_structure_reaches_the_composite_under_the_mask_far_weaker_than_that_of_texture() -> None:
    # Slopes of a blurred picture are small beside its values, so that equal weights are not equal forces. With the
    # networks of p116's study and drawn squares, structure was 0.06 % of the generator's gradient at first.
    made = batch()
    torch.manual_seed(0)
    fake = (made["image"] * (1 - made["mask"]) + 0.5 * made["mask"]).requires_grad_()
    forces = []
    for term, channels in ((texture_discriminator, 4), (structure_discriminator, 2)):
        critic = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        with torch.no_grad():
            critic.weight.fill_(1 / critic.weight[0].numel() ** 0.5)
        adversary = term(critic)
        loss = adversary.generator_loss(adversary.fake_inputs(made, {"fake": fake}))
        (force,) = torch.autograd.grad(loss, fake)
        forces.append(float((force * made["mask"]).norm()))
    assert 0 < forces[1] < 0.5 * forces[0]


def test_both_networks_learn() -> None:
    torch.manual_seed(0)
    data = batch(4)
    data["clean"] = torch.full_like(data["clean"], 0.1)
    generator = CompletionGenerator(CompletionNet(4, growth=2))
    critics = {
        "texture": texture_discriminator(nn.Conv2d(4, 1, 4, 2, 1)),
        "structure": structure_discriminator(nn.Conv2d(2, 1, 4, 2, 1)),
    }
    history = AdversarialTrainer(generator, critics, completion_losses(), lr=1e-2).fit(
        [data], steps=15, log_every=1
    ).history  # fmt: skip
    assert history["loss/reconstruction"][-1] < 0.9 * history["loss/reconstruction"][0]
    net = OccNet((4, 8))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    values = []
    for _ in range(15):
        loss = nn.functional.binary_cross_entropy_with_logits(net(data["image"]), data["mask"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.9 * values[0]


def test_vggs_shape_is_vggs() -> None:
    with torch.device("meta"):
        net = OccNet((64, 128, 256, 512, 512), convolutions=(2, 2, 3, 3, 3))
    sizes = [tuple(m.weight.shape[:2]) for m in net.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert sizes == [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256),
                     *[(512, 512)] * 5]  # fmt: skip


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="as many numbers of convolutions"):
        OccNet((4, 8), convolutions=(1,))
    with pytest.raises(UsageError, match="widths and convolutions"):
        OccNet((4, 0))
    with pytest.raises(UsageError, match="threshold"):
        OcclusionRemover(OccNet((4,)), CompletionNet(4), threshold=1.5)
    with pytest.raises(UsageError, match="dilation"):
        OcclusionRemover(OccNet((4,)), CompletionNet(4), dilation=-1)
    with pytest.raises(UsageError, match="hole"):
        completion_losses(hole=-1.0)
