"""Book-keeping against vectorised autograd and a plain loop; what couples samples is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.losses import ContrastiveLoss, info_nce
from binderclip.privacy import FlatClip, GroupClip, PerSampleRecorder, clipped_sum, per_sample_grads, per_sample_norms
from binderclip.privacy.per_sample.contributions import Looked, Outer, squared_norms


def test_norms_and_gradients_equal_those_of_vmap(case: Any) -> None:
    ours = per_sample_grads(case.model, case.loss, *case.batch, method="hooks")
    theirs = per_sample_grads(case.model, case.loss, *case.batch, method="vmap")
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-9, atol=1e-11)
    norms = per_sample_norms(case.model, case.loss, *case.batch, method="ghost")
    torch.testing.assert_close(norms, per_sample_norms(case.model, case.loss, *case.batch, method="vmap"))


def test_the_clipped_sum_is_that_of_a_loop_over_samples(case: Any) -> None:
    named = dict(case.model.named_parameters())
    singles = []
    for i in range(6):
        losses = case.loss(case.model, *(t[i : i + 1] for t in case.batch))
        grads = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
        singles.append([torch.zeros_like(p) if g is None else g for p, g in zip(named.values(), grads, strict=True)])
    norms = [torch.sqrt(sum(g.square().sum() for g in grads)) for grads in singles]
    limit = float(torch.stack(norms).median())
    found = clipped_sum(case.model, case.loss, *case.batch, rule=FlatClip(limit))
    for place, name in enumerate(named):
        want = sum(g[place] * min(1.0, limit / float(n)) for g, n in zip(singles, norms, strict=True))
        torch.testing.assert_close(found.grads[name], want, rtol=1e-9, atol=1e-11)
    assert all(p.grad is None for p in named.values())


def test_groups_are_measured_and_scaled_each_by_itself(clip_model: nn.Module) -> None:
    model = clip_model.visual.double()
    x, y = torch.randn(5, 3, 32, 32, dtype=torch.float64), torch.randint(0, 32, (5,))

    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(m(x), y, reduction="none")

    rule = GroupClip({"*attn*": 0.01, "*": 0.02})
    full = per_sample_grads(model, loss, x, y)
    found = clipped_sum(model, loss, x, y, rule=rule)
    for group, limit in enumerate((0.01, 0.02)):
        members = [n for n in full if ("attn" in n) == (group == 0)]
        norms = torch.sqrt(sum(full[n].flatten(1).square().sum(1) for n in members))
        torch.testing.assert_close(found.norms[:, group], norms)
        for name in members:
            want = torch.einsum("b,b...->...", (limit / norms).clamp(max=1), full[name])
            torch.testing.assert_close(found.grads[name], want)


def test_attention_with_masks_other_keys_and_weights_equals_torch() -> None:
    torch.manual_seed(0)

    class Cross(nn.Module):
        def __init__(self, kdim: int, zero: bool) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(
                8, 2, kdim=kdim, vdim=kdim, batch_first=True, bias=kdim == 8, add_zero_attn=zero
            )

        def forward(self, q: Tensor, k: Tensor, padding: Tensor) -> Tensor:
            mask = torch.zeros(3, 4, dtype=q.dtype).masked_fill(torch.ones(3, 4).triu(2).bool(), float("-inf"))
            found, weights = self.attention(q, k, k, attn_mask=mask, key_padding_mask=padding)
            return found.sum((1, 2)) + weights.square().sum((1, 2))

    for kdim, zero in ((8, False), (6, False), (8, True), (6, True)):
        model = Cross(kdim, zero).double()
        q, k = torch.randn(5, 3, 8, dtype=torch.float64), torch.randn(5, 4, kdim, dtype=torch.float64)
        padding = torch.zeros(5, 4, dtype=torch.bool)
        padding[1, 3] = True
        plain = model(q, k, padding)
        recorder = PerSampleRecorder(model)
        with recorder.recording():
            watched = model(q, k, padding)
        torch.testing.assert_close(watched, plain)
        ours = per_sample_grads(model, lambda m, *b: m(*b), q, k, padding, method="hooks")
        for i in range(5):
            model.zero_grad()
            model(q[i : i + 1], k[i : i + 1], padding[i : i + 1]).sum().backward()
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(ours[name][i], parameter.grad)


def test_parameters_computed_from_parameters_are_followed() -> None:
    torch.manual_seed(0)

    class Cosine(nn.Module):
        """Weight normalisation and a low-rank update: the layer's weight is a function of three parameters."""

        def __init__(self) -> None:
            super().__init__()
            self.rows, self.a, self.b = (nn.Parameter(torch.randn(s)) for s in ((5, 4), (5, 2), (2, 4)))
            self.scale = nn.Parameter(torch.tensor(0.3))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale.exp() * F.linear(x, F.normalize(self.rows + self.a @ self.b, dim=-1))

    model = Cosine().double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 5, (6,))

    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(m(x), y, reduction="none")

    theirs = per_sample_grads(model, loss, x, y, method="vmap")
    ours = per_sample_grads(model, loss, x, y, method="hooks")
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad)


