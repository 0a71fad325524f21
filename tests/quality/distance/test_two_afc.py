"""Choices between two pictures: the score and the flip rate by hand, the loss's five inputs, mistakes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.quality import shift_flip_rate, two_afc_score
from binderclip.quality.distance.two_afc import ChoiceLoss, shift_flips


def test_the_score_is_the_share_of_people_who_agree() -> None:
    first, second = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([2.0, 1.0, 2.0])
    # The first is nearer to 4 of 5 people; the second to all; a tie.
    assert float(two_afc_score(first, second, torch.tensor([0.2, 1.0, 0.9]))) == pytest.approx((0.8 + 1 + 0.5) / 3)
    with pytest.raises(UsageError, match="must lie in"):
        two_afc_score(first, second, torch.tensor([0.2, 1.0, 1.9]))
    with pytest.raises(UsageError, match="as many distances"):
        two_afc_score(first, second[:2], torch.zeros(3))


def test_pictures_are_shifted_against_the_reference_by_cropping() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def metric(images: Tensor, reference: Tensor) -> Tensor:
        seen.append((images, reference))
        return (images - reference).abs().mean((1, 2, 3))

    columns = torch.arange(10.0).expand(2, 3, 4, 10)
    # Of the first triplet, unmoved, the first picture is nearer (0 against 5); moved by n it is n away, the other
    # 5 - n: by 3 pixels the order is another. Of the second triplet the first is nearer throughout.
    second = torch.stack([columns[0] - 5, columns[1] + 9])
    flips = shift_flips(metric, columns, columns, second, shifts=(1, 3))
    assert flips.tolist() == [[False, False], [True, False]]
    assert shift_flip_rate(metric, columns, columns, second, shifts=(1, 3)).tolist() == [0.0, 0.5]
    assert all(torch.equal(reference, columns[..., :7]) for _, reference in seen)
    assert torch.equal(seen[-2][0], columns[..., 3:])
    with pytest.raises(UsageError, match="shapes differ"):
        shift_flips(metric, columns, columns[..., 1:], second)
    with pytest.raises(UsageError, match="fewer than the width 10"):
        shift_flips(metric, columns, columns, second, shifts=(10,))


def test_the_loss_sees_both_distances_their_difference_and_ratios() -> None:
    loss = ChoiceLoss(4)
    first, second, preferred = torch.tensor([0.3]), torch.tensor([0.8]), torch.tensor([0.7])
    x = torch.tensor([[0.3, 0.8, -0.5, 0.3 / 0.9, 0.8 / 0.4]])
    for layer in loss.net:
        x = x @ layer.weight.T + layer.bias if isinstance(layer, nn.Linear) else torch.where(x > 0, x, 0.2 * x)
    p = 1 / (1 + torch.exp(-x[0, 0]))
    wanted = -(0.7 * p.log() + 0.3 * (1 - p).log())
    assert torch.allclose(loss(first, second, preferred), wanted, atol=1e-6)
