"""The guide's commands name what there is, and its code runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from binderclip.segment import CHOICES, PRESETS

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "segmentation.md").read_text(encoding="utf-8")
PAGE = "guides/segmentation.md"
Block = Callable[[str, str], str]


def test_the_table_names_every_preset_and_no_other() -> None:
    table = "\n".join(line.split("|")[1] for line in GUIDE.splitlines() if line.startswith("| `"))
    assert sorted(re.findall(r"`([\w-]+)`", table)) == sorted(PRESETS)


def test_presets_and_choices_of_the_commands_exist() -> None:
    for names in re.findall(r"--preset ([\w,-]+)", GUIDE):
        assert names == "all" or set(names.split(",")) <= set(PRESETS)
    for part, name in re.findall(r"--set (\w+)=([a-z][\w-]+)", GUIDE):
        assert name in CHOICES[part]


@pytest.fixture
def space(clip_model, monkeypatch: pytest.MonkeyPatch) -> dict:
    from binderclip import models

    monkeypatch.setattr(models, "load", lambda name: clip_model)
    noise = torch.rand(2, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    pictures = [Image.fromarray((each * 255).byte().numpy()) for each in noise]
    return {"picture": pictures[0], "pictures": pictures}


def test_the_code_of_one_segmenter_runs(space: dict, tmp_path: Path, guide_block: Block) -> None:
    exec(guide_block(PAGE, "found.shares()"), space)
    assert space["found"].classes == ("car", "tree")
    assert sum(space["found"].shares().values()) == pytest.approx(1)
    assert (tmp_path / "labels.png").is_file()


def test_the_code_of_several_runs(space: dict, tmp_path: Path, guide_block: Block) -> None:
    exec(guide_block(PAGE, "sheet.png"), space)
    assert [list(row) for row in space["rows"]] == [["plain", "value", "vv"]] * 2
    assert (tmp_path / "sheet.png").is_file()


def test_the_code_of_a_session_runs(tmp_path: Path, guide_block: Block) -> None:
    Image.new("RGB", (400, 200), "teal").save("photo.jpg")
    scope: dict = {}
    exec(guide_block(PAGE, "save_session("), scope)
    assert len(scope["session"].actions) == 1
    assert (tmp_path / "photo.json").is_file()


def test_the_code_that_measures_runs(guide_block: Block) -> None:
    labels = torch.tensor([[0, 0, 1], [2, 2, 2]])
    masks = torch.stack([labels == 1, labels == 2])
    scope = {"pairs": [(labels, labels)], "predicted_masks": masks, "true_masks": masks}
    exec(guide_block(PAGE, "iou.compute()"), scope)
    assert scope["iou"].compute().miou == 1
