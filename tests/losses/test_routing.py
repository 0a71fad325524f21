from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.losses import ContrastiveLoss, RouterLosses, clip, contrastive_step, load_balance, router_z
from binderclip.models import MoEMLP


def test_balance_is_one_where_all_are_used_alike_and_e_times_p_where_one_has_everything() -> None:
    even = torch.eye(4).repeat(3, 1) * 1e-3
    assert float(load_balance(even)) == pytest.approx(1.0, abs=1e-6)
    one = torch.zeros(6, 4)
    one[:, 2] = math.log(7.0)
    assert float(load_balance(one)) == pytest.approx(4 * 7 / 10)
    assert float(load_balance(one * 100)) == pytest.approx(4.0)


def test_balance_by_loops_and_its_gradient_takes_from_the_busiest() -> None:
    logits = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    share = [sum(int(row.argmax()) == e for row in logits) / 30 for e in range(5)]
    mean = [float(sum(row.softmax(0)[e] for row in logits).detach()) / 30 for e in range(5)]
    value = load_balance(logits)
    assert float(value.detach()) == pytest.approx(5 * sum(f * p for f, p in zip(share, mean, strict=True)), rel=1e-5)
    value.backward()
    busiest = max(range(5), key=share.__getitem__)
    assert float(logits.grad[:, busiest].sum()) > 0


def test_z_has_its_closed_form_gradient() -> None:
    logits = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    value = router_z(logits)
    sums = [math.log(sum(math.exp(x) for x in row)) for row in logits.tolist()]
    assert float(value.detach()) == pytest.approx(sum(s * s for s in sums) / 7)
    value.backward()
    expected = 2 * logits.logsumexp(1, keepdim=True) * logits.softmax(1) / 7
    torch.testing.assert_close(logits.grad, expected.detach())


def test_the_term_is_the_mean_over_layers_and_reaches_the_routers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(MoEMLP(nn.Linear(4, 4), experts=3, top_k=2, router_std=1.0) for _ in range(2)))
    image = model(torch.randn(6, 4))
    term = RouterLosses(model, balance=0.5, z=0.1)
    output = ContrastiveLoss((), terms=[term])(image, image)
    values = [0.5 * load_balance(layer.last.logits) + 0.1 * router_z(layer.last.logits) for layer in model]
    assert float(output.total.detach()) == pytest.approx(float(torch.stack(values).mean().detach()))
    output.backward()
    assert all(float(layer.router.weight.grad.abs().sum()) > 0 for layer in model)
    assert not list(term.parameters())
    assert sorted(clip(terms=[term])(image.detach(), image.detach()).terms) == ["contrastive", "router"]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_pass_without_a_graph_is_refused_where_the_routers_learn(frozen: bool) -> None:
    """In pieces the embeddings are made without a graph, and routers would get no gradient of their losses."""
    torch.manual_seed(0)
    model = MoEMLP(nn.Linear(4, 4), experts=3, top_k=2, router_std=1.0)
    model.router.requires_grad_(not frozen)
    loss = clip(terms=[RouterLosses(nn.Sequential(model))])
    encoders, batch = {"image": model, "text": nn.Linear(4, 4)}, {n: torch.randn(6, 4) for n in ("image", "text")}
    contrastive_step(encoders, batch, loss)
    with torch.no_grad():
        model(batch["image"])
        assert loss(batch["image"], batch["text"]).total.isfinite()  # a figure, where nobody asks for gradients
    if frozen:
        contrastive_step(encoders, batch, loss, 2)
        return
    with pytest.raises(UsageError, match="without a graph"):
        contrastive_step(encoders, batch, loss, 2)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UsageError, match="no expert layers"):
        RouterLosses(nn.Linear(3, 3))
    model = MoEMLP(nn.Linear(4, 4), experts=2, top_k=1).eval()
    x = torch.randn(5, 4)
    term = RouterLosses(nn.Sequential(model))
    with pytest.raises(UsageError, match="not been run in training mode"):
        ContrastiveLoss((), terms=[term])(model(x), x)


@pytest.mark.parametrize("loss", [load_balance, router_z])
@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 3, 4), (3, 0)])
def test_logits_are_tokens_times_experts(loss, shape) -> None:
    with pytest.raises(UsageError, match=r"logits must be \(tokens, experts\)"):
        loss(torch.zeros(shape))
