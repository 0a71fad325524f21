"""Discriminators of SFD (p128, arXiv 2503.19295): receptive field, losses by hand, the optimum on two Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import FeatureDiscriminator, PromptPairDiscriminator
from binderclip.quality.enhance.discriminators import real_fake_loss


def test_a_logit_sees_five_by_five_places() -> None:
    torch.manual_seed(0)
    net = FeatureDiscriminator([2], hidden=8)
    x = torch.rand(1, 2, 11, 11, requires_grad=True)
    net([x])[0][0, 0, 5, 4].backward()
    assert x.grad is not None
    rows, columns = (x.grad.abs().sum((0, 1)) > 0).nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 7, 2, 6)


def test_loss_and_score_are_means_over_places_then_levels() -> None:
    logits = [torch.tensor([[[[0.5, -1.0]]]]), torch.tensor([[[[2.0]]]])]
    p = [x.sigmoid() for x in logits]
    real = (-(p[0].log().mean()) - p[1].log().mean()) / 2
    fake = (-((1 - p[0]).log().mean()) - (1 - p[1]).log().mean()) / 2
    assert torch.allclose(real_fake_loss(logits, real=True), real)
    assert torch.allclose(real_fake_loss(logits, real=False), fake)
    net = FeatureDiscriminator([3, 5], hidden=4)
    maps = [torch.rand(2, 3, 6, 6), torch.rand(2, 5, 3, 3)]
    each = [x.sigmoid().flatten(1).mean(1) for x in net.eval()(maps)]
    assert torch.allclose(net.score(maps), (each[0] + each[1]) / 2)
    with pytest.raises(UsageError, match="1 maps for 2 levels"):
        net(maps[:1])
    with pytest.raises(UsageError, match="channels is empty"):
        FeatureDiscriminator([])


def test_the_best_one_is_the_ratio_of_densities() -> None:
    # Real N(m, 1), fake N(-m, 1): the logit of p / (p + q) is 2 m x, flatter than spectral norms of 1 allow.
    torch.manual_seed(0)
    net, m = FeatureDiscriminator([1], hidden=16), 0.2
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(150):
        noise = torch.randn(2, 400, 1, 1, 1)
        loss = real_fake_loss(net([noise[0] + m]), real=True) + real_fake_loss(net([noise[1] - m]), real=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.linspace(-1, 1, 5)
    with torch.no_grad():
        found = net.eval()([x.view(-1, 1, 1, 1)])[0].flatten()
    assert torch.allclose(found, 2 * m * x, atol=0.2)


def test_prompts_are_a_two_way_classifier_whose_vectors_alone_learn(vit: ImageTextModel) -> None:
    pair = PromptPairDiscriminator(vit, n_ctx=4, scale=30.0, seed=1)
    assert pair.prompts.weight.shape == (2, 4, 32)
    assert not torch.equal(pair.prompts.weight[0], pair.prompts.weight[1])
    features = F.normalize(torch.randn(6, 24, generator=torch.Generator().manual_seed(0)), dim=1)
    texts = F.normalize(pair.prompts()[:, 0], dim=1)
    logits = 30 * features @ texts.T
    assert torch.allclose(pair.score(3 * features), logits.softmax(1)[:, 0], atol=1e-5)
    for real, place in ((True, 0), (False, 1)):
        assert torch.allclose(pair.loss(features, real=real), -logits.log_softmax(1)[:, place].mean(), atol=1e-5)
    vit.zero_grad(set_to_none=True)
    assert [name for name, _ in pair.named_parameters()] == ["prompts.weight"]
    # With no word of a class the prompt is the vectors and a full stop; 24 tokens have room for 20 vectors.
    assert PromptPairDiscriminator(vit, n_ctx=100).prompts.n_ctx == 20
