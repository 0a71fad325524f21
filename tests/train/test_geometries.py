"""Recipes whose loss has another geometry than the cosine: where they start, and what they are measured by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.evaluate import retrieval
from binderclip.losses import SquaredEuclidean
from binderclip.models import load
from binderclip.train import Recipe, run


def go(document: dict[str, Any], out: Path):
    return run(Recipe.from_dict(document), out=out, progress=False)


@pytest.mark.parametrize(
    ("loss", "start"),
    [
        ("euclip", 1.0),
        ({"name": "euclip", "entailment": 0.2}, math.exp(-1)),
        ({"name": "euclip", "init_scale": 3.0}, 3.0),
        ("meru", 1 / 0.07),
        ({"name": "contrastive", "similarity": "arc"}, 1 / 0.07),
    ],
)
def test_a_new_model_starts_from_the_scale_of_its_geometry(tiny: dict[str, Any], tmp_path: Path, loss, start) -> None:
    tiny["loss"] = loss
    history = go(tiny, tmp_path / "a").stages[0].history
    assert history["scale"][0] == pytest.approx(start, rel=1e-5)
    assert history["scale"][-1] != history["scale"][0]
    assert np.isfinite(history["loss"]).all()


def test_macl_keeps_the_recipes_temperature(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["loss"] = {"name": "macl", "tau0": 0.2, "alpha": 0.5}
    history = go(tiny, tmp_path / "a").stages[0].history
    alignment = history["similarity_positive"]
    np.testing.assert_allclose(history["scale"], 5.0 / (1 + 0.5 * alignment), rtol=1e-4)
    assert np.ptp(history["scale"]) > 0
    assert float(load(tmp_path / "a").scale()) == pytest.approx(5.0, rel=1e-3)


def test_held_out_data_is_measured_in_the_losss_geometry(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["loss"] = "euclip"
    figures = go(tiny, tmp_path / "a").figures
    data = load_data("noto-emoji", split="val").subset(range(32))
    model = load(tmp_path / "a")
    images = model.encode_image([sample.image for sample in data.with_mode("RGB")])
    texts = model.encode_text(data.captions)
    with torch.no_grad():
        by_distance = retrieval(images, texts, captions=data.captions, similarity=SquaredEuclidean())
    order = torch.cdist(images.double(), texts.double()).argsort(1)
    same = np.array([[a == b for b in data.captions] for a in data.captions])
    found = np.mean([same[row, order[row, :10].numpy()].any() for row in range(32)])
    assert by_distance["image_to_text/R@10"] == pytest.approx(found)
    assert figures["noto-emoji/image_to_text/R@10"] == pytest.approx(found, abs=0.05)


def test_an_unknown_geometry_is_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["loss"] = {"name": "contrastive", "similarity": "angle"}
    with pytest.raises(UsageError, match="cosine, arc"):
        go(tiny, tmp_path / "a")
