"""The verdict rules of the clipping studies on made-up measurements, and the disturbed training itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from binderclip.optim import NormClip
from binderclip.studies import Row, Table, load_study
from binderclip.studies.papers import p004_adagc
from binderclip.studies.protocols.training import spike


def clip_rows(names: dict[str, float], *, none: float = 0.65, loss: float = 0.3, clipped: float = 0.05) -> list[Row]:
    """The small CLIP's: its loss after a disturbance by clipper, and what all of these share."""
    rows = []
    for seed in range(3):
        for name, value in {"none, undisturbed": 0.44, "none": none, **names}.items():
            rows.append(Row("loss after a disturbance", name, value, "small CLIP", seed))
            rows.append(Row("training loss", name, loss if name == "ZClip" else 0.31, "small CLIP", seed))
            rows.append(Row("validation loss", name, 3.5 if name != "AutoClip 50" else 10 * loss, "small CLIP", seed))
            rows.append(Row("clean steps clipped", name, clipped, "small CLIP", seed))
    return rows


def p002(spikes: float = 0, ours: float = 0.01, clipped: float = 0.05, after: float = 0.45, **clip: float) -> Table:
    values = {
        "none": (40, 2.3, 0.0),
        "norm 1": (0, 0.02, 0.3),
        "norm 0.1": (0, 0.1, 1.0),
        "ZClip": (spikes, ours, clipped),
    }
    metrics = ("loss spikes", "training loss", "clean steps clipped")
    rows = [
        Row(metric, name, value, "SGD", seed)
        for seed in range(3)
        for name, row in values.items()
        for metric, value in zip(metrics, row, strict=True)
    ]
    return Table(rows + clip_rows({"ZClip": after, "norm 1": 0.45, "norm 0.1": 0.45}, **clip))


def p004(
    scale: float = 0.8, loss: float = 0.01, other_scale: float = 0.8, clip_scale: float = 0.8, clip_loss: float = 0.01
) -> Table:
    metrics = ("scale of the other tensors at disturbed steps", "training loss")
    rows = []
    for setting, ours in (
        ("digits, AdamW", (scale, loss)),
        ("digits, SGD", (0.8, 0.01)),
        ("small CLIP", (clip_scale, clip_loss)),
    ):
        values = {
            "none": (1.0, 0.1),
            "global norm 1": (0.09, 0.01),
            "AdaGC 1.05": ours,
            "AdaGC 1.5": (other_scale, 0.01),
        }
        rows += [
            Row(metric, name, value, setting, seed)
            for seed in range(3)
            for name, row in values.items()
            for metric, value in zip(metrics, row, strict=True)
        ]
    return Table(rows)


def p005(spikes: float = 0, ours: float = 0.3, after: float = 0.45, **clip: float) -> Table:
    validation = {"none": 2.3, "norm 0.01": 1.7, "norm 0.1": 0.4, "norm 1": 0.3, "norm 10": 0.28}
    validation |= {"AutoClip 10": ours, "AutoClip 50": 0.3}
    rows = clip_rows(
        {"AutoClip 10": after, "AutoClip 50": 0.44} | dict.fromkeys(("norm 0.1", "norm 1", "norm 10"), 0.45), **clip
    )
    for seed in range(3):
        for name, value in validation.items():
            rows.append(Row("validation loss", name, value, "SGD", seed))
            rows.append(Row("loss spikes", name, spikes if name == "AutoClip 10" else 0, "SGD", seed))
    return Table(rows)


