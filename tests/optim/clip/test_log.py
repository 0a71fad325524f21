from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from binderclip.errors import DataError, UsageError
from binderclip.optim import (
    METHODS,
    Clip,
    ClipLog,
    NonFiniteGradient,
    NormClip,
    ValueClip,
    as_clip,
    read_clip_log,
)
from binderclip.optim.clip.spikes import SpikeDetector


def run(log, norms, start=0, names=("small", "large")):
    """One call per norm: two tensors, of which the second holds all but a tenth of the squared norm."""
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4, 2))]
    for norm in norms[start:]:
        for weight, share in zip(weights, (0.1, 0.9), strict=True):
            weight.grad = torch.full_like(weight, norm * math.sqrt(share / weight.numel()))
        log(list(zip(names, weights, strict=True)))


def norms_with_spikes(count=60, at=(25, 40)):
    chance = np.random.default_rng(0)
    norms = np.exp(0.1 * chance.standard_normal(count))
    for index in at:
        norms[index] *= 30
    return norms


# -- what is noted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("every", [1, 7, 50, 1000])
def test_norms_limits_and_spikes_are_those_of_the_run(folder, every, tmp_path):
    norms = norms_with_spikes()
    log = ClipLog(NormClip(2.0), every, out=tmp_path if folder else None)
    run(log, norms)
    history = log.history
    np.testing.assert_array_equal(history.step, np.arange(1, 61))
    np.testing.assert_allclose(history.norm, norms, rtol=1e-5)
    np.testing.assert_allclose(history.limit, 2.0)
    np.testing.assert_allclose(history.scale, np.minimum(1, 2 / (norms + 1e-6)), rtol=1e-5)
    assert [spike.step for spike in log.spikes] == [26, 41]
    assert history.clipped.sum() == 2
    spike = log.spikes[0]
    assert spike.norm == pytest.approx(norms[25], rel=1e-5)
    assert spike.usual == pytest.approx(np.median(norms[5:25]), rel=1e-5)
    assert spike.ratio == pytest.approx(norms[25] / np.median(norms[5:25]), rel=1e-5)
    assert [name for name, *_ in spike.top] == ["large", "small"]
    assert [share for *_, share in spike.top] == pytest.approx([0.9, 0.1], rel=1e-4)
    assert spike.top[0][1] == pytest.approx(norms[25] * math.sqrt(0.9), rel=1e-4)
    assert (tmp_path / "clip.jsonl").exists() == folder


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_watched_and_is_not_disturbed(name, tmp_path):
    def trained(clip):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        clip.attach(optimizer, net.named_parameters())
        batch = torch.randn(16, 4)
        for step in range(40):
            optimizer.zero_grad()
            ((50.0 if step == 30 else 1.0) * net(batch).square().mean()).backward()
            optimizer.step()
        return net

    plain, watched = METHODS[name](), METHODS[name]()
    log = ClipLog(watched, every=7, out=tmp_path)
    for a, b in zip(trained(plain).parameters(), trained(log).parameters(), strict=True):
        assert torch.equal(a, b)
    assert 31 in [spike.step for spike in log.spikes]
    history = log.history
    assert np.isfinite(history.norm).all()
    assert ((history.scale >= 0) & (history.scale <= 1)).all()
    report = watched.report
    assert history.norm[-1] == pytest.approx(float(report.norm), rel=1e-5)
    worst = float((report.stat / report.limit).max())
    assert history.stat[-1] / history.limit[-1] == pytest.approx(worst, rel=1e-4)
    assert history.share[-1] == pytest.approx(float(report.clipped.float().mean()), abs=1e-6)


def test_a_list_shows_its_global_clip_and_the_scale_of_all():
    log = ClipLog(as_clip([ValueClip(0.5), NormClip(0.2)]))
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.tensor([3.0, 0.0, 0.0, 0.4])
    log([weight])
    history = log.history
    norm = math.hypot(0.5, 0.4)
    assert history.norm[0] == pytest.approx(norm, rel=1e-5)
    assert history.limit[0] == pytest.approx(0.2)
    assert history.scale[0] == pytest.approx((0.5 / 3.0) * 0.2 / norm, rel=1e-4)
    assert history.whole
    assert len(history.clips) == 2


