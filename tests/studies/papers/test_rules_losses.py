"""p057 and p079: every way that a verdict can turn, on made-up rows, and what its parts measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from binderclip.studies import Row, Table
from binderclip.studies.papers import p057_macl as adaptive
from binderclip.studies.papers import p079_augmented_sliced as sliced
from binderclip.studies.protocols import contrastive_towers as towers


def made_sliced(ratio=1.0, flow=-3.0, moved=0.1):
    rows = [Row(sliced.RATIO, name, 0.5) for name in sliced.METHODS if name != sliced.AUGMENTED]
    rows.append(Row(sliced.RATIO, sliced.AUGMENTED, ratio))
    for target in sliced.TARGETS:
        rows += [Row(sliced.FLOW, name, -2.5, target) for name in sliced.FLOWING if name != sliced.AUGMENTED]
        rows.append(Row(sliced.FLOW, sliced.AUGMENTED, flow, target))
    rows += [
        Row(sliced.GAP, sliced.AUGMENTED, value, name) for name, value in ((sliced.RAW, 0.3), (sliced.MOVED, moved))
    ]
    return Table(rows)


def test_p079_stands_on_the_ratio_and_on_the_flow(fails):
    fails("p079", made_sliced(), "all met", [])
    fails("p079", made_sliced(ratio=0.65), "not met", ["the ratio"])
    fails("p079", made_sliced(flow=-2.4), "not met", ["samples that descend"])
    fails("p079", made_sliced(moved=0.4), "essential met", ["taking the means"])


def test_p079_flows_arrive_and_exact_distances_are_exact():
    rng = np.random.default_rng(0)
    target = sliced.target_points("circle", rng)
    assert target.norm(dim=1).sub(1).abs().max() < 0.1
    start = torch.as_tensor(rng.standard_normal((sliced.POINTS, 2)), dtype=torch.float32)
    way = sliced.flow(sliced.distances(2, 0, cold=False)[sliced.SLICED], start, target)
    assert len(way) == sliced.LOOKS
    assert way[-1] < 0.3 * sliced.exact_w2(start, target)
    shifted = sliced.exact_w2(target, target.flip(0) + torch.tensor([3.0, 4.0]))
    assert abs(shifted - 5) < 1e-5


def made_adaptive(accuracy=0.6, recall=0.6, pull=1.0, plain=0.5):
    rows = []
    for name in adaptive.METHODS:
        mine = name == adaptive.MACL
        rows += [
            Row(adaptive.ACCURACY, name, accuracy if mine else 0.55),
            Row(adaptive.RECALL, name, recall if mine else 0.55),
            Row(adaptive.PULL, name, pull if mine else plain),
        ]
    return Table(rows)


def test_p057_stands_on_the_mean_of_accuracy_and_recall(fails):
    fails("p057", made_adaptive(), "all met", [])
    fails("p057", made_adaptive(accuracy=0.49), "not met", ["MACL is above", "in accuracy"])
    fails("p057", made_adaptive(recall=0.54), "essential met", ["in recall"])
    fails("p057", made_adaptive(pull=0.9), "essential met", ["its pull"])
    fails("p057", made_adaptive(plain=0.95), "essential met", ["that of InfoNCE"])


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch):
    """Random features of pictures that show what their captions say, in place of the clip art."""
    captions = [f"red {word}" for word in towers.CONCEPTS for _ in range(4)]
    monkeypatch.setattr(towers, "vocabulary", lambda: {w: i for i, w in enumerate(("red", *towers.CONCEPTS))})
    words = towers.bags(captions)
    generator = torch.Generator().manual_seed(0)
    seen = words @ torch.randn(words.shape[1], 24, generator=generator)
    pictures = F.normalize(seen + 0.1 * torch.randn(len(seen), 24, generator=generator), dim=1)
    pairs = towers.CaptionedPictures(pictures, words, captions)
    for name in ("training", "held_out"):
        monkeypatch.setattr(towers, name, lambda: pairs)
    towers._named.cache_clear()
    yield pairs
    towers._named.cache_clear()


@pytest.mark.parametrize("name", adaptive.METHODS)
def test_towers_learn_by_every_loss_of_p057(few_pictures, name):
    model, loss = towers.train_towers(adaptive.LOSSES[name], 0, steps=80, batch=48)
    new, _ = towers.train_towers(adaptive.LOSSES[name], 0, steps=0, batch=48)
    assert towers.accuracy(new, loss.similarity) < 0.3
    assert towers.accuracy(model, loss.similarity) > 0.8
    assert towers.recall(model, loss.similarity) > 0.9


def test_p057_pulls_are_one_for_macl_and_one_minus_p_for_info_nce(few_pictures, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adaptive, "STEPS", 60)
    for name, expected in ((adaptive.MACL, 1.0), (adaptive.BASE, None)):
        watch, probabilities = adaptive.Pulls(), []

        def look(step, loss, image, text, watch=watch, probabilities=probabilities):
            watch(step, loss, image, text)
            if step >= 10 and step % 10 == 0:
                cosines = F.normalize(image.detach(), dim=1) @ F.normalize(text.detach(), dim=1).T
                logits = loss(image.detach(), text.detach()).metrics["scale"] * cosines
                both = (logits.softmax(1).diagonal() + logits.softmax(0).diagonal()) / 2
                probabilities.append(float(1 - both.mean()))

        towers.train_towers(adaptive.LOSSES[name], 0, steps=60, batch=32, watch=look)
        found = sum(watch.pulls) / len(watch.pulls)
        wanted = expected if expected is not None else sum(probabilities) / len(probabilities)
        assert found == pytest.approx(wanted, abs=1e-5)
