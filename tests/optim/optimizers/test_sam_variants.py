"""SAM (p076; arXiv 2010.01412), LookSAM and GSAM (2203.02714, 2203.08065) against a peer library and in every loop."""

from __future__ import annotations

import copy

import accelerate
import lightning
import pytest
import pytorch_optimizer
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from binderclip.errors import NotSupported, UsageError
from binderclip.fit import fit
from binderclip.optim import GSAM, SAM, LookSAM

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randint(0, 3, (24,), generator=torch.Generator().manual_seed(2))
BATCHES = list(zip(X.split(8), Y.split(8), strict=True))
SGD = {"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-3}
STEPS = 9
KINDS = {
    "sam": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.3, **SGD, **o),
    "asam": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.8, adaptive=True, eta=0.0, **SGD, **o),
    "look": lambda p, **o: LookSAM(p, torch.optim.SGD, rho=0.3, k=3, granularity="tensor", **SGD, **o),
    "look-global": lambda p, **o: LookSAM(p, torch.optim.SGD, rho=0.3, k=3, **SGD, **o),
    "gsam": lambda p, **o: GSAM(p, torch.optim.SGD, rho=0.3, alpha=0.4, **SGD, **o),
    "adamw": lambda p, **o: LookSAM(p, torch.optim.AdamW, rho=0.3, k=3, lr=0.01, **o),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def loss_of(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def by_hand(kind: str, steps: int = STEPS) -> torch.Tensor:
    """Two passes a step, written out."""
    net = network()
    sam = KINDS[kind](net.parameters())
    for step in range(steps):
        sam.zero_grad()
        loss_of(net, BATCHES[step % 3]).backward()
        if sam.second_pass_due:
            sam.first_step(zero_grad=True)
            loss_of(net, BATCHES[step % 3]).backward()
        sam.second_step()
    return weights(net)


def by_peer(kind: str) -> torch.Tensor:
    net = network()
    if kind == "gsam":
        constant = type("Constant", (), {"step": lambda self: 0.3})()
        base = torch.optim.SGD(net.parameters(), **SGD)
        peer = pytorch_optimizer.GSAM(net.parameters(), base, net, constant, alpha=0.4, adaptive=False)
        for step in range(STEPS):
            peer.set_closure(F.cross_entropy, *BATCHES[step % 3])
            peer.step()
        return weights(net)
    peer = {
        "sam": lambda p: pytorch_optimizer.SAM(p, torch.optim.SGD, rho=0.3, **SGD),
        "asam": lambda p: pytorch_optimizer.SAM(p, torch.optim.SGD, rho=0.8, adaptive=True, **SGD),
        "look": lambda p: pytorch_optimizer.LookSAM(p, torch.optim.SGD, rho=0.3, k=3, **SGD),
    }[kind](net.parameters())
    for step in range(STEPS):

        def closure(step: int = step) -> torch.Tensor:
            peer.zero_grad()
            loss = loss_of(net, BATCHES[step % 3])
            loss.backward()
            return loss

        closure()
        peer.step(closure)
    return weights(net)


@pytest.mark.parametrize("kind", ["sam", "asam", "look", "gsam"])
def test_the_weights_are_those_of_the_peer_library(kind):
    # In float64, but for the gradient's norm, which the peer takes in float32.
    torch.testing.assert_close(by_hand(kind), by_peer(kind), rtol=1e-5, atol=1e-7)
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), **SGD)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(plain, BATCHES[step % 3]).backward()
        optimizer.step()
    assert float((weights(plain) - by_hand(kind)).abs().max()) > 1e-3


class Module(lightning.LightningModule):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = network(), kind

    def training_step(self, batch, index):
        return loss_of(self.net, batch)

    def configure_optimizers(self):
        return KINDS[self.kind](self.net.parameters())


def by_lightning(kind: str, **settings) -> torch.Tensor:
    module = Module(kind)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=STEPS, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=8))
    return weights(module.net)


def by_accelerate(kind: str) -> torch.Tensor:
    AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True)
    net = network()
    model, optimizer = accelerator.prepare(net, KINDS[kind](net.parameters()))
    for step in range(STEPS):

        def closure(step: int = step) -> torch.Tensor:
            loss = loss_of(model, BATCHES[step % 3])
            accelerator.backward(loss)
            return loss

        closure()
        optimizer.step(closure)
        optimizer.zero_grad()
    AcceleratorState._reset_state(True)
    return weights(net)


def by_fit(kind: str) -> torch.Tensor:
    net = network()
    sam = KINDS[kind](net.parameters())
    fit(sam.around(lambda b: loss_of(net, b)), net, BATCHES, steps=STEPS, optimizer=sam, schedule="constant")
    return weights(net)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_every_loop_gives_the_same_weights(kind):
    expected = by_hand(kind)
    for loop in (by_fit, by_accelerate, by_lightning):
        torch.testing.assert_close(loop(kind), expected, rtol=1e-9, atol=1e-12, msg=lambda m, loop=loop: f"{loop}: {m}")


