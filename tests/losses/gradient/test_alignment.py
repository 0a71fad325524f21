"""GradientAlignmentLoss (p044, arXiv 2207.11378) against autograd's checks, loops, linear nets and plain training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.losses import GradientAlignmentLoss, class_gradients

F64 = torch.float64


def net(seed: int = 0, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, classes)).double()


def batch(n: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 2, 3, generator=g, dtype=F64)
    return x, torch.arange(n) % 4, torch.randn(n, 4, 1, 2, 3, generator=g, dtype=F64)


def test_gradients_of_all_classes_are_those_of_one_image_at_a_time() -> None:
    model, (x, _, _) = net(), batch()
    classes = torch.tensor([[0, 3], [1, 1], [2, 0], [3, 2], [0, 1]])
    for of in ("loss", "logit"):
        got = class_gradients(model, x, classes, of=of)
        for b in range(5):
            for j, t in enumerate(classes[b].tolist()):
                leaf = x[b : b + 1].clone().requires_grad_()
                score = model(leaf)
                value = score[0, t] if of == "logit" else -F.cross_entropy(score, torch.tensor([t]))
                value.backward()
                assert torch.allclose(got[b, j], leaf.grad[0])


def test_the_loss_is_the_published_formula_written_with_loops() -> None:
    model, (x, y, wanted) = net(), batch()
    out = GradientAlignmentLoss(weight=0.7, classes_per_image=4)(model, x, y, directions=wanted)
    cosines = []
    for b in range(5):
        for t in range(4):
            leaf = x[b : b + 1].clone().requires_grad_()
            (g,) = torch.autograd.grad(-F.cross_entropy(model(leaf), torch.tensor([t])), leaf)
            d = wanted[b, t]
            cosines.append((g * d).sum() / (g.norm() * d.norm()))
    mean = torch.stack(cosines).mean()
    assert torch.allclose(out.total, F.cross_entropy(model(x), y) + 0.7 * 10 * (1 - mean))
    assert torch.allclose(out.metrics["cosine"], mean)
    assert torch.allclose(out.total, out.terms["cross_entropy"] + out.terms["alignment"])


def test_it_can_be_differentiated_twice_and_its_training_gradient_is_right() -> None:
    model, (x, y, wanted) = net(), batch(3)
    weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        def forward(images: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (images,))

        term = GradientAlignmentLoss(weight=0.3, classes_per_image=4)
        return term(forward, x, y, directions=wanted).total

    assert torch.autograd.gradcheck(loss, weights)
    assert torch.autograd.gradgradcheck(loss, weights)


def test_a_linear_classifier_whose_gradients_are_the_targets_has_no_second_term() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double()
    rows = model[1].weight.detach().reshape(1, 4, 1, 2, 3)
    x, y, _ = batch()
    loss = GradientAlignmentLoss(weight=2.0, of="logit", classes_per_image=4)
    out = loss(model, x, y, directions=3 * rows.expand(5, -1, -1, -1, -1))
    assert abs(out.terms["alignment"].item()) < 1e-12
    assert torch.equal(out.terms["cross_entropy"], F.cross_entropy(model(x), y))
    turned = loss(model, x, y, directions=-rows.expand(5, -1, -1, -1, -1))
    assert turned.terms["alignment"].item() == pytest.approx(2 * 2.0 * 10)


def test_the_cosine_of_logits_does_not_depend_on_their_scale() -> None:
    model, (x, y, wanted) = net(), batch()
    plain, scaled = (
        GradientAlignmentLoss(of="logit", classes_per_image=4)(lambda t, s=s: s * model(t), x, y, directions=wanted)
        for s in (1.0, 37.0)
    )
    assert torch.allclose(plain.metrics["cosine"], scaled.metrics["cosine"])
    of_loss = [
        GradientAlignmentLoss(classes_per_image=4)(lambda t, s=s: s * model(t), x, y, directions=wanted)
        for s in (1.0, 37.0)
    ]
    assert not torch.allclose(of_loss[0].metrics["cosine"], of_loss[1].metrics["cosine"])


def test_weight_zero_is_plain_training_bit_by_bit() -> None:
    x, y, _ = batch()
    trained = []
    for loss in (lambda m, a, b: F.cross_entropy(m(a), b), GradientAlignmentLoss(weight=0.0)):
        model = net(3)
        fit(lambda pair, m=model, f=loss: f(m, *pair), model, [(x, y)], steps=15, lr=0.05, optimizer="sgd")
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][key], trained[1][key]) for key in trained[0])


def test_training_turns_gradients_towards_their_targets() -> None:
    model, (x, y, wanted) = net(), batch()
    loss = GradientAlignmentLoss(lambda images, classes: wanted[torch.arange(5)[:, None], classes], weight=1.0)
    before = GradientAlignmentLoss(classes_per_image=4)(model, x, y, directions=wanted).metrics["cosine"]
    fit(lambda pair: loss(model, *pair), model, [(x, y)], steps=150, lr=0.02)
    after = GradientAlignmentLoss(classes_per_image=4)(model, x, y, directions=wanted).metrics["cosine"]
    assert after > before + 0.2


def test_classes_are_drawn_without_replacement_and_evenly() -> None:
    seen = []

    def directions(images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        seen.append(classes)
        return torch.ones(*classes.shape, *images.shape[1:], dtype=F64)

    loss = GradientAlignmentLoss(directions, classes_per_image=3)
    x = torch.randn(900, 1, 2, 3, dtype=F64)
    loss(net(), x, torch.zeros(900).long())
    drawn = seen[0]
    assert drawn.shape == (900, 3)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    counts = torch.bincount(drawn.flatten(), minlength=4)
    assert (counts - 675).abs().max() < 4 * (900 * 0.75 * 0.25) ** 0.5
    GradientAlignmentLoss(directions, classes_per_image=9)(net(), x, torch.zeros(900).long())
    assert seen[1].shape == (900, 4)  # never more than there are


def test_the_gradient_goes_through_the_augmentation() -> None:
    model, (x, y, wanted) = net(), batch()
    mirrored = GradientAlignmentLoss(classes_per_image=4, augment=lambda t: t.flip(-1))
    out = mirrored(model, x, y, directions=wanted)
    plain = GradientAlignmentLoss(classes_per_image=4)(model, x.flip(-1), y, directions=wanted.flip(-1))
    assert torch.allclose(out.total, plain.total)


def test_mistakes_are_refused() -> None:
    model, (x, y, wanted) = net(), batch()
    for options, message in (
        ({"weight": -1}, "weight"),
        ({"classes_per_image": 0}, "classes_per"),
        ({"of": "p"}, "of"),
    ):
        with pytest.raises(UsageError, match=message):
            GradientAlignmentLoss(**options)
    with pytest.raises(UsageError, match="needs directions"):
        GradientAlignmentLoss()(model, x, y)
    with pytest.raises(UsageError, match="give one a class"):
        GradientAlignmentLoss()(model, x, y, directions=wanted[:, :2])
    with pytest.raises(UsageError, match="they must be"):
        GradientAlignmentLoss(lambda images, classes: images)(model, x, y)
    with pytest.raises(UsageError, match="indices"):
        class_gradients(model, x, y)
