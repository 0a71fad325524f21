"""Figures of masks by a hand-made picture: what a word marks that is there, one that is not, and clicks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.segment.promptable import ImageState, Masks, Prompts
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph
from binderclip.train.bundled.data.photograph_masks import PhotographMask
from binderclip.train.bundled.figures.mask_figures import absent_marks, bootstrap_interval, mask_figures


class _Whole:
    """A segmenter that takes the whole picture, then all but its right half."""

    image_size = 64
    differentiable = False

    def encode(self, image: Image.Image) -> ImageState:
        return ImageState((torch.zeros(1, 1, 1, 1),), (image.height, image.width), (1.0, 1.0))

    def predict(self, state: ImageState, prompts: Prompts, *, multimask: bool = True) -> Masks:
        assert prompts.labels is not None
        logits = torch.ones(1, 1, *state.size)
        if bool((prompts.labels == 0).any()):
            logits[..., state.size[1] // 2 :] = -1.0
        return Masks(logits, torch.ones(1, 1), logits)


def test_a_cat_is_cut_out_and_what_is_not_there_marks_little(tmp_path: Path) -> None:
    """Half the picture is a cat's face, so the truth is known; the clicks' overlaps are 1 / 2, then 1."""
    cat = next(sample.image for sample in load_data("photographs") if sample.key.startswith("chelsea")).convert("RGB")
    picture = Image.new("RGB", (300, 150), (120, 140, 120))
    picture.paste(cat.crop((60, 0, 360, 300)).resize((150, 150)), (0, 0))
    picture.save(tmp_path / "cat.png")
    row = LabelledPhotograph("p", "/cat.png", "", "cat", ("animal",), (), "photograph", False, "learn")
    row = replace(row, path=tmp_path / "cat.png")
    left = (((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),)
    figures = mask_figures(load("everyday"), [PhotographMask(row, "cat", left)], _Whole())
    assert figures.words == ["cat"]
    assert figures.peak == [True]
    assert figures.sizes == [0.5]
    assert figures.open[0] > 0.6
    assert figures.gated == figures.open
    assert figures.competing[0] > 0.6
    assert len(figures.absent) == 3
    assert max(figures.absent) <= 1
    assert figures.clicks[0] == pytest.approx([0.5, 1.0, 1.0])
    assert figures.as_dict()["clicks"][1] == [1.0, 1.0, 1.0]  # type: ignore[index]
    with pytest.raises(UsageError, match="no outlines"):
        mask_figures(load("everyday"), [])


def test_what_a_word_marks_is_counted_photograph_by_photograph(tmp_path: Path) -> None:
    """A cat's face and a plain ground: the cat is marked on the first, and nothing on the second."""
    cat = next(sample.image for sample in load_data("photographs") if sample.key.startswith("chelsea")).convert("RGB")
    cat.resize((200, 150)).save(tmp_path / "0.png")
    Image.new("RGB", (200, 150), (120, 140, 120)).save(tmp_path / "1.png")
    row = LabelledPhotograph("p", "/cat.png", "", "cat", (), (), "photograph", False, "learn")
    rows = [replace(row, path=tmp_path / f"{number}.png") for number in range(2)]
    marked = absent_marks(load("everyday"), rows, ["cat", "piano"])
    assert marked.shape == (2, 2)
    assert 0.2 < marked[0, 0] <= 1
    assert marked[1, 0] == marked[0, 1] == marked[1, 1] == 0
    with pytest.raises(UsageError, match="at least one of each"):
        absent_marks(load("everyday"), rows, [])


def test_the_interval_of_a_mean_against_scipy() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).beta(2, 1, 60)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert bootstrap_interval(values) == pytest.approx([values.mean(), expected.low, expected.high], abs=0.01)
