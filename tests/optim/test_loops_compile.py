"""Steps under torch.compile: the clip runs as written, whatever the compiler makes of the optimizer around it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.optim import METHODS, NormClip

OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "fused sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.1),
    "fused adamw": lambda params: torch.optim.AdamW(params, lr=0.1, fused=True),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def model_and_batch():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(16, 4)


def backward(model, batch, step):
    ((10.0 ** (step % 3)) * model(batch).square().mean()).backward()


def furthest(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_compiled_step_clips_as_a_plain_one(kind):
    """The reference compiles the same step without a clip and clips by torch's own function before it."""
    (ours, batch), (theirs, _), (free, _) = model_and_batch(), model_and_batch(), model_and_batch()
    optimizers = [OPTIMIZERS[kind](m.parameters()) for m in (ours, theirs, free)]
    clip = NormClip(0.05)
    clip.attach(optimizers[0])
    steps = [torch.compile(o.step, backend="eager") for o in optimizers]
    for number in range(5):
        for model, optimizer in zip((ours, theirs, free), optimizers, strict=True):
            optimizer.zero_grad()
            backward(model, batch, number)
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
        for step in steps:
            step()
        # not the norm of the step that was compiled first
        assert float(clip.report.norm) == pytest.approx(float(norm), rel=1e-3)
    assert furthest(ours, theirs) < 1e-5
    assert furthest(ours, free) > 1e-2
    assert not hasattr(optimizers[0], "grad_scale")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_under_a_compiled_step(name):
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs))
    clip, by_hand = METHODS[name](), METHODS[name]()
    clip.attach(one, ours.named_parameters())
    step = torch.compile(one.step, backend="eager")
    for number in range(6):
        for model, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            backward(model, batch, number)
        by_hand(theirs.named_parameters())
        other.step()
        step()
    assert furthest(ours, theirs) < 1e-6


def test_a_compiled_model_keeps_its_plain_names():
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs))
    compiled = torch.compile(ours, backend="aot_eager")
    clip = NormClip(0.05, exclude="2.bias")
    by_hand = NormClip(0.05, exclude="2.bias")
    # the compiled module says `_orig_mod.` in front of each
    clip.attach(one, compiled.named_parameters())
    for number in range(4):
        for model, optimizer in ((compiled, one), (theirs, other)):
            optimizer.zero_grad()
            backward(model, batch, number)
        by_hand(theirs.named_parameters())
        other.step()
        one.step()
    assert clip.report.names == ("0.weight", "0.bias", "2.weight")
    assert furthest(ours, theirs) < 1e-6


def test_a_whole_training_step_in_one_compiled_function():
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (torch.optim.SGD(m.parameters(), lr=0.1, fused=True) for m in (ours, theirs))
    clip = NormClip(0.05)
    clip.attach(one)

    @torch.compile(backend="eager")
    def training_step(scale):
        one.zero_grad()
        (scale * ours(batch).square().mean()).backward()
        one.step()

    for number in range(4):
        training_step(torch.tensor(10.0 ** (number % 3)))
        other.zero_grad()
        backward(theirs, batch, number)
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
        other.step()
    assert furthest(ours, theirs) < 1e-6
