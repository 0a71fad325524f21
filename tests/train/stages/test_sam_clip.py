"""SAM-CLIP as stages: each goes on from the head before, the segmenter clicks, the image-text model stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from binderclip.errors import NotSupported, UsageError
from binderclip.models import load
from binderclip.segment import MergedEncoder, load_promptable, open_head
from binderclip.segment.promptable import PromptModel, PromptNetwork
from binderclip.train import Recipe, run
from binderclip.train.stages.sam_clip import sam_clip

SETTINGS = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of two colours, and a tiny segmenter beside them."""
    root = tmp_path_factory.mktemp("colours")
    for row in range(8):
        name, colour = (("red", (220, 20, 20)), ("blue", (20, 20, 220)))[row % 2]
        (root / "pictures" / name).mkdir(exist_ok=True, parents=True)
        picture = Image.new("RGB", (48, 48), (20 * row, 200, 60))
        picture.paste(colour, (0, 0, 20 + row, 48))
        picture.save(root / "pictures" / name / f"{row}.png")
    torch.manual_seed(0)
    PromptModel(PromptNetwork(**SETTINGS), settings=SETTINGS, name="tiny").save(root / "tiny")  # type: ignore[arg-type]
    return root


def recipe(folder: Path, *parts: dict[str, Any]) -> dict[str, Any]:
    kind = {"name": "sam-clip", "segmenter": str(folder / "tiny"), "layers": 1, "hidden": 16, "rehearsed": 2}
    return {
        "model": "small", "data": [str(folder / "pictures")], "batch_size": 4, "samples": 8, "lr": 1e-2,
        "image_size": 64, "checkpoint_every": 1, "evaluation": {},
        "stage": [{"name": part["part"], "kind": {**kind, **part}} for part in parts],
    }  # fmt: skip


def test_stages_go_on_from_one_another(folder: Path, tmp_path: Path) -> None:
    result = run(
        Recipe.from_dict(recipe(folder, {"part": "probe"}, {"part": "joint"})), out=tmp_path / "run", progress=False
    )
    stages = json.loads((result.out / "summary.json").read_text())["stages"]
    assert [each["notes"]["part"] for each in stages] == ["probe", "joint"]
    probe, joint = (open_head(result.out / f"stages/{name}/head") for name in ("00-probe", "01-joint"))
    assert isinstance(probe, MergedEncoder)
    assert isinstance(joint, MergedEncoder)
    before = load_promptable(folder / "tiny").state_dict()  # type: ignore[union-attr]
    kept = probe.segmenter.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in before.items())
    moved = {name.split(".")[1] for name, value in joint.segmenter.state_dict().items()
             if not torch.equal(value, before[name])}  # fmt: skip
    assert {"stem", "blocks", "filters"} <= moved
    assert not moved & {"labels", "drawn", "prior", "fourier"}
    # The second stage begins with the head of the first, which two steps at 0.01 move by 0.02 at most.
    fresh = MergedEncoder(load("small"), folder / "tiny", layers=1, hidden=16, seed=7919)  # type: ignore[arg-type]
    far = [float((joint.mlp[5].weight - each.mlp[5].weight).detach().abs().max()) for each in (probe, fresh)]
    assert far[0] < 0.03 < far[1]
    found = joint.segment(next(folder.glob("pictures/red/*")), ["red", "blue"])
    assert found.labels.shape == (48, 48)
    assert isinstance(load_promptable(result.out / "stages/01-joint/head/segmenter"), PromptModel)
    key, value = next(iter(load("small").backbone.state_dict().items()))
    torch.testing.assert_close(load(result.out / "model").backbone.state_dict()[key], value, rtol=0, atol=0)


def test_a_killed_run_goes_on_exactly(folder: Path, goes_on_exactly: Any) -> None:
    parts = ({"part": "probe"}, {"part": "joint"})
    whole, again = goes_on_exactly(Recipe.from_dict(recipe(folder, *parts) | {"samples": 16}), at=7)
    one, other = (open_head(each.out / "stages/01-joint/head").state_dict() for each in (whole, again))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_cannot_be_trained_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown part"):
        Recipe.from_dict(recipe(folder, {"part": "last"}))
    with pytest.raises(UsageError, match="rehearsed must be"):
        Recipe.from_dict(recipe(folder, {"part": "joint", "rehearsed": 0}))

    class Other:
        model = torch.nn.Linear(1, 1)

        class world:
            size = 1

    with pytest.raises(NotSupported, match="image-text models"):
        sam_clip(Other())  # type: ignore[arg-type]
