"""PGD and the attack loop (for p044, p152) against closed forms of linear models, feasibility and bookkeeping."""

from __future__ import annotations

from math import pi
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.robust import (
    CW,
    DIFGSM,
    FGSM,
    L2,
    METHODS,
    MIFGSM,
    PGD,
    Adam,
    CrossEntropy,
    Linf,
    Margin,
    Normalized,
    Sign,
    adversarial_step,
    attack,
)

WIDE = (-50.0, 50.0)


class Linear(nn.Module):
    """Two classes with logits (0, w x + b): everything about an attack is known."""

    classes = ["minus", "plus"]

    def __init__(self, size: int = 12, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(size, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(score), score], 1)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers)


def pictures(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_optimum_on_a_linear_model_is_the_closed_form(norm: str, random_start: bool, targeted: bool) -> None:
    model = Linear()
    x = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    way = (1 - 2 * y).double()[:, None] * (-1 if targeted else 1)  # untargeted: away from the class
    w = model.w.detach()
    ideal = w.sign() if norm == "linf" else w / w.norm()
    wanted = x + (0.3 * way * ideal).reshape(x.shape)
    for objective in ("cross-entropy", "margin"):
        pgd = PGD(
            model, 0.3, 0.05, 60, norm, random_start=random_start, targeted=targeted, objective=objective, box=WIDE
        )
        found = pgd(x, y)
        score = model(found.images)[:, 1]
        best = model(wanted)[:, 1]
        assert torch.allclose(score, best, atol=1e-4)
        assert torch.allclose(found.images, wanted, atol=1e-6 if norm == "linf" else 2e-2)
        hit = model(found.images).argmax(1) == y
        assert torch.equal(found.success, hit if targeted else ~hit)


def test_in_a_box_the_linf_optimum_is_the_clipped_one() -> None:
    model = Linear()
    x = torch.rand(5, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = torch.zeros(5).long()
    found = PGD(model, 0.4, 0.1, 20)(x, y)
    assert torch.allclose(found.images, (x + 0.4 * model.w.detach().sign()).clamp(0, 1))


@settings(max_examples=25)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.floats(0, 2),
    alpha=st.floats(0.01, 3),
    steps=st.integers(0, 4),
    start=st.booleans(),
    keep=st.sampled_from(["best", "last"]),
    quantize=st.booleans(),
)
def test_results_are_feasible_and_no_worse_than_the_clean_image(norm, eps, alpha, steps, start, keep, quantize) -> None:
    model = net().eval()
    x, y = pictures(6)
    pgd = PGD(model, eps, alpha, steps, norm, random_start=start, keep=keep, quantize=quantize)
    found = pgd(x, y)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    flat = found.perturbation.flatten(1)
    length = flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)
    assert (length <= eps + 1e-5).all()
    assert torch.equal(found.success, model(found.images).argmax(1) != y)
    if keep == "best" and not quantize:
        clean = F.cross_entropy(model(x), y, reduction="none")
        assert (found.success | (found.objective >= clean - 1e-6)).all()
        assert (found.success >= (model(x).argmax(1) != y)).all()
        assert torch.allclose(found.objective, F.cross_entropy(model(found.images), y, reduction="none"), atol=1e-5)


def test_a_radius_of_zero_changes_nothing() -> None:
    x, y = pictures()
    for norm in ("linf", "l2"):
        assert torch.equal(PGD(net(), 0.0, norm=norm)(x, y).images, x)
    assert torch.equal(FGSM(net(), 0.0)(x, y).images, x)


def test_one_step_is_fgsm_by_hand() -> None:
    model = net().eval()
    x, y = pictures()
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), y, reduction="sum").backward()
    assert torch.allclose(FGSM(model, 0.1)(x, y).images, (x + 0.1 * leaf.grad.sign()).clamp(0, 1))
    unit = leaf.grad / leaf.grad.flatten(1).norm(dim=1)[:, None, None, None]
    assert torch.allclose(FGSM(model, 0.1, norm="l2")(x, y).images, (x + 0.1 * unit).clamp(0, 1), atol=1e-7)
    assert METHODS == {"cw": CW, "di-fgsm": DIFGSM, "fgsm": FGSM, "mi-fgsm": MIFGSM, "pgd": PGD}


def test_images_do_not_depend_on_their_batch() -> None:
    # In float64: in float32 a ReLU that stands at its kink is rounded one way or the other, as the batch is summed.
    model = net().double()
    x, y = pictures()
    x = x.double()
    options = {"eps": 0.2, "steps": 5, "norm": "l2", "random_start": False}
    whole = PGD(model, **options)(x, y)
    assert torch.allclose(PGD(model, **options, batch_size=3)(x, y).images, whole.images, atol=1e-6)
    alone = torch.cat([PGD(model, **options)(x[i : i + 1], y[i : i + 1]).images for i in range(10)])
    assert torch.allclose(alone, whole.images, atol=1e-6)
    assert whole.queries == 6
    assert whole.history.shape == (6, 10)


