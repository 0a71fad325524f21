"""SegCLIP as a stage: learned from pictures with captions, opened by the verb's opener; a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from binderclip.errors import NotSupported, UsageError
from binderclip.models import load
from binderclip.segment import SegCLIP, open_head
from binderclip.train import Recipe, run
from binderclip.train.stages.segclip import segclip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of two colours, in folders that are their captions."""
    root = tmp_path_factory.mktemp("colours")
    for row in range(8):
        name, colour = (("red", (220, 20, 20)), ("blue", (20, 20, 220)))[row % 2]
        (root / name).mkdir(exist_ok=True)
        picture = Image.new("RGB", (48, 48), (20 * row, 200, 60))
        picture.paste(colour, (0, 0, 20 + row, 48))
        picture.save(root / name / f"{row}.png")
    return root


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    kind = {"name": "segclip", "groups": 3, "layers": 1, "blocks": 0, "text": False, **changes}
    return {
        "model": "small", "data": [str(folder)], "batch_size": 4, "samples": 8, "lr": 1e-3, "image_size": 64,
        "checkpoint_every": 1, "evaluation": {}, "stage": [{"name": "groups", "kind": kind}],
    }  # fmt: skip


def test_it_is_trained_saved_and_opened_and_the_model_stays(folder: Path, tmp_path: Path) -> None:
    result = run(Recipe.from_dict(recipe(folder)), out=tmp_path / "run", progress=False)
    summary = json.loads((result.out / "summary.json").read_text())
    assert summary["stages"][0]["steps"] == 2
    assert summary["stages"][0]["notes"] == {"head": "segclip", "groups": 3}
    head = open_head(result.out / "stages/00-groups/head")
    assert isinstance(head, SegCLIP)
    assert head.size == 64
    fresh = SegCLIP(load("small"), groups=3, layers=1, blocks=0, text=False, size=64, seed=0)
    assert not torch.equal(head.grouping.centres, fresh.grouping.centres)
    found = head.segment(next(folder.glob("red/*")), ["background", "red", "blue"])
    assert found.labels.shape == (48, 48)
    key, value = next(iter(load("small").backbone.state_dict().items()))
    torch.testing.assert_close(load(result.out / "model").backbone.state_dict()[key], value, rtol=0, atol=0)


def test_what_cannot_be_trained_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tail must be"):
        run(Recipe.from_dict(recipe(folder, tail=4)), out=tmp_path / "run", progress=False)

    class Other:
        model = torch.nn.Linear(1, 1)

        class world:
            size = 1

    with pytest.raises(NotSupported, match="image-text models"):
        segclip(Other())  # type: ignore[arg-type]
