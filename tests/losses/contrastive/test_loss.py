from __future__ import annotations

import math

import open_clip.loss
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip import errors
from binderclip.losses import (
    METHODS,
    AlignmentScale,
    ContrastiveLoss,
    EmbeddingDistill,
    Inner,
    LogitScale,
    Pair,
    SameKey,
    clip,
    info_nce,
    macl,
    siglip,
)


def clip_with_views(smoothing=0.0, **settings):
    return ContrastiveLoss((Pair(smoothing=smoothing, same_view_negatives=True),), **settings)


@pytest.mark.parametrize("name", ["clip", "siglip", "contrastive"])
@pytest.mark.parametrize("chunk", [6, None])
def test_each_method_equals_open_clip_at_its_own_scale(features, name, chunk):
    image, text = features()
    loss = METHODS[name](chunk=chunk).double()
    output = loss(image, text)
    unit = F.normalize(image, dim=1), F.normalize(text, dim=1)
    theirs = {
        "clip": lambda: open_clip.loss.ClipLoss()(*unit, torch.tensor(1 / 0.07)),
        "siglip": lambda: open_clip.loss.SigLipLoss()(*unit, torch.tensor(10.0), torch.tensor(-10.0)),
        "contrastive": lambda: open_clip.loss.ClipLoss()(*unit, torch.tensor(1 / 0.07)),
    }[name]()
    assert float(output.total) == pytest.approx(float(theirs), abs=1e-6)
    output.backward()
    assert all(p.grad is not None and p.grad.abs() > 0 for p in loss.parameters())


