"""Per-sample gradients against Opacus."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import nn

from binderclip.privacy import per_sample_grads, per_sample_norms


def test_gradients_and_norms_equal_those_of_grad_sample_module() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2), nn.GroupNorm(2, 6), nn.Tanh(), nn.Flatten(), nn.Linear(54, 12), nn.LayerNorm(12),
        nn.ReLU(), nn.Linear(12, 4),
    ).double()  # fmt: skip
    x, y = torch.randn(7, 1, 8, 8, dtype=torch.float64), torch.randint(0, 4, (7,))
    peer = GradSampleModule(copy.deepcopy(model))
    F.cross_entropy(peer(x), y, reduction="sum").backward()

    def loss(m: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(m(x), y, reduction="none")

    # Opacus multiplies by the batch size, as for a mean; with a sum that is 7 times too much
    theirs = {name.removeprefix("_module."): p.grad_sample / 7 for name, p in peer.named_parameters()}
    ours = per_sample_grads(model, loss, x, y, method="hooks")
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-9, atol=1e-12)
    norms = torch.sqrt(sum(g.flatten(1).square().sum(1) for g in theirs.values()))
    torch.testing.assert_close(per_sample_norms(model, loss, x, y), norms)
