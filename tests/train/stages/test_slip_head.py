"""SLIP's heads as a stage: cut-outs, what is learned, what is left, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.segment.promptable import OracleSegmenter
from binderclip.segment.task import Look, MostSimilar, ProjectedModel, region_retrieval
from binderclip.train import Recipe, run
from binderclip.train.stages.slip_head import cut_out

COLOURS = {"amaranth": (230, 40, 80), "viridian": (60, 130, 110), "cobalt": (10, 70, 170)}


def test_a_cut_out_is_the_opaque_part_on_black() -> None:
    pixels = np.zeros((12, 12, 4), np.uint8)
    pixels[..., :3] = 200
    pixels[2:8, 3:9, 3] = 255
    pixels[2, 3, 3] = 10  # nearly transparent: ground
    expected = np.full((6, 6), 200 / 255, np.float32)
    expected[0, 0] = 0
    made = cut_out(torch.from_numpy(pixels).permute(2, 0, 1), 6)
    np.testing.assert_allclose(made.numpy(), np.stack([expected] * 3), atol=1e-6)
    pixels[..., 3] = 0
    assert torch.allclose(cut_out(torch.from_numpy(pixels).permute(2, 0, 1), 4), torch.tensor(200 / 255))


def niche(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(6):
            noise = rng.normal(0, 12, (32, 32, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(
                root / name / f"{number}.png"
            )
    return root


def stage(tiny: dict[str, Any], **entries: Any) -> Recipe:
    base = {"lr": 3e-3, "evaluation": {}, "batch_size": 16, "stage": [{"name": "head", "kind": "slip-head"}]}
    return Recipe.from_dict({**tiny, **base, **entries})


def test_a_named_thing_is_found_after_training_and_the_towers_are_as_they_were(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    data = [{"name": str(niche(tmp_path / "data"))}]
    result = run(stage(tiny, data=data, epochs=60), out=tmp_path / "run", progress=False)
    assert result.stages[0].zero_gradients == []
    assert result.stages[0].notes == {"pictures": 18, "texts": 3}
    before, after = (load(tmp_path / part).backbone.state_dict() for part in ("run/stages/start", "run"))
    assert all(torch.equal(before[name], after[name]) for name in before)

    model = ProjectedModel.open(tmp_path / "run/stages/00-head", load(tmp_path / "run"))
    picture, masks = np.full((32, 48, 3), 255, np.uint8), torch.zeros(4, 32, 48, dtype=torch.bool)
    for number, colour in enumerate(COLOURS.values()):
        picture[4:20, 16 * number : 16 * number + 12] = colour
        masks[number, 4:20, 16 * number : 16 * number + 12] = True
    masks[3] = ~masks[:3].any(0)
    image, segmenter = Image.fromarray(picture), OracleSegmenter(masks)
    slip = region_retrieval(model, segmenter)
    found = slip.candidates(Look(image, segmenter, segmenter.encode(image)))
    for number, name in enumerate(COLOURS):
        assert torch.equal(MostSimilar(model, size=(32, 32))(image, found, [name]) > 0.5, masks[number]), name


def test_a_killed_run_goes_on_exactly(tiny: dict[str, Any], tmp_path: Path, goes_on_exactly: Any) -> None:
    data = [{"name": str(niche(tmp_path / "data"))}]
    goes_on_exactly(stage(tiny, data=data, epochs=5, checkpoint_every=2), at=3)
    heads = [(tmp_path / name / "stages/00-head/heads.safetensors").read_bytes() for name in ("whole", "cut")]
    assert heads[0] == heads[1]


def test_what_cannot_be_done(tiny: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="width must be at least 1"):
        stage(tiny, stage=[{"name": "head", "kind": {"name": "slip-head", "width": 0}}])
    with pytest.raises(UsageError, match="temperature must be above 0"):
        stage(tiny, stage=[{"name": "head", "kind": {"name": "slip-head", "temperature": 0.0}}])
