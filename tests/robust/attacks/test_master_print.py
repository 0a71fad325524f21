"""CLIPMasterPrints (p089, arXiv 2307.03798): a linear program, torch's Adam, CMA-ES on known functions, win rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import build
from binderclip.robust import (
    Adam,
    Evolution,
    Free,
    Latent,
    Linf,
    MasterPrintAttack,
    MinSimilarity,
    Objective,
    Sign,
    attack,
    master_print_win_rate,
)

TEXTS = ["a cat", "a red car", "two trees"]


def tiny(seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        **more,
    }
    return build(config, name="tiny").eval()


class Least(Objective):
    """The least of several linear functions."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def judge(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = (images.flatten(1) @ self.rows.T).amin(1)
        return values, torch.zeros(len(images), dtype=torch.bool)


class Function(Objective):
    """Minus a function of a vector."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def judge(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return -self.function(images.double().flatten(1)), torch.zeros(len(images), dtype=torch.bool)


def test_free_pixels_reach_the_linear_programs_optimum() -> None:
    rows = torch.randn(4, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # max t with t <= row x and 0 <= x <= 1
    c = np.r_[np.zeros(12), -1.0]
    a = np.c_[-rows.numpy(), np.ones(4)]
    best = -linprog(c, A_ub=a, b_ub=np.zeros(4), bounds=[(0, 1)] * 12 + [(None, None)]).fun
    images = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    found = attack(Least(rows), images, param=Free(), step=Adam(0.003), steps=3000)
    assert float(found.objective) <= best + 1e-9
    assert float(found.objective) == pytest.approx(best, abs=0.01)
    start = float(attack(Least(rows), images, param=Free(), step=Adam(0.003), steps=0, keep="last").objective)
    assert start < best - 0.5


def test_adam_is_torchs() -> None:
    weights = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    ours, theirs = torch.zeros(2, 5), nn.Parameter(torch.zeros(2, 5))
    step, optimizer = Adam(0.05), torch.optim.Adam([theirs], lr=0.05)
    for _ in range(6):
        ours = step(ours, lambda theta: (theta, -2 * (theta - weights)))
        optimizer.zero_grad()
        (theirs - weights).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(ours, theirs.detach())
    with pytest.raises(UsageError, match="alpha"):
        Adam(0.0)


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_search_without_gradients_finds_the_middle_of_a_sphere(diagonal: bool) -> None:
    evolution = Evolution((10,), lambda x: x, box=None, diagonal=diagonal, seed=3)
    while evolution.value < -1e-10 and evolution.queries < 3000:
        evolution.step(Function(lambda x: x.square().sum(1)))
    assert evolution.queries < 2000
    again = Evolution((10,), lambda x: x, box=None, diagonal=diagonal, seed=3)
    again.step(Function(lambda x: x.square().sum(1)))
    assert again.history[0] == evolution.history[0]
    assert max(evolution.history) == evolution.value


def test_and_the_end_of_a_curved_valley() -> None:
    def rosenbrock(x: torch.Tensor) -> torch.Tensor:
        return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)

    evolution = Evolution((4,), lambda x: x, box=None, sigma=0.5, seed=1)
    while evolution.value < -1e-6 and evolution.queries < 8000:
        evolution.step(Function(rosenbrock))
    assert evolution.latent is not None
    torch.testing.assert_close(evolution.latent, torch.ones(4), atol=0.01, rtol=0)


def test_similarity_is_the_least_over_texts_and_models() -> None:
    one, two = tiny(0), tiny(1)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    objective = MinSimilarity([one, two], TEXTS, goal=-2.0)
    with torch.no_grad():
        cosines = [
            F.cosine_similarity(model.encode_image(images)[:, None], model.encode_text(TEXTS)[None], dim=2)
            for model in (one, two)
        ]
        torch.testing.assert_close(objective.similarities(images), torch.stack(cosines, 1))
        values, success = objective.judge(images)
        torch.testing.assert_close(values, torch.stack(cosines).amin((0, 2)))
        assert bool(success.all())
        torch.testing.assert_close(
            MinSimilarity(one, TEXTS, aggregate="mean")(images), cosines[0].mean(1)
        )  # fmt: skip
        siglip = tiny(0, init_logit_bias=-10.0)
        found = MinSimilarity(siglip, TEXTS).similarities(images)[:, 0]
        cosine = F.cosine_similarity(siglip.encode_image(images)[:, None], siglip.encode_text(TEXTS)[None], dim=2)
        torch.testing.assert_close(found, torch.sigmoid(siglip.scale() * cosine - 10))
    with pytest.raises(UsageError, match="at least one text"):
        MinSimilarity(one, [])
    with pytest.raises(UsageError, match="aggregate must be one of min, mean"):
        MinSimilarity(one, TEXTS, aggregate="max")


def decode(latents: torch.Tensor) -> torch.Tensor:
    return F.interpolate(latents, size=(16, 16), mode="bilinear").sigmoid()


@pytest.mark.parametrize("search", ["adam", "pgd", "latent", "cma-es"])
def test_each_search_raises_the_least_similarity_and_judges_eight_bits(search: str) -> None:
    model = tiny()
    start = torch.full((3, 16, 16), 0.5)
    options: dict[str, Any] = {"search": search, "steps": 60, "seed": 1}
    if search in ("latent", "cma-es"):
        options |= {"decode": decode, "latent": (3, 4, 4)}
    if search == "latent":
        options["alpha"] = 0.1
    found = MasterPrintAttack(model, TEXTS, **options)(start if search == "pgd" else None)
    torch.testing.assert_close(found.image * 255, (found.image * 255).round(), atol=1e-4, rtol=0)
    assert 0 <= float(found.image.min()) <= float(found.image.max()) <= 1
    objective = MinSimilarity(model, TEXTS)
    with torch.no_grad():
        assert found.value == pytest.approx(float(objective(found.image[None])), abs=1e-6)
        assert found.value > float(objective(torch.rand(200, 3, 16, 16)).max()) + 0.05
        assert float(found.similarities.amin()) == pytest.approx(found.value, abs=1e-6)
    if search == "pgd":
        # 0.5 is no grey level: the search begins at 128.
        assert float((found.image - 128 / 255).abs().max()) <= 15 / 255 + 1e-6
    again = MasterPrintAttack(model, TEXTS, **options)(start if search == "pgd" else None)
    torch.testing.assert_close(found.image, again.image, rtol=0, atol=0)


def test_with_one_text_it_is_the_usual_attack() -> None:
    model, start = tiny(), torch.full((3, 16, 16), 100 / 255)
    found = MasterPrintAttack(model, TEXTS[:1], search="pgd", steps=5, eps=0.1)(start)
    usual = attack(
        MinSimilarity(model, TEXTS[:1]), start[None], param=Linf(0.1), step=Sign(1 / 255), steps=5, start="clean",
        quantize=True,
    )  # fmt: skip
    torch.testing.assert_close(found.image, usual.images[0], atol=1e-6, rtol=0)


def test_the_win_rate_is_pooled_and_a_tie_is_no_win() -> None:
    texts = torch.eye(3)
    image = torch.tensor([1.0, 1.0, 0.0])  # 0.707 to the first two
    genuine = torch.tensor([[1.0, 0, 0], [0.6, 0, 0.8], [2.0, 2.0, 0.0], [0, 0.1, 1.0], [0, 0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    # Their own: 1, 0.6, a tie, 0.0995, 1: two of five lose.
    assert master_print_win_rate(image, genuine, texts, labels) == pytest.approx(2 / 5)
    with pytest.raises(UsageError, match="nothing to compare"):
        master_print_win_rate(image, genuine, texts, labels + 1)


def test_what_is_missing_is_named() -> None:
    model = tiny()
    with pytest.raises(UsageError, match="one of adam"):
        MasterPrintAttack(model, TEXTS, search="sgd")
    with pytest.raises(UsageError, match="needs decode"):
        MasterPrintAttack(model, TEXTS, search="latent")
    with pytest.raises(UsageError, match="needs latent"):
        MasterPrintAttack(model, TEXTS, search="cma-es")
    with pytest.raises(UsageError, match="begins at a photograph"):
        MasterPrintAttack(model, TEXTS, search="pgd")()
    with pytest.raises(UsageError, match="no clean start"):
        attack(
            MinSimilarity(model, TEXTS), torch.zeros(1, 3, 16, 16), param=Latent(decode, (3, 4, 4)), step=Adam(),
            steps=1, start="clean",
        )  # fmt: skip
    with pytest.raises(UsageError, match="the decoder gives"):
        attack(
            MinSimilarity(model, TEXTS), torch.zeros(1, 3, 8, 8), param=Latent(decode, (3, 4, 4)), step=Adam(), steps=1
        )
    for size, options in (((1,), {}), ((4,), {"sigma": 0.0}), ((4,), {"population": 1})):
        with pytest.raises(UsageError, match="two at least"):
            Evolution(size, **options)


def test_settings_reach_the_search() -> None:
    model, start = tiny(), torch.full((3, 16, 16), 100 / 255)
    one = MasterPrintAttack(model, TEXTS, search="pgd", steps=1, alpha=5 / 255)(start)
    assert sorted({round(abs(value) * 255) for value in (one.image - start).flatten().tolist()})[-1] == 5
    mean = MasterPrintAttack(model, TEXTS, steps=3, aggregate="mean")()
    assert mean.value == pytest.approx(float(mean.similarities.mean()), abs=1e-6)
    assert mean.value > float(mean.similarities.min()) + 1e-3
    settings: dict[str, Any] = {"sigma": 0.2, "population": 7, "seed": 3}
    found = MasterPrintAttack(model, TEXTS, search="cma-es", steps=2, decode=decode, latent=(3, 4, 4), **settings)()
    evolution = Evolution((3, 4, 4), decode, **settings)
    for _ in range(2):
        evolution.step(MinSimilarity(model, TEXTS))
    assert evolution.queries == 14
    torch.testing.assert_close(found.history, torch.tensor(evolution.history))