@pytest.mark.parametrize(
    ("paper", "table", "verdict"),
    [
        ("p002", p002(), "all met"),
        ("p002", p002(clipped=0.2), "essential met"),
        ("p002", p002(spikes=2), "not met"),
        ("p002", p002(ours=0.03), "not met"),
        ("p002", p002(after=0.47), "not met"),
        ("p002", p002(none=0.5), "not met"),
        ("p002", p002(loss=0.32), "not met"),
        ("p004", p004(), "all met"),
        ("p004", p004(other_scale=0.15), "essential met"),
        ("p004", p004(scale=0.15), "not met"),
        ("p004", p004(loss=0.02), "essential met"),
        ("p004", p004(clip_scale=0.15), "not met"),
        ("p004", p004(clip_loss=0.02), "not met"),
        ("p005", p005(), "all met"),
        ("p005", p005(ours=0.4), "not met"),
        ("p005", p005(ours=2.0), "not met"),
        ("p005", p005(spikes=3), "not met"),
        ("p005", p005(after=0.47), "not met"),
        ("p005", p005(none=0.5), "not met"),
        ("p005", p005(loss=0.5), "not met"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(decide, paper, table, verdict):
    assert decide(load_study(paper).criteria, table)[0] == verdict


def test_loss_spikes_are_counted_by_their_definition():
    losses = np.full(120, 0.1)
    losses[[60, 90]] = 0.6, 0.3  # the second stays below .5
    run = spike.SpikeRun(losses, 0.0, losses, losses, losses, disturbed=(60, 90))
    assert run.spikes == 1
    assert replace(run, losses=np.full(120, 0.7)).spikes == 0
    assert run.clean.sum() == 118
    assert run.final == pytest.approx((0.1 * 49 + 0.3) / 50)


@pytest.mark.parametrize("spoil", ["batch", "tensor"])
def test_only_the_known_steps_are_disturbed_and_all_is_seeded(monkeypatch, spoil):
    monkeypatch.setattr(spike, "STEPS", 12)
    monkeypatch.setattr(spike, "SPIKES", (7,))
    make = spike.SETTINGS["SGD"]
    plain = spike.train(0, make, NormClip(1e9), spoil="nothing")
    spoilt, again = (spike.train(0, make, NormClip(1e9), spoil=spoil) for _ in range(2))
    np.testing.assert_array_equal(spoilt.norms, again.norms)
    np.testing.assert_array_equal(spoilt.norms[:7], plain.norms[:7])
    assert spoilt.norms[7] > 3 * plain.norms[7]


@pytest.mark.parametrize("percentile", [10, 50])
def test_autoclips_runs_are_limited_by_the_percentile_in_their_name(monkeypatch, percentile):
    monkeypatch.setattr(spike, "STEPS", 20)
    found = spike.train(0, spike.SETTINGS["SGD"], spike.CLIPPERS[f"AutoClip {percentile}"]())
    limits = [np.percentile(found.norms[: step + 1], percentile) for step in range(20)]
    np.testing.assert_allclose(found.scales[:, 0], np.minimum(1, limits / (found.norms + 1e-6)), rtol=1e-5)
    assert found.clipped.any()


def test_zclips_run_clips_the_disturbed_step_and_nothing_in_its_warm_up(monkeypatch):
    monkeypatch.setattr(spike, "STEPS", 32)
    monkeypatch.setattr(spike, "SPIKES", (30,))
    found = spike.train(0, spike.SETTINGS["SGD"], spike.CLIPPERS["ZClip"]())
    assert not found.clipped[:25].any()
    assert found.norms[:25].max() > 1  # its published constant cap is off
    assert found.clipped[30] == 1
    mean, std = found.norms[:25].mean(), found.norms[:25].std()
    # five clean steps move the statistics a little
    assert found.norms[30] * found.scales[30, 0] < mean + 2.5 * std < found.norms[30]


@pytest.mark.parametrize(("method", "ratio"), [("AdaGC 1.05", 1.05), ("AdaGC 1.5", 1.5)])
def test_adagcs_runs_limit_the_spoilt_tensor_by_its_own_past(monkeypatch, method, ratio):
    monkeypatch.setattr(spike, "STEPS", 101)  # the warm-up, the first step after it, and one that is spoilt
    monkeypatch.setattr(spike, "SPIKES", (100,))
    clip = p004_adagc.METHODS[method]()
    found = spike.train(0, spike.SETTINGS["SGD"], clip, spoil="tensor")
    # a factor for the whole gradient would be the same for all
    assert np.delete(found.scales[100], p004_adagc.SPOILT).min() > 2 * found.scales[100, p004_adagc.SPOILT]
    # undo the last step of the moving average, whose decay is .98
    before = (clip.threshold.average.values - 0.02 * clip.report.stat * clip.report.scale) / 0.98
    torch.testing.assert_close(clip.report.limit, ratio * before, rtol=1e-5, atol=0)


def test_scales_are_those_of_the_tensors(monkeypatch):
    monkeypatch.setattr(spike, "STEPS", 3)
    limited = spike.train(0, spike.SETTINGS["SGD"], NormClip(1e-2))
    assert limited.scales.shape == (3, 6)
    np.testing.assert_allclose(limited.scales[:, 0], 1e-2 / limited.norms, rtol=1e-3)
    units = spike.train(0, spike.SETTINGS["SGD"], spike.AGC(0.01))
    assert units.scales.shape == (3, 6)
    assert (units.scales < 1).any()


def test_the_perceptron_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    spike.perceptron(0)
    assert torch.equal(torch.get_rng_state(), before)
