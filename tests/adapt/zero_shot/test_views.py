"""Views of a zero-shot classifier, and GuidedCrops of p045 (guided cropping, arXiv 2309.06581)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone

from binderclip.adapt import GuidedCrops, Tiles, WholeImage, ZeroShotClassifier
from binderclip.adapt.zero_shot.views import crop_box, enlarge, square
from binderclip.errors import DataError, UsageError


class ColourModel:
    """Features of a picture are its mean colour, so what was looked at can be read off."""

    embed_dim = 3

    class preprocess:
        background = (255, 255, 255)

    def encode_files(self, pictures: list, **_: object) -> object:
        rows = [np.asarray(p.convert("RGB"), dtype=np.float32).mean(axis=(0, 1)) / 255 for p in pictures]
        return type("Encoded", (), {"features": torch.tensor(np.stack(rows))})


NAMES = ["red", "green", "blue", "grey"]
ROWS = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])


def head(**options: object) -> ZeroShotClassifier:
    return ZeroShotClassifier(ROWS, classes=NAMES, scale=10.0, **options)


def scene() -> Image.Image:
    """Green, 60 wide and 30 high, with a red square 10 wide at (40, 10)."""
    picture = Image.new("RGB", (60, 30), (0, 255, 0))
    picture.paste((255, 0, 0), (40, 10, 50, 20))
    return picture


def boxed(image: Image.Image, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    boxed.asked = texts
    boxes = torch.tensor([[0.0, 0, 60, 30], [40, 10, 50, 20]])
    return boxes, torch.tensor([[0.1] * len(texts), [0.0] * (len(texts) - 1) + [0.7]])


def test_a_margin_moves_the_box_to_the_whole_image_in_a_straight_line() -> None:
    box, size = (40, 10, 50, 20), (60, 30)
    assert enlarge(box, 0, size) == box
    assert enlarge(box, 1, size) == (0, 0, 60, 30)
    assert enlarge(box, 0.5, size) == (20, 5, 55, 25)
    steps = [enlarge(box, a, size) for a in np.linspace(0, 1, 11)]
    for inner, outer in pairwise(steps):
        assert outer[0] <= inner[0]
        assert outer[1] <= inner[1]
        assert outer[2] >= inner[2]
        assert outer[3] >= inner[3]


def test_a_square_grows_its_shorter_side_and_is_shifted_before_it_is_cut() -> None:
    assert square((10, 4, 20, 8), (60, 30)) == (10, 1, 20, 11)
    assert square((10, 0, 20, 4), (60, 30)) == (10, 0, 20, 10)  # shifted down
    assert square((10, 28, 20, 30), (60, 30)) == (10, 20, 20, 30)  # shifted up
    assert square((0, 10, 50, 20), (60, 30)) == (0, 0, 50, 30)  # higher than the image
    rng = np.random.default_rng(0)
    for _ in range(100):
        x, y = np.sort(rng.uniform(0, 60, 2)), np.sort(rng.uniform(0, 30, 2))
        got = square((x[0], y[0], x[1], y[1]), (60, 30))
        assert got[0] <= x[0] + 1e-9
        assert got[1] <= y[0] + 1e-9
        assert got[2] >= x[1] - 1e-9
        assert got[3] >= y[1] - 1e-9


def test_crops_are_cut_from_the_original_and_never_empty() -> None:
    assert crop_box(scene(), (40, 10, 50, 20)).getcolors() == [(100, (255, 0, 0))]
    assert crop_box(scene(), (59.7, 29.9, 80, 80)).size == (1, 1)
    assert crop_box(scene(), (-5, -5, 99, 99)).size == (60, 30)
    assert crop_box(torch.rand(3, 30, 60), (1.5, 2, 3, 4.2)).shape == (3, 3, 2)


def test_the_detector_is_asked_for_the_first_looks_favourites_and_its_best_box_decides() -> None:
    views = GuidedCrops(boxed, margins=[0.0, 1.0], top_k=2)
    guided = head(views=views)
    found = guided.encode(ColourModel(), [scene()])
    assert boxed.asked == ["green", "grey"]  # the whole image is green, then grey
    assert found.features.shape == (1, 3, 3)
    np.testing.assert_allclose(found.features[0, 1], [1, 0, 0], atol=1e-6)  # the tight crop is the red square
    np.testing.assert_allclose(found.features[0, 2], found.features[0, 0])  # margin 1 is the whole image
    # Red is not among the candidates, so it cannot win.
    probs = guided.predict_proba(found.features)
    assert probs[0, 0] == probs[0, 2] == 0
    assert probs.sum() == pytest.approx(1)
    free = head(views=GuidedCrops(boxed, margins=[0.0], top_k=None))
    assert head().predict(found.features[:, 0]) == ["green"]
    assert free.predict(free.encode(ColourModel(), [scene()]).features) == ["red"]


def test_features_are_averaged_as_unit_vectors_or_else_logits() -> None:
    x = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    u = torch.nn.functional.normalize(x, dim=-1)
    rows = torch.from_numpy(ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True))
    crops = torch.nn.functional.normalize(u[:, 1:].mean(1), dim=-1)
    by_feature = head(views=GuidedCrops(boxed, top_k=None)).decision_function(x)
    np.testing.assert_allclose(by_feature, 10 * crops @ rows.T, atol=1e-9)
    by_logit = head(views=GuidedCrops(boxed, top_k=None, merge_by="logits")).decision_function(x)
    np.testing.assert_allclose(by_logit, 10 * (u[:, 1:] @ rows.T).mean(1), atol=1e-9)
    same = x[:, :2].repeat_interleave(torch.tensor([1, 3]), dim=1)
    once = head(views=GuidedCrops(boxed)).decision_function(x[:, :2])
    np.testing.assert_allclose(head(views=GuidedCrops(boxed)).decision_function(same), once, atol=1e-9)


def test_top_k_bounds_the_answer_by_the_first_look() -> None:
    x = torch.randn(50, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    look = head().decision_function(x[:, 0])
    allowed = np.argsort(-look, axis=1)[:, :2]
    answers = head(views=GuidedCrops(boxed, top_k=2)).predict(x)
    free = head(views=GuidedCrops(boxed, top_k=None)).predict(x)
    place = {name: i for i, name in enumerate(NAMES)}
    inside = np.array([place[name] in row for name, row in zip(free, allowed, strict=True)])
    assert all(place[name] in row for name, row in zip(answers, allowed, strict=True))
    assert 0 < inside.sum() < 50
    assert np.array_equal(answers[inside], free[inside])


def test_boxes_take_the_detectors_place_and_none_is_the_whole_image() -> None:
    guided = head(views=GuidedCrops(margins=[0.0], top_k=None))
    found = guided.encode(ColourModel(), [scene(), scene()], boxes=[(40, 10, 50, 20), None])
    assert list(guided.predict(found.features)) == ["red", "green"]
    strict = head(views=GuidedCrops(boxed, margins=[0.0], min_score=0.9))
    seen = strict.encode(ColourModel(), scene()).features
    torch.testing.assert_close(seen[:, 0], seen[:, 1])


def test_tiles_drop_the_remainder_and_one_tile_is_the_whole_image() -> None:
    picture = Image.new("RGB", (61, 32), (255, 255, 255))
    picture.paste((0, 0, 255), (40, 20, 60, 30))
    tiles = Tiles(3)
    assert tiles.boxes((61, 32))[1:3] == [(0, 0, 20, 10), (20, 0, 40, 10)]
    found = head(views=tiles).encode(ColourModel(), picture).features
    assert found.shape == (1, 10, 3)
    np.testing.assert_allclose(found[0, 9], [0, 0, 1], atol=1e-6)  # the last tile
    np.testing.assert_allclose(found[0, 1], [1, 1, 1], atol=1e-6)
    one = head(views=Tiles(1)).encode(ColourModel(), picture).features
    torch.testing.assert_close(one, head(views=WholeImage()).encode(ColourModel(), picture).features)
    torch.testing.assert_close(one, head().encode(ColourModel(), picture).features)
    best = head(views=Tiles(3, merge_by="max")).decision_function(found)[0]
    by_view = head().decision_function(found[0])
    np.testing.assert_allclose(best, by_view.max(axis=0), atol=1e-6)
    np.testing.assert_allclose(head(views=tiles).decision_function(found)[0], by_view.mean(axis=0), atol=1e-6)
    multi = head(views=tiles, multi_label=True).predict_proba(found)[0]
    assert multi[2] > 0.45 > head(views=tiles).predict_proba(found)[0, 2]


def test_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    scene().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    paths = [tmp_path / "bad.png", tmp_path / "good.png"]
    found = head(views=Tiles(2)).encode(ColourModel(), paths, on_error="skip")
    assert (found.index, [key for key, _ in found.skipped]) == ([1], [str(paths[0])])
    with pytest.raises(DataError, match=r"bad\.png"):
        head().encode(ColourModel(), paths)


def test_cloning_does_not_copy_a_detector() -> None:
    class Heavy:
        def __call__(self, image: object, texts: object) -> object: ...

        def __deepcopy__(self, memo: object) -> None:
            raise AssertionError("copied")

    views = GuidedCrops(Heavy())
    assert clone(head(views=views)).views is views


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="margins are numbers in"):
        GuidedCrops(boxed, margins=[1.5])
    with pytest.raises(UsageError, match="top_k must be at least 1"):
        GuidedCrops(boxed, top_k=0)
    with pytest.raises(UsageError, match="merge_by must be one of features, logits"):
        GuidedCrops(boxed, merge_by="votes")
    with pytest.raises(UsageError, match="has no detector"):
        head(views=GuidedCrops()).encode(ColourModel(), scene())
    with pytest.raises(UsageError, match="2 boxes for 1 images"):
        head(views=GuidedCrops()).encode(ColourModel(), scene(), boxes=[None, None])
    with pytest.raises(UsageError, match=r"\(N, 1 \+ views, d\)"):
        head(views=GuidedCrops(boxed)).predict(np.ones((2, 3)))
    with pytest.raises(UsageError, match="whole number from 1 to 64"):
        Tiles(0)
