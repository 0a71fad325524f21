"""Transfer of attacks (p088, arXiv 2304.02688): linear networks, whose answers to an attack are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.robust import FGSM, TransferStudy, transfer_success_rate


class Line(nn.Module):
    """Two classes by the sign of w x + b."""

    def __init__(self, weights: list[float], bias: float = 0.0) -> None:
        super().__init__()
        self.w, self.bias = torch.tensor(weights), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x - 0.5) @ self.w + self.bias
        return torch.stack([-score, score], 1)


# Pictures of two pixels: the first decides for `first`, the second for `second`, their sum for `both`.
FIRST, SECOND, BOTH = Line([1.0, 0.0]), Line([0.0, 1.0]), Line([1.0, 1.0])
IMAGES = torch.tensor([[0.52, 0.60], [0.58, 0.53], [0.45, 0.40], [0.60, 0.70], [0.70, 0.30]])
LABELS = torch.tensor([1, 1, 0, 1, 1])


def test_rates_are_those_worked_out_by_hand() -> None:
    study = TransferStudy(targets={"first": FIRST, "second": SECOND}, eps=0.057)
    found = study({"both": BOTH, "first": FIRST}, IMAGES, LABELS)
    # The last picture is wrong for `second` and leaves. Against `both` each pixel moves by 0.057: the first pixels
    # become 0.463, 0.523, 0.507 and 0.543, the second ones 0.543, 0.473, 0.457 and 0.643.
    assert found.images == 4
    assert found.rates[0].tolist() == pytest.approx([2 / 4, 1 / 4])
    # Against `first` only the first pixel moves.
    assert found.rates[1].tolist() == pytest.approx([2 / 4, 0])
    # itself: sums above one by 0.12, 0.11, -0.15 and 0.30, moved by 0.114.
    assert found.own.tolist() == pytest.approx([1 / 4, 2 / 4])
    assert found.mean.tolist() == pytest.approx([3 / 8, 1 / 4])
    assert found.best == "both"
    assert "0.375" in str(found)
    assert str(found).splitlines()[0].split() == ["first", "second", "mean", "itself"]


def test_without_a_radius_nothing_is_fooled() -> None:
    found = TransferStudy(targets={"first": FIRST}, eps=0.0)({"both": BOTH}, IMAGES, LABELS)
    assert found.rates.tolist() == [[0.0]]
    assert found.images == 5


def test_one_step_of_the_whole_radius_is_the_fast_gradient_sign() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).eval()
    study = TransferStudy(targets={"net": net}, eps=0.1, alpha=0.1, steps=1)
    kept = study.usable(IMAGES, LABELS)
    wanted = transfer_success_rate(net, FGSM(net, 0.1)(IMAGES[kept], LABELS[kept]).images, LABELS[kept])
    assert float(study({"net": net}, IMAGES, LABELS).rates[0, 0]) == pytest.approx(wanted)


def test_pictures_that_nobody_knows_are_refused() -> None:
    with pytest.raises(UsageError, match="name none rightly"):
        TransferStudy(targets={"first": FIRST})({"both": BOTH}, IMAGES, 1 - (IMAGES[:, 0] > 0.5).long())
    with pytest.raises(UsageError, match="at least one target"):
        TransferStudy(targets={})
    with pytest.raises(UsageError, match="at least one surrogate"):
        TransferStudy(targets={"first": FIRST})({}, IMAGES, LABELS)
    with pytest.raises(UsageError, match="do not go with"):
        transfer_success_rate(FIRST, IMAGES, LABELS[:2])


def test_the_step_is_the_callers_or_a_tenth_of_the_radius() -> None:
    # One step of 0.03 turns the first picture, at 0.52, and not the second, at 0.58; of 0.1 / 10 it turns none.
    for alpha, rate in ((0.03, 1 / 4), (None, 0.0), (0.09, 2 / 4)):
        study = TransferStudy(targets={"first": FIRST}, eps=0.1, alpha=alpha, steps=1)
        found = study({"first": FIRST}, IMAGES[[0, 1, 3, 4]], LABELS[[0, 1, 3, 4]])
        assert found.rates[0].tolist() == pytest.approx([rate])


def test_targets_and_surrogates_answer_at_rest_and_stay_in_their_mode() -> None:
    class Doubtful(Line):
        """Answers the other way round while it is trained."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = super().forward(x)
            return -found if self.training else found

    target, surrogate = Doubtful([1.0, 0.0]).train(), Doubtful([1.0, 1.0]).train()
    assert transfer_success_rate(target, IMAGES, LABELS) == 0.0
    found = TransferStudy(targets={"target": target}, eps=0.057)({"surrogate": surrogate}, IMAGES, LABELS)
    wanted = TransferStudy(targets={"target": FIRST}, eps=0.057)({"surrogate": BOTH}, IMAGES, LABELS)
    assert torch.equal(found.rates, wanted.rates)
    assert torch.equal(found.own, wanted.own)
    assert target.training
    assert surrogate.training
