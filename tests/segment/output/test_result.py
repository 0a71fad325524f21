"""Label maps: shares, files, overlays, and enlargement one class at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from binderclip.errors import UsageError
from binderclip.segment import Segmentation
from binderclip.segment.output.palette import colours
from binderclip.segment.output.result import label_map


def segmentation(labels: list[list[int]], classes: int = 3, background: bool = False) -> Segmentation:
    ids = torch.tensor(labels, dtype=torch.int32)
    names = tuple(f"c{i}" for i in range(classes))
    image = Image.new("RGB", (ids.shape[1], ids.shape[0]), (90, 120, 150))
    return Segmentation(names, ids, torch.zeros(classes, 2, 2), image, background)


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_enlarging_class_by_class_equals_enlarging_all(threshold: float) -> None:
    scores = 3 * torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0))
    drawn = F.interpolate(scores[None], size=(50, 33), mode="bilinear")[0]
    want = drawn.argmax(dim=0)
    want[drawn.softmax(dim=0).amax(dim=0) < threshold] = -1
    assert torch.equal(label_map(scores, (50, 33), threshold).long(), want)


def test_unsure_pixels_get_the_label_asked_for_by_either_probability() -> None:
    log_p = torch.tensor([[[0.6, 0.2]], [[0.3, 0.1]], [[0.1, 0.05]]]).log()  # the second pixel sums to .35
    assert label_map(log_p, (1, 2), 0.5).tolist() == [[0, 0]]
    assert label_map(log_p, (1, 2), 0.5, absolute=True).tolist() == [[0, -1]]
    assert label_map(log_p, (1, 2), 0.5, absolute=True, below=2).tolist() == [[0, 2]]


def test_the_most_probable_class_is_that_of_all_probabilities() -> None:
    scores = 3 * torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(1))
    nothing = torch.full((50, 33), -1, dtype=torch.int32)
    found = Segmentation(tuple("abcde"), nothing, scores, Image.new("RGB", (33, 50)))
    labels, confidence = found.most_probable()
    want = found.probs.max(dim=0)
    assert torch.equal(labels.long(), want.indices)
    assert torch.allclose(confidence, want.values, atol=1e-6)


def test_shares_and_masks() -> None:
    found = segmentation([[0, 0, 1, -1], [0, 2, 1, -1]])
    assert found.shares() == {"c0": 0.375, "c1": 0.25, "c2": 0.125}
    assert found.mask("c1").tolist() == [[False, False, True, False]] * 2
    with pytest.raises(UsageError, match="'c9' is none of the classes"):
        found.mask("c9")


def test_label_maps_are_read_back_exactly(tmp_path) -> None:
    found = segmentation([[0, 2, -1]])
    saved = Image.open(found.save(tmp_path / "a.png"))
    assert saved.mode == "L"
    assert np.asarray(saved).tolist() == [[0, 2, 255]]
    many = segmentation([[0, 299, -1]], classes=300)
    assert np.asarray(Image.open(many.save(tmp_path / "b.png"))).tolist() == [[0, 299, 65535]]
    with pytest.raises(UsageError, match="saved as PNG"):
        found.save(tmp_path / "a.jpg")


def test_overlay_has_the_colours_of_its_legend() -> None:
    labels = np.zeros((120, 200), dtype=int)
    labels[:, 100:] = 1
    labels[:, 180:] = -1
    found = segmentation(labels.tolist(), classes=2)
    plain = np.asarray(found.overlay(legend=False, opacity=1.0))
    assert plain.shape == (120, 200, 3)
    assert plain[60, 50].tolist() == list(colours(2)[0])
    assert plain[60, 150].tolist() == list(colours(2)[1])
    assert plain[60, 195].tolist() == [90, 120, 150]  # unsegmented: the picture itself
    assert plain[60, 99].min() > 200  # the line between labels
    legend = np.asarray(found.overlay())
    assert legend.shape[0] > 120
    strip = legend[120:].reshape(-1, 3)
    assert all((strip == colour).all(axis=1).any() for colour in colours(2))
    with pytest.raises(UsageError, match="opacity"):
        found.overlay(opacity=-1)


def test_colours_are_distinct_and_background_is_grey() -> None:
    found = colours(45, background=True)
    assert len(set(found)) == 45
    assert len(set(found[0])) == 1
