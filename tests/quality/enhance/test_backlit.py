"""What enhancers share: middle maps, reconstruction with a new draw, guided training, the weights that are kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import DataError, UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import BacklitEnhancer, IlluminationNet, LightWords
from binderclip.quality.enhance import backlit
from binderclip.quality.enhance.backlit import LowestLoss
from binderclip.quality.enhance.light_prompts import LightGuidance
from binderclip.quality.enhance.middle_maps import MiddleMaps


def pictures(count: int = 2) -> Tensor:
    return F.interpolate(torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)), (32, 32))


def small(model: ImageTextModel, *, level: float | None = 1.0, **options: float) -> BacklitEnhancer:
    torch.manual_seed(0)
    return BacklitEnhancer(model, network=IlluminationNet(4, level=level, std=0.1), **options)  # type: ignore[arg-type]


class Nearer(LightGuidance):
    """Lead to one embedding."""

    def __init__(self, goal: Tensor) -> None:
        super().__init__()
        self.goal = goal

    def loss(self, features: Tensor) -> Tensor:
        return 100 * (1 - F.normalize(features, dim=-1) @ self.goal).mean()


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_embeddings_are_the_models_own_and_content_is_the_mean_squared_difference(
    request: pytest.FixtureRequest, kind: str
) -> None:
    model: ImageTextModel = request.getfixturevalue(kind)
    images, side = pictures(2), 32 if kind == "vit" else 64
    enhancer = small(model, content=3.0)
    shown = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert torch.allclose(enhancer.embed(images), model.encode_image(shown, normalize=True), atol=1e-4)
        enhancer.network.last.bias.fill_(0.5)  # type: ignore[union-attr]
        made = enhancer(images)
        maps = [enhancer.maps(x if kind == "vit" else F.interpolate(x, (64, 64), mode="bilinear", antialias=True)).maps
                for x in (made, images)]  # fmt: skip
        apart = [float(F.mse_loss(a, b)) for a, b in zip(*maps, strict=True)]
        away = float(LightWords(model).loss(enhancer.embed(made)))
    assert len(apart) == (5 if kind == "resnet" else 3)
    whole = enhancer.reconstruct(images, steps=1, lr=1e-9, batch_size=2).history["loss"][0]
    assert whole == pytest.approx(3 * sum(apart), rel=1e-3)
    guided = enhancer.guided(images, LightWords(model), steps=1, lr=1e-9, batch_size=2).history
    assert guided["content"][0] == pytest.approx(0.9 * 3 * (sum(apart) - 0.5 * apart[-1]), rel=1e-3)
    assert guided["guidance"][0] == pytest.approx(away, rel=1e-3)


def test_a_network_without_light_is_drawn_again(vit: ImageTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlit, "PATIENCE", 10)
    enhancer = small(vit, level=None, seed=1)
    assert enhancer.network.last.bias is not None
    with torch.no_grad():
        enhancer.network.last.bias.fill_(-1.0)  # no light anywhere, and no gradient
    dark = 0.2 * pictures()
    assert bool((enhancer(dark) == 1).all())
    enhancer.reconstruct(dark, steps=30, lr=1e-2, batch_size=2)
    assert float((enhancer(dark) - dark).square().mean()) < 0.05
    # A start that no draw can mend ends in an error.
    hopeless = small(vit, level=1e-6)
    with pytest.raises(DataError, match="20 illumination networks in a row"):
        hopeless.reconstruct(dark[:1], steps=1, lr=1e-9)


def test_guided_results_come_nearer_and_the_model_stays(vit: ImageTextModel) -> None:
    vit.zero_grad(set_to_none=True)
    images = pictures()
    enhancer = small(vit, content=0.0)
    before = [p.detach().clone() for p in vit.parameters()]
    with torch.no_grad():
        goal = F.normalize(enhancer.embed((2 * images).clamp(0, 1)).mean(0), dim=0)
        first = float(Nearer(goal).loss(enhancer.embed(enhancer(images))))
    enhancer.guided(images, Nearer(goal), steps=20, lr=1e-2, batch_size=2)
    with torch.no_grad():
        assert float(Nearer(goal).loss(enhancer.embed(enhancer(images)))) < 0.7 * first
    assert all(torch.equal(a, b) and a.grad is None for a, b in zip(vit.parameters(), before, strict=True))
    # The content term holds results to their pictures.
    held = small(vit, content=1e5)
    held.guided(images, Nearer(goal), steps=20, lr=1e-2, batch_size=2)
    assert float((held(images) - images).abs().mean()) < 0.3 * float((enhancer(images) - images).abs().mean())


def test_more_steps_follow_while_the_loss_is_above_the_threshold(
    vit: ImageTextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlit, "MORE", 2)
    images, taken = pictures(1), []

    class Counting(Nearer):
        def loss(self, features: Tensor) -> Tensor:
            taken.append(1)
            return super().loss(features)

    goal = F.normalize(torch.ones(24), dim=0)
    small(vit).guided(images, Counting(goal), steps=2, lr=1e-4, threshold=-1.0)
    assert len(taken) == 2 + 10 * 2
    taken.clear()
    small(vit).guided(images, Counting(goal), steps=2, lr=1e-4, threshold=1e9)
    assert len(taken) == 2


def test_the_weights_of_the_lowest_mean_come_back() -> None:
    module = nn.Linear(1, 1, bias=False)
    watch = LowestLoss(module)
    for step in range(1, 101):
        with torch.no_grad():
            module.weight.fill_(step)
        watch.see(torch.tensor(abs(step - 50.0)))
        watch.after_step(step)
    watch.restore()
    assert float(module.weight.detach()) == 60  # the mean over 31 to 60 is the lowest of those looked at


def test_mistakes_are_named(vit: ImageTextModel) -> None:
    with pytest.raises(UsageError, match="side 20 is no multiple of the patch of 8"):
        BacklitEnhancer(vit, side=20)
    assert BacklitEnhancer(vit, side=16, seed=3).network.width == 32


def test_content_may_be_judged_by_another_model(vit: ImageTextModel, resnet: ImageTextModel) -> None:
    images, side = pictures(2), resnet.preprocess.size[0]
    enhancer = small(vit, content_model=resnet, content=2.0)  # type: ignore[arg-type]
    with torch.no_grad():
        enhancer.network.last.bias.fill_(0.5)  # type: ignore[union-attr]
        seen = [
            MiddleMaps(resnet, (0, 1, 2, 3, 4))(F.interpolate(x, (side, side), mode="bilinear", antialias=True)).maps
            for x in (enhancer(images), images)
        ]
    apart = sum(float(F.mse_loss(a, b)) for a, b in zip(*seen, strict=True))
    history = enhancer.reconstruct(images, steps=1, lr=1e-9, batch_size=2).history
    assert history["loss"][0] == pytest.approx(2 * apart, rel=1e-3)
