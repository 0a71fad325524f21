"""`WCSTML`, `cue_complexity` and preferences of p169 (arXiv 2110.03095), on networks whose cue is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip.data import CueGrid
from binderclip.errors import UsageError
from binderclip.evaluate import WCSTML, CueAccuracies, cue_complexity, cue_preferences


def by_colour(images: torch.Tensor) -> torch.Tensor:
    """Reads the mean of each channel alone: pure colours are their classes."""
    return images.mean((2, 3))


def by_scale(images: torch.Tensor) -> torch.Tensor:
    """Reads the covered area alone."""
    area = images.sum((1, 2, 3)) / images[0, 0].numel()
    return -(area[:, None].log() - torch.tensor([0.03, 0.052, 0.09]).log()).abs()


@pytest.mark.parametrize(("network", "cue"), [(by_colour, "colour"), (by_scale, "scale")])
def test_a_network_that_reads_one_cue_scores_one_there_and_chance_elsewhere(network, cue) -> None:  # type: ignore[no-untyped-def]
    found = WCSTML(CueGrid(), n=1500)(network)
    assert found.by_cue[cue] == pytest.approx(1, abs=0.01)
    others = [value for name, value in found.by_cue.items() if name != cue]
    assert others == pytest.approx([1 / 3] * 3, abs=4 * math.sqrt(2 / 9 / 1500))
    assert (found.preferred, found.diagonal) == (cue, pytest.approx(1, abs=0.01))
    assert found.none == pytest.approx(0, abs=0.01)


def test_a_network_that_reads_nothing_agrees_with_no_cue_more_than_chance() -> None:
    found = WCSTML(CueGrid(), n=1500)(lambda images: torch.eye(3)[0].expand(len(images), 3))
    assert list(found.by_cue.values()) == pytest.approx([1 / 3] * 4, abs=0.05)
    assert found.diagonal == pytest.approx(1 / 3)
    assert found.none == pytest.approx((2 / 3) ** 4, abs=0.04), "no cue agrees where all four differ from the answer"


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(4, 2)


def newton(net: nn.Linear, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=30)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y) + 1e-3 * sum(p.square().sum() for p in net.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)


def test_labels_without_reason_cost_all_their_bits_and_a_plain_cue_few() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 4, generator=generator)
    random = torch.randint(0, 2, (512,), generator=generator)
    found = cue_complexity(linear, x, random, newton, classes=2)
    assert 512 <= found < 600, "overfitting to noise costs more than chance, never less"
    plain = cue_complexity(linear, x, (x[:, 0] > 0).long(), newton, classes=2)
    assert 16 < plain < 120
    mixed = cue_complexity(linear, x, (x[:, 0] * x[:, 1] > 0).long(), newton, classes=2)
    assert mixed > 4 * plain, "a linear network cannot learn it"


def test_the_code_length_is_the_sum_over_blocks_by_hand() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.9, 0.1]).log().expand(len(x), 2)

    seen: list[int] = []
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 0])
    found = cue_complexity(Fixed, torch.zeros(7, 1), labels, lambda net, x, y: seen.append(len(x)), classes=2, first=2)
    right, wrong = 0.99 * 0.9 + 0.005, 0.99 * 0.1 + 0.005
    assert found == pytest.approx(2 - 4 * math.log2(right) - math.log2(wrong), rel=1e-6)
    assert seen == [2, 4]
    for chance in (0.0, 0.2):
        right, wrong = ((1 - chance) * p + chance / 2 for p in (0.9, 0.1))
        other = cue_complexity(
            Fixed, torch.zeros(7, 1), labels, lambda net, x, y: None, classes=2, first=2, chance=chance
        )
        assert other == pytest.approx(2 - 4 * math.log2(right) - math.log2(wrong), rel=1e-6)
    with pytest.raises(UsageError, match="chance is 1"):
        cue_complexity(Fixed, torch.zeros(7, 1), labels, lambda net, x, y: None, classes=2, chance=1.0)


def test_preferences_count_networks_that_learned_the_task() -> None:
    def one(colour: float, shape: float, diagonal: float = 1.0) -> CueAccuracies:
        return CueAccuracies({"colour": colour, "shape": shape}, diagonal, 0.0)

    found = [one(0.9, 0.4), one(0.8, 0.5), one(0.3, 0.9), one(0.2, 0.9, diagonal=0.7)]
    assert cue_preferences(found) == {"colour": pytest.approx(2 / 3), "shape": pytest.approx(1 / 3)}
    with pytest.raises(UsageError, match="none of 1 networks"):
        cue_preferences(found[3:])


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UsageError, match="fewer than 3 classes"):
        WCSTML(CueGrid(), n=2)
    with pytest.raises(UsageError, match=r"\(B, 3\) scores"):
        WCSTML(CueGrid(size=16), n=9)(lambda images: images.mean((1, 2, 3)))
    with pytest.raises(UsageError, match="first is 0"):
        cue_complexity(linear, torch.zeros(4, 4), torch.zeros(4, dtype=torch.long), newton, classes=2, first=0)
    with pytest.raises(UsageError, match="from 0 to 1"):
        cue_complexity(linear, torch.zeros(4, 4), torch.full((4,), 2), newton, classes=2, first=2)
