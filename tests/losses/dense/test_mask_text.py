"""p171 (MTA-CLIP): the contrast between masks and the texts of their classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import MaskTextContrast


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks, texts = (torch.randn(*shape, generator=generator) for shape in ((6, 5), (4, 3, 5)))
    return masks, texts, torch.randint(0, 4, (6,), generator=generator)


def by_hand(masks: torch.Tensor, texts: torch.Tensor, labels: torch.Tensor, separate: bool) -> float:
    """Mask by mask with exp and log."""
    costs = []
    for mask, label in zip(masks, labels.tolist(), strict=True):
        cosines = [[float(F.cosine_similarity(mask, text, dim=0)) / 0.07 for text in own] for own in texts]
        best = max(cosines[label])
        wrong = [c for k, own in enumerate(cosines) for c in own if k != label]
        if not separate:
            wrong += sorted(cosines[label])[:-1]
        costs.append(-math.log(math.exp(best) / (math.exp(best) + sum(map(math.exp, wrong)))))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("negatives", ["mixed", "separate"])
def test_the_loss_by_hand(negatives: str) -> None:
    loss = MaskTextContrast(negatives)  # type: ignore[arg-type]
    assert float(loss(*drawn())) == pytest.approx(by_hand(*drawn(), negatives == "separate"), rel=1e-4)
    assert by_hand(*drawn(), True) < by_hand(*drawn(), False)


def test_each_mask_may_have_texts_of_its_own() -> None:
    masks, texts, labels = drawn(2)
    own = texts + 0.3 * torch.randn(6, *texts.shape, generator=torch.Generator().manual_seed(9))
    loss = MaskTextContrast()
    singly = [float(loss(masks[i : i + 1], own[i], labels[i : i + 1])) for i in range(6)]
    assert float(loss(masks, own, labels)) == pytest.approx(sum(singly) / 6, rel=1e-5)
    assert float(loss(masks, texts.expand(6, -1, -1, -1), labels)) == pytest.approx(
        float(loss(masks, texts, labels)), rel=1e-6
    )
    with pytest.raises(UsageError, match="do not belong together"):
        loss(masks, own[:5], labels)


def test_with_one_text_a_class_both_rules_are_cross_entropy() -> None:
    masks, texts, labels = drawn(1)
    wanted = F.cross_entropy(F.normalize(masks, dim=1) @ F.normalize(texts[:, 0], dim=1).T / 0.07, labels)
    for rule in ("mixed", "separate"):
        assert float(MaskTextContrast(rule)(masks, texts[:, :1], labels)) == pytest.approx(float(wanted), rel=1e-5)  # type: ignore[arg-type]


def test_the_nearest_text_is_drawn_near_and_of_its_own_class_the_others_away_if_mixed() -> None:
    masks, texts = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.9, 0.5], [0.5, 0.9]], [[-1.0, 0.1], [0.0, 1.0]]])
    for rule, moved in (("mixed", True), ("separate", False)):
        given = texts.clone().requires_grad_()
        MaskTextContrast(rule, 1.0)(masks, given, torch.tensor([0])).backward()  # type: ignore[arg-type]
        assert given.grad is not None
        toward = (given.grad * -1)[..., 0]  # how a step moves each text along the mask
        assert toward[0, 0] > 0
        assert (toward[0, 1] < 0) == moved
        assert bool(toward[0, 1] == 0) != moved
        assert toward[1, 1] < 0


def test_nothing_matched_costs_nothing_and_what_is_wrong_is_said() -> None:
    masks, texts, labels = drawn()
    given = texts.requires_grad_()
    nothing = MaskTextContrast()(masks[:0], given, labels[:0])
    assert float(nothing.detach()) == 0
    nothing.backward()
    with pytest.raises(UsageError, match="mixed or separate"):
        MaskTextContrast("both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="do not belong together"):
        MaskTextContrast()(masks, texts[..., :4], labels)
    with pytest.raises(UsageError, match="labels are 0 to 3"):
        MaskTextContrast()(masks, texts, labels + 4)
