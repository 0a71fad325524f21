"""Scores against closed forms and brute force, budgets against counting (p046, p030)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from binderclip.compress import (
    GradientScore,
    MagnitudeScore,
    PruneBudget,
    RandomScore,
    channel_groups,
    masked,
    tower_groups,
)
from binderclip.errors import NotSupported, UsageError
from binderclip.models import open_image_tower
from binderclip.models.towers import Stack
from binderclip.models.towers.kinds.open_clip_vit import OpenClipBlock


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(5, 4),
    ).eval()  # fmt: skip


def test_magnitude_of_a_channel_is_that_of_its_kernel() -> None:
    network = convolutional()
    groups = channel_groups(network)
    scores, means = MagnitudeScore()(network, groups), MagnitudeScore(average="mean")(network, groups)
    for name in ("0", "3"):
        kernels = network.get_submodule(name).weight.detach().double()  # type: ignore[union-attr]
        torch.testing.assert_close(scores[name], kernels.flatten(1).norm(dim=1))
        torch.testing.assert_close(means[name], kernels.flatten(1).square().mean(1))


def test_magnitude_of_a_head_has_its_rows_and_columns() -> None:
    import timm

    torch.manual_seed(0)
    network = timm.models.VisionTransformer(img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=3)
    groups = tower_groups(open_image_tower(network))
    scores, attention = MagnitudeScore()(network, groups), network.blocks[0].attn
    for head in range(3):
        rows = [slice(part * 12 + head * 4, part * 12 + head * 4 + 4) for part in range(3)]
        square = sum(float(attention.qkv.weight[r].detach().square().sum()) for r in rows)
        square += float(attention.proj.weight.detach()[:, head * 4 : head * 4 + 4].square().sum())
        assert math.isclose(float(scores["image.0.heads"][head]), math.sqrt(square), rel_tol=1e-6)
    assert [int(n) for n in groups[0].parameters()] == [3 * 4 * 12 + 3 * 4 + 12 * 4] * 3


def test_gradient_score_is_the_derivative_in_a_mask_of_the_activations() -> None:
    """Brute force: a mask on what the ReLU gives, and its gradient over two batches."""
    network = convolutional()
    groups = channel_groups(network)
    batches = [torch.randn(4, 3, 6, 6) for _ in range(2)]

    def losses() -> Iterator[Tensor]:
        for pixels in batches:
            yield network(pixels).square().sum()

    mask = torch.ones(6, requires_grad=True)
    handle = network[2].register_forward_hook(lambda m, i, out: out * mask[:, None, None])
    expected = torch.zeros(6)
    for loss in losses():
        expected = expected + torch.autograd.grad(loss, mask)[0]
    handle.remove()
    before = [p.requires_grad for p in network.parameters()]
    scores = GradientScore(losses=losses, per_example=False)(network, groups)
    torch.testing.assert_close(scores["0"], expected.abs().double(), rtol=1e-5, atol=1e-5)
    assert [p.requires_grad for p in network.parameters()] == before
    # a loss that is linear in the last channels changes by exactly the score
    linear = GradientScore(losses=lambda: [network(batches[0]).sum()], per_example=False)(network, groups)["3"]
    with torch.no_grad():
        whole = network(batches[0]).sum()
        for channel in range(5):
            keep = {"3": torch.arange(5) != channel}
            with masked(groups, keep):
                change = float((whole - network(batches[0]).sum()).abs())
            assert math.isclose(change, float(linear[channel]), rel_tol=1e-3, abs_tol=1e-4)


def contrastive(first: Tensor, second: Tensor) -> Tensor:
    """A loss that couples the examples of a batch."""
    logits = first @ second.mT
    return -sum(side.log_softmax(1).diagonal().mean() for side in (logits, logits.mT)) / 2  # type: ignore[return-value]


def test_gradient_score_of_each_example_is_the_derivative_in_a_mask_of_its_own() -> None:
    """Brute force: one mask an example on what the ReLU gives, and the absolute value of each one's gradient."""
    network = convolutional()
    groups = channel_groups(network)
    batches = [(torch.randn(count, 3, 6, 6), torch.randn(count, 4)) for count in (4, 3)]
    expected = torch.zeros(6)
    for pixels, other in batches:
        mask = torch.ones(len(pixels), 6, requires_grad=True)
        handle = network[2].register_forward_hook(lambda m, i, out, mask=mask: out * mask[:, :, None, None])
        expected = expected + torch.autograd.grad(contrastive(network(pixels), other), mask)[0].abs().sum(0)
        handle.remove()
    before = [p.requires_grad for p in network.parameters()]
    scores = GradientScore(losses=lambda: (contrastive(network(x), other) for x, other in batches))(network, groups)
    torch.testing.assert_close(scores["0"], expected.double(), rtol=1e-5, atol=1e-6)
    assert [p.requires_grad for p in network.parameters()] == before
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in network.modules())
    # examples that pull a channel in opposite directions hide it in the sum, and only there
    pixels = batches[0][0][:1].expand(2, -1, -1, -1)
    signs = torch.tensor([1.0, -1.0])

    def losses() -> list[Tensor]:
        return [(network(pixels).sum(1) * signs).sum()]

    assert float(GradientScore(losses=losses, per_example=False)(network, groups)["3"].max()) < 1e-6
    assert float(GradientScore(losses=losses)(network, groups)["3"].max()) > 1e-3


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("trains", [True, False])
def test_gradient_score_of_each_text_of_heads_neurons_and_blocks(batch_first: bool, trains: bool) -> None:
    """torch's own attention reads its projection's weight itself; one mask an example, written out."""
    from open_clip.transformer import Transformer

    torch.manual_seed(0)
    transformer = Transformer(12, 2, 3, batch_first=batch_first).eval().requires_grad_(trains)
    tower = Mock(spec=Stack, blocks=[OpenClipBlock(own, 3, 12) for own in transformer.resblocks], module=transformer)
    groups = tower_groups(tower, ("head", "neuron", "block"))
    x, other = torch.randn(5, 7, 12), torch.randn(5, 12)

    def losses() -> list[Tensor]:
        return [contrastive(transformer(x)[:, -1], other)]

    scores = GradientScore(losses=losses)(transformer, groups)

    masks: dict[str, Tensor] = {}
    tokens = x
    for layer, block in enumerate(transformer.resblocks):
        sizes = {"heads": (5, 3), "neurons": (5, 48), "blocks": (5, 1)}
        own = {kind: torch.ones(size, requires_grad=True) for kind, size in sizes.items()}
        masks |= {f"image.{layer}.{kind}": mask for kind, mask in own.items()}
        joint = torch.nn.functional.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
        q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in joint.chunk(3, -1))
        mixed = ((q @ k.mT / 2).softmax(-1) @ v) * own["heads"][:, :, None, None]
        whole = own["blocks"][:, :, None]
        tokens = tokens + block.attn.out_proj(mixed.transpose(1, 2).flatten(2)) * whole
        hidden = block.mlp.gelu(block.mlp.c_fc(block.ln_2(tokens))) * own["neurons"][:, None]
        tokens = tokens + block.mlp.c_proj(hidden) * whole
    gradients = torch.autograd.grad(contrastive(tokens[:, -1], other), list(masks.values()))
    for name, gradient in zip(masks, gradients, strict=True):
        torch.testing.assert_close(scores[name], gradient.abs().sum(0).double(), rtol=1e-4, atol=1e-6)
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in transformer.modules())
    assert all(own.requires_grad is trains for own in transformer.parameters())


