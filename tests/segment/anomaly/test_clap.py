"""CLAP (p028, arXiv 2411.07546): limiting cases of the bottleneck, regions, SciPy's Prewitt and scikit-image's SSIM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.stats import norm

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.segment.anomaly import (
    METHODS,
    ContrastiveLanguagePrompting,
    InformationBottleneckMap,
    InpaintingAnomalyDetector,
    RestorationNet,
    clap_detector,
    gradient_error,
    mosaic,
    random_regions,
    suspected,
)
from binderclip.segment.anomaly.bottleneck import nats
from binderclip.segment.anomaly.clap import as_pixels
from binderclip.segment.anomaly.restoring import FLOOR, prewitt, restoration_loss, structural_similarity
from binderclip.segment.maps import unit_range


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))


# -- the bottleneck ----------------------------------------------------------------------------------------------------


def test_nats_are_the_divergence_of_two_gaussians() -> None:
    share = torch.tensor([-2.0, 0.0, 1.5, 4.0], dtype=torch.float64)
    values = torch.tensor([0.3, -1.2, 2.0, 0.5], dtype=torch.float64)
    passes = share.sigmoid()
    one = torch.distributions.Normal(passes * values, 1 - passes)
    expected = torch.distributions.kl_divergence(one, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(nats(share, values), expected)
    # Where all passes, 1 - sigmoid rounds to nothing; the divergence stays finite.
    assert bool(torch.isfinite(nats(torch.tensor(40.0), torch.tensor(1.0))))


def test_one_step_gives_the_nats_of_the_start(clip_model: ImageTextModel, pictures: torch.Tensor) -> None:
    found = InformationBottleneckMap(clip_model, steps=1, samples=2, start=1.0, block=0)(pictures, ["a cat"])
    tower = clip_model.image_tower
    with torch.no_grad():
        tokens = tower.run(tower.embed(clip_model.preprocess(pictures)), stop=1)
        expected = nats(torch.ones_like(tokens.x), tokens.x)[:, 1:].sum(dim=-1).view(3, 4, 4)
    assert torch.allclose(found, expected, rtol=1e-4)


def test_without_a_price_the_bottleneck_follows_the_text_alone(
    clip_model: ImageTextModel, pictures: torch.Tensor
) -> None:
    free, dear = (
        InformationBottleneckMap(clip_model, beta=beta, samples=3)(pictures, ["a cat"]) for beta in (0.0, 100.0)
    )
    assert bool((dear.mean(dim=(1, 2)) < free.mean(dim=(1, 2))).all())
    # With the price alone every share falls by Adam's unit steps, whatever the picture: from 5 to -4 in nine.
    shut = InformationBottleneckMap(clip_model, beta=1e6, samples=1)(pictures, ["a cat"])
    assert float(shut.mean()) < 0.2 * float(free.mean())


def test_without_a_price_the_embedding_turns_to_the_text(
    clip_model: ImageTextModel, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower, seen = clip_model.image_tower, []
    project = tower.project

    def noted(x: torch.Tensor) -> torch.Tensor:
        seen.append(project(x).detach())
        return project(x)

    monkeypatch.setattr(tower, "project", noted)
    InformationBottleneckMap(clip_model, beta=0.0, start=0.0, lr=0.3, samples=8)(pictures, ["a cat"])
    text = clip_model.encode_text(["a cat"])
    means = torch.stack([F.cosine_similarity(each, text).view(3, 8).mean(dim=1) for each in seen])
    assert bool((means[-3:].mean(dim=0) > means[0] + 0.1).all())


@pytest.mark.parametrize(("beta", "steps"), [(0.0, 2), (0.01, 3)])
def test_steps_are_those_of_a_loop_over_the_librarys_own_blocks(
    clip_model: ImageTextModel, pictures: torch.Tensor, beta: float, steps: int
) -> None:
    """One picture at a time, one noisy copy at a time, Adam by hand, torch's divergence of Gaussians."""
    options = {"beta": beta, "steps": steps, "samples": 2, "start": 0.5, "lr": 0.5, "block": 0, "seed": 3}
    found = InformationBottleneckMap(clip_model, **options)(pictures, ["a cat", "a dog"])
    text = F.normalize(clip_model.encode_text(["a cat", "a dog"]), dim=-1).mean(dim=0).detach()
    for picture, nats_found in zip(clip_model.preprocess(pictures), found, strict=True):
        expected = looped(clip_model.backbone.visual, picture[None], text, **options)
        assert torch.allclose(nats_found, expected, rtol=2e-3, atol=1e-3)


