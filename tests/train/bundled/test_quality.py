"""How `small-quality` is made and measured, on two pictures and with a step or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from binderclip.data.distortions.library import distort
from binderclip.errors import UsageError
from binderclip.quality import PromptQuality, QualiCLIP
from binderclip.train.bundled import quality


def test_a_folder_is_trained_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for row in range(2):
        pixels = np.random.default_rng(row).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photographs / f"{row}.png")
    monkeypatch.setattr(quality, "PHASES", ({"crop": 16, "batch_size": 2, "steps": 1, "lr": 1e-3},))
    monkeypatch.setattr(quality, "SIDES", (40,))
    monkeypatch.setattr(quality, "quality_figures", lambda metrics: {name: {} for name in metrics})
    folder = quality.train_quality(tmp_path / "made", [str(photographs)])
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["name"] == "made"
    assert set(card["figures"]) == {"made", "small, the same words"}
    assert "2 photographs" in card["how"]
    trained = set(QualiCLIP.from_weights(folder / "quality.safetensors").trained())
    assert "trunk.patch_embed.proj.weight" in trained
    assert not any(".conv_pw.weight" in name for name in trained)
    for folders, said in ((["nowhere"], "there is no folder nowhere"), ([str(folder)], "no picture in")):
        with pytest.raises(UsageError, match=said):
            quality.train_quality(tmp_path / "again", folders)


def test_figures_are_rank_correlations_and_areas_under_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    class Brightness(PromptQuality):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def forward(self, images: Any) -> torch.Tensor:
            return images.mean((1, 2, 3))

    metric = Brightness()
    found = quality.quality_figures({"brightness": metric}, kinds=["darken", "brighten"])["brightness"]
    assert found["level"] == {"darken": 1.0, "brighten": -1.0, "mean": 0.0}
    scores = []
    for sample in quality.load_data("photographs"):
        picture = sample.image.convert("RGB")
        picture.thumbnail((quality.LONGEST,) * 2, Image.Resampling.LANCZOS)
        pixels = quality.to_tensor(picture)[None]
        scores.append([float(distort(pixels, "darken", level, 7).mean()) for level in (0, 3, 5)])
    whole, *damaged = np.array(scores).T
    labels = np.repeat([1, 0], len(whole))
    wanted = np.mean([roc_auc_score(labels, np.concatenate([whole, one])) for one in damaged])
    assert found["damaged"]["darken"] == pytest.approx(wanted, abs=1e-3)
