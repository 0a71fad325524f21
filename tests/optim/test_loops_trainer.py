"""Clipping under the Hugging Face Trainer: attached to its optimizer before training; compared with a loop by hand."""

from __future__ import annotations

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import Trainer, TrainingArguments

from binderclip.optim import METHODS, Clip, ClipLog, NormClip


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate, which the Trainer stands on, keeps its settings in a singleton."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x, factor):
        return {"loss": factor.mean() * self.net(x).square().mean()}


def rows():
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    return [{"x": x[i], "factor": torch.tensor(10.0 ** (i // 8 % 3))} for i in range(32)]


def trainer(model, folder, steps, **settings):
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=8, max_grad_norm=0, use_cpu=True,
        report_to=[], lr_scheduler_type="constant", learning_rate=0.05, optim="adamw_torch", disable_tqdm=True,
        logging_strategy="no", train_sampling_strategy="sequential",
        **{"save_strategy": "no"} | settings,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=rows())


def by_hand(clip, steps, accumulate=1):
    model, data = Model(), rows()
    # the Trainer decays weights, not biases; its default decay is 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(step * accumulate, (step + 1) * accumulate):
            some = data[part % 4 * 8 : part % 4 * 8 + 8]
            batch = {key: torch.stack([row[key] for row in some]) for key in ("x", "factor")}
            (model(**batch)["loss"] / accumulate).backward()
        clip(model.named_parameters())
        optimizer.step()
    return model


def assert_same(one, other, tolerance=1e-6):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", METHODS)
def test_the_weights_are_those_of_a_loop_by_hand(name, tmp_path):
    model, clip = Model(), METHODS[name]()
    training = trainer(model, tmp_path, 6)
    clip.attach(training.create_optimizer(), model.named_parameters())
    training.train()
    assert_same(model, by_hand(METHODS[name](), 6))
    # its groups put weights first
    assert set(clip.report.names) == {name for name, _ in model.named_parameters()}


def test_under_accumulation_it_clips_once_per_real_step(tmp_path):
    model, log = Model(), ClipLog(NormClip(0.05))
    training = trainer(model, tmp_path, 2, gradient_accumulation_steps=2)
    log.attach(training.create_optimizer(), model.named_parameters())
    training.train()
    assert log.step == 2
    assert_same(model, by_hand(NormClip(0.05), 2, accumulate=2))


def test_an_optimizer_of_your_own_and_a_resume_from_its_checkpoint(tmp_path, remembering):
    def made(steps, folder):
        model, clip = Model(), Clip(remembering(), granularity="tensor")
        training = trainer(model, folder, steps, save_strategy="steps", save_steps=3)
        training.optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
        clip.attach(training.optimizer, model.named_parameters())
        return model, clip, training

    straight, _, training = made(7, tmp_path / "straight")
    training.train()
    resumed, clip, training = made(7, tmp_path / "resumed")
    training.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    assert_same(straight, resumed, 0.0)
    assert_same(straight, by_hand(Clip(remembering(), granularity="tensor"), 7))
    assert (clip.report.limit < float("inf")).all()