def test_parameters_that_come_and_go_and_steps_without_any():
    log = ClipLog(NormClip(1.0, granularity="tensor"), every=100)
    weights = {name: nn.Parameter(torch.ones(2)) for name in "abc"}
    for step in range(12):
        for number, weight in enumerate(weights.values()):
            weight.grad = torch.full_like(weight, 100.0 if step == 11 else 1.0) if step % 3 >= number else None
        log(weights.items())
    for weight in weights.values():
        weight.grad = None
    log(weights.items())
    history = log.history
    np.testing.assert_allclose(history.norm[:3], np.sqrt([2, 4, 6]), rtol=1e-5)
    assert log.step == 13
    assert len(history.step) == 12
    assert {name for name, *_ in log.spikes[-1].top} == {"a", "b", "c"}


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_a_step_that_is_not_finite_is_noted_with_the_cause(policy, tmp_path):
    log = ClipLog(NormClip(1.0, nonfinite=policy), every=1000, out=tmp_path)
    run(log, np.ones(12))
    if policy == "raise":
        with pytest.raises(NonFiniteGradient):
            run(log, [math.nan])
    else:
        run(log, [math.nan])
    # the error is in the file already, as nobody may get around to flushing it
    history = read_clip_log(tmp_path) if policy == "raise" else log.history
    assert history.skipped.tolist() == [False] * 12 + [True]
    spike = history.spikes[-1]
    assert (spike.step, spike.skipped, spike.scale) == (13, True, 0.0)
    assert math.isnan(spike.norm)
    assert ("small" in spike.note) if policy == "raise" else ([name for name, *_ in spike.top] == ["small", "large"])
    run(log, np.ones(3))
    assert len(log.history.step) == 16


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_clips_of_the_update_are_noted_after_the_step(policy):
    """SGD's update is the gradient, so both kinds of clip see the same numbers; of a list, each acts in its place."""

    def trained(clip):
        weight = nn.Parameter(torch.zeros(3))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        log = ClipLog(clip, 1)
        log.attach(optimizer, [("w", weight)])
        for factor in (1.0, 5.0, 2.0, math.nan, 3.0):
            weight.grad = factor * torch.tensor([0.0, 0.6, 0.8])
            try:
                optimizer.step()
            except NonFiniteGradient:
                assert policy == "raise"
        return log, weight

    log, weight = trained(NormClip(2.0, where="update", nonfinite=policy))
    other, same = trained(NormClip(2.0, nonfinite=policy))
    torch.testing.assert_close(weight, same)
    assert log.step == 5
    np.testing.assert_allclose(log.history.norm, [1, 5, 2, math.nan, 3], rtol=1e-5)
    np.testing.assert_allclose(log.history.norm, other.history.norm, rtol=1e-5)
    assert log.history.skipped.tolist() == [False, False, False, True, False]
    both, _ = trained(as_clip([NormClip(4.0, nonfinite=policy), NormClip(2.0, where="update", nonfinite=policy)]))
    np.testing.assert_allclose(both.history.scale[:3], [1, 0.4, 1], rtol=1e-5)


def test_record_beside_a_clip_that_is_used_on_its_own():
    clip = NormClip(1.0)
    log = ClipLog(clip)
    weight = nn.Parameter(torch.zeros(2))
    for step in (5, 6, 9):
        weight.grad = torch.full((2,), float(step))
        clip([weight])
        log.record(step)
    assert log.history.step.tolist() == [5, 6, 9]
    np.testing.assert_allclose(log.history.norm, np.array([5, 6, 9]) * math.sqrt(2), rtol=1e-6)


