"""p049 (arXiv 2410.16476): sharpness layer by layer, against closed forms and the whole model's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.landscape import Neighbourhood, layerwise_sharpness, worst_case_sharpness

F64 = torch.float64


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    return net, [(torch.randn(9, 4, dtype=F64), torch.randint(0, 3, (9,)))]


def linear_loss(model, batch):
    """Linear in the weights: its gradient is the batch."""
    return sum((weight * part).sum() for weight, part in zip(model.parameters(), batch, strict=True))


def test_of_a_linear_loss_it_is_the_sum_of_gradient_times_weight():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).double()
    batch = tuple(torch.randn_like(weight) for weight in net.parameters())
    found = layerwise_sharpness(net, [batch], loss=linear_loss, rho=0.01)
    # max over |d| <= rho |w| of <g, d> is rho sum |g| |w|
    products = [float((part * weight).abs().sum()) for part, weight in zip(batch, net.parameters(), strict=True)]
    assert found.layers == ("0", "1")
    assert found.values.tolist() == pytest.approx([0.01 * sum(products[:2]), 0.01 * sum(products[2:])], rel=1e-6)
    assert found.whole == pytest.approx(float(found.values.sum()), rel=1e-6)
    assert found.mean(["1"]) == float(found.values[1])


def test_all_layers_together_are_the_whole_models_sharpness_and_all_is_put_back():
    net, batches = network()
    net.train()
    before = {name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()}
    found = layerwise_sharpness(net, batches, rho=0.05, steps=10)
    assert {name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()} == before
    assert net.training
    net.eval()

    def loss(batch):
        logits = net(batch[0])
        return nn.functional.cross_entropy(logits / logits.norm(dim=1, keepdim=True), batch[1])

    ball = Neighbourhood(net, 0.05, norm="linf", scale="weight")
    assert found.whole == pytest.approx(worst_case_sharpness(loss, batches, ball, steps=10).mean, rel=1e-9)
    assert float(found.values.max()) <= found.whole
    assert float(found.values.min()) > 0
    own = Neighbourhood(net[3], 0.05, norm="linf", scale="weight")
    alone = layerwise_sharpness(net, batches, rho=0.05, steps=10, layers=["3"], whole=False)
    assert alone.values.tolist() == pytest.approx([worst_case_sharpness(loss, batches, own, steps=10).mean], rel=1e-9)
    assert alone.whole is None


def test_the_scale_of_the_logits_does_not_count():
    net, batches = network()
    before = layerwise_sharpness(net, batches, rho=0.02, steps=5, layers=["0"], whole=False)
    with torch.no_grad():
        net[3].weight.mul_(8)
        net[3].bias.mul_(8)
    after = layerwise_sharpness(net, batches, rho=0.02, steps=5, layers=["0"], whole=False)
    torch.testing.assert_close(after.values, before.values)


def test_what_has_no_sharpness_is_refused():
    net, batches = network()
    counts = []
    found = layerwise_sharpness(net, batches, steps=1, progress=lambda *count: counts.append(count))
    assert counts[-1] == (4, 4)
    refusals = {
        "no layer": lambda: layerwise_sharpness(net, batches, layers=["7"]),
        "rho must be": lambda: layerwise_sharpness(net, batches, rho=0.0),
        "rho must be a finite": lambda: layerwise_sharpness(net, batches, rho=math.nan),
        "steps must be": lambda: layerwise_sharpness(net, batches, steps=0),
        "no batch": lambda: layerwise_sharpness(net, []),
        "was measured": lambda: found.mean(["8"]),
        "over no layer": lambda: found.mean([]),
        "requires a gradient": lambda: layerwise_sharpness(net.requires_grad_(False), batches),
    }
    for words, call in refusals.items():
        with pytest.raises(errors.UsageError, match=words):
            call()