def test_a_model_is_put_back_as_it_was() -> None:
    model = net().train()
    model[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    PGD(model, 0.1)(*pictures())
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # batch statistics, too


def test_starts_are_uniform_in_the_ball() -> None:
    clean = torch.zeros(20_000, 2)
    g = torch.Generator().manual_seed(0)
    inside = L2(2.0, WIDE).init(clean, "random", g)
    share = (inside.norm(dim=1) <= 1).float().mean()
    assert abs(share - 1 / 4) < 4 * (3 / 16 / 20_000) ** 0.5  # area of the inner disc
    square = Linf(2.0, WIDE).init(clean, "random", g)
    share = (square.norm(dim=1) <= 2).float().mean()
    assert abs(share - pi / 4) < 4 * (0.17 / 20_000) ** 0.5
    assert square.abs().max() <= 2


def test_restarts_find_what_a_single_path_misses() -> None:
    class Valleys(nn.Module):
        """Class 1 only close to one of many places; the gradient leads to a random one of them, most are false."""

        def forward(self, x):
            wave = torch.cos(8 * x[:, 0]) + 0.2 * x[:, 0]
            return torch.stack([torch.full_like(wave, 1.3), wave], 1)

    x, y = torch.zeros(300, 1), torch.zeros(300).long()
    rates = []
    for restarts in (1, 3, 10):
        found = PGD(Valleys(), 2.0, 0.05, 20, restarts=restarts, box=WIDE, seed=1)(x, y)
        rates.append(float(found.success.float().mean()))
        assert torch.equal(found.success, Valleys()(found.images).argmax(1) == 1)
    assert rates[0] < rates[1] < rates[2]
    again = PGD(Valleys(), 2.0, 0.05, 20, restarts=10, box=WIDE, seed=1)(x, y)
    assert torch.equal(again.images, found.images)


def test_quantized_results_are_whole_grey_levels_within_the_ball() -> None:
    x = torch.randint(0, 256, (6, 1, 6, 6), generator=torch.Generator().manual_seed(0)) / 255
    found = PGD(net(), 8 / 255, 1.7 / 255, 7, quantize=True)(x, torch.arange(6) % 3)
    levels = found.images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert (found.perturbation * 255).abs().max().round() == 8


def test_a_loop_of_parts_and_a_success_of_ones_own() -> None:
    model = Linear()
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = torch.ones(4).long()
    found = attack(
        Margin(model, y),
        x,
        param=L2(0.5, WIDE),
        step=Normalized(0.1),
        steps=10,
        start="clean",
        success=lambda images: images[:, 0] > x[:, 0],
    )
    assert torch.equal(found.success, found.images[:, 0] > x[:, 0])
    assert torch.allclose(CrossEntropy(model, y)(x), F.softplus(-(x @ model.w + model.b)))
    assert torch.allclose(Margin(model, y)(x), -(x @ model.w + model.b))
    stayed = attack(Margin(model, y), x, param=Linf(0.5, WIDE), step=Sign(0.1), steps=0, start="clean")
    assert torch.equal(stayed.images, x)


def test_the_adversarial_loss_of_a_linear_model_is_the_closed_form() -> None:
    model = Linear()
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = torch.arange(8) % 2
    step = adversarial_step(model, PGD(model, 0.2, 0.1, 8, keep="last", box=WIDE))
    signed = (2 * y - 1) * (x @ model.w + model.b)
    wanted = F.softplus(0.2 * model.w.abs().sum() - signed).mean()
    assert torch.allclose(step((x, y)), wanted)
    own = adversarial_step(model, PGD(model, 0.2, 0.1, 8, box=WIDE), loss=lambda m, images, labels: m(images).sum() * 0)
    assert own((x, y)).item() == 0


def test_adversarial_training_gives_up_the_weak_feature_that_an_attack_can_turn() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 2
    sign = (2 * y - 1).float()[:, None]
    strong = torch.where(torch.rand(600, 1, generator=g) < 0.9, sign, -sign)  # right nine times in ten, far apart
    weak = 0.1 * sign + 0.02 * torch.randn(600, 20, generator=g)  # always right, within reach
    x = torch.cat([strong, weak], 1)
    robust = {}
    for name in ("standard", "adversarial"):
        torch.manual_seed(0)
        model = nn.Linear(21, 2)
        pgd = PGD(model, 0.2, 0.1, 5, box=WIDE, keep="last")
        step = (
            adversarial_step(model, pgd) if name == "adversarial" else lambda b, m=model: F.cross_entropy(m(b[0]), b[1])
        )
        fit(step, model, [(x, y)], steps=150, lr=0.05)
        robust[name] = 1 - float(PGD(model, 0.2, 0.1, 5, box=WIDE)(x, y).success.float().mean())
    assert robust["standard"] < 0.2
    assert robust["adversarial"] > 0.85


def test_mistakes_are_refused() -> None:
    model = net()
    x, y = pictures()
    for options, message in [
        ({"norm": "l1"}, "norm must be"),
        ({"objective": "logit"}, "objective must be"),
        ({"eps": -1}, "eps must be"),
        ({"alpha": 0}, "alpha"),
        ({"restarts": 0}, "restarts"),
        ({"restarts": 2, "random_start": False}, "same path"),
        ({"restarts": 2, "keep": "last"}, "keep='best'"),
        ({"box": (1, 0)}, "box"),
    ]:
        with pytest.raises(UsageError, match=message):
            PGD(model, **options)
    with pytest.raises(UsageError, match="normalisation belongs"):
        PGD(model)(3 * x - 1, y)
    with pytest.raises(UsageError, match="labels run from 0 to 7"):
        PGD(model)(x, torch.tensor([7] + [0] * 9))
    with pytest.raises(UsageError, match="do not go with"):
        PGD(model)(x, y[:3])
    parts = {"param": Linf(0.1), "step": Sign(0.1)}
    with pytest.raises(UsageError, match="steps"):
        attack(CrossEntropy(model, y), x, **parts, steps=-1)
    with pytest.raises(UsageError, match="start must be"):
        attack(CrossEntropy(model, y), x, **parts, steps=1, start="zero")
    with pytest.raises(UsageError, match="keep must be"):
        attack(CrossEntropy(model, y), x, **parts, steps=1, keep="worst")
    with pytest.raises(UsageError, match="class indices"):
        CrossEntropy(model, y.float())
    with pytest.raises(UsageError, match="above 0"):
        Sign(0.0)


def test_the_first_success_is_kept_and_ends_the_search() -> None:
    model = Linear()
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = (model(x)[:, 1] > 0).long()
    parts = {"param": Linf(2.0, WIDE), "step": Sign(0.01), "start": "clean"}
    found = attack(CrossEntropy(model, y), x, **parts, steps=400, keep="first")
    assert found.success.all()
    assert found.queries < 400
    # The score moves by 0.01 |w|_1 a step, so that the number of steps to the other side is known.
    per_step = 0.01 * float(model.w.abs().sum())
    needed = (model(x)[:, 1].abs() / per_step).floor() + 1
    torch.testing.assert_close(found.perturbation.abs().amax(1), 0.01 * needed.detach())
    best = attack(CrossEntropy(model, y), x, **parts, steps=400, keep="best")
    assert (best.objective > found.objective + 0.1).all()


@pytest.mark.parametrize("rule", [Sign, Normalized, Adam])
def test_finished_images_are_not_looked_at_again(rule: Any) -> None:
    class Counted(Linear):
        seen = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += len(x)
            # A product of fewer rows may be summed in another order on some processors; this one goes row by row.
            score = torch.stack([(row * self.w).sum() + self.b for row in x.flatten(1)])
            return torch.stack([torch.zeros_like(score), score], 1)

    class Whole(CrossEntropy):
        def rows(self, index: torch.Tensor) -> None:
            return None

    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = (Linear()(x)[:, 1] > 0).long()
    seen, found = [], []
    for kind in (CrossEntropy, Whole):
        model = Counted()
        parts = {"param": Linf(2.0, WIDE), "step": rule(0.02), "start": "clean"}
        found.append(attack(kind(model, y), x, **parts, steps=400, keep="first"))
        seen.append(model.seen)
    some, every = found
    assert some.success.all()
    assert seen[1] == 6 * every.queries
    assert seen[0] < 0.8 * seen[1]
    assert torch.equal(some.images, every.images)
    assert torch.equal(some.objective, every.objective)
    assert some.history.shape == every.history.shape


def test_a_start_of_ones_own_is_brought_into_the_ball() -> None:
    model = Linear()
    x = torch.rand(3, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    parts = {"param": Linf(0.1), "step": Sign(0.01), "steps": 0, "keep": "last"}
    found = attack(CrossEntropy(model, torch.zeros(3).long()), x, **parts, start=x + 0.5)
    torch.testing.assert_close(found.images, (x + 0.1).clamp(0, 1))


def test_the_box_and_the_usual_step_are_the_attacks_own() -> None:
    model = Linear()
    images = torch.zeros(1, 12, dtype=torch.float64)
    label = model(images).argmax(1)
    options: dict[str, Any] = {"random_start": False, "objective": "margin"}
    found = PGD(model, 0.1, steps=10, box=(-1.0, 1.0), keep="last", **options)(images, label)
    assert torch.allclose(found.perturbation.abs(), torch.full_like(images, 0.1))  # also below 0
    # 2.5 eps / steps along every sign: on a linear model the margin grows by so much of the weights' length.
    rise = found.history[1] - found.history[0]
    assert float(rise) == pytest.approx(0.025 * float(model.w.detach().abs().sum()))
    # Carlini and Wagner's margin ends at 50: an attack that is that sure goes on no further.
    sure = CW(model, 40.0, steps=5, box=WIDE, random_start=False)(images, label)
    assert float(sure.objective) == 50.0
