"""Blind quality: its statistics by NumPy, files of many sizes, a stopped run that goes on, weights, mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import load_data
from binderclip.data.images import to_tensor
from binderclip.errors import CheckpointError, DataError, UsageError
from binderclip.quality import BlindQuality, PromptQuality, create_metric
from binderclip.quality.score import blind, damaged_views
from binderclip.quality.score.blind import BLANK, InputDropout, light_statistics, map_statistics
from binderclip.quality.score.damaged_views import FAMILIES, DamagedViews


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    found = [sample.image.convert("RGB") for sample in load_data("photographs")]
    for picture in found:
        picture.thumbnail((160, 160), Image.Resampling.LANCZOS)
    return found


@pytest.fixture(scope="module")
def metric(pictures: list[Image.Image]) -> BlindQuality:
    made = BlindQuality(hidden=8)
    made.fit(pictures[:12], views=48, steps=120, sides=(96, 128), batch_size=64)
    return made


def test_statistics_are_those_of_numpy() -> None:
    maps = [torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0)), torch.arange(24.0).view(2, 2, 2, 3)]
    found = map_statistics(maps).numpy()
    assert found.shape == (2, 15)
    for row in range(2):
        wanted: list[float] = []
        for each in maps:
            places = each[row].flatten(1).numpy()
            wanted += [*places.mean(1), *places.std(1), *np.quantile(places, 0.95, axis=1)]
        assert found[row] == pytest.approx(wanted, abs=1e-5)


def test_light_is_that_of_numpy() -> None:
    images = np.random.default_rng(0).random((2, 3, 20, 30))
    images[0, :, :4], images[1, :, :, 25:] = 0, 1
    found = light_statistics(torch.from_numpy(images)).numpy()
    for row, image in zip(found, images, strict=True):
        light, span = image.mean(0), image.max(0) - image.min(0)
        wanted = [*np.quantile(light, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])]
        wanted += [np.log10((light <= 2 / 255).mean() + 1e-4), np.log10((light >= 253 / 255).mean() + 1e-4)]
        assert row == pytest.approx([*wanted, span.mean(), np.quantile(span, 0.99)], abs=1e-6)


def test_inputs_are_dropped_each_at_its_rate_and_keep_their_mean() -> None:
    dropout = InputDropout(torch.tensor([0.0, 0.3, 0.7]))
    torch.manual_seed(0)
    found = dropout(torch.ones(20_000, 3))
    assert (found == 0).float().mean(0).tolist() == pytest.approx([0, 0.3, 0.7], abs=0.015)
    assert found.mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.04)
    assert torch.equal(dropout.eval()(torch.ones(2, 3)), torch.ones(2, 3))


def test_a_map_of_one_place_has_no_spread() -> None:
    assert map_statistics([torch.full((1, 2, 1, 1), 3.0)]).tolist() == [[3, 3, 0, 0, 3, 3]]


def test_levels_of_photographs_it_never_saw_are_put_in_order(metric: BlindQuality, pictures: list[Image.Image]) -> None:
    views = DamagedViews(pictures[12:], 12, sides=(96, 128), seed=7)
    with torch.no_grad():
        found = [(metric(shown), levels.amax(1)) for shown, levels in views]
    scores, levels = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    whole, bad = scores[levels == 0], scores[levels >= 4]
    assert 0 <= scores.min() <= scores.max() <= 1
    assert np.corrcoef(scores, levels)[0, 1] < -0.3
    assert (whole[:, None] > bad).mean() > 0.65


def test_the_score_follows_the_strongest_family_and_that_of_any_fault(
    metric: BlindQuality, pictures: list[Image.Image]
) -> None:
    assert metric.names == list(FAMILIES)
    dark = [picture.point(lambda value: value // 12) for picture in pictures[12:]]
    with torch.no_grad():
        found = metric.score_files(dark)
    assert found.names == metric.names
    assert found.each.shape == (len(dark), len(FAMILIES))
    with torch.no_grad():
        features = metric.files(dark).features
        logits = metric.head(((features - metric.middle) / metric.spread).clamp(-5, 5))
    assert found.each.numpy() == pytest.approx(1 - logits[:, :-1].sigmoid().numpy(), abs=1e-6)
    wanted = 1 - ((logits[:, :-1].max(1).values + logits[:, -1]) / 2).sigmoid()
    assert found.total.numpy() == pytest.approx(wanted.numpy(), abs=1e-6)


def test_a_picture_with_nothing_on_it_is_the_worst_and_one_with_a_line_on_it_is_not_blank(
    metric: BlindQuality, pictures: list[Image.Image]
) -> None:
    blank = [Image.new("RGB", (60, 40), colour) for colour in ("white", "black", "gray", "navy")]
    blank[0].putpixel((5, 5), (0, 0, 0))  # a speck is nothing, too
    drawing = Image.new("RGB", (60, 40), "white")
    drawing.paste("black", (10, 5, 12, 35))
    colours = Image.new("RGB", (60, 40), (200, 20, 20))  # of one brightness and two colours
    colours.paste((20, 20, 200), (0, 0, 30, 40))
    found = metric.score_files([*blank, drawing, colours, *pictures])
    assert found.total[:4].tolist() == pytest.approx([1 / (1 + np.exp(BLANK))] * 4, rel=1e-4)
    assert (found.each[:4].argmin(1) == FAMILIES.index("exposure")).all()
    assert found.total[4:].min() > found.total[:4].max()


def test_files_of_any_size_are_scored_as_tensors_are_and_bad_ones_named(
    metric: BlindQuality, pictures: list[Image.Image], tmp_path: Path
) -> None:
    paths = []
    for number, size in enumerate([(64, 48), (64, 48), (33, 90), (20, 16)]):
        paths.append(tmp_path / f"{number}.png")
        pictures[number].resize(size).save(paths[-1])
    Image.new("RGB", (40, 15)).save(tmp_path / "thin.png")
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:50])
    found = metric.score_files([tmp_path / "thin.png", *paths, tmp_path / "broken.png"])
    assert found.keys == [str(path) for path in paths]
    assert [Path(key).name for key, _ in found.skipped] == ["thin.png", "broken.png"]
    assert "15 x 40 pixels, 16 are needed" in found.skipped[0][1]
    with torch.no_grad():
        alone = [float(metric(to_tensor(Image.open(path))[None])) for path in paths]
    assert found.total.tolist() == pytest.approx(alone, abs=1e-5)
    assert metric(paths).tolist() == pytest.approx(alone, abs=1e-5)
    with pytest.raises(DataError, match="15 x 40 pixels"):
        metric([tmp_path / "thin.png"])


def test_larger_pictures_are_reduced_and_gradients_reach_the_pixels(
    metric: BlindQuality, pictures: list[Image.Image], tmp_path: Path
) -> None:
    path = metric.save_weights(tmp_path / "own.safetensors")
    small = BlindQuality.from_weights(path, longest=80)
    reduced = pictures[0].resize((80, round(80 * pictures[0].height / pictures[0].width)), Image.Resampling.BICUBIC)
    with torch.no_grad():
        assert float(small([pictures[0]])) == pytest.approx(float(metric([reduced])), abs=1e-6)
    pixels = to_tensor(pictures[1])[None].requires_grad_(True)
    small(pixels).sum().backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blind, "PART", 2)
    settings = {"views": 5, "steps": 6, "sides": (32, 48), "batch_size": 8, "seed": 3}
    straight = BlindQuality(hidden=4)
    straight.fit(pictures[:3], **settings)

    class Stopped(Exception):
        pass

    def stop(done: int) -> None:
        if done >= 4:
            raise Stopped

    views = DamagedViews(pictures[:3], 5, sides=(32, 48), seed=3)
    resumed = BlindQuality(hidden=4)
    with pytest.raises(Stopped):
        resumed.statistics_of(views, tmp_path / "parts", progress=stop)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) == 2
    looked_at: list[int] = []
    plain = BlindQuality.embed

    def counted(self: BlindQuality, images: torch.Tensor) -> torch.Tensor:
        looked_at.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(BlindQuality, "embed", counted)
    resumed.fit(pictures[:3], folder=tmp_path / "parts", **settings)
    assert looked_at == [4]  # the fifth view alone, whole and with three faults
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(UsageError, match="is of other views"):
        resumed.fit(pictures[:3], folder=tmp_path / "parts", **{**settings, "seed": 4})
    monkeypatch.setattr(damaged_views, "VERSION", 1)  # parts that another version drew differently
    with pytest.raises(UsageError, match="is of other views"):
        resumed.fit(pictures[:3], folder=tmp_path / "parts", **settings)


def test_weights_come_back_and_those_of_others_are_refused(metric: BlindQuality, tmp_path: Path) -> None:
    path = metric.save_weights(tmp_path / "own.safetensors")
    assert path.stat().st_size < 1e5
    images = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(BlindQuality.from_weights(path)(images), metric(images))
        assert torch.equal(create_metric("blind", path=path)(images), metric(images))
    with pytest.raises(CheckpointError, match="there is no such file"):
        BlindQuality.from_weights(tmp_path / "none.safetensors")


def test_mistakes_are_named(pictures: list[Image.Image], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hidden and longest must be at least 1, got 0"):
        BlindQuality(hidden=0)
    plain = BlindQuality(hidden=2)
    with pytest.raises(UsageError, match="nothing is fitted"):
        plain([pictures[0]])
    with pytest.raises(UsageError, match="nothing to save"):
        plain.save_weights(tmp_path / "own.safetensors")
    with pytest.raises(UsageError, match="images is empty"):
        plain.fit([])
    assert not isinstance(plain, PromptQuality)


def test_of_no_pictures_there_are_no_scores(metric: BlindQuality) -> None:
    assert metric(torch.rand(0, 3, 32, 32)).shape == (0,)
    with pytest.raises(UsageError, match="images is empty: give at least one"):
        metric([])