def test_scale_and_bias_start_where_they_are_told_and_end_at_the_largest(features):
    image, text = features()
    unit = F.normalize(image, dim=1), F.normalize(text, dim=1)
    start = torch.tensor(5.0), torch.tensor(-2.0)
    for loss, reference in (
        (clip(init_scale=5.0, max_scale=6.0, learnable=False), lambda s: open_clip.loss.ClipLoss()(*unit, s)),
        (
            siglip(init_scale=5.0, init_bias=-2.0, max_scale=6.0, learnable=False),
            lambda s: open_clip.loss.SigLipLoss()(*unit, s, start[1]),
        ),
    ):
        assert float(loss(image, text).total) == pytest.approx(float(reference(start[0])), abs=1e-6)
        named = dict(loss.named_parameters())
        assert not any(p.requires_grad for p in named.values())
        (scale,) = [p for name, p in named.items() if name.endswith("logit_scale")]
        scale.fill_(math.log(50.0))
        assert float(loss(image, text).total) == pytest.approx(float(reference(torch.tensor(6.0))), abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_dense_and_chunked_agree_in_metrics_too(features, name):
    image, text = features(noise=2.0)
    taught = {"teacher_image": image.detach(), "teacher_text": text.detach()}
    taught["negatives"] = text.detach().roll(1, 0)[:, None]
    taught |= {"image_local": torch.stack([image, text], 1), "text_local": torch.stack([text, image.roll(1, 0)], 1)}
    if name == "mammo-clip":
        image, text, taught = taught["image_local"], taught["text_local"], {}
    one, other = (METHODS[name](chunk=chunk)(image, text, **taught) for chunk in (5, 100))
    assert one.metrics.keys() == other.metrics.keys()
    for key, value in one.metrics.items():
        torch.testing.assert_close(value, other.metrics[key], msg=key)


@pytest.mark.parametrize("chunk", [5, 100])
def test_metrics_against_the_whole_matrix(features, chunk):
    image, text = features(noise=2.0)
    metrics = clip(chunk=chunk)(image, text).metrics
    cosine = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    rows = torch.arange(23)
    assert float(metrics["accuracy_a_to_b"]) == pytest.approx(float((cosine.argmax(1) == rows).double().mean()))
    assert float(metrics["accuracy_b_to_a"]) == pytest.approx(float((cosine.argmax(0) == rows).double().mean()))
    assert 0 < metrics["accuracy_a_to_b"] < 1
    assert float(metrics["similarity_positive"]) == pytest.approx(float(cosine.diagonal().mean().detach()))
    others = cosine[~torch.eye(23, dtype=torch.bool)]
    assert float(metrics["similarity_negative"]) == pytest.approx(float(others.mean().detach()))


def test_collapsed_embeddings_score_no_hits():
    metrics = clip()(torch.ones(6, 3), torch.ones(6, 3)).metrics
    assert metrics["accuracy_a_to_b"] == 0


@pytest.mark.parametrize(
    "whole",
    [
        lambda output: output / 4 + 0.5 * output,
        lambda output: 0.75 * output.total.detach() * 0 + output * 0.75,
        lambda output: sum([output, -output / 4]),
        lambda output: torch.ones(()) * output - output / torch.tensor(4.0),
        lambda output: torch.stack([output, output, output]).sum() / 4,
        lambda output: 1 - (1 - 0.75 * output),
        lambda output: torch.mul(input=output, other=0.75),
    ],
)
def test_an_output_is_its_total_in_arithmetic(features, whole):
    image, text = features()
    output = clip()(image, text)
    value = whole(output)
    assert isinstance(value, torch.Tensor)
    assert float(value) == pytest.approx(0.75 * float(output.total))
    grad = torch.autograd.grad(value, image, retain_graph=True)[0]
    torch.testing.assert_close(grad, 0.75 * torch.autograd.grad(output.total, image, retain_graph=True)[0])
    assert float(output) == output.item() == float(output.detach())
    assert not output.detach().requires_grad
    output.backward(retain_graph=True)
    output.backward()
    torch.testing.assert_close(image.grad, 2 * grad / 0.75)


def test_drops_into_open_clips_training_loop(features):
    image, text = features()
    model_out = {
        "image_features": F.normalize(image, dim=1),
        "text_features": F.normalize(text, dim=1),
        "logit_scale": torch.tensor(25.0, dtype=torch.float64, requires_grad=True),
    }
    inputs = [image, text, model_out["logit_scale"]]
    grads = []
    for loss in (clip(), open_clip.loss.ClipLoss()):
        losses = loss(**model_out, output_dict=True)
        total = sum(losses.values())
        assert list(losses) == ["contrastive_loss"]
        grads.append(torch.autograd.grad(total, inputs, retain_graph=True))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_pair_plan_weights_scales_and_one_sided(features):
    image, text = features()
    other, _ = features(seed=5)
    loss = ContrastiveLoss(
        (
            Pair(),
            Pair("image", "view", weight=0.3, scale="local", smoothing=0.1),
            Pair("view", "text", symmetric=False),
        ),
        scales={"main": LogitScale(10.0), "local": LogitScale(3.0)},
        chunk=7,
    )
    output = loss(image, text, view=other)
    assert list(output.terms) == ["image-text", "image-view", "view-text"]
    unit = [F.normalize(x, dim=1) for x in (image, text, other)]
    expected = (
        info_nce(image, text, 10.0)
        + 0.3 * info_nce(image, other, 3.0, smoothing=0.1)
        + F.cross_entropy(10.0 * unit[2] @ unit[1].T, torch.arange(23))
    )
    assert float(output.total) == pytest.approx(float(expected), abs=1e-6)
    assert float(output.total) == pytest.approx(float(sum(output.terms.values())), abs=1e-12)


def test_geometry_owns_the_normalisation(features):
    image, text = features()
    longer = clip()(3 * image, text).total
    assert float(clip()(image, text).total) == pytest.approx(float(longer), abs=1e-12)
    inner = ContrastiveLoss(similarity=Inner(), scales=LogitScale(1.0))
    logits = image @ text.T
    rows = torch.arange(23)
    expected = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    assert float(inner(image, text).total) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("chunk", [4, 100])
def test_equal_captions_share_the_probability(features, chunk):
    image, text = features(rows=9)
    captions = ["cat", "dog", "cat", "sun", "moon", "cat", "dog", "car", "bus"]
    loss = ContrastiveLoss(targets=SameKey(), scales=LogitScale(6.0), chunk=chunk)
    output = loss(image, text, keys=captions)
    logits = 6.0 * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    target = torch.tensor([[float(a == b) / captions.count(a) for b in captions] for a in captions]).double()
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert float(output.total) == pytest.approx(float(expected), abs=1e-6)
    mine, theirs = (torch.autograd.grad(value, [image, text]) for value in (output.total, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    # a hit is any item with the same caption
    best = logits.argmax(1).tolist()
    hits = sum(captions[row] == captions[column] for row, column in enumerate(best)) / 9
    assert float(output.metrics["accuracy_a_to_b"]) == pytest.approx(hits)


@pytest.mark.parametrize("chunk", [4, 100])
def test_equal_captions_left_out_of_the_negatives(features, chunk):
    image, text = features(rows=6)
    keys = torch.tensor([1, 2, 1, 3, 2, 1])
    loss = ContrastiveLoss(targets=SameKey("ignore"), scales=LogitScale(6.0), chunk=chunk)
    output = loss(image, text, keys=keys)
    logits = 6.0 * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    hidden = (keys[:, None] == keys) & ~torch.eye(6, dtype=torch.bool)
    logits = logits.masked_fill(hidden, -math.inf)
    rows = torch.arange(6)
    expected = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    assert float(output.total) == pytest.approx(float(expected), abs=1e-6)
    mine, theirs = (torch.autograd.grad(value, [image, text]) for value in (output.total, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("keys", [[1, 2, 1, 3, 2, 1], [7] * 6, list(range(6))])
def test_smoothing_is_even_over_the_columns_that_are_left(features, chunk, symmetric, keys):
    """Row by row: torch's cross-entropy over the columns that are not left out."""
    image, text = features(rows=6)
    scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    loss = ContrastiveLoss((Pair(smoothing=0.2, symmetric=symmetric),), targets=SameKey("ignore"), chunk=chunk)
    output = loss(image, text, keys=keys, logit_scale=scale)
    logits = scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T

    def of(matrix):
        rows = []
        for row in range(6):
            left = [column for column in range(6) if column == row or keys[column] != keys[row]]
            target = torch.tensor(left.index(row))
            rows.append(F.cross_entropy(matrix[row, left], target, label_smoothing=0.2))
        return torch.stack(rows).mean()

    expected = (of(logits) + of(logits.T)) / 2 if symmetric else of(logits)
    assert float(output.total.detach()) == pytest.approx(float(expected.detach()), abs=1e-10)
    mine, theirs = (torch.autograd.grad(value, [image, text, scale]) for value in (output.total, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [4, 100])
@pytest.mark.parametrize("rule", ["share", "ignore"])
def test_equal_captions_under_the_sigmoid(features, chunk, rule):
    image, text = features(rows=6)
    keys = [1, 2, 1, 3, 2, 1]
    output = siglip(targets=SameKey(rule), chunk=chunk)(image, text, keys=keys)
    logits = 10.0 * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T - 10.0
    expected = 0.0
    for row in range(6):
        for column in range(6):
            positive = keys[row] == keys[column] if rule == "share" else row == column
            if rule == "ignore" and row != column and keys[row] == keys[column]:
                continue
            expected = expected - F.logsigmoid(logits[row, column] if positive else -logits[row, column]) / 6
    assert float(output.total) == pytest.approx(float(expected), abs=1e-6)
    mine, theirs = (torch.autograd.grad(value, [image, text]) for value in (output.total, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_unique_keys_are_the_diagonal(features):
    image, text = features()
    expected = clip(chunk=6)(image, text)
    for rule in ("share", "ignore"):
        output = clip(chunk=6, targets=SameKey(rule))(image, text, keys=range(23))
        torch.testing.assert_close(output.total, expected.total, rtol=0, atol=1e-12)


def test_terms_join_the_total_and_train_their_projections(features):
    image, text = features()
    teacher = torch.randn(23, 5, dtype=torch.float64)
    term = EmbeddingDistill(0.5, pairs={"image": "teacher"}, projections={"image": nn.Linear(8, 5).double()})
    loss = clip(terms=[term])
    output = loss(image, text, teacher=teacher)
    assert set(output.terms) == {"contrastive", "distill"}
    assert float(output.total) == pytest.approx(float(sum(output.terms.values())), abs=1e-12)
    output.backward()
    assert term.projections["image"].weight.grad.abs().sum() > 0


def test_state_dict_round_trip_keeps_the_scale():
    loss = clip(init_scale=33.0)
    fresh = clip()
    fresh.load_state_dict(loss.state_dict())
    assert float(fresh.scale.value) == pytest.approx(33.0)
    assert list(loss.state_dict()) == ["scales.main.logit_scale"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, t: ContrastiveLoss(link="cosine"), "softmax, sigmoid"),
        (lambda i, t: ContrastiveLoss(similarity="angle"), "cosine, arc"),
        (lambda i, t: ContrastiveLoss(similarity="arc", scales=AlignmentScale()), "follows cosines, not ArcLength"),
        (lambda i, t: macl(targets=SameKey())(i, t, keys=range(23)), "one positive a row"),
        (lambda i, t: macl(pairs=(Pair(smoothing=0.1),))(i, t), "reweighted softmax has none"),
        (lambda i, t: clip_with_views(smoothing=0.1)(i, t), "does not go with same_view_negatives"),
        (lambda i, t: clip_with_views(targets=SameKey()), "goes with Diagonal"),
        (lambda i, t: clip_with_views(link="sigmoid")(i, t), "belong to a softmax"),
        (lambda i, t: ContrastiveLoss((Pair(scale="local"),)), "local"),
        (lambda i, t: ContrastiveLoss(()), "neither pairs nor terms"),
        (lambda i, t: ContrastiveLoss((Pair("image", "view"),))(i, t), "view=..."),
        (lambda i, t: clip()(i), "text=..."),
        (lambda i, t: clip()(i, t[:4]), "23 rows, text features 4"),
        (lambda i, t: clip()(i[:1], t[:1]), "at least 2"),
        (lambda i, t: clip()(i * torch.nan, t), "image features are NaN"),
        (lambda i, t: clip(targets=SameKey())(i, t), "need keys="),
        (lambda i, t: clip(targets=SameKey())(i, t, keys=[1, 2]), "one entry per row"),
        (lambda i, t: clip(gather="all")(i, t), "gather must be"),
        (lambda i, t: SameKey("drop"), "'share' or 'ignore'"),
        (lambda i, t: clip(terms=[EmbeddingDistill(pairs={"image": "y"})])(i, t, y=t[:, :5]), "nn.Linear"),
    ],
)
def test_wrong_use_says_what_would_be_right(features, call, message):
    with pytest.raises(errors.UsageError, match=message):
        call(*features())


@pytest.mark.parametrize("chunk", [5, 100])
@pytest.mark.parametrize("similarity", ["cosine", "lorentz"])
def test_two_views_in_one_batch_are_nt_xent(features, chunk, similarity):
    one, other = features(rows=9)
    loss = ContrastiveLoss(
        (Pair("image", "view", same_view_negatives=True),), similarity=similarity, scales=LogitScale(4.0), chunk=chunk
    )
    output = loss(one, view=other)
    both = torch.cat([one, other])
    geometry = loss.similarity
    points = geometry.embed(both, "image")
    logits = 4.0 * geometry(points, points).fill_diagonal_(-math.inf)
    partners = torch.arange(18).roll(9)
    expected = F.cross_entropy(logits, partners)
    assert float(output.total) == pytest.approx(float(expected), abs=1e-6)
    mine, theirs = (torch.autograd.grad(value, [one, other]) for value in (output.total, expected))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    plain = logits.detach() / 4.0
    right = plain[torch.arange(18), partners]
    negative = (plain.masked_fill(torch.eye(18, dtype=torch.bool), 0).sum() - right.sum()) / (18 * 16)
    assert float(output.metrics["similarity_positive"]) == pytest.approx(float(right.mean()), abs=1e-6)
    assert float(output.metrics["similarity_negative"]) == pytest.approx(float(negative), abs=1e-6)
    assert float(output.metrics["accuracy_a_to_b"]) == pytest.approx(
        float((logits.argmax(1) == partners).double().mean())
    )
