"""p161 (SegCLIP): grouping against its formula by loops, and what must not change it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import SemanticGrouping
from binderclip.models.layers.semantic_grouping import PatchRestoration


def grouping(**changes: int) -> SemanticGrouping:
    """Three centres of width 8, its normally tiny centres moved apart so that patches differ in their choice."""
    torch.manual_seed(0)
    net = SemanticGrouping(8, **({"groups": 3, "heads": 2} | changes)).eval()
    with torch.no_grad():
        net.centres.copy_(torch.randn(net.centres.shape))
    return net


@torch.no_grad()
def test_it_is_cross_attention_a_hard_choice_and_a_mean() -> None:
    """Steps 1 to 4 of the card, one picture, one head and one patch at a time."""
    net, patches = grouping(), torch.randn(2, 7, 8)
    found = net(patches)

    def quick(x: torch.Tensor) -> torch.Tensor:
        return x / (1 + torch.exp(-1.702 * x))

    def project(conv: torch.nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        halves = conv.weight[:, :, 0].chunk(2)
        return torch.cat([x[:, 4 * h : 4 * h + 4] @ halves[h].T for h in range(2)], 1)

    for row in range(2):
        q = net.centres
        for look in net.look:
            keys = look.norm_keys(torch.cat([q, patches[row]]))
            asked = look.norm_centres(q)
            wq, wk, wv = look.attention.in_proj_weight.chunk(3)
            heads = []
            for h in range(2):
                part = slice(4 * h, 4 * h + 4)
                scores = (asked @ wq.T)[:, part] @ (keys @ wk.T)[:, part].T / 2
                heads.append(scores.softmax(1) @ (keys @ wv.T)[:, part])
            q = q + look.attention.out_proj(torch.cat(heads, 1))
            fed = look.mlp[0](look.norm(q))
            q = q + look.mlp[2](quick(fed))
        q = net.norm_centres(q)
        normal = net.norm_patches(patches[row])
        k, v = net.norm_keys(project(net.key, normal)), project(net.value, normal)
        scores = q @ k.T
        chosen = scores.argmax(0)
        assert len(set(chosen.tolist())) > 1
        mean = torch.stack([v[chosen == g].sum(0) / max(1, int((chosen == g).sum())) for g in range(3)])
        wanted = quick(net.mlp(net.norm(q + mean)))
        assert torch.allclose(found.soft[row], scores.softmax(0), atol=1e-5)
        assert torch.equal(found.hard[row].argmax(0), chosen)
        assert torch.allclose(found.tokens[row], wanted, atol=1e-5)


def test_each_patch_has_one_centre_and_the_draw_is_noisy_in_training_alone() -> None:
    net, patches = grouping(), torch.randn(2, 40, 8)
    quiet = net(patches).hard
    assert torch.allclose(quiet.sum(1), torch.ones(2, 40), atol=1e-6)
    assert torch.equal(quiet, net(patches).hard)
    net.train()
    torch.manual_seed(1)
    first, second = net(patches).hard, net(patches).hard
    for hard in (first, second):
        assert torch.allclose(hard.amax(1), torch.ones(2, 40), atol=1e-6)
        assert torch.allclose(hard.sum(1), torch.ones(2, 40), atol=1e-6)
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_choice_passes_a_gradient_on() -> None:
    """The straight-through estimator: values are one-hot, the gradient that of the probabilities."""
    net, patches = grouping(), torch.randn(1, 5, 8)
    found, weights = net(patches), torch.randn(1, 3, 5)
    own = torch.autograd.grad((found.hard * weights).sum(), net.centres, retain_graph=True)[0]
    soft = torch.autograd.grad((found.soft * weights).sum(), net.centres)[0]
    assert float(own.abs().sum()) > 0
    assert torch.allclose(own, soft, atol=1e-6)


@torch.no_grad()
def test_the_order_of_patches_moves_assignments_and_nothing_else() -> None:
    net, patches = grouping(), torch.randn(2, 9, 8)
    order = torch.randperm(9)
    one, other = net(patches), net(patches[:, order])
    assert torch.allclose(other.tokens, one.tokens, atol=1e-5)
    assert torch.allclose(other.soft, one.soft[:, :, order], atol=1e-5)
    # Pictures do not see each other.
    assert torch.allclose(net(patches[:1]).tokens, one.tokens[:1], atol=1e-5)


@torch.no_grad()
def test_one_centre_has_the_mean_and_restoration_gives_a_patch_its_group() -> None:
    net, patches = grouping(groups=1), torch.randn(1, 6, 8)
    found = net(patches)
    values = net.value(net.norm_patches(patches).mT).mT
    centre = net.centres[None]
    for look in net.look:
        centre = look(centre, patches)
    whole = net.norm_centres(centre) + values.mean(1, keepdim=True)
    assert torch.allclose(found.tokens, net.activation(net.mlp(net.norm(whole))), atol=1e-5)
    back = PatchRestoration(2)
    back.weigh.weight.copy_(torch.eye(2))
    back.weigh.bias.zero_()
    tokens, hard = torch.randn(1, 2, 8), F.one_hot(torch.tensor([[1, 0, 1]]), 2).mT.float()
    wanted = tokens[0, [1, 0, 1]]
    assert torch.allclose(back(tokens, hard)[0], wanted * torch.sigmoid(1.702 * wanted), atol=1e-6)


def test_what_does_not_fit_is_said() -> None:
    for wrong in ({"heads": 3}, {"groups": 0}, {"layers": 0}, {"temperature": 0}):
        with pytest.raises(UsageError, match="width must be a multiple of heads"):
            grouping(**wrong)