class HostReads(TorchDispatchMode):
    """Counts every read of a tensor's value by the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("granularity", ["global", "tensor", "unit"])
def test_nothing_is_read_back_between_two_flushes(granularity):
    clip = NormClip(1.0, granularity=granularity)
    log = ClipLog(clip, every=20)
    weights = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    clip(weights)
    with HostReads() as reads:
        for _ in range(19):
            log.record()
    assert reads.count == 0
    assert len(log._waiting) == 19
    log.record()
    assert not log._waiting


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("every", [1, 7, 1000])
def test_a_resumed_log_is_that_of_an_undisturbed_run(folder, every, tmp_path, remembering):
    """Killed after more steps than the checkpoint holds, some of them in the file already, with half a line."""
    norms = norms_with_spikes(at=(31, 45))
    whole = ClipLog(Clip(remembering()), every, out=tmp_path / "whole" if folder else None)
    run(whole, norms)

    first = ClipLog(Clip(remembering()), every, out=tmp_path / "cut" if folder else None)
    run(first, norms[:30])
    state = first.state_dict()
    run(first, norms[:37], start=30)
    if folder:
        first.flush()
        with open(tmp_path / "cut" / "clip.jsonl", "a") as file:
            file.write('{"step": 38, "no')
    second = first if not folder else ClipLog(Clip(remembering()), every, out=tmp_path / "cut")
    second.load_state_dict(state)
    assert second.step == 30
    run(second, norms, start=30)
    assert [spike.step for spike in second.spikes] == [32, 46]
    assert repr(second.spikes) == repr(whole.spikes)
    np.testing.assert_array_equal(second.history.limit, whole.history.limit)
    if folder:
        assert (tmp_path / "cut" / "clip.jsonl").read_text() == (tmp_path / "whole" / "clip.jsonl").read_text()


def test_a_new_run_in_the_same_folder_replaces_the_old_one(tmp_path):
    for count in (20, 5):
        log = ClipLog(NormClip(), out=tmp_path)
        run(log, np.ones(count))
        log.close()
    assert len(read_clip_log(tmp_path).step) == 5


def test_states_go_between_a_clip_and_its_log(remembering):
    log, plain = ClipLog(Clip(remembering())), Clip(remembering())
    run(log, np.ones(4))
    plain.load_state_dict(log.state_dict())
    assert repr(plain.state_dict()) == repr(log.clip.state_dict())
    other = ClipLog(Clip(remembering()))
    other.load_state_dict(plain.state_dict())
    assert other.step == 0
    assert repr(other.clip.state_dict()) == repr(plain.state_dict())


def test_the_step_count_travels_with_the_optimizer(tmp_path):
    def made():
        weight = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        log = ClipLog(NormClip(0.5), every=3, out=tmp_path)
        log.attach(optimizer)
        return weight, optimizer, log

    def steps(weight, optimizer, count):
        for _ in range(count):
            weight.grad = torch.ones(2)
            optimizer.step()

    weight, optimizer, _ = made()
    steps(weight, optimizer, 4)
    saved = optimizer.state_dict()
    steps(weight, optimizer, 4)
    weight, optimizer, log = made()
    optimizer.load_state_dict(saved)
    steps(weight, optimizer, 2)
    assert log.history.step.tolist() == [1, 2, 3, 4, 5, 6]


# -- what a spike is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_spikes_do_not_depend_on_the_scale_and_drift_is_none(scale):
    chance = np.random.default_rng(1)
    # a fall by twelve powers of ten, and a rise
    trend = np.concatenate([np.linspace(28, 0, 120), np.linspace(0, 4, 80)])
    drift = np.exp(trend + 0.15 * chance.standard_normal(200))
    drift[[90, 150]] *= 60
    detect = SpikeDetector()
    assert [i for i, norm in enumerate(scale * drift) if detect(norm)[0]] == [90, 150]


def test_a_noisy_gradient_needs_a_larger_spike():
    chance = np.random.default_rng(2)
    noisy = np.exp(1.0 * chance.standard_normal(300))
    detect = SpikeDetector()
    assert not any(detect(norm)[0] for norm in noisy)
    assert detect(1e4)[0]


def test_the_ratio_and_the_memory_are_those_asked_for():
    detectors = {factor: SpikeDetector(factor=factor) for factor in (2.0, 5.0)}
    assert {factor: [detect(norm)[0] for norm in [1.0] * 20 + [3.0]][-1] for factor, detect in detectors.items()} == {
        2.0: True,
        5.0: False,
    }
    # thirty norms that swing by a factor of two, then calm: the swings hide a ratio of three as long as they are known
    norms = [1.0, 2.0] * 15 + [1.0] * 20 + [3.0]
    for window, expected in ((60, False), (15, True)):
        detect = SpikeDetector(window=window)
        assert [detect(norm)[0] for norm in norms][-1] is expected


def test_the_running_median_is_numpys():
    chance = np.random.default_rng(3)
    values = chance.choice([0.0, 1.0, 1.0, 2.5, 7.0], 120)
    detect = SpikeDetector(least=1)
    for index, value in enumerate(values):
        _, usual = detect(value)
        if index:
            assert usual == np.median(values[max(0, index - 20) : index])


# -- where it goes -----------------------------------------------------------------------------------------------------


def test_the_picture_marks_limit_clipped_steps_and_spikes(tmp_path):
    log = ClipLog(NormClip(2.0), out=tmp_path)
    run(log, norms_with_spikes())
    log.close()
    with Image.open(tmp_path / "clip.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    accent, limit, ink = (192, 80, 77), (102, 102, 102), (31, 78, 121)
    found = {colour: (np.abs(pixels - colour).sum(-1) < 30) for colour in (accent, limit, ink)}
    assert all(mask.sum() > 20 for mask in found.values())
    # two triangles, left and right of the middle, above the line of the limit
    rows, columns = np.nonzero(found[accent])
    height, width = pixels.shape[:2]
    inside = rows < 0.8 * height  # above the legend
    assert (columns[inside] < 0.5 * width).any()
    assert (columns[inside] > 0.6 * width).any()
    bar = np.argmax(found[limit].sum(1))
    assert rows[inside].max() < bar


def test_rules_with_many_blocks_get_a_second_panel(tmp_path):
    log = ClipLog(NormClip(0.5, granularity="tensor"))
    run(log, norms_with_spikes())
    picture = log.plot(tmp_path / "x.png")
    with Image.open(picture) as image:
        tall = image.height / image.width
    assert tall > 0.6
    assert not log.history.whole


def test_tensorboard_gets_every_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    norms = norms_with_spikes()
    with SummaryWriter(str(tmp_path)) as writer:
        log = ClipLog(NormClip(2.0), 7, writer=writer)
        run(log, norms)
        log.flush()
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    points = events.Scalars("clip/norm")
    assert [point.step for point in points] == list(range(1, 61))
    np.testing.assert_allclose([point.value for point in points], norms, rtol=1e-5)
    assert {"clip/limit", "clip/scale", "clip/clipped"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_writes(rank, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    log = ClipLog(NormClip(1.0), 2, out=tmp_path / "run", writer=None)
    run(log, [1.0] * 5)
    log.close()
    assert (tmp_path / "run").exists() == (rank == 0)
    assert log.step == log.state_dict()["logged"] == 5


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UsageError, match="every and top"):
        ClipLog(NormClip(), 0)
    with pytest.raises(UsageError, match="watches a Clip"):
        ClipLog("norm")
    with pytest.raises(UsageError, match="no out="):
        ClipLog(NormClip()).plot()
    with pytest.raises(DataError, match="nothing was recorded"):
        ClipLog(NormClip()).plot(tmp_path / "x.png")
    with pytest.raises(DataError, match="no record of clipping"):
        read_clip_log(tmp_path)
    (tmp_path / "clip.jsonl").write_text("[1, 2]\n")
    with pytest.raises(DataError, match="is not a record"):
        read_clip_log(tmp_path)
    (tmp_path / "clip.jsonl").write_text('{"clips": [], "whole": true}\n{"step": 1}\n')
    with pytest.raises(DataError, match="damaged"):
        read_clip_log(tmp_path)
    (tmp_path / "file").write_text("")
    log = ClipLog(NormClip(), 1, out=tmp_path / "file")
    with pytest.raises(DataError, match="cannot make the folder"):
        run(log, [1.0])


def test_the_file_is_plain_json(tmp_path):
    log = ClipLog(NormClip(math.inf, nonfinite="skip"), out=tmp_path)
    run(log, [1.0, math.nan])
    log.flush()

    def refuse(word):
        raise AssertionError(word)

    lines = (tmp_path / "clip.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert rows[1]["limit"] is None
    assert rows[2]["norm"] is None
    assert log.history.limit.tolist() == [math.inf, math.inf]
