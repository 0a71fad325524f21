"""Studies of losses: every way that a verdict can turn, on made-up rows, and what their parts measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from binderclip.losses import SquaredEuclidean
from binderclip.studies import Row, Table, load_study
from binderclip.studies.papers import p057_macl as adaptive
from binderclip.studies.papers import p064_mammo_clip as mammo
from binderclip.studies.papers import p079_augmented_sliced as sliced
from binderclip.studies.papers import p117_clip_refine as refined
from binderclip.studies.papers import p126_clip_up as sparse
from binderclip.studies.papers import p153_geometries as geometries
from binderclip.studies.papers import p181_hallucination as hallucination
from binderclip.studies.protocols.training import contrastive_towers as towers


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


def made_refined(gap=0.7, accuracy=0.21, recall=0.1, before=0.9, alone=0.15):
    rows = []
    for name in refined.METHODS:
        mine = name == refined.REFINED
        own = {refined.BEFORE: before, refined.MEANS: 0.1}.get(name, 0.9)
        level = {refined.REFINED: accuracy, refined.RAFA: alone}.get(name, 0.2)
        rows += [
            Row(refined.GAP, name, gap if mine else own),
            Row(refined.ACCURACY, name, level),
            Row(refined.RECALL, name, recall if mine else 0.1),
        ]
    return Table(rows)


def test_p117_stands_on_the_gap_and_on_what_is_kept(fails):
    fails("p117", made_refined(), "all met", [])
    more = ["the gap is smaller than before", "the gap is smaller than after", "and than with two"]
    fails("p117", made_refined(gap=0.95), "not met", more)
    fails("p117", made_refined(accuracy=0.18), "not met", ["the mean of accuracy", "it is above that before"])
    fails("p117", made_refined(accuracy=0.195), "essential met", ["it is above that before"])
    fails("p117", made_refined(alone=0.25), "essential met", ["it is above that of random vectors alone"])


def made_sparse(same=1e-7, recall=0.2, dense=0.15, scratch=0.1, accuracy=0.3, load=0.8):
    rows = [Row(sparse.SAME, sparse.UPCYCLED, same), Row(sparse.ENTROPY, sparse.UPCYCLED, load)]
    own = {sparse.UPCYCLED: recall, sparse.DENSE: dense, sparse.SCRATCH: scratch}
    for name in sparse.METHODS:
        rows.append(Row(sparse.RECALL, name, own.get(name, 0.1)))
        rows.append(Row(sparse.ACCURACY, name, accuracy if name == sparse.UPCYCLED else 0.3))
    return Table(rows)


def test_p126_stands_on_the_start_and_on_recall(fails):
    fails("p126", made_sparse(), "all met", [])
    fails("p126", made_sparse(same=1e-3), "not met", ["at the start"])
    fails("p126", made_sparse(dense=0.21), "not met", ["the upcycled model's recall", "in the mean of accuracy"])
    fails("p126", made_sparse(scratch=0.21), "not met", ["and above that of experts", "and above experts"])
    fails("p126", made_sparse(accuracy=0.24), "essential met", ["in the mean of accuracy"])
    fails("p126", made_sparse(load=0.3), "essential met", ["experts are used"])


def made_hallucination(right=0.5, alone=0.2, before=0.1, kept=0.8, plain=0.4):
    own = {hallucination.BOTH: right, hallucination.CONTRASTIVE: alone, hallucination.BEFORE: before}
    rows = [Row(hallucination.RIGHT, name, own.get(name, plain)) for name in hallucination.METHODS]
    for name in hallucination.METHODS:
        rows.append(Row(hallucination.KEPT, name, kept if name == hallucination.BOTH else 0.8))
    return Table(rows)


def test_p181_stands_on_the_own_caption_and_on_what_is_kept(fails):
    fails("p181", made_hallucination(), "all met", [])
    fails("p181", made_hallucination(alone=0.55), "not met", ["with hallucinated captions and margins", "it is first"])
    fails("p181", made_hallucination(before=0.6), "not met", ["and than before"])
    fails("p181", made_hallucination(kept=0.75), "not met", ["single objects are named"])
    fails("p181", made_hallucination(alone=0.4), "essential met", ["it is first at least"])
    fails("p181", made_hallucination(plain=0.6), "essential met", ["the margins help"])


def made_geometries(accuracy=0.6, plain=0.5, cones=0.6, outside=0.8, longer=-0.7, recall=0.6):
    own = {geometries.SQUARED: accuracy, geometries.PLAIN: plain, geometries.CONES: cones}
    rows = [Row(geometries.ACCURACY, name, own.get(name, 0.6)) for name in geometries.METHODS]
    rows += [Row(geometries.RECALL, name, recall if name == geometries.SQUARED else 0.6) for name in geometries.METHODS]
    for name, angle, length in ((geometries.SQUARED, 1.6, -0.5), (geometries.CONES, outside, longer)):
        rows += [Row(geometries.OUTSIDE, name, angle), Row(geometries.LENGTHS, name, length)]
    return Table(rows)


def test_p153_stands_on_accuracy_and_on_cones(fails):
    fails("p153", made_geometries(), "all met", [])
    fails("p153", made_geometries(accuracy=0.58), "not met", ["squared distances are at most"])
    fails("p153", made_geometries(plain=0.61), "not met", ["and above plain"])
    fails("p153", made_geometries(outside=1.7), "not met", ["cones bring pictures"])
    fails("p153", made_geometries(longer=-0.05), "not met", ["with cones texts", "more so"])
    fails("p153", made_geometries(longer=-0.4), "essential met", ["more so"])
    fails("p153", made_geometries(recall=0.5), "essential met", ["recall at 5"])
    fails("p153", made_geometries(cones=0.5), "essential met", ["with cones the accuracy"])


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


TRAINED = {**adaptive.LOSSES, **geometries.LOSSES}


@pytest.mark.parametrize("name", [name for name in TRAINED if name != geometries.UNTRAINED])
def test_towers_learn_by_every_loss(few_pictures, name):
    model, loss = towers.train_towers(TRAINED[name], 0, steps=120, batch=48, rate=3e-3, unit=True)
    new, _ = towers.train_towers(TRAINED[name], 0, steps=0, batch=48, unit=True)
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


def test_embeddings_start_with_a_mean_square_of_one(few_pictures):
    for embedded in towers.Towers(0, unit=True).embed(few_pictures):
        assert float(embedded.square().mean()) == pytest.approx(1.0, abs=1e-4)
    assert float(towers.Towers(0).embed(few_pictures)[0].square().mean()) < 0.1


@pytest.mark.parametrize(("factor", "outside", "longer"), [(2.0, 0.0, -np.log(2)), (0.5, np.pi, np.log(2))])
def test_p153_measures_angles_outside_of_cones(few_pictures, monkeypatch, factor, outside, longer):
    model = towers.Towers(0)
    model.image = model.text = torch.nn.Identity()
    pairs = few_pictures._replace(pictures=factor * few_pictures.words)
    monkeypatch.setattr(towers, "held_out", lambda: pairs)
    found = geometries.cones(model, SquaredEuclidean(1.0))
    # captions have length 1, so the half-angle is arcsin 0.1
    expected = max(0.0, outside - np.arcsin(0.1))
    assert found[0] == pytest.approx(expected, abs=2e-3)
    assert found[1] == pytest.approx(longer, abs=1e-5)


def made_mammo(multi=0.3, quarter=0.3, across=0.2, mapper=0.6, start=0.4, told=0.7):
    rows = [
        Row(metric, name, level, setting)
        for metric in (mammo.ACCURACY, mammo.RECALL)
        for name, level, setting in (
            (mammo.PLAIN, 0.25, mammo.ALL),
            (mammo.LONGER, 0.25, mammo.ALL),
            (mammo.ACROSS, across, mammo.ALL),
            (mammo.MULTI, multi, mammo.ALL),
            (mammo.PLAIN, 0.25, mammo.QUARTER),
            (mammo.MULTI, quarter, mammo.QUARTER),
        )
    ]
    points = {mammo.MAPPER: mapper, mammo.UNTRAINED: start, mammo.CAM: 0.5, mammo.CENTRE: 0.3, mammo.RANDOM: 0.1}
    tells = {mammo.MAPPER: told, mammo.UNTRAINED: 0.5, mammo.CAM: 0.9, mammo.RANDOM: 0.5}
    rows += [Row(mammo.POINTING, name, value) for name, value in points.items()]
    return Table([*rows, *(Row(mammo.TOLD, name, value) for name, value in tells.items())])


def test_p064_stands_on_the_loss_and_on_where_the_mapper_points(fails):
    fails("p064", made_mammo(), "all met", [])
    fails("p064", made_mammo(multi=0.245), "not met", ["Mammo-CLIP is above"])
    fails("p064", made_mammo(quarter=0.2), "essential met", ["with a quarter"])
    fails("p064", made_mammo(across=0.31), "essential met", ["terms within"])
    fails("p064", made_mammo(mapper=0.25, start=0.2), "not met", ["the mapper points", "and more often than class"])
    fails("p064", made_mammo(start=0.65), "essential met", ["and more often than before"])
    failing = load_study("p064").preconditions[-1].check(made_mammo(told=0.55))
    assert failing.outcome == "missing"
