"""Clipping under Accelerate: its wrapper is unwrapped, and only real steps clip; compared with a loop by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState

from binderclip.optim import METHODS, ClipLog, NormClip, ValueClip, as_clip
from binderclip.optim.clip.attach import unwrap

_spec = importlib.util.spec_from_file_location("loop_cases", Path(__file__).with_name("loop_cases.py"))
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its settings in a singleton."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def train(accelerator, model, optimizer, steps, start=0):
    data = cases.batches()
    for step in range(start, start + steps):
        with accelerator.accumulate(model):
            accelerator.backward(cases.loss_of(model, data[step % 4], step))
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("when", ["before prepare", "after prepare"])
@pytest.mark.parametrize("name", METHODS)
def test_the_weights_are_those_of_a_loop_by_hand(name, when):
    accelerator = accelerate.Accelerator(cpu=True)
    net, clip = cases.network(), METHODS[name]()
    inner = torch.optim.AdamW(net.parameters(), lr=0.05)
    if when == "before prepare":
        clip.attach(inner, net.named_parameters())
    model, optimizer = accelerator.prepare(net, inner)
    if when == "after prepare":
        clip.attach(optimizer, model.named_parameters())
    train(accelerator, model, optimizer, 6)
    cases.assert_same(net, cases.by_hand(METHODS[name](), 6))
    assert not torch.allclose(net[0].weight, cases.by_hand(NormClip(float("inf")), 6)[0].weight, atol=1e-4)
    assert clip.report.names[0] == "0.weight"


@pytest.mark.parametrize("make", [lambda: NormClip(0.05), lambda: as_clip([ValueClip(0.02), 0.05])])
def test_under_accumulation_it_clips_once_per_real_step(make):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    net, log = cases.network(), ClipLog(make())
    inner = torch.optim.SGD(net.parameters(), lr=0.05)
    model, optimizer = accelerator.prepare(net, inner)
    log.attach(optimizer)
    train(accelerator, model, optimizer, 8)
    assert unwrap(optimizer) is inner
    assert log.step == 4
    cases.assert_same(net, cases.by_hand(make(), 4, accumulate=2, kind=torch.optim.SGD), 1e-7)


def test_save_state_and_load_state_carry_the_memory(tmp_path, remembering):
    from binderclip.optim import Clip

    def prepared():
        accelerator = accelerate.Accelerator(cpu=True)
        net, clip = cases.network(), Clip(remembering(), granularity="tensor")
        model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=0.05))
        clip.attach(optimizer, model.named_parameters())
        return accelerator, model, optimizer, clip

    accelerator, model, optimizer, _ = prepared()
    train(accelerator, model, optimizer, 3)
    accelerator.save_state(str(tmp_path / "state"))
    train(accelerator, model, optimizer, 4, start=3)
    again, resumed, other, clip = prepared()
    again.load_state(str(tmp_path / "state"))
    train(again, resumed, other, 4, start=3)
    cases.assert_same(model, resumed)
    assert (clip.report.limit < float("inf")).all()


def test_bfloat16_autocast_clips_float32_gradients():
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    net, clip = cases.network(), NormClip(0.05)
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=1.0))
    clip.attach(optimizer, model.named_parameters())
    before = [p.detach().clone() for p in net.parameters()]
    train(accelerator, model, optimizer, 1)
    moved = torch.cat([(a - b).detach().flatten() for a, b in zip(before, net.parameters(), strict=True)]).norm()
    assert float(moved) == pytest.approx(0.05, rel=1e-4)
    assert float(clip.report.norm) > 0.05


def test_two_optimizers_each_with_its_own_clip():
    accelerator = accelerate.Accelerator(cpu=True)
    nets = [cases.network(0), cases.network(1)]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
    one, two, first, second = accelerator.prepare(*nets, *optimizers)
    NormClip(0.05).attach(first, one.named_parameters())
    ValueClip(0.01).attach(second, two.named_parameters())
    for model, optimizer in ((one, first), (two, second)):
        train(accelerator, model, optimizer, 4)
    for seed, clip in ((0, NormClip(0.05)), (1, ValueClip(0.01))):
        net = cases.by_hand(clip, 4, kind=torch.optim.SGD, lr=0.1, seed=seed)
        cases.assert_same(nets[seed], net)
