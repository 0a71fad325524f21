"""Small generators: aligned copies, the marks of their up-sampling, and codes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.quality import CopyingAutoencoder, train_autoencoder
from binderclip.quality.forensics.generators import strength_gap


def pictures(count: int) -> torch.Tensor:
    """Flat colours under stripes of three pixels and more, which mean colours of 4 x 4 blocks do not hold."""
    generator = torch.Generator().manual_seed(0)
    colour = 0.3 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    period, phase = 3 + 3 * torch.rand(2, count, 1, 1, 1, generator=generator)
    wave = torch.sin(2 * torch.pi * (torch.arange(16) + 9 * phase) / period)
    return (colour + 0.25 * wave).expand(-1, -1, 16, -1).contiguous()


@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "shuffle"])
def test_training_makes_copies_that_look_like_their_pictures(upsampling: str) -> None:
    torch.manual_seed(0)
    images = pictures(32)
    model = CopyingAutoencoder(upsampling)  # type: ignore[arg-type]
    before = float((model(images) - images).square().mean())
    train_autoencoder(model, images, steps=100, batch_size=8, lr=3e-3)
    assert not model.training
    with torch.no_grad():
        after = float((model(images) - images).square().mean())
    assert after < 0.5 * before
    # A copy is aligned: nearer to its own picture than to the others.
    with torch.no_grad():
        copies = model(images).flatten(1)
    assert torch.cdist(copies, images.flatten(1)).argmin(1).tolist() == list(range(32))


def test_codes_are_a_finite_vocabulary_and_the_gradient_passes_them() -> None:
    torch.manual_seed(0)
    images = pictures(16)
    model = CopyingAutoencoder("nearest", codes=6, detail=4)
    train_autoencoder(model, images, steps=60, batch_size=8, lr=3e-3)
    with torch.no_grad():
        _, detail = model.encode(images)
        vectors = model.quantised(detail).movedim(1, -1).flatten(0, 2)
    assert model.codebook is not None
    used = torch.unique(vectors, dim=0)
    assert 2 <= len(used) <= 6
    # Every vector is the nearest of all codes.
    gaps = torch.cdist(detail.movedim(1, -1).flatten(0, 2), model.codebook.detach())
    assert torch.allclose(
        gaps.gather(1, gaps.argmin(1, keepdim=True))[:, 0],
        (detail.movedim(1, -1).flatten(0, 2) - vectors).norm(dim=1),
        atol=1e-5,
    )
    model.zero_grad()
    model.loss(images).backward()
    first = next(model.encoder.parameters())
    assert first.grad is not None
    assert float(first.grad.abs().sum()) > 0


def test_the_gap_of_strengths_asks_for_texture_and_not_for_its_phase() -> None:
    wave = torch.arange(64) * torch.pi / 2  # a period of four pixels
    picture, shifted, faint = (
        0.5 + strength * torch.sin(wave + phase).expand(1, 3, 64, 64)
        for strength, phase in ((0.2, 0.0), (0.2, torch.pi / 2), (0.05, 0.0))
    )
    assert float(strength_gap(picture, shifted)) < 0.1 * float(strength_gap(picture, faint))
    # A sine of amplitude a has a root mean square of a / sqrt(2); the first band lets 1 - (1 + 2 cos(pi / 2)) / 3 = 2/3
    # pass, the second 1/3 times 1 - (1 + 2 cos(pi / 2) + 2 cos(pi)) / 5 = 6/5: the mean of 2/3 and 2/5.
    inner = [each[..., 16:48, 16:48] for each in (picture, faint)]
    wanted = (0.2 - 0.05) / 2**0.5 * (2 / 3 + 2 / 5) / 2
    assert float(strength_gap(*inner)) == pytest.approx(wanted, rel=0.05)


def test_texture_in_the_loss_makes_copies_as_sharp_as_their_pictures() -> None:
    generator = torch.Generator().manual_seed(2)
    images = (0.5 + 0.15 * torch.randn(48, 3, 16, 16, generator=generator)).clamp(0, 1)  # no copy can hold this
    strength = {}
    for texture in (0.0, 1.0):
        torch.manual_seed(0)
        model = train_autoencoder(CopyingAutoencoder("shuffle", detail=4, texture=texture), images, steps=150)
        with torch.no_grad():
            strength[texture] = float((model(images) - functional.avg_pool2d(model(images), 3, 1, 1)).std())
    wanted = float((images - functional.avg_pool2d(images, 3, 1, 1)).std())
    assert strength[0.0] < 0.6 * wanted
    assert strength[1.0] > 0.85 * wanted


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="one of transposed, nearest, shuffle"):
        CopyingAutoencoder("bicubic")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="multiples of 4"):
        CopyingAutoencoder()(torch.zeros(1, 3, 10, 8))