def looped(visual, picture, text, *, beta, steps, samples, start, lr, block, seed) -> torch.Tensor:
    """Nats of one picture's patches in the last forward, through hooks on the library's own tower."""
    layer, kept = visual.transformer.resblocks[block], []
    hook = layer.register_forward_hook(lambda _module, _inputs, output: kept.append(output.detach()))
    with torch.no_grad():
        visual(picture)
    hook.remove()
    values = kept[0][0]
    share = torch.full_like(values, start, requires_grad=True)
    first, second = torch.zeros_like(values), torch.zeros_like(values)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        noise = torch.randn(1, samples, *values.shape, generator=generator)[0]
        passes = share.sigmoid()
        mean, spread = passes * values, 1 - passes
        passed = torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, spread), torch.distributions.Normal(0.0, 1.0)
        )
        loss = beta * passed.mean()
        for one in noise:
            hook = layer.register_forward_hook(lambda *_, drowned=mean + spread * one: drowned[None])
            loss = loss - F.cosine_similarity(visual(picture)[0], text, dim=0) / samples
            hook.remove()
        (slope,) = torch.autograd.grad(loss, share)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        move = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        share = (share - lr * move).detach().requires_grad_()
    return passed.detach()[1:].sum(dim=-1).view(4, 4)


def test_pictures_do_not_depend_on_their_batch_and_equal_texts_give_equal_maps(
    clip_model: ImageTextModel, pictures: torch.Tensor
) -> None:
    attention = InformationBottleneckMap(clip_model, samples=3)
    whole = attention(pictures, ["a cat"])
    assert whole.shape == (3, 4, 4)
    assert torch.allclose(whole[1:2], attention(pictures[1:2], ["a cat"]), rtol=1e-3)
    assert torch.equal(whole, attention(pictures, ["a cat"]))
    assert not torch.allclose(whole, attention(pictures, ["a rusty screw"]), rtol=1e-3)
    assert all(p.grad is None for p in clip_model.parameters())


# -- contrast and regions ----------------------------------------------------------------------------------------------


