"""CMMD (p092, arXiv 2401.09603) and the Fréchet distance in their stateful form."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.quality import CMMD, METHODS, FrechetDistance, frechet_distance, mmd_rbf


class TinyModel:
    """Stands for an ImageTextModel: mean colours of the four quadrants, at 8 px."""

    name, image_size = "tiny", 8

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(images.shape))
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def features(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)) + shift


def test_batches_accumulate_and_rows_become_unit_vectors() -> None:
    real, fake = features(20, 0), features(24, 1, shift=0.5)
    metric = CMMD()
    for part in real.split(7):
        metric.update(part, real=True)
    metric.update(fake * 5, real=False)
    unit = [torch.nn.functional.normalize(f.double(), dim=-1) for f in (real, fake)]
    assert float(metric.compute()) == pytest.approx(1000 * float(mmd_rbf(*unit)), abs=1e-9)
    # Nearly linear kernel: close to 10 |mean - mean|^2, as the width of 10 implies for unit vectors.
    linear = 10 * float(((unit[0].mean(0) - unit[1].mean(0)) ** 2).sum())
    assert float(metric.compute()) == pytest.approx(linear, rel=0.05)
    metric.reset()
    with pytest.raises(UsageError, match="no real images yet"):
        metric.compute()


def test_images_are_resized_as_published_and_the_report_says_so() -> None:
    model = TinyModel()
    metric = CMMD(model)
    images = torch.rand(6, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    metric.update(images, real=True)
    metric.update(1 - images, real=False)
    assert model.sizes == [(6, 3, 8, 8)] * 2
    small = torch.nn.functional.interpolate(images, (8, 8), mode="bicubic", antialias=False)
    assert torch.allclose(metric.real, TinyModel().encode_image(small))
    report = metric.report(permutations=99, resamples=50)
    assert (report.n_real, report.n_fake) == (6, 6)
    assert "without antialiasing" in report.embedding
    assert report.interval is not None
    assert report.interval[0] < report.value < report.interval[1]
    assert 0 < report.p_value <= 1


def hard_edges(n: int, seed: int, side: int = 12) -> torch.Tensor:
    """Small pictures of pure black and white, of which bicubic interpolation overshoots."""
    coarse = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) > 0.5
    return coarse.float()


def test_what_bicubic_overshoots_reaches_the_model_as_published() -> None:
    from torchvision.transforms import Normalize

    from binderclip.models import build

    torch.manual_seed(0)
    model = build(
        {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 8, "patch_size": 8},
            "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        },
        name="tiny",
    ).eval()
    real, fake = hard_edges(70, 0), hard_edges(5, 1, side=9)
    metric = CMMD(model)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    scale = Normalize(model.preprocess.mean, model.preprocess.std)
    want = []
    with torch.no_grad():
        for images in (real, fake):
            # The published embedding: resize, then the processor's normalisation alone, then the vision tower.
            shown = torch.nn.functional.interpolate(images, size=(32, 32), mode="bicubic")
            assert float(shown.min()) < -0.15
            assert float(shown.max()) > 1.15
            found = model.backbone.encode_image(scale(shown))
            want.append(found / torch.linalg.norm(found, dim=-1, keepdim=True))
    assert float(metric.compute()) == pytest.approx(1000 * float(mmd_rbf(*want)), rel=1e-4)
    assert "not clamped" in metric.embedding
    # Pictures that are outside to begin with are a mistake.
    with pytest.raises(UsageError, match=r"must lie in \[0, 1\]"):
        metric.update(255 * real, real=True)


def test_scale_blocks_and_level_are_those_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(20, 3, generator=generator), torch.randn(25, 3, generator=generator) + 0.3]
    found = {}
    for block in (1024, 7):
        metric = CMMD(scale=2.0, sigma=1.0, block=block)
        metric.update(sets[0], real=True)
        metric.update(sets[1], real=False)
        found[block] = float(metric.compute())
    unit = [torch.nn.functional.normalize(rows.double(), dim=1) for rows in sets]
    gram = torch.exp(-torch.cdist(torch.cat(unit), torch.cat(unit)).square() / 2)
    expected = gram[:20, :20].mean() + gram[20:, 20:].mean() - 2 * gram[:20, 20:].mean()
    assert found[1024] == pytest.approx(2 * float(expected), rel=1e-5)
    assert found[7] == pytest.approx(found[1024], rel=1e-6)
    wide, narrow = (metric.report(resamples=200, level=level).interval for level in (0.95, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_two_points() -> None:
    metric = CMMD()
    metric.update(torch.tensor([[1.0, 0.0]]), real=True)
    metric.update(torch.tensor([[0.0, 3.0]]), real=False)
    assert float(metric.compute()) == pytest.approx(2000 * (1 - math.exp(-2 / 200)), rel=1e-9)


def test_frechet_uses_raw_features_and_a_callable_embeds() -> None:
    metric = FrechetDistance(lambda images: images.flatten(1)[:, :4])
    real = torch.rand(30, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    fake = torch.rand(40, 3, 2, 2, generator=torch.Generator().manual_seed(1)) + 0.2
    metric.update(real, real=True)
    metric.update(fake, real=False)
    want = frechet_distance(real.flatten(1)[:, :4], fake.flatten(1)[:, :4])
    assert float(metric.compute()) == pytest.approx(float(want), abs=1e-12)


def test_equal_mean_and_covariance_fool_frechet_but_not_the_kernel() -> None:
    # Two points at +-1 against a standard normal: same mean, same variance, another distribution.
    n = 2000
    normal = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normal = (normal - normal.mean()) / normal.std()
    signs = torch.ones(n, 1, dtype=torch.float64)
    signs[: n // 2] = -1
    signs = signs / signs.std()
    assert float(frechet_distance(normal, signs)) < 1e-9
    assert float(mmd_rbf(normal, signs, sigma=0.5, unbiased=True)) > 0.05


def test_bad_input_is_named() -> None:
    assert {"cmmd", "frechet"} <= set(METHODS)
    with pytest.raises(UsageError, match="sigma must be above 0"):
        CMMD(sigma=-1)
    with pytest.raises(UsageError, match="resize must be"):
        CMMD(resize="nearest")
    with pytest.raises(UsageError, match="must have shape"):
        CMMD().update(torch.zeros(2, 3, 4, 4), real=True)
    metric = CMMD()
    metric.update(torch.zeros(2, 3), real=True)
    with pytest.raises(UsageError, match="4 columns"):
        metric.update(torch.zeros(2, 4), real=False)
