"""Losses of mask sets and the relaxations of ReMaX (p180, arXiv 2306.17319), against loops and limiting cases."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from binderclip.errors import UsageError
from binderclip.losses import MaskSetLoss, ReClass, ReMask
from binderclip.losses.dense.mask_sets import dice_loss, match_masks, semantic_labels, soft_focal_loss

K = 3


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def case() -> dict[str, Any]:
    """Two pictures with two objects and none, five queries, 4 x 6 pixels."""
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, :2, :3], masks[1, 2:, 2:] = True, True
    return {
        "masks": 2 * drawn(2, 5, 4, 6, seed=1),
        "classes": drawn(2, 5, K + 1, seed=2),
        "labels": [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.long)],
        "targets": [masks, torch.zeros(0, 4, 6, dtype=torch.bool)],
        "semantic": drawn(2, K + 1, 4, 6, seed=3),
    }


def test_the_gate_by_loops(case: dict[str, Any]) -> None:
    found = ReMask()(case["masks"], case["classes"], case["semantic"])
    for b in range(2):
        for n in range(5):
            for y in range(4):
                for x in range(6):
                    gate = sum(
                        torch.sigmoid(case["classes"][b, n, c]) * torch.sigmoid(case["semantic"][b, c, y, x])
                        for c in range(K + 1)
                    )
                    m = case["masks"][b, n, y, x]
                    assert float(found[b, n, y, x]) == pytest.approx(float(m * (1 + gate)), abs=1e-5)


def test_limits_of_the_gate(case: dict[str, Any]) -> None:
    never = torch.full_like(case["semantic"], -1e4)
    assert torch.equal(ReMask()(case["masks"], case["classes"], never), case["masks"])
    # One class that is sure on both sides: masks are doubled.
    sure = torch.full_like(case["classes"], -1e4)
    sure[..., 0] = 1e4
    always = never.clone()
    always[:, 0] = 1e4
    assert torch.allclose(ReMask()(case["masks"], sure, always), 2 * case["masks"])


def test_soft_targets_by_loops_and_their_bounds(case: dict[str, Any]) -> None:
    semantic = semantic_labels(case["labels"], case["targets"], K)
    assert semantic[0, 0, 0] == 2
    assert semantic[0, 3, 5] == 0
    assert (semantic[1] == K).all()
    target = F.one_hot(torch.tensor([[2, K, K, 0, K], [K] * 5]), K + 1).float()
    found = ReClass(0.1)(target, case["masks"], semantic)
    for b in range(2):
        for n in range(5):
            for c in range(K + 1):
                there = semantic[b] == c
                share = float(case["masks"][b, n].sigmoid()[there].sum()) / (int(there.sum()) + 1e-5)
                want = 0.1 * share + (1 - 0.1 * share) * float(target[b, n, c])
                assert float(found[b, n, c]) == pytest.approx(want, abs=1e-5)
    assert torch.allclose(found[target == 1], torch.ones(10))
    assert float(found[target == 0].max()) <= 0.1
    assert torch.equal(ReClass(0.0)(target, case["masks"], semantic), target)


def test_a_perfect_mask_of_a_whole_class_keeps_its_target_one_hot() -> None:
    semantic = torch.full((1, 4, 6), K)
    semantic[0, :2] = 1
    mask = torch.where(semantic == 1, 1e4, -1e4)[:, None]
    target = F.one_hot(torch.tensor([[1]]), K + 1).float()
    assert torch.allclose(ReClass(0.5)(target, mask, semantic), target)


def by_loops(case: dict[str, Any], eta: float, gated: bool) -> dict[str, float]:
    """The loss with the best of all assignments, written as sums over pixels."""
    masks = ReMask()(case["masks"], case["classes"], case["semantic"]) if gated else case["masks"]
    truth = semantic_labels(case["labels"], case["targets"], K)
    total = {"class": 0.0, "mask": 0.0, "dice": 0.0}
    weight = 0.0
    matched = 0
    for b in range(2):
        labels, targets = case["labels"][b], case["targets"][b].float()

        def pair(
            n: int, g: int, b: int = b, labels: Any = labels, targets: Any = targets
        ) -> tuple[float, float, float]:
            p, y = masks[b, n].sigmoid(), targets[g]
            bce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
            dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
            return float(-case["classes"][b, n].softmax(0)[labels[g]]), float(bce), float(dice)

        def cost(rows: tuple[int, ...], pair: Any = pair) -> float:
            return sum(2 * c + 5 * m + 5 * d for c, m, d in (pair(n, g) for g, n in enumerate(rows)))

        best = min(permutations(range(5), len(labels)), key=cost)
        wanted = [K] * 5
        for g, n in enumerate(best):
            _, bce, dice = pair(n, g)
            total["mask"] += 5 * bce
            total["dice"] += 5 * dice
            wanted[n] = int(labels[g])
            matched += 1
        for n in range(5):
            log_p, soft = case["classes"][b, n].log_softmax(0), []
            for c in range(K + 1):
                there = truth[b] == c
                share = eta * float(case["masks"][b, n].sigmoid()[there].sum()) / (int(there.sum()) + 1e-5)
                soft.append(share + (1 - share) * (wanted[n] == c))
            alpha = (1 - soft[K]) + 0.1 * soft[K]
            total["class"] += 2 * alpha * -sum(t * float(log_p[c]) for c, t in enumerate(soft))
            weight += alpha
    return {"class": total["class"] / weight, "mask": total["mask"] / matched, "dice": total["dice"] / matched}


@pytest.mark.parametrize(("eta", "gated"), [(0.0, False), (0.1, False), (0.0, True), (0.1, True)])
def test_the_whole_loss_by_loops_over_all_assignments(case: dict[str, Any], eta: float, gated: bool) -> None:
    loss = MaskSetLoss(relax_masks=ReMask() if gated else None, relax_classes=ReClass(eta) if eta else None)
    value = loss(**case)
    want = by_loops(case, eta, gated)
    if gated:
        truth = semantic_labels(case["labels"], case["targets"], K)
        want["semantic"] = float(F.cross_entropy(case["semantic"], truth))
    for name, part in want.items():
        assert float(loss.parts[name]) == pytest.approx(part, rel=1e-4), name
    assert float(value) == pytest.approx(sum(want.values()), rel=1e-4)
    wrong = loss.parts["false positives"] + loss.parts["false negatives"]
    assert float(wrong) == pytest.approx(want["mask"] / 5 * 2 * 24, rel=1e-4)  # means of two masks of 24 pixels


def test_without_relaxation_the_class_term_is_pytorchs_weighted_cross_entropy(case: dict[str, Any]) -> None:
    loss = MaskSetLoss(class_weight=1, no_object=0.3)
    loss(**case)
    rows, columns = match_masks(
        case["masks"][0], case["classes"][0], case["labels"][0], case["targets"][0], weights=(1.0, 5.0, 5.0)
    )
    wanted = torch.full((10,), K)
    wanted[rows] = case["labels"][0][columns]
    want = F.cross_entropy(case["classes"].flatten(0, 1), wanted, weight=torch.tensor([1, 1, 1, 0.3]))
    assert float(loss.parts["class"]) == pytest.approx(float(want), rel=1e-5)


def test_the_gate_teaches_neither_semantics_nor_classes(case: dict[str, Any]) -> None:
    leaves = {name: case[name].clone().requires_grad_() for name in ("masks", "classes", "semantic")}
    relaxed = ReMask()(leaves["masks"], leaves["classes"], leaves["semantic"])
    relaxed.sum().backward()
    assert leaves["semantic"].grad is None
    assert leaves["classes"].grad is None
    assert torch.allclose(leaves["masks"].grad * leaves["masks"], relaxed.detach(), atol=1e-5)
    leaves = {name: case[name].clone().requires_grad_() for name in ("masks", "classes", "semantic")}
    loss = MaskSetLoss(relax_masks=ReMask(), relax_classes=ReClass())
    loss(**{**case, **leaves}).backward()
    alone = case["semantic"].clone().requires_grad_()
    F.cross_entropy(alone, semantic_labels(case["labels"], case["targets"], K)).backward()
    assert torch.allclose(leaves["semantic"].grad, alone.grad, atol=1e-6)


@pytest.mark.parametrize("relaxed", [False, True])
def test_void_pixels_change_nothing(case: dict[str, Any], relaxed: bool) -> None:
    """Whatever stands in them, in predictions, semantics and targets; and they are not there at all."""
    loss = MaskSetLoss(relax_masks=ReMask(), relax_classes=ReClass(0.3)) if relaxed else MaskSetLoss()
    ignore = torch.zeros(2, 4, 6, dtype=torch.bool)
    ignore[:, :, 4:] = True
    given = {name: value for name, value in case.items() if relaxed or name != "semantic"}
    found = loss(**given, ignore=ignore)
    pairs = loss.pairs
    other = dict(given)
    other["masks"] = torch.where(ignore[:, None], 50 * drawn(2, 5, 4, 6, seed=8), case["masks"]).requires_grad_()
    if relaxed:
        other["semantic"] = torch.where(ignore[:, None], 9 * drawn(2, K + 1, 4, 6, seed=9), case["semantic"])
    other["targets"] = [own ^ (void & (len(own) > 0)) for own, void in zip(case["targets"], ignore, strict=True)]
    changed = loss(**other, ignore=ignore)
    assert torch.equal(changed, found)
    assert all(
        torch.equal(a, b) for old, new in zip(pairs, loss.pairs, strict=True) for a, b in zip(old, new, strict=True)
    )
    changed.backward()
    assert (other["masks"].grad.masked_select(ignore[:, None]) == 0).all()
    cut = {name: value[..., :4] if isinstance(value, torch.Tensor) and value.ndim == 4 else value
           for name, value in given.items()}  # fmt: skip
    cut["targets"] = [own[..., :4] for own in case["targets"]]
    assert float(loss(**cut)) == pytest.approx(float(found), abs=1e-6)
    nothing = loss(**given, ignore=torch.zeros_like(ignore))
    assert float(nothing) == pytest.approx(float(loss(**given)), abs=1e-6)
    assert torch.isfinite(loss(**given, ignore=torch.ones_like(ignore)))
    with pytest.raises(UsageError, match="ignore must be a mask"):
        loss(**given, ignore=ignore[:1])


def test_the_order_of_queries_and_objects_does_not_count(case: dict[str, Any]) -> None:
    loss = MaskSetLoss(relax_masks=ReMask(), relax_classes=ReClass())
    before = float(loss(**case))
    order = torch.tensor([3, 1, 4, 0, 2])
    moved = {**case, "masks": case["masks"][:, order], "classes": case["classes"][:, order]}
    moved["labels"] = [each.flip(0) for each in case["labels"]]
    moved["targets"] = [each.flip(0) for each in case["targets"]]
    assert float(loss(**moved)) == pytest.approx(before, rel=1e-5)


def test_pictures_without_an_object_and_dice_of_disjoint_masks(case: dict[str, Any]) -> None:
    nothing = {"labels": [case["labels"][1]] * 2, "targets": [case["targets"][1]] * 2}
    loss = MaskSetLoss()
    value = loss(case["masks"].requires_grad_(), case["classes"], **nothing)
    assert float(loss.parts["mask"]) == float(loss.parts["dice"]) == 0
    assert torch.isfinite(value)
    a, b = torch.full((1, 4, 6), -1e4), torch.zeros(1, 4, 6)
    a[0, 0], b[0, 1:3] = 1e4, 1
    assert float(dice_loss(a, b)) == pytest.approx(1 - 1 / (6 + 12 + 1))


def test_squared_dice_is_least_at_soft_targets_and_plain_dice_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = 0.05 + 0.9 * torch.rand(3, 5, 7, generator=generator, dtype=torch.double)
    there = torch.logit(targets).requires_grad_()
    (gradient,) = torch.autograd.grad(dice_loss(there, targets, squared=True).sum(), there)
    assert float(gradient.abs().max()) < 1e-12
    assert torch.allclose(dice_loss(there, targets, squared=True), torch.zeros(3, dtype=torch.double), atol=1e-12)
    sure = torch.where(targets > 0.5, 50.0, -50.0).double()
    assert (dice_loss(sure, targets) < dice_loss(there, targets)).all()
    assert (dice_loss(sure, targets, squared=True) > 0.01).all()
    for logits in (sure, torch.randn(3, 5, 7, generator=generator, dtype=torch.double)):
        p = logits.sigmoid()
        form = (p - targets).square().sum((1, 2)) / (p.square().sum((1, 2)) + targets.square().sum((1, 2)) + 1)
        assert torch.allclose(dice_loss(logits, targets, squared=True), form)
    hard = (targets > 0.4).double()
    assert torch.allclose(dice_loss(sure, hard, squared=True), dice_loss(sure, hard), atol=1e-9)


def test_what_does_not_belong_together_is_said(case: dict[str, Any]) -> None:
    loss = MaskSetLoss()
    for change, message in (
        ({"classes": torch.zeros(2, 4, K + 1)}, "do not belong together"),
        ({"labels": case["labels"][:1]}, "2 pictures, 1 lists of labels"),
        ({"labels": [torch.tensor([2, K]), case["labels"][1]]}, "labels are 0 to 2"),
        ({"labels": [torch.tensor([2]), case["labels"][1]]}, "picture 0: 1 labels"),
    ):
        with pytest.raises(UsageError, match=message):
            loss(**{**case, **change})
    with pytest.raises(UsageError, match="gates masks by `semantic`"):
        MaskSetLoss(relax_masks=ReMask())(**{**case, "semantic": None})
    with pytest.raises(UsageError, match="do not belong together"):
        ReMask()(case["masks"], case["classes"], case["semantic"][:, 1:])
    with pytest.raises(UsageError, match="eta must be in"):
        ReClass(1.5)
    with pytest.raises(UsageError, match="must not be negative"):
        MaskSetLoss(dice_weight=-1)


def test_soft_focal_is_torchvisions_for_hard_targets_and_nothing_where_the_target_is_met() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, hard = torch.randn(3, 5, 6, generator=generator), torch.rand(3, 5, 6, generator=generator).round()
    wanted = sigmoid_focal_loss(logits, hard, alpha=-1, gamma=2).mean((1, 2))
    assert torch.allclose(soft_focal_loss(logits, hard), wanted, atol=1e-6)
    assert float(soft_focal_loss(logits, logits.sigmoid()).abs().max()) < 1e-10
    soft = torch.rand(3, 5, 6, generator=generator)
    p = logits.double().sigmoid()
    entropy = -(soft * p.log() + (1 - soft) * (1 - p).log()).mean((1, 2))
    assert torch.allclose(soft_focal_loss(logits, soft, gamma=0.0).double(), entropy, atol=1e-6)
