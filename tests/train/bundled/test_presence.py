"""The calibration of the gate: a regression whose answer is known, and scores without a picture's own scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph
from binderclip.train.bundled.presence import fit_presence, presence_scores

PHOTO = LabelledPhotograph("p", "/f", "", "", (), (), "photograph", False, "learn")


def test_the_fit_finds_slope_and_offset_again_and_leaves_out_what_is_disputed() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(10, 3, (400, 50))
    probability = 1 / (1 + np.exp(-(0.8 * scores - 8)))
    shown = (generator.random(scores.shape) < probability).astype(int)
    # As many are shown as are not, so that weighing both sides alike changes nothing.
    assert fit_presence(scores, shown) == pytest.approx((0.8, -8), rel=0.05)
    disputed = shown.copy()
    disputed[:, :5] = -1
    spoilt = scores.copy()
    spoilt[:, :5] = 1e3
    assert fit_presence(spoilt, disputed) == pytest.approx((0.8, -8), rel=0.05)
    other = generator.normal(0, 3, scores.shape)
    probability = 1 / (1 + np.exp(-(0.8 * scores + 0.5 * other - 8)))
    both = (generator.random(scores.shape) < probability).astype(int)
    assert fit_presence(scores, both, other) == pytest.approx((0.8, 0.5, -8), rel=0.05)
    with pytest.raises(UsageError, match="words that are shown and words that are not"):
        fit_presence(scores, np.zeros_like(shown))


def test_a_picture_does_not_score_by_the_scene_that_it_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two pictures of "moss" each leaves the other alone, which is no scene; of three there is one."""
    # At one side, where what a scene is worth on these pictures is known; the mean of several has a test of its own.
    monkeypatch.setattr("binderclip.train.bundled.presence.PRESENCE_SIDES", (512,))
    pictures = [sample.image.convert("RGB").resize((96, 96)) for sample in list(load_data("photographs"))[:3]]
    rows = []
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
        rows.append(replace(PHOTO, label="moss", shows=("rock",), path=tmp_path / f"{number}.png"))
    model = load("everyday")
    before = model.concepts.prototypes.clone()
    three, shown = presence_scores(model, rows, ["moss", "rock", "dog"], {"dog": [151]})
    assert shown.tolist() == [[1, -1, 0]] * 3
    two, _ = presence_scores(model, rows[:2], ["moss", "rock", "dog"], {"dog": [151]})
    # A class of ImageNet is found as before; without its scene the word goes by what is near it.
    assert two[:, 2] == pytest.approx(three[:2, 2], abs=0.05)
    assert np.abs(two[:, 0] - three[:2, 0]).min() > 0.25  # 0.32 to above 0.5, by what else is installed
    # One that gave no scene comes last, and is scored with all of them.
    more, there = presence_scores(model, rows[:2], ["moss", "rock", "dog"], {"dog": [151]}, beside=rows[2:])
    assert there.tolist() == [[1, -1, 0]] * 3
    assert more[:2] == pytest.approx(two, abs=1e-4)
    assert more[2, 0] == pytest.approx(three[2, 0], abs=0.5)
    assert bool((model.concepts.prototypes == before).all())
