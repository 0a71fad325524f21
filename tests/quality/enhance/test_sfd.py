"""SFD (p128, arXiv 2503.19295): who learns from what, adversarial training, and the score."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import SFD, SFDIQA, RRDBNet


def pictures(count: int, seed: int = 0) -> Tensor:
    blocks = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(blocks, size=(32, 32), mode="nearest")


def halved(high: Tensor) -> Tensor:
    return F.interpolate(high, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1)


def made(model: ImageTextModel, **options: float) -> SFD:
    torch.manual_seed(0)
    net = RRDBNet(2, blocks=1, features=6, growth=4)
    return SFD(net, model, levels=(1, 2), hidden=8, n_ctx=4, **options)  # type: ignore[arg-type]


def state(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def moved(module: nn.Module, before: list[Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("term", ["pixel", "perceptual", "feature", "text"])
def test_every_term_alone_trains_the_generator_and_never_the_model(vit: ImageTextModel, term: str) -> None:
    high = pictures(4)
    weights = dict.fromkeys(("pixel", "perceptual", "feature", "text"), 0.0)
    vit.zero_grad(set_to_none=True)
    model = state(vit)
    sfd = made(vit, **weights)
    parts = sfd.generator, sfd.discriminator, sfd.prompts
    before = [state(part) for part in parts]
    sfd.fit(halved(high), high, steps=1, lr=1e-3, batch_size=4)
    # Without any term the discriminators learn and the generator does not.
    assert [moved(part, old) for part, old in zip(parts, before, strict=True)] == [False, True, True]
    other = made(vit, **{**weights, term: 1.0})
    other.fit(halved(high), high, steps=1, lr=1e-3, batch_size=4)
    assert moved(other.generator, before[0])
    # What the generator wants leaves the judges alone: they took the same step.
    assert not moved(other.discriminator, state(sfd.discriminator))
    assert not moved(other.prompts, state(sfd.prompts))
    assert not moved(vit, model)
    assert all(p.grad is None and p.requires_grad for p in vit.parameters())


def test_pixels_first_then_features_come_nearer(vit: ImageTextModel) -> None:
    high = pictures(12)
    low, sfd = halved(high), made(vit, pixel=0.0, perceptual=1.0)
    first = sfd.fit_pixels(low, high, steps=40, lr=5e-3, batch_size=6)
    assert first.history["loss"][-1] < 0.7 * first.history["loss"][0]

    def apart() -> float:
        with torch.no_grad():
            one, other = sfd.maps(sfd.generator(low)).maps, sfd.maps(high).maps
        return float(sum(F.l1_loss(a, b) for a, b in zip(one, other, strict=True)))

    before = apart()
    second = sfd.fit(low, high, steps=25, lr=2e-3, batch_size=6)
    assert apart() < 0.95 * before
    assert second.history["prompts"][-1] < second.history["prompts"][0]


def test_the_score_is_that_of_the_judges_and_puts_blur_below_detail(vit: ImageTextModel) -> None:
    high = pictures(12)
    sfd = made(vit, pixel=1.0, perceptual=0.0, feature=0.0, text=0.0)  # stays blurred, so that the judges see blur
    sfd.fit(halved(high), high, steps=40, lr=5e-3, batch_size=6)
    held = pictures(6, seed=5)
    with torch.no_grad():
        both, feature, text = (SFDIQA(sfd, use=use)(held) for use in ("both", "feature", "text"))
        assert torch.allclose(both, (feature + text) / 2, atol=1e-6)
        blurred = sfd.generator(halved(held)).clamp(0, 1)
        assert bool((SFDIQA(sfd)(blurred) < both).all())
        # Sizes need not be multiples of the patch: the middle is seen.
        wide = F.pad(held, (3, 4, 1, 2))
        assert torch.allclose(SFDIQA(sfd)(wide), both, atol=1e-5)
    assert SFDIQA(sfd).lower_better is False
    with pytest.raises(UsageError, match="use must be one of both, feature, text, got 'none'"):
        SFDIQA(sfd, use="none")
    with pytest.raises(UsageError, match="too small: 8 on either side"):
        SFDIQA(sfd)(torch.zeros(1, 3, 6, 40))
    with pytest.raises(UsageError, match="enlarged 2 times"):
        sfd.fit(high, high, steps=1)


def test_the_judges_have_a_rate_of_their_own(vit: ImageTextModel) -> None:
    """Adam's first step is as long as the rate, whatever the gradient."""
    high = pictures(4)
    sfd = made(vit)
    before = [state(part) for part in (sfd.generator, sfd.discriminator)]
    sfd.fit(halved(high), high, steps=1, lr=1e-3, judge_lr=2e-5, batch_size=4)
    longest = [
        max(float((new.detach() - old).abs().max()) for new, old in zip(part.parameters(), parts, strict=True))
        for part, parts in zip((sfd.generator, sfd.discriminator), before, strict=True)
    ]
    assert longest == [pytest.approx(1e-3, rel=0.05), pytest.approx(2e-5, rel=0.05)]