def test_gram_forms_equal_the_explicit_gradients() -> None:
    torch.manual_seed(0)
    one = Outer(torch.randn(4, 3, 7).double(), torch.randn(4, 3, 9).double())
    two = Outer(torch.randn(4, 5, 7).double(), torch.randn(4, 5, 9).double())
    looked = Looked(torch.tensor([[0, 1, -1], [2, 2, 6], [5, 0, 0], [1, 1, 1]]), torch.randn(4, 3, 9).double(), 7)
    for uses in ([one], [one, two], [looked], [looked, one, two]):
        want = sum(use.full() for use in uses).flatten(1).square().sum(1)
        torch.testing.assert_close(squared_norms(uses), want)
    # the same with the matrices that are cheaper to form than to avoid
    tall = Outer(torch.randn(4, 50, 3).double(), torch.randn(4, 50, 2).double())
    assert not tall.ghost
    torch.testing.assert_close(tall.inner(tall), tall.full().flatten(1).square().sum(1))


def test_no_weight_gradient_is_computed_and_only_one_backward_pass_runs() -> None:
    counts = {"backward": 0}

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            counts["backward"] += 1
            return grad

    first, last = nn.Linear(4, 6), nn.Linear(6, 3)
    model = nn.Sequential(first, last)
    x = torch.randn(5, 4)
    clipped_sum(model, lambda m, x: Counted.apply(m(x)).square().sum(1), x, rule=FlatClip(1.0), check=False)
    assert counts["backward"] == 1
    assert first.weight.grad is None


def test_a_non_finite_sample_contributes_nothing() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(4, 3), torch.randn(5, 4)
    loss = lambda m, x: m(x).square().sum(1)  # noqa: E731
    clean = clipped_sum(net, loss, x[:4], rule=FlatClip(0.5))
    x[4, 0] = float("nan")
    found = clipped_sum(net, loss, x, rule=FlatClip(0.5))
    torch.testing.assert_close(found.grads["weight"], clean.grads["weight"])


def coupled(model: nn.Module, x: Tensor) -> Tensor:
    z = F.normalize(model(x), dim=-1)
    return F.cross_entropy(z @ z.T, torch.arange(len(x)), reduction="none")


def mean_loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).mean()


class BatchFirst(nn.Module):
    """Mixes the batch into the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).sum(0)


class Hidden(nn.Module):
    """Uses its parameter behind the recorder's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(4, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        with torch._C.DisableTorchFunction():
            return h + self.other


def test_what_couples_samples_or_hides_a_parameter_is_refused() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    rule = FlatClip(1.0)
    with pytest.raises(NotSupported, match=r"depend on other samples.*InfoNCE"):
        clipped_sum(nn.Linear(4, 3), coupled, x, rule=rule)
    with pytest.raises(UsageError, match="one loss a sample"):
        clipped_sum(nn.Linear(4, 3), mean_loss, x, rule=rule)
    for loss in (ContrastiveLoss(), info_nce):
        with pytest.raises(NotSupported, match="PUBLIC"):
            clipped_sum(nn.Linear(4, 3), loss, x, rule=rule)
    with pytest.raises(NotSupported, match=r"BatchNorm1d.*whole batch"):
        PerSampleRecorder(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    with pytest.raises(NotSupported, match=r"depend on other samples|dimension 0"):
        clipped_sum(BatchFirst(), lambda m, x: m(x).square().sum(1), torch.randn(4, 4, 4), rule=rule)
    with pytest.raises(NotSupported, match="cannot be watched"):
        clipped_sum(Hidden(), lambda m, x: m(x).square().sum(1), x, rule=rule)
    scripted = torch.jit.script(nn.Linear(4, 3))
    with pytest.raises(NotSupported, match="scripted"):
        PerSampleRecorder(scripted)


def test_a_frozen_batch_norm_and_frozen_layers_are_fine() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    model(torch.randn(9, 4, dtype=torch.float64))
    model[1].eval()
    model[0].requires_grad_(False)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 3, (6,))

    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(m(x), y, reduction="none")

    theirs = per_sample_grads(model, loss, x, y, method="vmap")
    ours = per_sample_grads(model, loss, x, y, method="hooks")
    assert sorted(ours) == ["1.bias", "1.weight", "3.bias", "3.weight"]
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad)


def test_full_gradients_beyond_the_limit_are_refused_with_the_way_out() -> None:
    net, x = nn.Linear(4, 3), torch.randn(6, 4)
    with pytest.raises(UsageError, match="per_sample_norms"):
        per_sample_grads(net, lambda m, x: m(x).sum(1), x, limit=100)
    with pytest.raises(UsageError, match="method"):
        per_sample_grads(net, lambda m, x: m(x).sum(1), x, method="loop")  # type: ignore[arg-type]
