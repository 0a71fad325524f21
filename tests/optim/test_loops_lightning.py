"""Clipping under Lightning's Trainer, which always passes a closure; compared with a loop written by hand."""

from __future__ import annotations

import importlib.util
import math
import warnings
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from binderclip.errors import UsageError
from binderclip.optim import METHODS, NonFiniteGradient, NormClip, as_clip
from binderclip.optim.clip.lightning import lightning_callback

_spec = importlib.util.spec_from_file_location("loop_cases", Path(__file__).with_name("loop_cases.py"))
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
PIPES = ["attach", "callback"]


class Module(lightning.LightningModule):
    def __init__(self, clip=None, factor=1.0):
        super().__init__()
        self.net, self.clip, self.factor = cases.network(), clip, factor

    def training_step(self, batch, index):
        return self.factor * cases.loss_of(self.net, batch[0], self.trainer.fit_loop.total_batch_idx)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.05)
        if self.clip is not None:
            self.clip.attach(optimizer, self.named_parameters())
        return optimizer


def fit(module, steps=6, ckpt_path=None, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, **settings,
        )  # fmt: skip
        trainer.fit(module, DataLoader(TensorDataset(torch.cat(cases.batches())), batch_size=8), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("pipe", PIPES)
@pytest.mark.parametrize("name", METHODS)
def test_the_weights_are_those_of_a_loop_by_hand(pipe, name):
    clip = METHODS[name]()
    module = Module(clip if pipe == "attach" else None)
    fit(module, callbacks=[lightning_callback(clip)] if pipe == "callback" else [])
    cases.assert_same(module.net, cases.by_hand(METHODS[name](), 6))
    assert clip.report.names[0] == "net.0.weight"


@pytest.mark.parametrize("pipe", PIPES)
def test_under_accumulation_it_clips_once_per_real_step(pipe):
    clip = NormClip(0.05)
    calls = []
    original, clip.run = clip.run, lambda *a: (calls.append(1), original(*a))[1]
    module = Module(clip if pipe == "attach" else None)
    callbacks = [lightning_callback(clip)] if pipe == "callback" else []
    fit(module, 3, accumulate_grad_batches=2, callbacks=callbacks)
    assert len(calls) == 3
    for a, b in zip(module.net.parameters(), cases.by_hand(NormClip(0.05), 3, accumulate=2).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pipe", PIPES)
def test_a_resume_from_lightnings_checkpoint_continues_the_memory(pipe, tmp_path, remembering):
    from binderclip.optim import Clip

    def made():
        clip = Clip(remembering(), granularity="tensor")
        module = Module(clip if pipe == "attach" else None)
        return clip, module, [lightning_callback(clip)] if pipe == "callback" else []

    _, straight, callbacks = made()
    fit(straight, 8, callbacks=callbacks)
    _, first, callbacks = made()

    class Save(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "four.ckpt")

    fit(first, 4, callbacks=[*callbacks, Save()])
    clip, second, callbacks = made()
    fit(second, 8, ckpt_path=tmp_path / "four.ckpt", callbacks=callbacks)
    cases.assert_same(straight.net, second.net)
    assert (clip.report.limit < math.inf).all()


def test_two_optimizers_each_with_a_callback_of_its_own():
    class Two(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.one, self.two = cases.network(0), cases.network(1)

        def training_step(self, batch, index):
            for net, optimizer in zip((self.one, self.two), self.optimizers(), strict=True):
                optimizer.zero_grad()
                self.manual_backward(cases.loss_of(net, batch[0], index))
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.one, self.two)]

    clips = [NormClip(0.05), as_clip(["value", 0.02])]
    module = Two()
    fit(module, 8, callbacks=[lightning_callback(clip, number) for number, clip in enumerate(clips)])
    for seed, made in ((0, NormClip(0.05)), (1, as_clip(["value", 0.02]))):
        net = cases.by_hand(made, 4, kind=torch.optim.SGD, lr=0.1, seed=seed)
        cases.assert_same((module.one, module.two)[seed], net)
    assert clips[0].report.names[0] == "one.0.weight"
    assert clips[1].report[1].names[0] == "two.0.weight"


def test_it_is_detached_at_the_end_also_after_an_error():
    clip = NormClip(0.05)
    module = Module()
    trainer = fit(module, callbacks=[lightning_callback(clip)])
    assert "clip" not in trainer.optimizers[0].state_dict()
    broken = Module(factor=math.nan)
    with pytest.raises(NonFiniteGradient, match=r"net\.0\.weight"):
        fit(broken, callbacks=[lightning_callback(clip)])
    cases.assert_same(broken.net, cases.network())


def test_the_trainers_own_clipping_and_a_wrong_number_are_refused():
    with pytest.raises(UsageError, match=r"gradient_clip_val=1\.0"):
        fit(Module(), gradient_clip_val=1.0, callbacks=[lightning_callback(NormClip())])
    with pytest.raises(UsageError, match="configure_optimizers gave 1"):
        fit(Module(), callbacks=[lightning_callback(NormClip(), 1)])