def test_the_contrast_of_equal_words_is_nothing_and_without_negatives_it_is_the_positive_map(
    pictures: torch.Tensor,
) -> None:
    asked: list[list[str]] = []

    def attention(images: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        asked.append(list(texts))
        return images[:, 0] * 7 - 3

    nothing = ContrastiveLanguagePrompting(attention, ["crack"], ["crack"])
    assert float(nothing(pictures).abs().max()) == 0
    assert not nothing.regions(pictures).any()
    plain = ContrastiveLanguagePrompting(attention, ["crack", "hole"])
    assert torch.allclose(plain(pictures), unit_range(pictures[:, 0]), atol=1e-5)
    assert asked[-1] == ["crack, hole"]
    ContrastiveLanguagePrompting(attention, ["crack", "hole"], join="mean")(pictures)
    assert asked[-1] == ["crack", "hole"]


def test_maps_of_other_scales_are_brought_together_before_the_difference(pictures: torch.Tensor) -> None:
    maps = {"bad": pictures[:, 0] * 1000, "good": pictures[:, 1] + 5}
    clap = ContrastiveLanguagePrompting(lambda images, texts: maps[texts[0]], ["bad"], ["good"])
    expected = unit_range(pictures[:, 0]) - unit_range(pictures[:, 1])
    assert torch.allclose(clap(pictures), expected, atol=1e-5)


def test_a_quarter_of_a_gaussian_is_suspected() -> None:
    maps = torch.randn(2, 200, 200, generator=torch.Generator().manual_seed(0))
    share = suspected(maps, (200, 200)).float().mean(dim=(1, 2))
    assert torch.allclose(share, torch.full((2,), 0.25), atol=0.01)
    regions = random_regions(64, (64, 64), torch.Generator().manual_seed(1))
    assert float(regions.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert not suspected(torch.full((1, 4, 4), 0.37), (16, 16)).any()


def test_a_mosaic_hides_patterns_inside_regions_only(pictures: torch.Tensor) -> None:
    regions = torch.zeros(3, 32, 32, dtype=torch.bool)
    regions[1, :8, 8:24] = True
    hidden = mosaic(pictures, regions, 8)
    assert torch.equal(hidden[0], pictures[0])
    assert torch.equal(hidden[1, :, 8:], pictures[1, :, 8:])
    for left in (8, 16):
        block = pictures[1, :, :8, left : left + 8].mean(dim=(1, 2))
        assert torch.allclose(hidden[1, :, :8, left : left + 8], block[:, None, None].expand(-1, 8, 8), atol=1e-6)


# -- restoration -------------------------------------------------------------------------------------------------------


def test_prewitt_is_scipys(pictures: torch.Tensor) -> None:
    found = prewitt(pictures)[:, 0].numpy()
    for image, magnitude in zip(pictures.mean(dim=1).double().numpy(), found, strict=True):
        steps = [ndimage.prewitt(image, axis=axis, mode="nearest") / 3 for axis in (0, 1)]
        assert np.allclose(magnitude, np.hypot(*steps), atol=1e-5)


def test_gradient_error_is_none_for_equals_and_the_formula_on_one_level(pictures: torch.Tensor) -> None:
    assert float(gradient_error(pictures, pictures).max()) < 1e-6
    other = pictures.flip(-1)
    one, two = prewitt(pictures)[:, 0], prewitt(other)[:, 0]
    expected = 1 - (2 * one * two + FLOOR) / (one**2 + two**2 + FLOOR)
    assert torch.allclose(gradient_error(pictures, other, scales=1), expected, atol=1e-6)
    # 32, 16 and 8 pixels: the fourth level would have 4.
    halves = [(F.avg_pool2d(pictures, k), F.avg_pool2d(other, k)) for k in (1, 2, 4)]
    levels = [F.interpolate(gradient_error(a, b, scales=1)[:, None], size=(32, 32), mode="bilinear") for a, b in halves]
    assert torch.allclose(gradient_error(pictures, other), torch.cat(levels, 1).mean(dim=1), atol=1e-6)
    assert 0 <= float(gradient_error(pictures, other).min()) <= float(gradient_error(pictures, other).max()) <= 1


@pytest.mark.parametrize("window", [7, 3])
def test_structural_similarity_is_scikit_images(pictures: torch.Tensor, window: int) -> None:
    from skimage.metrics import structural_similarity as reference

    one, two = pictures[0].double(), (0.7 * pictures[0] + 0.3 * pictures[1]).double()
    expected = reference(
        one.numpy(), two.numpy(), data_range=1.0, channel_axis=0, use_sample_covariance=False, win_size=window
    )
    found = structural_similarity(one[None], two[None], window=window)
    assert float(found.mean()) == pytest.approx(float(expected), abs=1e-6)
    assert float(restoration_loss(pictures, pictures)) == pytest.approx(0, abs=1e-5)


def test_how_far_above_its_mean_a_pixel_is_suspected() -> None:
    """Of normal noise the share is the normal distribution's tail, and a coarser noise has larger regions."""
    rise = {}
    for cells in (64, 4):
        noise = torch.Generator().manual_seed(0)
        found = random_regions(200, (64, 64), noise, cells=cells, deviations=1.5)
        assert found.shape == (200, 64, 64)
        rise[cells] = float((found[:, :, 1:] != found[:, :, :-1]).float().mean())
        if cells == 64:  # every pixel its own number
            assert float(found.float().mean()) == pytest.approx(norm.sf(1.5), abs=0.002)
    assert rise[4] < rise[64] / 4
    ramp = torch.arange(101.0).view(1, 1, 101)  # mean 50, deviation 29.15
    assert suspected(ramp, (1, 101), deviations=1.0)[0, 0].tolist() == [x > 50 + 29.15 for x in range(101)]


def test_the_restorer_finds_what_it_never_saw() -> None:
    """Stripes are learned; a dot in hidden stripes is not restored, and the true pixels as regions find it."""
    columns = torch.arange(32) % 8 < 4
    stripes = columns.float().expand(4, 3, 32, 32) * torch.tensor([0.7, 0.75, 0.8, 0.85]).view(4, 1, 1, 1)
    spot = torch.zeros(4, 32, 32, dtype=torch.bool)
    spot[:, 10:16, 9:15] = True
    bad = torch.where(spot[:, None], 0.4, stripes)
    asked = []

    def regions(pixels: torch.Tensor) -> torch.Tensor:
        asked.append(pixels)
        return spot[: len(pixels)]

    detector = InpaintingAnomalyDetector(
        regions, side=32, block=8, steps=100, batch_size=8, lr=1e-2, widths=(8, 8, 8, 8, 8), seed=1
    )
    detector.fit(stripes)
    assert torch.equal(asked[0], stripes)
    good, found = detector(stripes), detector(bad)
    assert found.maps.shape == (4, 32, 32)
    assert torch.equal(found.scores, found.maps.amax(dim=(1, 2)))
    assert float(found.scores.min()) > float(good.scores.max())
    short = [
        InpaintingAnomalyDetector(regions, side=32, steps=2, batch_size=2, widths=(4, 4, 4, 4, 4), seed=seed).fit(
            stripes
        )
        for seed in (1, 1, 2)
    ]
    scores = [each(bad).scores for each in short]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_the_net_keeps_shape_and_its_widths() -> None:
    net = RestorationNet((4, 8, 8, 8, 8)).eval()
    with torch.no_grad():
        given = torch.rand(1, 3, 48, 64)
        out = net(given)
    assert torch.equal(out, given)
    assert len(net.down) == 5


def test_the_whole_of_clap_from_words(clip_model: ImageTextModel, pictures: torch.Tensor) -> None:
    assert METHODS["clap"] is clap_detector
    detector = clap_detector(clip_model, "screw", steps=2, side=32, widths=(4, 4, 4, 4, 4), batch_size=2)
    found = detector.fit(pictures[:2])(pictures)
    assert found.maps.shape == (3, 32, 32)
    hidden = detector.regions(as_pixels(pictures, 32))
    assert 0.05 < float(hidden.float().mean()) < 0.6


def test_the_seed_of_clap_is_that_of_all_its_parts(clip_model: ImageTextModel, pictures: torch.Tensor) -> None:
    pixels = as_pixels(pictures, 32)
    words = {"normal": ["sound"], "anomalous": ["broken"]}
    for seed in (0, 5):
        detector = clap_detector(clip_model, "screw", seed=seed, side=32, **words)  # type: ignore[arg-type]
        noise = InformationBottleneckMap(clip_model, seed=seed)
        alone = ContrastiveLanguagePrompting(noise, ["broken"], ["sound"], join="mean")
        assert torch.equal(detector.regions(pixels), alone.regions(pixels))
        assert detector.seed == seed
    maps = [InformationBottleneckMap(clip_model, seed=seed)(pixels, ["broken"]) for seed in (0, 5)]
    assert not torch.equal(*maps)


def test_mistakes_are_named(clip_model: ImageTextModel, pictures: torch.Tensor) -> None:
    for options, said in [
        ({"block": 2}, "between two of the tower's 3 blocks"),
        ({"block": -4}, "between two"),
        ({"steps": 0}, "at least 1"),
        ({"size": 30}, "multiple of the model's patch"),
    ]:
        with pytest.raises(UsageError, match=said):
            InformationBottleneckMap(clip_model, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="list of at least one"):
        InformationBottleneckMap(clip_model)(pictures, "a cat")
    for positive, negative, said in [
        ([], [], "positive is empty"),
        ("crack", [], "positive must be a list"),
        (["crack"], [""], "negative must be a list"),
    ]:
        with pytest.raises(UsageError, match=said):
            ContrastiveLanguagePrompting(lambda images, texts: images[:, 0], positive, negative)
    with pytest.raises(UsageError, match="join must be one of one, mean"):
        ContrastiveLanguagePrompting(lambda images, texts: images[:, 0], ["a"], join="all")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="blocks of 7"):
        mosaic(pictures, torch.zeros(3, 32, 32, dtype=torch.bool), 7)
    with pytest.raises(UsageError, match="do not fit"):
        mosaic(pictures, torch.zeros(2, 32, 32, dtype=torch.bool), 8)
    with pytest.raises(UsageError, match="of one shape"):
        gradient_error(pictures, pictures[:1])
    with pytest.raises(UsageError, match="at least 8 pixels"):
        gradient_error(pictures[..., :4, :4], pictures[..., :4, :4])
    with pytest.raises(UsageError, match="five numbers"):
        RestorationNet((4, 4))
    with pytest.raises(UsageError, match="multiple of the mosaic's block"):
        InpaintingAnomalyDetector(lambda x: x[:, 0] > 2, side=36, block=8)
    empty = InpaintingAnomalyDetector(lambda x: x[:, 0] > 2, side=32)
    with pytest.raises(UsageError, match="call fit"):
        empty(pictures)
    with pytest.raises(UsageError, match="regions gave"):
        InpaintingAnomalyDetector(lambda x: x[:, 0, :4] > 2, side=32).fit(pictures)