@pytest.mark.filterwarnings("ignore")
def test_lightnings_accumulation_is_refused():
    with pytest.raises(NotSupported, match="accumulate_grad_batches"):
        by_lightning("sam", accumulate_grad_batches=2)


@pytest.mark.parametrize("kind", ["look-global", "adamw"])
def test_a_state_dict_carries_what_is_used_again(kind):
    straight = by_hand(kind, 5)
    net = network()
    sam = KINDS[kind](net.parameters())
    for step in range(5):
        if step == 4:  # between two second passes
            saved, net = copy.deepcopy(sam.state_dict()), copy.deepcopy(net)
            sam = KINDS[kind](net.parameters())
            sam.load_state_dict(saved)
        sam.zero_grad()
        loss_of(net, BATCHES[step % 3]).backward()
        if sam.second_pass_due:
            sam.first_step(zero_grad=True)
            loss_of(net, BATCHES[step % 3]).backward()
        sam.second_step()
    assert torch.equal(weights(net), straight)


def test_every_fifth_step_of_look_sam_costs_two_passes():
    net, passes = network(), []
    sam = LookSAM(net.parameters(), k=5, lr=0.1)
    step = sam.around(lambda b: (passes.append(1), loss_of(net, b))[1])
    fit(step, net, BATCHES, steps=10, optimizer=sam)
    assert len(passes) == 12


@pytest.mark.parametrize("rows", ["tensors", "names"])
def test_micro_batches_have_a_worst_point_each(rows):
    net, micro = network(), network()
    sam, other = KINDS["sam"](net.parameters()), KINDS["sam"](micro.parameters())
    batch = (X[:10], Y[:10]) if rows == "tensors" else {"x": X[:10], "y": Y[:10]}
    read = lambda b: b if rows == "tensors" else (b["x"], b["y"])  # noqa: E731
    result = fit(
        sam.around(lambda b: (loss_of(net, read(b)), {"n": float(len(read(b)[1]))}), m=4), net, [batch], steps=1,
        optimizer=sam, schedule="constant", log_every=1,
    )  # fmt: skip
    before = weights(micro)
    gradient = torch.zeros_like(before)
    for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
        chunk = (X[:10][part], Y[:10][part])
        here = torch.autograd.grad(loss_of(micro, chunk), list(micro.parameters()))
        length = torch.cat([g.flatten() for g in here]).norm()
        away = copy.deepcopy(micro)
        with torch.no_grad():
            for p, g in zip(away.parameters(), here, strict=True):
                p.add_(0.3 * g / length)
        near = torch.autograd.grad(loss_of(away, chunk), list(away.parameters()))
        gradient += torch.cat([g.flatten() for g in near]) * len(chunk[1]) / 10
    torch.testing.assert_close(weights(net), before - 0.2 * (gradient + 1e-3 * before))
    assert float(result.history["loss"][0]) == pytest.approx(float(loss_of(micro, (X[:10], Y[:10])).detach()))
    assert float(result.history["n"][0]) == pytest.approx(0.4 * 4 + 0.4 * 4 + 0.2 * 2)
    with pytest.raises(UsageError, match="same number of rows"):
        other.around(lambda b: loss_of(micro, b), m=4)((X, Y[:3]), backward=lambda loss: loss.backward())
    with pytest.raises(UsageError, match="m must"):
        sam.around(lambda b: loss_of(net, b), m=0)


def test_the_radius_of_gsam_falls_with_the_rate():
    w = nn.Parameter(torch.ones(1))
    sam = GSAM([w], rho=0.5, rho_min=0.1, lr=2.0)
    group = sam.param_groups[0]
    assert sam.radius(group) == 0.5
    group["initial_lr"] = 2.0
    group["lr"] = 0.5
    assert sam.radius(group) == pytest.approx(0.1 + 0.4 / 4)


def test_inside_perturbed_the_weights_are_away():
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    sam = SAM([w], rho=5.0, lr=0.1)
    w.square().sum().backward()
    with sam.perturbed():
        torch.testing.assert_close(w.detach(), torch.tensor([6.0, 8.0]))
        w.square().sum().backward()
    assert w.tolist() == [3.0, 4.0]
    sam.second_step()
    torch.testing.assert_close(w.detach(), torch.tensor([3.0 - 1.2, 4.0 - 1.6]))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda p: SAM(p, rho=float("nan"), lr=1.0), "rho"),
        (lambda p: SAM(p, eta=-1.0, lr=1.0), "eta"),
        (lambda p: LookSAM(p, k=0, lr=1.0), "k must"),
        (lambda p: LookSAM(p, alpha=-0.1, lr=1.0), "alpha"),
        (lambda p: LookSAM(p, granularity="row", lr=1.0), "granularity"),
        (lambda p: GSAM(p, alpha=float("inf"), lr=1.0), "alpha"),
        (lambda p: GSAM(p, rho=0.1, rho_min=0.2, lr=1.0), "rho_min"),
    ],
)
def test_wrong_settings_are_named(make, word):
    with pytest.raises(UsageError, match=word):
        make([nn.Parameter(torch.ones(2))])
