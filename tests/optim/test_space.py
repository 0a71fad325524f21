"""Hessian-vector products against the full Hessian of torch.func and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from binderclip import errors
from binderclip.losses import clip
from binderclip.optim import HessianOperator, hvp


def small_net(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(10, 4, dtype=torch.float64), torch.randint(0, 3, (10,))
    return net, lambda: nn.functional.cross_entropy(net(x), y), x, y


def full_hessian(net, x, y):
    """All second derivatives as one matrix, by torch.func, in the order of named_parameters()."""
    params = {name: p.detach() for name, p in net.named_parameters()}
    blocks = hessian(lambda p: nn.functional.cross_entropy(functional_call(net, p, (x,)), y))(params)
    return torch.cat(
        [torch.cat([blocks[a][b].reshape(params[a].numel(), -1) for b in params], dim=1) for a in params], dim=0
    )


def flat(tree):
    return torch.cat([t.reshape(-1) for t in (tree.values() if isinstance(tree, dict) else tree)])


@pytest.mark.parametrize("named", [False, True])
def test_product_is_the_full_hessians(named):
    net, loss, x, y = small_net()
    full = full_hessian(net, x, y)
    params = dict(net.named_parameters()) if named else list(net.parameters())
    operator = HessianOperator(loss, params)
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        direction = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in net.parameters()]
        if named:
            direction = dict(reversed(list(zip(params, direction, strict=True))))
        product = operator(direction)
        assert isinstance(product, dict if named else list)
        ordered = [direction[name] for name in params] if named else direction
        torch.testing.assert_close(flat(product), full @ flat(ordered), rtol=0, atol=1e-12)
        torch.testing.assert_close(flat(hvp(loss, params, direction)), flat(product), rtol=0, atol=0)


def test_operator_gives_loss_and_gradient_and_leaves_grad_alone():
    net, loss, _, _ = small_net()
    operator = HessianOperator(loss(), list(net.parameters()))
    assert float(operator.loss) == float(loss().detach())
    expected = torch.autograd.grad(loss(), list(net.parameters()))
    torch.testing.assert_close(operator.gradient, list(expected))
    operator([torch.ones_like(p) for p in net.parameters()])
    assert all(p.grad is None for p in net.parameters())


def test_flat_linear_and_unused_parameters_have_curvature_zero():
    w, v, unused = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(3))
    ones = [torch.ones(2)] * 3
    product = hvp(lambda: (w**2).sum() + 3 * v.sum(), [w, v, unused], ones)
    assert [p.tolist() for p in product] == [[2, 2], [0, 0], [0, 0]]
    assert [p.tolist() for p in hvp(lambda: v.sum() - w.sum(), [v, w], ones[:2])] == [[0, 0], [0, 0]]


def test_attention_has_a_second_derivative_when_the_loss_is_a_function():
    """The fused kernel has none; the explicit form is checked by differences of the gradient."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    params = list(layer.parameters())

    def loss():
        return layer(x).square().mul(torch.linspace(0, 1, 8, dtype=torch.float64)).sum()

    direction = [torch.randn_like(p) for p in params]
    product = hvp(loss, params, direction)
    step, grads = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p += sign * step * d
        grads.append(torch.autograd.grad(loss(), params))
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p -= sign * step * d
    difference = [(a - b) / (2 * step) for a, b in zip(*grads, strict=True)]
    torch.testing.assert_close(flat(product), flat(difference), rtol=1e-6, atol=1e-6)


def test_fused_attention_without_the_function_is_refused_with_the_way_out():
    q = torch.randn(1, 2, 4, 8, requires_grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        loss = nn.functional.scaled_dot_product_attention(q, q, q).square().sum()
    with pytest.raises(errors.NotSupported, match=r"second derivative.*as a function"):
        hvp(loss, [q], [torch.ones_like(q)])


def test_mistakes_are_named():
    net, loss, _, _ = small_net()
    params, named = list(net.parameters()), dict(net.named_parameters())
    ones = [torch.ones_like(p) for p in params]
    for args, text in [
        ((loss, [], []), "at least one parameter"),
        ((loss, params, ones[:2]), "2 tensors for 4 parameters"),
        ((loss, params, [ones[0].T, *ones[1:]]), r"direction 0 has shape \(4, 6\)"),
        ((loss, params, dict(zip(named, ones, strict=True))), "no names"),
        ((loss, named, {"a": ones[0]}), "the direction has the names a"),
        ((loss, named, dict(zip(named, reversed(ones), strict=True))), r"direction '0.weight' has shape \(3,\)"),
        ((net(torch.zeros(2, 4).double()), params, ones), r"scalar with a graph, got shape \(2, 3\)"),
        ((loss().detach(), params, ones), "no graph"),
        ((loss, [params[0].detach()], ones[:1]), "parameter 0 does not require a gradient"),
    ]:
        with pytest.raises(errors.UsageError, match=text):
            hvp(*args)


def test_a_module_stands_for_what_it_trains_and_an_output_for_its_total():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[0].bias.requires_grad_(False)
    image, text = torch.randn(2, 6, 3, dtype=torch.float64)
    loss = clip().double()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    direction = {name: torch.ones_like(p) for name, p in trained.items()}
    ours = hvp(lambda: loss(model(image), model(text)), model, direction)
    theirs = hvp(lambda: loss(model(image), model(text)).total, trained, direction)
    assert list(ours) == ["0.weight", "2.weight", "2.bias"]
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)