def test_examples_that_cannot_be_told_apart_are_refused() -> None:
    network = convolutional()
    groups = channel_groups(network)
    pixels = torch.randn(4, 3, 6, 6)
    before = network(pixels).sum()
    kept: dict[str, Any] = {"losses": lambda: [before]}
    with pytest.raises(NotSupported, match=r"0: its weights were used without running .* per_example=False"):
        GradientScore(**kept)(network, groups)
    weight = network[3].weight.detach()[:, :, 0, 0]
    unbatched: dict[str, Any] = {"losses": lambda: [torch.nn.functional.linear(pixels[0, 0], weight).sum()]}
    with pytest.raises(UsageError, match="finite scalars with a graph"):
        GradientScore(**unbatched)(network, groups)
    # the last layer runs on another number of examples than the rest
    twice: dict[str, Any] = {"losses": lambda: [network(pixels).sum() + network[6](torch.randn(2, 5)).sum()]}
    assert set(GradientScore(**twice)(network, groups)) == {"0", "3"}  # one reader, run twice: all examples count


def test_a_loss_that_is_none_is_refused() -> None:
    network = convolutional()
    groups = channel_groups(network)
    for losses in (list, lambda: [torch.tensor(1.0)], lambda: [network(torch.randn(1, 3, 6, 6)).sum() * math.nan]):
        with pytest.raises(UsageError, match="loss"):
            GradientScore(losses=losses)(network, groups)


def test_random_scores_are_those_of_their_seed() -> None:
    network = convolutional()
    groups = channel_groups(network)
    first, again, other = (RandomScore(seed=seed)(network, groups) for seed in (1, 1, 2))
    assert torch.equal(first["0"], again["0"])
    assert not torch.equal(first["0"], other["0"])


SCORES = {"a": torch.tensor([3.0, 1.0, 2.0, 4.0]), "b": torch.tensor([0.1, 0.2, 0.3, 0.4, 9.0, 8.0])}


def test_budgets_count() -> None:
    local = PruneBudget(amount=0.5).select(SCORES)
    assert local["a"].tolist() == [True, False, False, True]
    assert local["b"].tolist() == [False, False, False, True, True, True]
    ranked = PruneBudget(amount=0.5, scope="global").select(SCORES)
    assert ranked["a"].tolist() == [True, False, True, True]
    assert ranked["b"].tolist() == [False, False, False, False, True, True]
    capped = PruneBudget(amount=0.5, scope="global", cap=0.5).select(SCORES)
    assert capped["b"].tolist() == [False, False, False, True, True, True]


def test_each_layer_keeps_what_it_must_and_ties_are_in_order() -> None:
    equal = {"a": torch.zeros(3), "b": torch.ones(30)}
    keep = PruneBudget(amount=0.9, scope="global", cap=1.0).select(equal)
    assert keep["a"].tolist() == [False, False, True]
    assert PruneBudget(amount=0.9, at_least=2).select(equal)["a"].tolist() == [False, True, True]
    assert not PruneBudget(amount=0.9, scope="global", cap=1.0, at_least=0).select(equal)["a"].any()


@pytest.mark.parametrize("amount", [0, 1, 1.2, -0.1, math.nan, math.inf])
def test_an_amount_out_of_range_is_refused(amount: float) -> None:
    with pytest.raises(UsageError, match="amount"):
        PruneBudget(amount=amount)


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    with pytest.raises(UsageError, match="score of a is NaN"):
        PruneBudget(amount=0.5).select({"a": torch.tensor([1.0, math.nan])})
    with pytest.raises(UsageError, match="no scores"):
        PruneBudget(amount=0.5).select({})
    for settings in ({"scope": "all"}, {"cap": 0}, {"at_least": -1}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            PruneBudget(amount=0.5, **settings)  # type: ignore[arg-type]
